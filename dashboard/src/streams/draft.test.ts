import { describe, expect, test } from 'vitest';
import type { NewStream, Stream } from '../lib/api-types';
import { changeOf, draftOf, emptyDraft, FIELDS, keptSecret, readDraft, type Draft } from './draft';

const URL = 'https://api.example.com/v1/assets';

function aStream(changes: Partial<Stream> = {}): Stream {
  return {
    id: 's-1',
    name: 'crm',
    // As the server completes what it was told.
    source: { http: { url: URL, method: 'GET', records: '', key: '/id' } },
    interval_seconds: 300,
    timezone: 'UTC',
    transform: [],
    desired: 'running',
    state: 'waiting',
    version: 1,
    batches: 0,
    records: 0,
    skipped_runs: 0,
    dead_letters: 0,
    created_at: '2026-11-22T05:36:10Z',
    ...changes,
  };
}

function meant(changes: Partial<Draft>): NewStream {
  const reading = readDraft({ ...emptyDraft(), name: 'crm', 'source.http.url': URL, ...changes });
  if (!('definition' in reading)) throw new Error(JSON.stringify(reading.complaints));
  return reading.definition;
}

function http(changes: Partial<Draft>): object {
  const { source } = meant(changes);
  if (!('http' in source)) throw new Error('it is no HTTP source');
  const { url, ...rest } = source.http;
  expect(url).toBe(URL);
  return rest;
}

function complaints(changes: Partial<Draft>): object {
  const reading = readDraft({ ...emptyDraft(), ...changes });
  return 'complaints' in reading ? reading.complaints : {};
}

describe('a draft means', () => {
  test('no more than what is said', () => {
    expect(meant({})).toEqual({ name: 'crm', source: { http: { url: URL } }, interval_seconds: 300 });
  });

  test.each<[Partial<Draft>, object]>([
    [{ 'source.http.auth': 'bearer', 'source.http.auth.bearer.token': ' t ' }, { bearer: { token: 't' } }],
    [
      {
        'source.http.auth': 'basic',
        'source.http.auth.basic.username': 'me',
        'source.http.auth.basic.password': ' p ',
      },
      { basic: { username: 'me', password: ' p ' } },
    ],
    [
      {
        'source.http.auth': 'header',
        'source.http.auth.key.header': 'X-API-Key',
        'source.http.auth.key.parameter': 'key',
        'source.http.auth.key.value': 'k',
      },
      { key: { header: 'X-API-Key', value: 'k' } },
    ],
    [
      {
        'source.http.auth': 'parameter',
        'source.http.auth.key.parameter': 'key',
        'source.http.auth.key.value': 'k',
      },
      { key: { parameter: 'key', value: 'k' } },
    ],
    [
      {
        'source.http.auth': 'oauth2',
        'source.http.auth.oauth2.token_url': 'https://id.example.com/token',
        'source.http.auth.oauth2.client_id': 'me',
        'source.http.auth.oauth2.client_secret': 's',
      },
      { oauth2: { token_url: 'https://id.example.com/token', client_id: 'me', client_secret: 's' } },
    ],
  ])('with %j that this is who asks', (changes, auth) => {
    expect(http(changes)).toEqual({ auth });
  });

  test.each<[Partial<Draft>, object]>([
    [
      {
        'source.http.pagination': 'cursor',
        'source.http.pagination.cursor.at': 'next',
        'source.http.pagination.cursor.parameter': 'cursor',
      },
      { cursor: { at: 'next', parameter: 'cursor' } },
    ],
    [{ 'source.http.pagination': 'next_link' }, { next_link: {} }],
    [
      { 'source.http.pagination': 'next_link', 'source.http.pagination.next_link.at': '/links/next' },
      { next_link: { at: '/links/next' } },
    ],
    [
      { 'source.http.pagination': 'page', 'source.http.pagination.page.parameter': 'page' },
      { page: { parameter: 'page' } },
    ],
    [
      {
        'source.http.pagination': 'page',
        'source.http.pagination.page.parameter': 'page',
        'source.http.pagination.page.first': '0',
        'source.http.pagination.page.verify': false,
      },
      { page: { parameter: 'page', first: 0, verify: false } },
    ],
    [
      {
        'source.http.pagination': 'offset',
        'source.http.pagination.offset.parameter': 'skip',
        'source.http.pagination.offset.verify': false,
      },
      { offset: { parameter: 'skip', verify: false } },
    ],
  ])('with %j that pages follow so', (changes, pagination) => {
    expect(http(changes)).toEqual({ pagination });
  });

  test('what is asked and how, with a body only where one is sent', () => {
    const asked: Partial<Draft> = {
      'source.http.method': 'POST',
      'source.http.body': '{"all": true}',
      'source.http.headers': 'Accept-Language: en\n\nX-Time: 12:30',
      'source.http.records': '/data/items',
      'source.http.key': 'number',
      'source.http.incremental.field': 'updated_at',
      'source.http.incremental.parameter': 'since',
    };
    const rest = {
      headers: { 'Accept-Language': 'en', 'X-Time': '12:30' },
      records: '/data/items',
      key: 'number',
      incremental: { field: 'updated_at', parameter: 'since' },
    };
    expect(http(asked)).toEqual({ method: 'POST', body: { all: true }, ...rest });
    expect(http({ ...asked, 'source.http.method': 'GET' })).toEqual(rest);
  });

  test('objects of a CRM', () => {
    const base_url = 'https://api.hubapi.com/';
    expect(meant({ source: 'hubspot' }).source).toEqual({ hubspot: { object: 'contacts', base_url } });
    expect(
      meant({
        source: 'hubspot',
        'source.hubspot.object': 'deals',
        'source.hubspot.properties': 'dealname, amount',
        'source.hubspot.incremental': true,
        'source.hubspot.auth.bearer.token': 't',
      }).source,
    ).toEqual({
      hubspot: {
        object: 'deals',
        base_url,
        properties: ['dealname', 'amount'],
        incremental: true,
        auth: { bearer: { token: 't' } },
      },
    });
  });

  test('when it runs, what becomes of records, and whether it begins', () => {
    const { source, ...rest } = meant({
      interval_seconds: 'cron',
      cron: '0 8 * * MON-FRI',
      timezone: 'Europe/Berlin',
      transform: '[{"pick": ["id"]}]',
      'destination.ledger': '{"user": {"key": "id"}}',
      desired: true,
    });
    expect(source).toEqual({ http: { url: URL } });
    expect(rest).toEqual({
      name: 'crm',
      cron: '0 8 * * MON-FRI',
      timezone: 'Europe/Berlin',
      transform: [{ pick: ['id'] }],
      destination: { ledger: { user: { key: 'id' } } },
      desired: 'running',
    });
  });
});

