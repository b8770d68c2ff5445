/**
 * What a form says of a data stream, field by field. Fields are named as in the API, so that what the server says of one
 * is said beside it; what is left empty is not sent, and stays as the server has it.
 */

import { parseExactly } from '../lib/exact-json';
import type { NewStream, SourceSettings, Stream, StreamChange } from '../lib/api-types';

type HttpSource = Extract<SourceSettings, { http: unknown }>['http'];
type HubspotSource = Extract<SourceSettings, { hubspot: unknown }>['hubspot'];
type Auth = NonNullable<HttpSource['auth']>;
type Pagination = NonNullable<HttpSource['pagination']>;

/** How a source is told who asks; a key has two places where it may be sent. */
export type AuthKind = 'none' | 'bearer' | 'basic' | 'header' | 'parameter' | 'oauth2';

/** How one gets from one page to the next. */
export type PaginationKind = 'none' | 'cursor' | 'next_link' | 'page' | 'offset';

/** In place of an interval, where a cron expression says when a stream runs. */
export const BY_CRON = 'cron';

export interface Draft {
  name: string;
  source: 'http' | 'hubspot';
  'source.http.url': string;
  'source.http.method': NonNullable<HttpSource['method']>;
  'source.http.body': string;
  /** A line for each. */
  'source.http.headers': string;
  'source.http.auth': AuthKind;
  'source.http.auth.bearer.token': string;
  'source.http.auth.basic.username': string;
  'source.http.auth.basic.password': string;
  'source.http.auth.key.header': string;
  'source.http.auth.key.parameter': string;
  'source.http.auth.key.value': string;
  'source.http.auth.oauth2.token_url': string;
  'source.http.auth.oauth2.client_id': string;
  'source.http.auth.oauth2.client_secret': string;
  'source.http.auth.oauth2.scope': string;
  'source.http.records': string;
  'source.http.key': string;
  'source.http.pagination': PaginationKind;
  'source.http.pagination.cursor.at': string;
  'source.http.pagination.cursor.parameter': string;
  'source.http.pagination.next_link.at': string;
  'source.http.pagination.page.parameter': string;
  'source.http.pagination.page.first': string;
  'source.http.pagination.page.verify': boolean;
  'source.http.pagination.offset.parameter': string;
  'source.http.pagination.offset.verify': boolean;
  'source.http.incremental.field': string;
  'source.http.incremental.parameter': string;
  'source.hubspot.object': HubspotSource['object'];
  /** Separated by commas. */
  'source.hubspot.properties': string;
  'source.hubspot.incremental': boolean;
  'source.hubspot.auth.bearer.token': string;
  'source.hubspot.base_url': string;
  /** So many seconds, or `BY_CRON`. */
  interval_seconds: string;
  cron: string;
  timezone: string;
  /** A list of steps, as JSON. */
  transform: string;
  /** An object, as JSON. */
  'destination.ledger': string;
  /** Whether it is started at once. */
  desired: boolean;
}

export type DraftField = keyof Draft;

/** The fields that are free texts. */
export type TextName = {
  [Name in DraftField]: string extends Draft[Name] ? Name : never;
}[DraftField];

/** The fields that are true or not. */
export type CheckName = {
  [Name in DraftField]: Draft[Name] extends boolean ? Name : never;
}[DraftField];

/** A stream of which nothing is said yet; cron expressions go by the clocks of this zone. */
export function emptyDraft(zone = 'UTC'): Draft {
  return {
    name: '',
    source: 'http',
    'source.http.url': '',
    'source.http.method': 'GET',
    'source.http.body': '',
    'source.http.headers': '',
    'source.http.auth': 'none',
    'source.http.auth.bearer.token': '',
    'source.http.auth.basic.username': '',
    'source.http.auth.basic.password': '',
    'source.http.auth.key.header': '',
    'source.http.auth.key.parameter': '',
    'source.http.auth.key.value': '',
    'source.http.auth.oauth2.token_url': '',
    'source.http.auth.oauth2.client_id': '',
    'source.http.auth.oauth2.client_secret': '',
    'source.http.auth.oauth2.scope': '',
    'source.http.records': '',
    'source.http.key': '',
    'source.http.pagination': 'none',
    'source.http.pagination.cursor.at': '',
    'source.http.pagination.cursor.parameter': '',
    'source.http.pagination.next_link.at': '',
    'source.http.pagination.page.parameter': '',
    'source.http.pagination.page.first': '',
    'source.http.pagination.page.verify': true,
    'source.http.pagination.offset.parameter': '',
    'source.http.pagination.offset.verify': true,
    'source.http.incremental.field': '',
    'source.http.incremental.parameter': '',
    'source.hubspot.object': 'contacts',
    'source.hubspot.properties': '',
    'source.hubspot.incremental': false,
    'source.hubspot.auth.bearer.token': '',
    'source.hubspot.base_url': 'https://api.hubapi.com/',
    interval_seconds: '300',
    cron: '',
    timezone: zone,
    transform: '',
    'destination.ledger': '',
    desired: false,
  };
}

