import { expect, test, type APIRequestContext, type Locator, type Page } from '@playwright/test';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Export, NewExport, Scope } from '../src/lib/api-types';
import { complaints, isAccessible, openExports } from './dashboard';
import { showExports, STATES } from './export-states';
import { insertBaseItem, insertItem, insertTransfer, insertUser } from './ledger';
import { Network } from './network';
import { Server } from './server';

const form = (page: Page) => page.getByTestId('form-export');
const list = (page: Page) => page.getByRole('list', { name: 'Latest exports' });
const entries = (page: Page) => list(page).getByRole('article');
const newest = (page: Page) => entries(page).first();
const state = (entry: Locator) => entry.getByTestId('state');
const start = (page: Page) => form(page).getByRole('button', { name: 'Start export' }).click();

/** The file of an export that can be downloaded, line by line. */
async function download(
  page: Page,
  entry: Locator,
): Promise<{ name: string; bytes: Buffer; lines: string[] }> {
  const downloading = page.waitForEvent('download');
  await entry.getByRole('link', { name: 'Download' }).click();
  const downloaded = await downloading;
  const bytes = await readFile(await downloaded.path());
  const lines = bytes.toString('utf8').trimEnd().split(/\r?\n/);
  return { name: downloaded.suggestedFilename(), bytes, lines };
}

async function startExport(
  request: APIRequestContext,
  order: Partial<NewExport> = {},
  server = '',
): Promise<Export> {
  const data = { dataset: 'users', format: 'csv', ...order };
  const response = await request.post(`${server}/exports`, { data });
  expect(response.status(), await response.text()).toBe(202);
  return (await response.json()) as Export;
}

test('an export is started, followed and downloaded, and has what was inserted', async ({
  page,
  request,
}) => {
  const baseItem = await insertBaseItem(request, 'To be exported');
  const item = await insertItem(request, baseItem.id);
  const owner = await insertUser(request);
  const transfer = await insertTransfer(request, item.id, owner.id);
  const other = await insertItem(request, (await insertBaseItem(request, 'Not to be exported')).id);
  await insertTransfer(request, other.id, owner.id);

  await page.goto('/');
  await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Exports' }).click();
  await expect(page).toHaveURL(/[?&]page=exports/);
  await expect(page).toHaveTitle('Exports – newcycle');
  await form(page).getByLabel('Dataset').selectOption('Transfers');
  const field = form(page).getByLabel('Base item');
  await field.focus();
  await expect(page.locator('datalist#export-base_item_id-suggestions option').nth(1)).toHaveAttribute(
    'value',
    baseItem.id,
  );
  await field.fill(baseItem.id);
  await start(page);
  await expect(form(page).getByTestId('export-started')).toBeVisible();

  const entry = newest(page);
  await expect(entry.getByRole('heading')).toHaveText('Transfers as CSV');
  await expect(entry).toContainText('Only of To be exported');
  await expect(state(entry)).toHaveText('Complete');
  await expect(entry.getByTestId('file-rows')).toHaveText('1 row');
  await expect(page.getByTestId('export-news')).toHaveText('Transfers as CSV: Complete.');

  const file = await download(page, entry);
  expect(file.name).toBe(await entry.getByTestId('file-name').innerText());
  expect(file.lines).toHaveLength(2);
  expect(file.lines[0]).toBe('id,item_id,owner_id,timestamp');
  expect(file.lines[1]?.split(',').slice(0, 3)).toEqual([transfer.id, item.id, owner.id]);
  expect(createHash('sha256').update(file.bytes).digest('hex')).toBe(
    await entry.getByTestId('sha256').innerText(),
  );
});

test('statistics are exported by the clocks and in the buckets that are chosen', async ({
  page,
  request,
}) => {
  const baseItem = await insertBaseItem(request, 'Counted elsewhere');
  // In Tokyo that is the next day.
  for (const hour of ['14:59', '15:00', '16:00'])
    await insertItem(request, baseItem.id, `2025-06-01T${hour}:00Z`);
  await openExports(page, `&timezone=Asia/Tokyo&base_item_id=${baseItem.id}&resolution=hour`);
  await form(page).getByLabel('Dataset').selectOption('Statistics');
  await expect(form(page).getByLabel('Base item')).toHaveValue(baseItem.id);
  await expect(form(page).getByLabel('Resolution')).toHaveValue('hour');
  await expect(form(page).getByLabel('Days begin in')).toHaveValue('Asia/Tokyo');
  await form(page).getByLabel('Resolution').selectOption('Day');
  await form(page).getByLabel('Format').selectOption('JSON lines');
  await form(page).getByLabel('From (Asia/Tokyo)').fill('2025-06-02T00:00:00');
  await form(page).getByLabel('Before (Asia/Tokyo)').fill('2025-06-03T00:00:00');
  await start(page);

  const entry = newest(page);
  await expect(entry.getByRole('heading')).toHaveText('Statistics as JSON lines');
  await expect(state(entry)).toHaveText('Complete');
  await expect(entry).toContainText('From 2 Jun 2025, 00:00:00');
  await expect(entry).toContainText('Before 3 Jun 2025, 00:00:00');
  await expect(entry).toContainText('By the day, Asia/Tokyo');
  const { lines } = await download(page, entry);
  expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
    expect.objectContaining({ metric: 'item-creation', count: 2 }),
  ]);
});

