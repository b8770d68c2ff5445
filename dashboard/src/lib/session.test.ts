import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { SessionStatus } from './api-types';
import { ProblemError, unreachable } from './problem';
import { REFRESH_INTERVAL_MS } from './refresher';
import { FIRST_RETRY_MS, Session } from './session.svelte';

const OPEN: SessionStatus = {
  authentication: 'open',
  public_statistics: false,
  caller: null,
  scopes: ['ledger:write', 'ledger:read', 'statistics:read', 'exports', 'streams:manage', 'admin'],
};
const ANONYMOUS: SessionStatus = { ...OPEN, authentication: 'required', scopes: [] };
const PUBLIC: SessionStatus = { ...ANONYMOUS, public_statistics: true, scopes: ['statistics:read'] };
const READER: SessionStatus = {
  ...ANONYMOUS,
  caller: { name: 'reader', kind: 'session', expires_at: '2026-11-28T12:00:00Z' },
  scopes: ['ledger:read', 'statistics:read'],
};

const cut = () => Promise.reject(new ProblemError(unreachable('The server could not be reached.')));

/** A page's session, and the server that it asks. */
function opened(first: SessionStatus | undefined) {
  const server = {
    /** What it says; nothing where it cannot be reached. */
    says: first,
    questions: 0,
    session: () => {
      server.questions += 1;
      return server.says === undefined ? cut() : Promise.resolve(server.says);
    },
    signIn: (key: string) =>
      key === 'nck_right'
        ? Promise.resolve(READER)
        : Promise.reject(new ProblemError({ title: 'Unauthorized', status: 401, errors: [] })),
    signOut: () => (server.says === undefined ? cut() : Promise.resolve()),
  };
  const told: string[] = [];
  let hear = (): void => undefined;
  const otherTabs = {
    addEventListener: (_: 'message', listener: () => void) => (hear = listener),
    postMessage: (message: string) => told.push(message),
  };
  const session = new Session(server, otherTabs, () => 1);
  return {
    server,
    session,
    told,
    hear: () => {
      hear();
    },
  };
}

/** Long enough for any question that is due, and too short for one that is tried again. */
const answers = () => vi.advanceTimersByTimeAsync(REFRESH_INTERVAL_MS);

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

describe('a session', () => {
  test('is not in the way until the server has spoken', async () => {
    const { session } = opened(ANONYMOUS);
    expect([session.may('ledger:write'), session.mustSignIn, session.asked]).toEqual([true, false, false]);
    await answers();
    expect([session.may('ledger:write'), session.mustSignIn, session.asked]).toEqual([false, true, true]);
  });

  test('where nobody has to sign in allows everything and shows nobody', async () => {
    const { session } = opened(OPEN);
    await answers();
    expect(session.may('admin')).toBe(true);
    expect([session.required, session.mustSignIn, session.caller]).toEqual([false, false, null]);
  });

  test('allows what the server says, and no more', async () => {
    const { session } = opened(READER);
    await answers();
    expect(session.may('ledger:read')).toBe(true);
    expect(session.may('ledger:write')).toBe(false);
    expect([session.mustSignIn, session.caller?.name]).toEqual([false, 'reader']);
  });

  test('without a key shows the figures where these are public', async () => {
    const { session } = opened(PUBLIC);
    await answers();
    expect([session.may('statistics:read'), session.may('ledger:read')]).toEqual([true, false]);
    expect([session.required, session.mustSignIn]).toEqual([true, false]);
  });

  test('that cannot be asked for holds nothing up, and is asked for again until it answers', async () => {
    const { server, session } = opened(undefined);
    await vi.advanceTimersByTimeAsync(0);
    expect([session.asked, session.may('ledger:read'), session.mustSignIn]).toEqual([true, true, false]);
    await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
    expect(server.questions).toBe(2);
    await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
    expect(server.questions).toBe(2);
    server.says = READER;
    await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
    expect([server.questions, session.caller?.name]).toEqual([3, 'reader']);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(server.questions).toBe(3);
  });

  test('ends by the word of the server, and says so', async () => {
    const { server, session } = opened(READER);
    await answers();
    server.says = ANONYMOUS;
    session.ask();
    await answers();
    expect([session.mustSignIn, session.ending, session.turn]).toEqual([true, 'ended', 1]);
  });

  test('that was never begun has not ended', async () => {
    const { session } = opened(ANONYMOUS);
    await answers();
    expect([session.mustSignIn, session.ending, session.turn]).toEqual([true, undefined, 0]);
  });

  test('does not end where the network does', async () => {
    const { server, session } = opened(READER);
    await answers();
    server.says = undefined;
    session.ask();
    await answers();
    expect([session.mustSignIn, session.caller?.name, session.turn]).toEqual([false, 'reader', 0]);
    server.says = READER;
    await vi.advanceTimersByTimeAsync(FIRST_RETRY_MS);
    expect([session.mustSignIn, session.caller?.name, session.turn]).toEqual([false, 'reader', 0]);
  });

  test.each([401, 403])('is asked for again when anything is answered by %i', async (status) => {
    const { server, session } = opened(READER);
    await answers();
    server.says = ANONYMOUS;
    vi.stubGlobal('fetch', () => Promise.resolve(new Response(null, { status })));
    expect((await session.fetch('/items')).status).toBe(status);
    await answers();
    expect(session.mustSignIn).toBe(true);
  });

  test('is not asked for again for any other answer, nor more than once at a time', async () => {
    const { server, session } = opened(READER);
    await answers();
    const responses = [200, 404, 502].map((status) => new Response(null, { status }));
    vi.stubGlobal('fetch', () => Promise.resolve(responses.pop()));
    await Promise.all([session.fetch('/items'), session.fetch('/items'), session.fetch('/items')]);
    await answers();
    expect(server.questions).toBe(1);
    for (let doubt = 0; doubt < 10; doubt += 1) session.ask();
    await answers();
    expect(server.questions).toBe(2);
  });
});

