import AxeBuilder from '@axe-core/playwright';
import { expect, test } from '@playwright/test';
import { becomesLive } from './dashboard';

const WCAG_22_AA = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];

// The page for exploring is looked at where it is tested: it shows nothing without something to show.
const VIEWS = [
  ['the charts', '/'],
  ['the tables', '/?display=table'],
  ['a range', '/?resolution=hour&from=2024-03-01T00:00:00Z&to=2024-03-02T00:00:00Z'],
  ['a screen on the wall', '/?kiosk=1'],
] as const;

for (const theme of ['light', 'dark'] as const) {
  for (const [name, address] of VIEWS) {
    test(`axe finds nothing on ${name}, ${theme}`, async ({ page }) => {
      await page.emulateMedia({ colorScheme: theme });
      await page.goto(address);
      await becomesLive(page);
      const { violations } = await new AxeBuilder({ page }).withTags(WCAG_22_AA).analyze();
      expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);
    });
  }
}

test('only the connection is announced, and what is done can be done by keys alone', async ({ page }) => {
  await page.goto('/?resolution=hour');
  await becomesLive(page);
  const live = page.locator('[aria-live], [role=status], [role=log], [role=timer], output');
  await expect(live).toHaveCount(1);
  await expect(live).toHaveText('Live');

  /** Goes on by Tab until this has the focus. */
  const reach = async (name: string) => {
    for (let stops = 0; stops < 40; stops += 1) {
      await page.keyboard.press('Tab');
      const focused = await page.evaluate(() => {
        const element = document.activeElement;
        const label =
          element instanceof HTMLInputElement || element instanceof HTMLSelectElement
            ? element.labels?.[0]
            : null;
        return (
          element?.getAttribute('aria-label') ??
          label?.textContent ??
          element?.textContent ??
          ''
        ).trim();
      });
      if (focused.startsWith(name)) return;
    }
    throw new Error(`Tab never came to ${name}`);
  };
  await reach('Pause');
  await page.keyboard.press('Enter');
  await expect(page.getByTestId('status')).toHaveText('Paused');
  await page.keyboard.press('Enter');
  await reach('Show tables');
  await page.keyboard.press('Enter');
  await expect(page).toHaveURL(/display=table/);
  await reach('Hour');
  await page.keyboard.press('ArrowRight');
  await expect(page).toHaveURL(/resolution=day/);
  await reach('Range');
  await page.keyboard.press('l');
  await page.keyboard.press('a');
  await reach('Zoom out');
  await page.keyboard.press('Enter');
  await expect(page).toHaveURL(/from=/);
  await reach('Items created per day');
  await expect(page.locator(':focus-visible')).toHaveCount(1);
});
