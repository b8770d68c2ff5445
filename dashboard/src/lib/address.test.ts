import { expect, test } from 'vitest';
import { viewIn, withView } from './address';
import { browserTimeZone } from './zone';

const page = (query: string) => new URL(`http://newcycle.test/${query}`);

test('the address names the resolution and the time zone', () => {
  const view = { resolution: 'quarter', zone: 'Asia/Kathmandu' } as const;
  expect(viewIn(page('?resolution=quarter&timezone=Asia/Kathmandu'))).toEqual(view);
});

test.each(['', '?resolution=fortnight&timezone=Atlantis', '?timezone=', '?timezone=%2B02:00'])(
  'minutes in the browser’s zone are shown where the address says nothing, or nonsense: "%s"',
  (query) => {
    expect(viewIn(page(query))).toEqual({ resolution: 'minute', zone: browserTimeZone() });
  },
);

test('another view leaves the rest of the address alone', () => {
  const changed = withView(page('?a=1&resolution=day#x'), { resolution: 'year', zone: 'Europe/Berlin' });
  expect(changed.href).toBe('http://newcycle.test/?a=1&resolution=year&timezone=Europe%2FBerlin#x');
});

test.each(['UTC', 'America/St_Johns'])('a view is read from the address as it was written: %s', (zone) => {
  const view = { resolution: 'hour', zone } as const;
  expect(viewIn(withView(page('?resolution=day&timezone=Asia/Tokyo'), view))).toEqual(view);
});
