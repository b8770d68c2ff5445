/** The figures on the page: streams, the server's clock and the series put together as reactive state. */

import { ServerClock } from './clock';
import { StreamConnection, type ConnectionStatus } from './connection';
import { METRICS, type Metric } from './metric';
import type { Resolution } from './resolution';
import { Series, type SeriesView } from './series';
import { streamUrl, type StreamMessage } from './stream-messages';
import { onWake } from './wake';

// No timer runs for longer than this, so that a corrected clock is soon believed and a year's end cannot overflow it.
const LONGEST_WAIT_MS = 60_000;

// Milliseconds roll over faster than anybody sees: thirty pictures a second are enough.
const SHORTEST_WAIT_MS = 33;

type Views = Readonly<Record<Metric, SeriesView>>;

export class LiveStatistics {
  status = $state<ConnectionStatus>('connecting');
  views: Views;
  /** Whether the views stand still. What happens meanwhile is counted all the same, and shown afterwards. */
  paused = $state(false);
  /** Counts what was heard of each metric: whoever shows its rows looks at them again when this changes. */
  readonly news: Record<Metric, number> = $state(byMetric(() => 0));

  readonly #clock = new ServerClock();
  readonly #series: Readonly<Record<Metric, Series>>;
  readonly #connection: StreamConnection;
  readonly #stopWaking: () => void;
  #rollover: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly resolution: Resolution,
    zone: string,
  ) {
    this.#series = byMetric(() => new Series(resolution, zone));
    this.views = $state.raw(this.#currentViews());
    this.#scheduleRollover();
    this.#connection = new StreamConnection(streamUrl(resolution, zone), {
      message: (message) => {
        this.#take(message);
      },
      status: (status) => {
        this.status = status;
      },
    });
    this.#stopWaking = onWake(() => {
      this.#connection.wake();
    });
  }

  close(): void {
    this.#stopWaking();
    clearTimeout(this.#rollover);
    this.#connection.close();
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.#rollOver();
  }

  #take(message: StreamMessage): void {
    switch (message.type) {
      case 'snapshot':
        // A new stream's first word about the time: the first heartbeat may be seconds away.
        this.#clock.observe(message.asOf);
        this.#series[message.metric].replace(message.buckets);
        this.#rollOver();
        break;
      case 'update':
        this.news[message.metric] += 1;
        this.#series[message.metric].merge(message.buckets);
        this.#show({ ...this.views, [message.metric]: this.#series[message.metric].view(this.#clock.now()) });
        break;
      case 'heartbeat':
        this.#clock.observe(message.time);
        for (const metric of METRICS) this.#series[metric].prune(message.time);
        this.#rollOver();
        break;
      case 'status':
        break;
    }
  }

  #show(views: Views): void {
    // Figures that were never seen are not what somebody wants to keep looking at.
    if (this.paused && METRICS.every((metric) => this.views[metric].known)) return;
    this.views = views;
  }

  /** Moves every window on: time passes for buckets even where nothing happens. */
  #rollOver(): void {
    this.#show(this.#currentViews());
    this.#scheduleRollover();
  }

  #scheduleRollover(): void {
    clearTimeout(this.#rollover);
    const now = this.#clock.now();
    const wait = this.#series.transfers.rollsOverAt(now) - now;
    this.#rollover = setTimeout(
      () => {
        this.#rollOver();
      },
      Math.min(Math.max(wait, SHORTEST_WAIT_MS), LONGEST_WAIT_MS),
    );
  }

  #currentViews(): Views {
    const now = this.#clock.now();
    return byMetric((metric) => this.#series[metric].view(now));
  }
}

function byMetric<Value>(make: (metric: Metric) => Value): Readonly<Record<Metric, Value>> {
  return {
    'item-creation': make('item-creation'),
    transfers: make('transfers'),
    'user-creation': make('user-creation'),
  };
}
