import { describe, expect, test } from 'vitest';
import { windowStarts } from './buckets';
import { agoLabel, bucketLabel, currentLabel, rangeLabel, ticks, windowLabel } from './labels';
import { WINDOW_LENGTH, type Resolution } from './resolution';

const NOW = Date.parse('2026-11-21T13:14:15.678Z');
// Without what versions of the locale data differ in.
const LOCALE = 'en-US-u-hc-h23';
const BERLIN = 'Europe/Berlin';

function marks(resolution: Resolution, limit = 99, zone = BERLIN): string[] {
  const starts = windowStarts(NOW, resolution, zone, WINDOW_LENGTH[resolution]);
  return ticks(starts, resolution, zone, limit, LOCALE).map(({ label }) => label);
}

describe('the marks below a chart', () => {
  test.each<[Resolution, string[]]>([
    ['millisecond', ['15.500', '15.550', '15.600', '15.650']],
    ['second', ['14:13:20', '14:13:30', '14:13:40', '14:13:50', '14:14:00', '14:14:10']],
    ['minute', ['13:20', '13:30', '13:40', '13:50', '14:00', '14:10']],
    ['hour', ['Nov 20', '12:00', 'Nov 21', '12:00']],
    ['day', ['Oct 26', 'Nov 2', 'Nov 9', 'Nov 16']],
    ['week', ['Jun 1', 'Jul 6', 'Aug 3', 'Sep 7', 'Oct 5', 'Nov 2']],
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
    expect(marks('year', 5)).toEqual(['2018', '2020', '2022', '2024', '2026']);
    expect(marks('year', 0)).toHaveLength(1);
  });

  test('are as round as a long range has room for', () => {
    const day = windowStarts(NOW, 'minute', BERLIN, 1_440);
    expect(ticks(day, 'minute', BERLIN, 5, LOCALE).map(({ label }) => label)).toEqual([
      '18:00',
      'Nov 21',
      '06:00',
      '12:00',
    ]);
  });

  test('are in the reader’s language', () => {
    const starts = windowStarts(NOW, 'month', BERLIN, 12);
    expect(ticks(starts, 'month', BERLIN, 9, 'de').map(({ label }) => label)).toEqual([
      '2026',
      'Apr',
      'Jul',
      'Okt',
    ]);
  });
});

describe('the name of a bucket', () => {
  test.each<[Resolution, string]>([
    ['millisecond', 'Nov 21, 14:14:15.678'],
    ['second', 'Nov 21, 14:14:15'],
    ['minute', 'Sat, Nov 21, 2026, 14:14'],
    ['day', 'Sat, Nov 21, 2026'],
    ['week', 'Week of Sat, Nov 21, 2026'],
    ['month', 'Nov 2026'],
    ['quarter', 'Q4 2026'],
    ['year', '2026'],
  ])('of a %s says what is needed to know it', (resolution, expected) => {
    expect(bucketLabel(NOW, resolution, BERLIN, LOCALE)).toBe(expected);
  });

  test('is in the reader’s language', () => {
    expect(bucketLabel(NOW, 'minute', BERLIN, 'de')).toBe('Sa., 21. Nov. 2026, 14:14');
    expect(bucketLabel(NOW, 'minute', BERLIN, 'en-US')).toMatch(/^Sat, Nov 21, 2026, 02:14\sPM$/);
  });

  test('tells the bucket that is filling, and the window', () => {
    expect(currentLabel('quarter')).toBe('this quarter');
    expect(currentLabel('day')).toBe('today');
    expect(windowLabel({ kind: 'window' }, 'hour')).toBe('last 48 hours');
    expect(windowLabel({ kind: 'last', span: '90d' }, 'week')).toBe('last 90 days');
  });
});

test.each<[Resolution, string]>([
  ['minute', 'Nov 20, 2026, 14:14 – Nov 21, 2026, 14:14'],
  // The last day that is shown, not the midnight at which it ends.
  ['day', 'Nov 20 – 21, 2026'],
  ['month', 'Nov 2026'],
  ['year', '2026'],
])('a range of %ss says from when to when', (resolution, expected) => {
  const words = rangeLabel(NOW - 86_400_000, NOW, resolution, BERLIN, LOCALE);
  expect(words.replace(/\s/g, ' ')).toBe(expected);
});

test.each([
  [0, '0 seconds ago'],
  [59_999, '59 seconds ago'],
  [60_000, '1 minute ago'],
  [2 * 3_600_000, '2 hours ago'],
  [47 * 3_600_000, '47 hours ago'],
  [49 * 3_600_000, '2 days ago'],
  // Clocks differ: nothing is heard of before it happened.
  [-1_500, '0 seconds ago'],
])('what was %i ms ago was %s', (elapsed, expected) => {
  expect(agoLabel(NOW - elapsed, NOW, 'en')).toBe(expected);
});
