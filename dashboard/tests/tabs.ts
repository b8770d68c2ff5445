/**
 * A browser whose tabs are what a person's are: one that is behind another is hidden, and may be frozen. In those that
 * Playwright starts itself every tab believes that it is in front.
 */

import { chromium, test, type BrowserContext, type Page } from '@playwright/test';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** A browser that has started answers at once. */
const ANSWER_MS = 10_000;

export class Tabs {
  private constructor(
    private readonly context: BrowserContext,
    readonly close: () => Promise<void>,
  ) {}

  static async start(): Promise<Tabs> {
    // Now and then Chromium does not answer whoever asks while it starts.
    return Tabs.#launch().catch(() => Tabs.#launch());
  }

  static async #launch(): Promise<Tabs> {
    const { executablePath, args = [] } = test.info().project.use.launchOptions ?? {};
    const profile = await mkdtemp(join(tmpdir(), 'newcycle-tabs-'));
    const child = spawn(
      executablePath ?? 'chromium',
      [...args, '--headless', '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank'],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    const killed = () => child.kill('SIGKILL');
    process.once('exit', killed);
    const ended = once(child, 'exit').finally(() => process.off('exit', killed));
    const close = async () => {
      child.kill('SIGKILL');
      await ended;
      // Its own children may still be writing there.
      await rm(profile, { recursive: true, force: true, maxRetries: 10 });
    };
    try {
      const browser = await chromium.connectOverCDP(await address(child.stderr), {
        noDefaults: true,
        timeout: ANSWER_MS,
      });
      const [context] = browser.contexts();
      if (context === undefined) throw new Error('the browser has no profile');
      return new Tabs(context, close);
    } catch (error) {
      await close();
      throw error;
    }
  }

  /** A new tab, in front of all others. */
  open(): Promise<Page> {
    return this.context.newPage();
  }

  /** What a browser does to a tab that is behind others: none of its code runs any more. */
  async freeze(page: Page): Promise<void> {
    await this.#lifecycle(page, 'frozen');
  }

  async thaw(page: Page): Promise<void> {
    await this.#lifecycle(page, 'active');
  }

  async #lifecycle(page: Page, state: 'frozen' | 'active'): Promise<void> {
    const session = await this.context.newCDPSession(page);
    await session.send('Page.setWebLifecycleState', { state });
    await session.detach();
  }
}

/** Where the browser says that it can be reached. */
async function address(said: NodeJS.ReadableStream): Promise<string> {
  const lines = createInterface(said);
  for await (const line of lines) {
    const [, url] = /^DevTools listening on (ws:\S+)/.exec(line) ?? [];
    if (url !== undefined) {
      // What else it says is nobody's concern, but must be read.
      said.resume();
      return url;
    }
  }
  throw new Error('the browser ended');
}