describe('what cannot be sent is complained of', () => {
  test.each<[Partial<Draft>, string, RegExp]>([
    [{ transform: '[{' }, 'transform', /^The transformation is no JSON: /],
    [{ transform: '{}' }, 'transform', /must be a list/],
    [{ 'destination.ledger': 'item' }, 'destination.ledger', /^The ledger’s part is no JSON: /],
    [{ 'destination.ledger': '[]' }, 'destination.ledger', /must be an object/],
    [{ 'source.http.method': 'POST', 'source.http.body': '{' }, 'source.http.body', /^The body is no JSON: /],
    [{ 'source.http.headers': 'nonsense' }, 'source.http.headers', /“nonsense” is no header/],
    [{ 'source.http.auth': 'bearer' }, 'source.http.auth.bearer.token', /needed/],
    [{ 'source.http.incremental.field': 'at' }, 'source.http.incremental.parameter', /needed/],
    [
      {
        'source.http.pagination': 'page',
        'source.http.pagination.page.parameter': 'page',
        'source.http.pagination.page.first': 'one',
      },
      'source.http.pagination.page.first',
      /no whole number/,
    ],
  ])('with %j, at %s', (changes, field, complaint) => {
    expect(complaints(changes)).toEqual({ [field]: expect.stringMatching(complaint) as unknown });
    expect(FIELDS).toContain(field);
  });

  test('each field for itself', () => {
    expect(Object.keys(complaints({ 'source.http.pagination': 'cursor', transform: '-' })).sort()).toEqual([
      'source.http.pagination.cursor.at',
      'source.http.pagination.cursor.parameter',
      'transform',
    ]);
  });
});

