//! How many connections there are, and for how many there was no room.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Of all connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    pub(super) open: Gauge,
    pub(super) most: Gauge,
    /// Those who found all places taken, and those who found all that an address may have taken.
    pub(super) refused: Counter,
    pub(super) refused_by_address: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    limit: &'static str,
}

impl ConnectionMetrics {
    /// Makes them known.
    pub fn register(registry: &mut Registry) -> Self {
        let refused = Family::<Labels, Counter>::default();
        let of = |limit| refused.get_or_create_owned(&Labels { limit });
        let (all, by_address) = (of("all"), of("address"));
        let metrics = Self { refused: all, refused_by_address: by_address, ..Self::default() };
        registry.register(
            "connections",
            "Connections of clients that are open, streams included",
            metrics.open.clone(),
        );
        registry.register("max_connections", "How many there may be", metrics.most.clone());
        let help = "Connections that were refused as there were too many, in all or of one address";
        registry.register("connections_refused", help, refused);
        metrics
    }
}
