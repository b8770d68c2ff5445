/** What a button does: one thing at a time, and why it could not be done. */

import { ProblemError, sentence, summary } from '../lib/problem';

export class Action {
  busy = $state(false);
  complaint = $state<string>();

  /** Answers whether it was done; it is not while another is on its way. */
  async take(action: () => Promise<unknown>): Promise<boolean> {
    if (this.busy) return false;
    this.busy = true;
    this.complaint = undefined;
    try {
      await action();
      return true;
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      this.complaint = sentence(summary(error.problem));
      return false;
    } finally {
      this.busy = false;
    }
  }
}
