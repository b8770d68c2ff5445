import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

// In development the API runs elsewhere; to the browser it must look like the same origin, as it does when the
// server itself hands out the built page.
const api = process.env.NEWCYCLE_URL ?? 'http://127.0.0.1:8080';
const apiPaths = [
  '/base-items',
  '/dead-letters',
  '/exports',
  '/items',
  '/session',
  '/statistics',
  '/streams',
  '/transfers',
  '/users',
];

export default defineConfig({
  plugins: [svelte()],
  build: {
    // A strict content security policy forbids data: URLs, so that no asset may be inlined.
    assetsInlineLimit: 0,
    reportCompressedSize: true,
  },
  server: {
    proxy: Object.fromEntries(apiPaths.map((path) => [path, api])),
  },
  test: {
    include: ['src/**/*.test.ts'],
  },
});