/** Every field that a form may show a complaint at. That a source as a whole is wrong is said of the whole. */
export const FIELDS = (Object.keys(emptyDraft()) as DraftField[]).filter((field) => field !== 'source');

/** A stream as it is. Its secrets are told to nobody: they stay as they are unless they are given anew. */
export function draftOf(stream: Stream): Draft {
  const { source, transform, destination } = stream;
  return {
    ...emptyDraft(),
    name: stream.name,
    ...('http' in source ? httpDraft(source.http) : hubspotDraft(source.hubspot)),
    interval_seconds: stream.cron === undefined ? String(stream.interval_seconds) : BY_CRON,
    cron: stream.cron ?? '',
    timezone: stream.timezone,
    transform: transform.length === 0 ? '' : pretty(transform),
    'destination.ledger': destination === undefined ? '' : pretty(destination.ledger),
  };
}

function httpDraft(http: HttpSource): Partial<Draft> {
  return {
    source: 'http',
    'source.http.url': http.url,
    'source.http.method': http.method ?? 'GET',
    'source.http.body': http.body === undefined ? '' : pretty(http.body),
    'source.http.headers': Object.entries(http.headers ?? {})
      .map(([name, value]) => `${name}: ${value}`)
      .join('\n'),
    'source.http.records': http.records ?? '',
    // As the server has what is left empty.
    'source.http.key': http.key === '/id' ? '' : (http.key ?? ''),
    'source.http.incremental.field': http.incremental?.field ?? '',
    'source.http.incremental.parameter': http.incremental?.parameter ?? '',
    ...(http.pagination && paginationDraft(http.pagination)),
  };
}

function paginationDraft(pagination: Pagination): Partial<Draft> {
  if ('cursor' in pagination) {
    return {
      'source.http.pagination': 'cursor',
      'source.http.pagination.cursor.at': pagination.cursor.at,
      'source.http.pagination.cursor.parameter': pagination.cursor.parameter,
    };
  }
  if ('next_link' in pagination) {
    return {
      'source.http.pagination': 'next_link',
      'source.http.pagination.next_link.at': pagination.next_link.at ?? '',
    };
  }
  if ('page' in pagination) {
    return {
      'source.http.pagination': 'page',
      'source.http.pagination.page.parameter': pagination.page.parameter,
      'source.http.pagination.page.first': String(pagination.page.first ?? 1),
      'source.http.pagination.page.verify': pagination.page.verify ?? true,
    };
  }
  return {
    'source.http.pagination': 'offset',
    'source.http.pagination.offset.parameter': pagination.offset.parameter,
    'source.http.pagination.offset.verify': pagination.offset.verify ?? true,
  };
}

function hubspotDraft(hubspot: HubspotSource): Partial<Draft> {
  return {
    source: 'hubspot',
    'source.hubspot.object': hubspot.object,
    'source.hubspot.properties': hubspot.properties?.join(', ') ?? '',
    'source.hubspot.incremental': hubspot.incremental ?? false,
    'source.hubspot.base_url': hubspot.base_url,
  };
}

function pretty(value: unknown): string {
  return JSON.stringify(value, null, 2);
}

/** The secret that a stream has and that a draft of it leaves as it is, by its kind; it is for one place only. */
export function keptSecret(draft: Draft, stream: Stream | undefined): string | undefined {
  if (stream?.auth === undefined || placeOf(draft) !== placeOf(draftOf(stream))) return undefined;
  const isGiven =
    draft.source === 'http'
      ? draft['source.http.auth'] !== 'none'
      : draft['source.hubspot.auth.bearer.token'] !== '';
  return isGiven ? undefined : stream.auth;
}

