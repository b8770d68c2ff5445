/** The events of `/statistics/stream`: how to ask for them and how to read them. */

import { METRICS, isMetric, type Metric } from './metric';
import { WINDOW_LENGTH, type Resolution } from './resolution';
import type { Bucket } from './series';

export type StreamMessage =
  | {
      readonly type: 'snapshot';
      readonly metric: Metric;
      /** What the server's clock showed when it sent this. */
      readonly asOf: number;
      readonly buckets: readonly Bucket[];
    }
  | { readonly type: 'update'; readonly metric: Metric; readonly buckets: readonly Bucket[] }
  | { readonly type: 'heartbeat'; readonly time: number }
  | { readonly type: 'status'; readonly status: DatabaseStatus };

/** Whether the server hears the database: what it sends while it does not may be out of date. */
export type DatabaseStatus = 'live' | 'stale';

/** The names of the server-sent events. */
export const MESSAGE_TYPES = ['snapshot', 'update', 'heartbeat', 'status'] as const;

export type MessageType = (typeof MESSAGE_TYPES)[number];

// Thirty pictures a second are enough: a busy server would tell changes far more often to whoever wants them all.
const INTERVAL_MS = 33;

/** The address of a stream with every metric in one resolution, over the window that is shown and the one before. */
export function streamUrl(resolution: Resolution, zone: string): string {
  const query = new URLSearchParams({
    metrics: METRICS.join(','),
    resolution,
    timezone: zone,
    window: String(2 * WINDOW_LENGTH[resolution]),
    interval: String(INTERVAL_MS),
  });
  return `/statistics/stream?${query.toString()}`;
}

/** Reads an event's data; undefined where it is not what this page understands. */
export function readMessage(type: MessageType, data: string): StreamMessage | undefined {
  const body = parseObject(data);
  if (body === undefined) return undefined;
  switch (type) {
    case 'snapshot': {
      const { metric } = body;
      const asOf = readTime(body.as_of);
      const buckets = readBuckets(body.buckets);
      return isMetric(metric) && asOf !== undefined && buckets !== undefined
        ? { type, metric, asOf, buckets }
        : undefined;
    }
    case 'update': {
      const { metric } = body;
      const buckets = readBuckets(body.buckets);
      return isMetric(metric) && buckets !== undefined ? { type, metric, buckets } : undefined;
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
