/**
 * JSON with all digits of its numbers. Records of elsewhere may have more than a number has room for here: they are kept
 * as they were written, and `JSON.stringify` writes them so.
 */

/** Not known to every browser, nor to TypeScript: without it, numbers are as exact as they can be. */
const { rawJSON } = JSON as { rawJSON?: (text: string) => unknown };

export function parseExactly(text: string): unknown {
  if (rawJSON === undefined) return JSON.parse(text);
  return JSON.parse(text, (_, value: unknown, context?: { source?: string }) => {
    const source = context?.source;
    return typeof value === 'number' && source !== undefined && String(value) !== source
      ? rawJSON(source)
      : value;
  });
}
