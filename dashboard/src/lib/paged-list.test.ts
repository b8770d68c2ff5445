import { describe, expect, test } from 'vitest';
import type { PageRequest } from './api';
import { PagedList } from './paged-list.svelte';

/** A list of numbers, from the newest to 1, whose tokens are the last number of their page. */
function numbers(newest: { value: number }, first?: number) {
  const asked: PageRequest[] = [];
  const list = new PagedList<number>((page) => {
    asked.push(page);
    const first = page.pageToken === undefined ? newest.value : Number(page.pageToken) - 1;
    const length = Math.min(page.pageSize, first);
    const data = Array.from({ length }, (_, index) => first - index);
    const last = first - length + 1;
    return Promise.resolve({ data, next_page_token: last > 1 ? String(last) : null });
  }, first);
  return { list, asked };
}

describe('a list by pages', () => {
  test('shows the newest rows, then older ones, to the last', async () => {
    const { list } = numbers({ value: 50 });
    await list.refresh();
    expect([list.answer?.rows.length, list.answer?.rows[0], list.answer?.hasOlder]).toEqual([20, 50, true]);
    await list.older();
    expect([list.answer?.rows.length, list.answer?.hasOlder]).toEqual([40, true]);
    await list.older();
    expect([list.answer?.rows.length, list.answer?.rows.at(-1), list.answer?.hasOlder]).toEqual([
      50,
      1,
      false,
    ]);
  });

  test('shows as few rows at first as somebody wants, and what the first page says besides', async () => {
    const { list } = numbers({ value: 50 }, 5);
    await list.refresh();
    expect(list.answer?.rows).toEqual([50, 49, 48, 47, 46]);
    await list.older();
    expect(list.answer?.rows).toHaveLength(25);
    expect(list.answer?.first.next_page_token).toBe('26');
  });

  test('keeps the older rows that were asked for when it is refreshed', async () => {
    const newest = { value: 50 };
    const { list } = numbers(newest);
    await list.refresh();
    await Promise.all([list.older(), list.refresh()]);
    newest.value = 51;
    await list.refresh();
    expect(list.answer?.rows).toEqual(Array.from({ length: 40 }, (_, index) => 51 - index));
  });

  test('asks for no larger page than the server gives', async () => {
    const { list, asked } = numbers({ value: 1_100 });
    for (let shown = 0; shown < 1_100; shown += 20) await list.older();
    expect(list.answer?.rows).toHaveLength(1_100);
    expect(Math.max(...asked.map(({ pageSize }) => pageSize))).toBe(1_000);
    expect(list.answer?.hasOlder).toBe(false);
  });
});
