/** Figures as Markdown. */

import type { Held } from './heap';

export interface Figures {
  readonly scriptBytes: number;
  /** Milliseconds from the navigation's start until the first figure was painted. */
  readonly coldLoads: readonly number[];
  readonly days: readonly {
    readonly resolution: string;
    /** After each hour. */
    readonly held: readonly Held[];
    readonly bytesAnHour: number;
  }[];
  readonly real: { readonly seconds: number; readonly before: Held; readonly after: Held };
}

/** Nothing while some of them are missing. */
export function report(figures: Partial<Figures>, chromium: string): string | undefined {
  const { scriptBytes, coldLoads, days, real } = figures;
  if (scriptBytes === undefined || coldLoads === undefined || days === undefined || real === undefined)
    return undefined;
  const sorted = coldLoads.toSorted((a, b) => a - b);
  const build = (process.env.NEWCYCLE_BINARY ?? '').includes('/release/') ? 'release' : 'debug';
  const day = ({ resolution, held, bytesAnHour }: Figures['days'][number]) => {
    const bytes = held.map((one) => one.bytes);
    const nodes = held.map((one) => one.nodes);
    const listeners = held.map((one) => one.listeners);
    return [
      resolution,
      megabytes(bytes[0]),
      megabytes(bytes.at(-1)),
      megabytes(Math.max(...bytes)),
      `${(bytesAnHour / 1_000).toFixed(1)} KB`,
      `${Math.min(...nodes)}–${Math.max(...nodes)}`,
      `${Math.min(...listeners)}–${Math.max(...listeners)}`,
    ];
  };
  return `# How light the dashboard is

Written by \`make bench-dashboard\` on ${new Date().toISOString().slice(0, 10)}: the built page in Chromium ${chromium.split('.')[0] ?? ''} without a
GPU, the server (${build} build) and its Postgres, all on one machine and over loopback. Budgets were set before measuring.

## Loading

| what | budget | measured |
| --- | --- | --- |
| JavaScript, gzipped | ≤ 80 KB | ${(scriptBytes / 1_024).toFixed(1)} KB |
| from the start of a cold load to the first figure painted, median of ${coldLoads.length} | < 500 ms | ${milliseconds(sorted[Math.floor(sorted.length / 2)])} |
| the same, worst | | ${milliseconds(sorted.at(-1))} |

Each load is in a browser profile of its own, with nothing cached and no connection open.

## A day open at 10 updates a second

The page's clocks, timers and EventSource are replaced by ones in which time passes as fast as the page keeps up, and
pixels are not painted. It gets 864,000 updates, ten at once each second, as many of the newest event, and 17,280 heartbeats, draws its charts every
second, and rolls its buckets over as on any day. After each hour its status and figures are checked, garbage is
collected, and what is left is measured. The start is after one more hour, which fills the windows and is not counted.

| resolution | heap at the start | at the end | most | growth an hour | DOM nodes | listeners |
| --- | --- | --- | --- | --- | --- | --- |
${days.map((one) => `| ${day(one).join(' | ')} |`).join('\n')}

Growth is the slope of the line that fits all ${days[0]?.held.length ?? 0} measurements best. When this bench was written, heap
snapshots five hours apart, by the minute, had no more objects, closures or strings of the page. What grew is bounded: the
cache of a time zone's offsets (4,096 minutes, then it starts over), the browser's own list of frames that took long, and
compiled code.

## A minute at the real server

${real.seconds} seconds at 10 inserts a second, by the second, nothing replaced: from ${megabytes(real.before.bytes)}, ${real.before.nodes} nodes and
${real.before.listeners} listeners to ${megabytes(real.after.bytes)}, ${real.after.nodes} nodes and ${real.after.listeners} listeners.
`;
}

function megabytes(bytes = NaN): string {
  return `${(bytes / 1_000_000).toFixed(2)} MB`;
}

function milliseconds(value = NaN): string {
  return `${value.toFixed(0)} ms`;
}
