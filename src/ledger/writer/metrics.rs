//! How full the batches are, and how long rows wait.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Rows in a batch: one when the server is quiet, a hundred when it does what it can.
const BATCH_BUCKETS: [f64; 7] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
/// From a fast disk's half a millisecond to as long as anybody waits.
const SECONDS_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// Of all queues.
#[derive(Clone, Debug)]
pub struct Metrics {
    batch_rows: Family<Labels, Histogram, fn() -> Histogram>,
    wait_seconds: Family<Labels, Histogram, fn() -> Histogram>,
    write_seconds: Family<Labels, Histogram, fn() -> Histogram>,
    refused: Family<Labels, Counter>,
}

/// Of one queue.
#[derive(Clone, Debug)]
pub(super) struct QueueMetrics {
    batch_rows: Histogram,
    wait_seconds: Histogram,
    pub(super) write_seconds: Histogram,
    pub(super) refused: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    table: &'static str,
}

impl Metrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds: fn() -> Histogram = || Histogram::new(SECONDS_BUCKETS);
        let metrics = Self {
            batch_rows: Family::new_with_constructor(|| Histogram::new(BATCH_BUCKETS)),
            wait_seconds: Family::new_with_constructor(seconds),
            write_seconds: Family::new_with_constructor(seconds),
            refused: Family::default(),
        };
        let registry = registry.sub_registry_with_prefix("writer");
        registry.register("batch_rows", "Single rows written by one statement", metrics.batch_rows.clone());
        let help = "How long a single row waited for the statement before its own to end";
        registry.register_with_unit("wait", help, Unit::Seconds, metrics.wait_seconds.clone());
        let help = "How long a statement took, with its commit";
        registry.register_with_unit("write", help, Unit::Seconds, metrics.write_seconds.clone());
        registry.register("refused_rows", "Single rows for which there was no room", metrics.refused.clone());
        metrics
    }

    pub(super) fn of(&self, table: &'static str) -> QueueMetrics {
        let labels = Labels { table };
        QueueMetrics {
            batch_rows: self.batch_rows.get_or_create_owned(&labels),
            wait_seconds: self.wait_seconds.get_or_create_owned(&labels),
            write_seconds: self.write_seconds.get_or_create_owned(&labels),
            refused: self.refused.get_or_create_owned(&labels),
        }
    }
}

impl QueueMetrics {
    /// A batch whose rows came at these times is about to be written.
    pub(super) fn begin(&self, now: Instant, since: impl ExactSizeIterator<Item = Instant>) {
        self.batch_rows.observe(since.len() as f64);
        for since in since {
            self.wait_seconds.observe(now.saturating_duration_since(since).as_secs_f64());
        }
    }
}