test('only that is asked for by which a dataset can be narrowed down', async ({ page }) => {
  await openExports(page, '&timezone=UTC');
  const labels = async (dataset: string) => {
    await form(page).getByLabel('Dataset').selectOption(dataset);
    return form(page).locator('label').allInnerTexts();
  };
  const always = ['Dataset', 'Format', 'Compression'];
  const range = ['From (UTC)', 'Before (UTC)'];
  expect(await labels('Users')).toEqual([...always, ...range]);
  expect(await labels('Items')).toEqual([...always, ...range, 'Base item']);
  expect(await labels('Ownership')).toEqual([...always, 'Owners on (UTC)', 'Base item']);
  expect(await labels('Statistics')).toEqual([
    ...always,
    'Resolution',
    'Days begin in',
    ...range,
    'Base item',
  ]);

  // What was filled in for another dataset is not sent.
  await form(page).getByLabel('Base item').fill('not an id');
  await form(page).getByLabel('Dataset').selectOption('Base items');
  await start(page);
  await expect(form(page).getByTestId('export-started')).toBeVisible();
  await expect(newest(page).getByRole('heading')).toHaveText('Base items as CSV');
});

test('what is wrong is said at its field, until it is right', async ({ page }) => {
  await openExports(page, '&timezone=UTC');
  const baseItem = form(page).getByLabel('Base item');
  await baseItem.fill('0197a000-0000-7000-8000-000000000000');
  await start(page);
  await expect(form(page).getByTestId('error-base_item_id')).toBeVisible();
  await expect(baseItem).toHaveAttribute('aria-invalid', 'true');
  await expect(baseItem).toHaveAccessibleDescription(/no base item/);

  await baseItem.fill('');
  const [from, to] = [form(page).getByLabel('From (UTC)'), form(page).getByLabel('Before (UTC)')];
  await from.fill('2026-01-02T00:00:00');
  await to.fill('2026-01-01T00:00:00');
  await start(page);
  await expect(form(page).getByTestId('error-to')).toBeVisible();
  await expect(form(page).getByTestId('error-base_item_id')).toHaveCount(0);

  // Half a date would otherwise be none.
  await to.fill('');
  await to.focus();
  await page.keyboard.type('01');
  await start(page);
  await expect(form(page).getByTestId('error-to')).toHaveText('This is no complete date and time.');
  await to.fill('2026-01-03T00:00:00');
  await start(page);
  await expect(form(page).getByTestId('export-started')).toBeVisible();
  await expect(form(page).getByTestId('error-to')).toHaveCount(0);
});

test('a file is deleted by who says so twice', async ({ page, request }) => {
  const { id } = await startExport(request);
  await openExports(page);
  const entry = entries(page).filter({ has: page.locator(`a[href*="${id}"]`) });
  await expect(state(entry)).toHaveText('Complete');
  await entry.getByRole('button', { name: 'Delete' }).click();
  await expect(entry.getByRole('group', { name: 'Delete the file?' })).toBeVisible();
  await expect(entry.getByRole('button', { name: 'Keep' })).toBeFocused();
  await page.keyboard.press('Escape');
  await expect(entry.getByRole('button', { name: 'Delete' })).toBeFocused();
  await page.keyboard.press('Enter');
  const kept = newest(page);
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Enter');
  await expect(state(kept)).toHaveText('File removed');
  await expect(entry).toHaveCount(0);
  // Its buttons are gone, and whoever used them is still with it.
  await expect(kept.getByRole('heading')).toBeFocused();
  expect((await request.get(`/exports/${id}/data`)).status()).toBe(410);
});

