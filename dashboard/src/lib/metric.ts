/** What the server counts. The names are those of the API. */
export const METRICS = ['item-creation', 'transfers', 'user-creation'] as const;

export type Metric = (typeof METRICS)[number];

export const METRIC_TITLES: Readonly<Record<Metric, string>> = {
  'item-creation': 'Items created',
  transfers: 'Transfers',
  'user-creation': 'Users created',
};

export function isMetric(value: unknown): value is Metric {
  return METRICS.some((metric) => metric === value);
}

/** Whether a metric can be counted by base item. */
export function knowsBaseItems(metric: Metric): boolean {
  return metric !== 'user-creation';
}
