/** A list as it is at any time: an event stream of the newest rows, and longer ones as older rows are asked for. */

import type { PageRequest } from './api';
import type { Page } from './api-types';
import {
  FIRST_ANSWER_MS,
  FIRST_RETRY_MS,
  GIVE_UP_MS,
  LONGEST_RETRY_MS,
  SILENCE_MS,
  type ConnectionStatus,
  type EventStream,
} from './connection';
import { parseExactly } from './exact-json';
import type { Door } from './live.svelte';
import { isDenied, ProblemError, type Problem } from './problem';
import { LARGEST_PAGE_SIZE, PAGE_SIZE, type Listed, type Listing } from './paged-list.svelte';

// EventSource.CLOSED, which does not exist where tests run.
const CLOSED = 2;

/** What the rows of a list are, and where they come from. */
export interface Watched<Row> {
  /** Where an event stream of its first page is. */
  readonly path: (pageSize: number) => string;
  /** The page that a message of this stream tells; the message itself, unless said otherwise. */
  readonly pageIn?: (message: unknown) => Page<Row>;
  /** The same page, asked for once. */
  readonly page: (request: PageRequest) => Promise<Page<Row>>;
  /** What is to be said of the rows that have changed since; empty where nothing is worth a word. */
  readonly changesSince: (before: readonly Row[], now: readonly Row[]) => string;
}

export class LiveList<Row> implements Listing<Row> {
  answer = $state.raw<Listed<Row>>();
  problem = $state.raw<Problem>();
  status = $state<ConnectionStatus>('connecting');
  /** What has changed since a moment ago; another object each time, even if it says the same. */
  news = $state.raw({ words: '' });

  #stream: EventStream | undefined;
  #wanted = PAGE_SIZE;
  /** Counts what is known: the answer to a question from before is out of date. */
  #heard = 0;
  /** How often in a row nobody answered. */
  #unanswered = 0;
  #retryMs = FIRST_RETRY_MS;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Those who wait for an answer, whatever it is. */
  #waiting: (() => void)[] = [];
  #closed = false;

  constructor(
    private readonly watched: Watched<Row>,
    private readonly door: Pick<Door, 'refused'>,
    private readonly openStream: (url: string) => EventStream = (address) => new EventSource(address),
    private readonly random: () => number = Math.random,
  ) {
    this.#open();
  }

  close(): void {
    this.#closed = true;
    this.#hangUp();
    this.#answered();
  }

  /** Asks anew; answers when there is an answer. */
  refresh(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#open();
    });
  }

  older(): Promise<void> {
    this.#wanted = Math.min(this.#wanted + PAGE_SIZE, LARGEST_PAGE_SIZE);
    return this.refresh();
  }

  /** To be called when the page may have slept: timers have, too, and the connection may have died meanwhile. */
  wake(): void {
    this.#open();
  }

  #open(): void {
    this.#hangUp();
    if (this.#closed) return;
    const stream = this.openStream(this.watched.path(this.#wanted));
    this.#stream = stream;
    // A closed stream may still deliver what was queued: only the present one is listened to.
    stream.addEventListener('message', (event) => {
      if (this.#stream === stream && event instanceof MessageEvent) this.#receive(String(event.data));
    });
    stream.addEventListener('heartbeat', () => {
      if (this.#stream === stream) this.#watchForSilence();
    });
    stream.addEventListener('error', () => {
      if (this.#stream === stream) this.#lose(stream);
    });
    this.#watchForAnswer();
  }

  #hangUp(): void {
    clearTimeout(this.#timer);
    this.#stream?.close();
    this.#stream = undefined;
  }

  #receive(data: string): void {
    this.#unanswered = 0;
    this.#retryMs = FIRST_RETRY_MS;
    this.status = 'live';
    const message = parseExactly(data);
    // Its shape is promised by the server's OpenAPI document, as that of any answer.
    this.#take(this.watched.pageIn?.(message) ?? (message as Page<Row>));
    this.#watchForSilence();
  }

  /** A connection that is alive says something every few seconds. */
  #watchForSilence(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#lost();
      this.#open();
    }, SILENCE_MS);
  }

  #take({ data, next_page_token: next }: Page<Row>): void {
    const words = this.answer === undefined ? '' : this.watched.changesSince(this.answer.rows, data);
    if (words !== '') this.news = { words };
    this.#heard += 1;
    this.answer = { rows: data, hasOlder: next !== null && this.#wanted < LARGEST_PAGE_SIZE };
    this.problem = undefined;
    this.#answered();
  }

  #answered(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  #lose(stream: EventStream): void {
    this.#lost();
    // It connects again by itself, unless what answered was no stream.
    if (stream.readyState !== CLOSED) {
      this.#watchForAnswer();
      return;
    }
    this.#hangUp();
    this.door.refused();
    void this.#askWhy();
    // Half of the wait is left to chance, so that not every page returns at the same moment.
    const wait = this.#retryMs * (0.5 + this.random() / 2);
    this.#retryMs = Math.min(this.#retryMs * 2, LONGEST_RETRY_MS);
    this.#timer = setTimeout(() => {
      this.#open();
    }, wait);
  }

  #lost(): void {
    this.status = this.#heard === 0 ? 'connecting' : 'reconnecting';
  }

  /** What was asked for through a connection that has died is asked for again; a slow network is given more time. */
  #watchForAnswer(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => {
        this.#unanswered += 1;
        this.#lost();
        this.#open();
      },
      Math.min(FIRST_ANSWER_MS * 2 ** this.#unanswered, GIVE_UP_MS),
    );
  }

  /** EventSource does not tell what a server answers that refuses it. The list itself may be had all the same. */
  async #askWhy(): Promise<void> {
    const heard = this.#heard;
    const isWanted = () => heard === this.#heard && !this.#closed;
    try {
      const page = await this.watched.page({ pageSize: this.#wanted });
      if (isWanted()) this.#take(page);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      // Who may read what is the session's to say.
      if (isWanted() && !isDenied(error.problem.status)) this.problem = error.problem;
    } finally {
      this.#answered();
    }
  }
}
