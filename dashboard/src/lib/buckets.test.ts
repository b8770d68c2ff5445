import { describe, expect, test } from 'vitest';
import { nextBucket, previousBucket, startOfBucket, windowStarts, zeroFill } from './buckets';
import { RESOLUTIONS, type Resolution } from './resolution';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const at = (time: string) => Date.parse(time);
const iso = (instant: number) => new Date(instant).toISOString().replace('.000Z', 'Z');

function startOf(time: string, resolution: Resolution, zone: string): string {
  return iso(startOfBucket(at(time), resolution, zone));
}

function hoursOf(day: string, zone: string): number {
  const start = startOfBucket(at(day), 'day', zone);
  return (nextBucket(start, 'day', zone) - start) / HOUR;
}

describe('the start of a bucket', () => {
  test.each<[Resolution, string]>([
    ['millisecond', '2026-11-21T13:14:15.678Z'],
    ['second', '2026-11-21T13:14:15Z'],
    ['minute', '2026-11-21T13:14:00Z'],
    ['hour', '2026-11-21T13:00:00Z'],
    ['day', '2026-11-21T00:00:00Z'],
    ['week', '2026-11-16T00:00:00Z'],
    ['month', '2026-11-01T00:00:00Z'],
    ['quarter', '2026-10-01T00:00:00Z'],
    ['year', '2026-01-01T00:00:00Z'],
  ])('of a %s in UTC', (resolution, expected) => {
    expect(startOf('2026-11-21T13:14:15.678Z', resolution, 'UTC')).toBe(expected);
  });

  test('is local midnight for days, and UTC for minutes', () => {
    expect(startOf('2026-11-21T23:30:10Z', 'day', 'Europe/Berlin')).toBe('2026-11-21T23:00:00Z');
    expect(startOf('2026-11-21T23:30:10Z', 'minute', 'Asia/Kathmandu')).toBe('2026-11-21T23:30:00Z');
  });

  test('is Monday for weeks, on a Sunday night and on a Monday morning', () => {
    expect(startOf('2026-11-22T22:59:59Z', 'week', 'Europe/Berlin')).toBe('2026-11-15T23:00:00Z');
    expect(startOf('2026-11-22T23:00:00Z', 'week', 'Europe/Berlin')).toBe('2026-11-22T23:00:00Z');
  });

  test('is the local new year', () => {
    expect(startOf('2026-12-31T23:30:00Z', 'year', 'Europe/Berlin')).toBe('2026-12-31T23:00:00Z');
    expect(startOf('2026-12-31T23:30:00Z', 'quarter', 'America/New_York')).toBe('2026-10-01T04:00:00Z');
  });

  test('is a half hour of UTC where the zone is half an hour off', () => {
    expect(startOf('2026-11-21T13:14:00Z', 'hour', 'Asia/Kolkata')).toBe('2026-11-21T12:30:00Z');
    expect(startOf('2026-11-21T13:14:00Z', 'day', 'Asia/Kolkata')).toBe('2026-11-20T18:30:00Z');
  });

  test('is right before 1970', () => {
    expect(startOf('1969-12-31T23:59:59.999Z', 'second', 'UTC')).toBe('1969-12-31T23:59:59Z');
    expect(startOf('1969-07-20T20:17:00Z', 'day', 'UTC')).toBe('1969-07-20T00:00:00Z');
  });
});