/** Where a source is, as the server tells places apart. */
function placeOf(draft: Draft): string {
  const url = (draft.source === 'http' ? draft['source.http.url'] : draft['source.hubspot.base_url']).trim();
  return URL.canParse(url) ? new URL(url).origin : url;
}

/** What is wrong with a field, by its name. */
export type Complaints = Readonly<Record<string, string>>;

/** What a draft means; or what is wrong with it that the server cannot tell, since it could not be sent. */
export type Reading = { readonly definition: NewStream } | { readonly complaints: Complaints };

export function readDraft(draft: Draft): Reading {
  const reader = new Reader(draft);
  const definition = reader.definition();
  const { complaints } = reader;
  return Object.keys(complaints).length > 0 ? { complaints } : { definition };
}

/** What is different from before, to be sent as a change; undefined where nothing is. */
export function changeOf(before: Draft, after: Draft, definition: NewStream): StreamChange | undefined {
  const changed = (Object.keys(after) as DraftField[]).filter((field) => before[field] !== after[field]);
  const hasChanged = (name: string) =>
    changed.some((field) => field === name || field.startsWith(`${name}.`));
  const { name, source, interval_seconds: interval, cron, timezone, transform, destination } = definition;
  const change: StreamChange = {
    ...(hasChanged('name') && { name }),
    ...(hasChanged('source') && { source }),
    ...((hasChanged('interval_seconds') || hasChanged('cron')) &&
      (cron == null ? { interval_seconds: interval ?? null } : { cron })),
    ...(hasChanged('timezone') && timezone != null && { timezone }),
    ...(hasChanged('transform') && { transform: transform ?? [] }),
    ...(hasChanged('destination') && { destination: destination ?? null }),
  };
  return Object.keys(change).length === 0 ? undefined : change;
}

/** Reads a draft, and keeps what is wrong with it. */
class Reader {
  readonly complaints: Record<string, string> = {};

  constructor(private readonly draft: Draft) {}

  definition(): NewStream {
    const { draft } = this;
    const isByCron = draft.interval_seconds === BY_CRON;
    const transform = this.#transform();
    const ledger = this.#ledger();
    return {
      name: this.#text('name'),
      source: draft.source === 'http' ? { http: this.#http() } : { hubspot: this.#hubspot() },
      ...(isByCron
        ? { cron: this.#text('cron'), timezone: draft.timezone }
        : { interval_seconds: Number(draft.interval_seconds) }),
      ...(transform && { transform }),
      ...(ledger && { destination: { ledger } }),
      ...(draft.desired && { desired: 'running' }),
    };
  }

  #http(): HttpSource {
    const { draft } = this;
    const method = draft['source.http.method'];
    const headers = this.#headers();
    const auth = this.#auth();
    const pagination = this.#pagination();
    const incremental = this.#incremental();
    const records = this.#text('source.http.records');
    const key = this.#text('source.http.key');
    const body = method === 'POST' ? this.#json('source.http.body', 'The body') : undefined;
    return {
      url: this.#text('source.http.url'),
      ...(method === 'POST' && { method }),
      ...(body !== undefined && { body }),
      ...(headers && { headers }),
      ...(auth && { auth }),
      ...(pagination && { pagination }),
      ...(records !== '' && { records }),
      ...(key !== '' && { key }),
      ...(incremental && { incremental }),
    };
  }

  #hubspot(): HubspotSource {
    const { draft } = this;
    const token = this.#text('source.hubspot.auth.bearer.token');
    const properties = draft['source.hubspot.properties'].split(/[\s,]+/).filter((name) => name !== '');
    return {
      object: draft['source.hubspot.object'],
      base_url: this.#text('source.hubspot.base_url'),
      ...(properties.length > 0 && { properties }),
      ...(draft['source.hubspot.incremental'] && { incremental: true }),
      ...(token !== '' && { auth: { bearer: { token } } }),
    };
  }

