/** A network that can fail, between a page and its server: a TCP proxy. */

import { createServer, connect, type AddressInfo, type Server, type Socket } from 'node:net';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';

/** Little, in pieces that may end in the middle of anything. */
const TRICKLE_BYTES = 64;
const TRICKLE_MS = 50;

interface Connection {
  readonly page: Socket;
  readonly server: Socket;
  /** Nothing passes until this is settled; never, on a connection that was lost. */
  passing: Promise<void>;
}

export class Network {
  readonly #connections = new Set<Connection>();
  #listener: Server | undefined;
  #port = 0;
  #slow = false;
  #held: { readonly until: Promise<void>; readonly release: () => void } | undefined;

  private constructor(private readonly target: () => number) {}

  /** A network that works, to whatever listens on that port of this machine. */
  static async to(target: () => number): Promise<Network> {
    const network = new Network(target);
    await network.#listen();
    return network;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Breaks every connection and refuses new ones. */
  async cut(): Promise<void> {
    this.#listener?.close();
    this.#listener = undefined;
    const ended = [...this.#connections].map(({ page, server }) => {
      server.destroy();
      page.destroy();
      return once(page, 'close');
    });
    await Promise.all(ended);
  }

  /** Delivers nothing any more and says so to nobody: connections stay open, also new ones. */
  hold(): void {
    let release = (): void => undefined;
    const until = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#held = { until, release };
    for (const connection of this.#connections) connection.passing = until;
  }

  /** Forgets the connections that there are, without a word to either side. New ones work. */
  lose(): void {
    for (const connection of this.#connections) connection.passing = new Promise(() => undefined);
  }

  /** Trickles from now on. */
  slow(): void {
    this.#slow = true;
  }

  /** Works again, and delivers what was held. */
  async heal(): Promise<void> {
    this.#slow = false;
    this.#held?.release();
    this.#held = undefined;
    if (this.#listener === undefined) await this.#listen();
  }

  async close(): Promise<void> {
    await this.cut();
  }

  async #listen(): Promise<void> {
    this.#listener = createServer((page) => {
      this.#join(page);
    }).listen(this.#port, '127.0.0.1');
    await once(this.#listener, 'listening');
    this.#port = (this.#listener.address() as AddressInfo).port;
  }

  #join(page: Socket): void {
    const server = connect(this.target(), '127.0.0.1');
    const connection = { page, server, passing: this.#held?.until ?? Promise.resolve() };
    this.#connections.add(connection);
    for (const socket of [page, server]) {
      // Whatever befalls one side becomes of the other, too.
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        page.destroy();
        server.destroy();
        this.#connections.delete(connection);
      });
    }
    void this.#pass(page, server, connection);
    void this.#pass(server, page, connection);
  }

  async #pass(from: Socket, to: Socket, connection: Connection): Promise<void> {
    try {
      for await (const chunk of from as AsyncIterable<Buffer>) {
        for (const piece of this.#slow ? pieces(chunk) : [chunk]) {
          if (this.#slow) await delay(TRICKLE_MS);
          await connection.passing;
          // Reading waits for writing: a slow network pushes back.
          if (!to.write(piece)) await once(to, 'drain');
        }
      }
      to.end();
    } catch {
      // One side has gone.
      to.destroy();
    }
  }
}

function pieces(chunk: Buffer): Buffer[] {
  return Array.from({ length: Math.ceil(chunk.length / TRICKLE_BYTES) }, (_, index) =>
    chunk.subarray(index * TRICKLE_BYTES, (index + 1) * TRICKLE_BYTES),
  );
}
