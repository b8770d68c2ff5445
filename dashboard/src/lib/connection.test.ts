import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  FIRST_ANSWER_MS,
  GIVE_UP_MS,
  KEPT_CONNECTIONS,
  INITIAL_STATE,
  SILENCE_MS,
  StreamConnection,
  statusOf,
  transition,
  type ConnectionEvent,
  type ConnectionStatus,
  type EventStream,
} from './connection';
import type { StreamMessage } from './stream-messages';

describe('the status', () => {
  const live: ConnectionEvent = { type: 'status', status: 'live' };
  const stale: ConnectionEvent = { type: 'status', status: 'stale' };
  const message: ConnectionEvent = { type: 'message' };
  const lost: ConnectionEvent = { type: 'lost' };
  const silence: ConnectionEvent = { type: 'silence' };

  test.each<[ConnectionStatus, ConnectionEvent[]]>([
    ['connecting', []],
    ['connecting', [lost]],
    ['connecting', [silence]],
    ['live', [live]],
    ['live', [live, message]],
    ['stale', [stale]],
    ['stale', [stale, message]],
    ['live', [stale, live]],
    ['stale', [live, silence]],
    ['live', [live, silence, message]],
    ['stale', [stale, silence, message]],
    ['reconnecting', [live, lost]],
    ['reconnecting', [live, lost, silence]],
    // A connection that has not said yet whether it hears the database is not believed.
    ['reconnecting', [live, lost, message]],
    ['live', [live, lost, live]],
    ['stale', [live, lost, stale]],
  ])('is %s after %j', (expected, events) => {
    expect(statusOf(events.reduce(transition, INITIAL_STATE))).toBe(expected);
  });
});

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

  send(type: string, data: unknown): void {
    const text = typeof data === 'string' ? data : JSON.stringify(data);
    this.#listeners.get(type)?.(new MessageEvent(type, { data: text }));
  }

  answer(): void {
    this.#listeners.get('open')?.(new Event('open'));
  }

  fail(readyState: 0 | 2): void {
    this.readyState = readyState;
    this.#listeners.get('error')?.(new Event('error'));
  }
}

