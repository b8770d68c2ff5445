import { describe, expect, test } from 'vitest';
import { createApi } from './api';
import { Catalogue } from './catalogue';

const ROWS: Readonly<Record<string, object>> = {
  '/items/i-1': { id: 'i-1', base_item_id: 'b-1', created_at: '2026-01-05T12:00:00Z' },
  '/base-items/b-1': { id: 'b-1', description: 'Lamp', created_at: '2026-01-05T12:00:00Z' },
  '/transfers?page_size=2': {
    data: [
      { id: 't-2', item_id: 'i-1', owner_id: 'u-2', timestamp: '2026-01-05T13:00:00Z' },
      { id: 't-1', item_id: 'i-1', owner_id: 'u-1', timestamp: '2026-01-05T12:30:00Z' },
    ],
    next_page_token: 'further',
  },
};

function catalogue() {
  const asked: string[] = [];
  const broken = new Set<string>();
  const api = createApi('', (url) => {
    asked.push(url as string);
    return Promise.resolve(
      broken.has(url as string) ? Response.json({}, { status: 503 }) : Response.json(ROWS[url as string]),
    );
  });
  return { catalogue: new Catalogue(api), asked, broken };
}

describe('the catalogue', () => {
  test('names what was transferred, and asks for each thing once', async () => {
    const { catalogue: known, asked } = catalogue();
    const page = await known.transfers({ pageSize: 2 });
    expect(page.next_page_token).toBe('further');
    expect(page.data.map(({ id, description }) => [id, description])).toEqual([
      ['t-2', 'Lamp'],
      ['t-1', 'Lamp'],
    ]);
    await known.transfers({ pageSize: 2 });
    expect((await known.item('i-1')).description).toBe('Lamp');
    expect(asked.filter((url) => !url.startsWith('/transfers'))).toEqual(['/items/i-1', '/base-items/b-1']);
  });

  test('asks again for what could not be told', async () => {
    const { catalogue: known, broken } = catalogue();
    broken.add('/base-items/b-1');
    await expect(known.item('i-1')).rejects.toThrow();
    broken.clear();
    expect((await known.item('i-1')).description).toBe('Lamp');
  });
});
