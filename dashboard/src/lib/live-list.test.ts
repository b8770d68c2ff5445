import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Page } from './api-types';
import { FIRST_ANSWER_MS, FIRST_RETRY_MS, SILENCE_MS, type EventStream } from './connection';
import { ProblemError } from './problem';
import { LiveList } from './live-list.svelte';

const TOO_MANY = { title: 'Too many', status: 429, errors: [] };

interface Row {
  readonly id: string;
}

function pageOf(ids: readonly string[], next: string | null = null): Page<Row> {
  return { data: ids.map((id) => ({ id })), next_page_token: next };
}

/** Names the rows that were not there before. */
function changesSince(before: readonly Row[], now: readonly Row[]): string {
  const known = new Set(before.map(({ id }) => id));
  return now.flatMap(({ id }) => (known.has(id) ? [] : [id])).join(', ');
}

class FakeStream implements EventStream {
  readyState = 1;
  closed = false;
  readonly #listeners = new Map<string, (event: Event) => void>();

  constructor(readonly url: string) {}

  addEventListener(type: string, listener: (event: Event) => void): void {
    this.#listeners.set(type, listener);
  }

  close(): void {
    this.closed = true;
    this.readyState = 2;
  }

  send(message: Page<Row> | Row): void {
    this.#listeners.get('message')?.(new MessageEvent('message', { data: JSON.stringify(message) }));
  }

  beat(): void {
    this.#listeners.get('heartbeat')?.(new MessageEvent('heartbeat', { data: '{}' }));
  }

  fail(readyState: 0 | 2): void {
    this.readyState = readyState;
    this.#listeners.get('error')?.(new Event('error'));
  }
}

describe.each(['/exports', '/streams'])('the list at %s', (path) => {
  beforeEach(() => {
    vi.useFakeTimers();
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  function open(answer: () => Promise<Page<Row>> = () => Promise.resolve(pageOf([]))) {
    const streams: FakeStream[] = [];
    let refusals = 0;
    const list = new LiveList<Row>(
      { path: (size) => `${path}?page_size=${size}`, page: answer, changesSince },
      { refused: () => (refusals += 1) },
      (url) => {
        const stream = new FakeStream(url);
        streams.push(stream);
        return stream;
      },
      () => 1,
    );
    const present = () => {
      const stream = streams.at(-1);
      if (stream === undefined) throw new Error('no stream was opened');
      return stream;
    };
    const ids = () => list.answer?.rows.map(({ id }) => id);
    return { list, streams, present, ids, refusals: () => refusals };
  }

  test('is what the stream says last', () => {
    const { list, present, ids } = open();
    expect([list.status, list.answer]).toEqual(['connecting', undefined]);
    present().send(pageOf(['b', 'a']));
    present().send(pageOf(['c', 'b', 'a'], 'further'));
    expect([list.status, ids(), list.answer?.hasOlder]).toEqual(['live', ['c', 'b', 'a'], true]);
  });

  test('of one row is told by messages that are the row', () => {
    const stream = new FakeStream(`${path}/a/events`);
    const list = new LiveList<Row>(
      {
        path: () => stream.url,
        page: () => Promise.resolve(pageOf([])),
        pageIn: (row) => ({ data: [row as Row], next_page_token: null }),
        changesSince,
      },
      { refused: () => undefined },
      () => stream,
    );
    stream.send({ id: 'a' });
    expect(list.answer).toEqual({ rows: [{ id: 'a' }], hasOlder: false });
  });

  test('says what has changed, but nothing of what is heard first, nor twice', () => {
    const { list, present } = open();
    present().send(pageOf(['a']));
    expect(list.news.words).toBe('');
    present().send(pageOf(['b', 'a']));
    const said = list.news;
    expect(said.words).toBe('b');
    present().send(pageOf(['b', 'a']));
    expect(list.news).toBe(said);
  });

  test('says when the connection is lost, and keeps what it knew', () => {
    const { list, present, ids, refusals } = open();
    present().fail(0);
    expect(list.status).toBe('connecting');
    present().send(pageOf(['a']));
    present().fail(0);
    expect([list.status, ids(), refusals()]).toEqual(['reconnecting', ['a'], 0]);
    present().send(pageOf(['b', 'a']));
    expect([list.status, ids()]).toEqual(['live', ['b', 'a']]);
  });

  test('asks for a longer stream when older rows are wanted, and goes on with that', async () => {
    const { list, streams, present, ids } = open();
    present().send(pageOf(['b'], 'further'));
    const older = list.older();
    expect([streams[0]?.closed, present().url]).toEqual([true, `${path}?page_size=40`]);
    streams[0]?.send(pageOf(['late']));
    expect(ids()).toEqual(['b']);
    present().send(pageOf(['b', 'a']));
    await older;
    expect([ids(), list.answer?.hasOlder, list.status]).toEqual([['b', 'a'], false, 'live']);
  });

  test('comes by itself where a stream is refused, and is asked for again', async () => {
    const { list, streams, present, ids, refusals } = open(() => Promise.resolve(pageOf(['a'])));
    present().fail(2);
    await vi.advanceTimersByTimeAsync(0);
    expect([ids(), list.status, refusals()]).toEqual([['a'], 'connecting', 1]);
    await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
    expect(streams).toHaveLength(2);
    present().send(pageOf(['b']));
    expect([ids(), list.status]).toEqual([['b'], 'live']);
  });

  test('says why it is refused, until it is not', async () => {
    const { list, present } = open(() => Promise.reject(new ProblemError(TOO_MANY)));
    const refreshed = list.refresh();
    present().fail(2);
    await refreshed;
    expect(list.problem).toEqual(TOO_MANY);
    await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
    present().send(pageOf(['a']));
    expect(list.problem).toBeUndefined();
  });

  test('leaves it to the session to say who may not see it', async () => {
    const { list, present } = open(() => Promise.reject(new ProblemError({ ...TOO_MANY, status: 403 })));
    present().fail(2);
    await vi.advanceTimersByTimeAsync(0);
    expect(list.problem).toBeUndefined();
  });

  test('does not believe the late answer to why it was refused', async () => {
    let answer!: (page: Page<Row>) => void;
    const { present, ids } = open(() => new Promise((resolve) => (answer = resolve)));
    present().fail(2);
    await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
    present().send(pageOf(['newer']));
    answer(pageOf(['older']));
    await vi.advanceTimersByTimeAsync(0);
    expect(ids()).toEqual(['newer']);
  });

  test('is asked for through another connection where one is not answered, or silent for long', async () => {
    const { list, streams, present } = open();
    await vi.advanceTimersByTimeAsync(FIRST_ANSWER_MS);
    expect(streams).toHaveLength(2);
    present().send(pageOf(['a']));
    await vi.advanceTimersByTimeAsync(SILENCE_MS - 1);
    present().beat();
    await vi.advanceTimersByTimeAsync(SILENCE_MS - 1);
    expect([streams.length, list.status]).toEqual([2, 'live']);
    await vi.advanceTimersByTimeAsync(1);
    expect([streams.length, list.status]).toEqual([3, 'reconnecting']);
    await vi.advanceTimersByTimeAsync(FIRST_ANSWER_MS);
    expect([streams.length, list.status]).toEqual([4, 'reconnecting']);
  });

  test('asks no more once it is closed', async () => {
    const { list, streams } = open();
    const waiting = list.refresh();
    list.close();
    await waiting;
    await vi.advanceTimersByTimeAsync(10 * SILENCE_MS);
    expect(streams.filter(({ closed }) => !closed)).toEqual([]);
    expect(streams).toHaveLength(2);
  });
});
