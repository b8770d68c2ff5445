import { describe, expect, test } from 'vitest';
import { localText, momentOf } from './local-time';

const BERLIN = 'Europe/Berlin';

function moment(localText: string, zone = BERLIN): string | undefined {
  const instant = momentOf(localText, zone);
  return instant === undefined ? undefined : new Date(instant).toISOString();
}

describe('the moment of a local time', () => {
  test('depends on the zone', () => {
    expect(moment('2026-01-05T14:03:59')).toBe('2026-01-05T13:03:59.000Z');
    expect(moment('2026-07-05T14:03:59')).toBe('2026-07-05T12:03:59.000Z');
    expect(moment('2026-01-05T14:03:59', 'Asia/Kathmandu')).toBe('2026-01-05T08:18:59.000Z');
    expect(moment('2026-01-05T14:03:59', 'UTC')).toBe('2026-01-05T14:03:59.000Z');
  });

  test('may be told without seconds, or to the millisecond', () => {
    expect(moment('2026-01-05T14:03')).toBe('2026-01-05T13:03:00.000Z');
    expect(moment('2026-01-05T14:03:59.25')).toBe('2026-01-05T13:03:59.250Z');
  });

  test('is that of the jump in the hour that clocks skip', () => {
    expect(moment('2026-03-29T01:59:59')).toBe('2026-03-29T00:59:59.000Z');
    expect(moment('2026-03-29T02:00:00')).toBe('2026-03-29T01:00:00.000Z');
    expect(moment('2026-03-29T02:30:00')).toBe('2026-03-29T01:00:00.000Z');
    expect(moment('2026-03-29T03:00:00')).toBe('2026-03-29T01:00:00.000Z');
    expect(moment('2026-03-29T03:00:01')).toBe('2026-03-29T01:00:01.000Z');
  });

  test('is the first one in the hour that clocks show twice', () => {
    expect(moment('2026-10-25T01:59:59')).toBe('2026-10-24T23:59:59.000Z');
    expect(moment('2026-10-25T02:30:00')).toBe('2026-10-25T00:30:00.000Z');
    expect(moment('2026-10-25T03:00:00')).toBe('2026-10-25T02:00:00.000Z');
  });

  test.each(['', 'yesterday', '2026-01-05', '2026-13-05T14:03', '2026-02-30T14:03', '2026-01-05T24:03'])(
    'does not exist for "%s"',
    (text) => {
      expect(moment(text)).toBeUndefined();
    },
  );
});

describe('the local time of a moment', () => {
  test('is told to the second, as clocks in the zone show it', () => {
    expect(localText(Date.parse('2026-01-05T13:03:59.999Z'), BERLIN)).toBe('2026-01-05T14:03:59');
    expect(localText(Date.parse('2026-12-31T23:30:00Z'), BERLIN)).toBe('2027-01-01T00:30:00');
  });

  test('is the same in both hours that clocks show twice', () => {
    expect(localText(Date.parse('2026-10-25T00:30:00Z'), BERLIN)).toBe('2026-10-25T02:30:00');
    expect(localText(Date.parse('2026-10-25T01:30:00Z'), BERLIN)).toBe('2026-10-25T02:30:00');
  });

  test('leads back to the moment', () => {
    for (const zone of [BERLIN, 'America/St_Johns', 'Asia/Kathmandu', 'UTC']) {
      // Noon: clocks do not change then.
      for (let noon = Date.UTC(2026, 0, 1, 12); noon < Date.UTC(2027, 0, 1); noon += 86_400_000) {
        expect(momentOf(localText(noon, zone), zone)).toBe(noon);
      }
    }
  });
});
