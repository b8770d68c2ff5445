/** The rows and bodies of the API, as the server's OpenAPI document has them (`npm run types` reads ../openapi.json). */

import type { components } from './openapi';

type Schemas = components['schemas'];

export type BaseItem = Schemas['BaseItem'];
export type NewBaseItem = Schemas['NewBaseItem'];
export type User = Schemas['User'];
export type NewUser = Schemas['NewUser'];
export type Item = Schemas['Item'];
export type NewItem = Schemas['NewItem'];
export type Owner = Schemas['Owner'];
export type Transfer = Schemas['Transfer'];
export type NewTransfer = Schemas['NewTransfer'];

export type Breakdown = Schemas['Breakdown'];

export interface Page<Row> {
  data: Row[];
  next_page_token: string | null;
}

/** One thing that a caller may do. */
export type Scope =
  'ledger:write' | 'ledger:read' | 'statistics:read' | 'exports' | 'streams:manage' | 'admin';

/** Who asks, and what this very request may do. */
export interface SessionStatus {
  authentication: 'required' | 'open';
  public_statistics: boolean;
  caller: { name: string; kind: 'key' | 'session' | 'token'; expires_at: string | null } | null;
  scopes: Scope[];
}
