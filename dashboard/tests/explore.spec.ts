import AxeBuilder from '@axe-core/playwright';
import { expect, test, type APIRequestContext, type Locator, type Page } from '@playwright/test';
import { explore } from './dashboard';
import { insertBaseItem, insertItem, insertTransfer, insertUser } from './ledger';

const WCAG_22_AA = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
const NOBODY = '0197a000-0000-7000-8000-000000000000';

const CREATED = '2026-01-01T08:00:00Z';
const FIRST_SOLD = '2026-01-05T12:00:00Z';
const BETWEEN = '2026-01-07T12:00:00.000Z';
const SOLD_AGAIN = '2026-01-10T12:00:00Z';

/** An item that has had two owners. */
async function soldTwice(request: APIRequestContext, description: string) {
  const baseItem = await insertBaseItem(request, description);
  const item = await insertItem(request, baseItem.id, CREATED);
  const [first, second] = [await insertUser(request), await insertUser(request)];
  await insertTransfer(request, item.id, first.id, FIRST_SOLD);
  const transfer = await insertTransfer(request, item.id, second.id, SOLD_AGAIN);
  return { item, first, second, transfer };
}

/** An item that changes hands now, among the latest transfers. */
async function soldNow(request: APIRequestContext, description: string) {
  const baseItem = await insertBaseItem(request, description);
  const item = await insertItem(request, baseItem.id);
  const owner = await insertUser(request);
  await insertTransfer(request, item.id, owner.id);
  return { item, owner };
}

async function find(page: Page, id: string): Promise<void> {
  await page.getByLabel('Find an item or a user').fill(id);
  await page.getByRole('button', { name: 'Find' }).click();
}

function heading(page: Page, name: string | RegExp): Locator {
  return page.getByRole('heading', { level: 3, name });
}

function newestTransfer(page: Page): Locator {
  return page.getByRole('list', { name: 'Latest transfers' }).getByRole('listitem').first();
}

/** The link to a user or an item, by the whole id. */
function linkTo(within: Locator, id: string): Locator {
  return within.locator(`a[href*="=${id}"]`);
}

test('an item is found by its id, and by that of a transfer; a user by theirs', async ({ page, request }) => {
  const { item, second, transfer } = await soldTwice(request, 'To be found');
  await explore(page);
  await find(page, ` ${item.id} `);
  await expect(heading(page, 'To be found')).toBeFocused();
  await expect(page).toHaveURL(new RegExp(`[?&]item=${item.id}`));
  await expect(page.getByLabel('Find an item or a user')).toHaveValue('');

  await find(page, second.id);
  await expect(page.getByTestId('subject-id')).toHaveText(second.id);
  await expect(page).toHaveURL(new RegExp(`[?&]user=${second.id}`));
  await expect(page).not.toHaveURL(/[?&]item=/);

  await find(page, transfer.id);
  await expect(page.getByTestId('subject-id')).toHaveText(item.id);

  await page.getByRole('link', { name: 'All items' }).click();
  await expect(heading(page, 'Latest items')).toBeFocused();
  await page.goBack();
  await expect(page.getByTestId('subject-id')).toHaveText(item.id);
});

test('the latest items are offered by what they are', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'To be offered');
  const item = await insertItem(request, baseItem.id);
  await explore(page);
  await page.getByLabel('Find an item or a user').focus();
  const option = page.locator('datalist#find-id-suggestions option').first();
  await expect(option).toHaveAttribute('value', item.id);
  await expect(option).toHaveAttribute('label', 'To be offered');
});

test('an id that nothing has, and what is no id, are said to be just that at the field', async ({ page }) => {
  await explore(page);
  const field = page.getByLabel('Find an item or a user');
  await find(page, NOBODY);
  await expect(page.getByTestId('error-id')).toHaveText('No item, user or transfer has this id.');
  await expect(field).toHaveAccessibleDescription(/No item, user or transfer has this id/);
  await find(page, 'my bike');
  await expect(page.getByTestId('error-id')).toContainText('This is no id');
  await find(page, '  ');
  await expect(page.getByTestId('error-id')).toContainText('Paste an id');
});

