import { describe, expect, test } from 'vitest';
import { THEMES, applyTheme, chosenTheme } from './theme';

function storage(): {
  values: Map<string, string>;
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
} {
  const values = new Map<string, string>();
  return {
    values,
    getItem: (key) => values.get(key) ?? null,
    setItem: (key, value) => values.set(key, value),
  };
}

function forbidden(): never {
  throw new DOMException('denied', 'SecurityError');
}

describe('the theme', () => {
  test('is the system’s until one is chosen', () => {
    expect(chosenTheme(() => storage())).toBe('system');
  });

  test.each(THEMES)('%s is shown, and remembered', (theme) => {
    const [kept, page] = [storage(), { dataset: {} as DOMStringMap }];
    applyTheme(theme, page, () => kept);
    expect(page.dataset.theme).toBe(theme);
    expect(chosenTheme(() => kept)).toBe(theme);
  });

  test('is the system’s where something else was stored', () => {
    const kept = storage();
    applyTheme('dark', { dataset: {} }, () => kept);
    for (const key of kept.values.keys()) kept.setItem(key, 'mauve');
    expect(chosenTheme(() => kept)).toBe('system');
  });

  test('can be chosen where nothing may be stored', () => {
    const page = { dataset: {} as DOMStringMap };
    applyTheme('dark', page, forbidden);
    expect(page.dataset.theme).toBe('dark');
    expect(chosenTheme(forbidden)).toBe('system');
  });
});
