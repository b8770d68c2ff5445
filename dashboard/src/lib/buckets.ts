/**
 * The calendar of buckets: where one starts, which is next, which make up a window.
 *
 * The rules are the server's. Buckets are contiguous: each ends where the next begins. Milliseconds, seconds and
 * minutes follow UTC. An hour begins when the local clock shows a whole hour, and also when the clocks change, so
 * that the hour which is lived through twice in autumn is two buckets. Days and everything wider begin when the
 * local clock first shows midnight (or jumps over it), weeks on Monday. All instants are milliseconds since 1970.
 */

import type { Resolution } from './resolution';
import { firstInstantShowing, firstMinute, localDate, offsetAt } from './zone';

const FIXED_WIDTH = { millisecond: 1, second: 1_000, minute: 60_000 } as const;
const HOUR = 3_600_000;

type FixedResolution = keyof typeof FIXED_WIDTH;
type CalendarResolution = Exclude<Resolution, FixedResolution | 'hour'>;

/** The start of the bucket that an instant falls into. */
export function startOfBucket(instant: number, resolution: Resolution, zone: string): number {
  if (isFixed(resolution)) return floorTo(instant, FIXED_WIDTH[resolution]);
  if (resolution === 'hour') return startOfHour(instant, zone);

  let start = firstInstantShowing(localStart(localDate(instant, zone), resolution, 0), zone);
  // Where the clocks were set back over midnight, the next bucket had begun before this date came again.
  for (;;) {
    const end = nextBucket(start, resolution, zone);
    if (end > instant) return start;
    start = end;
  }
}

/** The start of the bucket after the one that starts at `start`. */
export function nextBucket(start: number, resolution: Resolution, zone: string): number {
  if (isFixed(resolution)) return start + FIXED_WIDTH[resolution];
  if (resolution === 'hour') return endOfHour(start, zone);

  const local = localDate(start, zone);
  // A date that a zone left out (Samoa, 30 December 2011) begins where the next one does, and is no bucket.
  for (let units = 1; ; units += 1) {
    const end = firstInstantShowing(localStart(local, resolution, units), zone);
    if (end > start) return end;
  }
}

/** The start of the bucket before the one that starts at `start`. */
export function previousBucket(start: number, resolution: Resolution, zone: string): number {
  return startOfBucket(start - 1, resolution, zone);
}

/** The starts of the last `length` buckets, oldest first; the last one contains `now`. */
export function windowStarts(now: number, resolution: Resolution, zone: string, length: number): number[] {
  const starts: number[] = [];
  let start = startOfBucket(now, resolution, zone);
  for (let index = 0; index < length; index += 1) {
    starts.push(start);
    start = previousBucket(start, resolution, zone);
  }
  return starts.reverse();
}

/**
 * One count for each bucket of a window, zero where nothing is known. `until` is where the window's last bucket
 * ends; counts outside of the window are left out.
 *
 * A count belongs to the last bucket that starts at or before its time. That is an exact match wherever the
 * browser's time-zone tables are as new as the server's, and the nearest truth where they are not.
 */
export function zeroFill(
  starts: readonly number[],
  until: number,
  counts: ReadonlyMap<number, number>,
): number[] {
  const filled = starts.map(() => 0);
  for (const [time, count] of counts) {
    if (time >= until) continue;
    const index = lastAtOrBefore(starts, time);
    if (index >= 0) filled[index] = (filled[index] ?? 0) + count;
  }
  return filled;
}

function startOfHour(instant: number, zone: string): number {
  const offset = offsetAt(instant, zone);
  const whole = floorTo(instant + offset, HOUR) - offset;
  if (offsetAt(whole, zone) === offset) return whole;
  return firstMinute(whole, instant, (minute) => offsetAt(minute, zone) === offset);
}

function endOfHour(start: number, zone: string): number {
  const offset = offsetAt(start, zone);
  const end = floorTo(start + offset, HOUR) + HOUR - offset;
  if (offsetAt(end, zone) === offset) return end;
  return firstMinute(start, end, (minute) => offsetAt(minute, zone) !== offset);
}

/** The local start of the calendar unit that a local date falls into, moved on by `units`. */
function localStart(local: Date, resolution: CalendarResolution, units: number): number {
  const year = local.getUTCFullYear();
  const month = local.getUTCMonth();
  const day = local.getUTCDate();
  switch (resolution) {
    case 'day':
      return Date.UTC(year, month, day + units);
    case 'week': {
      const daysSinceMonday = (local.getUTCDay() + 6) % 7;
      return Date.UTC(year, month, day - daysSinceMonday + 7 * units);
    }
    case 'month':
      return Date.UTC(year, month + units, 1);
    case 'quarter':
      return Date.UTC(year, month - (month % 3) + 3 * units, 1);
    case 'year':
      return Date.UTC(year + units, 0, 1);
  }
}

function isFixed(resolution: Resolution): resolution is FixedResolution {
  return resolution in FIXED_WIDTH;
}

function floorTo(value: number, width: number): number {
  return Math.floor(value / width) * width;
}

/** The index of the greatest element that is not above `value`, in an ascending list; -1 where there is none. */
function lastAtOrBefore(ascending: readonly number[], value: number): number {
  let low = 0;
  let high = ascending.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ascending[middle] ?? Infinity) <= value) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
