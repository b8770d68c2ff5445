/** What a field must say of itself, so that its label, its hint and the complaint about it are known to be its own. */
export interface Described {
  readonly id: string;
  readonly name: string;
  readonly 'aria-invalid': boolean;
  readonly 'aria-describedby': string | undefined;
}
