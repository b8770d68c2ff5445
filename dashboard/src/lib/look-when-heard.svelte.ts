/** Keeps what is shown of the ledger up to date. */

import { onDestroy, untrack } from 'svelte';
import type { LiveStatistics } from './live.svelte';
import type { Metric } from './metric';
import { Refresher } from './refresher';

/**
 * Looks once, and again whenever something was heard of a metric and when it can be heard again, but not while the
 * display is paused or `held`; and in any case when `about` becomes something else. To be called while a component is
 * made.
 */
export function lookWhenHeard(
  metric: Metric,
  live: () => LiveStatistics,
  look: () => Promise<void>,
  held: () => boolean = () => false,
  about: () => unknown = () => undefined,
): void {
  const standsStill = () => live().paused || held();
  let looked = false;

  const refresher = new Refresher(async () => {
    // It may have been paused since this was asked for; when it goes on, it is asked for again.
    if (looked && untrack(standsStill)) return;
    looked = true;
    await look();
  });

  function lookAgain(): void {
    if (standsStill()) return;
    untrack(() => {
      refresher.request();
    });
  }

  refresher.request();
  let asked = JSON.stringify(about());
  $effect(() => {
    // Read, so that this runs again when it changes.
    if (live().news[metric] >= 0) lookAgain();
  });
  $effect(() => {
    // What happened while nothing was heard was not told.
    if (live().status === 'live') lookAgain();
  });
  // By its value: the question stays the same when it is put anew.
  const question = $derived(JSON.stringify(about()));
  $effect(() => {
    if (question === asked) return;
    asked = question;
    // Another question has no answer yet that could stand still.
    looked = false;
    untrack(() => {
      refresher.request();
    });
  });
  onDestroy(() => {
    refresher.close();
  });
}
