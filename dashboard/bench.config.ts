import { defineConfig } from '@playwright/test';
import tests from './playwright.config';

// Figures for the documentation: `make bench-dashboard`. A recorded trace would be measured as well.
export default defineConfig(tests, { testDir: 'benches', timeout: 0, use: { trace: 'off' } });