describe('signing in', () => {
  test('with the right key is a new turn, and told to the other tabs', async () => {
    const { session, told } = opened(ANONYMOUS);
    await answers();
    await session.signIn('nck_right');
    expect([session.mustSignIn, session.caller?.name, session.turn]).toEqual([false, 'reader', 1]);
    expect(told).toEqual(['signed in']);
  });

  test('with a wrong key changes nothing', async () => {
    const { session, told } = opened(ANONYMOUS);
    await answers();
    await expect(session.signIn('nck_wrong')).rejects.toBeInstanceOf(ProblemError);
    expect([session.mustSignIn, session.turn, told]).toEqual([true, 0, []]);
  });

  test('is not undone by the late answer to a question from before', async () => {
    const { server, session } = opened(ANONYMOUS);
    await answers();
    let answer: (status: SessionStatus) => void = () => undefined;
    server.session = () => new Promise((resolve) => (answer = resolve));
    session.ask();
    await vi.advanceTimersByTimeAsync(0);
    await session.signIn('nck_right');
    answer(ANONYMOUS);
    await answers();
    expect([session.mustSignIn, session.caller?.name]).toEqual([false, 'reader']);
  });

  test('forgets how the session before came to its end', async () => {
    const { session } = opened(READER);
    await answers();
    await session.signOut();
    expect(session.ending).toBe('signed out');
    await session.signIn('nck_right');
    expect(session.ending).toBeUndefined();
  });
});

describe('signing out', () => {
  test('leaves nothing to be seen at once, and is told to the other tabs', async () => {
    const { server, session, told } = opened(READER);
    await answers();
    await session.signOut();
    expect([session.mustSignIn, session.ending, session.turn]).toEqual([true, 'signed out', 1]);
    expect([told, server.questions]).toEqual([['signed out'], 1]);
  });

  test('leaves what is public', async () => {
    const { session } = opened({ ...READER, public_statistics: true });
    await answers();
    await session.signOut();
    expect([session.mustSignIn, session.caller, session.may('statistics:read')]).toEqual([false, null, true]);
    expect(session.may('ledger:read')).toBe(false);
  });

  test('has not happened where the server does not hear of it', async () => {
    const { server, session, told } = opened(READER);
    await answers();
    server.says = undefined;
    await expect(session.signOut()).rejects.toBeInstanceOf(ProblemError);
    expect([session.mustSignIn, session.caller?.name, told]).toEqual([false, 'reader', []]);
  });

  test('in another tab is heard of here', async () => {
    const { server, session, hear } = opened(READER);
    await answers();
    server.says = ANONYMOUS;
    hear();
    await answers();
    expect([session.mustSignIn, session.ending]).toEqual([true, 'ended']);
  });
});
