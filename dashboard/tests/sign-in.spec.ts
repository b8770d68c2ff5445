/** A server that everybody has to say to who they are: signing in and out, what a key allows, and how a session ends. */

import AxeBuilder from '@axe-core/playwright';
import { expect, test, type APIRequestContext, type Page } from '@playwright/test';
import type { Scope } from '../src/lib/api-types';
import { becomesLive, card, expectFigure, figure } from './dashboard';
import { insertBaseItem, insertItem, insertUser } from './ledger';
import { Network } from './network';
import { Server, type Key } from './server';

/** Servers look after what has been revoked or has expired every second, and pages come back at once. */
const SECONDS_MS = 10_000;

let server: Server;
/** As another service, which may insert. */
let writer: APIRequestContext;
let reader: Key;

test.beforeAll(async ({ playwright }) => {
  server = await Server.start({ NEWCYCLE_AUTHENTICATION: 'required' });
  const { key } = await server.createKey('till', ['ledger:write']);
  writer = await playwright.request.newContext({ extraHTTPHeaders: { authorization: `Bearer ${key}` } });
  reader = await server.createKey('Ada', ['statistics:read', 'ledger:read']);
  await insertUser(writer, server.url);
  const baseItem = await insertBaseItem(writer, 'Cargo bike', server.url);
  await insertItem(writer, baseItem.id, undefined, server.url);
});

test.afterAll(async () => {
  await writer.dispose();
  await server.remove();
});

const form = (page: Page) => page.getByRole('form', { name: 'Sign in' });
const field = (page: Page) => page.getByLabel('Key', { exact: true });
const caller = (page: Page) => page.getByTestId('caller');
const signOut = (page: Page) => page.getByRole('button', { name: 'Sign out' });
const pages = (page: Page) => page.getByRole('navigation', { name: 'Pages' });

async function signIn(page: Page, { key }: Pick<Key, 'key'>): Promise<void> {
  await field(page).fill(key);
  await form(page).getByRole('button', { name: 'Sign in', exact: true }).click();
  await expect(form(page)).toBeHidden();
}

/** Opens the page with a key of its own that may do this. */
async function openAs(page: Page, name: string, scopes: readonly Scope[], path = '/'): Promise<Key> {
  const key = await server.createKey(name, scopes);
  await page.goto(`${server.url}${path}`);
  await signIn(page, key);
  return key;
}

async function isAccessible(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);
}

/** What the browser complains of from now on. */
function complaints(page: Page): string[] {
  const said: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') said.push(message.text());
  });
  page.on('pageerror', (error) => said.push(error.message));
  return said;
}

