/** The first rows of a list, and further ones as they are asked for. */

import type { PageRequest } from './api';
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

/** A page of any list. */
interface Some<Row> {
  readonly data: readonly Row[];
  readonly next_page_token?: string | null;
}

/** What is shown of a list, and its first page with what that says besides its rows. */
interface Pages<Row, First> extends Listed<Row> {
  readonly first: First;
}

export class PagedList<Row, Answer extends Some<Row> = Some<Row>>
  extends Inquiry<Pages<Row, Answer>>
  implements Listing<Row>
{
  #wanted: number;

  /** `first` is how many rows are shown until more are asked for. */
  constructor(
    private readonly list: (page: PageRequest) => Promise<Answer>,
    first = PAGE_SIZE,
  ) {
    super();
    this.#wanted = first;
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

  async #newest(wanted: number): Promise<Pages<Row, Answer>> {
    const page = (shown: number, pageToken?: string) =>
      this.list({ pageSize: Math.min(wanted - shown, LARGEST_PAGE_SIZE), pageToken });
    const first = await page(0);
    const rows = [...first.data];
    let next = first.next_page_token ?? undefined;
    while (next !== undefined && rows.length < wanted) {
      const { data, next_page_token: following } = await page(rows.length, next);
      rows.push(...data);
      next = following ?? undefined;
    }
    return { rows, hasOlder: next !== undefined, first };
  }
}
