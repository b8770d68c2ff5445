/** The newest rows of a list, and older ones as they are asked for. */

import type { PageRequest } from './api';
import type { Page } from './api-types';
import { Inquiry } from './inquiry.svelte';
import type { Problem } from './problem';

export const PAGE_SIZE = 20;

// As the server has it.
export const LARGEST_PAGE_SIZE = 1_000;

export interface Listed<Row> {
  readonly rows: readonly Row[];
  readonly hasOlder: boolean;
}

/** A list as it is shown. */
export interface Listing<Row> {
  /** Undefined until it is known. */
  readonly answer: Listed<Row> | undefined;
  /** Why it is not known, or not whether it is still so. */
  readonly problem: Problem | undefined;
  refresh(): Promise<void>;
  older(): Promise<void>;
}

export class PagedList<Row> extends Inquiry<Listed<Row>> implements Listing<Row> {
  #wanted = PAGE_SIZE;

  constructor(private readonly list: (page: PageRequest) => Promise<Page<Row>>) {
    super();
  }

  /** Asks for all rows that are shown anew: others may have come in between, not only before them. */
  refresh(): Promise<void> {
    const wanted = this.#wanted;
    return this.ask(() => this.#newest(wanted));
  }

  older(): Promise<void> {
    this.#wanted += PAGE_SIZE;
    return this.refresh();
  }

  async #newest(wanted: number): Promise<Listed<Row>> {
    const rows: Row[] = [];
    let pageToken: string | undefined;
    do {
      const pageSize = Math.min(wanted - rows.length, LARGEST_PAGE_SIZE);
      const page = await this.list({ pageSize, pageToken });
      rows.push(...page.data);
      pageToken = page.next_page_token ?? undefined;
    } while (pageToken !== undefined && rows.length < wanted);
    return { rows, hasOlder: pageToken !== undefined };
  }
}
