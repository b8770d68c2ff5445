import { describe, expect, test } from 'vitest';
import { windowStarts } from './buckets';
import { bucketLabel, currentLabel, ticks, windowLabel } from './labels';
import { WINDOW_LENGTH, type Resolution } from './resolution';

const NOW = Date.parse('2026-11-21T13:14:15.678Z');
const BERLIN = 'Europe/Berlin';

function marks(resolution: Resolution, limit = 99, zone = BERLIN): string[] {
  const starts = windowStarts(NOW, resolution, zone, WINDOW_LENGTH[resolution]);
  return ticks(starts, resolution, zone, limit).map(({ label }) => label);
}

describe('the marks below a chart', () => {
  test.each<[Resolution, string[]]>([
    ['millisecond', ['15.500', '15.550', '15.600', '15.650']],
    ['second', ['14:13:20', '14:13:30', '14:13:40', '14:13:50', '14:14:00', '14:14:10']],
    ['minute', ['13:20', '13:30', '13:40', '13:50', '14:00', '14:10']],
    ['hour', ['20 Nov', '12:00', '21 Nov', '12:00']],
    ['day', ['26 Oct', '2 Nov', '9 Nov', '16 Nov']],
    ['week', ['1 Jun', '6 Jul', '3 Aug', '7 Sep', '5 Oct', '2 Nov']],
    ['month', ['2025', 'Apr', 'Jul', 'Oct', '2026', 'Apr', 'Jul', 'Oct']],
    ['quarter', ['2024', 'Q3', '2025', 'Q3', '2026', 'Q3']],
    ['year', ['2017', '2018', '2019', '2020', '2021', '2022', '2023', '2024', '2025', '2026']],
  ])('are round %ss of the local clock', (resolution, expected) => {
    expect(marks(resolution)).toEqual(expected);
  });

  test('follow zones that are not whole hours away', () => {
    expect(marks('minute', 99, 'Asia/Kathmandu')).toEqual([
      '18:00',
      '18:10',
      '18:20',
      '18:30',
      '18:40',
      '18:50',
    ]);
  });

  test('are thinned out where there is little room', () => {
    expect(marks('minute', 3)).toEqual(['13:20', '13:40', '14:00']);
    expect(marks('year', 5)).toEqual(['2017', '2019', '2021', '2023', '2025']);
    expect(marks('year', 0)).toHaveLength(1);
  });
});

describe('the name of a bucket', () => {
  test.each<[Resolution, string]>([
    ['millisecond', '21 Nov, 14:14:15.678'],
    ['second', '21 Nov, 14:14:15'],
    ['minute', 'Sat 21 Nov 2026, 14:14'],
    ['day', 'Sat 21 Nov 2026'],
    ['week', 'Week of Sat 21 Nov 2026'],
    ['month', 'Nov 2026'],
    ['quarter', 'Q4 2026'],
    ['year', '2026'],
  ])('of a %s says what is needed to know it', (resolution, expected) => {
    expect(bucketLabel(NOW, resolution, BERLIN)).toBe(expected);
  });

  test('tells the bucket that is filling, and the window', () => {
    expect(currentLabel('quarter')).toBe('this quarter');
    expect(currentLabel('day')).toBe('today');
    expect(windowLabel('hour')).toBe('last 48 hours');
  });
});
