/** Dark or light: by the system's preference unless the reader chose. The choice is the browser's, not the link's. */

export const THEMES = ['system', 'light', 'dark'] as const;

export type Theme = (typeof THEMES)[number];

const STORED_AS = 'newcycle-theme';

/** What the reader chose last; the system's preference where nothing can be remembered. */
export function chosenTheme(storage: () => Pick<Storage, 'getItem'> = () => localStorage): Theme {
  try {
    const stored = storage().getItem(STORED_AS);
    return THEMES.find((theme) => theme === stored) ?? 'system';
  } catch {
    return 'system';
  }
}

/** Shows the page in this theme, now and when it is opened again. */
export function applyTheme(
  theme: Theme,
  page: { dataset: DOMStringMap } = document.documentElement,
  storage: () => Pick<Storage, 'setItem'> = () => localStorage,
): void {
  page.dataset.theme = theme;
  try {
    storage().setItem(STORED_AS, theme);
  } catch {
    // A browser that keeps nothing still shows what was chosen.
  }
}
