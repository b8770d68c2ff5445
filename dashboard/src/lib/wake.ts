/** Hearing of the moments at which a page may have slept through something. */

/** Calls `act` whenever the page is shown again, thawed, brought back by the back button, or online again. */
export function onWake(act: () => void): () => void {
  const listening = new AbortController();
  const { signal } = listening;
  document.addEventListener(
    'visibilitychange',
    () => {
      if (document.visibilityState === 'visible') act();
    },
    { signal },
  );
  document.addEventListener('resume', act, { signal });
  window.addEventListener('pageshow', act, { signal });
  window.addEventListener('online', act, { signal });
  return () => {
    listening.abort();
  };
}
