/** The events of `/statistics/stream`: how to ask for them and how to read them. */

import { isMetric, type Metric } from './metric';
import type { Resolution } from './resolution';
import type { Bucket } from './series';

/** The series of a metric: its window up to now, a range that stays, and the newest event alone. */
const SERIES = ['window', 'range', 'latest'] as const;

export type SeriesName = (typeof SERIES)[number];

export type StreamMessage =
  | {
      readonly type: 'snapshot';
      readonly metric: Metric;
      readonly series: SeriesName;
      /** What the server's clock showed when it sent this. */
      readonly asOf: number;
      readonly buckets: readonly Bucket[];
    }
  | {
      readonly type: 'update';
      readonly metric: Metric;
      readonly series: SeriesName;
      readonly buckets: readonly Bucket[];
    }
  | { readonly type: 'heartbeat'; readonly time: number }
  | { readonly type: 'status'; readonly status: DatabaseStatus };

/** Whether the server hears the database: what it sends while it does not may be out of date. */
export type DatabaseStatus = 'live' | 'stale';

/** The names of the server-sent events. */
export const MESSAGE_TYPES = ['snapshot', 'update', 'heartbeat', 'status'] as const;

export type MessageType = (typeof MESSAGE_TYPES)[number];

// Thirty pictures a second are enough: a busy server would tell changes far more often to whoever wants them all.
const INTERVAL_MS = 33;

/** What a stream is asked for. */
export interface StreamQuery {
  readonly metrics: readonly Metric[];
  readonly resolution: Resolution;
  readonly zone: string;
  readonly baseItem: string | undefined;
  /** How many buckets up to now. */
  readonly window: number;
  readonly range: { readonly from: number; readonly to: number } | undefined;
}

/** The address of a stream with everything that the page shows. */
export function streamUrl({ metrics, resolution, zone, baseItem, window, range }: StreamQuery): string {
  const query = new URLSearchParams({
    metrics: metrics.join(','),
    resolution,
    timezone: zone,
    window: String(window),
    latest: 'true',
    interval: String(INTERVAL_MS),
  });
  if (baseItem !== undefined) query.set('base_item_id', baseItem);
  if (range !== undefined) {
    query.set('from', new Date(range.from).toISOString());
    query.set('to', new Date(range.to).toISOString());
  }
  return `/statistics/stream?${query.toString()}`;
}

/** Reads an event's data; undefined where it is not what this page understands. */
export function readMessage(type: MessageType, data: string): StreamMessage | undefined {
  const body = parseObject(data);
  if (body === undefined) return undefined;
  switch (type) {
    case 'snapshot': {
      const { metric } = body;
      const series = readSeries(body.series);
      const asOf = readTime(body.as_of);
      const buckets = readBuckets(body.buckets);
      return isMetric(metric) && series !== undefined && asOf !== undefined && buckets !== undefined
        ? { type, metric, series, asOf, buckets }
        : undefined;
    }
    case 'update': {
      const { metric } = body;
      const series = readSeries(body.series);
      const buckets = readBuckets(body.buckets);
      return isMetric(metric) && series !== undefined && buckets !== undefined
        ? { type, metric, series, buckets }
        : undefined;
    }
    case 'heartbeat': {
      const time = readTime(body.time);
      return time === undefined ? undefined : { type, time };
    }
    case 'status': {
      const { status } = body;
      return status === 'live' || status === 'stale' ? { type, status } : undefined;
    }
  }
}

/** The window, which most readers ask for alone, goes without a name. */
function readSeries(value: unknown): SeriesName | undefined {
  return SERIES.find((name) => name === (value ?? 'window'));
}

function readBuckets(value: unknown): Bucket[] | undefined {
  if (!Array.isArray(value)) return undefined;
  const buckets: Bucket[] = [];
  for (const entry of value as unknown[]) {
    if (!isRecord(entry)) return undefined;
    const time = readTime(entry.time);
    const { count } = entry;
    if (time === undefined || typeof count !== 'number') return undefined;
    buckets.push({ time, count });
  }
  return buckets;
}

function readTime(value: unknown): number | undefined {
  const time = typeof value === 'string' ? Date.parse(value) : NaN;
  return Number.isNaN(time) ? undefined : time;
}

function parseObject(data: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(data);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
