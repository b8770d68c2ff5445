import { expect, test } from 'vitest';
import { csvOf, fileName } from './export';
import { MovingFraming } from './range';
import { Series } from './series';

const NOON = Date.parse('2026-11-21T12:00:00Z');

test('CSV has a line for each bucket, with its bounds, its count and the one before', () => {
  const series = new Series(new MovingFraming('minute', 'UTC', 2));
  series.replace([
    { time: NOON, count: 5 },
    { time: NOON - 60_000, count: 4 },
    { time: NOON - 120_000, count: 3 },
  ]);
  expect(csvOf(series.view(NOON))).toBe(
    'start,end,count,before,finished\r\n' +
      '2026-11-21T11:59:00.000Z,2026-11-21T12:00:00.000Z,4,0,true\r\n' +
      '2026-11-21T12:00:00.000Z,2026-11-21T12:01:00.000Z,5,3,false\r\n',
  );
});

test('a file is named by what is in it and when it was made', () => {
  expect(fileName('transfers', 'day', NOON, 'csv')).toBe('newcycle-transfers-day-2026-11-21T120000Z.csv');
});
