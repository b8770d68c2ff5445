import AxeBuilder from '@axe-core/playwright';
import { readFile } from 'node:fs/promises';
import { expect, test, type Page } from '@playwright/test';
import { becomesLive, card, expectFigure, figure, open } from './dashboard';
import { insertBaseItem, insertItem, insertUser } from './ledger';

const HOUR = 3_600_000;

/** An hour of the past in which nothing else happened. */
const FROM = Date.parse('2024-06-03T10:00:00Z');
const RANGE = `from=${new Date(FROM).toISOString()}&to=${new Date(FROM + HOUR).toISOString()}`;

/** The figure beside "before" in the tooltip, and the one above it. */
async function pointAt(page: Page, share: number): Promise<string[]> {
  const chart = card(page, 'item-creation').locator('.u-over');
  const box = await chart.boundingBox();
  if (box === null) throw new Error('no chart');
  await chart.hover({ position: { x: box.width * share, y: box.height / 2 } });
  return page.getByTestId('tooltip').allInnerTexts();
}

test('a link shows the range that it names, live, and what happened before it', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'In a range');
  const at = (minute: number) => new Date(FROM + minute * 60_000).toISOString();
  await page.goto(`/?resolution=minute&timezone=Europe/Berlin&${RANGE}`);
  await becomesLive(page);
  const before = await figure(page, 'item-creation', 'total');
  for (const minute of [0, 30, 30, 59]) await insertItem(request, baseItem.id, at(minute));
  // Neither of these is in the range; the second one is in what it is compared with.
  for (const minute of [60, -30]) await insertItem(request, baseItem.id, at(minute));
  await expectFigure(page, 'item-creation', 'total', before + 4);
  await expect(card(page, 'item-creation').getByTestId('change')).toContainText(
    'against the 60 minutes before',
  );
  await expect(card(page, 'item-creation').getByTestId('range')).toHaveText(/3 Jun 2024, 12:00\s?–\s?13:00/);

  // The charts point at the same minute, with its exact figures.
  const tooltips = await pointAt(page, 30.5 / 60);
  expect(tooltips).toHaveLength(3);
  for (const words of tooltips) expect(words).toContain('Mon, 3 Jun 2024, 12:30');
  expect(tooltips[0]).toMatch(/12:30\s+2\s+before: 1/);
});

test('a part is zoomed into by dragging over it, and out of by a click', async ({ page }) => {
  await page.goto(`/?resolution=minute&timezone=Europe/Berlin&${RANGE}`);
  await becomesLive(page);
  const chart = card(page, 'transfers').locator('.u-over');
  const box = await chart.boundingBox();
  if (box === null) throw new Error('no chart');
  const x = (minute: number) => box.x + (box.width * (minute + 0.5)) / 60;
  await page.mouse.move(x(12), box.y + 40);
  await page.mouse.down();
  await page.mouse.move(x(14), box.y + 50, { steps: 4 });
  await page.mouse.up();
  // Three minutes are seen in seconds.
  const range = page.getByTestId('range').first();
  await expect(range).toHaveText(/12:12:00\s?–\s?12:15:00/);
  await expect(page.getByRole('radio', { name: 'Second', exact: true })).toBeChecked();
  await expect(page).toHaveURL(/from=2024-06-03T10%3A12%3A00/);

  await page.getByRole('button', { name: 'Zoom out' }).click();
  await expect(range).toHaveText(/12:10\s?–\s?12:17/);
  await page.goBack();
  await expect(range).toHaveText(/12:12:00\s?–\s?12:15:00/);
  await page.getByRole('button', { name: 'Back to now' }).click();
  await expect(page.getByLabel('Range')).toHaveValue('window');
  await expect(page).not.toHaveURL(/from=/);
});

test('ranges are chosen from a list, or as two moments by the clocks of the zone', async ({ page }) => {
  await open(page, 'minute');
  await page.getByLabel('Range').selectOption('last 24 hours');
  await expect(page).toHaveURL(/last=24h/);
  await becomesLive(page);
  await expect(card(page, 'transfers')).toContainText('last 24 hours');

  // Where a resolution cannot show it, its usual window is shown.
  await page.getByTestId('resolution-second').check();
  await expect(page.getByLabel('Range')).toHaveValue('window');
  await expect(page).not.toHaveURL(/last=/);

  await page.getByTestId('resolution-hour').check();
  await page.getByLabel('Range').selectOption('between two moments');
  await page.getByLabel('From').fill('2024-03-31T00:00');
  await page.getByLabel('To', { exact: true }).fill('2024-04-01T00:00');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await becomesLive(page);
  // A day of 23 hours in Berlin.
  await expect(card(page, 'transfers').getByTestId('change')).toContainText('against the 23 hours before');

  await page.getByLabel('To', { exact: true }).fill('2023-04-01T00:00');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await expect(page.getByRole('alert').filter({ hasText: 'must end after it begins' })).toBeVisible();
  await page.getByLabel('To', { exact: true }).fill('2030-04-01T00:00');
  await page.getByRole('button', { name: 'Show', exact: true }).click();
  await expect(page.getByRole('alert').filter({ hasText: 'choose a wider resolution' })).toBeVisible();
  const { violations } = await new AxeBuilder({ page }).analyze();
  expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);
});

