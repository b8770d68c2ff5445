/**
 * The rows and bodies of the API, by hand until the server's OpenAPI document exists.
 *
 * To switch: `npm run types` writes `openapi.d.ts`; then each interface here becomes an alias such as
 * `export type BaseItem = components['schemas']['BaseItem']`, and nothing else in the dashboard changes.
 */

export interface BaseItem {
  id: string;
  description: string;
  created_at: string;
}

export interface NewBaseItem {
  description: string;
  id?: string;
}

export interface User {
  id: string;
  created_at: string;
}

export interface NewUser {
  id?: string;
}

export interface Item {
  id: string;
  base_item_id: string;
  created_at: string;
}

export interface NewItem {
  base_item_id: string;
  id?: string;
  created_at?: string;
}

export interface Transfer {
  id: string;
  item_id: string;
  owner_id: string;
  timestamp: string;
}

export interface NewTransfer {
  item_id: string;
  owner_id: string;
  id?: string;
  timestamp?: string;
}

export interface Page<Row> {
  data: Row[];
  next_page_token: string | null;
}
