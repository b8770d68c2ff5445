/** The page's address says what is shown, so that a link shows the same to everyone. */

import { isSpanName, rangeIn, USUAL_WINDOW, type Range } from './range';
import { DEFAULT_RESOLUTION, isResolution, type Resolution } from './resolution';
import { browserTimeZone, isTimeZone } from './zone';

/** The pages there are. The first is shown unless the address names another. */
export const PAGES = ['statistics', 'explore', 'exports', 'streams'] as const;

export type PageName = (typeof PAGES)[number];

/** What is shown. */
export interface View {
  readonly page: PageName;
  readonly resolution: Resolution;
  readonly zone: string;
  readonly range: Range;
  /** Only what happens to items of this base item is counted. */
  readonly baseItem: string | undefined;
  readonly display: Display;
  /** Nothing but the figures, as large as they can be. */
  readonly kiosk: boolean;
  /** What the page for exploring shows; the latest of everything where nothing is chosen. */
  readonly subject: Subject | undefined;
  /** The moment at which it is shown (milliseconds since 1970); now, unless one is chosen. */
  readonly at: number | undefined;
  /** The data stream of which everything is shown. */
  readonly stream: string | undefined;
  /** Whether somebody wants to sign in, and then to see all this. */
  readonly signIn: boolean;
}

/** How series are shown: as pictures, or as the figures in them. */
export type Display = 'chart' | 'table';

/** An item or a user. */
export interface Subject {
  readonly kind: 'item' | 'user';
  readonly id: string;
}

// Named as in the API where it has the same.
const PAGE = 'page';
const RESOLUTION = 'resolution';
const ZONE = 'timezone';
const LAST = 'last';
const FROM = 'from';
const TO = 'to';
const BASE_ITEM = 'base_item_id';
const DISPLAY = 'display';
const KIOSK = 'kiosk';
const AT = 'at';
const STREAM = 'stream_id';
const SIGN_IN = 'sign_in';

/** The view that an address asks for; what it does not say, or says wrongly, is as on a first visit. */
export function viewIn(address: URL): View {
  const said = (name: string) => address.searchParams.get(name) ?? undefined;
  const resolution = said(RESOLUTION);
  const zone = said(ZONE);
  const known = isResolution(resolution) ? resolution : DEFAULT_RESOLUTION;
  return {
    page: PAGES.find((page) => page === said(PAGE)) ?? 'statistics',
    resolution: known,
    zone: zone !== undefined && isTimeZone(zone) ? zone : browserTimeZone(),
    range: rangeIn(rangeOf(said(LAST), momentOf(said(FROM)), momentOf(said(TO))), known),
    baseItem: said(BASE_ITEM),
    display: said(DISPLAY) === 'table' ? 'table' : 'chart',
    kiosk: address.searchParams.has(KIOSK),
    subject: subjectOf(said('item'), said('user')),
    at: momentOf(said(AT)),
    stream: said(STREAM),
    signIn: address.searchParams.has(SIGN_IN),
  };
}

/** The same address with another view; whatever else it says is kept. */
export function withView(address: URL, view: View): URL {
  const changed = new URL(address);
  const { range, subject } = view;
  const say = (name: string, value: string | undefined) => {
    if (value === undefined) changed.searchParams.delete(name);
    else changed.searchParams.set(name, value);
  };
  say(PAGE, view.page === 'statistics' ? undefined : view.page);
  say(RESOLUTION, view.resolution);
  // Also the browser's own: whoever gets the link may be elsewhere.
  say(ZONE, view.zone);
  say(LAST, range.kind === 'last' ? range.span : undefined);
  say(FROM, range.kind === 'between' ? new Date(range.from).toISOString() : undefined);
  say(TO, range.kind === 'between' ? new Date(range.to).toISOString() : undefined);
  say(BASE_ITEM, view.baseItem);
  say(DISPLAY, view.display === 'table' ? view.display : undefined);
  say(KIOSK, view.kiosk ? '1' : undefined);
  say('item', subject?.kind === 'item' ? subject.id : undefined);
  say('user', subject?.kind === 'user' ? subject.id : undefined);
  say(AT, view.at === undefined ? undefined : new Date(view.at).toISOString());
  say(STREAM, view.stream);
  say(SIGN_IN, view.signIn ? '1' : undefined);
  return changed;
}

function rangeOf(last: string | undefined, from: number | undefined, to: number | undefined): Range {
  if (from !== undefined && to !== undefined && from < to) return { kind: 'between', from, to };
  return isSpanName(last) ? { kind: 'last', span: last } : USUAL_WINDOW;
}

// The years that the ledger accepts.
const FIRST_MOMENT = Date.parse('0001-01-01T00:00:00Z');
const LAST_MOMENT = Date.parse('9999-12-31T23:59:59Z');

function momentOf(text: string | undefined): number | undefined {
  const moment = Date.parse(text ?? '');
  return moment >= FIRST_MOMENT && moment <= LAST_MOMENT ? moment : undefined;
}

function subjectOf(item: string | undefined, user: string | undefined): Subject | undefined {
  if (item !== undefined) return { kind: 'item', id: item };
  return user === undefined ? undefined : { kind: 'user', id: user };
}

/** What the page is called, in tabs and bookmarks. */
export function titleOf({ page, subject, resolution }: View): string {
  if (page === 'statistics') return `By the ${resolution} – newcycle`;
  if (page === 'exports') return 'Exports – newcycle';
  if (page === 'streams') return 'Streams – newcycle';
  return subject === undefined
    ? 'Explore – newcycle'
    : `${subject.kind === 'item' ? 'Item' : 'User'} …${subject.id.slice(-8)} – newcycle`;
}
