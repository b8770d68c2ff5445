/** Words for data streams: where they fetch from and when, what they do, what became of their runs. */

import type { Batch, Stream } from '../lib/api-types';
import { whole } from '../lib/numbers';

/** More changes at a time than this are counted, not named. */
const MOST_NAMED = 3;

/** More of a record than this is not read in a table. */
const LONGEST_RECORD = 300;

/** Where a stream fetches from, such as "api.example.com/v1/assets" or "HubSpot deals". */
export function sourceWords({ source }: Pick<Stream, 'source'>): string {
  if ('hubspot' in source) return `HubSpot ${source.hubspot.object}`;
  const { url } = source.http;
  if (!URL.canParse(url)) return url;
  const { host, pathname } = new URL(url);
  return pathname === '/' ? host : host + pathname;
}

const UNITS = [
  ['day', 86_400],
  ['hour', 3_600],
  ['minute', 60],
  ['second', 1],
] as const;

/** When a stream runs, such as "every 5 minutes", or its cron expression with whose clocks it goes by. */
export function scheduleWords({
  interval_seconds: seconds,
  cron,
  timezone,
}: Pick<Stream, 'interval_seconds' | 'cron' | 'timezone'>): string {
  if (cron !== undefined) return `${cron} (${timezone.replaceAll('_', ' ')})`;
  if (seconds === undefined) return 'when asked to';
  const [unit, size] = UNITS.find(([, size]) => seconds % size === 0) ?? ['second', 1];
  const count = seconds / size;
  return count === 1 ? `every ${unit}` : `every ${whole.format(count)} ${unit}s`;
}

/** What a stream does. */
export function stateWords({ state, retry_at: retryAt, next_run_at: nextRunAt, running }: Stream): string {
  switch (state) {
    case 'stopped':
      return 'Stopped';
    case 'waiting':
      if (retryAt !== undefined) return 'Waiting to try again';
      return nextRunAt === undefined ? 'About to run' : 'Waiting for its next run';
    case 'running':
      return running === undefined
        ? 'Fetching'
        : `Fetching: ${pagesLabel(running.pages)}, ${recordsLabel(running.records)}`;
    case 'stopping':
      return 'Stopping';
    case 'failed':
      return 'Failed: has to be changed';
  }
}

/** What became of a run. */
export function batchStateWords({ state }: Pick<Batch, 'state'>): string {
  switch (state) {
    case 'running':
      return 'Running';
    case 'complete':
      return 'Complete';
    case 'failed':
      return 'Failed';
    case 'cancelled':
      return 'Cancelled';
  }
}

/** A run in a few words, such as "Batch 12, complete, 250 records, 3 s". */
export function batchWords(batch: Batch): string {
  const took = durationOf(batch);
  return [
    `Batch ${whole.format(batch.number)}`,
    batchStateWords(batch).toLowerCase(),
    recordsLabel(batch.records),
    ...(took === undefined ? [] : [took]),
  ].join(', ');
}

/** How long a run took; undefined while it is not over. */
export function durationOf({
  started_at: startedAt,
  finished_at: finishedAt,
}: Pick<Batch, 'started_at' | 'finished_at'>): string | undefined {
  return finishedAt === undefined ? undefined : durationLabel(Date.parse(finishedAt) - Date.parse(startedAt));
}

/** A time in its two largest units: "0.4 s", "12 s", "2 min 5 s", "1 h 3 min". */
export function durationLabel(milliseconds: number): string {
  const tenths = Math.round(milliseconds / 100);
  if (tenths < 100) return `${tenths / 10} s`;
  const seconds = Math.round(milliseconds / 1_000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return inUnits(minutes, 'min', seconds % 60, 's');
  return inUnits(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
}

function inUnits(large: number, largeUnit: string, small: number, smallUnit: string): string {
  const said = `${whole.format(large)} ${largeUnit}`;
  return small === 0 ? said : `${said} ${small} ${smallUnit}`;
}

/** The runs as they are: what is known of the one under way is newer than what was answered of it. */
export function withRunning(batches: readonly Batch[], running: Batch | undefined): readonly Batch[] {
  if (running === undefined) return batches;
  return [running, ...batches.filter(({ number }) => number !== running.number)];
}

/** The share of the largest batch that a batch has, from 0 to 1. */
export function heightOf({ records }: Pick<Batch, 'records'>, batches: readonly Batch[]): number {
  return records / Math.max(1, ...batches.map((each) => each.records));
}

/** A record in one line, cut where it is long. */
export function recordText(record: unknown): string {
  const text = JSON.stringify(record);
  return text.length > LONGEST_RECORD ? `${text.slice(0, LONGEST_RECORD)}…` : text;
}

export function recordsLabel(records: number): string {
  return counted(records, 'record', 'records');
}

export function batchesLabel(batches: number): string {
  return counted(batches, 'batch', 'batches');
}

export function pagesLabel(pages: number): string {
  return counted(pages, 'page', 'pages');
}

function counted(count: number, one: string, many: string): string {
  return `${whole.format(count)} ${count === 1 ? one : many}`;
}

/**
 * What has become of the streams of a list since it was looked at last, for those who do not see it; empty where nothing
 * is worth a word. That runs come and go as they should is not.
 */
export function changesSince(before: readonly Stream[], now: readonly Stream[]): string {
  const known = new Map(before.map((each) => [each.id, each]));
  const news = now.flatMap((each) => {
    const was = known.get(each.id);
    const words = was && changeOf(was, each);
    return words === undefined ? [] : [`${each.name}: ${words}.`];
  });
  if (news.length > MOST_NAMED) return `${whole.format(news.length)} streams have changed.`;
  return news.join(' ');
}

function changeOf(was: Stream, is: Stream): string | undefined {
  if (is.state !== was.state && (is.state === 'failed' || is.state === 'stopped')) return stateWords(is);
  if (is.desired !== was.desired && is.desired === 'running') return 'Started';
  if (is.retry_at !== undefined && was.retry_at === undefined) return stateWords({ ...is, state: 'waiting' });
  return undefined;
}
