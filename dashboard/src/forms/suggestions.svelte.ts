/** The latest rows of the ledger, offered where a form asks for an id. Any other id can still be typed. */

import type { Api } from '../lib/api';
import type { BaseItem, Item, User } from '../lib/api-types';

// As many as a list under a text field can usefully show.
const OFFERED = 50;

export class Suggestions {
  baseItems = $state.raw<readonly BaseItem[]>([]);
  items = $state.raw<readonly Item[]>([]);
  users = $state.raw<readonly User[]>([]);

  constructor(private readonly api: Api) {}

  async refreshBaseItems(): Promise<void> {
    this.baseItems = await orAsBefore(this.api.latestBaseItems(OFFERED), this.baseItems);
  }

  async refreshItems(): Promise<void> {
    this.items = await orAsBefore(this.api.latestItems(OFFERED), this.items);
  }

  async refreshUsers(): Promise<void> {
    this.users = await orAsBefore(this.api.latestUsers(OFFERED), this.users);
  }

  describe(baseItemId: string): string | undefined {
    return this.baseItems.find(({ id }) => id === baseItemId)?.description;
  }
}

/** Suggestions are a convenience: a failure to load them is no reason to disturb anyone. */
async function orAsBefore<Row>(loading: Promise<Row[]>, before: readonly Row[]): Promise<readonly Row[]> {
  try {
    return await loading;
  } catch {
    return before;
  }
}