test('the late answer to an older search does not take anyone away', async ({ page, request }) => {
  const older = await soldNow(request, 'Searched first');
  const newer = await soldNow(request, 'Searched last');
  await explore(page);
  let release!: () => void;
  const released = new Promise<void>((resolve) => (release = resolve));
  // Items of the feed are asked for, too: a user is not.
  await page.route(`**/users/${older.item.id}`, async (route) => {
    await released;
    await route.continue();
  });
  await find(page, older.item.id);
  await find(page, newer.item.id);
  await expect(heading(page, 'Searched last')).toBeVisible();
  const late = page.waitForResponse(`**/users/${older.item.id}`);
  release();
  await (await late).finished();
  // Whatever the late answer does is done before this other answer is shown.
  await page.getByLabel('Owner at a moment').fill('2020-01-01T00:00:00');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await expect(page.getByTestId('owner-then')).toHaveText('Nobody owned it then.');
  await expect(heading(page, 'Searched last')).toBeVisible();
});

test('a link shows an item, its history, and its owner at a moment', async ({ page, request }) => {
  const { item, first, second } = await soldTwice(request, 'With a history');
  await explore(page, `&item=${item.id}&at=${BETWEEN}&timezone=Asia/Kathmandu`);
  await expect(heading(page, 'With a history')).toBeVisible();
  await expect(linkTo(page.getByTestId('owner'), second.id)).toBeVisible();
  await expect(linkTo(page.getByTestId('owner-then'), first.id)).toBeVisible();
  await expect(page.getByTestId('owner-then').locator('time')).toHaveAttribute(
    'datetime',
    /^2026-01-05T12:00:00/,
  );
  // Clocks there are 5:45 hours ahead.
  await expect(page.getByLabel('Owner at a moment (Asia/Kathmandu)')).toHaveValue('2026-01-07T17:45');

  const history = page.getByRole('list', { name: 'History' }).getByRole('listitem');
  await expect(history).toHaveCount(3);
  await expect(linkTo(history.nth(0), second.id)).toBeVisible();
  await expect(history.nth(0)).toContainText('10 Jan 2026, 17:45:00');
  await expect(linkTo(history.nth(1), first.id)).toBeVisible();
  await expect(history.nth(2)).toContainText('Created');
  await expect(history.nth(2).locator('time')).toHaveAttribute('datetime', /^2026-01-01T08:00:00/);
});

test('the moment that is chosen is in the address, and there may have been no owner then', async ({
  page,
  request,
}) => {
  const { item, first } = await soldTwice(request, 'At another moment');
  await explore(page, `&item=${item.id}&at=${BETWEEN}&timezone=Asia/Kathmandu`);
  await expect(linkTo(page.getByTestId('owner-then'), first.id)).toBeVisible();
  await page.getByLabel('Owner at a moment').fill('2026-01-02T17:45:30');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await expect(page.getByTestId('owner-then')).toHaveText('Nobody owned it then.');
  expect(new URL(page.url()).searchParams.get('at')).toBe('2026-01-02T12:00:30.000Z');
  await page.goBack();
  await expect(linkTo(page.getByTestId('owner-then'), first.id)).toBeVisible();
  await page.getByRole('button', { name: 'Now' }).click();
  await expect(page.getByTestId('owner-then')).toBeHidden();
  await expect(page.getByLabel('Owner at a moment')).toBeFocused();
  await expect(page).not.toHaveURL(/[?&]at=/);
});

