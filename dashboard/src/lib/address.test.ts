import { expect, test } from 'vitest';
import { viewIn, withView } from './address';
import { browserTimeZone } from './zone';

const page = (query: string) => new URL(`http://newcycle.test/${query}`);

test('the address names the resolution, the time zone and the display', () => {
  const view = { resolution: 'quarter', zone: 'Asia/Kathmandu', display: 'table' } as const;
  expect(viewIn(page('?resolution=quarter&timezone=Asia/Kathmandu&display=table'))).toEqual(view);
});

test.each(['', '?resolution=fortnight&timezone=Atlantis&display=smell', '?timezone=', '?timezone=%2B02:00'])(
  'charts of minutes in the browser’s zone are shown where the address says nothing, or nonsense: "%s"',
  (query) => {
    expect(viewIn(page(query))).toEqual({ resolution: 'minute', zone: browserTimeZone(), display: 'chart' });
  },
);

test('another view leaves the rest of the address alone', () => {
  const view = { resolution: 'year', zone: 'Europe/Berlin', display: 'chart' } as const;
  const changed = withView(page('?a=1&resolution=day&display=table#x'), view);
  expect(changed.href).toBe('http://newcycle.test/?a=1&resolution=year&timezone=Europe%2FBerlin#x');
});

test.each([
  ['UTC', 'chart'],
  ['America/St_Johns', 'table'],
] as const)('a view is read from the address as it was written: %s, %s', (zone, display) => {
  const view = { resolution: 'hour', zone, display } as const;
  expect(viewIn(withView(page('?resolution=day&timezone=Asia/Tokyo'), view))).toEqual(view);
});
