/** What a data stream fetches from: an HTTP server that answers with pages of JSON, as a test wants them. */

import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export class Source {
  /** What it answers, page by page; each but the last names the next one as its `next`. */
  pages: readonly (readonly object[])[] = [[]];
  /** What it answers in place of pages. */
  status = 200;
  /** What it says in place of pages, word for word. */
  text: string | undefined;
  /** What it wants to be shown, if anything. */
  authorization: string | undefined;

  readonly #server: Server;
  #held = false;
  #waiting: (() => void)[] = [];

  private constructor() {
    this.#server = createServer((request, response) => {
      const { searchParams } = new URL(request.url ?? '/', this.url);
      const page = Number(searchParams.get('cursor') ?? 0);
      const answer = () => {
        if (this.authorization === undefined || request.headers.authorization === this.authorization) {
          this.#answer(page, response);
        } else {
          response.writeHead(401).end();
        }
      };
      // The first page always comes: what is held is a fetch that has begun.
      if (this.#held && page > 0) this.#waiting.push(answer);
      else answer();
    });
  }

  static async start(): Promise<Source> {
    const source = new Source();
    source.#server.listen(0, '127.0.0.1');
    await once(source.#server, 'listening');
    return source;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Answers with nothing after a first page. */
  hold(): void {
    this.#held = true;
  }

  /** Answers what it has not answered yet, and everything from now on. */
  release(): void {
    this.#held = false;
    for (const answer of this.#waiting.splice(0)) answer();
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #answer(page: number, response: ServerResponse): void {
    const isLast = page >= this.pages.length - 1;
    response.writeHead(this.status, { 'content-type': 'application/json' });
    response.end(
      this.text ??
        JSON.stringify({ items: this.pages[page] ?? [], ...(!isLast && { next: String(page + 1) }) }),
    );
  }
}
