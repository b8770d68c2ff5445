import { describe, expect, test } from 'vitest';
import { DATASETS, hasFilter, orderOf, type Choices, type Dataset, type Filter } from './datasets';

const FILTERS: readonly Filter[] = ['from', 'to', 'base_item_id', 'resolution', 'timezone'];

const EVERYTHING: Choices = {
  dataset: 'statistics',
  format: 'parquet',
  compression: 'zstd',
  from: '2026-01-01T00:00:00.000Z',
  to: '2026-02-01T00:00:00.000Z',
  base_item_id: 'b-1',
  resolution: 'week',
  timezone: 'Asia/Tokyo',
};

describe('a dataset', () => {
  test.each<[Dataset, readonly Filter[]]>([
    ['base-items', ['from', 'to']],
    ['users', ['from', 'to']],
    ['items', ['from', 'to', 'base_item_id']],
    ['transfers', ['from', 'to', 'base_item_id']],
    ['ownership', ['to', 'base_item_id']],
    ['statistics', FILTERS],
  ])('%s is narrowed down by %j', (dataset, filters) => {
    expect(FILTERS.filter((filter) => hasFilter(dataset, filter))).toEqual(filters);
  });
});

describe('an order', () => {
  test.each(Object.keys(DATASETS) as Dataset[])('of %s has the filters that there are for it', (dataset) => {
    const { format, compression, ...said } = orderOf({ ...EVERYTHING, dataset });
    expect([format, compression]).toEqual(['parquet', 'zstd']);
    expect(Object.keys(said).sort()).toEqual(['dataset', ...DATASETS[dataset].filters].sort());
  });

  test('leaves out what is empty', () => {
    const order = orderOf({ ...EVERYTHING, dataset: 'transfers', from: undefined, base_item_id: '' });
    expect(order).toEqual({
      dataset: 'transfers',
      format: 'parquet',
      compression: 'zstd',
      to: '2026-02-01T00:00:00.000Z',
    });
  });
});
