import { describe, expect, test } from 'vitest';
import { createApi } from './api';
import { subjectWithId } from './lookup';
import { ProblemError } from './problem';

/** A server that has these rows, and answers anything else with this status. */
function serverWith(rows: Readonly<Record<string, object>>, otherwise = 404) {
  return createApi('', (url) => {
    const row = rows[url as string];
    return Promise.resolve(row ? Response.json(row) : Response.json({}, { status: otherwise }));
  });
}

describe('the subject with an id', () => {
  test('is the item or the user that has it', async () => {
    const api = serverWith({ '/items/1': { id: '1' }, '/users/2': { id: '2' } });
    expect(await subjectWithId(api, '1')).toEqual({ kind: 'item', id: '1' });
    expect(await subjectWithId(api, '2')).toEqual({ kind: 'user', id: '2' });
  });

  test('is the item of a transfer', async () => {
    const api = serverWith({ '/transfers/3': { id: '3', item_id: '1', owner_id: '2' } });
    expect(await subjectWithId(api, '3')).toEqual({ kind: 'item', id: '1' });
  });

  test('is undefined where nothing has it', async () => {
    expect(await subjectWithId(serverWith({}), '4')).toBeUndefined();
  });

  test('is not known where the server does not say', async () => {
    await expect(subjectWithId(serverWith({}, 503), '4')).rejects.toBeInstanceOf(ProblemError);
  });
});