test('what went wrong is said, and another try offered', async ({ page }) => {
  await page.route('**/exports?page_size*', (route) =>
    route.fulfill({
      status: 503,
      contentType: 'application/problem+json',
      body: JSON.stringify({ title: 'Too busy', status: 503, detail: 'The database is away.' }),
    }),
  );
  await page.goto('/?page=exports');
  await expect(page.getByRole('alert').filter({ hasText: 'The database is away.' })).toBeVisible();
  await expect(page.getByTestId('status')).toHaveText('Connecting…');
  await page.unroute('**/exports?page_size*');
  await page.getByRole('button', { name: 'Try again' }).click();
  await expect(page.getByTestId('status')).toHaveText('Live');
  await expect(page.getByText('The database is away.')).toHaveCount(0);

  await page.route('**/exports', (route) =>
    route.fulfill({
      status: 429,
      contentType: 'application/problem+json',
      body: JSON.stringify({ title: 'Too many', status: 429, detail: 'Ten exports wait or run already.' }),
    }),
  );
  await start(page);
  await expect(form(page).getByTestId('form-error')).toHaveText('Ten exports wait or run already.');
});

test('a key leads to the page and back', async ({ page }) => {
  await page.goto('/?resolution=year');
  await expect(page.getByTestId('status')).toHaveText('Live');
  await page.keyboard.press('x');
  await expect(page.getByRole('heading', { level: 2, name: 'Exports' })).toBeVisible();
  // There is nothing here to pause.
  await expect(page.getByRole('button', { name: 'Pause' })).toHaveCount(0);
  await page.keyboard.press('x');
  await expect(page).not.toHaveURL(/page=/);
});

test.describe('exports that wait', () => {
  let server: Server;

  test.beforeAll(async () => {
    server = await Server.start({ NEWCYCLE_EXPORT_WORKERS: '0', NEWCYCLE_MAX_EXPORTS_PER_KEY: '100' });
  });

  test.afterAll(async () => {
    await server.remove();
  });

  test('can be cancelled', async ({ page, request }) => {
    await openExports(page, '', server.url);
    await expect(page.getByText('Nothing has been exported yet')).toBeVisible();
    await startExport(request, { dataset: 'items' }, server.url);
    const entry = newest(page);
    await expect(entry.getByRole('heading')).toHaveText('Items as CSV');
    await expect(state(entry)).toHaveText('Waiting');
    await entry.getByRole('button', { name: 'Cancel' }).focus();
    await page.keyboard.press('Enter');
    await expect(state(entry)).toHaveText('Cancelled');
    await expect(entry.getByRole('button')).toHaveCount(0);
    await expect(entry.getByRole('heading')).toBeFocused();
    await expect(page.getByTestId('export-news')).toHaveText('Items as CSV: Cancelled.');
  });

  test('that are over meanwhile say why they cannot be', async ({ page }) => {
    await openExports(page, '', server.url);
    await start(page);
    const entry = newest(page);
    await expect(state(entry)).toHaveText('Waiting');
    await page.route('**/cancel', (route) =>
      route.fulfill({
        status: 409,
        contentType: 'application/problem+json',
        body: JSON.stringify({ title: 'Conflict', status: 409, detail: 'it is complete' }),
      }),
    );
    await entry.getByRole('button', { name: 'Cancel' }).click();
    await expect(entry.getByRole('alert')).toHaveText('It is complete.');
  });

  test('are shown page by page, and all of them live', async ({ page, request }) => {
    const { id: oldest } = await startExport(request, { dataset: 'ownership' }, server.url);
    for (let number = 0; number < 25; number += 1) await startExport(request, {}, server.url);
    await openExports(page, '', server.url);
    await expect(entries(page)).toHaveCount(20);
    await page.getByRole('button', { name: 'Older exports' }).click();
    await expect(entries(page).filter({ hasText: 'Ownership as CSV' })).toHaveCount(1);
    // What was not shown before is no news.
    await expect(page.getByTestId('export-news')).toHaveText('');
    await request.post(`${server.url}/exports/${oldest}/cancel`);
    await expect(state(entries(page).filter({ hasText: 'Ownership as CSV' }))).toHaveText('Cancelled');
    await expect(page.getByTestId('export-news')).toHaveText('Ownership as CSV: Cancelled.');
  });

  test('are told of again after the connection was lost', async ({ page, request }) => {
    const network = await Network.to(() => server.port);
    try {
      await openExports(page, '', network.url);
      await network.cut();
      await expect(page.getByTestId('status')).toHaveText('Reconnecting…');
      await startExport(request, { dataset: 'transfers', format: 'parquet' }, server.url);
      await network.heal();
      await expect(page.getByTestId('status')).toHaveText('Live');
      await expect(newest(page).getByRole('heading')).toHaveText('Transfers as Parquet');
    } finally {
      await network.close();
    }
  });
});