test.describe('signing in', () => {
  test('takes the right key alone, and then shows what the address asks for', async ({ page }) => {
    const address = `${server.url}/?resolution=year&timezone=Asia%2FTokyo&display=table`;
    await page.goto(address);
    await expect(form(page)).toBeVisible();
    await expect(page).toHaveTitle('Sign in – newcycle');
    await expect(card(page, 'transfers')).toHaveCount(0);

    await field(page).fill('nck_nothing_of_the_kind');
    await page.keyboard.press('Enter');
    const error = form(page).getByTestId('error-key');
    await expect(error).toHaveText(/^[A-Z].*key.*\.$/);
    await expect(field(page)).toBeFocused();
    await expect(field(page)).toHaveAttribute('aria-invalid', 'true');
    await expect(field(page)).toHaveAccessibleDescription(new RegExp(`^${await error.innerText()}`));

    await signIn(page, reader);
    await becomesLive(page);
    await expectFigure(page, 'user-creation', 'current', 1);
    await expect(page).toHaveURL(address);
    await expect(page.getByRole('table').first()).toBeVisible();
    await expect(caller(page)).toHaveText('Ada');
    await insertUser(writer, server.url);
    await expectFigure(page, 'user-creation', 'current', 2);
  });

  test('leaves nothing that a script could read, and lasts', async ({ page, context }) => {
    await page.goto(server.url);
    await signIn(page, reader);
    await becomesLive(page);
    const cookies = await context.cookies();
    expect(cookies).toHaveLength(1);
    expect(cookies[0]).toMatchObject({ httpOnly: true, sameSite: 'Strict', path: '/' });
    expect(await page.evaluate(() => document.cookie)).toBe('');
    const kept = await page.evaluate(() => JSON.stringify([localStorage, sessionStorage, location.href]));
    expect(kept).not.toContain('nck_');

    await page.reload();
    await becomesLive(page);
    await expect(caller(page)).toHaveText('Ada');
  });

  test('complains of an empty field, and of a server that cannot be reached', async ({ page }) => {
    await page.goto(server.url);
    await field(page).press('Enter');
    const error = form(page).getByTestId('error-key');
    await expect(error).toBeVisible();
    await page.route('**/session', (route) => route.abort());
    await field(page).fill(reader.key);
    await field(page).press('Enter');
    await expect(error).toHaveText('The server could not be reached.');
    await expect(field(page)).toHaveAttribute('aria-invalid', 'false');
    await expect(field(page)).toHaveValue(reader.key);
  });

  test('says when a server that is busy may be asked again', async ({ page }) => {
    await page.goto(server.url);
    await page.route('**/session', (route) =>
      route.fulfill({
        status: 429,
        contentType: 'application/problem+json',
        headers: { 'retry-after': '7' },
        body: JSON.stringify({ title: 'Too Many Requests', status: 429, detail: 'Too many attempts.' }),
      }),
    );
    await field(page).fill(reader.key);
    await field(page).press('Enter');
    await expect(form(page).getByTestId('error-key')).toHaveText(
      'Too many attempts. Try again in 7 seconds.',
    );
  });

  test('needs no pointer, and shows the key on request alone', async ({ page }) => {
    await page.goto(`${server.url}/?resolution=year`);
    await expect(field(page)).toBeFocused();
    await page.keyboard.type(reader.key);
    await expect(field(page)).toHaveAttribute('type', 'password');
    await page.keyboard.press('Tab');
    await expect(page.getByRole('button', { name: 'Show the key' })).toBeFocused();
    await page.keyboard.press('Space');
    await expect(field(page)).toHaveAttribute('type', 'text');
    await page.keyboard.press('Space');
    await expect(field(page)).toHaveAttribute('type', 'password');
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    await becomesLive(page);
    await page.keyboard.press('5');
    await expect(page).toHaveURL(/resolution=day/);
  });

  test('has a form that password managers understand, and no keys that act on the page', async ({ page }) => {
    await page.goto(`${server.url}/?resolution=year`);
    await expect(field(page)).toHaveAttribute('autocomplete', 'current-password');
    await expect(page.locator('input[autocomplete=username]')).toBeHidden();
    await page.getByRole('button', { name: 'Show the key' }).focus();
    await page.keyboard.press('5');
    await page.keyboard.press('e');
    await expect(page).toHaveURL(/resolution=year$/);
    await expect(form(page)).toBeVisible();
  });

  for (const theme of ['light', 'dark'] as const) {
    test(`is accessible, and fits a phone, ${theme}`, async ({ page }) => {
      await page.emulateMedia({ colorScheme: theme });
      await page.goto(server.url);
      await expect(form(page)).toBeVisible();
      await isAccessible(page);
      await field(page).fill('nck_wrong');
      await field(page).press('Enter');
      await expect(form(page).getByTestId('error-key')).toBeVisible();
      await isAccessible(page);
      await page.setViewportSize({ width: 360, height: 740 });
      await signIn(page, reader);
      await becomesLive(page);
      await isAccessible(page);
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(360);
    });
  }
});

