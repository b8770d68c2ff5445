/** Numbers as the reader's locale writes them. Made once: making a formatter takes longer than using it a hundred times. */

export const whole = new Intl.NumberFormat();

/** With its sign, unless it is zero. */
export const signed = new Intl.NumberFormat(undefined, { signDisplay: 'exceptZero' });

/** Short, for where there is little room: 1.2K. */
export const compact = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 });

/** A share of a whole, such as 0.25, in percent. */
export const percent = new Intl.NumberFormat(undefined, { style: 'percent', maximumFractionDigits: 1 });

/** How much more or less in percent. */
export const signedPercent = new Intl.NumberFormat(undefined, {
  style: 'percent',
  signDisplay: 'exceptZero',
  maximumFractionDigits: 1,
});
