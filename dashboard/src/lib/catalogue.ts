/** What items are called: by the description of their base item. Neither ever changes, so that it is asked for once. */

import type { Api, PageRequest } from './api';
import type { Item, Page, Transfer } from './api-types';

export type DescribedItem = Item & { readonly description: string };
export type DescribedTransfer = Transfer & { readonly description: string };

// Many pages of a list; beyond this the memory starts over.
const REMEMBERED = 2_000;

export class Catalogue {
  readonly #descriptions = new Map<string, Promise<string>>();
  readonly #items = new Map<string, Promise<DescribedItem>>();

  constructor(private readonly api: Api) {}

  item(id: string): Promise<DescribedItem> {
    return remembered(this.#items, id, async () => this.#described(await this.api.item(id)));
  }

  async items(page: PageRequest): Promise<Page<DescribedItem>> {
    return mapRows(await this.api.items(page), (item) => this.#described(item));
  }

  async holdings(userId: string, at: number | undefined, page: PageRequest): Promise<Page<DescribedItem>> {
    return mapRows(await this.api.holdings(userId, at, page), (item) => this.#described(item));
  }

  async transfers(page: PageRequest): Promise<Page<DescribedTransfer>> {
    return mapRows(await this.api.transfers(page), async (transfer) => {
      const { description } = await this.item(transfer.item_id);
      return { ...transfer, description };
    });
  }

  /** What items of a base item are. */
  description(baseItemId: string): Promise<string> {
    return remembered(
      this.#descriptions,
      baseItemId,
      async () => (await this.api.baseItem(baseItemId)).description,
    );
  }

  async #described(item: Item): Promise<DescribedItem> {
    return { ...item, description: await this.description(item.base_item_id) };
  }
}

async function mapRows<Row, Mapped>(
  page: Page<Row>,
  map: (row: Row) => Promise<Mapped>,
): Promise<Page<Mapped>> {
  return { ...page, data: await Promise.all(page.data.map(map)) };
}

function remembered<Value>(
  memory: Map<string, Promise<Value>>,
  key: string,
  ask: () => Promise<Value>,
): Promise<Value> {
  const known = memory.get(key);
  if (known !== undefined) return known;
  if (memory.size >= REMEMBERED) memory.clear();
  const asked = ask();
  memory.set(key, asked);
  // What could not be told now may be another time.
  asked.catch(() => memory.delete(key));
  return asked;
}