test.describe('a key', () => {
  let server: Server;

  test.beforeAll(async () => {
    server = await Server.start({ NEWCYCLE_AUTHENTICATION: 'required' });
  });

  test.afterAll(async () => {
    await server.remove();
  });

  async function openAs(page: Page, name: string, scopes: readonly Scope[]): Promise<void> {
    const { key } = await server.createKey(name, scopes);
    await page.goto(`${server.url}/?page=exports`);
    await page.getByLabel('Key', { exact: true }).fill(key);
    await page.keyboard.press('Enter');
    await expect(page.getByTestId('caller')).toHaveText(name);
  }

  test('that may not export is told so, and asks for nothing', async ({ page }) => {
    await openAs(page, 'only reads', ['statistics:read', 'ledger:read']);
    const said = complaints(page);
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).pathname));
    await page.reload();
    await expect(page.getByTestId('missing-exports')).toContainText('“only reads” does not have');
    await expect(page.getByTestId('status')).toHaveText('Live');
    await expect(page.getByRole('navigation', { name: 'Pages' }).getByRole('link')).toHaveText([
      'Statistics',
      'Explore',
    ]);
    await isAccessible(page);
    expect(asked.filter((path) => path.startsWith('/exports'))).toEqual([]);
    expect(said).toEqual([]);
  });

  test('that may only export sees neither the ledger nor the exports of others', async ({
    page,
    request,
  }) => {
    const { key } = await server.createKey('another', ['ledger:write', 'exports']);
    const headers = { authorization: `Bearer ${key}` };
    const created = await request.post(`${server.url}/base-items`, {
      headers,
      data: { description: 'Secret' },
    });
    const { id } = (await created.json()) as { id: string };
    await request.post(`${server.url}/exports`, { headers, data: { dataset: 'users', format: 'csv' } });

    await openAs(page, 'archive', ['exports']);
    await page.reload();
    await expect(page.getByTestId('status')).toHaveText('Live');
    // Before it is known what a key may, the stream of the statistics is asked for: a refusal of that is no fault.
    const said = complaints(page);
    await expect(page.getByText('Nothing has been exported yet')).toBeVisible();
    await form(page).getByLabel('Base item').fill(id);
    await start(page);
    await expect(state(newest(page))).toHaveText('Complete');
    await expect(newest(page)).toContainText(`Only of …${id.slice(-8)}`);
    await expect(entries(page)).toHaveCount(1);
    await isAccessible(page);
    expect(said).toEqual([]);
  });
});

test.describe('as it looks in every state', () => {
  test.beforeEach(async ({ page }) => {
    await showExports(page, STATES);
  });

  test('says how far each export is', async ({ page }) => {
    await page.goto('/?page=exports');
    await expect(entries(page).getByTestId('state')).toHaveText([
      'Waiting',
      'Waiting to be tried again',
      'Starting',
      'Running',
      'Running',
      'Running',
      'Being cancelled',
      'Cancelled',
      'Failed',
      'Complete',
      'File removed',
    ]);
    await expect(entries(page).nth(1)).toContainText('The store could not be reached.');
    await expect(entries(page).nth(8)).toContainText('Permission denied.');
    await expect(entries(page).getByTestId('progress')).toHaveText([
      '3,000 of about 12,000 rows, 81.3 MB',
      '3,000 rows so far, 81.3 MB',
      '3,000 rows so far, 81.3 MB',
      '3,000 rows so far, 81.3 MB',
    ]);
    // An estimate never says that it is over; without one, the bar only says that it goes on.
    const bars = page.getByRole('progressbar');
    const values = await bars.evaluateAll((all) => all.map((bar) => bar.getAttribute('value')));
    expect(values).toEqual([null, '0.25', '0.99', null]);
    await expect(page.getByRole('button', { name: 'Cancel' })).toHaveCount(6);
    const complete = entries(page).nth(9);
    await expect(complete).toContainText('Owners on 1 Jan 2026, 01:00:00');
    await expect(complete.getByTestId('file-rows')).toHaveText('31,234 rows');
    await expect(complete.getByTestId('file-size')).toHaveText('8.13 MB');
    await expect(complete).toContainText('Kept until');
  });

  for (const theme of ['light', 'dark'] as const) {
    test(`is accessible, and fits a phone, ${theme}`, async ({ page }) => {
      await page.emulateMedia({ colorScheme: theme });
      await page.goto('/?page=exports');
      await expect(entries(page)).toHaveCount(STATES.length);
      await form(page).getByLabel('Dataset').selectOption('Statistics');
      await page.getByRole('button', { name: 'Delete' }).click();
      await isAccessible(page);
      await page.setViewportSize({ width: 360, height: 740 });
      await isAccessible(page);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
    });
  }
});
