/** Measures the page and writes docs/dashboard-figures.md. Measured is here, asserted only that it was worth measuring. */

import { expect, test, type APIRequestContext, type Response } from '@playwright/test';
import { writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { becomesLive, figure, open } from '../tests/dashboard';
import { insertUser } from '../tests/ledger';
import { gzippedSize, scriptsAmong } from '../tests/weight';
import { Heap, slope, type Held } from './heap';
import { report, type Figures } from './report';
import { build } from './world';

const COLD_LOADS = 20;
const HOUR_MS = 3_600_000;
/** For trying the bench itself, fewer do. */
const HOURS = Number(process.env.HOURS ?? 24);
const UPDATES_A_SECOND = 10;
const HEARTBEAT_MS = 5_000;
const REAL_SECONDS = 60;

const figures: { -readonly [Name in keyof Figures]?: Figures[Name] } = {};

test.afterAll(async ({ browser }) => {
  const text = report(figures, browser.version());
  console.log(text);
  if (text !== undefined && HOURS === 24) await writeFile('../docs/dashboard-figures.md', text);
});

async function insertManyUsers(request: APIRequestContext, count: number): Promise<void> {
  const response = await request.post('/users', {
    headers: { 'content-type': 'application/x-ndjson' },
    data: '{}\n'.repeat(count),
  });
  expect(response.ok(), await response.text()).toBe(true);
}

test('cold loads', async ({ browser, request }) => {
  await insertManyUsers(request, 10_000);
  const times: number[] = [];
  for (let load = 0; load < COLD_LOADS; load += 1) {
    const context = await browser.newContext();
    const page = await context.newPage();
    const responses: Response[] = [];
    page.on('response', (response) => responses.push(response));
    await page.addInitScript(() => {
      const look = () => {
        const shown = document.querySelector('[data-testid="total"]')?.textContent ?? '';
        // A frame's callbacks run before it is painted, and tasks after that.
        if (/\d/.test(shown)) setTimeout(() => performance.mark('first figure'));
        else requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    });
    await page.goto('/');
    await becomesLive(page);
    const time = await page.evaluate(() => performance.getEntriesByName('first figure')[0]?.startTime);
    times.push(time ?? NaN);
    figures.scriptBytes ??= await gzippedSize(request, scriptsAmong(responses));
    await context.close();
  }
  figures.coldLoads = times;
});

for (const resolution of ['second', 'minute'] as const) {
  test(`a day open by the ${resolution}`, async ({ page }) => {
    await page.addInitScript(build, {
      startsAt: Date.UTC(2026, 0, 15, 9),
      updatesASecond: UPDATES_A_SECOND,
      heartbeatMs: HEARTBEAT_MS,
    });
    await page.goto(`/?resolution=${resolution}&timezone=UTC`);
    const heap = await Heap.of(page);
    const held: Held[] = [];
    const measure = async () => {
      // A page that is not up to date holds on to little, and says nothing.
      await expect(page.getByTestId('status')).toHaveText('Live');
      const expected = await page.evaluate(() => window.world.current('transfers'));
      expect(await figure(page, 'transfers', 'current')).toBe(expected);
      held.push(await heap.held());
    };
    // Until the window is full it has a reason to grow.
    await page.evaluate((milliseconds) => window.world.pass(milliseconds), HOUR_MS);
    await measure();
    for (let hour = 0; hour < HOURS; hour += 1) {
      await page.evaluate((milliseconds) => window.world.pass(milliseconds), HOUR_MS);
      await measure();
    }
    const updates = await page.evaluate(() => window.world.updates);
    expect(updates).toBeGreaterThanOrEqual((HOURS + 1) * 3_600 * UPDATES_A_SECOND);
    figures.days = [
      ...(figures.days ?? []),
      { resolution, held, bytesAnHour: slope(held.map(({ bytes }) => bytes)) },
    ];
  });
}

test('a minute at the real server', async ({ page, request }) => {
  await open(page, 'second');
  const heap = await Heap.of(page);
  const rate = UPDATES_A_SECOND;
  const insertFor = async (seconds: number) => {
    const begun = performance.now();
    for (let row = 0; row < seconds * rate; row += 1) {
      await insertUser(request);
      await delay(Math.max(0, begun + ((row + 1) * 1_000) / rate - performance.now()));
    }
  };
  // Once everything that happens has happened before, what is compiled and cached is there.
  await insertFor(REAL_SECONDS / 6);
  const before = await heap.held();
  await insertFor(REAL_SECONDS);
  const after = await heap.held();
  figures.real = { seconds: REAL_SECONDS, before, after };
});
