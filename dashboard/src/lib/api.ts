/** The REST API, typed. Every failure is a `ProblemError`. */

import type {
  BaseItem,
  Batch,
  Batches,
  Breakdown,
  DeadLetter,
  Export,
  Item,
  NewBaseItem,
  NewExport,
  NewItem,
  NewPreview,
  NewStream,
  NewTransfer,
  NewUser,
  Owner,
  Page,
  Preview,
  SessionStatus,
  Stream,
  StreamChange,
  StreamData,
  Transfer,
  User,
} from './api-types';
import { parseExactly } from './exact-json';
import type { Metric } from './metric';
import { ProblemError, problemOf, unreachable } from './problem';

/** Which rows of a list: so many after those that a page's `next_page_token` stands for, or the first ones. */
export interface PageRequest {
  readonly pageSize: number;
  readonly pageToken?: string | undefined;
}

/** Moments are milliseconds since 1970. */
export interface Api {
  createBaseItem(body: NewBaseItem): Promise<BaseItem>;
  createItem(body: NewItem): Promise<Item>;
  createUser(body: NewUser): Promise<User>;
  createTransfer(body: NewTransfer): Promise<Transfer>;
  latestBaseItems(pageSize: number): Promise<BaseItem[]>;
  latestItems(pageSize: number): Promise<Item[]>;
  latestUsers(pageSize: number): Promise<User[]>;
  baseItem(id: string): Promise<BaseItem>;
  item(id: string): Promise<Item>;
  user(id: string): Promise<User>;
  transfer(id: string): Promise<Transfer>;
  items(page: PageRequest): Promise<Page<Item>>;
  transfers(page: PageRequest): Promise<Page<Transfer>>;
  /** The owner at a moment, or now; a problem of status 404 where nobody owned the item then. */
  owner(itemId: string, at: number | undefined): Promise<Owner>;
  /** What happened to an item, newest first. */
  history(itemId: string, page: PageRequest): Promise<Page<Transfer>>;
  /** What a user owned at a moment, or owns now. */
  holdings(userId: string, at: number | undefined, page: PageRequest): Promise<Page<Item>>;
  /** Whose events there are from one moment until another: the first so many base items, and the rest. */
  breakdown(metric: Metric, range: { from: number; to: number }, limit: number): Promise<Breakdown>;
  /** Exports of the reader, newest first. */
  exports(page: PageRequest): Promise<Page<Export>>;
  startExport(body: NewExport): Promise<Export>;
  /** Has an export made no further; a problem of status 409 where it is over. */
  cancelExport(id: string): Promise<Export>;
  /** Drops the file of an export; what was exported when stays known. */
  deleteExport(id: string): Promise<void>;
  /** Data streams, newest first. */
  streams(page: PageRequest): Promise<Page<Stream>>;
  stream(id: string): Promise<Stream>;
  createStream(body: NewStream): Promise<Stream>;
  /** Changes what is said of a stream; a problem of status 409 while it fetches. */
  changeStream(id: string, body: StreamChange): Promise<Stream>;
  /** What would become of the first records of a source. */
  previewStream(body: NewPreview): Promise<Preview>;
  /** Has a stream fetch on its schedule. */
  startStream(id: string): Promise<Stream>;
  /** Has a stream fetch no more, also what it fetches at the moment. */
  stopStream(id: string): Promise<Stream>;
  /** Has a stream fetch now, besides its schedule; a problem of status 409 while it is being stopped. */
  runStream(id: string): Promise<Stream>;
  /** Drops a stream with everything that it fetched. */
  deleteStream(id: string): Promise<void>;
  /** The runs of a stream, newest first. */
  batches(streamId: string, page: PageRequest): Promise<Page<Batch>>;
  /** The records of the newest complete batch; a problem of status 404 where there is none. */
  streamData(streamId: string, page: PageRequest): Promise<StreamData>;
  /** What could not be processed of a stream, newest first. */
  deadLetters(streamId: string, page: PageRequest): Promise<Page<DeadLetter>>;
  /** Has a worker try again to process a record. */
  retryDeadLetter(id: string): Promise<DeadLetter>;
  /** Who asks, and what they may do. */
  session(): Promise<SessionStatus>;
  /** Begins a session in exchange for a key; a problem of status 401 where nobody has such a key. */
  signIn(key: string): Promise<SessionStatus>;
  /** Ends the session, if there is one. */
  signOut(): Promise<void>;
}

// Answers come within milliseconds. A connection that died in silence would keep the page waiting for minutes.
const PATIENCE_MS = 15_000;
// As long as the server waits for a worker that asks a source, and somewhat longer.
const SOURCE_PATIENCE_MS = 40_000;

const UNREACHABLE = 'The server could not be reached.';
const UNSAVED = `${UNREACHABLE} Nothing is known to have been saved.`;

