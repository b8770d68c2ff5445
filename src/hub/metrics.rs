//! What notifications did not tell, and slow readers were not told.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Of a hub.
#[derive(Debug)]
pub struct Metrics {
    corrections: Family<Labels, Counter>,
    /// Changes that a sweep told first while notifications came: those of transactions that ran beside one that notified,
    /// and kept quiet as they should.
    pub(super) beside_news: Counter,
    /// The same while none came.
    pub(super) without_news: Counter,
    /// News that a stream was not told, as its reader was not there for them.
    pub(super) skipped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    news: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let corrections = Family::default();
        let of = |news| Family::get_or_create_owned(&corrections, &Labels { news });
        let (beside_news, without_news) = (of("some"), of("none"));
        Self { corrections, beside_news, without_news, skipped: Counter::default() }
    }
}

impl Metrics {
    /// Makes them known.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Changes that a sweep found and no notification had told. While there is some news this is how it should \
            be, as of transactions that run at the same time one notifies. While there is none, notifications do not arrive \
            or writers have turned them off";
        registry.register("sweep_corrections", help, self.corrections.clone());
        let help =
            "Messages that streams were not sent because their reader was slow: a later one told what was newest";
        registry.register("event_streams_skipped_messages", help, self.skipped.clone());
    }
}
