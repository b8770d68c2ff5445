/** Words for buckets in the reader's locale: the marks below a chart, a bucket's full name, the name of a window. */

import { SPANS, windowLength, type Range } from './range';
import type { Resolution } from './resolution';
import { localDate } from './zone';

export interface Tick {
  /** Which bucket of those that are shown. */
  readonly index: number;
  readonly label: string;
}

const DAY: Intl.DateTimeFormatOptions = { day: 'numeric', month: 'short' };
const MONTH: Intl.DateTimeFormatOptions = { month: 'short' };
const YEAR: Intl.DateTimeFormatOptions = { year: 'numeric' };
const DATE: Intl.DateTimeFormatOptions = { weekday: 'short', ...DAY, ...YEAR };
const TIME: Intl.DateTimeFormatOptions = { hour: '2-digit', minute: '2-digit' };
const SECONDS: Intl.DateTimeFormatOptions = { ...TIME, second: '2-digit' };
const SPLIT_SECOND: Intl.DateTimeFormatOptions = { second: '2-digit', fractionalSecondDigits: 3 };
const MILLISECONDS: Intl.DateTimeFormatOptions = { ...SECONDS, fractionalSecondDigits: 3 };

const BUCKET_FORMATS: Readonly<Record<Exclude<Resolution, 'quarter'>, Intl.DateTimeFormatOptions>> = {
  millisecond: { ...DAY, ...MILLISECONDS },
  second: { ...DAY, ...SECONDS },
  minute: { ...DATE, ...TIME },
  hour: { ...DATE, ...TIME },
  day: DATE,
  week: DATE,
  month: { ...MONTH, ...YEAR },
  year: YEAR,
};

/** Undefined is the reader's own. */
type Locale = string | undefined;

// Creating a formatter costs a hundred times more than using it.
const formats = new Map<string, Intl.DateTimeFormat>();

/** A formatter of moments, as a clock and a calendar in the zone show them. */
export function dateFormat(
  options: Intl.DateTimeFormatOptions,
  zone: string,
  locale?: Locale,
): Intl.DateTimeFormat {
  const key = JSON.stringify([options, zone, locale]);
  let format = formats.get(key);
  if (format === undefined) {
    format = new Intl.DateTimeFormat(locale, { ...options, timeZone: zone });
    formats.set(key, format);
  }
  return format;
}

/** Marks for round times among buckets: the most of a kind that there is room for, at most `limit` of them. */
export function ticks(
  starts: readonly number[],
  resolution: Resolution,
  zone: string,
  limit: number,
  locale?: Locale,
): Tick[] {
  let round = starts
    .map((start, index) => ({ index, start }))
    // Cheap first: the calendar is not asked about 190 of 200 milliseconds.
    .filter(({ start }) => resolution !== 'millisecond' || start % 50 === 0)
    .map(({ index, start }) => ({ index, start, local: localDate(start, zone) }));
  for (const isRound of ROUND[resolution]) {
    const rounder = round.filter(({ local }) => isRound(local));
    if (rounder.length === 0) break;
    round = rounder;
    if (round.length <= limit) break;
  }
  const step = Math.max(1, Math.ceil(round.length / Math.max(1, limit)));
  return round
    .filter((_, position) => position % step === 0)
    .map(({ index, start, local }) => ({ index, label: tickLabel(start, local, resolution, zone, locale) }));
}

/** The name of one bucket, such as "Mon, 5 Jan 2026, 14:03". */
export function bucketLabel(start: number, resolution: Resolution, zone: string, locale?: Locale): string {
  if (resolution === 'quarter') {
    const local = localDate(start, zone);
    return `${quarterName(local)} ${local.getUTCFullYear()}`;
  }
  const words = dateFormat(BUCKET_FORMATS[resolution], zone, locale).format(start);
  return resolution === 'week' ? `Week of ${words}` : words;
}

/** From when to when something is shown, such as "20 – 21 Nov 2026". */
export function rangeLabel(
  from: number,
  until: number,
  resolution: Resolution,
  zone: string,
  locale?: Locale,
): string {
  switch (resolution) {
    case 'millisecond':
      return dateFormat({ ...DAY, ...MILLISECONDS }, zone, locale).formatRange(from, until);
    case 'second':
      return dateFormat({ ...DAY, ...YEAR, ...SECONDS }, zone, locale).formatRange(from, until);
    case 'minute':
    case 'hour':
      return dateFormat({ ...DAY, ...YEAR, ...TIME }, zone, locale).formatRange(from, until);
    case 'day':
    case 'week':
      return dateFormat({ ...DAY, ...YEAR }, zone, locale).formatRange(from, until - 1);
    case 'month':
    case 'quarter':
      return dateFormat({ ...MONTH, ...YEAR }, zone, locale).formatRange(from, until - 1);
    case 'year':
      return dateFormat(YEAR, zone, locale).formatRange(from, until - 1);
  }
}

