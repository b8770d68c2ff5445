/** The figures on the page: the stream, the server's clock and the series put together as reactive state. */

import type { View } from './address';
import { ServerClock } from './clock';
import { StreamConnection, type ConnectionStatus } from './connection';
import { knowsBaseItems, METRICS, type Metric } from './metric';
import { isDenied, problemOf } from './problem';
import { FixedFraming, MovingFraming, windowLength } from './range';
import { Series, type Bucket, type SeriesView } from './series';
import { streamUrl, type SeriesName, type StreamMessage } from './stream-messages';
import { onWake } from './wake';

// No timer runs for longer than this, so that a corrected clock is soon believed and a year's end cannot overflow it.
const LONGEST_WAIT_MS = 1_000;

// Milliseconds roll over faster than anybody sees: thirty pictures a second are enough.
const SHORTEST_WAIT_MS = 33;

/** What is shown of a metric. */
export interface MetricView {
  /** The buckets up to now. */
  readonly live: SeriesView;
  /** The chosen range: where it is one up to now, the same. */
  readonly chosen: SeriesView;
  /** When the newest event happened, to the second; null if there is none, undefined until the server has said so. */
  readonly newest: number | null | undefined;
}

export type Views = Readonly<Partial<Record<Metric, MetricView>>>;

/** One metric's series. */
class MetricSeries {
  #newest: number | null | undefined;

  constructor(
    private readonly live: Series,
    private readonly chosen: Series,
  ) {}

  replace(name: SeriesName, buckets: readonly Bucket[]): void {
    if (name === 'latest') this.#newest = buckets[0]?.time ?? null;
    else this.#series(name).replace(buckets);
  }

  merge(name: SeriesName, buckets: readonly Bucket[]): void {
    if (name === 'latest') this.#newest = Math.max(this.#newest ?? 0, ...buckets.map(({ time }) => time));
    else this.#series(name).merge(buckets);
  }

  prune(serverTime: number): void {
    this.live.prune(serverTime);
  }

  view(now: number): MetricView {
    const live = this.live.view(now);
    return {
      live,
      chosen: this.chosen === this.live ? live : this.chosen.view(now),
      newest: this.#newest,
    };
  }

  changesAt(now: number): number {
    return Math.min(this.live.changesAt(now), this.chosen.changesAt(now));
  }

  #series(name: Exclude<SeriesName, 'latest'>): Series {
    return name === 'window' ? this.live : this.chosen;
  }
}

/** What a stream is about: with another of these another stream is needed. */
export type Watched = Pick<View, 'resolution' | 'zone' | 'range' | 'baseItem'>;

export function watchedIn({ page, resolution, zone, range, baseItem }: View): Watched {
  // Who explores is to hear of every transfer.
  return { resolution, zone, range, baseItem: page === 'explore' ? undefined : baseItem };
}

export class LiveStatistics {
  status = $state<ConnectionStatus>('connecting');
  /** Why the server refuses the stream, in its own words. */
  refusal = $state<string>();
  views: Views;
  /** The server's time, to the second. */
  now: number;
  /** Whether the views stand still. What happens meanwhile is counted all the same, and shown afterwards. */
  paused = $state(false);
  /** Counts what was heard of each metric: whoever shows its rows looks at them again when this changes. */
  readonly news: Record<Metric, number> = $state({ 'item-creation': 0, transfers: 0, 'user-creation': 0 });

  readonly #clock = new ServerClock();
  readonly #series: Readonly<Partial<Record<Metric, MetricSeries>>>;
  readonly #connection: StreamConnection;
  readonly #url: string;
  #asking: AbortController | undefined;
  readonly #stopWaking: () => void;
  #rollover: ReturnType<typeof setTimeout> | undefined;
  #showing: ReturnType<typeof setTimeout> | undefined;
  #closed = false;

