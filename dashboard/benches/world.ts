/**
 * A world for a page in which time passes as fast as the page keeps up: its clocks, its timers and its server.
 *
 * Only measurements use it. Whether the page is right is tested against the real server.
 */

export interface World {
  /** Lets time pass: everything that is due happens, in order, and the page finishes with each before the next. */
  pass(milliseconds: number): Promise<void>;
  /** How many updates the page was sent. */
  readonly updates: number;
  /** What a metric's newest bucket counts by now. */
  current(metric: string): number;
}

declare global {
  interface Window {
    world: World;
  }
}

export interface WorldSettings {
  /** Milliseconds since 1970. */
  readonly startsAt: number;
  readonly updatesASecond: number;
  readonly heartbeatMs: number;
}

/** Runs in the page before anything else does: it may refer to nothing outside itself. */
export function build({ startsAt, updatesASecond, heartbeatMs }: WorldSettings): void {
  const BUCKET_MS: Partial<Record<string, number>> = { second: 1_000, minute: 60_000, hour: 3_600_000 };
  const SERIES = ['window', 'latest'];
  let now = startsAt;

  interface Timer {
    readonly at: number;
    readonly run: () => void;
  }
  const timers = new Map<number, Timer>();
  let lastTimer = 0;
  function after(milliseconds: number, run: () => void): number {
    lastTimer += 1;
    timers.set(lastTimer, { at: now + Math.max(0, milliseconds), run });
    return lastTimer;
  }

  class SimulatedDate extends Date {
    constructor(given: number | string = now) {
      super(given);
    }
    static override now(): number {
      return now;
    }
  }

  let updates = 0;
  let feed: Feed | undefined;

  /** The server, as a page sees it that asks for `/statistics/stream`. */
  class Feed extends EventTarget {
    readyState = 0;
    readonly #metrics: readonly string[];
    readonly #bucketMs: number;
    readonly #counts = new Map<string, { bucket: number; count: number }>();

    constructor(address: string) {
      super();
      const query = new URL(address, location.href).searchParams;
      this.#metrics = query.get('metrics')?.split(',') ?? [];
      const bucketMs = BUCKET_MS[query.get('resolution') ?? ''];
      if (bucketMs === undefined) throw new Error('no such resolution in this world');
      this.#bucketMs = bucketMs;
      after(1, () => {
        this.readyState = 1;
        this.dispatchEvent(new Event('open'));
        for (const metric of this.#metrics) {
          for (const series of SERIES) {
            this.#send('snapshot', { metric, series, as_of: iso(now), buckets: [] });
          }
        }
        this.#send('status', { status: 'live' });
        this.#beat();
        this.#update();
      });
    }

    close(): void {
      this.readyState = 2;
    }

    current(metric: string): number {
      const newest = this.#counts.get(metric);
      return newest?.bucket === this.#bucket() ? newest.count : 0;
    }

    #bucket(): number {
      return now - (now % this.#bucketMs);
    }

    #beat(): void {
      if (this.readyState === 2) return;
      this.#send('heartbeat', { time: iso(now), lag_ms: 1 });
      after(heartbeatMs, () => {
        this.#beat();
      });
    }

    /** A second's updates at once: the page takes in each of them, and draws once. */
    #update(): void {
      if (this.readyState === 2) return;
      for (let update = 0; update < updatesASecond; update += 1) {
        const metric = this.#metrics[updates % this.#metrics.length] ?? '';
        const newest = { bucket: this.#bucket(), count: this.current(metric) + 1 };
        this.#counts.set(metric, newest);
        updates += 1;
        this.#send('update', { metric, buckets: [{ time: iso(newest.bucket), count: newest.count }] });
        const second = { time: iso(now - (now % 1_000)), count: 1 };
        this.#send('update', { metric, series: 'latest', buckets: [second] });
      }
      after(1_000, () => {
        this.#update();
      });
    }

    #send(type: string, data: object): void {
      this.dispatchEvent(new MessageEvent(type, { data: JSON.stringify(data) }));
    }
  }

  function iso(time: number): string {
    return new Date(time).toISOString();
  }

  // A task of its own for each event, so that everything that follows from it is done before the next.
  const tasks = new MessageChannel();
  const taskEnds = () =>
    new Promise<void>((resolve) => {
      tasks.port1.onmessage = () => {
        resolve();
      };
      tasks.port2.postMessage(null);
    });

  async function pass(milliseconds: number): Promise<void> {
    const until = now + milliseconds;
    for (;;) {
      let earliest: [number, Timer] | undefined;
      for (const entry of timers) {
        if (earliest === undefined || entry[1].at < earliest[1].at) earliest = entry;
      }
      if (earliest === undefined || earliest[1].at > until) break;
      const [id, timer] = earliest;
      timers.delete(id);
      now = timer.at;
      timer.run();
      await taskEnds();
    }
    now = until;
  }

  Object.assign(window, {
    Date: SimulatedDate,
    // Called like a class, it may return what it likes.
    EventSource: function (address: string) {
      feed = new Feed(address);
      return feed;
    },
    setTimeout: (run: () => void, milliseconds = 0) => after(milliseconds, run),
    clearTimeout: (id: number | undefined) => timers.delete(id ?? 0),
    requestAnimationFrame: (run: (time: number) => void) =>
      after(1_000 / 60, () => {
        run(performance.now());
      }),
    cancelAnimationFrame: (id: number) => timers.delete(id),
    world: {
      pass,
      current: (metric: string) => feed?.current(metric) ?? 0,
      get updates() {
        return updates;
      },
    },
  });
  performance.now = () => now - startsAt;
  // Nobody looks: painting pixels is most of the time, and holds on to nothing.
  const unpainted = () => undefined;
  Object.assign(CanvasRenderingContext2D.prototype, {
    clearRect: unpainted,
    fill: unpainted,
    fillRect: unpainted,
    fillText: unpainted,
    stroke: unpainted,
  });
}
