/**
 * One live stream and the honest answer to "is what I see true right now?".
 *
 * EventSource reconnects by itself after a broken connection, but it gives up for ever on a response that is not
 * a stream (a proxy's 502 while the server restarts), and it never notices a connection that died in silence.
 * Both are seen to here, and so is a machine that slept: timers sleep as well.
 */

import { MESSAGE_TYPES, readMessage, type DatabaseStatus, type StreamMessage } from './stream-messages';

export type ConnectionStatus = 'connecting' | 'live' | 'reconnecting' | 'stale';

/** What is known about a stream. The database's status is unknown until a connection has told it. */
export interface ConnectionState {
  readonly everHeard: boolean;
  readonly connected: boolean;
  readonly silent: boolean;
  readonly database: DatabaseStatus | undefined;
}

export type ConnectionEvent =
  | { readonly type: 'message' }
  | { readonly type: 'status'; readonly status: DatabaseStatus }
  | { readonly type: 'lost' }
  | { readonly type: 'silence' };

export const INITIAL_STATE: ConnectionState = {
  everHeard: false,
  connected: false,
  silent: false,
  database: undefined,
};

/** The part of EventSource that is used, so that tests can stand in for it. */
export interface EventStream {
  readonly readyState: number;
  addEventListener(type: string, listener: (event: Event) => void): void;
  close(): void;
}

export interface ConnectionListener {
  message(message: StreamMessage): void;
  status(status: ConnectionStatus): void;
  /** What answered was no stream. It is tried again all the same. */
  refused(): void;
}

/** Heartbeats come every 5 seconds: two missed ones, and a little patience for a slow network. */
export const SILENCE_MS = 12_000;

/** After this long without a word the connection is taken for dead and a new one is opened. */
export const GIVE_UP_MS = 30_000;

/**
 * A connection that was asked for and is not answered after this long is taken for dead, too: after an outage the
 * browser may ask through an old one that it kept, and that has died as well. Doubled each time, up to the wait above,
 * once it must have asked through a new one, so that a slow network gets through. The first is longer than the server
 * makes EventSource wait.
 */
export const FIRST_ANSWER_MS = 5_000;

/** Browsers keep six connections to a server (HTTP/1.1), of which a stream is one: so many others may have died. */
export const KEPT_CONNECTIONS = 5;

/** Between attempts where EventSource has given up; doubled each time, up to the second figure. */
export const FIRST_RETRY_MS = 1_000;
export const LONGEST_RETRY_MS = 30_000;

// EventSource.CLOSED, which does not exist where tests run.
const CLOSED = 2;

/** What becomes of a state: total and pure, so that it can be tested without a network. */
export function transition(state: ConnectionState, event: ConnectionEvent): ConnectionState {
  switch (event.type) {
    case 'message':
      return { ...state, everHeard: true, connected: true, silent: false };
    case 'status':
      return { everHeard: true, connected: true, silent: false, database: event.status };
    case 'lost':
      // The next connection must say anew whether the database is heard.
      return { ...state, connected: false, silent: false, database: undefined };
    case 'silence':
      return { ...state, silent: true };
  }
}

export function statusOf(state: ConnectionState): ConnectionStatus {
  if (!state.connected || state.database === undefined)
    return state.everHeard ? 'reconnecting' : 'connecting';
  return state.silent || state.database === 'stale' ? 'stale' : 'live';
}

export class StreamConnection {
  #state = INITIAL_STATE;
  #stream: EventStream | undefined;
  #retryMs = FIRST_RETRY_MS;
  /** How often in a row nobody answered. */
  #unanswered = 0;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;
  #silenceTimer: ReturnType<typeof setTimeout> | undefined;
  #giveUpTimer: ReturnType<typeof setTimeout> | undefined;
  /** By the wall clock: the monotonic one and all timers may stand still while the machine sleeps. */
  #watchingSince = 0;

  constructor(
    private readonly url: string,
    private readonly listener: ConnectionListener,
    private readonly openStream: (url: string) => EventStream = (address) => new EventSource(address),
    private readonly random: () => number = Math.random,
  ) {
    this.#open();
  }

  close(): void {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#silenceTimer);
    clearTimeout(this.#giveUpTimer);
    this.#stream?.close();
    this.#stream = undefined;
  }

  /**
   * To be called when the page may have slept: a connection that has been silent for too long by the wall clock is
   * given up at once, because no timer has counted that time.
   */
  wake(): void {
    if (Date.now() - this.#watchingSince > SILENCE_MS) this.#replace();
  }

  #replace(): void {
    this.#advance({ type: 'lost' });
    this.#open();
  }

  #open(): void {
    this.close();
    const stream = this.openStream(this.url);
    this.#stream = stream;
    // A closed stream may still deliver what was queued: only the present one is listened to.
    const whenPresent = (act: (event: Event) => void) => (event: Event) => {
      if (this.#stream === stream) act(event);
    };
    for (const type of MESSAGE_TYPES) {
      stream.addEventListener(
        type,
        whenPresent((event) => {
          if (event instanceof MessageEvent) this.#receive(readMessage(type, String(event.data)));
        }),
      );
    }
    stream.addEventListener(
      'open',
      whenPresent(() => {
        this.#watchForSilence(GIVE_UP_MS);
      }),
    );
    stream.addEventListener(
      'error',
      whenPresent(() => {
        this.#lose(stream);
      }),
    );
    this.#watchForAnswer();
  }

  #receive(message: StreamMessage | undefined): void {
    this.#retryMs = FIRST_RETRY_MS;
    this.#unanswered = 0;
    this.#watchForSilence(GIVE_UP_MS);
    if (message !== undefined) this.listener.message(message);
    this.#advance(message?.type === 'status' ? message : { type: 'message' });
  }

  #lose(stream: EventStream): void {
    this.#advance({ type: 'lost' });
    if (stream.readyState === CLOSED) {
      this.#retryLater();
      this.listener.refused();
    } else this.#watchForAnswer();
  }

  #watchForAnswer(): void {
    const doublings = Math.max(this.#unanswered - KEPT_CONNECTIONS, 0);
    this.#watchForSilence(Math.min(FIRST_ANSWER_MS * 2 ** doublings, GIVE_UP_MS), () => {
      this.#unanswered += 1;
    });
  }

  #watchForSilence(giveUpMs: number, givingUp: () => void = () => undefined): void {
    clearTimeout(this.#silenceTimer);
    clearTimeout(this.#giveUpTimer);
    this.#watchingSince = Date.now();
    this.#silenceTimer = setTimeout(() => {
      this.#advance({ type: 'silence' });
    }, SILENCE_MS);
    this.#giveUpTimer = setTimeout(() => {
      givingUp();
      this.#replace();
    }, giveUpMs);
  }

  #retryLater(): void {
    this.close();
    // Half of the wait is left to chance, so that not every page returns at the same moment.
    const wait = this.#retryMs * (0.5 + this.random() / 2);
    this.#retryMs = Math.min(this.#retryMs * 2, LONGEST_RETRY_MS);
    this.#retryTimer = setTimeout(() => {
      this.#open();
    }, wait);
  }

  #advance(event: ConnectionEvent): void {
    const before = statusOf(this.#state);
    this.#state = transition(this.#state, event);
    const after = statusOf(this.#state);
    if (after !== before) this.listener.status(after);
  }
}
