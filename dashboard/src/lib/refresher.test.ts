import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { REFRESH_INTERVAL_MS, Refresher } from './refresher';

beforeEach(() => {
  vi.useFakeTimers();
});

afterEach(() => {
  vi.useRealTimers();
});

describe('a refresher', () => {
  test('looks at once, and once for several requests of one moment', async () => {
    const look = vi.fn(() => Promise.resolve());
    const refresher = new Refresher(look);
    refresher.request();
    refresher.request();
    await vi.advanceTimersByTimeAsync(0);
    expect(look).toHaveBeenCalledTimes(1);
    await vi.advanceTimersByTimeAsync(10 * REFRESH_INTERVAL_MS);
    expect(look).toHaveBeenCalledTimes(1);
  });

  test('looks at most once an interval, and after the last request', async () => {
    const look = vi.fn(() => Promise.resolve());
    const refresher = new Refresher(look);
    refresher.request();
    await vi.advanceTimersByTimeAsync(1);
    for (let i = 0; i < 5; i += 1) refresher.request();
    await vi.advanceTimersByTimeAsync(REFRESH_INTERVAL_MS - 2);
    expect(look).toHaveBeenCalledTimes(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(look).toHaveBeenCalledTimes(2);
    await vi.advanceTimersByTimeAsync(10 * REFRESH_INTERVAL_MS);
    expect(look).toHaveBeenCalledTimes(2);
    refresher.request();
    await vi.advanceTimersByTimeAsync(0);
    expect(look).toHaveBeenCalledTimes(3);
  });

  test('waits for a slow answer, and looks again if something was heard meanwhile', async () => {
    const answers: (() => void)[] = [];
    const look = vi.fn(() => new Promise<void>((resolve) => answers.push(resolve)));
    const refresher = new Refresher(look);
    refresher.request();
    await vi.advanceTimersByTimeAsync(5 * REFRESH_INTERVAL_MS);
    refresher.request();
    await vi.advanceTimersByTimeAsync(5 * REFRESH_INTERVAL_MS);
    expect(look).toHaveBeenCalledTimes(1);
    answers[0]?.();
    await vi.advanceTimersByTimeAsync(0);
    expect(look).toHaveBeenCalledTimes(2);
  });

  test('does not look again once it is closed', async () => {
    const look = vi.fn(() => Promise.resolve());
    const refresher = new Refresher(look);
    refresher.request();
    await vi.advanceTimersByTimeAsync(1);
    refresher.request();
    refresher.close();
    await vi.advanceTimersByTimeAsync(10 * REFRESH_INTERVAL_MS);
    expect(look).toHaveBeenCalledTimes(1);
  });
});
