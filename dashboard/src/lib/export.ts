/** What is shown, to take away: as CSV (RFC 4180) and as a picture. */

import type { SeriesView } from './series';

/** One line a bucket, oldest first: its start and end in UTC, its count, and that of as many buckets before. */
export function csvOf({ starts, until, counts, previous, filling }: SeriesView): string {
  const moment = (instant: number | undefined) =>
    instant === undefined ? '' : new Date(instant).toISOString();
  const lines = starts.map((start, index) =>
    [
      moment(start),
      moment(starts[index + 1] ?? until),
      counts[index] ?? 0,
      previous[index] ?? 0,
      index !== filling,
    ].join(','),
  );
  return ['start,end,count,before,finished', ...lines, ''].join('\r\n');
}

/** A name for a file that says what is in it, and sorts by time. */
export function fileName(metric: string, resolution: string, now: number, extension: string): string {
  const stamp = new Date(now).toISOString().slice(0, 19).replaceAll(':', '');
  return `newcycle-${metric}-${resolution}-${stamp}Z.${extension}`;
}

export interface Caption {
  readonly title: string;
  readonly range: string;
}

/** The chart with its title above it, on the colour of the page. */
export async function pictureOf(chart: HTMLCanvasElement, { title, range }: Caption): Promise<Blob> {
  const style = getComputedStyle(chart);
  const scale = devicePixelRatio;
  const margin = 16 * scale;
  const heading = 44 * scale;
  const picture = document.createElement('canvas');
  picture.width = chart.width + 2 * margin;
  picture.height = chart.height + heading + 2 * margin;
  const painter = picture.getContext('2d');
  if (painter === null) throw new Error('the browser has no canvas');
  painter.fillStyle = style.getPropertyValue('--surface');
  painter.fillRect(0, 0, picture.width, picture.height);
  painter.textBaseline = 'top';
  painter.fillStyle = style.getPropertyValue('--text');
  painter.font = `600 ${16 * scale}px ${style.fontFamily}`;
  painter.fillText(title, margin, margin);
  painter.fillStyle = style.getPropertyValue('--quiet');
  painter.font = `${12 * scale}px ${style.fontFamily}`;
  painter.fillText(range, margin, margin + 22 * scale);
  painter.drawImage(chart, margin, margin + heading);
  return new Promise((resolve, reject) => {
    picture.toBlob((blob) => {
      if (blob === null) reject(new Error('the browser could not make a picture'));
      else resolve(blob);
    }, 'image/png');
  });
}

/** Has the browser save something as a file. */
export function save(content: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
