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

export type Export = Schemas['Export'];
/** Only these two must be said: what has a default is generated as if it had to be, too. */
export type NewExport = Pick<Schemas['NewExport'], 'dataset' | 'format'> & Partial<Schemas['NewExport']>;

export type Stream = Schemas['Stream'];
export type StreamState = Schemas['StreamState'];
/** Only these two must be said, as of an export. */
export type NewStream = Pick<Schemas['NewStream'], 'name' | 'source'> & Partial<Schemas['NewStream']>;
export type StreamChange = Schemas['Change'];
export type SourceSettings = Schemas['SourceSettings'];
export type NewPreview = Schemas['NewPreview'];
export type Preview = Schemas['Preview'];
export type Previewed = Schemas['Previewed'];
export type Batch = Schemas['Batch'];
export type Batches = Schemas['Batches'];
export type StreamData = Schemas['Data'];
export type StoredRecord = Schemas['StoredRecord'];
export type DeadLetter = Schemas['DeadLetter'];

export type Breakdown = Schemas['Breakdown'];

export type SessionStatus = Schemas['Session'];
export type SignedIn = Schemas['SignedIn'];
export type Scope = Schemas['Scope'];

export interface Page<Row> {
  data: Row[];
  next_page_token: string | null;
}
