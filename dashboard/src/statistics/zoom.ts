/** Closer, and further away. */

import type { View } from '../lib/address';
import type { LiveStatistics } from '../lib/live.svelte';
import { resolutionFor, zoomedOut } from '../lib/range';
import { RESOLUTIONS, type Resolution } from '../lib/resolution';

/** What is shown at present, whichever way it was chosen. */
export function shownRange({ views }: LiveStatistics): { from: number; to: number } {
  const [shown] = Object.values(views);
  if (shown === undefined) throw new Error('a page without metrics');
  const { starts, until } = shown.chosen;
  return { from: starts[0] ?? until, to: until };
}

type Zoomed = Pick<View, 'resolution' | 'range'>;

/** The part between two moments; in narrower buckets where these can be told apart. */
export function zoomInto(from: number, to: number, resolution: Resolution): Zoomed {
  const [narrower] = inOrder(resolution, resolutionFor(from, to));
  return { resolution: narrower, range: { kind: 'between', from, to } };
}

/** Twice as much as is shown; in wider buckets where there would be too many. */
export function zoomOutOf(live: LiveStatistics, resolution: Resolution): Zoomed {
  const shown = shownRange(live);
  const { from, to } = zoomedOut(shown.from, shown.to, live.now);
  const [, wider] = inOrder(resolution, resolutionFor(from, to));
  return { resolution: wider, range: { kind: 'between', from, to } };
}

/** The narrower one first. */
function inOrder(one: Resolution, other: Resolution): [Resolution, Resolution] {
  return RESOLUTIONS.indexOf(one) < RESOLUTIONS.indexOf(other) ? [one, other] : [other, one];
}