/** A client for the server at `base`; the empty string is the page's own origin. */
export function createApi(base = '', send: typeof fetch = (input, init) => fetch(input, init)): Api {
  async function request(path: string, options: RequestInit, unanswered = UNREACHABLE): Promise<unknown> {
    let response: Response;
    try {
      response = await send(base + path, options);
    } catch {
      throw new ProblemError(unreachable(unanswered));
    }
    if (!response.ok) throw new ProblemError(await problemOf(response));
    if (response.status === 204) return undefined;
    try {
      return parseExactly(await response.text());
    } catch {
      throw new ProblemError(unreachable('The answer of the server could not be read.'));
    }
  }

  // The rows' shapes are promised by the server's OpenAPI document, which is why they are not checked again here.
  const create = async <Row>(path: string, body: object) =>
    (await request(path, posted(body), UNSAVED)) as Row;

  const read = async <Answer>(path: string, query: Query = {}) => {
    const said = Object.entries(query).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, String(value)]],
    );
    const search = said.length === 0 ? '' : `?${new URLSearchParams(said).toString()}`;
    return (await request(path + search, {
      headers: { accept: 'application/json' },
      ...patiently(),
    })) as Answer;
  };

  /** Has something done that takes no body. */
  const act = async <Answer>(method: 'POST' | 'PUT', path: string) =>
    (await request(path, {
      method,
      headers: { accept: 'application/json' },
      ...patiently(),
    })) as Answer;

  const drop = async (path: string) => {
    await request(path, { method: 'DELETE', ...patiently() });
  };

  const one = <Row>(path: string, id: string) => read<Row>(`${path}/${encodeURIComponent(id)}`);

  const list = <Row>(path: string, { pageSize, pageToken }: PageRequest, query: Query = {}) =>
    read<Page<Row>>(path, { ...query, page_size: pageSize, page_token: pageToken });

  const latest = async <Row>(path: string, pageSize: number) => (await list<Row>(path, { pageSize })).data;

  return {
    createBaseItem: (body) => create<BaseItem>('/base-items', body),
    createItem: (body) => create<Item>('/items', body),
    createUser: (body) => create<User>('/users', body),
    createTransfer: (body) => create<Transfer>('/transfers', body),
    latestBaseItems: (pageSize) => latest<BaseItem>('/base-items', pageSize),
    latestItems: (pageSize) => latest<Item>('/items', pageSize),
    latestUsers: (pageSize) => latest<User>('/users', pageSize),
    baseItem: (id) => one<BaseItem>('/base-items', id),
    item: (id) => one<Item>('/items', id),
    user: (id) => one<User>('/users', id),
    transfer: (id) => one<Transfer>('/transfers', id),
    items: (page) => list<Item>('/items', page),
    transfers: (page) => list<Transfer>('/transfers', page),
    owner: (itemId, at) => read<Owner>(`/items/${encodeURIComponent(itemId)}/owner`, moment(at)),
    history: (itemId, page) => list<Transfer>(`/items/${encodeURIComponent(itemId)}/transfers`, page),
    holdings: (userId, at, page) =>
      list<Item>(`/users/${encodeURIComponent(userId)}/items`, page, moment(at)),
    breakdown: (metric, { from, to }, limit) =>
      read<Breakdown>(`/statistics/${metric}/breakdown`, {
        from: new Date(from).toISOString(),
        to: new Date(to).toISOString(),
        limit,
      }),
    exports: (page) => list<Export>('/exports', page),
    startExport: (body) => create<Export>('/exports', body),
    cancelExport: (id) => act<Export>('POST', `${exportPath(id)}/cancel`),
    deleteExport: (id) => drop(exportPath(id)),
    streams: (page) => list<Stream>('/streams', page),
    stream: (id) => one<Stream>('/streams', id),
    createStream: (body) => create<Stream>('/streams', body),
    changeStream: async (id, body) =>
      (await request(streamPath(id), { ...posted(body), method: 'PATCH' }, UNSAVED)) as Stream,
    previewStream: async (body) =>
      (await request('/streams/preview', { ...posted(body), ...patiently(SOURCE_PATIENCE_MS) })) as Preview,
    startStream: (id) => act<Stream>('PUT', `${streamPath(id)}/start`),
    stopStream: (id) => act<Stream>('PUT', `${streamPath(id)}/stop`),
    runStream: (id) => act<Stream>('POST', `${streamPath(id)}/run`),
    deleteStream: (id) => drop(streamPath(id)),
    batches: async (streamId, { pageSize, pageToken }) => {
      const path = `${streamPath(streamId)}/batches`;
      const { data, next_before: next } = await read<Batches>(path, {
        page_size: pageSize,
        before: pageToken,
      });
      return { data, next_page_token: next == null ? null : String(next) };
    },
    streamData: (streamId, { pageSize, pageToken }) =>
      read<StreamData>(`${streamPath(streamId)}/data`, { page_size: pageSize, page_token: pageToken }),
    deadLetters: (streamId, page) => list<DeadLetter>('/dead-letters', page, { stream_id: streamId }),
    retryDeadLetter: (id) => act<DeadLetter>('POST', `/dead-letters/${encodeURIComponent(id)}/retry`),
    session: () => read<SessionStatus>('/session'),
    signIn: async (key) =>
      (await request('/session', { ...posted({ key }), ...patiently() })) as SessionStatus,
    signOut: () => drop('/session'),
  };
}

/** Where the file of an export is downloaded from. */
export function exportDataPath(id: string): string {
  return `${exportPath(id)}/data`;
}

function exportPath(id: string): string {
  return `/exports/${encodeURIComponent(id)}`;
}

function streamPath(id: string): string {
  return `/streams/${encodeURIComponent(id)}`;
}

function posted(body: object): RequestInit {
  return {
    method: 'POST',
    headers: { accept: 'application/json', 'content-type': 'application/json' },
    body: JSON.stringify(body),
  };
}

function patiently(milliseconds = PATIENCE_MS): RequestInit {
  return { signal: AbortSignal.timeout(milliseconds) };
}

type Query = Readonly<Record<string, string | number | undefined>>;

function moment(at: number | undefined): Query {
  return { at: at === undefined ? undefined : new Date(at).toISOString() };
}
