import { describe, expect, test } from 'vitest';
import type { Export } from '../lib/api-types';
import {
  changesSince,
  doneShare,
  isCancellable,
  progressWords,
  rowsLabel,
  sizeLabel,
  stateWords,
  titleOf,
} from './words';

function anExport(changes: Partial<Export> = {}): Export {
  return {
    id: 'e-1',
    dataset: 'transfers',
    format: 'csv',
    compression: 'none',
    state: 'created',
    version: 1,
    progress: { rows: 0, bytes: 0 },
    created_at: '2026-11-22T05:36:10Z',
    ...changes,
  };
}

const running = (rows: number, expected?: number) =>
  anExport({
    state: 'running',
    progress: { rows, bytes: 34_120, ...(expected !== undefined && { estimated_rows: expected }) },
  });

test('an export is called by what it is of and how it is written', () => {
  expect(titleOf(anExport())).toBe('Transfers as CSV');
  expect(titleOf(anExport({ dataset: 'base-items', format: 'ndjson', compression: 'zstd' }))).toBe(
    'Base items as JSON lines, Zstandard',
  );
});

test('one that waits again says so', () => {
  expect(stateWords(anExport())).toBe('Waiting');
  expect(stateWords(anExport({ reason: 'the store is full' }))).toBe('Waiting to be tried again');
  expect(stateWords(anExport({ state: 'expired' }))).toBe('File removed');
});

test('only what is not over, nor about to be, can be cancelled', () => {
  const states = ['created', 'pending', 'running', 'cancelling', 'complete', 'cancelled', 'failed'] as const;
  expect(states.filter((state) => isCancellable(anExport({ state })))).toEqual([
    'created',
    'pending',
    'running',
  ]);
});

describe('the bar', () => {
  test('shows the share of what is expected', () => {
    expect(doneShare(running(250, 1_000))).toBe(0.25);
  });

  test('is never full, however wrong the estimate was', () => {
    expect(doneShare(running(1_000, 1_000))).toBeLessThan(1);
    expect(doneShare(running(5_000, 1_000))).toBeLessThan(1);
  });

  test('shows no share where nobody knows one', () => {
    expect(doneShare(running(250))).toBeUndefined();
    expect(doneShare(running(0, 0))).toBeUndefined();
    expect(doneShare({ ...running(250, 1_000), state: 'pending' })).toBeUndefined();
  });
});

test('the rows are compared with what was expected, unless there are more', () => {
  expect(progressWords(running(1_200, 5_000))).toBe('1,200 of about 5,000 rows, 34.1 kB');
  expect(progressWords(running(1_200))).toBe('1,200 rows so far, 34.1 kB');
  expect(progressWords(running(6_000, 5_000))).toBe('6,000 rows so far, 34.1 kB');
  expect(rowsLabel(1)).toBe('1 row');
});

test.each([
  [0, '0 bytes'],
  [1, '1 byte'],
  [999, '999 bytes'],
  [1_000, '1 kB'],
  [1_234, '1.23 kB'],
  [999_499, '999 kB'],
  [999_999, '1 MB'],
  [8_130_321, '8.13 MB'],
  [81_303_210_000, '81.3 GB'],
  [4_200_000_000_000, '4.2 TB'],
])('%d bytes are %s', (bytes, words) => {
  expect(sizeLabel(bytes, 'en')).toBe(words);
});

describe('what is told to those who do not see it', () => {
  const [older, newer] = [anExport({ id: 'e-1' }), anExport({ id: 'e-2', dataset: 'users' })];

  test('is what becomes of an export, not how its rows grow', () => {
    expect(changesSince([running(1)], [running(2)])).toBe('');
    expect(changesSince([running(1)], [anExport({ state: 'complete' })])).toBe('Transfers as CSV: Complete.');
    expect(changesSince([older], [{ ...older, state: 'pending' }])).toBe('');
  });

  test('is no new export that waits, but one that is over already', () => {
    expect(changesSince([older], [newer, older])).toBe('');
    expect(changesSince([older], [{ ...newer, state: 'failed' }, older])).toBe('Users as CSV: Failed.');
    expect(changesSince([], [{ ...newer, state: 'complete' }])).toBe('Users as CSV: Complete.');
  });

  test('is no older export that was asked for', () => {
    expect(changesSince([newer], [newer, { ...older, state: 'complete' }])).toBe('');
  });

  test('is a number where it is much', () => {
    const before = [1, 2, 3, 4].map((number) => anExport({ id: `e-${number}` }));
    const after = before.map((each) => ({ ...each, state: 'cancelled' as const }));
    expect(changesSince(before, after)).toBe('4 exports have changed.');
  });
});
