/** How much a page holds on to. */

import type { CDPSession, Page } from '@playwright/test';

export interface Held {
  readonly bytes: number;
  readonly nodes: number;
  readonly listeners: number;
}

export class Heap {
  private constructor(private readonly session: CDPSession) {}

  static async of(page: Page): Promise<Heap> {
    const session = await page.context().newCDPSession(page);
    await session.send('Performance.enable');
    return new Heap(session);
  }

  /** What is left when everything that nobody needs has been collected. */
  async held(): Promise<Held> {
    // What a first collection finalises is only freed by the next.
    await this.session.send('HeapProfiler.collectGarbage');
    await this.session.send('HeapProfiler.collectGarbage');
    const { usedSize } = await this.session.send('Runtime.getHeapUsage');
    const { metrics } = await this.session.send('Performance.getMetrics');
    const metric = (name: string) => metrics.find((one) => one.name === name)?.value ?? NaN;
    return { bytes: usedSize, nodes: metric('Nodes'), listeners: metric('JSEventListeners') };
  }
}

/** The steepness of the straight line that is nearest to evenly spaced values. */
export function slope(values: readonly number[]): number {
  const middle = (values.length - 1) / 2;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  let [rise, run] = [0, 0];
  for (const [index, value] of values.entries()) {
    rise += (index - middle) * (value - mean);
    run += (index - middle) ** 2;
  }
  return rise / run;
}
