import { expect, test, type Response } from '@playwright/test';
import { becomesLive, explore, openExports, openStreams } from './dashboard';
import { gzippedSize, scriptsAmong } from './weight';

/** Of gzipped JavaScript, for figures, exploring and exports together. */
const SCRIPT_BUDGET = 80 * 1024;
/** What the page of data streams adds to that, for those who go there. */
const STREAMS_BUDGET = 8 * 1024;
/** What the form that describes a data stream adds, for those who open it: it says all that the API can be told. */
const STREAM_FORM_BUDGET = 9 * 1024;

test('the page is light, keeps to itself, and is downloaded once', async ({ page, request, baseURL }) => {
  const responses: Response[] = [];
  page.on('response', (response) => responses.push(response));
  await page.goto('/');
  await becomesLive(page);
  await explore(page);
  await openExports(page);

  const scripts = scriptsAmong(responses);
  expect(scripts.length).toBeGreaterThan(0);
  expect(await gzippedSize(request, scripts)).toBeLessThanOrEqual(SCRIPT_BUDGET);
  await openStreams(page);
  const more = scriptsAmong(responses).filter((script) => !scripts.includes(script));
  expect(more.length).toBeGreaterThan(0);
  expect(await gzippedSize(request, more)).toBeLessThanOrEqual(STREAMS_BUDGET);
  await page.getByRole('button', { name: 'New stream' }).click();
  await expect(page.getByTestId('form-stream')).toBeVisible();
  const form = scriptsAmong(responses).filter((script) => ![...scripts, ...more].includes(script));
  expect(form.length).toBeGreaterThan(0);
  expect(await gzippedSize(request, form)).toBeLessThanOrEqual(STREAM_FORM_BUDGET);

  const origins = new Set(responses.map((response) => new URL(response.url()).origin));
  expect([...origins]).toEqual([new URL(baseURL ?? '').origin]);

  for (const response of responses) {
    const { pathname } = new URL(response.url());
    if (!pathname.startsWith('/assets/')) continue;
    expect(pathname, 'its content is in its name').toMatch(/-[\w-]{8}\.\w+$/);
    expect(response.headers()['cache-control'], pathname).toContain('immutable');
  }
  expect(scripts.filter((url) => !new URL(url).pathname.startsWith('/assets/'))).toEqual([]);
});

test('nothing that is written into the page is run', async ({ page }) => {
  const response = await page.goto('/');
  const policy = response?.headers()['content-security-policy'] ?? '';
  expect(policy).toContain("default-src 'none'");
  expect(policy).not.toContain('unsafe-inline');
  expect(policy).not.toContain('unsafe-eval');
  await becomesLive(page);
  const ran = await page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'document.body.dataset.ran = "yes"';
    document.body.append(script);
    return document.body.dataset.ran;
  });
  expect(ran).toBeUndefined();
});
