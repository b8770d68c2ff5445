import { expect, test, type Page } from '@playwright/test';
import { becomesLive } from './dashboard';

/** The colours of the page and of a chart's bars, as they are painted. */
function colours(page: Page): Promise<{ background: string; bar: string }> {
  return page.evaluate(() => {
    const style = getComputedStyle(document.documentElement);
    return { background: style.backgroundColor, bar: style.getPropertyValue('--bar') };
  });
}

const LIGHT = { background: 'rgb(246, 247, 248)', bar: 'rgb(127, 184, 178)' };
const DARK = { background: 'rgb(15, 20, 24)', bar: 'rgb(47, 125, 117)' };

test('the theme is the system’s unless one is chosen, which is remembered', async ({ page }) => {
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.goto('/');
  expect(await colours(page)).toEqual(DARK);
  await page.emulateMedia({ colorScheme: 'light' });
  expect(await colours(page)).toEqual(LIGHT);

  await page.getByLabel('Theme').selectOption('Dark');
  expect(await colours(page)).toEqual(DARK);
  await page.reload();
  await becomesLive(page);
  expect(await colours(page)).toEqual(DARK);
  await expect(page.getByLabel('Theme')).toHaveValue('dark');

  await page.getByLabel('Theme').selectOption('System');
  expect(await colours(page)).toEqual(LIGHT);
});

test('charts are painted anew in the theme that is chosen', async ({ page }) => {
  await page.emulateMedia({ colorScheme: 'light' });
  await page.goto('/');
  await becomesLive(page);
  const canvas = page.locator('canvas').first();
  // The marks below the axis are there also when nothing happened.
  const darkest = () =>
    canvas.evaluate((element) => {
      const { width, height } = element as HTMLCanvasElement;
      const data =
        (element as HTMLCanvasElement).getContext('2d')?.getImageData(0, 0, width, height).data ?? [];
      let least = 255;
      for (let at = 0; at < data.length; at += 4) {
        if ((data[at + 3] ?? 0) > 250) least = Math.min(least, data[at] ?? 255);
      }
      return least;
    });
  const light = await darkest();
  await page.getByLabel('Theme').selectOption('Dark');
  await expect.poll(darkest).not.toBe(light);
});
