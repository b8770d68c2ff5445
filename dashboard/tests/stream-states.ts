/** Data streams in states that real ones do not stay in for as long as somebody looks at them. */

import type { Page } from '@playwright/test';
import type { Batch, Stream } from '../src/lib/api-types';

const RUNNING: Batch = {
  number: 13,
  state: 'running',
  scheduled_at: '2026-11-22T05:36:10.020793Z',
  started_at: '2026-11-22T05:36:11.020793Z',
  pages: 3,
  records: 250,
  rejected: 0,
  bytes: 34_120,
  skipped_runs: 0,
  revision: 0,
};

function inState(number: number, name: string, more: Partial<Stream>): Stream {
  return {
    id: `0197a000-0000-7000-8000-${String(number).padStart(12, '0')}`,
    name,
    source: { http: { url: 'https://api.example.com/v1/assets?limit=100' } },
    interval_seconds: 300,
    timezone: 'UTC',
    transform: [],
    desired: 'running',
    state: 'waiting',
    version: 1,
    batches: 12,
    records: 3_000,
    skipped_runs: 2,
    dead_letters: 0,
    last_run_at: '2026-11-22T05:36:10.020793Z',
    next_run_at: '2026-11-22T05:41:10.020793Z',
    latest_batch: 12,
    created_at: '2026-11-21T05:36:10.020793Z',
    ...more,
  };
}

export const STATES: readonly Stream[] = [
  inState(1, 'new', { desired: 'stopped', state: 'stopped', batches: 0, records: 0 }),
  inState(2, 'waits', {}),
  inState(3, 'fetches', {
    state: 'running',
    running: RUNNING,
    next_run_at: '2026-11-22T05:36:10.020793Z',
  }),
  inState(4, 'stops', { desired: 'stopped', state: 'stopping', running: RUNNING }),
  inState(5, 'tries again', {
    source: { hubspot: { object: 'deals', base_url: 'https://api.hubapi.com/' } },
    running: RUNNING,
    retry_at: '2026-11-22T05:37:10.020793Z',
    last_error: 'the source answers 503 Service Unavailable',
    last_error_at: '2026-11-22T05:36:12.020793Z',
  }),
  inState(6, 'has failed', {
    cron: '*/15 8-18 * * MON-FRI',
    timezone: 'America/St_Johns',
    state: 'failed',
    dead_letters: 1_234,
    last_error: 'the source has nothing at this URL (404 Not Found): change it',
    last_error_at: '2026-11-22T05:36:12.020793Z',
  }),
];

/** Has the page hear of these streams, and then of nothing for as long as a test lasts. */
export async function showStreams(page: Page, streams: readonly Stream[]): Promise<void> {
  await page.route('**/streams?page_size*', (route) =>
    route.fulfill({
      contentType: 'text/event-stream',
      body: `retry: 60000\ndata: ${JSON.stringify({ data: streams, next_page_token: null })}\n\n`,
    }),
  );
}
