/** Words for buckets: the marks below a chart, a bucket's full name, the name of a window. */

import { WINDOW_LENGTH, type Resolution } from './resolution';
import { localDate } from './zone';

export interface Tick {
  /** Which bucket of the window. */
  readonly index: number;
  readonly label: string;
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'] as const;
const WEEKDAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'] as const;

/** Marks for the round times of a window, at most `limit` of them. */
export function ticks(
  starts: readonly number[],
  resolution: Resolution,
  zone: string,
  limit: number,
): Tick[] {
  const round: Tick[] = [];
  starts.forEach((start, index) => {
    // Cheap first: the calendar is not asked about 190 of 200 milliseconds.
    if (resolution === 'millisecond' && start % 50 !== 0) return;
    const local = localDate(start, zone);
    if (isRound(local, resolution)) round.push({ index, label: tickLabel(local, resolution) });
  });
  const step = Math.max(1, Math.ceil(round.length / Math.max(1, limit)));
  return round.filter((_, position) => position % step === 0);
}

/** The name of one bucket, such as "Mon 5 Jan 2026, 14:03". */
export function bucketLabel(start: number, resolution: Resolution, zone: string): string {
  const local = localDate(start, zone);
  const year = local.getUTCFullYear();
  const date = `${WEEKDAYS[local.getUTCDay()] ?? ''} ${dayAndMonth(local)} ${year}`;
  switch (resolution) {
    case 'millisecond':
      return `${dayAndMonth(local)}, ${time(local, 12)}`;
    case 'second':
      return `${dayAndMonth(local)}, ${time(local, 8)}`;
    case 'minute':
    case 'hour':
      return `${date}, ${time(local, 5)}`;
    case 'day':
      return date;
    case 'week':
      return `Week of ${date}`;
    case 'month':
      return `${monthName(local)} ${year}`;
    case 'quarter':
      return `${quarterName(local)} ${year}`;
    case 'year':
      return String(year);
  }
}

/** The name of the window, such as "last 60 minutes". */
export function windowLabel(resolution: Resolution): string {
  return `last ${WINDOW_LENGTH[resolution]} ${resolution}s`;
}

/** What a window's finished buckets are compared with, such as "against the 59 minutes before". */
export function comparisonLabel(resolution: Resolution): string {
  return `against the ${WINDOW_LENGTH[resolution] - 1} ${resolution}s before`;
}

/** The name of the bucket that is filling, such as "this minute". */
export function currentLabel(resolution: Resolution): string {
  return resolution === 'day' ? 'today' : `this ${resolution}`;
}

/** Whether a bucket's start is worth a mark. */
function isRound(local: Date, resolution: Resolution): boolean {
  switch (resolution) {
    case 'millisecond':
      return true;
    case 'second':
      return local.getUTCSeconds() % 10 === 0;
    case 'minute':
      return local.getUTCMinutes() % 10 === 0;
    case 'hour':
      return local.getUTCHours() % 12 === 0;
    case 'day':
      return local.getUTCDay() === 1;
    case 'week':
      // The first Monday of a month.
      return local.getUTCDate() <= 7;
    case 'month':
      return local.getUTCMonth() % 3 === 0;
    case 'quarter':
      return local.getUTCMonth() % 6 === 0;
    case 'year':
      return true;
  }
}

function tickLabel(local: Date, resolution: Resolution): string {
  const year = String(local.getUTCFullYear());
  const startsYear = local.getUTCMonth() === 0;
  switch (resolution) {
    case 'millisecond':
      return time(local, 12).slice(6);
    case 'second':
      return time(local, 8);
    case 'minute':
      return time(local, 5);
    case 'hour':
      return local.getUTCHours() === 0 ? dayAndMonth(local) : time(local, 5);
    case 'day':
    case 'week':
      return dayAndMonth(local);
    case 'month':
      return startsYear ? year : monthName(local);
    case 'quarter':
      return startsYear ? year : quarterName(local);
    case 'year':
      return year;
  }
}

/** The time of day, cut after so many characters of "14:03:59.250". */
function time(local: Date, length: number): string {
  return local.toISOString().slice(11, 11 + length);
}

function dayAndMonth(local: Date): string {
  return `${local.getUTCDate()} ${monthName(local)}`;
}

function monthName(local: Date): string {
  return MONTHS[local.getUTCMonth()] ?? '';
}

function quarterName(local: Date): string {
  return `Q${Math.floor(local.getUTCMonth() / 3) + 1}`;
}
