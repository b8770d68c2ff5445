//! What streams have in common: those of one topic get the same bytes.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use super::Status;
use super::turns::Holder;
use crate::statistics::{Position, SeriesKey};

/// What a stream shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Tells topics apart in the ids of messages.
    fingerprint: u64,
    /// The series, in the order of their messages.
    pub series: Vec<SeriesKey>,
    /// How they are told.
    pub format: Format,
}

/// How a stream tells its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Named events: `snapshot`, `update`, `heartbeat`, `status`.
    Events,
    /// After every change one unnamed message, an array with all buckets; with the empty ones if so asked.
    Array {
        /// Whether empty buckets are included.
        fill: bool,
    },
}

impl Topic {
    /// A topic of these series.
    pub fn new(series: Vec<SeriesKey>, format: Format) -> Self {
        // FNV-1a (Fowler, Noll, Vo) over its description: the same on every server.
        let description = format!("{series:?} {format:?}");
        let fingerprint = description.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { fingerprint, series, format }
    }

    /// What a message says about where to resume: for which topic, and after what.
    pub(super) fn id(&self, position: &str) -> String {
        format!("{:016x}/{position}", self.fingerprint)
    }

    /// The position in a message's id, if it belongs to this topic.
    pub fn position_of(&self, id: &str) -> Option<Position> {
        let (fingerprint, position) = id.split_once('/')?;
        (u64::from_str_radix(fingerprint, 16).ok()? == self.fingerprint).then(|| position.parse().ok())?
    }
}

impl Hash for Topic {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint);
    }
}

/// What a stream has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The version of the last values; nothing before the first.
    pub(super) version: Option<u64>,
    /// The last status, where streams tell it.
    pub(super) status: Option<Status>,
    /// How many heartbeats there had been.
    pub(super) heartbeats: u64,
}

/// The latest news of a topic: one buffer for all streams that were told everything before.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// Whoever has heard the news up to this number lacks nothing but these bytes. All others ask the hub.
    pub(super) after: u64,
    /// The number of these news.
    pub(super) number: u64,
    pub(super) bytes: Bytes,
    /// Whether they have values, which a stream may want less often.
    pub(super) values: bool,
    /// What a stream has been told then.
    pub(super) told: Told,
}

/// What the hub knows of a topic that somebody watches.
#[derive(Debug, Default)]
pub(super) struct TopicState {
    /// Who watches it.
    pub(super) audiences: HashMap<Holder, Audience>,
    pub(super) left_at: Option<Instant>,
    /// The bytes from one version to another: the same for all whom they are told.
    pub(super) encoded: Option<((u64, u64), Bytes)>,
    /// What newcomers are told: of which version, made when.
    pub(super) snapshot: Option<(u64, Instant, Bytes)>,
}

impl TopicState {
    /// How many streams there are.
    pub(super) fn streams(&self) -> usize {
        self.audiences.values().map(Audience::streams).sum()
    }

    /// The streams of a holder, as of this version if there are none yet.
    pub(super) fn audience(&mut self, holder: Holder, version: u64) -> &mut Audience {
        let audience = self.audiences.entry(holder).or_default();
        if audience.streams() == 0 {
            audience.version = version;
        }
        audience
    }

    /// Wakes all streams, as of this version; each asks what there is for it.
    pub(super) fn ring(&mut self, version: u64) {
        for audience in self.audiences.values_mut() {
            audience.ring(version);
        }
    }
}

/// One holder's streams of a topic, which are told things at the same time.
#[derive(Debug, Default)]
pub(super) struct Audience {
    pub(super) news: watch::Sender<News>,
    /// Streams that are up to date with the news have been told all values up to this version, or later ones if they asked.
    pub(super) version: u64,
}

impl Audience {
    pub(super) fn streams(&self) -> usize {
        self.news.receiver_count()
    }

    /// Hands these bytes to all streams that are up to date, and wakes the others, who ask for what they lack.
    pub(super) fn tell(&self, bytes: Bytes, values: bool, told: Told) {
        self.news.send_modify(|news| {
            *news = News { after: news.number, number: news.number + 1, bytes, values, told };
        });
    }

    fn ring(&mut self, version: u64) {
        self.version = version;
        self.news.send_modify(|news| {
            let number = news.number + 1;
            *news = News { after: number, number, ..News::default() };
        });
    }
}
