/** What a page shows while everything around it fails. Counts are exact afterwards, and its status is true meanwhile. */

import { expect, test, type APIRequestContext, type Page } from '@playwright/test';
import { FIRST_ANSWER_MS, GIVE_UP_MS, KEPT_CONNECTIONS, SILENCE_MS } from '../src/lib/connection';
import { becomesLive, figure } from './dashboard';
import { insertBaseItem, insertItem, insertUser } from './ledger';
import { Network } from './network';
import { Server } from './server';
import { Tabs } from './tabs';

/** It may ask through every other connection that the browser kept, and that is as dead, before a new one. */
const ANSWER_MS = (KEPT_CONNECTIONS + 1) * FIRST_ANSWER_MS;
/** What a busy machine may take for what should happen at once. */
const PATIENCE_MS = 10_000;

/** What there is before: of nothing, twice as much is nothing, too. */
const USERS = 7;
const ITEMS = 5;

let server: Server;
let network: Network;

test.beforeAll(async ({ request }) => {
  server = await Server.start();
  await insertUsers(request, USERS);
  const baseItem = await insertBaseItem(request, 'There before', server.url);
  for (let item = 0; item < ITEMS; item += 1) await insertItem(request, baseItem.id, undefined, server.url);
});

test.afterAll(async () => {
  await server.remove();
});

test.beforeEach(async () => {
  network = await Network.to(() => server.port);
});

test.afterEach(async () => {
  await network.close();
});

/** Opens the page and returns how many users it shows of this year: no bucket leaves that window meanwhile. */
async function open(page: Page, url: string): Promise<number> {
  await page.goto(`${url}/?resolution=year`);
  await becomesLive(page);
  return figure(page, 'user-creation', 'current');
}

async function insertUsers(request: APIRequestContext, count: number, to = server): Promise<void> {
  for (let user = 0; user < count; user += 1) await insertUser(request, to.url);
}

async function expectStatus(page: Page, words: string | RegExp, timeout = PATIENCE_MS): Promise<void> {
  await expect(page.getByTestId('status')).toHaveText(words, { timeout });
}

async function expectUsers(page: Page, expected: number, timeout = PATIENCE_MS): Promise<void> {
  await expect
    .poll(() => figure(page, 'user-creation', 'current'), { message: 'users of this year', timeout })
    .toBe(expected);
}

/** The page is live and shows so many users, and of what nobody inserted as much as ever. */
async function settles(page: Page, expected: number): Promise<void> {
  await expectStatus(page, 'Live');
  await expectUsers(page, expected);
  // When one more is shown, so is everything that was on its way before it.
  await insertUsers(page.request, 1);
  await expectUsers(page, expected + 1);
  expect(await figure(page, 'item-creation', 'current')).toBe(ITEMS);
}

test('what is inserted with psql is shown at once, however much it is', async ({ page }) => {
  const before = await open(page, server.url);
  const found = await server.psql('insert into users default values');
  test.skip(!found, 'there is no psql here');
  await expectUsers(page, before + 1);
  await server.psql('insert into users (id) select uuid_v7() from generate_series(1, 5000)');
  await expectUsers(page, before + 5_001);
  await settles(page, before + 5_001);
});

test('a server that is killed and started again', async ({ page, request }) => {
  const before = await open(page, server.url);
  await insertUsers(request, 2);
  await server.kill();
  await expectStatus(page, /^Reconnecting/);
  await server.start();
  await insertUsers(request, 3);
  await settles(page, before + 5);
});

test('a database that crashes and comes back', async ({ page, request }) => {
  // The page's server is one that uses a Postgres which it does not run itself.
  const beside = await server.another();
  try {
    const before = await open(page, beside.url);
    await insertUsers(request, 2, beside);
    await server.crashPostgres();
    await expectStatus(page, 'Stale');
    expect(await figure(page, 'user-creation', 'current')).toBeGreaterThanOrEqual(before);
    // A server without its Postgres ends, for whoever watches over it to start it again.
    await server.ended();
    await server.start();
    await insertUsers(request, 3);
    await settles(page, before + 5);
  } finally {
    await beside.stop();
  }
});

test('a network that is cut and mended', async ({ page, request }) => {
  const before = await open(page, network.url);
  await insertUsers(request, 2);
  await network.cut();
  await expectStatus(page, /^Reconnecting/);
  await insertUsers(request, 3);
  await network.heal();
  await settles(page, before + 5);
});

test('a network that falls silent without a word', async ({ page, context, request }) => {
  test.setTimeout(GIVE_UP_MS + ANSWER_MS + 3 * PATIENCE_MS);
  // On one it was only held up, the other one has forgotten the connection.
  const late = await Network.to(() => server.port);
  const other = await context.newPage();
  try {
    const before = await open(page, network.url);
    await open(other, late.url);
    network.lose();
    late.hold();
    await insertUsers(request, 3);
    await expectStatus(page, 'Stale', SILENCE_MS + PATIENCE_MS);
    await expectStatus(other, 'Stale');
    expect(await figure(page, 'user-creation', 'current')).toBe(before);

    await late.heal();
    await expectStatus(other, 'Live');
    await expectUsers(other, before + 3);
    await expectStatus(page, 'Live', GIVE_UP_MS - SILENCE_MS + ANSWER_MS + PATIENCE_MS);
    await settles(page, before + 3);
    await expectUsers(other, before + 4);
  } finally {
    await late.close();
  }
});

test('a network that trickles', async ({ page, request }) => {
  const before = await open(page, network.url);
  network.slow();
  for (let round = 0; round < 10; round += 1) {
    await Promise.all(Array.from({ length: 20 }, () => insertUsers(request, 1)));
  }
  await settles(page, before + 200);
});

test.describe('a tab that nobody looks at', () => {
  let tabs: Tabs;

  test.beforeEach(async () => {
    tabs = await Tabs.start();
  });

  test.afterEach(async () => {
    await tabs.close();
  });

  test('counts in the background, and shows what happened while it was frozen', async ({ request }) => {
    const page = await tabs.open();
    const before = await open(page, server.url);
    const witness = await tabs.open();
    await open(witness, server.url);
    expect(await page.evaluate(() => document.visibilityState)).toBe('hidden');
    await insertUsers(request, 2);
    await expectUsers(page, before + 2);

    await tabs.freeze(page);
    await insertUsers(request, 3);
    await expectUsers(witness, before + 5);
    expect(await figure(page, 'user-creation', 'current')).toBe(before + 2);
    await tabs.thaw(page);
    await page.bringToFront();
    await settles(page, before + 5);
  });

  test('asks anew at once when its machine wakes up, whatever its old connection claims', async ({
    request,
  }) => {
    const page = await tabs.open();
    const before = await open(page, network.url);
    await tabs.open();
    await tabs.freeze(page);
    network.lose();
    await insertUsers(request, 3);
    // An hour passes on the wall, and on no other clock.
    await page.evaluate(() => {
      const now = Date.now.bind(Date);
      Date.now = () => now() + 3_600_000;
    });
    await tabs.thaw(page);
    await page.bringToFront();
    // Sooner than any timer could notice that the connection is lost.
    await expectUsers(page, before + 3, GIVE_UP_MS - PATIENCE_MS);
    await settles(page, before + 3);
  });
});
