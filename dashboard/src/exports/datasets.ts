/** What can be exported and what narrows it down, as the server has it: it refuses a filter that a dataset lacks. */

import type { Export, NewExport } from '../lib/api-types';

export type Dataset = Export['dataset'];
export type Format = Export['format'];
export type Compression = Export['compression'];
export type Filter = 'from' | 'to' | 'base_item_id' | 'resolution' | 'timezone';

interface Described {
  readonly name: string;
  /** What one row of the file is. */
  readonly meaning: string;
  readonly filters: readonly Filter[];
}

export const DATASETS: Readonly<Record<Dataset, Described>> = {
  'base-items': {
    name: 'Base items',
    meaning: 'What items can be of: each with its description.',
    filters: ['from', 'to'],
  },
  users: { name: 'Users', meaning: 'Every user, and since when.', filters: ['from', 'to'] },
  items: {
    name: 'Items',
    meaning: 'Every item, and its base item.',
    filters: ['from', 'to', 'base_item_id'],
  },
  transfers: {
    name: 'Transfers',
    meaning: 'What changed hands, when and to whom.',
    filters: ['from', 'to', 'base_item_id'],
  },
  ownership: {
    name: 'Ownership',
    meaning: 'Who owns each item that was ever transferred, and since when.',
    filters: ['to', 'base_item_id'],
  },
  statistics: {
    name: 'Statistics',
    meaning: 'The count of every bucket that is not empty, of all metrics.',
    filters: ['from', 'to', 'base_item_id', 'resolution', 'timezone'],
  },
};

export const FORMATS: Readonly<Record<Format, string>> = {
  csv: 'CSV',
  ndjson: 'JSON lines',
  parquet: 'Parquet',
};

export const COMPRESSIONS: Readonly<Record<Compression, string>> = {
  none: 'None',
  gzip: 'gzip',
  zstd: 'Zstandard',
};

export function hasFilter(dataset: Dataset, filter: Filter): boolean {
  return DATASETS[dataset].filters.includes(filter);
}

/** Everything that a form can hold, for whichever dataset; an empty text is nothing. */
export interface Choices extends Readonly<Record<Exclude<Filter, 'resolution'>, string | undefined>> {
  readonly dataset: Dataset;
  readonly format: Format;
  readonly compression: Compression;
  readonly resolution: NonNullable<Export['resolution']>;
}

/** What is asked for with these choices: those that the dataset does not have are left out. */
export function orderOf({ dataset, format, compression, ...filters }: Choices): NewExport {
  const said = DATASETS[dataset].filters.flatMap((filter) => {
    const value = filters[filter];
    return value === undefined || value === '' ? [] : [[filter, value] as const];
  });
  return { dataset, format, compression, ...Object.fromEntries(said) };
}
