/** The ledger as another service sees it: what a test inserts behind the page's back. */

import { expect, type APIRequestContext } from '@playwright/test';
import type { BaseItem, Item, Transfer, User } from '../src/lib/api-types';
import type { Metric } from '../src/lib/metric';
import type { Resolution } from '../src/lib/resolution';

async function insert<Row>(request: APIRequestContext, path: string, data: object): Promise<Row> {
  const response = await request.post(path, { data });
  expect(response.status(), await response.text()).toBe(201);
  return (await response.json()) as Row;
}

// On the server that the tests share, unless another one is named.

export function insertBaseItem(
  request: APIRequestContext,
  description: string,
  server = '',
): Promise<BaseItem> {
  return insert(request, `${server}/base-items`, { description });
}

export function insertItem(
  request: APIRequestContext,
  baseItemId: string,
  createdAt?: string,
  server = '',
): Promise<Item> {
  return insert(request, `${server}/items`, {
    base_item_id: baseItemId,
    ...(createdAt !== undefined && { created_at: createdAt }),
  });
}

export function insertUser(request: APIRequestContext, server = ''): Promise<User> {
  return insert(request, `${server}/users`, {});
}

export function insertTransfer(
  request: APIRequestContext,
  itemId: string,
  ownerId: string,
  timestamp?: string,
): Promise<Transfer> {
  return insert(request, '/transfers', {
    item_id: itemId,
    owner_id: ownerId,
    ...(timestamp !== undefined && { timestamp }),
  });
}

/** The newest bucket that the JSON statistics know, in the zone that the tests' browser is in. */
export async function newestCount(
  request: APIRequestContext,
  metric: Metric,
  resolution: Resolution,
): Promise<number | undefined> {
  const response = await request.get(`/statistics/${metric}/${resolution}`, {
    params: { timezone: 'Europe/Berlin', limit: 1 },
  });
  expect(response.status(), await response.text()).toBe(200);
  const buckets = (await response.json()) as { time: string; count: number }[];
  return buckets[0]?.count;
}
