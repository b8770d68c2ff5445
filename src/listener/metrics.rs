//! How news come.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// From a socket on the same machine to when a connection is taken for lost.
const LAG_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// Of the connection that listens.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) queue_usage: Gauge<f64, AtomicU64>,
    pub(super) lag_seconds: Histogram,
    pub(super) reconnects: Counter,
    /// Notifications that said what changed; that asked for it to be looked up; and that were none of ours.
    pub(super) told: Counter,
    pub(super) resync: Counter,
    pub(super) unreadable: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    content: &'static str,
}

impl Metrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        let notifications = Family::<Labels, Counter>::default();
        let of = |content| notifications.get_or_create_owned(&Labels { content });
        let metrics = Self {
            queue_usage: Gauge::default(),
            lag_seconds: Histogram::new(LAG_BUCKETS),
            reconnects: Counter::default(),
            told: of("changes"),
            resync: of("resync"),
            unreadable: of("unreadable"),
        };
        let help = "How full Postgres' queue of notifications is, from 0 to 1; from 0.5 on nothing is sent";
        registry.register("notification_queue_usage_ratio", help, metrics.queue_usage.clone());
        let help = "How long a notification to ourselves took to come back, every two seconds";
        registry.register_with_unit("notification_lag", help, Unit::Seconds, metrics.lag_seconds.clone());
        let help =
            "Notifications: with what changed, with too much to tell (what changed is then looked up), unreadable";
        registry.register("notifications", help, notifications);
        let help = "Times that the connection that listens was lost, or could not be made, and was to be made anew";
        registry.register("listener_reconnects", help, metrics.reconnects.clone());
        metrics
    }
}
