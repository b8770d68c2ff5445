import { expect, test, type APIRequestContext, type Locator, type Page } from '@playwright/test';
import type { NewStream, Scope, Stream } from '../src/lib/api-types';
import { complaints, isAccessible, openStreams } from './dashboard';
import { Server } from './server';
import { Source } from './source';
import { showStreams, STATES } from './stream-states';

/** A run is a matter of seconds where other programs keep the machine busy. */
const RUN_MS = 30_000;

const list = (page: Page) => page.getByRole('list', { name: 'Data streams' });
const entries = (page: Page) => list(page).getByTestId('stream');
const entry = (page: Page, name: string) =>
  entries(page).filter({ has: page.getByRole('heading', { name, exact: true, level: 4 }) });
const state = (of: Locator) => of.getByTestId('state');
const button = (of: Locator, name: string) => of.getByRole('button', { name, exact: true });
const bars = (of: Locator) => of.getByRole('list', { name: 'Runs, oldest first' }).getByRole('img');
const runs = (of: Locator) => of.getByTestId('run');
const letters = (of: Locator) => of.getByTestId('dead-letter');

test.describe('where streams may fetch', () => {
  let server: Server;
  let source: Source;

  test.beforeAll(async () => {
    server = await Server.start({ NEWCYCLE_STREAM_NETWORKS: '127.0.0.1' });
  });

  test.afterAll(async () => {
    await server.remove();
  });

  test.beforeEach(async () => {
    source = await Source.start();
  });

  test.afterEach(async ({ request }) => {
    for (const { id } of await streams(request)) await request.delete(`${server.url}/streams/${id}`);
    await source.close();
  });

  async function streams(request: APIRequestContext): Promise<Stream[]> {
    const response = await request.get(`${server.url}/streams`);
    return ((await response.json()) as { data: Stream[] }).data;
  }

  /** Creates a stream that would fetch by itself once an hour. */
  async function create(
    request: APIRequestContext,
    name: string,
    more: Partial<NewStream> = {},
  ): Promise<Stream> {
    const pagination = { cursor: { at: 'next', parameter: 'cursor' } };
    const http = { url: `${source.url}/v1/assets?limit=2`, records: 'items', pagination };
    const data = { name, interval_seconds: 3_600, source: { http }, ...more };
    const response = await request.post(`${server.url}/streams`, { data });
    expect(response.status(), await response.text()).toBe(201);
    return (await response.json()) as Stream;
  }

  test('without any it is said what they are, and how to create one', async ({ page, request }) => {
    await page.goto(server.url);
    await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: 'Streams' }).click();
    await expect(page).toHaveURL(/[?&]page=streams/);
    await expect(page).toHaveTitle('Streams – newcycle');
    await expect(page.getByText('There are no data streams yet.')).toBeVisible();
    await expect(page.getByRole('region', { name: 'Command that creates a stream' })).toContainText(
      `curl -X POST ${server.url}/streams`,
    );
    await expect(page.getByRole('button', { name: 'Copy the command' })).toBeVisible();
    await isAccessible(page);

    await create(request, 'the first');
    await expect(entries(page)).toHaveCount(1);
    await expect(page.getByText('There are no data streams yet.')).toHaveCount(0);
  });

  test('a simple one is created with the form, which says what is wrong', async ({ page }) => {
    source.pages = [[{ id: 'a' }]];
    await openStreams(page, '', server.url);
    const form = page.getByTestId('form-stream');
    await form.getByLabel('Name').fill('by hand');
    await form.getByLabel('URL').fill('nonsense');
    await button(form, 'Create stream').click();
    await expect(form.getByLabel('URL')).toHaveAttribute('aria-invalid', 'true');
    await expect(form.getByLabel('URL')).toHaveAccessibleDescription(/nonsense/);
    await form.getByLabel('URL').fill(`${source.url}/v1/assets`);
    await form.getByLabel('Records').fill('items');
    await form.getByLabel('Runs').selectOption('Every day');
    await button(form, 'Create stream').click();
    await expect(form.getByTestId('stream-created')).toBeVisible();

    const created = entry(page, 'by hand');
    await expect(created.getByTestId('schedule')).toHaveText('every day');
    await button(created, 'Run now').click();
    await expect(created.getByTestId('fetched')).toHaveText('1 record in 1 batch', { timeout: RUN_MS });

    await form.getByLabel('Name').fill('by hand');
    await form.getByLabel('URL').fill(source.url);
    await button(form, 'Create stream').click();
    await expect(form.getByLabel('Name')).toHaveAccessibleDescription(/another stream has this name/i);
  });

  test('one is started, followed, looked into and stopped', async ({ page, request }) => {
    source.pages = [[{ id: 'a', name: 'Cargo bike' }, { id: 'b' }], [{ id: 'c' }]];
    const { id } = await create(request, 'assets');
    await openStreams(page, '', server.url);
    const said = complaints(page);
    const assets = entry(page, 'assets');
    await expect(state(assets)).toHaveText('Stopped');
    await expect(assets.getByTestId('source')).toHaveText(`${new URL(source.url).host}/v1/assets`);
    await expect(assets.getByTestId('schedule')).toHaveText('every hour');
    await button(assets, 'Details').click();
    await expect(page).toHaveURL(new RegExp(`[?&]stream_id=${id}`));
    await expect(assets.getByText('It has not run yet.')).toBeVisible();
    await expect(assets.getByText('No run has been complete yet.')).toBeVisible();

    await button(assets, 'Start').focus();
    await page.keyboard.press('Enter');
    await expect(button(assets, 'Stop')).toBeFocused();
    await expect(page.getByTestId('stream-news')).toHaveText('assets: Started.');
    await expect(state(assets)).toHaveText('Waiting for its next run', { timeout: RUN_MS });
    await expect(assets.getByTestId('fetched')).toHaveText('3 records in 1 batch');
    await expect(bars(assets)).toHaveCount(1);
    await expect(bars(assets)).toHaveAccessibleName(/^Batch 1, complete, 3 records, [\d.]+ s$/);
    await expect(runs(assets)).toHaveText(/Complete\s*3 records/);
    await expect(assets.getByTestId('latest-data')).toContainText('Batch 1, 3 records, fetched');
    await expect(assets.getByRole('row')).toHaveText([
      'KeyRecord',
      'a{"id":"a","name":"Cargo bike"}',
      'b{"id":"b"}',
      'c{"id":"c"}',
    ]);
    await isAccessible(page);

    // What it fetches next takes the place of what is shown.
    source.pages = [[{ id: 'd' }]];
    await button(assets, 'Run now').click();
    await expect(assets.getByTestId('latest-data')).toContainText('Batch 2, 1 record, fetched', {
      timeout: RUN_MS,
    });
    await expect(assets.getByRole('row')).toHaveText(['KeyRecord', 'd{"id":"d"}']);
    await expect(bars(assets)).toHaveCount(2);
    await expect(bars(assets).last()).toHaveAccessibleName(/^Batch 2, complete, 1 record,/);

    await button(assets, 'Stop').click();
    await expect(state(assets)).toHaveText('Stopped');
    await expect(button(assets, 'Start')).toBeVisible();
    await expect(page.getByTestId('stream-news')).toHaveText('assets: Stopped.');
    await button(assets, 'Details').click();
    await expect(page).not.toHaveURL(/stream_id/);
    await expect(assets.getByTestId('stream-details')).toHaveCount(0);
    expect(said).toEqual([]);
  });

  test('what is fetched at the moment is shown, and is gone when it is stopped', async ({
    page,
    request,
  }) => {
    source.pages = [[{ id: 'a' }, { id: 'b' }], [{ id: 'c' }]];
    source.hold();
    const { id } = await create(request, 'slow');
    await openStreams(page, `&stream_id=${id}`, server.url);
    const slow = entry(page, 'slow');
    await button(slow, 'Start').click();
    await expect(state(slow)).toHaveText('Fetching: 1 page, 2 records', { timeout: RUN_MS });
    await expect(bars(slow)).toHaveAccessibleName('Batch 1, running, 2 records');
    await expect(button(slow, 'Run now')).toHaveAttribute('aria-disabled', 'true');
    await expect(slow.getByText('No run has been complete yet.')).toBeVisible();
    await button(slow, 'Stop').click();
    await expect(state(slow)).toHaveText('Stopped', { timeout: RUN_MS });
    await expect(bars(slow)).toHaveAccessibleName(/^Batch 1, cancelled,/);

    // So is what was asked for once.
    await button(slow, 'Run now').click();
    await expect(state(slow)).toHaveText('Fetching: 1 page, 2 records', { timeout: RUN_MS });
    await button(slow, 'Stop').click();
    await expect(state(slow)).toHaveText('Stopped', { timeout: RUN_MS });
    await expect(button(slow, 'Start')).toBeVisible();
    source.release();
  });

  test('what could not be processed is said, and tried again', async ({ page, request }) => {
    source.pages = [
      [
        { id: 'a', amount: 1 },
        { id: 'b', amount: 'much' },
      ],
    ];
    const { id } = await create(request, 'odd', {
      transform: [{ cast: { field: 'amount', to: 'integer' } }],
    });
    await openStreams(page, `&stream_id=${id}`, server.url);
    const odd = entry(page, 'odd');
    await expect(odd.getByText('Every record could be processed.')).toBeVisible();
    await button(odd, 'Run now').click();
    await expect(odd.getByTestId('dead-letters')).toHaveText('1', { timeout: RUN_MS });
    await expect(letters(odd)).toHaveCount(1);
    await expect(letters(odd)).toContainText('"much" is no integer.');
    await expect(letters(odd)).toContainText('{"amount":"much","id":"b"}');
    await expect(state(odd)).toHaveText('Stopped');
    await isAccessible(page);

    await request.patch(`${server.url}/streams/${id}`, { data: { transform: [] } });
    await button(letters(odd), 'Retry').focus();
    await page.keyboard.press('Enter');
    await expect(odd.getByText('Every record could be processed.')).toBeVisible({ timeout: RUN_MS });
    await expect(odd.getByTestId('dead-letters')).toHaveText('0');
    // The button is gone, and whoever used it is still there.
    await expect(odd.getByRole('heading', { name: 'Dead letters' })).toBeFocused();
    await expect(odd.getByRole('row', { name: /^b/ })).toContainText('"much"');
    await expect(bars(odd)).toHaveAccessibleName(/^Batch 1, complete, 2 records,/);
  });

  test('one that goes wrong says why', async ({ page, request }) => {
    source.status = 404;
    const { id } = await create(request, 'gone');
    await openStreams(page, `&stream_id=${id}`, server.url);
    const gone = entry(page, 'gone');
    await button(gone, 'Start').click();
    await expect(state(gone)).toHaveText('Failed: has to be changed', { timeout: RUN_MS });
    await expect(gone.getByTestId('last-error')).toContainText('404 Not Found');
    await expect(runs(gone)).toHaveAttribute('data-state', 'failed');
    await expect(runs(gone)).toContainText('404 Not Found');
    await expect(page.getByTestId('stream-news')).toContainText('gone: Failed: has to be changed.');
    await isAccessible(page);

    source.status = 503;
    await button(gone, 'Run now').click();
    await expect(state(gone)).toHaveText('Waiting to try again', { timeout: RUN_MS });
    await expect(gone.getByTestId('last-error')).toContainText('To be tried again at');
    await expect(gone.getByTestId('last-error')).toContainText('503');
  });

  test('what cannot be done is said beside its button', async ({ page, request }) => {
    await create(request, 'refused');
    await openStreams(page, '', server.url);
    await page.route('**/start', (route) =>
      route.fulfill({
        status: 503,
        contentType: 'application/problem+json',
        body: JSON.stringify({ title: 'Too busy', status: 503, detail: 'the database is away' }),
      }),
    );
    const refused = entry(page, 'refused');
    await button(refused, 'Start').click();
    await expect(refused.getByRole('alert').filter({ hasText: /./ })).toHaveText('The database is away.');
    await expect(state(refused)).toHaveText('Stopped');
  });

  test('one is deleted by who says so twice', async ({ page, request }) => {
    const { id } = await create(request, 'unwanted');
    await create(request, 'wanted');
    await openStreams(page, `&stream_id=${id}`, server.url);
    const unwanted = entry(page, 'unwanted');
    await button(unwanted, 'Delete').click();
    await expect(button(unwanted, 'Keep')).toBeFocused();
    await button(unwanted, 'Delete').click();
    await expect(unwanted).toHaveCount(0);
    await expect(entry(page, 'wanted')).toHaveCount(1);
    await expect(page.getByRole('heading', { level: 2, name: 'Streams' })).toBeFocused();
    await expect(page).not.toHaveURL(/stream_id/);
  });
});

