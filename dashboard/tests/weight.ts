/** What a reader downloads. */

import type { APIRequestContext, Response } from '@playwright/test';
import { gzipSync } from 'node:zlib';

/** The addresses of the scripts among what a page has loaded, each once. */
export function scriptsAmong(responses: readonly Response[]): string[] {
  const scripts = responses.filter((response) => response.request().resourceType() === 'script');
  return [...new Set(scripts.map((script) => script.url()))];
}

/** The bytes of all these together, each gzipped, whether or not somebody between server and reader does that. */
export async function gzippedSize(request: APIRequestContext, urls: readonly string[]): Promise<number> {
  let size = 0;
  for (const url of urls) size += gzipSync(await (await request.get(url)).body(), { level: 9 }).length;
  return size;
}
