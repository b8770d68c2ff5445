import { describe, expect, test } from 'vitest';
import { Series } from './series';

const MINUTE = 60_000;
const NOON = Date.parse('2026-11-21T12:00:00Z');

function minuteSeries(length = 3): Series {
  return new Series('minute', 'UTC', length);
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
    expect(series.rollsOverAt(NOON + 59_999)).toBe(NOON + MINUTE);
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
    series.prune(NOON + 3 * MINUTE);
    expect(series.view(NOON + 2 * MINUTE).counts).toEqual([0, 6, 0]);
  });

  test('counts a day of 25 hours as one day', () => {
    const series = new Series('day', 'Europe/Berlin', 2);
    const day = Date.parse('2026-10-24T22:00:00Z');
    series.replace([{ time: day, count: 25 }]);
    expect(series.view(Date.parse('2026-10-25T22:59:59Z')).current).toBe(25);
    expect(series.view(Date.parse('2026-10-25T23:00:00Z'))).toMatchObject({ current: 0, counts: [25, 0] });
  });
});
