/** Words for what a form says of a data stream, and for what would become of it. They come with the form. */

import type { Preview } from '../lib/api-types';
import { whole } from '../lib/numbers';
import { recordsLabel } from './words';

/** A kind of secret, as the API has it. */
export function secretWords(kind: string): string {
  switch (kind) {
    case 'bearer':
      return 'a bearer token';
    case 'basic':
      return 'a name and a password';
    case 'key':
      return 'a key';
    case 'oauth2':
      return 'OAuth 2 client credentials';
    default:
      return kind;
  }
}

/** How much of a source was tried, such as "The first 20 of 100 records on its first page; there are more pages." */
export function previewWords({ records, page_records: count, has_more: hasMore }: Preview): string {
  const shown =
    records.length < count
      ? `The first ${whole.format(records.length)} of ${recordsLabel(count)} on its first page`
      : `${recordsLabel(count)} on its first page`;
  return `${shown}${hasMore ? '; there are more pages.' : ', which is its last.'}`;
}

/** What would become of a record in the ledger, each row with what it is: without what it has not. */
export function ledgerRows(ledger: unknown): (readonly [string, object])[] {
  if (typeof ledger !== 'object' || ledger === null) return [];
  return Object.entries(ledger).flatMap(([name, row]: [string, unknown]) => {
    if (typeof row !== 'object' || row === null) return [];
    const said = Object.entries(row).filter(([, value]) => value !== null);
    const words = name.replaceAll('_', ' ');
    return [[words.charAt(0).toUpperCase() + words.slice(1), Object.fromEntries(said)] as const];
  });
}