test('a user is shown with what they own, and what they owned', async ({ page, request }) => {
  const lamp = await soldTwice(request, 'Lamp, sold on');
  const { id } = lamp.first;
  const baseItem = await insertBaseItem(request, 'Kept to this day');
  const kept = await insertItem(request, baseItem.id, CREATED);
  await insertTransfer(request, kept.id, id, SOLD_AGAIN);

  await explore(page, `&user=${id}`);
  const items = page.getByRole('list', { name: 'Items' }).getByRole('listitem');
  await expect(items).toHaveCount(1);
  await expect(linkTo(items, kept.id)).toContainText('Kept to this day');

  await page.getByLabel('Items at a moment').fill('2026-01-07T12:00:00');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await expect(linkTo(items, lamp.item.id)).toContainText('Lamp, sold on');
  await expect(items).toHaveCount(1);

  // What is followed from there is looked at in the same moment.
  await linkTo(items, lamp.item.id).click();
  await expect(heading(page, 'Lamp, sold on')).toBeFocused();
  await expect(linkTo(page.getByTestId('owner-then'), id)).toBeVisible();

  await explore(page, `&user=${id}&at=2026-01-02T00:00:00Z`);
  await expect(page.getByTestId('holdings')).toContainText('They owned nothing then.');
});

test('a long history is shown by pages, to its beginning', async ({ page, request }) => {
  const { item, first, second } = await soldTwice(request, 'Often sold');
  for (let day = 11; day < 31; day += 1) {
    await insertTransfer(request, item.id, day % 2 ? first.id : second.id, `2026-01-${day}T12:00:00Z`);
  }
  await explore(page, `&item=${item.id}`);
  const list = page.getByRole('list', { name: 'History' });
  await expect(list.getByRole('listitem')).toHaveCount(20);
  await expect(list).not.toContainText('Created');
  await page.getByRole('button', { name: 'Older transfers' }).click();
  await expect(list.getByRole('listitem')).toHaveCount(23);
  await expect(list.getByRole('listitem').last()).toContainText('Created');
  await expect(page.getByRole('button', { name: 'Older transfers' })).toBeHidden();
  await expect(list).toBeFocused();
});

test('what somebody else transfers is shown without a reload, to the last of a burst', async ({
  page,
  request,
}) => {
  await soldNow(request, 'There before');
  await explore(page);
  await expect(newestTransfer(page)).toContainText('There before');
  const { item, owner } = await soldNow(request, 'Seen as it happens');
  await expect(linkTo(newestTransfer(page), item.id)).toContainText('Seen as it happens');
  await expect(linkTo(newestTransfer(page), owner.id)).toBeVisible();
  for (let count = 0; count < 20; count += 1) await insertTransfer(request, item.id, owner.id);
  const last = await insertUser(request);
  await insertTransfer(request, item.id, last.id);
  await expect(linkTo(newestTransfer(page), last.id)).toBeVisible();
  await expect(page.getByRole('list', { name: 'Latest transfers' }).getByRole('listitem')).toHaveCount(20);
});

test('an item and a user that are open follow what happens to them', async ({ page, context, request }) => {
  const { item, owner } = await soldNow(request, 'Open while sold');
  const other = await context.newPage();
  await explore(page, `&item=${item.id}`);
  await explore(other, `&user=${owner.id}`);
  await expect(linkTo(page.getByTestId('owner'), owner.id)).toBeVisible();
  await expect(linkTo(other.getByTestId('holdings'), item.id)).toBeVisible();
  const buyer = await insertUser(request);
  await insertTransfer(request, item.id, buyer.id);
  await expect(linkTo(page.getByTestId('owner'), buyer.id)).toBeVisible();
  await expect(page.getByRole('list', { name: 'History' }).getByRole('listitem')).toHaveCount(3);
  await expect(other.getByTestId('holdings')).toContainText('They own nothing now.');
});

test('the latest transfers stand still while paused, and while they are pointed at', async ({
  page,
  context,
  request,
}) => {
  await soldNow(request, 'Before the pause');
  const witness = await context.newPage();
  await explore(witness);
  await explore(page);
  await expect(newestTransfer(page)).toContainText('Before the pause');

  await page.getByRole('button', { name: 'Pause' }).click();
  await soldNow(request, 'During the pause');
  await expect(newestTransfer(witness)).toContainText('During the pause');
  await expect(newestTransfer(page)).toContainText('Before the pause');
  await page.getByRole('button', { name: 'Back to live' }).click();
  await expect(newestTransfer(page)).toContainText('During the pause');

  await newestTransfer(page).hover();
  await expect(page.getByText('Still while you are here')).toBeVisible();
  await soldNow(request, 'While pointed at');
  await expect(newestTransfer(witness)).toContainText('While pointed at');
  await expect(newestTransfer(page)).toContainText('During the pause');
  await heading(page, 'Latest items').hover();
  await expect(newestTransfer(page)).toContainText('While pointed at');
});

