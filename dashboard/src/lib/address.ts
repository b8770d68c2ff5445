/** The page's address says what is shown, so that a link shows the same to everyone. */

import { DEFAULT_RESOLUTION, isResolution, type Resolution } from './resolution';
import { browserTimeZone, isTimeZone } from './zone';

/** What is shown. */
export interface View {
  readonly resolution: Resolution;
  readonly zone: string;
}

// Named as in the API.
const RESOLUTION = 'resolution';
const ZONE = 'timezone';

/** The view that an address asks for; what it does not say, or says wrongly, is as on a first visit. */
export function viewIn(address: URL): View {
  const resolution = address.searchParams.get(RESOLUTION);
  const zone = address.searchParams.get(ZONE);
  return {
    resolution: isResolution(resolution) ? resolution : DEFAULT_RESOLUTION,
    zone: zone !== null && isTimeZone(zone) ? zone : browserTimeZone(),
  };
}

/** The same address with another view; whatever else it says is kept. */
export function withView(address: URL, { resolution, zone }: View): URL {
  const changed = new URL(address);
  changed.searchParams.set(RESOLUTION, resolution);
  // Also the browser's own: whoever gets the link may be elsewhere.
  changed.searchParams.set(ZONE, zone);
  return changed;
}
