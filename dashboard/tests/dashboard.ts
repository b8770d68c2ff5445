/** The dashboard as its readers see it. */

import AxeBuilder from '@axe-core/playwright';
import { expect, type Locator, type Page } from '@playwright/test';
import type { Metric } from '../src/lib/metric';
import type { Resolution } from '../src/lib/resolution';

const WCAG_22_AA = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];

export type Figure = 'current' | 'total';

/** Opens the page and waits until its figures can be believed. */
export async function open(page: Page, resolution: Resolution): Promise<void> {
  await page.goto(`/?resolution=${resolution}`);
  await becomesLive(page);
}

/** Opens the page for exploring, with its forms. */
export async function explore(page: Page, query = ''): Promise<void> {
  await page.goto(`/?page=explore${query}`);
  await expect(page.getByTestId('status')).toHaveText('Live');
}

/** Opens the page of exports. */
export async function openExports(page: Page, query = '', server = ''): Promise<void> {
  await page.goto(`${server}/?page=exports${query}`);
  await expect(page.getByTestId('status')).toHaveText('Live');
}

/** Opens the page of data streams. */
export async function openStreams(page: Page, query = '', server = ''): Promise<void> {
  await page.goto(`${server}/?page=streams${query}`);
  await expect(page.getByTestId('status')).toHaveText('Live');
}

export async function isAccessible(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).withTags(WCAG_22_AA).analyze();
  expect(violations.map(({ id, nodes }) => [id, ...nodes.map((node) => node.html)])).toEqual([]);
}

/** What the browser complains of from now on. */
export function complaints(page: Page): string[] {
  const said: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') said.push(message.text());
  });
  page.on('pageerror', (error) => said.push(error.message));
  return said;
}

export async function becomesLive(page: Page): Promise<void> {
  await expect(page.getByTestId('status')).toHaveText('Live');
  for (const card of await page.locator('[data-testid^="metric-"]').all()) {
    await expect(card.getByTestId('total')).toHaveText(/\d/);
  }
}

export function card(page: Page, metric: Metric): Locator {
  return page.getByTestId(`metric-${metric}`);
}

/** The number on a card; the thousands are set apart by commas there. */
export async function figure(page: Page, metric: Metric, which: Figure): Promise<number> {
  const text = await card(page, metric).getByTestId(which).innerText();
  return Number(text.replaceAll(',', ''));
}

/** Waits until the number on a card is this one. */
export async function expectFigure(
  page: Page,
  metric: Metric,
  which: Figure,
  expected: number,
): Promise<void> {
  await expect.poll(() => figure(page, metric, which), { message: `${which} of ${metric}` }).toBe(expected);
}