describe('when the clocks change', () => {
  test('a day in Berlin has 23 hours in spring, 25 in autumn and 24 otherwise', () => {
    expect(hoursOf('2026-03-29T12:00:00Z', 'Europe/Berlin')).toBe(23);
    expect(hoursOf('2026-10-25T12:00:00Z', 'Europe/Berlin')).toBe(25);
    expect(hoursOf('2026-10-26T12:00:00Z', 'Europe/Berlin')).toBe(24);
  });

  test('the hour that Berlin lives through twice is two buckets', () => {
    expect(startOf('2026-10-25T00:30:00Z', 'hour', 'Europe/Berlin')).toBe('2026-10-25T00:00:00Z');
    expect(startOf('2026-10-25T01:30:00Z', 'hour', 'Europe/Berlin')).toBe('2026-10-25T01:00:00Z');
  });

  test('Lord Howe Island, which moves by half an hour, gets a bucket of half an hour', () => {
    // 02:00 at +11 becomes 01:30 at +10:30, at 15:00 UTC.
    const window = windowStarts(at('2026-04-04T16:10:00Z'), 'hour', 'Australia/Lord_Howe', 4);
    expect(window.map(iso)).toEqual([
      '2026-04-04T13:00:00Z',
      '2026-04-04T14:00:00Z',
      '2026-04-04T15:00:00Z',
      '2026-04-04T15:30:00Z',
    ]);
    expect(hoursOf('2026-04-06T15:00:00Z', 'Australia/Lord_Howe')).toBe(24);
    expect(hoursOf('2026-04-04T15:00:00Z', 'Australia/Lord_Howe')).toBe(24.5);
    expect(hoursOf('2026-10-03T15:00:00Z', 'Australia/Lord_Howe')).toBe(23.5);
  });

  test('a day without midnight begins when the clocks jump over it', () => {
    expect(startOf('2018-11-04T12:00:00Z', 'day', 'America/Sao_Paulo')).toBe('2018-11-04T03:00:00Z');
  });

  test('a day with two midnights begins with the first', () => {
    expect(startOf('2026-10-25T00:30:00Z', 'day', 'Atlantic/Azores')).toBe('2026-10-25T00:00:00Z');
    expect(startOf('2026-10-25T01:30:00Z', 'day', 'Atlantic/Azores')).toBe('2026-10-25T00:00:00Z');
    expect(hoursOf('2026-10-25T12:00:00Z', 'Atlantic/Azores')).toBe(25);
  });

  test('a date that a zone left out is no bucket', () => {
    const window = windowStarts(at('2011-12-31T12:00:00Z'), 'day', 'Pacific/Apia', 4);
    expect(window.map(iso)).toEqual([
      '2011-12-28T10:00:00Z',
      '2011-12-29T10:00:00Z',
      '2011-12-30T10:00:00Z',
      '2011-12-31T10:00:00Z',
    ]);
  });
});

// The rules once more, as slowly and plainly as they can be said: walk through the minutes and look at the clock.
describe('agrees with a walk through every minute', () => {
  const changes: [zone: string, change: string][] = [
    ['UTC', '2026-03-29T01:00:00Z'],
    ['Europe/Berlin', '2026-03-29T01:00:00Z'],
    ['Europe/Berlin', '2026-10-25T01:00:00Z'],
    ['America/New_York', '2026-11-01T06:00:00Z'],
    ['America/Sao_Paulo', '2018-11-04T03:00:00Z'],
    ['America/Havana', '2022-11-06T05:00:00Z'],
    ['America/St_Johns', '2010-11-07T02:31:00Z'],
    ['America/Caracas', '2016-05-01T07:00:00Z'],
    ['Asia/Kolkata', '2026-01-01T00:00:00Z'],
    ['Asia/Kathmandu', '2026-01-01T00:00:00Z'],
    ['Asia/Pyongyang', '2015-08-14T15:00:00Z'],
    ['Atlantic/Azores', '2026-10-25T01:00:00Z'],
    ['Australia/Lord_Howe', '2026-04-04T15:00:00Z'],
    ['Australia/Lord_Howe', '2026-10-03T15:30:00Z'],
    ['Pacific/Apia', '2011-12-30T10:00:00Z'],
    ['Pacific/Chatham', '2026-04-04T14:00:00Z'],
  ];

  test.each(changes)('in %s around %s', (zone, change) => {
    const from = at(change) - 2 * DAY;
    const until = at(change) + 2 * DAY;
    for (const resolution of ['hour', 'day', 'week', 'month', 'quarter', 'year'] as const) {
      const walked = walk(zone, from, until, resolution);
      const computed: number[] = [];
      let start = nextBucket(startOfBucket(from, resolution, zone), resolution, zone);
      while (start < until) {
        computed.push(start);
        start = nextBucket(start, resolution, zone);
      }
      expect(computed.map(iso), resolution).toEqual(walked.map(iso));
    }
  });

  function walk(zone: string, from: number, until: number, resolution: Resolution): number[] {
    const clock = new Intl.DateTimeFormat('sv-SE', {
      timeZone: zone,
      dateStyle: 'short',
      timeStyle: 'short',
    });
    const show = (instant: number) => Date.parse(`${clock.format(instant).replace(' ', 'T')}:00Z`);
    const starts: number[] = [];
    let latest = localUnit(show(from), resolution);
    for (let minute = from + MINUTE; minute < until; minute += MINUTE) {
      const local = show(minute);
      if (resolution === 'hour') {
        const changed = local - show(minute - MINUTE) !== MINUTE;
        if (changed || local % HOUR === 0) starts.push(minute);
      } else if (localUnit(local, resolution) > latest) {
        latest = localUnit(local, resolution);
        starts.push(minute);
      }
    }
    return starts;
  }

  function localUnit(local: number, resolution: Resolution): number {
    const date = new Date(local);
    const months = date.getUTCFullYear() * 12 + date.getUTCMonth();
    switch (resolution) {
      case 'week':
        // 1970 began on a Thursday.
        return Math.floor((local / DAY + 3) / 7);
      case 'month':
        return months;
      case 'quarter':
        return Math.floor(months / 3);
      case 'year':
        return Math.floor(months / 12);
      default:
        return Math.floor(local / DAY);
    }
  }
});

