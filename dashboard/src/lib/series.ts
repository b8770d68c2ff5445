/** The counts of one metric in one resolution, as the stream tells them, and what is shown of them. */

import { zeroFill } from './buckets';
import { changeBetween, type Change } from './change';
import type { Framing } from './range';

/** A bucket's start in milliseconds since 1970, and its whole count. */
export interface Bucket {
  readonly time: number;
  readonly count: number;
}

export interface SeriesView {
  /** False until the server has sent this series: the zeros are then no statement. */
  readonly known: boolean;
  /** Starts of the buckets that are shown, oldest first. */
  readonly starts: readonly number[];
  /** Where the last one ends. */
  readonly until: number;
  readonly counts: readonly number[];
  /** The counts of as many buckets before: each belongs to the bucket of the same index. */
  readonly previous: readonly number[];
  /** Which of the buckets is still filling; none where now is not among them. */
  readonly filling: number | undefined;
  readonly current: number;
  readonly total: number;
  /**
   * The finished buckets against those before them, each as many: what is still filling cannot be compared.
   * Nothing until the series is known, or where no bucket is finished.
   */
  readonly change: Change | undefined;
}

export class Series {
  #known = false;
  #counts = new Map<number, number>();

  constructor(private readonly framing: Framing) {}

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
   * Forgets buckets that have left the frame for good. Only the server's own time may be given here: a local
   * clock that runs ahead would throw away what is still to be shown.
   */
  prune(serverTime: number): void {
    const oldest = this.framing.at(serverTime).earlier[0] ?? serverTime;
    for (const time of this.#counts.keys()) {
      if (time < oldest) this.#counts.delete(time);
    }
  }

  view(now: number): SeriesView {
    const { earlier, starts, until, filling } = this.framing.at(now);
    const both = zeroFill([...earlier, ...starts], until, this.#counts);
    const counts = both.slice(earlier.length);
    const previous = both.slice(0, earlier.length);
    const finished = filling ?? (now < until ? 0 : counts.length);
    const comparable = this.#known && finished > 0;
    return {
      known: this.#known,
      starts,
      until,
      counts,
      previous,
      filling,
      current: filling === undefined ? 0 : (counts[filling] ?? 0),
      total: sum(counts),
      change: comparable
        ? changeBetween(sum(previous.slice(0, finished)), sum(counts.slice(0, finished)))
        : undefined,
    };
  }

  /** Until when a view stays the same if nothing happens. */
  changesAt(now: number): number {
    return this.framing.changesAt(now);
  }
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}
