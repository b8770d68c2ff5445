/** Looks again at what has changed, but not at every change. */

/** A list that moves more often than this cannot be read. */
export const REFRESH_INTERVAL_MS = 1_000;

export class Refresher {
  #due = false;
  #running = false;
  #closed = false;

  constructor(private readonly look: () => Promise<void>) {}

  /**
   * Looks now, or as soon as the last look is answered and an interval old: never twice at a time, and always once
   * after the last request. Several requests of one moment are one.
   */
  request(): void {
    this.#due = true;
    if (!this.#running) void this.#run();
  }

  close(): void {
    this.#closed = true;
  }

  async #run(): Promise<void> {
    this.#running = true;
    try {
      await Promise.resolve();
      while (this.#isDue()) {
        this.#due = false;
        await Promise.all([this.look(), interval()]);
      }
    } finally {
      this.#running = false;
    }
  }

  #isDue(): boolean {
    return this.#due && !this.#closed;
  }
}

function interval(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, REFRESH_INTERVAL_MS));
}
