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
const part = (of: Locator, summary: string) => of.locator('summary').filter({ hasText: summary });
const letters = (of: Locator) => of.getByTestId('dead-letter');

/** Opens the form for another stream. */
async function openForm(page: Page): Promise<Locator> {
  await button(page.locator('main'), 'New stream').click();
  return page.getByTestId('form-stream');
}

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
    const form = await openForm(page);
    await form.getByLabel('Name').fill('by hand');
    await form.getByLabel('URL').fill('nonsense');
    await button(form, 'Create stream').click();
    await expect(form.getByLabel('URL')).toHaveAttribute('aria-invalid', 'true');
    await expect(form.getByLabel('URL')).toHaveAccessibleDescription(/nonsense/);
    await expect(form.getByLabel('URL')).toBeFocused();
    await form.getByLabel('URL').fill(`${source.url}/v1/assets`);
    await form.getByLabel('Records').fill('items');
    await form.getByLabel('Runs').selectOption('Every day');
    await button(form, 'Create stream').click();
    await expect(form.getByTestId('stream-created')).toBeVisible();
    await form.getByRole('link', { name: 'Show it' }).click();

    const created = entry(page, 'by hand');
    await expect(created.getByTestId('stream-details')).toBeVisible();
    await expect(created.getByTestId('schedule')).toHaveText('every day');
    await button(created, 'Run now').click();
    await expect(created.getByTestId('fetched')).toHaveText('1 record in 1 batch', { timeout: RUN_MS });

    await form.getByLabel('Name').fill('by hand');
    await form.getByLabel('URL').fill(source.url);
    await button(form, 'Create stream').click();
    await expect(form.getByLabel('Name')).toHaveAccessibleDescription(/another stream has this name/i);
  });

  test('the form comes and goes by keys', async ({ page }) => {
    await openStreams(page, '', server.url);
    await button(page.locator('main'), 'New stream').focus();
    await page.keyboard.press('Enter');
    const form = page.getByTestId('form-stream');
    await expect(form.getByRole('heading', { name: 'New stream' })).toBeFocused();
    await page.keyboard.press('Tab');
    await expect(form.getByLabel('Name')).toBeFocused();
    await button(form, 'Close').focus();
    await page.keyboard.press('Enter');
    await expect(form).toHaveCount(0);
    await expect(button(page.locator('main'), 'New stream')).toBeFocused();
  });

  test('one is tried before it is created, with its secret, and starts at once', async ({
    page,
    request,
  }) => {
    source.authorization = 'Bearer hush';
    source.pages = [
      [
        { id: 'a', sku: 'M-1', amount: '1' },
        { id: 'b', sku: 'M-2', amount: 'much' },
      ],
      [{ id: 'c', sku: 'M-1', amount: '3' }],
    ];
    await openStreams(page, '', server.url);
    const form = await openForm(page);
    await form.getByLabel('URL').fill(`${source.url}/v1/assets`);
    await form.getByLabel('Records').fill('items');
    await button(form, 'Try it').click();
    await expect(form.getByTestId('form-error')).toContainText('401 Unauthorized');

    await form.getByLabel('Authentication').selectOption('Bearer token');
    const token = form.getByLabel('Token');
    await expect(token).toHaveAttribute('type', 'password');
    await expect(token).toHaveAttribute('autocomplete', 'new-password');
    await button(form, 'Try it').click();
    await expect(token).toHaveAccessibleDescription('This is needed.');
    await expect(token).toBeFocused();
    await token.fill('hush');
    await part(form, 'Pages').click();
    await form.getByLabel('Pages', { exact: true }).selectOption('A cursor in each answer');
    await form.getByLabel('Cursor').fill('next');
    await form.getByLabel('Parameter of the query').fill('cursor');
    await part(form, 'Transformation and ledger').click();
    const transform = form.getByLabel('Transformation');
    await transform.fill('[{"cast": {"field": "amount", "to": "integer"}');
    await button(form, 'Try it').click();
    await expect(transform).toHaveAccessibleDescription(/The transformation is no JSON: /);
    // What is wrong is not hidden, wherever it is.
    await part(form, 'Transformation and ledger').click();
    await expect(transform).toBeHidden();
    await button(form, 'Try it').click();
    await expect(transform).toBeFocused();
    await transform.fill('[{"cast": {"field": "amount", "to": "whole"}}]');
    await button(form, 'Try it').click();
    await expect(transform).toHaveAccessibleDescription(/transform\[0\]\.cast\.to: unknown variant/);
    await transform.fill('[{"cast": {"field": "amount", "to": "integer"}}]');
    await form.getByLabel('Into the ledger').fill('{"base_item": {"key": "sku"}, "item": {"key": "id"}}');
    await button(form, 'Try it').click();
    await expect(form.getByRole('status')).toHaveText('2 records on its first page; there are more pages.');
    const previewed = page.getByTestId('previewed');
    await expect(previewed).toHaveCount(2);
    await expect(previewed.first()).toContainText('"amount":"1"');
    await expect(previewed.first()).toContainText('"amount":1');
    await expect(previewed.first()).toContainText('"description":"M-1"');
    await expect(previewed.last()).toContainText('"much" is no integer.');
    await isAccessible(page);
    expect(await streams(request)).toEqual([]);

    await form.getByLabel('Name').fill('tried');
    await form.getByLabel('Start it at once').check();
    await button(form, 'Create stream').click();
    const tried = entry(page, 'tried');
    await expect(tried.getByTestId('fetched')).toHaveText('2 records in 1 batch', { timeout: RUN_MS });
    await expect(tried.getByTestId('dead-letters')).toHaveText('1');
    await expect(button(tried, 'Stop')).toBeVisible();
    // Nobody who comes to the page later finds the secret in it.
    await expect(form.getByLabel('URL')).toHaveValue('');
    await expect(form.getByLabel('Authentication')).toHaveValue('none');
    await expect(previewed).toHaveCount(0);
  });

  test('numbers are shown with all of their digits', async ({ page, request }) => {
    source.text = '{"items": [{"id": 12345678901234567890, "price": 1.10}]}';
    await create(request, 'exact');
    await openStreams(page, '', server.url);
    const form = await openForm(page);
    await form.getByLabel('URL').fill(source.url);
    await form.getByLabel('Records').fill('items');
    await part(form, 'Transformation and ledger').click();
    const step = '[{"constant": {"field": "more", "value": 98765432109876543210}}]';
    await form.getByLabel('Transformation').fill(step);
    await button(form, 'Try it').click();
    await expect(page.getByTestId('previewed')).toContainText('12345678901234567890');
    await expect(page.getByTestId('previewed')).toContainText('98765432109876543210');

    const exact = entry(page, 'exact');
    await button(exact, 'Details').click();
    await button(exact, 'Run now').click();
    await expect(exact.getByRole('row').last()).toContainText('12345678901234567890', { timeout: RUN_MS });
  });

  test('a source that is away is said where it is tried', async ({ page }) => {
    source.status = 503;
    await openStreams(page, '', server.url);
    const form = await openForm(page);
    await form.getByLabel('URL').fill(source.url);
    await button(form, 'Try it').click();
    await expect(form.getByTestId('form-error')).toContainText('503');
    await expect(button(form, 'Try it')).toHaveAttribute('aria-disabled', 'false');
  });

  test('one from HubSpot goes by a cron expression', async ({ page, request }) => {
    await openStreams(page, '', server.url);
    const form = await openForm(page);
    await form.getByLabel('Name').fill('deals');
    await form.getByLabel('Source').selectOption('HubSpot');
    await expect(form.getByLabel('URL')).toHaveCount(0);
    await form.getByLabel('Objects').selectOption('Deals');
    await form.getByLabel('Access token').fill('hush');
    await form.getByLabel('Runs').selectOption('By a cron expression');
    await expect(form.getByLabel('By the clocks of')).toHaveValue('Europe/Berlin');
    await form.getByLabel('Cron expression').fill('often');
    await part(form, 'Properties, and fetching only what is new').click();
    await form.getByLabel('Properties').fill('dealname, amount');
    await form.getByLabel('Only what is new').check();
    await button(form, 'Create stream').click();
    await expect(form.getByLabel('Cron expression')).toHaveAccessibleDescription(/pattern/i);
    await form.getByLabel('Cron expression').fill('0 8 * * MON-FRI');
    await button(form, 'Create stream').click();
    await expect(entry(page, 'deals').getByTestId('schedule')).toHaveText('0 8 * * MON-FRI (Europe/Berlin)');
    const [created] = await streams(request);
    expect(created).toMatchObject({
      auth: 'bearer',
      desired: 'stopped',
      source: {
        hubspot: { object: 'deals', properties: ['dealname', 'amount'], incremental: true },
      },
    });
  });

  test('one is changed, and only what is different is sent', async ({ page, request }) => {
    source.authorization = 'Bearer hush';
    source.pages = [[{ id: 'a', amount: '1' }]];
    const { id } = await create(request, 'before', {
      source: {
        http: { url: source.url, records: 'items', auth: { bearer: { token: 'hush' } } },
      },
    });
    await openStreams(page, `&stream_id=${id}`, server.url);
    const sent: unknown[] = [];
    page.on('request', (each) => {
      if (each.method() === 'PATCH') sent.push(each.postDataJSON());
    });
    const form = page.getByTestId('form-change');
    await button(entry(page, 'before'), 'Change').click();
    await expect(form.getByRole('heading', { name: 'Change before' })).toBeFocused();
    await expect(form.getByLabel('Name')).toHaveValue('before');
    await expect(form.getByLabel('URL')).toHaveValue(`${source.url}/`);
    await expect(form.getByLabel('Records')).toHaveValue('/items');
    await expect(form.getByLabel('Runs')).toHaveValue('3600');
    const auth = form.getByLabel('Authentication');
    await expect(auth.getByRole('option', { selected: true })).toHaveText('As it is: a bearer token');
    await expect(auth).toHaveAccessibleDescription(/stays as it is unless given anew/);
    await isAccessible(page);

    // A secret is for the place that it was given for.
    await form.getByLabel('URL').fill('http://127.0.0.2/');
    await expect(auth.getByRole('option', { selected: true })).toHaveText('None');
    await form.getByLabel('URL').fill(`${source.url}/v2`);
    await form.getByLabel('Name').fill('after');
    await button(form, 'Save changes').click();
    const after = entry(page, 'after');
    await expect(form).toHaveCount(0);
    await expect(button(after, 'Change')).toBeFocused();
    await expect(after.getByText('The change has been saved.')).toBeVisible();
    await expect(after.getByTestId('source')).toHaveText(`${new URL(source.url).host}/v2`);
    await button(after, 'Run now').click();
    await expect(after.getByTestId('fetched')).toHaveText('1 record in 1 batch', { timeout: RUN_MS });

    // Whoever changes nothing sends nothing, nor does who thinks better of it. It is tried with the secret that it has.
    await button(after, 'Change').click();
    await button(form, 'Try it').click();
    await expect(form.getByRole('status')).toHaveText(/^1 record on its first page/);
    await button(form, 'Save changes').click();
    await expect(form).toHaveCount(0);
    await button(after, 'Change').click();
    await form.getByLabel('Name').fill('never mind');
    await button(form, 'Cancel').click();
    await expect(button(after, 'Change')).toBeFocused();

    await button(after, 'Change').click();
    await auth.selectOption('Bearer token');
    await form.getByLabel('Token').fill('another');
    await part(form, 'Transformation and ledger').click();
    await form.getByLabel('Transformation').fill('[{"pick": ["id"]}]');
    await button(form, 'Try it').click();
    await expect(form.getByTestId('form-error')).toContainText('401 Unauthorized');
    await button(form, 'Save changes').click();
    await expect(form).toHaveCount(0);
    const http = { url: `${source.url}/v2`, records: '/items' };
    expect(sent).toEqual([
      { name: 'after', source: { http } },
      {
        source: { http: { ...http, auth: { bearer: { token: 'another' } } } },
        transform: [{ pick: ['id'] }],
      },
    ]);
  });

  test('one that fetches is not changed meanwhile', async ({ page, request }) => {
    source.pages = [[{ id: 'a' }], [{ id: 'b' }]];
    source.hold();
    const { id } = await create(request, 'busy');
    await openStreams(page, `&stream_id=${id}`, server.url);
    const busy = entry(page, 'busy');
    await button(busy, 'Run now').click();
    await expect(state(busy)).toHaveText('Fetching: 1 page, 1 record', { timeout: RUN_MS });
    await button(busy, 'Change').click();
    const form = page.getByTestId('form-change');
    await form.getByLabel('Name').fill('changed');
    await button(form, 'Save changes').click();
    await expect(form.getByTestId('form-error')).toContainText('running cannot do that now');
    // What was typed is not lost to that.
    await button(busy, 'Stop').click();
    await expect(state(busy)).toHaveText('Stopped', { timeout: RUN_MS });
    await button(form, 'Save changes').click();
    await expect(entry(page, 'changed')).toHaveCount(1);
    source.release();
  });

  test('one is kept out of the ledger again', async ({ page, request }) => {
    const destination = { ledger: { user: { key: 'id' } } };
    const { id } = await create(request, 'in the ledger', { destination });
    await openStreams(page, `&stream_id=${id}`, server.url);
    await button(entry(page, 'in the ledger'), 'Change').click();
    const form = page.getByTestId('form-change');
    await expect(form.getByLabel('Into the ledger')).toHaveValue(/"user"/);
    await form.getByLabel('Into the ledger').fill('');
    await button(form, 'Save changes').click();
    await expect(form).toHaveCount(0);
    const [changed] = await streams(request);
    expect(changed?.destination).toBeUndefined();
  });

  test('older runs, more records and older dead letters are shown to who asks for them', async ({
    page,
    request,
  }) => {
    const assets = Array.from({ length: 60 }, (_, number) => ({
      id: String(number).padStart(2, '0'),
      amount: number < 30 ? number : 'much',
    }));
    source.pages = [assets];
    const { id } = await create(request, 'long', {
      desired: 'running',
      interval_seconds: 1,
      transform: [{ cast: { field: 'amount', to: 'integer' } }],
    });
    await openStreams(page, `&stream_id=${id}`, server.url);
    const long = entry(page, 'long');
    await expect(bars(long)).toHaveCount(7, { timeout: RUN_MS });
    await button(long, 'Stop').click();
    await expect(state(long)).toHaveText('Stopped', { timeout: RUN_MS });

    await expect(runs(long)).toHaveCount(5);
    const olderRuns = button(long, 'Older runs');
    await olderRuns.focus();
    await page.keyboard.press('Enter');
    await expect(olderRuns).toHaveCount(0);
    await expect.poll(async () => (await bars(long).count()) - (await runs(long).count())).toBe(0);
    // The button is gone, and whoever used it is still there.
    await expect(long.getByRole('heading', { name: 'Runs' })).toBeFocused();

    const records = long.getByTestId('latest-data');
    await expect(records).toContainText('the first 5 of 30 records');
    await expect(records.getByRole('row')).toHaveCount(1 + 5);
    await button(records, 'More records').click();
    await expect(records.getByRole('row')).toHaveCount(1 + 25);
    await button(records, 'More records').click();
    await expect(records.getByRole('row')).toHaveCount(1 + 30);
    await expect(records.getByRole('row').last()).toContainText('29');
    await expect(button(records, 'More records')).toHaveCount(0);

    await expect(long.getByText('The newest 10 of 30:')).toBeVisible();
    await button(long, 'Older dead letters').click();
    await expect(letters(long)).toHaveCount(30);
    await expect(long.getByText('The newest 10 of 30:')).toHaveCount(0);
    await expect(long.getByRole('heading', { name: 'Dead letters' })).toBeFocused();
  });

  test('one that a link names is shown, however old it is', async ({ page, request }) => {
    source.pages = [[{ id: 'a' }]];
    const { id } = await create(request, 'the oldest');
    for (let number = 1; number <= 20; number += 1) await create(request, `newer ${number}`);
    await openStreams(page, `&stream_id=${id}`, server.url);
    await expect(entries(page)).toHaveCount(20);
    await expect(entry(page, 'the oldest')).toHaveCount(0);
    const oldest = page.getByRole('article', { name: 'the oldest' });
    await button(oldest, 'Run now').click();
    await expect(oldest.getByTestId('fetched')).toHaveText('1 record in 1 batch', { timeout: RUN_MS });
    await expect(bars(oldest)).toHaveAccessibleName(/^Batch 1, complete, 1 record,/);
    await isAccessible(page);

    // It is one of those that are listed now, and is there once.
    await button(page.locator('main'), 'Older streams').click();
    await expect(entry(page, 'the oldest').getByTestId('stream-details')).toBeVisible();
    await expect(oldest).toHaveCount(1);

    // Another opened one is not shown above the list.
    await page.reload();
    await button(entry(page, 'newer 20'), 'Details').click();
    await expect(oldest).toHaveCount(0);
  });

  test('that there is no stream that a link names is said', async ({ page, request }) => {
    await create(request, 'the only one');
    await openStreams(page, '&stream_id=0197a000-0000-7000-8000-000000000001', server.url);
    const missing = page.getByTestId('stream-missing');
    await expect(missing).toContainText('There is no data stream 0197a000-0000-7000-8000-000000000001');
    await expect(page.getByTestId('status')).toHaveText('Live');
    await isAccessible(page);
    await missing.getByRole('link', { name: 'Show all streams' }).click();
    await expect(page).not.toHaveURL(/stream_id/);
    await expect(missing).toHaveCount(0);
    await expect(entry(page, 'the only one')).toHaveCount(1);
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

    test(`has a form that is accessible, and fits a phone, ${theme}`, async ({ page }) => {
      await page.emulateMedia({ colorScheme: theme });
      await page.goto('/?page=streams');
      const form = await openForm(page);
      await form.getByLabel('Authentication').selectOption('OAuth 2 client credentials');
      await form.getByLabel('Runs').selectOption('By a cron expression');
      for (const summary of await form.locator('summary').all()) await summary.click();
      await form.getByLabel('Pages', { exact: true }).selectOption('Pages are numbered');
      await form.getByLabel('Method').selectOption('POST');
      await isAccessible(page);
      await page.setViewportSize({ width: 360, height: 740 });
      await isAccessible(page);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
    });
  }
});
