import { expect, test } from 'vitest';
import { resolutionIn, withResolution } from './address';

const page = (query: string) => new URL(`http://newcycle.test/${query}`);

test('the address names the resolution', () => {
  expect(resolutionIn(page('?resolution=quarter'))).toBe('quarter');
});

test('minutes are shown where the address names none, or nonsense', () => {
  expect(resolutionIn(page(''))).toBe('minute');
  expect(resolutionIn(page('?resolution=fortnight'))).toBe('minute');
});

test('another resolution leaves the rest of the address alone', () => {
  expect(withResolution(page('?a=1&resolution=day#x'), 'year').href).toBe(
    'http://newcycle.test/?a=1&resolution=year#x',
  );
});
