/** What an id belongs to. */

import type { Subject } from './address';
import type { Api } from './api';
import { ProblemError } from './problem';

/** The item or user with this id, or the item of the transfer with it; undefined where nothing has it. */
export async function subjectWithId(api: Api, id: string): Promise<Subject | undefined> {
  const [item, user, transfer] = await Promise.all([
    ifExists(api.item(id)),
    ifExists(api.user(id)),
    ifExists(api.transfer(id)),
  ]);
  if (item !== undefined) return { kind: 'item', id: item.id };
  if (user !== undefined) return { kind: 'user', id: user.id };
  return transfer && { kind: 'item', id: transfer.item_id };
}

export async function ifExists<Row>(asked: Promise<Row>): Promise<Row | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof ProblemError && error.problem.status === 404) return undefined;
    throw error;
  }
}
