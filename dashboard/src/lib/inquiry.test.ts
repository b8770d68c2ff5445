import { describe, expect, test } from 'vitest';
import { ProblemError } from './problem';
import { Inquiry } from './inquiry.svelte';

const BROKEN = { title: 'Broken', status: 503, errors: [] };

function later<Answer>() {
  let settle!: { answer: (answer: Answer) => void; fail: (error: Error) => void };
  const promise = new Promise<Answer>((answer, fail) => (settle = { answer, fail }));
  return { ...settle, question: () => promise };
}

describe('an inquiry', () => {
  test('never shows the late answer to an older question', async () => {
    const inquiry = new Inquiry<string>();
    const [older, newer] = [later<string>(), later<string>()];
    const both = [inquiry.ask(older.question), inquiry.ask(newer.question)];
    newer.answer('newer');
    older.answer('older');
    await Promise.all(both);
    expect(inquiry.answer).toBe('newer');
  });

  test('never shows the late failure of an older question', async () => {
    const inquiry = new Inquiry<string>();
    const [older, newer] = [later<string>(), later<string>()];
    const both = [inquiry.ask(older.question), inquiry.ask(newer.question)];
    newer.answer('newer');
    older.fail(new ProblemError(BROKEN));
    await Promise.all(both);
    expect(inquiry.problem).toBeUndefined();
  });

  test('keeps its answer while it cannot be asked again, and forgets the problem with the next one', async () => {
    const inquiry = new Inquiry<string>();
    await inquiry.ask(() => Promise.resolve('first'));
    await inquiry.ask(() => Promise.reject(new ProblemError(BROKEN)));
    expect([inquiry.answer, inquiry.problem]).toEqual(['first', BROKEN]);
    await inquiry.ask(() => Promise.resolve('second'));
    expect([inquiry.answer, inquiry.problem]).toEqual(['second', undefined]);
  });
});
