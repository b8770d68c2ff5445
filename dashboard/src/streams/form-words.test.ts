import { expect, test } from 'vitest';
import { ledgerRows, previewWords, secretWords } from './form-words';

const NONE = { source: {} };

test.each([
  ['bearer', 'a bearer token'],
  ['basic', 'a name and a password'],
  ['key', 'a key'],
  ['oauth2', 'OAuth 2 client credentials'],
  ['another', 'another'],
])('a secret that is %s is %s', (kind, words) => {
  expect(secretWords(kind)).toBe(words);
});

test.each([
  [0, 0, false, '0 records on its first page, which is its last.'],
  [1, 1, true, '1 record on its first page; there are more pages.'],
  [2, 1_000, false, 'The first 2 of 1,000 records on its first page, which is its last.'],
])('%d of %d records, more: %s', (shown, count, hasMore, words) => {
  const records = Array.from({ length: shown }, () => NONE);
  expect(previewWords({ records, page_records: count, has_more: hasMore })).toBe(words);
});

test('rows of the ledger are named, without what they have not', () => {
  expect(ledgerRows({ base_item: { id: 'b', created_at: null }, item: null, user: { id: 'u' } })).toEqual([
    ['Base item', { id: 'b' }],
    ['User', { id: 'u' }],
  ]);
  expect(ledgerRows(undefined)).toEqual([]);
});
