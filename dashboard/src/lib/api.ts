/** The REST API, typed. Every failure is a `ProblemError`. */

import type {
  BaseItem,
  Item,
  NewBaseItem,
  NewItem,
  NewTransfer,
  NewUser,
  Page,
  Transfer,
  User,
} from './api-types';
import { ProblemError, problemOf, unreachable } from './problem';

export interface Api {
  createBaseItem(body: NewBaseItem): Promise<BaseItem>;
  createItem(body: NewItem): Promise<Item>;
  createUser(body: NewUser): Promise<User>;
  createTransfer(body: NewTransfer): Promise<Transfer>;
  latestBaseItems(pageSize: number): Promise<BaseItem[]>;
  latestItems(pageSize: number): Promise<Item[]>;
  latestUsers(pageSize: number): Promise<User[]>;
}

/** A client for the server at `base`; the empty string is the page's own origin. */
export function createApi(base = '', send: typeof fetch = (input, init) => fetch(input, init)): Api {
  async function request(path: string, options: RequestInit): Promise<unknown> {
    let response: Response;
    try {
      response = await send(base + path, options);
    } catch {
      throw new ProblemError(unreachable());
    }
    if (!response.ok) throw new ProblemError(await problemOf(response));
    try {
      return await response.json();
    } catch {
      throw new ProblemError({ ...unreachable(), detail: 'The answer of the server could not be read.' });
    }
  }

  // The rows' shapes are promised by the server's OpenAPI document, which is why they are not checked again here.
  const create = async <Row>(path: string, body: object) =>
    (await request(path, {
      method: 'POST',
      headers: { accept: 'application/json', 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })) as Row;

  const latest = async <Row>(path: string, pageSize: number) =>
    (
      (await request(`${path}?page_size=${pageSize}`, {
        headers: { accept: 'application/json' },
      })) as Page<Row>
    ).data;

  return {
    createBaseItem: (body) => create<BaseItem>('/base-items', body),
    createItem: (body) => create<Item>('/items', body),
    createUser: (body) => create<User>('/users', body),
    createTransfer: (body) => create<Transfer>('/transfers', body),
    latestBaseItems: (pageSize) => latest<BaseItem>('/base-items', pageSize),
    latestItems: (pageSize) => latest<Item>('/items', pageSize),
    latestUsers: (pageSize) => latest<User>('/users', pageSize),
  };
}
