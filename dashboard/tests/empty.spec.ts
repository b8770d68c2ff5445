import AxeBuilder from '@axe-core/playwright';
import { expect, test } from '@playwright/test';
import { becomesLive, card, expectFigure } from './dashboard';
import { insertUser } from './ledger';
import { Server } from './server';

test('a page without anything to show says what to do, and shows the first event', async ({
  page,
  request,
}) => {
  const server = await Server.start();
  try {
    await page.goto(`${server.url}/?resolution=year`);
    await becomesLive(page);
    const notice = page.getByTestId('empty');
    await expect(notice).toContainText('Nothing has happened yet');
    await expect(card(page, 'user-creation').getByTestId('newest')).toHaveText('no event yet');
    const { violations } = await new AxeBuilder({ page }).analyze();
    expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);

    await insertUser(request, server.url);
    await expectFigure(page, 'user-creation', 'current', 1);
    await expect(notice).toBeHidden();
  } finally {
    await server.remove();
  }
});

test('what is not known is not said to be zero', async ({ page }) => {
  // Whoever asks for the stream waits for an answer.
  await page.route('**/statistics/stream*', () => undefined);
  await page.goto('/');
  await expect(page.getByTestId('status')).toHaveText('Connecting…');
  await expect(card(page, 'transfers').getByTestId('current')).toHaveText('–');
  await expect(card(page, 'transfers').getByTestId('total')).toHaveText('–');
  await expect(card(page, 'transfers')).toHaveAttribute('aria-busy', 'true');
  await expect(page.getByTestId('empty')).toBeHidden();
});
