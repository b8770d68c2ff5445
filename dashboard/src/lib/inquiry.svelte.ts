/** A question that is asked again and again. An answer that comes after a newer question was asked is never shown. */

import { ProblemError, type Problem } from './problem';

export class Inquiry<Answer> {
  /** The latest answer; it stays where a later question fails. */
  answer = $state.raw<Answer>();
  /** Why the latest question has no answer. */
  problem = $state.raw<Problem>();

  #asked = 0;

  async ask(question: () => Promise<Answer>): Promise<void> {
    this.#asked += 1;
    const asked = this.#asked;
    try {
      const answer = await question();
      if (asked !== this.#asked) return;
      this.answer = answer;
      this.problem = undefined;
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      if (asked === this.#asked) this.problem = error.problem;
    }
  }
}