describe('a stream that is changed', () => {
  const full = aStream({
    source: {
      http: {
        url: URL,
        method: 'POST',
        body: { all: true },
        headers: { 'Accept-Language': 'en' },
        records: '/items',
        key: '/number',
        pagination: { page: { parameter: 'page', first: 0, verify: false } },
        incremental: { field: '/at', parameter: 'since' },
      },
    },
    transform: [{ pick: ['/id'] }],
    destination: { ledger: { user: { key: '/id' } } },
  });

  function change(stream: Stream, changes: Partial<Draft>): object | undefined {
    const before = draftOf(stream);
    const after = { ...before, ...changes };
    const reading = readDraft(after);
    if (!('definition' in reading)) throw new Error(JSON.stringify(reading.complaints));
    return changeOf(before, after, reading.definition);
  }

  const paginations = [
    { cursor: { at: '/next', parameter: 'cursor' } },
    { next_link: {} },
    { next_link: { at: '/next' } },
    { page: { parameter: 'page', first: 1 } },
    { offset: { parameter: 'skip', verify: false } },
  ] as const;

  test.each<Stream>([
    full,
    ...paginations.map((pagination) =>
      aStream({ source: { http: { url: URL, records: '/items', key: '/number', pagination } } }),
    ),
    aStream({
      source: {
        hubspot: {
          object: 'deals',
          base_url: 'https://crm.example.com/',
          properties: ['dealname', 'amount'],
          incremental: true,
        },
      },
    }),
  ])('is read as it was written: %j', (stream) => {
    const reading = readDraft(draftOf(stream));
    const { source, transform, destination } = 'definition' in reading ? reading.definition : {};
    expect(source).toEqual(stream.source);
    expect(transform ?? []).toEqual(stream.transform);
    expect(destination).toEqual(stream.destination);
  });

  test('is told nothing where nothing is different', () => {
    expect(change(full, {})).toBeUndefined();
    expect(change(aStream({ cron: '0 8 * * *', timezone: 'Europe/Berlin' }), {})).toBeUndefined();
  });

  test('is told only what is different', () => {
    expect(change(full, { name: 'assets' })).toEqual({ name: 'assets' });
    expect(change(full, { interval_seconds: '60' })).toEqual({ interval_seconds: 60 });
    expect(change(full, { interval_seconds: 'cron', cron: '0 8 * * *' })).toEqual({ cron: '0 8 * * *' });
    expect(change(full, { transform: '' })).toEqual({ transform: [] });
    expect(change(full, { 'destination.ledger': '' })).toEqual({ destination: null });
    const weekly = aStream({ cron: '0 8 * * MON' });
    expect(change(weekly, { timezone: 'Europe/Berlin' })).toEqual({ timezone: 'Europe/Berlin' });
    expect(change(weekly, { interval_seconds: '60' })).toEqual({ interval_seconds: 60 });
  });

  test('is told all of its source, but for secrets that stay', () => {
    expect(change(aStream({ auth: 'bearer' }), { 'source.http.records': 'items' })).toEqual({
      source: { http: { url: URL, records: 'items' } },
    });
    const anew: Partial<Draft> = { 'source.http.auth': 'bearer', 'source.http.auth.bearer.token': 't' };
    expect(change(aStream({ auth: 'bearer' }), anew)).toEqual({
      source: { http: { url: URL, auth: { bearer: { token: 't' } } } },
    });
  });

  test('keeps its secret at its place, unless it is given anew', () => {
    const stream = aStream({ auth: 'bearer' });
    const kept = (changes: Partial<Draft>) => keptSecret({ ...draftOf(stream), ...changes }, stream);
    expect(kept({})).toBe('bearer');
    expect(kept({ 'source.http.url': 'https://api.example.com/v2' })).toBe('bearer');
    expect(kept({ 'source.http.url': 'https://elsewhere.example.com/v1/assets' })).toBeUndefined();
    expect(kept({ 'source.http.url': 'nowhere' })).toBeUndefined();
    expect(kept({ source: 'hubspot' })).toBeUndefined();
    expect(kept({ 'source.http.auth': 'basic' })).toBeUndefined();
    expect(keptSecret(draftOf(aStream()), aStream())).toBeUndefined();
    expect(keptSecret(emptyDraft(), undefined)).toBeUndefined();
  });
});
