import AxeBuilder from '@axe-core/playwright';
import { expect, test } from '@playwright/test';
import { becomesLive, explore, open } from './dashboard';

test('keys pause the display and choose the resolution', async ({ page }) => {
  await open(page, 'minute');
  await page.keyboard.press('p');
  await expect(page.getByTestId('status')).toHaveText('Paused');
  await page.keyboard.press('p');
  await expect(page.getByTestId('status')).toHaveText('Live');
  await page.keyboard.press('5');
  await expect(page.getByRole('radio', { name: 'Day' })).toBeChecked();
  await expect(page).toHaveURL(/resolution=day/);
});

test('keys that are typed into a field, or with a modifier, are left to it', async ({ page }) => {
  await explore(page);
  await page.getByLabel('Description').fill('');
  await page.getByLabel('Description').pressSequentially('p5?');
  await expect(page.getByLabel('Description')).toHaveValue('p5?');
  await expect(page.getByRole('dialog')).toBeHidden();
  await open(page, 'minute');
  await page.keyboard.press('Alt+5');
  await expect(page.getByTestId('status')).toHaveText('Live');
  await expect(page.getByRole('radio', { name: 'Minute' })).toBeChecked();
});

test('the question mark names the keys, and they can be turned off', async ({ page }) => {
  await open(page, 'minute');
  await page.keyboard.press('?');
  const help = page.getByRole('dialog', { name: 'Keyboard shortcuts' });
  await expect(help).toContainText('Pause the display');
  const { violations } = await new AxeBuilder({ page }).analyze();
  expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);
  await help.getByLabel('Use these keys').uncheck();
  await page.keyboard.press('Escape');
  await expect(help).toBeHidden();

  await page.reload();
  await becomesLive(page);
  await page.keyboard.press('5');
  await page.keyboard.press('?');
  await expect(help).toBeHidden();
  await expect(page.getByRole('radio', { name: 'Minute' })).toBeChecked();

  // The way back needs no key that is turned off.
  await page.getByRole('button', { name: 'Keyboard shortcuts' }).click();
  await help.getByLabel('Use these keys').check();
  await help.getByRole('button', { name: 'Close' }).click();
  await page.keyboard.press('5');
  await expect(page.getByRole('radio', { name: 'Day' })).toBeChecked();
});
