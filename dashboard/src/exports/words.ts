/** Words for exports: what they are of, how far they are, how much there is. */

import type { Export } from '../lib/api-types';
import { whole } from '../lib/numbers';
import { COMPRESSIONS, DATASETS, FORMATS } from './datasets';

/** A bar that is full says that it is over, which no estimate knows. */
const FULLEST = 0.99;

/** More changes at a time than this are counted, not named. */
const MOST_NAMED = 3;

/** What an export is, such as "Transfers as CSV, gzip". */
export function titleOf({ dataset, format, compression }: Export): string {
  const written = `${DATASETS[dataset].name} as ${FORMATS[format]}`;
  return compression === 'none' ? written : `${written}, ${COMPRESSIONS[compression]}`;
}

/** How far an export is. */
export function stateWords({ state, reason }: Export): string {
  switch (state) {
    case 'created':
      return reason === undefined ? 'Waiting' : 'Waiting to be tried again';
    case 'pending':
      return 'Starting';
    case 'running':
      return 'Running';
    case 'cancelling':
      return 'Being cancelled';
    case 'complete':
      return 'Complete';
    case 'cancelled':
      return 'Cancelled';
    case 'failed':
      return 'Failed';
    case 'expired':
      return 'File removed';
  }
}

/** Whether it can still be cancelled. */
export function isCancellable({ state }: Export): boolean {
  return state === 'created' || state === 'pending' || state === 'running';
}

/** Whether a worker is at it, and there is a bar to show. */
export function isUnderWay({ state }: Export): boolean {
  return state === 'pending' || state === 'running';
}

/** How much of an export is done, from 0 to less than 1; undefined where nobody knows how much there is. */
export function doneShare({
  state,
  progress: { rows, estimated_rows: expected },
}: Export): number | undefined {
  if (state !== 'running' || expected === undefined || expected <= 0) return undefined;
  return Math.min(rows / expected, FULLEST);
}

/** What is done so far, such as "1,200 of about 5,000 rows, 34 kB"; more than was expected is not compared with it. */
export function progressWords({ progress: { rows, bytes, estimated_rows: expected } }: Export): string {
  const done =
    expected === undefined || expected < rows
      ? `${rowsLabel(rows)} so far`
      : `${whole.format(rows)} of about ${rowsLabel(expected)}`;
  return `${done}, ${sizeLabel(bytes)}`;
}

export function rowsLabel(rows: number): string {
  return `${whole.format(rows)} ${rows === 1 ? 'row' : 'rows'}`;
}

const SIZES = ['byte', 'kilobyte', 'megabyte', 'gigabyte', 'terabyte'] as const;

/** A size to three digits, in units of a thousand of those before, as the locale writes it: "1.23 MB". */
export function sizeLabel(bytes: number, locale?: string): string {
  let unit = 0;
  let size = bytes;
  // Rounded first: there are no "1000 kB".
  while (Number(size.toPrecision(3)) >= 1_000 && unit < SIZES.length - 1) {
    size /= 1_000;
    unit += 1;
  }
  return new Intl.NumberFormat(locale, {
    style: 'unit',
    unit: SIZES[unit] ?? 'byte',
    unitDisplay: unit === 0 ? 'long' : 'short',
    maximumSignificantDigits: unit === SIZES.length - 1 ? 15 : 3,
  }).format(size);
}

/**
 * What has become of the exports of a list since it was looked at last, for those who do not see it; empty where nothing
 * is worth a word. Rows below the ones known before are older ones that have been asked for, not new ones.
 */
export function changesSince(before: readonly Export[], now: readonly Export[]): string {
  const states = new Map(before.map((each) => [each.id, each.state]));
  const oldestNew = now.findIndex(({ id }) => states.has(id));
  const changed = now.filter(({ id, state }, index) => {
    const known = states.get(id);
    // Who has started one is told so by the form; that a worker takes it is over in a moment.
    if (known === undefined) return state !== 'created' && (oldestNew === -1 || index < oldestNew);
    return known !== state;
  });
  const worthAWord = changed.filter(({ state }) => state !== 'pending');
  if (worthAWord.length > MOST_NAMED) return `${whole.format(worthAWord.length)} exports have changed.`;
  return worthAWord.map((each) => `${titleOf(each)}: ${stateWords(each)}.`).join(' ');
}
