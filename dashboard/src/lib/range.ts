/** Which buckets are shown: those up to now, however time goes on, or those of a range that stays. */

import { nextBucket, startOfBucket, windowStarts } from './buckets';
import { RESOLUTIONS, WINDOW_LENGTH, type Resolution } from './resolution';

/**
 * What somebody chose to see: the usual window of a resolution, the last so-and-so long (`last` is one of `SPANS`), or
 * what lies between two moments (milliseconds since 1970).
 */
export type Range =
  | { readonly kind: 'window' }
  | { readonly kind: 'last'; readonly span: SpanName }
  | { readonly kind: 'between'; readonly from: number; readonly to: number };

export const USUAL_WINDOW: Range = { kind: 'window' };

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** How long relative ranges can be, and how the API would write them. Months and years are the average ones. */
export const SPANS = {
  '1m': { words: 'last minute', milliseconds: MINUTE },
  '5m': { words: 'last 5 minutes', milliseconds: 5 * MINUTE },
  '15m': { words: 'last 15 minutes', milliseconds: 15 * MINUTE },
  '1h': { words: 'last hour', milliseconds: HOUR },
  '6h': { words: 'last 6 hours', milliseconds: 6 * HOUR },
  '24h': { words: 'last 24 hours', milliseconds: DAY },
  '7d': { words: 'last 7 days', milliseconds: 7 * DAY },
  '30d': { words: 'last 30 days', milliseconds: 30 * DAY },
  '90d': { words: 'last 90 days', milliseconds: 90 * DAY },
  '1y': { words: 'last year', milliseconds: 365.25 * DAY },
  '5y': { words: 'last 5 years', milliseconds: 5 * 365.25 * DAY },
  '20y': { words: 'last 20 years', milliseconds: 20 * 365.25 * DAY },
} as const;

export type SpanName = keyof typeof SPANS;

export function isSpanName(value: unknown): value is SpanName {
  return typeof value === 'string' && Object.hasOwn(SPANS, value);
}

/** How long a bucket usually is: enough to reckon how many there are. */
const USUAL_WIDTH: Readonly<Record<Resolution, number>> = {
  millisecond: 1,
  second: SECOND,
  minute: MINUTE,
  hour: HOUR,
  day: DAY,
  week: 7 * DAY,
  month: (365.25 / 12) * DAY,
  quarter: (365.25 / 4) * DAY,
  year: 365.25 * DAY,
};

/** More buckets than this are never shown: the server tells 10,000 of a series, half of which are for comparison. */
export const MOST_BUCKETS = 2_000;

/** More bars than this cannot be told apart: what is zoomed to is shown in the narrowest resolution with as many. */
const COMFORTABLE_BUCKETS = 240;

/** About how many buckets lie between two moments. */
export function bucketsBetween(from: number, to: number, resolution: Resolution): number {
  return Math.ceil((to - from) / USUAL_WIDTH[resolution]);
}

/** The relative ranges that make sense in a resolution, of more than one bucket and not too many. */
export function offeredSpans(resolution: Resolution): SpanName[] {
  return (Object.keys(SPANS) as SpanName[]).filter((name) => {
    const buckets = spanLength(name, resolution);
    return buckets > 1 && buckets <= MOST_BUCKETS;
  });
}

/** The range in another resolution: itself, or the usual window where it would be of too many buckets or of one. */
export function rangeIn(range: Range, resolution: Resolution): Range {
  switch (range.kind) {
    case 'window':
      return range;
    case 'last':
      return offeredSpans(resolution).includes(range.span) ? range : USUAL_WINDOW;
    case 'between':
      return bucketsBetween(range.from, range.to, resolution) <= MOST_BUCKETS ? range : USUAL_WINDOW;
  }
}

/** The narrowest resolution in which a range is comfortably seen. */
export function resolutionFor(from: number, to: number): Resolution {
  return (
    RESOLUTIONS.find((resolution) => bucketsBetween(from, to, resolution) <= COMFORTABLE_BUCKETS) ?? 'year'
  );
}

/** A range around the same middle, twice as long, that does not reach beyond now for long. */
export function zoomedOut(from: number, to: number, now: number): { from: number; to: number } {
  const half = (to - from) / 2;
  const end = Math.max(to, Math.min(to + half, now));
  return { from: Math.round(end - 4 * half), to: Math.round(end) };
}

/** How many buckets up to now are shown: beside a range that does not move, those of the usual window. */
export function windowLength(range: Range, resolution: Resolution): number {
  return range.kind === 'last' ? spanLength(range.span, resolution) : WINDOW_LENGTH[resolution];
}

function spanLength(name: SpanName, resolution: Resolution): number {
  return Math.ceil(SPANS[name].milliseconds / USUAL_WIDTH[resolution]);
}

/** The buckets that are shown at one moment, and as many before them. */
export interface Frame {
  /** Starts of the buckets before those that are shown, oldest first. */
  readonly earlier: readonly number[];
  readonly starts: readonly number[];
  /** Where the last bucket ends. */
  readonly until: number;
  /** Which of the buckets is still filling; none where now is not among them. */
  readonly filling: number | undefined;
}

/** Says which buckets are shown at a moment, and until when these are. */
export interface Framing {
  at(now: number): Frame;
  /** From when on `at` says something else. */
  changesAt(now: number): number;
}

/** The last `length` buckets: the newest one contains now. */
export class MovingFraming implements Framing {
  #frame: Frame | undefined;

  constructor(
    private readonly resolution: Resolution,
    private readonly zone: string,
    private readonly length: number,
  ) {}

  at(now: number): Frame {
    // Made anew only when a bucket ends: a busy series is drawn many times in between.
    const current = startOfBucket(now, this.resolution, this.zone);
    if (this.#frame?.starts.at(-1) !== current) {
      const starts = windowStarts(now, this.resolution, this.zone, 2 * this.length);
      this.#frame = {
        earlier: starts.slice(0, -this.length),
        starts: starts.slice(-this.length),
        until: nextBucket(current, this.resolution, this.zone),
        filling: this.length - 1,
      };
    }
    return this.#frame;
  }

  changesAt(now: number): number {
    return this.at(now).until;
  }
}

/** The buckets that have a part of a range in them. */
export class FixedFraming implements Framing {
  readonly #earlier: readonly number[];
  readonly #starts: readonly number[];
  readonly #until: number;

  constructor(resolution: Resolution, zone: string, from: number, to: number) {
    const starts: number[] = [];
    let start = startOfBucket(from, resolution, zone);
    while (start < to || starts.length === 0) {
      starts.push(start);
      start = nextBucket(start, resolution, zone);
    }
    this.#starts = starts;
    this.#until = start;
    this.#earlier = windowStarts((starts[0] ?? from) - 1, resolution, zone, starts.length);
  }

  /** The range of the server's statistics that has all of these buckets, and those before them. */
  get range(): { from: number; to: number } {
    return { from: this.#earlier[0] ?? this.#until, to: this.#until };
  }

  at(now: number): Frame {
    const next = this.#starts.findIndex((start) => start > now);
    const current = next < 0 ? this.#starts.length - 1 : next - 1;
    const filling = current >= 0 && now < this.#until ? current : undefined;
    return { earlier: this.#earlier, starts: this.#starts, until: this.#until, filling };
  }

  changesAt(now: number): number {
    return [...this.#starts, this.#until].find((start) => start > now) ?? Infinity;
  }
}