describe('a stream', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  function open() {
    const streams: FakeStream[] = [];
    const messages: StreamMessage[] = [];
    const statuses: ConnectionStatus[] = [];
    let refusals = 0;
    const connection = new StreamConnection(
      '/statistics/stream?resolution=minute',
      {
        message: (message) => messages.push(message),
        status: (status) => statuses.push(status),
        refused: () => (refusals += 1),
      },
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
    return { connection, streams, messages, statuses, present, refusals: () => refusals };
  }

  test('becomes live with its first status and hands on what it hears', () => {
    const { messages, statuses, present } = open();
    present().send('status', { status: 'live' });
    present().send('update', { metric: 'transfers', buckets: [{ time: '1970-01-01T00:00:01Z', count: 2 }] });
    expect(statuses).toEqual(['live']);
    expect(messages).toEqual([
      { type: 'status', status: 'live' },
      { type: 'update', metric: 'transfers', series: 'window', buckets: [{ time: 1000, count: 2 }] },
    ]);
  });

  test('is stale after 12 seconds without a word, although it claims to be open', () => {
    const { statuses, present } = open();
    present().send('status', { status: 'live' });
    vi.advanceTimersByTime(SILENCE_MS - 1);
    expect(statuses).toEqual(['live']);
    vi.advanceTimersByTime(1);
    expect(statuses).toEqual(['live', 'stale']);
    present().send('heartbeat', { time: '2026-01-01T00:00:00Z', lag_ms: null });
    expect(statuses).toEqual(['live', 'stale', 'live']);
  });

  test('stays live for as long as heartbeats come', () => {
    const { statuses, streams, present } = open();
    present().send('status', { status: 'live' });
    for (let heartbeat = 0; heartbeat < 100; heartbeat += 1) {
      vi.advanceTimersByTime(5_000);
      present().send('heartbeat', { time: '2026-01-01T00:00:00Z', lag_ms: 1 });
    }
    expect(statuses).toEqual(['live']);
    expect(streams).toHaveLength(1);
  });

  test('that has died in silence is replaced by a new one', () => {
    const { statuses, streams, present } = open();
    present().send('status', { status: 'live' });
    vi.advanceTimersByTime(GIVE_UP_MS);
    expect(statuses).toEqual(['live', 'stale', 'reconnecting']);
    expect(streams.map(({ closed }) => closed)).toEqual([true, false]);
    present().send('status', { status: 'live' });
    expect(statuses.at(-1)).toBe('live');
  });

  test('that has died in silence is asked for anew no more slowly than one that was lost', () => {
    const { streams, present } = open();
    present().send('status', { status: 'live' });
    vi.advanceTimersByTime(GIVE_UP_MS);
    expect(streams).toHaveLength(2);
    vi.advanceTimersByTime(FIRST_ANSWER_MS);
    expect(streams).toHaveLength(3);
  });

  test('is left to EventSource while that reconnects by itself', () => {
    const { statuses, streams, present } = open();
    present().send('status', { status: 'live' });
    present().fail(0);
    vi.advanceTimersByTime(FIRST_ANSWER_MS - 1);
    present().fail(0);
    vi.advanceTimersByTime(FIRST_ANSWER_MS - 1);
    expect(streams).toHaveLength(1);
    present().send('status', { status: 'live' });
    expect(statuses).toEqual(['live', 'reconnecting', 'live']);
  });

  test('that is not answered is asked for again, more slowly once its way must be a new one, until one is', () => {
    const { streams, statuses, present } = open();
    present().send('status', { status: 'live' });
    present().fail(0);
    const waits: number[] = [];
    while (waits.length < 10) {
      const before = streams.length;
      let waited = 0;
      while (streams.length === before) {
        vi.advanceTimersByTime(500);
        waited += 500;
      }
      waits.push(waited);
    }
    const dead = Array.from({ length: KEPT_CONNECTIONS }, () => FIRST_ANSWER_MS);
    expect(waits).toEqual([...dead, 5_000, 10_000, 20_000, 30_000, 30_000]);
    present().send('status', { status: 'live' });
    expect(statuses).toEqual(['live', 'reconnecting', 'live']);
    // It was heard: the next outage begins with short waits.
    const before = streams.length;
    present().fail(0);
    vi.advanceTimersByTime(FIRST_ANSWER_MS);
    expect(streams).toHaveLength(before + 1);
  });

  test('that was answered is waited for, although it has no news yet', () => {
    const { streams, present } = open();
    present().answer();
    vi.advanceTimersByTime(GIVE_UP_MS - 1);
    expect(streams).toHaveLength(1);
    vi.advanceTimersByTime(1);
    expect(streams).toHaveLength(2);
  });

  test('is opened again, ever more slowly, when EventSource has given up', () => {
    const { streams, statuses, present, refusals } = open();
    const waits: number[] = [];
    for (let attempt = 0; attempt < 7; attempt += 1) {
      const before = streams.length;
      present().fail(2);
      let waited = 0;
      while (streams.length === before) {
        vi.advanceTimersByTime(500);
        waited += 500;
      }
      waits.push(waited);
    }
    expect(waits).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    expect(refusals()).toBe(7);
    expect(statuses).toEqual([]);
    present().send('status', { status: 'live' });
    expect(statuses).toEqual(['live']);
  });

  test('ignores what it cannot read, but takes it as a sign of life', () => {
    const { messages, statuses, present } = open();
    present().send('status', { status: 'live' });
    vi.advanceTimersByTime(10_000);
    present().send('update', 'not JSON');
    vi.advanceTimersByTime(10_000);
    expect(messages).toHaveLength(1);
    expect(statuses).toEqual(['live']);
  });

  /** The machine sleeps: the wall clock goes on, and no timer does. */
  function sleep(milliseconds: number): void {
    vi.setSystemTime(Date.now() + milliseconds);
  }

  test('that was slept through is replaced on waking, without waiting for any timer', () => {
    const { connection, statuses, streams, present } = open();
    present().send('status', { status: 'live' });
    sleep(SILENCE_MS + 1);
    expect(statuses).toEqual(['live']);
    connection.wake();
    expect(statuses).toEqual(['live', 'reconnecting']);
    expect(streams.map(({ closed }) => closed)).toEqual([true, false]);
    present().send('update', { metric: 'transfers', buckets: [] });
    // What the connection before knew of the database is not believed of this one.
    expect(statuses).toEqual(['live', 'reconnecting']);
    present().send('status', { status: 'live' });
    expect(statuses).toEqual(['live', 'reconnecting', 'live']);
  });

  test('is replaced once, however many signs of waking there are', () => {
    const { connection, streams, present } = open();
    present().send('status', { status: 'live' });
    sleep(3_600_000);
    for (let sign = 0; sign < 4; sign += 1) connection.wake();
    expect(streams).toHaveLength(2);
    vi.advanceTimersByTime(FIRST_ANSWER_MS - 1);
    expect(streams).toHaveLength(2);
  });

  test('that was heard of a moment ago is kept on waking', () => {
    const { connection, statuses, streams, present } = open();
    present().send('status', { status: 'live' });
    sleep(SILENCE_MS);
    connection.wake();
    expect(streams).toHaveLength(1);
    expect(statuses).toEqual(['live']);
  });

  test('is not waited for any longer on waking, when EventSource has given up', () => {
    const { connection, streams, statuses, present } = open();
    present().send('status', { status: 'live' });
    present().fail(2);
    sleep(SILENCE_MS + 1);
    connection.wake();
    expect(streams).toHaveLength(2);
    present().send('status', { status: 'live' });
    expect(statuses).toEqual(['live', 'reconnecting', 'live']);
    // The attempt that was waited for is not made as well.
    vi.advanceTimersByTime(SILENCE_MS - 1);
    expect(streams).toHaveLength(2);
  });

  test('says nothing more once it is closed, and leaves no timer behind', () => {
    const { connection, messages, present } = open();
    const stream = present();
    connection.close();
    stream.send('status', { status: 'live' });
    stream.fail(2);
    expect(messages).toEqual([]);
    expect(stream.closed).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });
});
