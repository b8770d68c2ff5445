/** Takes the pictures in docs/: of a ledger in which things happened over the last hours. */

import { randomUUID } from 'node:crypto';
import { expect, test, type APIRequestContext } from '@playwright/test';
import { becomesLive } from '../tests/dashboard';

const HOUR = 3_600_000;
const ITEM = randomUUID();
const USERS = 40;
const ITEMS = 3_000;
const TRANSFERS = 1_200;

/** Numbers from 0 to 1 that look like chance, the same each time: Park and Miller's generator. */
function chance(): () => number {
  let state = 20_261_121;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

/** Moments of the last hours, more of them at some times than at others. */
function moments(count: number, hours: number, random: () => number): string[] {
  const times: number[] = [];
  while (times.length < count) {
    const ago = random() * hours;
    if (random() < 0.6 + 0.4 * Math.sin(ago * 5)) times.push(Date.now() - ago * HOUR);
  }
  return times.sort((a, b) => a - b).map((time) => new Date(time).toISOString());
}

async function insert(request: APIRequestContext, path: string, rows: readonly object[]): Promise<void> {
  const response = await request.post(path, {
    headers: { 'content-type': 'application/x-ndjson' },
    data: rows.map((row) => JSON.stringify(row)).join('\n'),
  });
  expect(response.ok(), await response.text()).toBe(true);
}

test.beforeAll(async ({ request }) => {
  const random = chance();
  const oneOf = <Value>(values: readonly Value[]): Value =>
    values[Math.floor(random() * values.length)] as Value;
  const named = ['Cargo bike, 80 kg', 'Party tent, 3 × 6 m', 'Projector', 'Cordless drill', 'Sewing machine'];
  const baseItems = named.map((description) => ({ id: randomUUID(), description }));
  const users = moments(USERS, 3, random).map((created_at) => ({ id: randomUUID(), created_at }));
  const items = moments(ITEMS, 3, random).map((created_at, index) => ({
    id: index === 0 ? ITEM : randomUUID(),
    base_item_id: oneOf(baseItems).id,
    created_at,
  }));
  const transfers = moments(TRANSFERS, 3, random).map((timestamp, index) => ({
    // One that has changed hands often enough to have a history.
    item_id: index % 150 === 0 ? ITEM : oneOf(items).id,
    owner_id: oneOf(users).id,
    timestamp,
  }));
  await insert(request, '/base-items', baseItems);
  await insert(request, '/users', users);
  await insert(request, '/items', items);
  await insert(request, '/transfers', transfers);
});

const SIZES = [
  ['', 1_280, 900, 'light'],
  ['-dark', 1_280, 900, 'dark'],
  ['-phone', 390, 844, 'light'],
] as const;

const VIEWS: readonly (readonly [string, string])[] = [
  ['dashboard', '?timezone=Europe/Berlin'],
  ['tables', '?timezone=Europe/Berlin&display=table'],
  ['kiosk', '?timezone=Europe/Berlin&kiosk=1'],
  ['explore', '?timezone=Europe/Berlin&page=explore'],
  ['item', `?timezone=Europe/Berlin&page=explore&item=${ITEM}`],
];

for (const [view, address] of VIEWS) {
  for (const [suffix, width, height, colorScheme] of SIZES) {
    test(`docs/${view}${suffix}.png`, async ({ page }) => {
      await page.setViewportSize({ width, height });
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      await page.goto(`/${address}`);
      await becomesLive(page);
      await expect(page.getByText('Loading…')).toHaveCount(0);
      await page.screenshot({ path: `../docs/${view}${suffix}.png` });
    });
  }
}
