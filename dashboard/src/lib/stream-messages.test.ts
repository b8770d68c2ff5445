import { describe, expect, test } from 'vitest';
import { readMessage, streamUrl, type MessageType, type StreamQuery } from './stream-messages';

const QUERY: StreamQuery = {
  metrics: ['item-creation', 'transfers'],
  resolution: 'hour',
  zone: 'America/Argentina/Buenos_Aires',
  baseItem: undefined,
  window: 96,
  range: undefined,
};

test.each<[Partial<StreamQuery>, Record<string, string>]>([
  [{}, {}],
  [
    { baseItem: 'b', range: { from: Date.UTC(2026, 1, 3), to: Date.UTC(2026, 1, 4) } },
    { base_item_id: 'b', from: '2026-02-03T00:00:00.000Z', to: '2026-02-04T00:00:00.000Z' },
  ],
])('a stream is asked for as the API has it: %j', (changes, expected) => {
  const url = new URL(streamUrl({ ...QUERY, ...changes }), 'http://newcycle.test');
  expect(url.pathname).toBe('/statistics/stream');
  expect(Object.fromEntries(url.searchParams)).toEqual({
    metrics: 'item-creation,transfers',
    resolution: 'hour',
    timezone: 'America/Argentina/Buenos_Aires',
    window: '96',
    latest: 'true',
    interval: '33',
    ...expected,
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
      series: 'window',
      asOf: Date.parse('2026-11-21T12:00:00Z'),
      buckets: read,
    });
    const latest = { metric: 'user-creation', series: 'latest', buckets };
    expect(readMessage('update', JSON.stringify(latest))).toEqual({
      type: 'update',
      metric: 'user-creation',
      series: 'latest',
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
    ['update', '{"metric":"transfers","series":"first","buckets":[]}'],
    ['heartbeat', '{"time":12}'],
    ['status', '{"status":"fine"}'],
    ['status', 'null'],
  ])('%s %s is not understood', (type, data) => {
    expect(readMessage(type, data)).toBeUndefined();
  });
});
