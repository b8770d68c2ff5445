/** Exports in states that real ones do not stay in for as long as somebody looks at them. */

import type { Page } from '@playwright/test';
import type { Export } from '../src/lib/api-types';

function inState(number: number, state: Export['state'], more: Partial<Export> = {}): Export {
  return {
    id: `0197a000-0000-7000-8000-${String(number).padStart(12, '0')}`,
    dataset: 'transfers',
    format: 'csv',
    compression: 'gzip',
    state,
    version: 1,
    progress: { rows: 3_000, bytes: 81_303_210 },
    created_at: '2026-11-22T05:36:10.020793Z',
    ...more,
  };
}

const SO_MUCH = { rows: 3_000, bytes: 81_303_210 };

export const STATES: readonly Export[] = [
  inState(1, 'created'),
  inState(2, 'created', { reason: 'the store could not be reached' }),
  inState(3, 'pending'),
  inState(4, 'running', { progress: { ...SO_MUCH, estimated_rows: 12_000 } }),
  inState(5, 'running', { progress: { ...SO_MUCH, estimated_rows: 2_000 } }),
  inState(6, 'running'),
  inState(7, 'cancelling'),
  inState(8, 'cancelled'),
  inState(9, 'failed', { reason: 'permission denied' }),
  inState(10, 'complete', {
    dataset: 'ownership',
    to: '2026-01-01T00:00:00Z',
    as_of: '2026-11-22T05:36:10.039963Z',
    expires_at: '2026-11-22T06:36:10.039963Z',
    result: {
      name: 'ownership-20261122T053610Z.csv.gz',
      rows: 31_234,
      size: 8_130_321,
      sha256: 'ce7a9e32'.repeat(8),
    },
  }),
  inState(11, 'expired'),
];

/** Has the page hear of these exports, and then of nothing for as long as a test lasts. */
export async function showExports(page: Page, exports: readonly Export[]): Promise<void> {
  await page.route('**/exports?page_size*', (route) =>
    route.fulfill({
      contentType: 'text/event-stream',
      body: `retry: 60000\ndata: ${JSON.stringify({ data: exports, next_page_token: null })}\n\n`,
    }),
  );
}
