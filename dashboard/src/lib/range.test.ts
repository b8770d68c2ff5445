import { describe, expect, test } from 'vitest';
import {
  bucketsBetween,
  FixedFraming,
  MovingFraming,
  offeredSpans,
  rangeIn,
  resolutionFor,
  SPANS,
  windowLength,
  zoomedOut,
} from './range';
import { RESOLUTIONS, type Resolution } from './resolution';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const NOON = Date.parse('2026-11-21T12:00:00Z');

test.each(RESOLUTIONS.filter((resolution) => resolution !== 'millisecond'))(
  'ranges of %ss have more than one bucket and not too many',
  (resolution) => {
    const offered = offeredSpans(resolution);
    expect(offered.length).toBeGreaterThan(0);
    for (const span of offered) {
      const length = windowLength({ kind: 'last', span }, resolution);
      expect(length).toBeGreaterThan(1);
      expect(length).toBeLessThanOrEqual(2_000);
    }
  },
);

test('the length of a relative range is that of its buckets', () => {
  expect(windowLength({ kind: 'last', span: '24h' }, 'minute')).toBe(1_440);
  expect(windowLength({ kind: 'last', span: '1y' }, 'month')).toBe(12);
  expect(windowLength({ kind: 'last', span: '1y' }, 'day')).toBe(366);
  expect(windowLength({ kind: 'window' }, 'minute')).toBe(60);
  expect(SPANS['1y'].words).toBe('last year');
});

test('a range that another resolution cannot show gives way to its usual window', () => {
  const day = { kind: 'last', span: '24h' } as const;
  expect(rangeIn(day, 'hour')).toEqual(day);
  expect(rangeIn(day, 'second')).toEqual({ kind: 'window' });
  expect(rangeIn(day, 'week')).toEqual({ kind: 'window' });
  const week = { kind: 'between', from: NOON - 7 * 24 * HOUR, to: NOON } as const;
  expect(rangeIn(week, 'year')).toEqual(week);
  expect(rangeIn(week, 'hour')).toEqual(week);
  expect(rangeIn(week, 'minute')).toEqual({ kind: 'window' });
});

test.each<[number, Resolution]>([
  [100, 'millisecond'],
  [4 * MINUTE, 'second'],
  [5 * MINUTE, 'minute'],
  [5 * HOUR, 'hour'],
  [30 * 24 * HOUR, 'day'],
  [500 * 365 * 24 * HOUR, 'year'],
])('%i ms are seen best in %ss', (length, resolution) => {
  expect(resolutionFor(NOON - length, NOON)).toBe(resolution);
});

test('zooming out doubles a range around its middle, but not into the future', () => {
  expect(zoomedOut(NOON - HOUR, NOON, NOON + 24 * HOUR)).toEqual({
    from: NOON - 1.5 * HOUR,
    to: NOON + 0.5 * HOUR,
  });
  expect(zoomedOut(NOON - HOUR, NOON, NOON)).toEqual({ from: NOON - 2 * HOUR, to: NOON });
  // Where it reached into the future already, it still does.
  expect(zoomedOut(NOON, NOON + HOUR, NOON)).toEqual({ from: NOON - HOUR, to: NOON + HOUR });
});

describe('a range that stays', () => {
  test('is of all buckets that have a part of it, and as many before', () => {
    const framing = new FixedFraming('minute', 'UTC', NOON + 30_000, NOON + 2 * MINUTE);
    expect(framing.at(0)).toEqual({
      earlier: [NOON - 2 * MINUTE, NOON - MINUTE],
      starts: [NOON, NOON + MINUTE],
      until: NOON + 2 * MINUTE,
      filling: undefined,
    });
    expect(framing.range).toEqual({ from: NOON - 2 * MINUTE, to: NOON + 2 * MINUTE });
  });

  test('has the days of the calendar, however long they are', () => {
    // The night in between has 25 hours.
    const from = Date.parse('2026-10-24T10:00:00Z');
    const framing = new FixedFraming('day', 'Europe/Berlin', from, from + 48 * HOUR);
    const { starts, until } = framing.at(0);
    const lengths = starts.map((start, index) => ((starts[index + 1] ?? until) - start) / HOUR);
    expect(lengths).toEqual([24, 25, 24]);
    expect(bucketsBetween(from, from + 48 * HOUR, 'day')).toBe(2);
  });

  test('knows which of its buckets is filling', () => {
    const framing = new FixedFraming('minute', 'UTC', NOON, NOON + 2 * MINUTE);
    const filling = (now: number) => framing.at(now).filling;
    expect([NOON - 1, NOON, NOON + MINUTE, NOON + 2 * MINUTE].map(filling)).toEqual([
      undefined,
      0,
      1,
      undefined,
    ]);
    expect(framing.changesAt(NOON - 1)).toBe(NOON);
    expect(framing.changesAt(NOON + MINUTE)).toBe(NOON + 2 * MINUTE);
    expect(framing.changesAt(NOON + 2 * MINUTE)).toBe(Infinity);
  });
});

test('a range up to now moves when a bucket ends, and not before', () => {
  const framing = new MovingFraming('minute', 'UTC', 2);
  const frame = framing.at(NOON);
  expect(frame).toEqual({
    earlier: [NOON - 3 * MINUTE, NOON - 2 * MINUTE],
    starts: [NOON - MINUTE, NOON],
    until: NOON + MINUTE,
    filling: 1,
  });
  expect(framing.at(NOON + MINUTE - 1)).toBe(frame);
  expect(framing.changesAt(NOON)).toBe(NOON + MINUTE);
  expect(framing.at(NOON + MINUTE).starts).toEqual([NOON, NOON + MINUTE]);
});
