/** Moments as the clocks of a time zone show them, in the form in which `<input type="datetime-local">` has them. */

import { firstInstantShowing, localDate } from './zone';

const LOCAL_TEXT = /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d{1,3})?)?$/;

/**
 * The moment at which clocks in the zone show this: the first one where they show it twice, the moment of the jump
 * where they jump over it. Undefined for what is no date and time.
 */
export function momentOf(localText: string, zone: string): number | undefined {
  if (!LOCAL_TEXT.test(localText)) return undefined;
  const local = Date.parse(`${localText}Z`);
  // Some browsers take the 30th of February for a day in March.
  if (Number.isNaN(local) || new Date(local).getUTCDate() !== Number(localText.slice(8, 10)))
    return undefined;
  return firstInstantShowing(local, zone);
}

/** What clocks in the zone show at a moment, to the second: "2026-11-21T14:03:59". */
export function localText(moment: number, zone: string): string {
  return localDate(moment, zone).toISOString().slice(0, 19);
}