  #auth(): Auth | undefined {
    const needed = (field: TextName) => this.#needed(field);
    switch (this.draft['source.http.auth']) {
      case 'none':
        return undefined;
      case 'bearer':
        return { bearer: { token: needed('source.http.auth.bearer.token') } };
      case 'basic': {
        const username = needed('source.http.auth.basic.username');
        // Spaces belong to a password.
        const password = this.draft['source.http.auth.basic.password'];
        return { basic: { username, password } };
      }
      case 'header': {
        const header = needed('source.http.auth.key.header');
        return { key: { header, value: needed('source.http.auth.key.value') } };
      }
      case 'parameter': {
        const parameter = needed('source.http.auth.key.parameter');
        return { key: { parameter, value: needed('source.http.auth.key.value') } };
      }
      case 'oauth2': {
        const scope = this.#text('source.http.auth.oauth2.scope');
        return {
          oauth2: {
            token_url: this.#text('source.http.auth.oauth2.token_url'),
            client_id: needed('source.http.auth.oauth2.client_id'),
            client_secret: needed('source.http.auth.oauth2.client_secret'),
            ...(scope !== '' && { scope }),
          },
        };
      }
    }
  }

  #pagination(): Pagination | undefined {
    const { draft } = this;
    switch (draft['source.http.pagination']) {
      case 'none':
        return undefined;
      case 'cursor': {
        const at = this.#needed('source.http.pagination.cursor.at');
        return { cursor: { at, parameter: this.#needed('source.http.pagination.cursor.parameter') } };
      }
      case 'next_link': {
        const at = this.#text('source.http.pagination.next_link.at');
        return { next_link: at === '' ? {} : { at } };
      }
      case 'page': {
        const parameter = this.#needed('source.http.pagination.page.parameter');
        const first = this.#first();
        const verify = draft['source.http.pagination.page.verify'];
        return { page: { parameter, ...(first !== undefined && { first }), ...(!verify && { verify }) } };
      }
      case 'offset': {
        const parameter = this.#needed('source.http.pagination.offset.parameter');
        const verify = draft['source.http.pagination.offset.verify'];
        return { offset: { parameter, ...(!verify && { verify }) } };
      }
    }
  }

  /** The number of the first page. */
  #first(): number | undefined {
    const text = this.#text('source.http.pagination.page.first');
    if (text === '') return undefined;
    if (!/^\d{1,9}$/.test(text))
      this.#complain('source.http.pagination.page.first', 'This is no whole number.');
    return Number(text);
  }

  #incremental(): HttpSource['incremental'] {
    const isEmpty =
      this.#text('source.http.incremental.field') === '' &&
      this.#text('source.http.incremental.parameter') === '';
    if (isEmpty) return undefined;
    const field = this.#needed('source.http.incremental.field');
    return { field, parameter: this.#needed('source.http.incremental.parameter') };
  }

  #headers(): Record<string, string> | undefined {
    const lines = this.draft['source.http.headers'].split('\n').filter((line) => line.trim() !== '');
    if (lines.length === 0) return undefined;
    const headers = lines.map((line) => {
      const colon = line.indexOf(':');
      if (colon < 1)
        this.#complain('source.http.headers', `“${line.trim()}” is no header, such as Accept: text/plain.`);
      return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()] as const;
    });
    return Object.fromEntries(headers);
  }

  #transform(): NewStream['transform'] {
    const steps = this.#json('transform', 'The transformation');
    if (steps === undefined || Array.isArray(steps)) return steps;
    this.#complain('transform', 'The transformation must be a list of steps: [ … ].');
    return undefined;
  }

  #ledger(): NonNullable<NewStream['destination']>['ledger'] | undefined {
    const mapping = this.#json('destination.ledger', 'The ledger’s part');
    if (mapping === undefined) return undefined;
    if (typeof mapping === 'object' && mapping !== null && !Array.isArray(mapping)) return mapping;
    this.#complain('destination.ledger', 'The ledger’s part must be an object: { … }.');
    return undefined;
  }

  /** Undefined where there is nothing, or nothing that could be read. */
  #json(field: TextName, name: string): unknown {
    const text = this.#text(field);
    if (text === '') return undefined;
    try {
      return parseExactly(text);
    } catch (error) {
      this.#complain(field, `${name} is no JSON: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    }
  }

  #needed(field: TextName): string {
    const text = this.#text(field);
    if (text === '') this.#complain(field, 'This is needed.');
    return text;
  }

  #text(field: TextName): string {
    return this.draft[field].trim();
  }

  #complain(field: DraftField, complaint: string): void {
    this.complaints[field] ??= complaint;
  }
}
