/** A server of a test's own, which may be killed: a process with a data directory, in which it runs a Postgres. */

import { expect } from '@playwright/test';
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import type { Scope } from '../src/lib/api-types';

/** Making a database cluster is most of a first start; after a crash, Postgres replays its log. */
const START_MS = 120_000;
/** The server ends its streams and its Postgres in this time, or is killed. */
const STOP_MS = 30_000;

/** What a shell answers when there is no such program. */
const NOT_FOUND = 127;

/** What settings a server is started with, besides those that every test's server has. */
export type Settings = Readonly<Record<string, string>>;

/** A key as `newcycle keys create` prints it. */
export interface Key {
  readonly id: string;
  readonly key: string;
}

const binary = resolve(process.env.NEWCYCLE_BINARY ?? '../target/debug/newcycle');

export class Server {
  #process: ChildProcess | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #port = 0;
  #psql = '';
  readonly #said: string[] = [];

  private constructor(
    readonly dataDirectory: string,
    private readonly settings: Settings,
  ) {}

  /** A server with a new database. */
  static async start(settings: Settings = {}): Promise<Server> {
    const server = new Server(await mkdtemp(join(tmpdir(), 'newcycle-browser-')), settings);
    await server.start();
    return server;
  }

  /** Another server on the same database: it uses the Postgres that this one runs. */
  async another(settings = this.settings): Promise<Server> {
    const server = new Server(this.dataDirectory, settings);
    await server.start();
    return server;
  }

  get port(): number {
    return this.#port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Starts it, again on the port of the last time, and waits until it is ready. */
  async start(): Promise<void> {
    const child = spawn(binary, ['serve'], {
      env: { ...this.#environment, SERVER_HOST: '127.0.0.1', SERVER_PORT: String(this.#port) },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const killed = () => child.kill('SIGKILL');
    process.once('exit', killed);
    this.#process = child;
    this.#ended = once(child, 'exit').finally(() => process.off('exit', killed));
    createInterface(child.stderr).on('line', (line) => this.#said.push(line));
    createInterface(child.stdout).on('line', (line) => {
      this.#said.push(line);
      const [, port] = /^ *dashboard *http:\/\/[^ ]*:(\d+)\//.exec(line) ?? [];
      if (port !== undefined) this.#port = Number(port);
      const [, psql] = /^ *psql *(.*)/.exec(line) ?? [];
      if (psql !== undefined) this.#psql = psql;
    });
    await expect
      .poll(() => this.#isReady(), {
        message: 'the server becomes ready',
        timeout: START_MS,
        intervals: [50],
      })
      .toBe(true);
  }

  get #environment(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      // Undefined is not passed on: no Postgres but its own, and no port but that one.
      DATABASE_URL: undefined,
      PGHOST: undefined,
      PGPORT: undefined,
      DASHBOARD_PORT: undefined,
      NEWCYCLE_DATA_DIR: this.dataDirectory,
      ...this.settings,
    };
  }

  async #isReady(): Promise<boolean> {
    if (this.#process?.exitCode != null) throw new Error(`it ended:\n${this.#said.slice(-30).join('\n')}`);
    if (this.#port === 0 || this.#psql === '') return false;
    const answer = await fetch(`${this.url}/readyz`).catch(() => undefined);
    return answer?.ok ?? false;
  }

  /** Ends it without a warning. The kernel tells its Postgres to end, too. */
  async kill(): Promise<void> {
    this.#process?.kill('SIGKILL');
    await this.#ended;
  }

  /** Crashes the Postgres that this server, or the one beside it, runs. */
  async crashPostgres(): Promise<void> {
    const file = await readFile(join(this.dataDirectory, 'cluster', 'postmaster.pid'), 'utf8');
    process.kill(Number(file.split('\n')[0]), 'SIGKILL');
  }

  /** Waits until it has ended by itself. */
  async ended(): Promise<void> {
    await this.#ended;
  }

  /** Ends it in order. */
  async stop(): Promise<void> {
    const last = setTimeout(() => this.#process?.kill('SIGKILL'), STOP_MS);
    this.#process?.kill('SIGTERM');
    await this.#ended;
    clearTimeout(last);
  }

  /** Ends it and throws its data away. */
  async remove(): Promise<void> {
    await this.stop();
    await rm(this.dataDirectory, { recursive: true, force: true });
  }

  /** Makes a key that may do this. */
  async createKey(name: string, scopes: readonly Scope[]): Promise<Key> {
    const said = await this.#run(['keys', 'create', '--name', name, '--scopes', scopes.join(','), '--json']);
    return JSON.parse(said) as Key;
  }

  async revokeKey({ id }: Key): Promise<void> {
    await this.#run(['keys', 'revoke', id]);
  }

  /** Runs another command of the program, on the same database, and answers what it says. */
  #run(command: readonly string[]): Promise<string> {
    return new Promise((done, failed) => {
      const options = { env: this.#environment, timeout: START_MS };
      execFile(binary, command, options, (error, said, complaint) => {
        if (error === null) done(said);
        else failed(new Error(complaint, { cause: error }));
      });
    });
  }

  /** Runs a statement with the psql command that the server prints; false where there is no psql. */
  async psql(statement: string): Promise<boolean> {
    return new Promise((done, failed) => {
      const command = `${this.#psql} -v ON_ERROR_STOP=1 -qc "$0"`;
      execFile('sh', ['-c', command, statement], { timeout: START_MS }, (error, _, complaint) => {
        if (error === null) done(true);
        else if (error.code === NOT_FOUND) done(false);
        else failed(new Error(complaint, { cause: error }));
      });
    });
  }
}
