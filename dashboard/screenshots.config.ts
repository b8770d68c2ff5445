import { defineConfig } from '@playwright/test';
import tests from './playwright.config';

// Pictures of the page for the documentation: `make screenshots`.
export default defineConfig(tests, { testDir: 'screenshots' });
