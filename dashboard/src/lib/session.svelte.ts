/**
 * Who the server takes this page's reader for, and what they may do: its word alone, at the address `/session`. Until it
 * has spoken, and where it cannot be asked, everything is offered: what is not allowed is refused anyway.
 */

import { createApi, type Api } from './api';
import type { Scope, SessionStatus } from './api-types';
import { isDenied, ProblemError } from './problem';
import { Refresher } from './refresher';

/** Between questions that get no answer; doubled each time, up to the second figure. */
export const FIRST_RETRY_MS = 5_000;
export const LONGEST_RETRY_MS = 60_000;

/** Why somebody who had signed in must do so again. */
export type Ending = 'signed out' | 'ended';

/** The part of BroadcastChannel that is used, so that tests can stand in for it. */
export interface OtherTabs {
  addEventListener(type: 'message', listener: () => void): void;
  postMessage(message: string): void;
}

export class Session {
  #status = $state.raw<SessionStatus>();
  /** Whether the server has been asked, be it in vain: what waits for the answer waits no longer. */
  asked = $state(false);
  /** How often somebody else has come: what was fetched for one is not shown to another. */
  turn = $state(0);
  ending = $state<Ending>();

  readonly #asking = new Refresher(() => this.#askNow());
  /** What was asked before somebody signed in or out has an answer that is out of date. */
  #events = 0;
  #retryMs = FIRST_RETRY_MS;
  #retryTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly api: Pick<Api, 'session' | 'signIn' | 'signOut'> = createApi(),
    private readonly otherTabs: OtherTabs = new BroadcastChannel('newcycle-session'),
    private readonly random: () => number = Math.random,
  ) {
    otherTabs.addEventListener('message', () => {
      this.ask();
    });
    this.ask();
  }

  /** What is not known yet is not in the way. */
  may(scope: Scope): boolean {
    return this.#status?.scopes.includes(scope) ?? true;
  }

  /** Whether anybody could sign in at all. */
  get required(): boolean {
    return this.#status?.authentication === 'required';
  }

  get caller(): SessionStatus['caller'] {
    return this.#status?.caller ?? null;
  }

  /** Whether nothing may be seen without signing in. */
  get mustSignIn(): boolean {
    return this.required && this.caller === null && this.#status?.scopes.length === 0;
  }

  /** To be called whenever the answer may have changed. */
  ask(): void {
    clearTimeout(this.#retryTimer);
    this.#asking.request();
  }

  /** Fails with a `ProblemError` where the key is not accepted. */
  async signIn(key: string): Promise<void> {
    const status = await this.api.signIn(key);
    this.#settle();
    this.turn += 1;
    this.ending = undefined;
    this.#status = status;
    this.otherTabs.postMessage('signed in');
  }

  async signOut(): Promise<void> {
    await this.api.signOut();
    this.#settle();
    const status = this.#status;
    if (status === undefined) return;
    // Not asked for: who has signed out and goes away leaves nothing on the screen, whatever the network does.
    this.#take({ ...status, caller: null, scopes: status.public_statistics ? ['statistics:read'] : [] });
    this.ending = 'signed out';
    this.otherTabs.postMessage('signed out');
  }

  /** `fetch`, and a question for the session where an answer says that it is not what it was. */
  readonly fetch: typeof fetch = async (input, init) => {
    const response = await fetch(input, init);
    if (isDenied(response.status)) this.ask();
    return response;
  };

  async #askNow(): Promise<void> {
    const events = this.#events;
    try {
      const status = await this.api.session();
      if (events !== this.#events) return;
      this.#retryMs = FIRST_RETRY_MS;
      this.#take(status);
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      // Nobody is signed out by a network that fails.
      if (events === this.#events) this.#askLater();
    } finally {
      this.asked = true;
    }
  }

  #take(status: SessionStatus): void {
    const before = this.#status;
    this.#status = status;
    if (before === undefined || isSame(before.caller, status.caller)) return;
    this.turn += 1;
    this.ending = status.caller === null ? 'ended' : undefined;
  }

  /** What was asked before is answered by what has just happened. */
  #settle(): void {
    clearTimeout(this.#retryTimer);
    this.#events += 1;
  }

  #askLater(): void {
    // Half of the wait is left to chance, so that not every page asks at the same moment.
    const wait = this.#retryMs * (0.5 + this.random() / 2);
    this.#retryMs = Math.min(this.#retryMs * 2, LONGEST_RETRY_MS);
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => {
      this.ask();
    }, wait);
  }
}

function isSame(one: SessionStatus['caller'], other: SessionStatus['caller']): boolean {
  return one?.name === other?.name && one?.kind === other?.kind;
}
