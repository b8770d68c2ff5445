import { expect, test } from 'vitest';
import { titleOf, viewIn, withView, type View } from './address';
import { browserTimeZone } from './zone';

const page = (query: string) => new URL(`http://newcycle.test/${query}`);

const FIRST_VISIT: View = {
  page: 'statistics',
  resolution: 'minute',
  zone: browserTimeZone(),
  range: { kind: 'window' },
  baseItem: undefined,
  display: 'chart',
  kiosk: false,
  subject: undefined,
  at: undefined,
  stream: undefined,
  signIn: false,
};

test('the address names all that is shown', () => {
  const address = page(
    '?resolution=quarter&timezone=Asia/Kathmandu&from=2020-01-01T00:00:00Z&to=2021-01-01T00:00:00Z' +
      '&base_item_id=b&display=table&kiosk=1',
  );
  expect(viewIn(address)).toEqual({
    ...FIRST_VISIT,
    resolution: 'quarter',
    zone: 'Asia/Kathmandu',
    range: { kind: 'between', from: Date.UTC(2020, 0), to: Date.UTC(2021, 0) },
    baseItem: 'b',
    display: 'table',
    kiosk: true,
  });
});

test.each([
  '',
  '?resolution=fortnight&timezone=Atlantis&display=smell&page=404&last=eon',
  '?timezone=&from=then&to=now&at=',
  '?timezone=%2B02:00&from=2021-01-01T00:00:00Z&to=2020-01-01T00:00:00Z',
  '?from=2021-01-01T00:00:00Z',
  // A year of minutes is more than can be shown, and so are 20 years of them.
  '?from=2020-01-01T00:00:00Z&to=2021-01-01T00:00:00Z',
  '?last=20y',
  '?at=%2B275760-09-13T00:00:00Z',
])('what the address does not say, or says wrongly, is as on a first visit: "%s"', (query) => {
  expect(viewIn(page(query))).toEqual(FIRST_VISIT);
});

test('another view leaves the rest of the address alone', () => {
  const view: View = { ...FIRST_VISIT, resolution: 'year', zone: 'Europe/Berlin' };
  const changed = withView(page('?a=1&resolution=day&display=table&last=24h&user=u&page=explore#x'), view);
  expect(changed.href).toBe('http://newcycle.test/?a=1&resolution=year&timezone=Europe%2FBerlin#x');
});

test.each<Partial<View>>([
  { zone: 'UTC' },
  { zone: 'America/St_Johns', display: 'table', kiosk: true },
  { range: { kind: 'last', span: '24h' } },
  { range: { kind: 'between', from: Date.UTC(2026, 1, 3), to: Date.UTC(2026, 1, 3, 1) }, baseItem: 'b' },
  { page: 'explore', subject: { kind: 'item', id: 'i' }, at: Date.UTC(2026, 1, 3) },
  { page: 'explore', subject: { kind: 'user', id: 'u' } },
  { page: 'explore', signIn: true },
  { page: 'exports', baseItem: 'b' },
  { page: 'streams', stream: 's' },
])('a view is read from the address as it was written: %j', (changes) => {
  const view = { ...FIRST_VISIT, ...changes };
  expect(viewIn(withView(page('?resolution=day&timezone=Asia/Tokyo&user=x'), view))).toEqual(view);
});

test.each<[Partial<View>, string]>([
  [{}, 'By the minute – newcycle'],
  [{ page: 'explore' }, 'Explore – newcycle'],
  [{ page: 'exports' }, 'Exports – newcycle'],
  [{ page: 'streams', stream: 's' }, 'Streams – newcycle'],
  [
    { page: 'explore', subject: { kind: 'item', id: '0197a000-0000-7000-8000-00000000abcd' } },
    'Item …0000abcd – newcycle',
  ],
])('a tab is named by what it shows: %j', (changes, expected) => {
  expect(titleOf({ ...FIRST_VISIT, ...changes })).toBe(expected);
});
