//! Which streams of events are open, how they began and ended, and whose readers are slow.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Of all streams of events. A shared handle.
#[derive(Clone, Debug)]
pub(in crate::http) struct EventStreams {
    /// Those that tell the live figures.
    statistics: Arc<OfKind>,
    /// Those that tell how exports and data streams go.
    watch: Arc<OfKind>,
}

/// Why a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum End {
    /// Its reader has left, or cannot be reached.
    ClientGone,
    /// Its reader's key, token or session is not good any more.
    AccessEnded,
    /// There is nothing more to tell.
    Complete,
    /// The server stops.
    Shutdown,
}

/// One stream, until it is dropped.
#[derive(Debug)]
pub(in crate::http) struct OpenStream {
    of: Arc<OfKind>,
    end: End,
}

/// A reader who has not taken what was sent, until dropped.
pub(in crate::http) struct SlowReader<'a>(&'a Gauge);

#[derive(Debug)]
struct OfKind {
    open: Gauge,
    opened: Counter,
    resumed: Counter,
    ended: [Counter; End::ALL.len()],
    slow: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    kind: &'static str,
    reason: &'static str,
}

impl End {
    const ALL: [Self; 4] = [Self::ClientGone, Self::AccessEnded, Self::Complete, Self::Shutdown];

    fn name(self) -> &'static str {
        match self {
            Self::ClientGone => "client_gone",
            Self::AccessEnded => "access_ended",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
        }
    }
}

impl EventStreams {
    /// Makes them known; all that there can be at once, since what begins to be told with the first fault is not seen to
    /// have grown.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let open = Family::<Labels, Gauge>::default();
        let opened = Family::<Labels, Counter>::default();
        let resumed = Family::<Labels, Counter>::default();
        let ended = Family::<EndLabels, Counter>::default();
        let slow = Gauge::default();
        let registry = registry.sub_registry_with_prefix("event_streams");
        registry.register("open", "Streams of events that are open", open.clone());
        registry.register("opened", "Streams of events that were opened", opened.clone());
        let help = "Those of them whose reader had been here before, and said what it saw last (Last-Event-ID)";
        registry.register("resumed", help, resumed.clone());
        registry.register("ended", "Streams of events that are over, and why", ended.clone());
        let help = "Streams of statistics whose reader has not taken what was sent, so that the kernel takes no more";
        registry.register("slow", help, slow.clone());
        let of = |kind| {
            let labels = Labels { kind };
            Arc::new(OfKind {
                open: open.get_or_create_owned(&labels),
                opened: opened.get_or_create_owned(&labels),
                resumed: resumed.get_or_create_owned(&labels),
                ended: End::ALL.map(|end| ended.get_or_create_owned(&EndLabels { kind, reason: end.name() })),
                slow: slow.clone(),
            })
        };
        Self { statistics: of("statistics"), watch: of("watch") }
    }

    /// A stream of statistics has begun; for a reader who has seen an earlier one, or not.
    pub(in crate::http) fn open_statistics(&self, resumed: bool) -> OpenStream {
        OfKind::open(&self.statistics, resumed)
    }

    /// The same for a stream that tells how something goes.
    pub(in crate::http) fn open_watch(&self, resumed: bool) -> OpenStream {
        OfKind::open(&self.watch, resumed)
    }
}

impl OfKind {
    fn open(of: &Arc<Self>, resumed: bool) -> OpenStream {
        of.open.inc();
        of.opened.inc();
        if resumed {
            of.resumed.inc();
        }
        // Whoever drops it without a word has lost the reader.
        OpenStream { of: Arc::clone(of), end: End::ClientGone }
    }
}

impl OpenStream {
    /// Says why it is about to be over.
    pub(in crate::http) fn ends(&mut self, end: End) {
        self.end = end;
    }

    /// Where slow readers are counted.
    pub(in crate::http) fn slow_readers(&self) -> Gauge {
        self.of.slow.clone()
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.of.open.dec();
        self.of.ended[self.end as usize].inc();
    }
}

impl<'a> SlowReader<'a> {
    pub(in crate::http) fn count(slow: &'a Gauge) -> Self {
        slow.inc();
        Self(slow)
    }
}

impl Drop for SlowReader<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
