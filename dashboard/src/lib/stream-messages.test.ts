import { describe, expect, test } from 'vitest';
import { readMessage, streamUrl, type MessageType } from './stream-messages';

test('a stream is asked for with every metric, the zone, and twice the window of its resolution', () => {
  const url = new URL(streamUrl('hour', 'America/Argentina/Buenos_Aires'), 'http://newcycle.test');
  expect(url.pathname).toBe('/statistics/stream');
  expect(Object.fromEntries(url.searchParams)).toEqual({
    metrics: 'item-creation,transfers,user-creation',
    resolution: 'hour',
    timezone: 'America/Argentina/Buenos_Aires',
    window: '96',
    interval: '33',
  });
});

describe('a message', () => {
  test('of each kind is read', () => {
    const buckets = [{ time: '2026-11-21T12:00:00Z', count: 3 }];
    const read = [{ time: Date.parse('2026-11-21T12:00:00Z'), count: 3 }];
    expect(
      readMessage(
        'snapshot',
        JSON.stringify({ metric: 'item-creation', as_of: '2026-11-21T12:00:00Z', buckets }),
      ),
    ).toEqual({
      type: 'snapshot',
      metric: 'item-creation',
      asOf: Date.parse('2026-11-21T12:00:00Z'),
      buckets: read,
    });
    expect(readMessage('update', JSON.stringify({ metric: 'user-creation', buckets }))).toEqual({
      type: 'update',
      metric: 'user-creation',
      buckets: read,
    });
    expect(readMessage('heartbeat', '{"time":"1970-01-01T00:00:01.500Z","lag_ms":null}')).toEqual({
      type: 'heartbeat',
      time: 1500,
    });
    expect(readMessage('status', '{"status":"stale"}')).toEqual({ type: 'status', status: 'stale' });
  });

  test.each<[MessageType, string]>([
    ['snapshot', 'not JSON'],
    ['snapshot', '[]'],
    ['snapshot', '{"metric":"item-creation"}'],
    ['snapshot', '{"metric":"item-creation","buckets":[]}'],
    ['snapshot', '{"metric":"unheard-of","as_of":"2026-11-21T12:00:00Z","buckets":[]}'],
    ['update', '{"metric":"transfers","buckets":[{"time":"yesterday","count":1}]}'],
    ['update', '{"metric":"transfers","buckets":[{"time":"2026-11-21T12:00:00Z","count":"1"}]}'],
    ['update', '{"metric":"transfers","buckets":[null]}'],
    ['heartbeat', '{"time":12}'],
    ['status', '{"status":"fine"}'],
    ['status', 'null'],
  ])('%s %s is not understood', (type, data) => {
    expect(readMessage(type, data)).toBeUndefined();
  });
});
