import { describe, expect, test } from 'vitest';
import { ServerClock } from './clock';

/** A clock whose monotonic time is set by hand, in a browser whose own date is wrong by years. */
function clockInTest() {
  const elapsed = { ms: 1_000 };
  return {
    elapsed,
    clock: new ServerClock(
      () => elapsed.ms,
      () => 42,
    ),
  };
}

describe('the clock of the server', () => {
  test('is guessed from the local one until the server has spoken', () => {
    const { clock } = clockInTest();
    expect(clock.synchronised).toBe(false);
    expect(clock.now()).toBe(42);
  });

  test('goes on by elapsed time, whatever the local date says', () => {
    const { clock, elapsed } = clockInTest();
    clock.observe(5_000_000);
    elapsed.ms += 250;
    expect(clock.synchronised).toBe(true);
    expect(clock.now()).toBe(5_000_250);
  });

  test('believes the message that travelled fastest', () => {
    const { clock, elapsed } = clockInTest();
    clock.observe(5_000_000);
    elapsed.ms += 5_000;
    // Sent 5 s after the first one as well, but 300 ms longer on its way.
    clock.observe(5_004_700);
    expect(clock.now()).toBe(5_005_000);
  });

  test('follows a server clock that was set back, within a dozen heartbeats', () => {
    const { clock, elapsed } = clockInTest();
    clock.observe(5_000_000);
    for (let heartbeat = 0; heartbeat < 12; heartbeat += 1) {
      elapsed.ms += 5_000;
      clock.observe(1_000_000 + heartbeat * 5_000);
    }
    expect(clock.now()).toBe(1_055_000);
  });
});
