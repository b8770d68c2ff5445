/**
 * The server's clock, seen from the browser: the local one may be wrong by minutes, and buckets must roll over
 * when the server's do. Between heartbeats time goes on by the monotonic clock, which nobody can set back.
 */

// A heartbeat comes every few seconds: these cover about a minute, after which a stepped server clock is believed.
const REMEMBERED = 12;

export class ServerClock {
  /** Server time minus monotonic time, one for each of the latest messages that told the time. */
  #offsets: number[] = [];

  constructor(
    private readonly monotonic: () => number = () => performance.now(),
    private readonly local: () => number = () => Date.now(),
  ) {}

  /** Whether the server has told its time yet. Until then `now` is the local clock's guess. */
  get synchronised(): boolean {
    return this.#offsets.length > 0;
  }

  /** Takes in what the server's clock showed when it sent the message that has just arrived. */
  observe(serverTime: number): void {
    this.#offsets.push(serverTime - this.monotonic());
    if (this.#offsets.length > REMEMBERED) this.#offsets.shift();
  }

  /** Milliseconds since 1970 by the server's clock. */
  now(): number {
    if (!this.synchronised) return this.local();
    // Every observation is late by the time its message travelled: the largest offset is the nearest one.
    return Math.floor(this.monotonic() + Math.max(...this.#offsets));
  }
}