  /**
   * `ondoubt` is called when the server may take the reader for somebody else than before: when it has refused the
   * stream, and when the stream is back after it broke off.
   */
  constructor(
    { resolution, zone, range, baseItem }: Watched,
    private readonly ondoubt: () => void = () => undefined,
  ) {
    const metrics = METRICS.filter((metric) => baseItem === undefined || knowsBaseItems(metric));
    const length = windowLength(range, resolution);
    const moving = new MovingFraming(resolution, zone, length);
    const fixed =
      range.kind === 'between' ? new FixedFraming(resolution, zone, range.from, range.to) : undefined;
    this.#series = Object.fromEntries(
      metrics.map((metric) => {
        const live = new Series(moving);
        return [metric, new MetricSeries(live, fixed === undefined ? live : new Series(fixed))];
      }),
    );
    this.views = $state.raw(this.#currentViews());
    this.now = $state(this.#second());
    this.#scheduleRollover();
    this.#url = streamUrl({
      metrics,
      resolution,
      zone,
      baseItem,
      // What is shown, and as many before it.
      window: 2 * length,
      range: fixed?.range,
    });
    this.#connection = new StreamConnection(this.#url, {
      message: (message) => {
        this.#take(message);
      },
      status: (status) => {
        const isBack = this.status === 'reconnecting';
        this.status = status;
        if (isBack) this.ondoubt();
      },
      refused: () => {
        this.ondoubt();
        void this.#askWhy();
      },
    });
    this.#stopWaking = onWake(() => {
      this.#connection.wake();
    });
  }

  close(): void {
    this.#closed = true;
    this.#stopWaking();
    clearTimeout(this.#rollover);
    clearTimeout(this.#showing);
    this.#asking?.abort();
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
    this.refusal = undefined;
    switch (message.type) {
      case 'snapshot':
        // A new stream's first word about the time: the first heartbeat may be seconds away.
        this.#clock.observe(message.asOf);
        this.#series[message.metric]?.replace(message.series, message.buckets);
        this.news[message.metric] += 1;
        this.#showSoon();
        break;
      case 'update':
        this.#series[message.metric]?.merge(message.series, message.buckets);
        this.news[message.metric] += 1;
        this.#showSoon();
        break;
      case 'heartbeat':
        this.#clock.observe(message.time);
        for (const series of Object.values(this.#series)) series.prune(message.time);
        this.#showSoon();
        break;
      case 'status':
        break;
    }
  }

  /** EventSource does not tell what a server answers that refuses it. */
  async #askWhy(): Promise<void> {
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    try {
      const response = await fetch(this.#url, {
        headers: { accept: 'text/event-stream' },
        signal: asking.signal,
      });
      // Who may read what is the session's to say.
      if (!response.ok && !isDenied(response.status)) {
        const { title, detail, errors } = await problemOf(response);
        this.refusal = errors.map(({ detail: words }) => words).join('; ') || (detail ?? title);
      }
    } catch {
      // The connection's status says that nobody answers.
    } finally {
      asking.abort();
    }
  }

  /** What arrives together is shown together: a publication has a message for each series that changed. */
  #showSoon(): void {
    this.#showing ??= setTimeout(() => {
      this.#showing = undefined;
      this.#rollOver();
    });
  }

  #show(views: Views): void {
    // Figures that were never seen are not what somebody wants to keep looking at.
    if (this.paused && Object.values(this.views).every(({ chosen }) => chosen.known)) return;
    this.views = views;
    this.now = this.#second();
  }

  /** Moves every window on: time passes for buckets even where nothing happens. */
  #rollOver(): void {
    this.#show(this.#currentViews());
    this.#scheduleRollover();
  }

  #scheduleRollover(): void {
    clearTimeout(this.#rollover);
    if (this.#closed) return;
    const now = this.#clock.now();
    const changes = Math.min(...Object.values(this.#series).map((series) => series.changesAt(now)));
    this.#rollover = setTimeout(
      () => {
        this.#rollOver();
      },
      Math.min(Math.max(changes - now, SHORTEST_WAIT_MS), LONGEST_WAIT_MS),
    );
  }

  #second(): number {
    return Math.floor(this.#clock.now() / 1_000) * 1_000;
  }

  #currentViews(): Views {
    const now = this.#clock.now();
    return Object.fromEntries(
      Object.entries(this.#series).map(([metric, series]) => [metric, series.view(now)]),
    );
  }
}
