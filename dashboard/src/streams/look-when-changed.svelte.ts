/** Keeps what is shown of a data stream up to date. */

import { onDestroy, untrack } from 'svelte';
import { Refresher } from '../lib/refresher';

/**
 * Looks once, and again whenever `about` becomes something else. To be called while a component is made. Answers what
 * has it looked at again besides.
 */
export function lookWhenChanged(about: () => unknown, look: () => Promise<void>): () => void {
  const refresher = new Refresher(look);
  const request = () => {
    refresher.request();
  };
  // By its value: a list that is heard again says mostly the same.
  const question = $derived(JSON.stringify(about()));
  let asked: string | undefined;
  $effect(() => {
    if (question === asked) return;
    asked = question;
    untrack(request);
  });
  onDestroy(() => {
    refresher.close();
  });
  return request;
}
