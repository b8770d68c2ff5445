/** The counts of one metric in one resolution, as the stream tells them, and the window that is shown of them. */

import { nextBucket, startOfBucket, windowStarts, zeroFill } from './buckets';
import { changeBetween, type Change } from './change';
import { WINDOW_LENGTH, type Resolution } from './resolution';

/** A bucket's start in milliseconds since 1970, and its whole count. */
export interface Bucket {
  readonly time: number;
  readonly count: number;
}

export interface SeriesView {
  /** False until the server has sent this series: the zeros are then no statement. */
  readonly known: boolean;
  /** Starts of the window's buckets, oldest first; the last one is still filling. */
  readonly starts: readonly number[];
  readonly counts: readonly number[];
  /** The counts of as many buckets before the window: each belongs to the bucket of the same index. */
  readonly previous: readonly number[];
  readonly current: number;
  readonly total: number;
  /**
   * The finished buckets against those before them, each as many: what is still filling cannot be compared.
   * Nothing until the series is known, or where no bucket is finished.
   */
  readonly change: Change | undefined;
}

/** The window that is shown, and the one before it. */
interface Window {
  readonly starts: readonly number[];
  readonly until: number;
}

export class Series {
  #known = false;
  #counts = new Map<number, number>();
  #window: Window | undefined;

  constructor(
    private readonly resolution: Resolution,
    private readonly zone: string,
    private readonly length: number = WINDOW_LENGTH[resolution],
  ) {}

  /** A snapshot is the whole truth: what it does not mention is zero. */
  replace(buckets: readonly Bucket[]): void {
    this.#known = true;
    this.#counts = new Map(buckets.map(({ time, count }) => [time, count]));
  }

  /** An update carries absolute values of the buckets that changed. They replace, and are never added. */
  merge(buckets: readonly Bucket[]): void {
    for (const { time, count } of buckets) this.#counts.set(time, count);
  }

  /**
   * Forgets buckets that have left the window for good. Only the server's own time may be given here: a local
   * clock that runs ahead would throw away what is still to be shown.
   */
  prune(serverTime: number): void {
    const oldest = this.#windowAt(serverTime).starts[0] ?? serverTime;
    for (const time of this.#counts.keys()) {
      if (time < oldest) this.#counts.delete(time);
    }
  }

  view(now: number): SeriesView {
    const { starts, until } = this.#windowAt(now);
    const both = zeroFill(starts, until, this.#counts);
    const counts = both.slice(-this.length);
    const previous = both.slice(0, -this.length);
    const comparable = this.#known && this.length > 1;
    return {
      known: this.#known,
      starts: starts.slice(-this.length),
      counts,
      previous,
      current: counts.at(-1) ?? 0,
      total: sum(counts),
      change: comparable ? changeBetween(sum(previous.slice(0, -1)), sum(counts.slice(0, -1))) : undefined,
    };
  }

  /** When the bucket that contains `now` ends: until then the window stays the same. */
  rollsOverAt(now: number): number {
    return this.#windowAt(now).until;
  }

  #windowAt(now: number): Window {
    // The window is built anew only when a bucket ends: a busy series is drawn many times in between.
    const current = startOfBucket(now, this.resolution, this.zone);
    if (this.#window?.starts.at(-1) !== current) {
      this.#window = {
        starts: windowStarts(now, this.resolution, this.zone, 2 * this.length),
        until: nextBucket(current, this.resolution, this.zone),
      };
    }
    return this.#window;
  }
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}
