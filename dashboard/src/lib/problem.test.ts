import { describe, expect, test } from 'vitest';
import { formErrors, problemOf, sentence, type Problem } from './problem';

function response(body: string, status: number, type: string): Response {
  return new Response(body, { status, statusText: 'Bad Gateway', headers: { 'content-type': type } });
}

describe('the problem of a response', () => {
  test('is read from its details', async () => {
    const body = {
      type: 'about:blank',
      title: 'Unprocessable Content',
      status: 422,
      detail: 'The item could not be created.',
      request_id: 'r-1',
      errors: [{ field: 'base_item_id', detail: 'There is no such base item.' }],
    };
    expect(await problemOf(response(JSON.stringify(body), 422, 'application/problem+json'))).toEqual({
      title: 'Unprocessable Content',
      status: 422,
      detail: 'The item could not be created.',
      requestId: 'r-1',
      errors: [{ field: 'base_item_id', detail: 'There is no such base item.' }],
    });
  });

  test('says when to try again', async () => {
    const busy = new Response('{"detail": "Too many."}', {
      status: 429,
      statusText: 'Too Many Requests',
      headers: { 'content-type': 'application/problem+json', 'retry-after': '7' },
    });
    expect(await problemOf(busy)).toEqual({
      title: 'Too Many Requests',
      status: 429,
      detail: 'Too many.',
      retryAfter: 7,
      errors: [],
    });
  });

  test.each([
    ['<h1>Bad Gateway</h1>', 'text/html'],
    ['{"broken', 'application/json'],
    ['null', 'application/json'],
    ['{"title": 7, "errors": [3, {"field": "x"}]}', 'application/problem+json'],
  ])('is said by its status where %s is all there is', async (body, type) => {
    expect(await problemOf(response(body, 502, type))).toEqual({
      title: 'Bad Gateway',
      status: 502,
      errors: [],
    });
  });
});

describe('the errors of a form', () => {
  const problem: Problem = { title: 'Unprocessable Content', status: 422, detail: 'Not valid.', errors: [] };

  test('are shown at the fields that they name, and nowhere else', () => {
    const errors = [
      { field: 'item_id', detail: 'Not a UUID.' },
      { field: 'item_id', detail: 'Too short.' },
    ];
    expect(formErrors({ ...problem, errors }, ['item_id', 'owner_id'])).toEqual({
      fields: { item_id: 'Not a UUID.' },
      general: [],
    });
  });

  test('are shown for the whole form where it has no such field', () => {
    const errors = [
      { field: 'item_id', detail: 'Not a UUID.' },
      { field: 'timestamp', detail: 'In the future.' },
    ];
    expect(formErrors({ ...problem, errors }, ['item_id'])).toEqual({
      fields: { item_id: 'Not a UUID.' },
      general: ['Not valid.', 'timestamp: In the future.'],
    });
  });

  test('are shown at the field that they are a part of', () => {
    const errors = [
      { field: 'transform[0].cast.to', detail: 'Not a type.' },
      { field: 'source.auth.key', detail: 'Not a header.' },
      { field: 'transformed', detail: 'Not known.' },
    ];
    expect(formErrors({ ...problem, errors }, ['transform', 'source', 'source.auth', 'source.aut'])).toEqual({
      fields: {
        transform: 'transform[0].cast.to: Not a type.',
        'source.auth': 'source.auth.key: Not a header.',
      },
      general: ['Not valid.', 'transformed: Not known.'],
    });
  });

  test('are said once, where the problem has one and tells it itself', () => {
    const errors = [{ field: 'source', detail: 'It is away.' }];
    expect(formErrors({ ...problem, detail: 'source: It is away.', errors }, []).general).toEqual([
      'source: It is away.',
    ]);
  });

  test('are the detail, or at least the title, of a problem that names no field', () => {
    expect(formErrors(problem, ['item_id']).general).toEqual(['Not valid.']);
    expect(formErrors({ title: 'Not Found', status: 404, errors: [] }, []).general).toEqual(['Not Found']);
  });

  test('name the request where the server itself is at fault', () => {
    const fault: Problem = { title: 'Internal Server Error', status: 500, requestId: 'r-9', errors: [] };
    expect(formErrors(fault, []).general).toEqual(['Internal Server Error (request r-9)']);
  });
});

test.each([
  ['this key is not valid', 'This key is not valid.'],
  ['Too many attempts.', 'Too many attempts.'],
  ['über', 'Über.'],
])('%s, as a sentence', (text, expected) => {
  expect(sentence(text)).toBe(expected);
});
