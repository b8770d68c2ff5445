import AxeBuilder from '@axe-core/playwright';
import { expect, test } from '@playwright/test';
import { becomesLive, card, expectFigure, figure, open } from './dashboard';
import { insertUser } from './ledger';

test('tables show the same figures as the charts, live, and are in the address', async ({
  page,
  request,
}) => {
  await open(page, 'year');
  const before = await figure(page, 'user-creation', 'current');
  await page.keyboard.press('t');
  await expect(page).toHaveURL(/display=table/);
  const table = card(page, 'user-creation').getByRole('table', { name: 'Users created per year' });
  await expect(table.getByRole('row')).toHaveCount(1 + 10);
  const newest = table.getByRole('row').nth(1).getByRole('cell').first();
  await insertUser(request);
  await expectFigure(page, 'user-creation', 'current', before + 1);
  await expect(newest).toHaveText(new Intl.NumberFormat('en-GB').format(before + 1));

  await page.reload();
  await becomesLive(page);
  await expect(newest).toHaveText(new Intl.NumberFormat('en-GB').format(before + 1));
  const { violations } = await new AxeBuilder({ page }).analyze();
  expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);

  await page.getByRole('button', { name: 'Show charts' }).click();
  await expect(table).toBeHidden();
  await expect(page).not.toHaveURL(/display/);
});
