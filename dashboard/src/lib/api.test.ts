import { describe, expect, test } from 'vitest';
import { createApi } from './api';
import { ProblemError } from './problem';

function answering(response: () => Response | Promise<Response>) {
  const requests: { url: string; init: RequestInit | undefined }[] = [];
  const api = createApi('http://newcycle.test', (url, init) => {
    requests.push({ url: url instanceof Request ? url.url : url.toString(), init });
    return Promise.resolve().then(response);
  });
  return { api, requests };
}

async function problemOf(promise: Promise<unknown>) {
  const error = await promise.catch((caught: unknown) => caught);
  if (!(error instanceof ProblemError)) throw new Error('expected a ProblemError');
  return error.problem;
}

describe('the API', () => {
  test('creates by POST with a JSON body and answers the row', async () => {
    const row = { id: 'i-1', base_item_id: 'b-1', created_at: '2026-11-21T12:00:00Z' };
    const { api, requests } = answering(() => Response.json(row, { status: 201 }));
    expect(await api.createItem({ base_item_id: 'b-1' })).toEqual(row);
    expect(requests[0]?.url).toBe('http://newcycle.test/items');
    expect(requests[0]?.init).toMatchObject({ method: 'POST', body: '{"base_item_id":"b-1"}' });
    expect(new Headers(requests[0]?.init?.headers).get('content-type')).toBe('application/json');
  });

  test('lists the newest rows of a page', async () => {
    const { api, requests } = answering(() =>
      Response.json({ data: [{ id: 'u-1' }], next_page_token: null }),
    );
    expect(await api.latestUsers(50)).toEqual([{ id: 'u-1' }]);
    expect(requests[0]?.url).toBe('http://newcycle.test/users?page_size=50');
  });

  test('has things done to a stream, and asks for what it fetched', async () => {
    const { api, requests } = answering(() => Response.json({ data: [] }));
    await api.startStream('s/1');
    await api.stopStream('s-1');
    await api.runStream('s-1');
    await api.retryDeadLetter('d-1');
    await api.changeStream('s-1', { destination: null });
    await api.previewStream({ sample: [] });
    await api.batches('s-1', { pageSize: 40 });
    await api.streamData('s-1', { pageSize: 5, pageToken: 'a+b' });
    await api.deadLetters('s-1', { pageSize: 10 });
    expect(
      requests.map(({ url, init }) => [init?.method ?? 'GET', url.replace('http://newcycle.test', '')]),
    ).toEqual([
      ['PUT', '/streams/s%2F1/start'],
      ['PUT', '/streams/s-1/stop'],
      ['POST', '/streams/s-1/run'],
      ['POST', '/dead-letters/d-1/retry'],
      ['PATCH', '/streams/s-1'],
      ['POST', '/streams/preview'],
      ['GET', '/streams/s-1/batches?page_size=40'],
      ['GET', '/streams/s-1/data?page_size=5&page_token=a%2Bb'],
      ['GET', '/dead-letters?stream_id=s-1&page_size=10'],
    ]);
    expect(requests[4]?.init?.body).toBe('{"destination":null}');
  });

  test('pages through runs as through any list', async () => {
    const { api, requests } = answering(() => Response.json({ data: [], next_before: 12 }));
    const { next_page_token: next } = await api.batches('s-1', { pageSize: 40 });
    expect(next).toBe('12');
    await api.batches('s-1', { pageSize: 20, pageToken: '12' });
    expect(requests[1]?.url).toBe('http://newcycle.test/streams/s-1/batches?page_size=20&before=12');
  });

  test('asks for one row by its id, whatever was typed for one', async () => {
    const { api, requests } = answering(() => Response.json({ id: 'i-1' }));
    expect(await api.item('i-1')).toEqual({ id: 'i-1' });
    await api.user('../items?x=1');
    expect(requests.map(({ url }) => url)).toEqual([
      'http://newcycle.test/items/i-1',
      'http://newcycle.test/users/..%2Fitems%3Fx%3D1',
    ]);
  });

  test('asks for the page after another one', async () => {
    const page = { data: [{ id: 't-1' }], next_page_token: 'further' };
    const { api, requests } = answering(() => Response.json(page));
    expect(await api.transfers({ pageSize: 20 })).toEqual(page);
    await api.history('i-1', { pageSize: 20, pageToken: 'a+b' });
    expect(requests.map(({ url }) => url)).toEqual([
      'http://newcycle.test/transfers?page_size=20',
      'http://newcycle.test/items/i-1/transfers?page_size=20&page_token=a%2Bb',
    ]);
  });

  test('begins a session by POST, with the key in the body alone, and ends it', async () => {
    const { api, requests } = answering(() => Response.json({ scopes: [] }, { status: 201 }));
    await api.signIn('nck_secret');
    expect(requests[0]?.url).toBe('http://newcycle.test/session');
    expect(requests[0]?.init).toMatchObject({ method: 'POST', body: '{"key":"nck_secret"}' });

    const ending = answering(() => new Response(null, { status: 204 }));
    await ending.api.signOut();
    expect(ending.requests[0]?.init?.method).toBe('DELETE');
  });

  test('asks about now, or about a moment', async () => {
    const { api, requests } = answering(() => Response.json({}));
    await api.owner('i-1', undefined);
    await api.owner('i-1', 0);
    await api.holdings('u-1', Date.UTC(2026, 0, 5, 13, 3, 59), { pageSize: 20 });
    expect(requests.map(({ url }) => url)).toEqual([
      'http://newcycle.test/items/i-1/owner',
      'http://newcycle.test/items/i-1/owner?at=1970-01-01T00%3A00%3A00.000Z',
      'http://newcycle.test/users/u-1/items?at=2026-01-05T13%3A03%3A59.000Z&page_size=20',
    ]);
  });

  test('starts, cancels and deletes exports', async () => {
    const { api, requests } = answering(() => Response.json({ id: 'e-1' }, { status: 202 }));
    await api.startExport({ dataset: 'users', format: 'csv' });
    expect(await api.cancelExport('e-1')).toEqual({ id: 'e-1' });
    const deleting = answering(() => new Response(null, { status: 204 }));
    await deleting.api.deleteExport('../items');
    const sent = [...requests, ...deleting.requests].map(({ url, init }) => [init?.method, url]);
    expect(sent).toEqual([
      ['POST', 'http://newcycle.test/exports'],
      ['POST', 'http://newcycle.test/exports/e-1/cancel'],
      ['DELETE', 'http://newcycle.test/exports/..%2Fitems'],
    ]);
  });

  test('throws the problem that the server describes', async () => {
    const problem = {
      title: 'Unprocessable Content',
      status: 422,
      errors: [{ field: 'item_id', detail: 'No.' }],
    };
    const { api } = answering(() => Response.json(problem, { status: 422 }));
    expect(await problemOf(api.createTransfer({ item_id: 'x', owner_id: 'y' }))).toEqual(problem);
  });

  test('says so when the server cannot be reached', async () => {
    const { api } = answering(() => Promise.reject(new TypeError('Failed to fetch')));
    expect(await problemOf(api.createUser({}))).toMatchObject({
      status: 0,
      title: 'The server could not be reached',
      detail: 'The server could not be reached. Nothing is known to have been saved.',
    });
    expect(await problemOf(api.item('i-1'))).toMatchObject({ detail: 'The server could not be reached.' });
  });

  test('does not take a broken answer for a row', async () => {
    const { api } = answering(() => new Response('{"id": ', { status: 201 }));
    expect(await problemOf(api.createUser({}))).toMatchObject({
      detail: 'The answer of the server could not be read.',
    });
  });
});
