import { untrack } from 'svelte';
import type { Attachment } from 'svelte/attachments';

/** Takes the focus to an element when it comes to the page, if this holds then. */
export function focusedWhen(holds: () => boolean): Attachment<HTMLElement> {
  return (element) => {
    if (untrack(holds)) element.focus();
  };
}
