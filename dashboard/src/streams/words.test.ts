import { describe, expect, test } from 'vitest';
import type { Batch, Stream } from '../lib/api-types';
import {
  batchWords,
  changesSince,
  durationLabel,
  heightOf,
  recordText,
  scheduleWords,
  sourceWords,
  stateWords,
  withRunning,
} from './words';

function aStream(changes: Partial<Stream> = {}): Stream {
  return {
    id: 's-1',
    name: 'crm',
    source: { http: { url: 'https://api.example.com/v1/assets?limit=100' } },
    interval_seconds: 300,
    timezone: 'UTC',
    transform: [],
    desired: 'running',
    state: 'waiting',
    version: 1,
    batches: 0,
    records: 0,
    skipped_runs: 0,
    dead_letters: 0,
    next_run_at: '2026-11-22T05:41:10Z',
    created_at: '2026-11-22T05:36:10Z',
    ...changes,
  };
}

function aBatch(changes: Partial<Batch> = {}): Batch {
  return {
    number: 12,
    state: 'complete',
    started_at: '2026-11-22T05:36:10.000Z',
    finished_at: '2026-11-22T05:36:13.000Z',
    pages: 3,
    records: 250,
    rejected: 0,
    bytes: 1_000,
    skipped_runs: 0,
    revision: 0,
    ...changes,
  };
}

/** One that is being fetched. */
function aRun(changes: Partial<Batch> = {}): Batch {
  const run = aBatch({ state: 'running', ...changes });
  delete run.finished_at;
  return run;
}

test.each([
  ['https://api.example.com/v1/assets?limit=100', 'api.example.com/v1/assets'],
  ['http://127.0.0.1:8080/', '127.0.0.1:8080'],
  ['no address', 'no address'],
])('what is fetched from %s is said to come from %s', (url, words) => {
  expect(sourceWords({ source: { http: { url } } })).toBe(words);
});

test('what is fetched from HubSpot is said to be of a kind', () => {
  const hubspot = { object: 'deals' as const, base_url: 'https://api.hubapi.com/' };
  expect(sourceWords({ source: { hubspot } })).toBe('HubSpot deals');
});

test.each([
  [1, 'every second'],
  [5, 'every 5 seconds'],
  [60, 'every minute'],
  [90, 'every 90 seconds'],
  [300, 'every 5 minutes'],
  [3_600, 'every hour'],
  [5_400, 'every 90 minutes'],
  [86_400, 'every day'],
  [172_800, 'every 2 days'],
])('an interval of %d seconds is %s', (seconds, words) => {
  expect(scheduleWords({ interval_seconds: seconds, timezone: 'UTC' })).toBe(words);
});

test('a cron expression is told with whose clocks it goes by', () => {
  expect(scheduleWords({ cron: '0 8 * * MON-FRI', timezone: 'America/New_York' })).toBe(
    '0 8 * * MON-FRI (America/New York)',
  );
});

describe('a stream', () => {
  test.each<[Partial<Stream>, string]>([
    [{ state: 'stopped', desired: 'stopped' }, 'Stopped'],
    [{}, 'Waiting for its next run'],
    [{ retry_at: '2026-11-22T05:37:10Z' }, 'Waiting to try again'],
    [{ state: 'running' }, 'Fetching'],
    [{ state: 'running', running: aRun({ pages: 1, records: 1 }) }, 'Fetching: 1 page, 1 record'],
    [{ state: 'running', running: aRun({ records: 1_250 }) }, 'Fetching: 3 pages, 1,250 records'],
    [{ state: 'stopping' }, 'Stopping'],
    [{ state: 'failed' }, 'Failed: has to be changed'],
  ])('that is %j says what it does', (changes, words) => {
    expect(stateWords(aStream(changes))).toBe(words);
  });

  test('that was asked to run once, besides any schedule, is about to', () => {
    const asked = aStream({ desired: 'stopped' });
    delete asked.next_run_at;
    expect(stateWords(asked)).toBe('About to run');
  });
});

describe('a run', () => {
  test('is told with what it fetched, and how long that took once it is over', () => {
    expect(batchWords(aBatch())).toBe('Batch 12, complete, 250 records, 3 s');
    expect(batchWords(aRun({ records: 1 }))).toBe('Batch 12, running, 1 record');
    expect(batchWords(aBatch({ state: 'failed', records: 0 }))).toBe('Batch 12, failed, 0 records, 3 s');
  });

  test.each([
    [0, '0 s'],
    [420, '0.4 s'],
    [9_940, '9.9 s'],
    [9_960, '10 s'],
    [59_400, '59 s'],
    [59_600, '1 min'],
    [125_000, '2 min 5 s'],
    [3_780_000, '1 h 3 min'],
    [7_200_000, '2 h'],
  ])('of %d milliseconds took %s', (milliseconds, words) => {
    expect(durationLabel(milliseconds)).toBe(words);
  });

  test('that is under way is the newest, and known as it is now', () => {
    const known = [aRun({ number: 2, records: 1 }), aBatch({ number: 1 })];
    const now = aRun({ number: 2, records: 100 });
    expect(withRunning(known, now)).toEqual([now, known[1]]);
    expect(withRunning(known.slice(1), now)).toEqual([now, known[1]]);
    expect(withRunning(known, undefined)).toEqual(known);
  });

  test('is as high as its records are many', () => {
    const batches = [aBatch({ records: 0 }), aBatch({ records: 50 }), aBatch({ records: 200 })];
    expect(batches.map((batch) => heightOf(batch, batches))).toEqual([0, 0.25, 1]);
    const empty = aBatch({ records: 0 });
    expect(heightOf(empty, [empty])).toBe(0);
  });
});

test('a long record is cut', () => {
  expect(recordText({ id: 1, tags: ['a'] })).toBe('{"id":1,"tags":["a"]}');
  const text = recordText({ text: 'a'.repeat(1_000) });
  expect(text).toHaveLength(301);
  expect(text.endsWith('…')).toBe(true);
});

describe('what is told to those who do not see it', () => {
  test('is not that runs come and go', () => {
    const fetching = aStream({ state: 'running', running: aRun() });
    expect(changesSince([aStream()], [fetching])).toBe('');
    expect(changesSince([fetching], [aStream({ batches: 1, latest_batch: 1 })])).toBe('');
  });

  test('is that one is started, stops or cannot go on', () => {
    const stopped = aStream({ state: 'stopped', desired: 'stopped' });
    expect(changesSince([stopped], [aStream()])).toBe('crm: Started.');
    expect(changesSince([aStream()], [stopped])).toBe('crm: Stopped.');
    expect(changesSince([aStream()], [aStream({ state: 'failed' })])).toBe('crm: Failed: has to be changed.');
    const retrying = aStream({ retry_at: '2026-11-22T05:37:10Z' });
    expect(changesSince([aStream()], [retrying])).toBe('crm: Waiting to try again.');
    expect(changesSince([retrying], [retrying])).toBe('');
  });

  test('is no stream that was not known before', () => {
    expect(changesSince([], [aStream({ state: 'failed' })])).toBe('');
  });

  test('is a number where it is much', () => {
    const before = [1, 2, 3, 4].map((number) => aStream({ id: `s-${number}` }));
    const after = before.map((each) => ({ ...each, state: 'failed' as const }));
    expect(changesSince(before, after)).toBe('4 streams have changed.');
  });
});