test.describe('signing out', () => {
  test('shows nothing any more, here and in other tabs', async ({ page, context }) => {
    await page.goto(`${server.url}/?resolution=year`);
    await signIn(page, reader);
    await becomesLive(page);
    const other = await context.newPage();
    await other.goto(`${server.url}/?resolution=year&page=explore`);
    await expect(other.getByTestId('status')).toHaveText('Live');

    await signOut(page).click();
    await expect(form(page)).toContainText('You have signed out.');
    await expect(card(page, 'transfers')).toHaveCount(0);
    await expect(form(other)).toContainText('The session has ended. Sign in again.');
    expect(await context.cookies()).toEqual([]);
    await page.reload();
    await expect(form(page)).toBeVisible();
    await expect(form(page)).not.toContainText('signed out');

    // Whoever signs in, signs in everywhere.
    await signIn(page, reader);
    await becomesLive(page);
    await expect(other.getByTestId('status')).toHaveText('Live');
    await expect(other.getByRole('heading', { name: 'Latest items' })).toBeVisible();
  });

  test('is heard of by a tab that nobody tells', async ({ page, context, request }) => {
    await page.goto(`${server.url}/?resolution=year`);
    await signIn(page, reader);
    await becomesLive(page);
    // As if another browser had the same session: its stream ends, and that is all.
    const cookie = (await context.cookies()).map(({ name, value }) => `${name}=${value}`).join();
    const response = await request.delete(`${server.url}/session`, { headers: { cookie } });
    expect(response.status()).toBe(204);
    await expect(form(page)).toContainText('The session has ended.', { timeout: SECONDS_MS });
  });

  test('has not happened where the server does not hear of it', async ({ page }) => {
    await page.goto(server.url);
    await signIn(page, reader);
    await becomesLive(page);
    await page.route('**/session', (route) => route.abort());
    await signOut(page).click();
    await expect(page.getByRole('alert')).toContainText('Still signed in.');
    await expect(page.getByTestId('status')).toHaveText('Live');
  });
});

test.describe('a session that ends', () => {
  test('because its key is revoked leaves no figures, and another key brings them back', async ({ page }) => {
    const key = await openAs(page, 'soon revoked', ['statistics:read'], '/?resolution=year');
    await becomesLive(page);
    const before = await figure(page, 'user-creation', 'current');
    await page.evaluate(() => (document.body.dataset.loaded = 'once'));
    await server.revokeKey(key);
    await expect(form(page)).toContainText('The session has ended. Sign in again.', { timeout: SECONDS_MS });
    await expect(card(page, 'user-creation')).toHaveCount(0);
    await expect(field(page)).toBeFocused();

    await field(page).fill(key.key);
    await page.keyboard.press('Enter');
    await expect(form(page).getByTestId('error-key')).toBeVisible();
    await insertUser(writer, server.url);
    await signIn(page, reader);
    await becomesLive(page);
    await expectFigure(page, 'user-creation', 'current', before + 1);
    await insertUser(writer, server.url);
    await expectFigure(page, 'user-creation', 'current', before + 2);
    await expect(caller(page)).toHaveText('Ada');
    expect(await page.evaluate(() => document.body.dataset.loaded)).toBe('once');
  });

  test('by itself says so, also on a screen on the wall', async ({ page }) => {
    const short = await server.another({
      NEWCYCLE_AUTHENTICATION: 'required',
      NEWCYCLE_SESSION_LIFETIME: '5s',
    });
    try {
      await page.goto(`${short.url}/?resolution=year&kiosk=1`);
      await signIn(page, reader);
      await becomesLive(page);
      await expect(page.getByRole('button', { name: 'Leave kiosk' })).toBeVisible();
      await expect(caller(page)).toHaveCount(0);
      await expect(signOut(page)).toHaveCount(0);
      await expect(form(page)).toContainText('The session has ended.', { timeout: 5_000 + SECONDS_MS });
      await expect(page.getByRole('button', { name: 'Leave kiosk' })).toHaveCount(0);
      await signIn(page, reader);
      await becomesLive(page);
      await expect(page.getByRole('button', { name: 'Leave kiosk' })).toBeVisible();
    } finally {
      await short.stop();
    }
  });

  test('is noticed by whoever has no stream, at the next request', async ({ page }) => {
    const key = await openAs(page, 'clerk', ['ledger:read', 'ledger:write'], '/?page=explore');
    await expect(page.getByRole('list', { name: 'Latest items' }).getByRole('listitem')).not.toHaveCount(0);
    await server.revokeKey(key);
    await expect(async () => {
      if (await form(page).isHidden()) await page.getByRole('button', { name: 'Create user' }).click();
      await expect(form(page)).toContainText('The session has ended.', { timeout: 1_000 });
    }).toPass({ timeout: SECONDS_MS });
  });

  test('is not what a network or a server that fails looks like', async ({ page }) => {
    const network = await Network.to(() => server.port);
    try {
      await page.goto(`${network.url}/?resolution=year`);
      await signIn(page, reader);
      await becomesLive(page);
      const before = await figure(page, 'user-creation', 'current');
      // Not even for a moment.
      await page.evaluate(() => {
        new MutationObserver(() => {
          if (document.querySelector('#key') !== null) document.body.dataset.askedForKey = 'yes';
        }).observe(document.body, { childList: true, subtree: true });
      });
      await network.cut();
      await expect(page.getByTestId('status')).toHaveText(/^Reconnecting/);
      await expect(caller(page)).toHaveText('Ada');
      await insertUser(writer, server.url);
      await network.heal();
      await becomesLive(page);
      await expectFigure(page, 'user-creation', 'current', before + 1);

      await server.kill();
      await expect(page.getByTestId('status')).toHaveText(/^Reconnecting/);
      await server.start();
      await insertUser(writer, server.url);
      await expectFigure(page, 'user-creation', 'current', before + 2);
      await expect(caller(page)).toHaveText('Ada');
      expect(await page.evaluate(() => document.body.dataset.askedForKey)).toBeUndefined();
    } finally {
      await network.close();
    }
  });
});