test('what happened while nothing was heard is shown as soon as it is heard again', async ({
  page,
  request,
}) => {
  await soldNow(request, 'Before it was quiet');
  let release!: () => void;
  const released = new Promise<void>((resolve) => (release = resolve));
  await page.route('**/statistics/stream*', async (route) => {
    await released;
    await route.continue();
  });
  await page.goto('/?page=explore');
  await expect(newestTransfer(page)).toContainText('Before it was quiet');
  await soldNow(request, 'While it was quiet');
  release();
  await expect(page.getByTestId('status')).toHaveText('Live');
  await expect(newestTransfer(page)).toContainText('While it was quiet');
});

test('the latest items are there to browse', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'Among many');
  for (let count = 0; count < 21; count += 1) await insertItem(request, baseItem.id);
  await explore(page);
  const items = page.getByRole('list', { name: 'Latest items' }).getByRole('listitem');
  await expect(items).toHaveCount(20);
  await page.getByRole('button', { name: 'Older items' }).click();
  await expect.poll(() => items.count()).toBeGreaterThan(20);
  await items.nth(20).getByRole('link').click();
  await expect(heading(page, 'Among many')).toBeFocused();
});

test('what a form created can be shown, and transferred there', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'Made to be shown');
  await explore(page);
  const itemForm = page.getByTestId('form-item');
  await itemForm.getByLabel('Base item').fill(baseItem.id);
  await itemForm.getByRole('button', { name: 'Create item' }).click();
  const itemId = await itemForm.getByTestId('created-id').innerText();
  await itemForm.getByRole('link', { name: 'Show it' }).click();
  await expect(heading(page, 'Made to be shown')).toBeFocused();
  await expect(page.getByTestId('subject-id')).toHaveText(itemId);
  await expect(page.getByTestId('owner')).toHaveText('Nobody owns it yet.');
  await expect(page.getByTestId('form-transfer').getByLabel('Item')).toHaveValue(itemId);

  const userForm = page.getByTestId('form-user');
  await userForm.getByRole('button', { name: 'Create user' }).click();
  const userId = await userForm.getByTestId('created-id').innerText();
  await userForm.getByTestId('use-created-id').click();
  await page.keyboard.press('Enter');
  await expect(linkTo(page.getByTestId('owner'), userId)).toBeVisible();
  await userForm.getByRole('link', { name: 'Show it' }).click();
  await expect(page.getByTestId('subject-id')).toHaveText(userId);
  await page.getByTestId('form-transfer').getByRole('link', { name: 'Show it' }).click();
  await expect(page.getByTestId('subject-id')).toHaveText(itemId);
});

test('what was typed for a transfer is kept when an item is opened', async ({ page, request }) => {
  const { item } = await soldNow(request, 'Not to be transferred');
  await explore(page);
  const field = page.getByTestId('form-transfer').getByLabel('Item');
  await field.fill('typed');
  await linkTo(page.getByRole('list', { name: 'Latest items' }), item.id).click();
  await expect(heading(page, 'Not to be transferred')).toBeVisible();
  await expect(field).toHaveValue('typed');
});

test('links to items and users open in another tab', async ({ page, context, request }) => {
  const { item } = await soldNow(request, 'In another tab');
  await explore(page);
  const opened = context.waitForEvent('page');
  await linkTo(newestTransfer(page), item.id).click({ modifiers: ['Control'] });
  await expect(heading(await opened, 'In another tab')).toBeVisible();
  await expect(heading(page, 'Latest items')).toBeVisible();
});

test('a link to what does not exist says so', async ({ page }) => {
  await explore(page, `&item=${NOBODY}`);
  await expect(heading(page, 'There is no such item')).toBeVisible();
  await explore(page, '&user=../items');
  await expect(heading(page, 'There is no such user')).toBeVisible();
  await page.getByRole('link', { name: 'All items' }).click();
  await expect(heading(page, 'Latest items')).toBeVisible();
});

