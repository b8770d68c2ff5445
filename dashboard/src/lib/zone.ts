/**
 * Time-zone arithmetic on instants (milliseconds since 1970, UTC) with nothing but the browser's own tables.
 *
 * A "local" number is an instant shifted by the zone's offset: its UTC fields read like a clock on the wall.
 */

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

// Offsets lie between -12 and +14 hours: looking this far around finds the ones before and after any change.
const WIDEST_EAST = 14 * HOUR;
const WIDEST_WEST = 12 * HOUR;

// A window needs a few hundred entries; beyond this the cache starts over.
const CACHED_OFFSETS = 4096;

interface Zone {
  readonly format: Intl.DateTimeFormat;
  readonly offsets: Map<number, number>;
}

// Creating a formatter costs a hundred times more than using it.
const zones = new Map<string, Zone>();

/** The zone of the browser; UTC where it does not say. */
export function browserTimeZone(): string {
  // Typed as a string, but missing where the system has no zone set.
  const name = new Intl.DateTimeFormat().resolvedOptions().timeZone as string | undefined;
  return name === undefined || name === 'Etc/Unknown' ? 'UTC' : name;
}

/** Whether the browser knows a zone of this name. */
export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    // Offsets are zones to newer browsers, but not to the server.
    return /^[A-Za-z]/.test(name);
  } catch {
    return false;
  }
}

/** The names of all zones to choose from, and of this one, which may be known by another name there. */
export function timeZones(chosen: string): string[] {
  return [...new Set(['UTC', ...Intl.supportedValuesOf('timeZone'), chosen])].sort();
}

/** Local minus UTC, in milliseconds, at an instant. */
export function offsetAt(instant: number, zone: string): number {
  const { format, offsets } = lookUp(zone);
  // Clocks change at whole minutes (in St. John's once at one past midnight): one look-up serves a minute.
  const asked = Math.floor(instant / MINUTE) * MINUTE;
  const known = offsets.get(asked);
  if (known !== undefined) return known;

  const field: Partial<Record<Intl.DateTimeFormatPartTypes, number>> = {};
  for (const { type, value } of format.formatToParts(asked)) field[type] = Number(value);
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = field;
  const offset = Date.UTC(year, month - 1, day, hour, minute, second) - asked;

  if (offsets.size >= CACHED_OFFSETS) offsets.clear();
  offsets.set(asked, offset);
  return offset;
}

/** The instant as a date whose UTC fields are the local ones. */
export function localDate(instant: number, zone: string): Date {
  return new Date(instant + offsetAt(instant, zone));
}

/**
 * The first instant at which clocks in the zone show `local`. Where the clocks jump over it, that is the moment
 * of the jump.
 */
export function firstInstantShowing(local: number, zone: string): number {
  const early = local - offsetAt(local - WIDEST_EAST, zone);
  const late = local - offsetAt(local + WIDEST_WEST, zone);
  for (const instant of [Math.min(early, late), Math.max(early, late)]) {
    if (instant + offsetAt(instant, zone) === local) return instant;
  }
  return firstMinute(local - WIDEST_EAST, early, (minute) => minute + offsetAt(minute, zone) >= local);
}

/** The first minute in (low, high] for which something holds that holds at `high` and from then on. */
export function firstMinute(low: number, high: number, holds: (minute: number) => boolean): number {
  let below = Math.floor(low / MINUTE);
  let above = Math.floor(high / MINUTE);
  while (above - below > 1) {
    const middle = Math.floor((below + above) / 2);
    if (holds(middle * MINUTE)) above = middle;
    else below = middle;
  }
  return above * MINUTE;
}

function lookUp(name: string): Zone {
  let zone = zones.get(name);
  if (zone === undefined) {
    const format = new Intl.DateTimeFormat('en-US', {
      timeZone: name,
      calendar: 'iso8601',
      numberingSystem: 'latn',
      hourCycle: 'h23',
      year: 'numeric',
      month: 'numeric',
      day: 'numeric',
      hour: 'numeric',
      minute: 'numeric',
      second: 'numeric',
    });
    zone = { format, offsets: new Map() };
    zones.set(name, zone);
  }
  return zone;
}