test.describe('a key', () => {
  test('that may read offers no forms', async ({ page }) => {
    await openAs(page, 'only reads', ['statistics:read', 'ledger:read'], '/?page=explore');
    const said = complaints(page);
    await page.reload();
    await expect(page.getByTestId('status')).toHaveText('Live');
    await expect(page.getByRole('list', { name: 'Latest items' })).toContainText('Cargo bike');
    await expect(page.getByTestId('missing-ledger:write')).toContainText('“only reads” does not have');
    await expect(page.locator('[data-testid^=form-]')).toHaveCount(0);
    await isAccessible(page);
    expect(said).toEqual([]);

    // With another key there are forms at once.
    await page.getByRole('link', { name: 'Sign in with another key' }).click();
    await expect(form(page)).toContainText('Signed in as “only reads”');
    const writes = await server.createKey('writes, too', ['statistics:read', 'ledger:read', 'ledger:write']);
    await signIn(page, writes);
    await page.getByRole('button', { name: 'Create user' }).click();
    await expect(page.getByTestId('created-id')).toBeVisible();
    await expect(page).not.toHaveURL(/sign_in/);
  });

  test('for the statistics alone leads nowhere else', async ({ page }) => {
    const baseItem = await insertBaseItem(writer, 'Party tent', server.url);
    await insertItem(writer, baseItem.id, undefined, server.url);
    await openAs(page, 'wallboard', ['statistics:read'], '/?resolution=year');
    const said = complaints(page);
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).pathname));
    await page.reload();
    await becomesLive(page);
    await expect(pages(page).getByRole('link')).toHaveText(['Statistics']);
    await page.getByRole('link', { name: 'Party tent' }).first().click();
    await expect(page.getByTestId('base-item')).toContainText(baseItem.id);
    await expectFigure(page, 'item-creation', 'current', 1);
    await page.keyboard.press('e');
    await expect(page).not.toHaveURL(/explore/);

    await page.goto(`${server.url}/?page=explore&timezone=UTC`);
    await expect(page.getByTestId('missing-ledger:read')).toContainText('ledger:read');
    await expect(page.getByTestId('status')).toHaveText('Live');
    await isAccessible(page);
    expect(said).toEqual([]);
    expect(asked.filter((path) => /^\/(base-items|items|users|transfers)/.test(path))).toEqual([]);

    await page.getByRole('link', { name: 'Sign in with another key' }).click();
    await signIn(page, reader);
    await expect(page.getByRole('heading', { name: 'Latest items' })).toBeVisible();
    await expect(page).toHaveURL(/page=explore&timezone=UTC/);
  });

  test('for the ledger alone shows no figures, and says what they take', async ({ page }) => {
    await openAs(page, 'clerk', ['ledger:read', 'ledger:write']);
    const said = complaints(page);
    await expect(page.getByTestId('missing-statistics:read')).toContainText('statistics:read');
    await expect(page.getByTestId('status')).toHaveCount(0);
    await isAccessible(page);
    await pages(page).getByRole('link', { name: 'Explore' }).click();
    await expect(page.getByRole('list', { name: 'Latest items' })).toContainText('Cargo bike');
    await page.getByRole('button', { name: 'Create user' }).click();
    await expect(page.getByTestId('created-id')).toBeVisible();
    expect(said).toEqual([]);
  });
});

