import { defineConfig } from '@playwright/test';

// The tests need a running server with the built dashboard in it; `make test` starts one and names it here.
const url = process.env.NEWCYCLE_URL ?? 'http://127.0.0.1:8080';

export default defineConfig({
  testDir: 'tests',
  outputDir: 'test-results',
  // The tests share one ledger and compare exact counts: side by side they would count each other's rows.
  workers: 1,
  fullyParallel: false,
  forbidOnly: process.env.CI !== undefined,
  timeout: 30_000,
  expect: { timeout: 10_000 },
  // One set of pictures: whether they can be compared is looked at by the test.
  snapshotPathTemplate: '{testDir}/appearance/{arg}{ext}',
  reporter: 'list',
  use: {
    baseURL: url,
    locale: 'en-GB',
    timezoneId: 'Europe/Berlin',
    trace: 'retain-on-failure',
    launchOptions: {
      // The system's browser; Playwright's own is never downloaded.
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    },
  },
});