test('a key leads to the page and back', async ({ page }) => {
  await page.goto('/?resolution=year');
  await expect(page.getByTestId('status')).toHaveText('Live');
  await page.keyboard.press('s');
  await expect(page.getByRole('heading', { level: 2, name: 'Streams' })).toBeVisible();
  await expect(page.getByRole('button', { name: 'Pause' })).toHaveCount(0);
  await page.keyboard.press('s');
  await expect(page).not.toHaveURL(/page=/);
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
    await page.goto(`${server.url}/?page=streams`);
    await page.getByLabel('Key', { exact: true }).fill(key);
    await page.keyboard.press('Enter');
    await expect(page.getByTestId('caller')).toHaveText(name);
  }

  test('that may not manage streams is told so, and asks for nothing', async ({ page }) => {
    await openAs(page, 'only reads', ['statistics:read', 'exports']);
    const said = complaints(page);
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).pathname));
    await page.reload();
    await expect(page.getByTestId('missing-streams:manage')).toContainText('“only reads” does not have');
    await expect(page.getByTestId('status')).toHaveText('Live');
    await expect(page.getByRole('navigation', { name: 'Pages' }).getByRole('link')).toHaveText([
      'Statistics',
      'Exports',
    ]);
    await isAccessible(page);
    expect(asked.filter((path) => /^\/(streams|dead-letters)/.test(path))).toEqual([]);
    expect(said).toEqual([]);
  });

  test('that may do nothing else is told how to create one with it', async ({ page }) => {
    await openAs(page, 'fetches', ['streams:manage']);
    await expect(page.getByTestId('status')).toHaveText('Live');
    await expect(page.getByRole('region', { name: 'Command that creates a stream' })).toContainText(
      'authorization: Bearer nck_',
    );
  });
});

