import { describe, expect, test } from 'vitest';
import { FixedFraming, MovingFraming } from './range';
import { Series } from './series';

const MINUTE = 60_000;
const NOON = Date.parse('2026-11-21T12:00:00Z');

function minuteSeries(length = 3): Series {
  return new Series(new MovingFraming('minute', 'UTC', length));
}

describe('a series', () => {
  test('is not known before its first snapshot, but its window is there to be drawn', () => {
    const view = minuteSeries().view(NOON);
    expect(view.known).toBe(false);
    expect(view.starts).toEqual([NOON - 2 * MINUTE, NOON - MINUTE, NOON]);
    expect(view.counts).toEqual([0, 0, 0]);
  });

  test('is filled with zeros around what a snapshot lists', () => {
    const series = minuteSeries();
    series.replace([
      { time: NOON, count: 5 },
      { time: NOON - 2 * MINUTE, count: 2 },
    ]);
    expect(series.view(NOON + 1)).toMatchObject({ known: true, counts: [2, 0, 5], current: 5, total: 7 });
  });

  test('takes an update as the new value, never as an addition, however often it comes', () => {
    const series = minuteSeries();
    series.replace([{ time: NOON, count: 5 }]);
    for (let repeated = 0; repeated < 3; repeated += 1) series.merge([{ time: NOON, count: 6 }]);
    expect(series.view(NOON)).toMatchObject({ counts: [0, 0, 6], total: 6 });
  });

  test('keeps what an update does not mention', () => {
    const series = minuteSeries();
    series.replace([{ time: NOON - MINUTE, count: 4 }]);
    series.merge([{ time: NOON, count: 1 }]);
    expect(series.view(NOON).counts).toEqual([0, 4, 1]);
  });

  test('forgets with a snapshot what the snapshot does not mention', () => {
    const series = minuteSeries();
    series.replace([{ time: NOON - MINUTE, count: 4 }]);
    series.replace([{ time: NOON, count: 1 }]);
    expect(series.view(NOON).counts).toEqual([0, 0, 1]);
  });

  test('is not made known by an update', () => {
    const series = minuteSeries();
    series.merge([{ time: NOON, count: 1 }]);
    expect(series.view(NOON).known).toBe(false);
  });

  test('rolls over as time passes, although nothing happens', () => {
    const series = minuteSeries();
    series.replace([{ time: NOON, count: 5 }]);
    expect(series.changesAt(NOON + 59_999)).toBe(NOON + MINUTE);
    expect(series.view(NOON + 59_999)).toMatchObject({ current: 5, total: 5 });
    expect(series.view(NOON + MINUTE)).toMatchObject({ counts: [0, 5, 0], current: 0, total: 5 });
    expect(series.view(NOON + 3 * MINUTE)).toMatchObject({ counts: [0, 0, 0], total: 0 });
  });

  test('shows a bucket of the future only when its time has come', () => {
    const series = minuteSeries();
    series.replace([{ time: NOON + MINUTE, count: 5 }]);
    expect(series.view(NOON).total).toBe(0);
    expect(series.view(NOON + MINUTE)).toMatchObject({ current: 5, total: 5 });
  });

  test('is right again when a clock that ran ahead is corrected', () => {
    const series = minuteSeries();
    series.replace([{ time: NOON, count: 5 }]);
    expect(series.view(NOON + 60 * MINUTE).total).toBe(0);
    expect(series.view(NOON).total).toBe(5);
  });

  test('forgets for good what has left the window by the time of the server', () => {
    const series = minuteSeries();
    series.replace([
      { time: NOON, count: 5 },
      { time: NOON + MINUTE, count: 6 },
    ]);
    series.prune(NOON + 6 * MINUTE);
    expect(series.view(NOON + 2 * MINUTE).counts).toEqual([0, 6, 0]);
  });

  test('shows beside each bucket the one that is a window older', () => {
    const series = minuteSeries();
    series.replace([
      { time: NOON - 5 * MINUTE, count: 1 },
      { time: NOON - 3 * MINUTE, count: 2 },
      { time: NOON, count: 4 },
    ]);
    expect(series.view(NOON)).toMatchObject({ counts: [0, 0, 4], previous: [1, 0, 2], total: 4 });
    expect(series.view(NOON + MINUTE)).toMatchObject({ counts: [0, 4, 0], previous: [0, 2, 0] });
  });

  test('compares finished buckets with as many before them, and not the one that is filling', () => {
    const series = minuteSeries();
    series.replace([
      { time: NOON - 4 * MINUTE, count: 2 },
      { time: NOON - 3 * MINUTE, count: 100 },
      { time: NOON - 2 * MINUTE, count: 3 },
      { time: NOON, count: 1_000 },
    ]);
    expect(series.view(NOON).change).toEqual({ absolute: 1, relative: 0.5 });
    expect(series.view(NOON + MINUTE).change).toEqual({ absolute: 898, relative: 898 / 102 });
  });

  test('compares nothing before it is known, nor where no bucket is finished', () => {
    expect(minuteSeries().view(NOON).change).toBeUndefined();
    const shortest = minuteSeries(1);
    shortest.replace([{ time: NOON, count: 1 }]);
    expect(shortest.view(NOON).change).toBeUndefined();
  });

  test('has no relative change where there was nothing before', () => {
    const series = minuteSeries();
    series.replace([{ time: NOON - MINUTE, count: 7 }]);
    expect(series.view(NOON).change).toEqual({ absolute: 7, relative: undefined });
  });

  test('compares days across a change of the clocks by the calendar', () => {
    const series = new Series(new MovingFraming('day', 'Europe/Berlin', 3));
    // The night in between has 25 hours.
    series.replace([
      { time: Date.parse('2026-10-22T22:00:00Z'), count: 2 },
      { time: Date.parse('2026-10-25T23:00:00Z'), count: 6 },
    ]);
    const view = series.view(Date.parse('2026-10-27T12:00:00Z'));
    expect(view).toMatchObject({
      counts: [0, 6, 0],
      previous: [0, 2, 0],
      change: { absolute: 4, relative: 2 },
    });
  });

  test('counts a day of 25 hours as one day', () => {
    const series = new Series(new MovingFraming('day', 'Europe/Berlin', 2));
    const day = Date.parse('2026-10-24T22:00:00Z');
    series.replace([{ time: day, count: 25 }]);
    expect(series.view(Date.parse('2026-10-25T22:59:59Z')).current).toBe(25);
    expect(series.view(Date.parse('2026-10-25T23:00:00Z'))).toMatchObject({ current: 0, counts: [25, 0] });
  });

  test('of a range stays where it is, and compares what is finished of it', () => {
    const series = new Series(new FixedFraming('minute', 'UTC', NOON - 90_000, NOON + 30_000));
    series.replace([
      { time: NOON - 5 * MINUTE, count: 2 },
      { time: NOON - 3 * MINUTE, count: 100 },
      { time: NOON - 2 * MINUTE, count: 3 },
      { time: NOON, count: 7 },
    ]);
    const starts = [NOON - 2 * MINUTE, NOON - MINUTE, NOON];
    const still = { starts, until: NOON + MINUTE, counts: [3, 0, 7], previous: [2, 0, 100], total: 10 };
    expect(series.view(NOON)).toMatchObject({ ...still, filling: 2, current: 7, change: { absolute: 1 } });
    expect(series.changesAt(NOON)).toBe(NOON + MINUTE);
    // Once it is past, all of it can be compared.
    const past = series.view(NOON + MINUTE);
    expect(past).toMatchObject({ ...still, filling: undefined, current: 0, change: { absolute: -92 } });
    expect(series.changesAt(NOON + MINUTE)).toBe(Infinity);
    // Before it has begun there is nothing to compare.
    expect(series.view(NOON - 2 * MINUTE - 1)).toMatchObject({ filling: undefined, change: undefined });
  });
});
