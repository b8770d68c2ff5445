/** The widths of a bucket, from the narrowest to the widest. The names are those of the API. */
export const RESOLUTIONS = [
  'millisecond',
  'second',
  'minute',
  'hour',
  'day',
  'week',
  'month',
  'quarter',
  'year',
] as const;

export type Resolution = (typeof RESOLUTIONS)[number];

export const DEFAULT_RESOLUTION: Resolution = 'minute';

/**
 * How many buckets a chart shows. A window should span a little more than one unit of the next wider
 * resolution, and its bars must still be told apart on a telephone.
 */
export const WINDOW_LENGTH: Readonly<Record<Resolution, number>> = {
  millisecond: 200,
  second: 60,
  minute: 60,
  hour: 48,
  day: 30,
  week: 26,
  month: 24,
  quarter: 12,
  // Long enough that an imported history is seen.
  year: 10,
};

export function isResolution(value: unknown): value is Resolution {
  return RESOLUTIONS.some((resolution) => resolution === value);
}