test.describe('public statistics', () => {
  let open: Server;

  test.beforeAll(async () => {
    open = await server.another({
      NEWCYCLE_AUTHENTICATION: 'required',
      NEWCYCLE_PUBLIC_STATISTICS: 'true',
    });
  });

  test.afterAll(async () => {
    await open.stop();
  });

  test('are seen by everybody, and the ledger by those who sign in', async ({ page }) => {
    const said = complaints(page);
    await page.goto(`${open.url}/?resolution=year`);
    await becomesLive(page);
    await expect(pages(page).getByRole('link')).toHaveText(['Statistics']);
    await expect(page.getByTestId('breakdown-item-creation').getByRole('listitem')).not.toHaveCount(0);
    await isAccessible(page);

    await page.goto(`${open.url}/?page=explore&resolution=year`);
    await expect(page.getByTestId('missing-ledger:read')).toContainText('ledger:read');
    expect(said).toEqual([]);
    await page.getByRole('banner').getByRole('link', { name: 'Sign in' }).click();
    await expect(field(page)).toBeFocused();
    await isAccessible(page);
    await page.getByRole('link', { name: 'Back' }).click();
    await expect(page.getByTestId('missing-ledger:read')).toBeVisible();
    await page.goBack();
    await expect(form(page)).toBeVisible();

    await signIn(page, reader);
    await expect(page.getByRole('list', { name: 'Latest items' })).toContainText('Cargo bike');
    await expect(page).toHaveURL(/page=explore&resolution=year/);
    await expect(page).not.toHaveURL(/sign_in/);
    await expect(caller(page)).toHaveText('Ada');

    await pages(page).getByRole('link', { name: 'Statistics' }).click();
    await signOut(page).click();
    await becomesLive(page);
    await expect(caller(page)).toHaveCount(0);
    await expect(page.getByRole('banner').getByRole('link', { name: 'Sign in' })).toBeVisible();
  });

  test('go on when a session ends', async ({ page }) => {
    const key = await server.createKey('soon revoked', ['statistics:read', 'ledger:read']);
    await page.goto(`${open.url}/?resolution=year&page=explore`);
    await page.getByRole('main').getByRole('link', { name: 'Sign in' }).click();
    await signIn(page, key);
    await expect(page.getByTestId('status')).toHaveText('Live');
    await server.revokeKey(key);
    await expect(page.getByTestId('missing-ledger:read')).toContainText('The session has ended.', {
      timeout: SECONDS_MS,
    });
    await pages(page).getByRole('link', { name: 'Statistics' }).click();
    await becomesLive(page);
    await expect(page.getByRole('banner').getByRole('link', { name: 'Sign in' })).toBeVisible();
  });
});

test('where nobody has to sign in nothing is said of it', async ({ page }) => {
  await page.goto('/?resolution=year&sign_in=1');
  await becomesLive(page);
  await expect(page.getByText('Sign in')).toHaveCount(0);
  await expect(caller(page)).toHaveCount(0);
  await expect(pages(page).getByRole('link')).toHaveText(['Statistics', 'Explore', 'Exports', 'Streams']);
});

test('the first key closes the door, also behind those who are in', async ({ page }) => {
  const unlocked = await Server.start();
  try {
    await page.goto(`${unlocked.url}/?resolution=year`);
    await becomesLive(page);
    await expect(page.getByText('Sign in')).toHaveCount(0);
    const first = await unlocked.createKey('the first', ['admin']);
    await expect(form(page)).toBeVisible({ timeout: SECONDS_MS });
    await expect(card(page, 'transfers')).toHaveCount(0);
    await signIn(page, first);
    await becomesLive(page);
    await expect(caller(page)).toHaveText('the first');
  } finally {
    await unlocked.remove();
  }
});
