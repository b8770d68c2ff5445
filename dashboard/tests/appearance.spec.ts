/**
 * The page looks as it did, at three widths. After a change that is meant to be seen, the pictures are taken anew:
 *
 *     scripts/browser-tests.sh tests/appearance.spec.ts --update-snapshots
 */

import { expect, test, type APIRequestContext, type Page } from '@playwright/test';
import { becomesLive, card, explore } from './dashboard';
import { showExports, STATES } from './export-states';

const WIDTHS = [
  [360, 740],
  [768, 1_024],
  [1_920, 1_080],
] as const;

// How wide the page's font writes a line, where the pictures were taken: others would differ in every word.
const TYPE_SAMPLE = 'newcycle 0123456789';
const TYPE_WIDTH = 227;

// A day of the past in which nothing else happens, and rows that are the same in every ledger.
const DAY = '2024-04-08';
const id = (kind: number, number: number) =>
  `0191b000-0000-7000-8${kind}00-${String(number).padStart(12, '0')}`;
const at = (hour: number) => `${DAY}T${String(hour).padStart(2, '0')}:15:00Z`;
const [BIKES, TENTS] = [id(0, 1), id(0, 2)];
const ITEM = id(1, 1);

async function insert(request: APIRequestContext, path: string, rows: readonly object[]): Promise<void> {
  const response = await request.post(path, { data: rows });
  expect(response.ok(), await response.text()).toBe(true);
}

async function insertDay(request: APIRequestContext): Promise<void> {
  const hours = Array.from({ length: 60 }, (_, n) => (n * n) % 23);
  await insert(request, '/base-items', [
    { id: BIKES, description: 'Cargo bike, 80 kg', created_at: at(0) },
    { id: TENTS, description: 'Party tent, 3 × 6 m', created_at: at(0) },
  ]);
  await insert(
    request,
    '/users',
    hours.slice(0, 9).map((hour, n) => ({ id: id(2, n), created_at: at(hour) })),
  );
  await insert(
    request,
    '/items',
    hours.map((hour, n) => ({
      id: id(1, n),
      base_item_id: n % 3 === 0 ? TENTS : BIKES,
      created_at: at(hour),
    })),
  );
  await insert(
    request,
    '/transfers',
    hours.map((hour, n) => ({
      id: id(3, n),
      item_id: n < 20 ? id(1, n) : ITEM,
      owner_id: id(2, n % 9),
      timestamp: at(hour),
    })),
  );
}

// What is true only now must not be seen, nor move what is beside it.
const HIDDEN = `
  [data-testid=current], [data-testid=newest], svg, [aria-label="Latest transfers"], progress:indeterminate { visibility: hidden }
  [data-testid=current], [data-testid=newest] { width: 4rem; white-space: nowrap }
`;

async function looksAsBefore(page: Page, name: string): Promise<void> {
  // Not as an element, which the page's content security policy forbids.
  await page.evaluate((rules) => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(rules);
    document.adoptedStyleSheets.push(sheet);
  }, HIDDEN);
  for (const [width, height] of WIDTHS) {
    await page.setViewportSize({ width, height });
    await expect(page).toHaveScreenshot(`${name}-${width}.png`, { maxDiffPixelRatio: 0.01 });
  }
}

test.beforeEach(async ({ page, request }) => {
  await insertDay(request);
  await page.goto('/');
  const width = await page.evaluate((sample) => {
    const painter = document.createElement('canvas').getContext('2d');
    if (painter === null) return 0;
    painter.font = `20px ${getComputedStyle(document.documentElement).fontFamily}`;
    return Math.round(painter.measureText(sample).width);
  }, TYPE_SAMPLE);
  test.skip(
    width !== TYPE_WIDTH,
    `the pictures were taken with another font (${width} wide, not ${TYPE_WIDTH})`,
  );
});

for (const [name, display] of [
  ['statistics', ''],
  ['tables', '&display=table'],
] as const) {
  test(`the ${name} look as before`, async ({ page }) => {
    await page.goto(`/?resolution=hour&timezone=UTC&from=${DAY}T00:00:00Z&to=2024-04-09T00:00:00Z${display}`);
    await becomesLive(page);
    await expect(card(page, 'transfers').getByTestId('total')).toHaveText('60');
    await expect(page.getByTestId('breakdown-transfers').getByRole('listitem')).toHaveCount(2);
    await looksAsBefore(page, name);
  });
}

test('an item looks as before', async ({ page }) => {
  await explore(page, `&timezone=UTC&item=${ITEM}&at=${at(12)}`);
  await expect(page.getByRole('heading', { name: 'Cargo bike, 80 kg' })).toBeVisible();
  await looksAsBefore(page, 'item');
});

test('the exports look as before', async ({ page }) => {
  await showExports(page, STATES);
  await page.goto('/?page=exports&timezone=UTC');
  await expect(page.getByTestId('export')).toHaveCount(STATES.length);
  await expect(page.getByTestId('status')).toHaveText('Reconnecting…');
  await looksAsBefore(page, 'exports');
});
