//! How news come.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Of the connection that listens.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(super) queue_usage: Gauge<f64, AtomicU64>,
}

impl Metrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "How full Postgres' queue of notifications is, from 0 to 1; from 0.5 on nothing is sent";
        registry.register("notification_queue_usage_ratio", help, metrics.queue_usage.clone());
        metrics
    }
}
