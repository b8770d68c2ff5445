//! The counts of one series in memory: joined to the stream of changes by a snapshot, published version by version.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::topic::Topic;
use crate::statistics::query::Reading;
use crate::statistics::{Delta, Extent, SeriesKey, Snapshot, UnixMillis};

/// One published bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    count: i64,
    /// The version in which the count last changed.
    changed: u64,
}

/// The counts of one series.
///
/// What subscribers see is what was *published*; what has been heard since is pending until the next publication.
#[derive(Debug)]
pub(super) struct Series {
    key: SeriesKey,
    /// The topics that show it.
    pub(super) topics: Vec<Arc<Topic>>,
    /// Whether it is in the list of those to be read.
    pub(super) is_wanted: bool,
    /// Whether it is in the list of those to be published.
    pub(super) is_listed: bool,
    /// Which transactions the last reading had counted; nothing before the first one.
    counted: Option<Snapshot>,
    /// While a reading is under way: everything heard since before it began.
    heard_meanwhile: Option<Vec<Delta>>,
    published: BTreeMap<UnixMillis, Bucket>,
    pending: BTreeMap<UnixMillis, i64>,
    /// Whether the published buckets are all there are within the extent. If not, older ones than these exist.
    complete: bool,
    /// The bucket of the last delta, which is most often also that of the next.
    last_bucket: (UnixMillis, UnixMillis),
}

impl Series {
    pub(super) fn new(key: SeriesKey) -> Self {
        Self {
            key,
            topics: Vec::new(),
            is_wanted: false,
            is_listed: false,
            counted: None,
            heard_meanwhile: None,
            published: BTreeMap::new(),
            pending: BTreeMap::new(),
            complete: true,
            last_bucket: (0, 0),
        }
    }

    pub(super) fn key(&self) -> &SeriesKey {
        &self.key
    }

    pub(super) fn is_joined(&self) -> bool {
        self.counted.is_some()
    }

    pub(super) fn is_being_read(&self) -> bool {
        self.heard_meanwhile.is_some()
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// From now on everything heard is kept until the reading is there. To be called before the reading begins.
    pub(super) fn begin_reading(&mut self) {
        self.heard_meanwhile = Some(Vec::new());
    }

    /// The reading failed.
    pub(super) fn abandon_reading(&mut self) {
        self.heard_meanwhile = None;
    }

    /// Takes over a reading, and adds to it what its snapshot had not seen.
    pub(super) fn join(&mut self, reading: Reading) {
        let heard = self.heard_meanwhile.take().unwrap_or_default();
        self.complete = match self.key.extent {
            Extent::Window(_) => true,
            Extent::Latest { limit, .. } => reading.counts.len() < limit as usize,
        };
        // Where the reading differs from what is published, the difference is published next.
        self.pending = reading.counts.into_iter().collect();
        for (bucket, published) in &self.published {
            *self.pending.entry(*bucket).or_default() -= published.count;
        }
        self.pending.retain(|_, difference| *difference != 0);
        self.counted = Some(reading.snapshot);
        for delta in heard {
            self.add(&delta);
        }
    }

    /// Hears of a delta that this series covers.
    pub(super) fn hear(&mut self, delta: &Delta) {
        if let Some(heard) = &mut self.heard_meanwhile {
            heard.push(delta.clone());
        }
        self.add(delta);
    }

    fn add(&mut self, delta: &Delta) {
        if self.counted.as_ref().is_none_or(|snapshot| snapshot.sees(delta.xid)) {
            return;
        }
        let bucket = self.bucket_of(delta.bucket);
        if let Extent::Latest { from, to, .. } = self.key.extent {
            let older = self.published.first_key_value().is_some_and(|(&oldest, _)| bucket < oldest);
            let outside = from.is_some_and(|from| bucket < from) || to.is_some_and(|to| bucket >= to);
            if outside || (older && !self.complete) {
                return;
            }
        }
        *self.pending.entry(bucket).or_default() += delta.count;
    }

    fn bucket_of(&mut self, moment: UnixMillis) -> UnixMillis {
        let (start, end) = self.last_bucket;
        if start <= moment && moment < end {
            return start;
        }
        let start = self.key.calendar.start_of(moment);
        self.last_bucket = (start, self.key.calendar.end_of(start));
        start
    }

    /// Makes everything heard visible, as of the given version. A first publication also of nothing.
    pub(super) fn publish(&mut self, version: u64) {
        for (bucket, difference) in std::mem::take(&mut self.pending) {
            let published = self.published.entry(bucket).or_insert(Bucket { count: 0, changed: version });
            published.count += difference;
            published.changed = version;
        }
        if let Extent::Latest { limit, .. } = self.key.extent {
            while self.published.len() > limit as usize {
                self.published.pop_first();
                self.complete = false;
            }
        }
    }

    /// Forgets buckets that have left the window.
    pub(super) fn trim(&mut self, now: UnixMillis) {
        if let (Extent::Window(_), Some(start)) = (&self.key.extent, self.key.starts_at(now)) {
            // Most often nothing has left, and a map is not split for nothing.
            if self.published.first_key_value().is_some_and(|(&oldest, _)| oldest < start) {
                self.published = self.published.split_off(&start);
            }
            if self.pending.first_key_value().is_some_and(|(&oldest, _)| oldest < start) {
                self.pending = self.pending.split_off(&start);
            }
        }
    }

    /// The published non-empty buckets, newest first.
    pub(super) fn counts(&self, now: UnixMillis) -> Vec<(UnixMillis, i64)> {
        let start = self.key.starts_at(now).unwrap_or(UnixMillis::MIN);
        let range = self.published.range(start..).rev();
        range.filter(|(_, bucket)| bucket.count != 0).map(|(&time, bucket)| (time, bucket.count)).collect()
    }

    /// The published buckets that changed after the version, and those in which the given moments lie, newest first.
    pub(super) fn changes(&self, after: u64, now: UnixMillis, moments: &[UnixMillis]) -> Vec<(UnixMillis, i64)> {
        let start = self.key.starts_at(now).unwrap_or(UnixMillis::MIN);
        let mut again: Vec<_> = moments.iter().map(|&moment| self.key.calendar.start_of(moment)).collect();
        again.sort_unstable();
        let range = self.published.range(start..).rev();
        range
            .filter(|(time, bucket)| bucket.changed > after || again.binary_search(time).is_ok())
            .map(|(&time, bucket)| (time, bucket.count))
            .collect()
    }
}
