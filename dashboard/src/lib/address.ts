/** The page's address says what is shown, so that a link shows the same to everyone. */

import { DEFAULT_RESOLUTION, isResolution, type Resolution } from './resolution';
import { browserTimeZone, isTimeZone } from './zone';

/** What is shown. */
export interface View {
  readonly resolution: Resolution;
  readonly zone: string;
  readonly display: Display;
}

/** How series are shown: as pictures, or as the figures in them. */
export type Display = 'chart' | 'table';

// Named as in the API.
const RESOLUTION = 'resolution';
const ZONE = 'timezone';
const DISPLAY = 'display';

/** The view that an address asks for; what it does not say, or says wrongly, is as on a first visit. */
export function viewIn(address: URL): View {
  const resolution = address.searchParams.get(RESOLUTION);
  const zone = address.searchParams.get(ZONE);
  return {
    resolution: isResolution(resolution) ? resolution : DEFAULT_RESOLUTION,
    zone: zone !== null && isTimeZone(zone) ? zone : browserTimeZone(),
    display: address.searchParams.get(DISPLAY) === 'table' ? 'table' : 'chart',
  };
}

/** The same address with another view; whatever else it says is kept. */
export function withView(address: URL, { resolution, zone, display }: View): URL {
  const changed = new URL(address);
  changed.searchParams.set(RESOLUTION, resolution);
  // Also the browser's own: whoever gets the link may be elsewhere.
  changed.searchParams.set(ZONE, zone);
  if (display === 'table') changed.searchParams.set(DISPLAY, display);
  else changed.searchParams.delete(DISPLAY);
  return changed;
}
