import { expect, test } from '@playwright/test';
import { RESOLUTIONS } from '../src/lib/resolution';
import { becomesLive, card, expectFigure, figure, open } from './dashboard';
import { insertUser, newestCount } from './ledger';

test('a link shows the resolution that it names', async ({ page, request }) => {
  await insertUser(request);
  await open(page, 'quarter');
  await expect(page.getByTestId('resolution-quarter')).toBeChecked();
  await expect(card(page, 'user-creation')).toContainText('this quarter');
  expect(await figure(page, 'user-creation', 'current')).toBe(
    await newestCount(request, 'user-creation', 'quarter'),
  );
});

test('every resolution can be chosen, is in the address, and shows what happens', async ({
  page,
  request,
}) => {
  await open(page, 'minute');
  for (const resolution of RESOLUTIONS) {
    await page.getByTestId(`resolution-${resolution}`).check();
    await expect(page).toHaveURL(new RegExp(`[?&]resolution=${resolution}\\b`));
    await becomesLive(page);
    // A fifth of a second is over before a test has looked.
    if (resolution === 'millisecond') continue;
    await insertUser(request);
    await expect
      .poll(() => figure(page, 'user-creation', 'total'), { message: resolution })
      .toBeGreaterThan(0);
  }
});

test('only the newest stream is kept when resolutions are switched', async ({ page, request }) => {
  await open(page, 'year');
  const before = await figure(page, 'user-creation', 'current');
  for (const resolution of ['day', 'second', 'month', 'year'] as const) {
    await page.getByTestId(`resolution-${resolution}`).check();
  }
  await becomesLive(page);
  await insertUser(request);
  await expectFigure(page, 'user-creation', 'current', before + 1);
});

test('the back button returns to the resolution before', async ({ page }) => {
  await open(page, 'day');
  await page.getByTestId('resolution-hour').check();
  await expect(card(page, 'transfers')).toContainText('this hour');
  await page.goBack();
  await expect(page.getByTestId('resolution-day')).toBeChecked();
  await expect(card(page, 'transfers')).toContainText('today');
  await becomesLive(page);
});

test('resolutions are chosen with the arrow keys', async ({ page }) => {
  await open(page, 'minute');
  await page.getByTestId('resolution-minute').focus();
  await page.keyboard.press('ArrowRight');
  await expect(page.getByTestId('resolution-hour')).toBeChecked();
  await expect(page).toHaveURL(/resolution=hour/);
});

test('the page fits a telephone', async ({ page }) => {
  await page.setViewportSize({ width: 360, height: 740 });
  await open(page, 'minute');
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  expect(width).toBeLessThanOrEqual(360);
});

test('a link shows the time zone that it names, and a chosen one is in the address', async ({
  page,
  request,
}) => {
  await insertUser(request);
  await page.goto('/?resolution=hour&timezone=Asia/Kathmandu');
  await becomesLive(page);
  await expect(page.getByLabel('Time zone')).toHaveValue('Asia/Kathmandu');
  // Clocks there are three quarters of an hour apart from everyone's: hours begin at a quarter past (UTC).
  const ends = (zone: string) => {
    const hour = new Intl.DateTimeFormat('en-GB', { timeZone: zone, hour: '2-digit', hourCycle: 'h23' });
    return `${hour.format(Date.now() + 3_600_000)}:00`;
  };
  await expect(card(page, 'user-creation')).toContainText(ends('Asia/Kathmandu'));
  await page.getByLabel('Time zone').selectOption('America/New_York');
  await expect(page).toHaveURL(/timezone=America%2FNew_York/);
  await becomesLive(page);
  await expect(card(page, 'user-creation')).toContainText(ends('America/New_York'));
  await page.goBack();
  await expect(page.getByLabel('Time zone')).toHaveValue('Asia/Kathmandu');
});