test.describe('as it looks in every state', () => {
  test.beforeEach(async ({ page }) => {
    await showStreams(page, STATES);
  });

  test('says what each stream does', async ({ page }) => {
    await page.goto('/?page=streams');
    await expect(entries(page).getByTestId('state')).toHaveText([
      'Stopped',
      'Waiting for its next run',
      'Fetching: 3 pages, 250 records',
      'Stopping',
      'Waiting to try again',
      'Failed: has to be changed',
    ]);
    await expect(entry(page, 'waits').getByTestId('source')).toHaveText('api.example.com/v1/assets');
    await expect(entry(page, 'waits').getByTestId('next-run')).toHaveText('22 Nov 2026, 06:41:10');
    await expect(entry(page, 'fetches').getByTestId('next-run')).toHaveText('After this one');
    await expect(entry(page, 'tries again').getByTestId('source')).toHaveText('HubSpot deals');
    await expect(entry(page, 'tries again').getByTestId('last-error')).toContainText(
      'To be tried again at 22 Nov 2026, 06:37:10',
    );
    const failed = entry(page, 'has failed');
    await expect(failed.getByTestId('schedule')).toHaveText('*/15 8-18 * * MON-FRI (America/St Johns)');
    await expect(failed.getByTestId('fetched')).toHaveText('3,000 records in 12 batches');
    await expect(failed.getByTestId('skipped')).toHaveText('2');
    await expect(failed.getByTestId('dead-letters')).toHaveText('1,234');
    // Whoever has changed what was wrong starts it again.
    await expect(failed.getByRole('button', { name: 'Start' })).toBeVisible();
    await expect(page.getByRole('button', { name: 'Start' })).toHaveCount(3);
    await expect(page.getByRole('button', { name: 'Stop' })).toHaveCount(3);
  });

  for (const theme of ['light', 'dark'] as const) {
    test(`is accessible, and fits a phone, ${theme}`, async ({ page }) => {
      await page.emulateMedia({ colorScheme: theme });
      await page.goto('/?page=streams');
      await expect(entries(page)).toHaveCount(STATES.length);
      await isAccessible(page);
      await page.setViewportSize({ width: 360, height: 740 });
      await isAccessible(page);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
    });
  }
});