/** The name of what is shown, such as "last 60 minutes". */
export function windowLabel(range: Range, resolution: Resolution): string {
  switch (range.kind) {
    case 'window':
      return `last ${windowLength(range, resolution)} ${resolution}s`;
    case 'last':
      return SPANS[range.span].words;
    case 'between':
      return 'in this range';
  }
}

/** What finished buckets are compared with, such as "against the 59 minutes before". */
export function comparisonLabel(finished: number, resolution: Resolution): string {
  return finished === 1
    ? `against the ${resolution} before`
    : `against the ${finished} ${resolution}s before`;
}

/** The name of the bucket that is filling, such as "this minute". */
export function currentLabel(resolution: Resolution): string {
  return resolution === 'day' ? 'today' : `this ${resolution}`;
}

const relativeFormats = new Map<Locale, Intl.RelativeTimeFormat>();

/** How long ago something was, such as "3 seconds ago". */
export function agoLabel(moment: number, now: number, locale?: Locale): string {
  let format = relativeFormats.get(locale);
  if (format === undefined) relativeFormats.set(locale, (format = new Intl.RelativeTimeFormat(locale)));
  const seconds = Math.max(0, Math.floor((now - moment) / 1_000));
  if (seconds < 60) return format.format(-seconds, 'second');
  if (seconds < 3_600) return format.format(-Math.floor(seconds / 60), 'minute');
  if (seconds < 2 * 86_400) return format.format(-Math.floor(seconds / 3_600), 'hour');
  return format.format(-Math.floor(seconds / 86_400), 'day');
}

const every = (step: number, unit: (local: Date) => number) => (local: Date) => unit(local) % step === 0;
const millisecondOfSecond = (local: Date) => local.getUTCMilliseconds();
const second = (local: Date) => local.getUTCSeconds();
const secondOfHour = (local: Date) => 60 * local.getUTCMinutes() + second(local);
const minuteOfDay = (local: Date) => 60 * local.getUTCHours() + local.getUTCMinutes();
const year = (local: Date) => local.getUTCFullYear();
const startsYear = (local: Date) => local.getUTCMonth() === 0;
const isMonday = (local: Date) => local.getUTCDay() === 1;

/** Which buckets are worth a mark, from the most to the fewest: each of a kind is of those before it as well. */
const ROUND: Readonly<Record<Resolution, readonly ((local: Date) => boolean)[]>> = {
  millisecond: [50, 100, 500, 1_000].map((step) => every(step, millisecondOfSecond)),
  second: [
    ...[10, 20, 60].map((step) => every(step, second)),
    every(300, secondOfHour),
    every(900, secondOfHour),
  ],
  minute: [10, 20, 60, 180, 360, 720, 1_440].map((step) => every(step, minuteOfDay)),
  hour: [every(720, minuteOfDay), every(1_440, minuteOfDay), isMonday],
  day: [isMonday],
  // The first Monday of a month.
  week: [(local) => local.getUTCDate() <= 7, (local) => local.getUTCMonth() % 3 === 0, startsYear],
  month: [(local) => local.getUTCMonth() % 3 === 0, startsYear, every(5, year)],
  quarter: [(local) => local.getUTCMonth() % 6 === 0, startsYear, every(5, year)],
  year: [1, 2, 10, 50].map((step) => every(step, year)),
};

function tickLabel(start: number, local: Date, resolution: Resolution, zone: string, locale: Locale): string {
  const say = (options: Intl.DateTimeFormatOptions) => dateFormat(options, zone, locale).format(start);
  switch (resolution) {
    case 'millisecond':
      return say(SPLIT_SECOND);
    case 'second':
      return say(SECONDS);
    case 'minute':
    case 'hour':
      return say(minuteOfDay(local) === 0 ? DAY : TIME);
    case 'day':
    case 'week':
      return say(DAY);
    case 'month':
      return say(startsYear(local) ? YEAR : MONTH);
    case 'quarter':
      return startsYear(local) ? say(YEAR) : quarterName(local);
    case 'year':
      return say(YEAR);
  }
}

function quarterName(local: Date): string {
  return `Q${Math.floor(local.getUTCMonth() / 3) + 1}`;
}
