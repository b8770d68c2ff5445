import { expect, test } from '@playwright/test';
import { expectFigure, explore, figure, open } from './dashboard';
import { insertBaseItem, insertItem, insertUser } from './ledger';

test('from a base item to a transfer, each form offers its id to the next', async ({ page, context }) => {
  const statistics = await context.newPage();
  await open(statistics, 'year');
  const items = await figure(statistics, 'item-creation', 'current');
  const users = await figure(statistics, 'user-creation', 'current');
  const transfers = await figure(statistics, 'transfers', 'current');
  await explore(page);

  const baseItemForm = page.getByTestId('form-base-item');
  await baseItemForm.getByLabel('Description').fill('Made in a form');
  await baseItemForm.getByRole('button', { name: 'Create base item' }).click();
  const baseItemId = await baseItemForm.getByTestId('created-id').innerText();
  await baseItemForm.getByTestId('use-created-id').click();

  const itemForm = page.getByTestId('form-item');
  const baseItemField = itemForm.getByLabel('Base item');
  await expect(baseItemField).toHaveValue(baseItemId);
  await expect(baseItemField).toBeFocused();
  await page.keyboard.press('Enter');
  const itemId = await itemForm.getByTestId('created-id').innerText();
  await expectFigure(statistics, 'item-creation', 'current', items + 1);
  await itemForm.getByTestId('use-created-id').click();

  const userForm = page.getByTestId('form-user');
  await userForm.getByRole('button', { name: 'Create user' }).click();
  const ownerId = await userForm.getByTestId('created-id').innerText();
  await expectFigure(statistics, 'user-creation', 'current', users + 1);
  await userForm.getByTestId('use-created-id').click();

  const transferForm = page.getByTestId('form-transfer');
  await expect(transferForm.getByLabel('Item')).toHaveValue(itemId);
  await expect(transferForm.getByLabel('New owner')).toHaveValue(ownerId);
  await transferForm.getByRole('button', { name: 'Transfer item' }).click();
  await expect(transferForm.getByTestId('created-id')).toHaveText(/^[0-9a-f-]{36}$/);
  await expectFigure(statistics, 'transfers', 'current', transfers + 1);
});

test('the latest rows are suggested where an id is asked for', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'To be suggested');
  const item = await insertItem(request, baseItem.id);
  const user = await insertUser(request);
  await explore(page);

  const options = (list: string) => page.locator(`datalist#${list} option`);
  await page.getByTestId('form-item').getByLabel('Base item').focus();
  await expect(options('item-base_item_id-suggestions').first()).toHaveAttribute('value', baseItem.id);
  await expect(options('item-base_item_id-suggestions').first()).toHaveAttribute('label', 'To be suggested');

  const transferForm = page.getByTestId('form-transfer');
  await transferForm.getByLabel('Item').focus();
  await expect(options('transfer-item_id-suggestions').first()).toHaveAttribute('value', item.id);
  await transferForm.getByLabel('New owner').focus();
  await expect(options('transfer-owner_id-suggestions').first()).toHaveAttribute('value', user.id);
});

test('a wrong id is complained about at its field, until it is right', async ({ page, request }) => {
  const baseItem = await insertBaseItem(request, 'For a correction');
  await explore(page);
  const form = page.getByTestId('form-item');
  const field = form.getByLabel('Base item');

  await field.fill('not an id');
  await form.getByRole('button', { name: 'Create item' }).click();
  const error = form.getByTestId('error-base_item_id');
  await expect(error).toBeVisible();
  await expect(field).toHaveAttribute('aria-invalid', 'true');
  await expect(field).toHaveAccessibleDescription(new RegExp(escaped(await error.innerText())));

  await field.fill(baseItem.id);
  await form.getByRole('button', { name: 'Create item' }).click();
  await expect(form.getByTestId('created-id')).toBeVisible();
  await expect(error).toBeHidden();
  await expect(field).toHaveAttribute('aria-invalid', 'false');
});

test('an id that nothing has is complained about at its field', async ({ page, request }) => {
  const user = await insertUser(request);
  await explore(page);
  const form = page.getByTestId('form-transfer');
  await form.getByLabel('Item').fill('0197a000-0000-7000-8000-000000000000');
  await form.getByLabel('New owner').fill(user.id);
  await form.getByRole('button', { name: 'Transfer item' }).click();
  await expect(form.getByTestId('error-item_id')).toBeVisible();
  await expect(form.getByTestId('error-owner_id')).toBeHidden();
});

test('an empty description is complained about at its field', async ({ page }) => {
  await explore(page);
  const form = page.getByTestId('form-base-item');
  await form.getByRole('button', { name: 'Create base item' }).click();
  await expect(form.getByTestId('error-description')).toBeVisible();
});

test('a server that cannot be reached is said to be just that', async ({ page }) => {
  await explore(page);
  await page.route('**/users', (route) => route.abort());
  const form = page.getByTestId('form-user');
  await form.getByRole('button', { name: 'Create user' }).click();
  await expect(form.getByTestId('form-error')).toContainText('could not be reached');
});

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
