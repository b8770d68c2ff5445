import { expect, test } from '@playwright/test';
import { becomesLive, card, expectFigure, figure, open } from './dashboard';
import { insertBaseItem, insertItem, insertTransfer, insertUser, newestCount } from './ledger';

// Exact increases are read off the years: no bucket leaves that window while a test runs.

test('the page loads without complaint and becomes live', async ({ page }) => {
  const complaints: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(error.message));
  await page.goto('/');
  await becomesLive(page);
  await expect(page.getByRole('heading', { name: 'newcycle' })).toBeVisible();
  await expect(page.getByRole('radio', { name: 'Minute' })).toBeChecked();
  await expect(page).toHaveTitle('By the minute – newcycle');
  expect(complaints).toEqual([]);
});

test('rows inserted by somebody else move the right cards by exactly as many', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'Seen live');
  await open(page, 'year');
  const items = await figure(page, 'item-creation', 'current');
  const itemsInAll = await figure(page, 'item-creation', 'total');
  const transfers = await figure(page, 'transfers', 'current');
  const users = await figure(page, 'user-creation', 'current');

  const item = await insertItem(request, baseItem.id);
  await insertItem(request, baseItem.id);
  await expectFigure(page, 'item-creation', 'current', items + 2);
  await expectFigure(page, 'item-creation', 'total', itemsInAll + 2);

  const [seller, buyer] = [await insertUser(request), await insertUser(request)];
  await expectFigure(page, 'user-creation', 'current', users + 2);

  await insertTransfer(request, item.id, seller.id);
  await insertTransfer(request, item.id, buyer.id);
  await insertTransfer(request, item.id, seller.id);
  await expectFigure(page, 'transfers', 'current', transfers + 3);

  expect(await figure(page, 'item-creation', 'current')).toBe(items + 2);
  expect(await figure(page, 'user-creation', 'current')).toBe(users + 2);
});

test('a burst of 200 inserts converges to the exact count', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'Burst');
  await open(page, 'year');
  const before = await figure(page, 'item-creation', 'current');
  await Promise.all(Array.from({ length: 200 }, () => insertItem(request, baseItem.id)));
  await expectFigure(page, 'item-creation', 'current', before + 200);
  expect(await newestCount(request, 'item-creation', 'year')).toBe(before + 200);
});

test('two pages show the same', async ({ page, context, request }) => {
  const other = await context.newPage();
  await open(page, 'year');
  await open(other, 'year');
  const before = await figure(page, 'user-creation', 'total');
  await insertUser(request);
  await expectFigure(page, 'user-creation', 'total', before + 1);
  await expectFigure(other, 'user-creation', 'total', before + 1);
});

test('a second passes although nothing happens', async ({ page, request }) => {
  await open(page, 'second');
  await insertUser(request);
  await expect.poll(() => figure(page, 'user-creation', 'total')).toBeGreaterThanOrEqual(1);
  await expectFigure(page, 'user-creation', 'current', 0);
  expect(await figure(page, 'user-creation', 'total')).toBeGreaterThanOrEqual(1);
});

test('a paused page stands still, counts all the same, and is back to live in one click', async ({
  page,
  context,
  request,
}) => {
  const witness = await context.newPage();
  await open(witness, 'year');
  await open(page, 'year');
  const before = await figure(page, 'user-creation', 'current');
  await page.getByRole('button', { name: 'Pause' }).click();
  await expect(page.getByTestId('status')).toHaveText('Paused');

  await insertUser(request);
  await insertUser(request);
  await expectFigure(witness, 'user-creation', 'current', before + 2);
  expect(await figure(page, 'user-creation', 'current')).toBe(before);

  await page.getByRole('button', { name: 'Back to live' }).click();
  await expect(page.getByTestId('status')).toHaveText('Live');
  await expectFigure(page, 'user-creation', 'current', before + 2);
});

test('pointing at the figures pauses them for as long', async ({ page, context, request }) => {
  const witness = await context.newPage();
  await open(witness, 'year');
  await open(page, 'year');
  const before = await figure(page, 'user-creation', 'current');
  await card(page, 'transfers').hover();
  await expect(page.getByTestId('status')).toHaveText('Paused');
  await insertUser(request);
  await expectFigure(witness, 'user-creation', 'current', before + 1);
  expect(await figure(page, 'user-creation', 'current')).toBe(before);
  await page.getByRole('heading', { name: 'newcycle' }).hover();
  await expect(page.getByTestId('status')).toHaveText('Live');
  await expectFigure(page, 'user-creation', 'current', before + 1);
});

test('a window is compared with the one before it', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'Compared');
  const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();
  const change = async () => {
    await open(page, 'day');
    const words = await card(page, 'item-creation').getByTestId('change').innerText();
    expect(words).toContain('against the 29 days before');
    return Number(words.split(' ')[0]?.replace(/,/g, ''));
  };
  const before = await change();
  for (const days of [3, 5, 40]) await insertItem(request, baseItem.id, daysAgo(days));
  // Two in the finished days of the window, one in those before it; today's are not compared.
  await insertItem(request, baseItem.id);
  expect(await change()).toBe(before + 1);
});

test('a stream that was refused is asked for again', async ({ page }) => {
  let refused = 0;
  await page.route('**/statistics/stream*', async (route) => {
    if (refused > 0) return route.continue();
    refused += 1;
    // After this, EventSource gives up for good.
    return route.fulfill({ status: 503, body: '' });
  });
  await page.goto('/');
  await becomesLive(page);
  expect(refused).toBe(1);
});
