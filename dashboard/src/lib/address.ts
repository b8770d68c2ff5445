/** The page's address says what is shown, so that a link shows the same to everyone. */

import { DEFAULT_RESOLUTION, isResolution, type Resolution } from './resolution';

const PARAMETER = 'resolution';

/** The resolution that an address asks for. */
export function resolutionIn(address: URL): Resolution {
  const asked = address.searchParams.get(PARAMETER);
  return isResolution(asked) ? asked : DEFAULT_RESOLUTION;
}

/** The same address with another resolution; whatever else it says is kept. */
export function withResolution(address: URL, resolution: Resolution): URL {
  const changed = new URL(address);
  changed.searchParams.set(PARAMETER, resolution);
  return changed;
}