test('a server that cannot be reached is said to be just that, and asked again', async ({
  page,
  request,
}) => {
  const { item } = await soldNow(request, 'Out of reach');
  await page.route(`**/items/${item.id}`, (route) => route.abort());
  await page.route('**/transfers?*', (route) => route.abort());
  await explore(page, `&item=${item.id}`);
  // One for the item, one for the latest transfers.
  const alerts = page.getByRole('alert').filter({ hasText: 'The server could not be reached.' });
  await expect(alerts).toHaveCount(2);
  await expect(alerts.first()).not.toContainText('saved');
  await page.unrouteAll();
  await alerts.first().getByRole('button', { name: 'Try again' }).click();
  await expect(heading(page, 'Out of reach')).toBeFocused();
  await alerts.first().getByRole('button', { name: 'Try again' }).click();
  await expect(newestTransfer(page)).toContainText('Out of reach');
  await expect(alerts).toHaveCount(0);
});

test('an empty ledger says what can be done about it', async ({ page }) => {
  const empty = { json: { data: [], next_page_token: null } };
  await page.route('**/items?*', (route) => route.fulfill(empty));
  await page.route('**/transfers?*', (route) => route.fulfill(empty));
  await explore(page);
  await expect(page.getByText('There are no items yet. Create one below.')).toBeVisible();
  await expect(page.getByText('Nothing has changed hands yet. Transfer an item below')).toBeVisible();
});

test('keys alone lead from the field to an item, and on to its owner', async ({ page, request }) => {
  const { item, owner } = await soldNow(request, 'Reached by keys');
  await explore(page);
  const tabTo = async (target: Locator) => {
    for (let presses = 0; presses < 40; presses += 1) {
      await page.keyboard.press('Tab');
      if (await target.evaluate((element) => element === document.activeElement)) return;
    }
    throw new Error('the Tab key does not lead there');
  };
  await tabTo(page.getByLabel('Find an item or a user'));
  await page.keyboard.type(item.id);
  await page.keyboard.press('Enter');
  await expect(heading(page, 'Reached by keys')).toBeFocused();
  await expect(linkTo(page.getByTestId('owner'), owner.id)).toBeVisible();
  await tabTo(linkTo(page.getByTestId('owner'), owner.id));
  await page.keyboard.press('Enter');
  await expect(heading(page, `User …${owner.id.slice(-8)}`)).toBeFocused();
  await expect(page.getByTestId('subject-id')).toHaveText(owner.id);
});

test('what is explored fits a telephone, whatever things are called', async ({ page, request }) => {
  const { item, owner } = await soldNow(request, `${'W'.repeat(80)} ${'long words '.repeat(40)}`);
  await page.setViewportSize({ width: 360, height: 740 });
  for (const query of ['', `&item=${item.id}&at=${BETWEEN}`, `&user=${owner.id}`]) {
    await explore(page, query);
    await expect(linkTo(newestTransfer(page), item.id)).toBeVisible();
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    expect(width, query).toBeLessThanOrEqual(360);
  }
});

for (const theme of ['light', 'dark'] as const) {
  test(`axe finds nothing where the ledger is explored, ${theme}`, async ({ page, request }) => {
    const { item, first } = await soldTwice(request, 'Looked at by axe');
    await page.emulateMedia({ colorScheme: theme });
    for (const [query, shown] of [
      ['', page.getByRole('list', { name: 'Latest items' })],
      [`&item=${item.id}&at=${BETWEEN}`, linkTo(page.getByTestId('owner-then'), first.id)],
      [`&user=${first.id}&at=${BETWEEN}`, linkTo(page.getByTestId('holdings'), item.id)],
      [`&item=${NOBODY}`, heading(page, 'There is no such item')],
    ] as const) {
      await explore(page, query);
      await expect(shown).toBeVisible();
      await expect(newestTransfer(page)).toBeVisible();
      const { violations } = await new AxeBuilder({ page }).withTags(WCAG_22_AA).analyze();
      expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);
    }
  });
}
