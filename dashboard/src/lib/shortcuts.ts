/** Keys that act on the whole page. */

export interface Shortcut {
  readonly keys: readonly string[];
  readonly meaning: string;
  readonly run: (key: string) => void;
}

const STORED_AS = 'newcycle-shortcuts';

/** Whether a key was pressed for the page: not with a modifier, and not in a field that makes something of it. */
export function isForPage(event: KeyboardEvent): boolean {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return false;
  const { target } = event;
  return !(target instanceof Element && target.closest('input:not([type=radio]), select, textarea') !== null);
}

/** Whether the reader wants single keys to act; who speaks to the computer may not. */
export function shortcutsWanted(): boolean {
  try {
    return localStorage.getItem(STORED_AS) !== 'off';
  } catch {
    return true;
  }
}

export function rememberShortcuts(wanted: boolean): void {
  try {
    localStorage.setItem(STORED_AS, wanted ? 'on' : 'off');
  } catch {
    // Where nothing is kept, it holds until the page is closed.
  }
}