test('what is shown can be saved, as CSV and as a picture', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'Saved');
  await page.goto(
    '/?resolution=minute&timezone=UTC&from=2024-05-01T00:00:00Z&to=2024-05-01T00:02:00Z&display=chart',
  );
  await becomesLive(page);
  await insertItem(request, baseItem.id, '2024-05-01T00:01:30Z');
  await expectFigure(page, 'item-creation', 'total', 1);
  const items = card(page, 'item-creation');

  const [csv] = await Promise.all([
    page.waitForEvent('download'),
    items.getByRole('button', { name: 'as CSV' }).click(),
  ]);
  expect(csv.suggestedFilename()).toMatch(/^newcycle-item-creation-minute-.*\.csv$/);
  expect(await readFile(await csv.path(), 'utf8')).toBe(
    'start,end,count,before,finished\r\n' +
      '2024-05-01T00:00:00.000Z,2024-05-01T00:01:00.000Z,0,0,true\r\n' +
      '2024-05-01T00:01:00.000Z,2024-05-01T00:02:00.000Z,1,0,true\r\n',
  );
  const [picture] = await Promise.all([
    page.waitForEvent('download'),
    items.getByRole('button', { name: 'as PNG' }).click(),
  ]);
  expect(picture.suggestedFilename()).toMatch(/^newcycle-item-creation-minute-.*\.png$/);
  const bytes = await readFile(await picture.path());
  expect(bytes.subarray(1, 4).toString()).toBe('PNG');
  // Not an empty one: the bar takes many bytes.
  expect(bytes.length).toBeGreaterThan(2_000);
});

test('the newest event is told as it happens', async ({ page, request }) => {
  await open(page, 'year');
  await insertUser(request);
  const newest = card(page, 'user-creation').getByTestId('newest');
  await expect(newest).toHaveText(/last event [0-5] seconds? ago/);
  // It grows older though nothing happens.
  await expect(newest).toHaveText(/last event [2-9] seconds ago/);
});

test('a screen on the wall shows figures alone, by a link as well', async ({ page }) => {
  await open(page, 'hour');
  await page.keyboard.press('k');
  await expect(page).toHaveURL(/kiosk=1/);
  await expect(page.getByRole('radio', { name: 'Hour' })).toBeHidden();
  await expect(page.getByRole('link', { name: 'Explore' })).toBeHidden();
  await page.reload();
  await becomesLive(page);
  await expect(page.getByRole('radio', { name: 'Hour' })).toBeHidden();
  // Nothing has to be scrolled for.
  const overflow = await page.evaluate(() => {
    const { scrollHeight, clientHeight } = document.documentElement;
    return scrollHeight - clientHeight;
  });
  expect(overflow).toBeLessThanOrEqual(0);
  const { violations } = await new AxeBuilder({ page }).analyze();
  expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);
  await page.getByRole('button', { name: 'Leave kiosk' }).click();
  await expect(page.getByRole('radio', { name: 'Hour' })).toBeVisible();
});

test('a link to a base item that there is not says so, and leads on', async ({ page }) => {
  await page.goto('/?base_item_id=0197a000-0000-7000-8000-000000000000');
  const notice = page.getByRole('alert').filter({ hasText: 'This cannot be shown' });
  await expect(notice).toContainText('there is no base item with this id');
  await notice.getByRole('link', { name: 'Show all there is' }).click();
  await becomesLive(page);
  await expect(notice).toBeHidden();
});

test('the counts of a range are broken down by base item, live, and one of them can be chosen', async ({
  page,
  request,
}) => {
  const [bikes, tents] = [await insertBaseItem(request, 'Cargo bike'), await insertBaseItem(request, 'Tent')];
  const at = '2024-07-01T12:30:00Z';
  await insertItem(request, bikes.id, at);
  await insertItem(request, bikes.id, at);
  await page.goto('/?resolution=minute&timezone=UTC&from=2024-07-01T12:00:00Z&to=2024-07-01T13:00:00Z');
  await becomesLive(page);
  const breakdown = page.getByTestId('breakdown-item-creation');
  await expect(breakdown.getByRole('listitem')).toHaveText([/Cargo bike\s+2\s+100/]);
  for (let tent = 0; tent < 3; tent += 1) await insertItem(request, tents.id, at);
  await expect(breakdown.getByRole('listitem')).toHaveText([/Tent\s+3\s+60/, /Cargo bike\s+2\s+40/]);
  await expectFigure(page, 'item-creation', 'total', 5);
  // Also when nothing but this event gives a reason to look again.
  for (const count of [4, 5]) {
    await insertItem(request, tents.id, at);
    await expect(breakdown.getByRole('listitem').first()).toHaveText(new RegExp(`Tent\\s+${count}\\s`));
  }
  await expect(page.getByTestId('breakdown-transfers')).toContainText('Nothing in this range');

  await breakdown.getByRole('link', { name: 'Cargo bike' }).click();
  await expect(page).toHaveURL(new RegExp(`base_item_id=${bikes.id}`));
  await expect(page.getByTestId('base-item')).toContainText('Only items of Cargo bike');
  await expectFigure(page, 'item-creation', 'total', 2);
  await expect(card(page, 'user-creation')).toBeHidden();
  await page.getByRole('link', { name: 'Count all' }).click();
  await expectFigure(page, 'item-creation', 'total', 7);
});

test('more base items than there is room for are counted together', async ({ page, request }) => {
  const at = '2024-08-01T12:30:00Z';
  for (let kind = 0; kind < 7; kind += 1) {
    const baseItem = await insertBaseItem(request, `Kind ${kind}`);
    for (let item = 0; item <= kind; item += 1) await insertItem(request, baseItem.id, at);
  }
  await page.goto('/?resolution=minute&timezone=UTC&from=2024-08-01T12:00:00Z&to=2024-08-01T13:00:00Z');
  const rows = page.getByTestId('breakdown-item-creation').getByRole('listitem');
  await expect(rows).toHaveText([
    /Kind 6\s+7/,
    /Kind 5\s+6/,
    /Kind 4\s+5/,
    /Kind 3\s+4/,
    /Kind 2\s+3/,
    /2 others\s+3/,
  ]);
});
