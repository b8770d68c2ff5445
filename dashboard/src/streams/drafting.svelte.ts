/** A form in which a data stream is described: what it says so far, and what is wrong with that. */

import { Submission } from '../forms/submission.svelte';
import { FIELDS, readDraft, type Complaints, type Draft, type DraftField } from './draft';
import type { NewStream } from '../lib/api-types';

export class Drafting {
  draft: Draft;
  readonly submission = new Submission(FIELDS);

  /** `form` tells its fields from those of other forms on the page. */
  constructor(
    readonly form: string,
    draft: Draft,
  ) {
    this.draft = $state(draft);
  }

  get complaints(): Complaints {
    return this.submission.errors.fields;
  }

  /** Whether something is wrong with any of these fields, or a part of them. */
  isComplainedOf(fields: readonly DraftField[]): boolean {
    return Object.keys(this.complaints).some((field) =>
      fields.some((name) => field === name || field.startsWith(`${name}.`)),
    );
  }

  /** What it says; undefined, with complaints, where that cannot be sent. */
  read(): NewStream | undefined {
    const reading = readDraft(this.draft);
    if ('definition' in reading) return reading.definition;
    this.submission.refuse(reading.complaints);
    return undefined;
  }
}
