/** A period against the one before it. */

export interface Change {
  readonly absolute: number;
  /** The share of the earlier count, such as 0.25 for a quarter more; nothing where there was nothing. */
  readonly relative: number | undefined;
}

export function changeBetween(earlier: number, later: number): Change {
  const absolute = later - earlier;
  return { absolute, relative: earlier === 0 ? undefined : absolute / earlier };
}
