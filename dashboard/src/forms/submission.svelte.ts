/** One form's way through the server: what is on its way, what was created, what was wrong. */

import { formErrors, NO_ERRORS, ProblemError, type FormErrors } from '../lib/problem';

export class Submission {
  busy = $state(false);
  createdId = $state<string>();
  errors = $state.raw<FormErrors>(NO_ERRORS);

  /** `fields` are the names, as the API has them, of the fields that the form can show an error at. */
  constructor(private readonly fields: readonly string[]) {}

  /** Sends what `create` sends, unless something is on its way already. Answers the row, if one was created. */
  async send<Row extends { id: string }>(create: () => Promise<Row>): Promise<Row | undefined> {
    const row = await this.ask(create);
    if (row) this.createdId = row.id;
    return row;
  }

  /** The same for what creates nothing. */
  async ask<Answer>(question: () => Promise<Answer>): Promise<Answer | undefined> {
    if (this.busy) return undefined;
    this.busy = true;
    this.errors = NO_ERRORS;
    this.createdId = undefined;
    try {
      return await question();
    } catch (error) {
      if (!(error instanceof ProblemError)) throw error;
      this.errors = formErrors(error.problem, this.fields);
      return undefined;
    } finally {
      this.busy = false;
    }
  }

  /** What is complained of before anything is sent. */
  refuse(fields: FormErrors['fields']): void {
    if (this.busy) return;
    this.createdId = undefined;
    this.errors = { fields, general: [] };
  }
}