describe('buckets are contiguous', () => {
  const zones = [
    'UTC',
    'Europe/Berlin',
    'America/Havana',
    'Asia/Kathmandu',
    'Australia/Lord_Howe',
    'Pacific/Apia',
  ];

  test.each(zones)('in %s', (zone) => {
    // An odd step, so that it meets every time of day, date and season.
    for (
      let instant = at('2009-01-01T00:00:00Z');
      instant < at('2028-01-01T00:00:00Z');
      instant += 391.7 * HOUR
    ) {
      for (const resolution of RESOLUTIONS) {
        const start = startOfBucket(instant, resolution, zone);
        const end = nextBucket(start, resolution, zone);
        expect(start).toBeLessThanOrEqual(instant);
        expect(end).toBeGreaterThan(instant);
        expect(startOfBucket(start, resolution, zone)).toBe(start);
        expect(startOfBucket(end - 1, resolution, zone)).toBe(start);
        expect(previousBucket(end, resolution, zone)).toBe(start);
      }
    }
  });
});

describe('a window', () => {
  test('ends with the bucket that contains now', () => {
    expect(windowStarts(at('2026-11-21T13:14:15Z'), 'minute', 'UTC', 3).map(iso)).toEqual([
      '2026-11-21T13:12:00Z',
      '2026-11-21T13:13:00Z',
      '2026-11-21T13:14:00Z',
    ]);
  });

  test('of months crosses the new year', () => {
    expect(windowStarts(at('2026-02-10T00:00:00Z'), 'month', 'Europe/Berlin', 3).map(iso)).toEqual([
      '2025-11-30T23:00:00Z',
      '2025-12-31T23:00:00Z',
      '2026-01-31T23:00:00Z',
    ]);
  });

  test('of 48 hours spans 47 hours and the one that is filling, also when the clocks change', () => {
    const now = at('2026-10-26T11:30:00Z');
    const [first] = windowStarts(now, 'hour', 'Europe/Berlin', 48);
    expect(first).toBe(at('2026-10-24T12:00:00Z'));
  });
});

describe('zero-filling', () => {
  const starts = [10, 20, 30];

  test('puts zero where nothing is known', () => {
    expect(zeroFill(starts, 40, new Map([[20, 7]]))).toEqual([0, 7, 0]);
  });

  test('leaves out what is older than the window, and what lies in the future', () => {
    expect(
      zeroFill(
        starts,
        40,
        new Map([
          [0, 1],
          [9, 2],
          [10, 3],
          [40, 4],
          [50, 5],
        ]),
      ),
    ).toEqual([3, 0, 0]);
  });

  test('counts a bucket whose start is not known here with the one that it lies in', () => {
    expect(
      zeroFill(
        starts,
        40,
        new Map([
          [20, 1],
          [25, 2],
        ]),
      ),
    ).toEqual([0, 3, 0]);
  });
});
