//! Everything that the hub knows, as it is under its lock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::watch;

use super::series::Series;
use super::{LINGER, PUBLICATION_INTERVAL, Status, Topic};
use crate::statistics::{Delta, Position, SeriesKey, UnixMillis};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) status: Status,
    pub(super) closing: bool,
    /// Up to where every series has counted; unknown before the first word of the database.
    pub(super) position: Option<Position>,
    /// The transactions of the deltas in `position.heard`.
    pub(super) heard: Vec<(u64, i64)>,
    /// A later position, reached as soon as these series have been read again.
    pub(super) next_position: Option<(Position, HashSet<SeriesKey>)>,
    pub(super) series: HashMap<SeriesKey, Series>,
    /// Series to be read, in the order of asking.
    pub(super) wanted: Vec<SeriesKey>,
    pub(super) topics: HashMap<Arc<Topic>, TopicState>,
    /// Counts publications.
    pub(super) version: u64,
    /// The position as of the last publication, as text.
    pub(super) published_position: String,
    pub(super) published_at: Option<Instant>,
    pub(super) dirty: bool,
    pub(super) clock: Option<(UnixMillis, Instant)>,
    pub(super) heartbeats: u64,
    pub(super) lag: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct TopicState {
    /// Rung when there is something to send.
    pub(super) bell: watch::Sender<()>,
    pub(super) left_at: Option<Instant>,
    /// The bytes from one version to another: what all subscribers that keep up need.
    pub(super) encoded: Option<((u64, u64), Bytes)>,
}

impl State {
    pub(super) fn now(&self) -> UnixMillis {
        match self.clock {
            Some((told, at)) => told + i64::try_from(at.elapsed().as_millis()).unwrap_or(0),
            None => Utc::now().timestamp_millis(),
        }
    }

    /// Counts a delta in every series that covers it, unless it was counted before.
    pub(super) fn accept(&mut self, delta: &Delta) {
        let Some(position) = &mut self.position else { return };
        if position.snapshot.sees(delta.xid) || !position.heard.insert(delta.id) {
            return;
        }
        self.heard.push((delta.xid, delta.id));
        for series in self.series.values_mut().filter(|series| series.key().covers(delta)) {
            series.hear(delta);
            self.dirty |= series.is_dirty();
        }
    }

    /// All series have counted up to here, and what was heard beyond.
    pub(super) fn move_to(&mut self, mut position: Position) {
        self.heard.retain(|&(xid, _)| !position.snapshot.sees(xid));
        for &(_, id) in &self.heard {
            position.heard.insert(id);
        }
        self.position = Some(position);
    }

    pub(super) fn want(&mut self, key: &SeriesKey) {
        if !self.wanted.contains(key) {
            self.wanted.push(key.clone());
        }
    }

    pub(super) fn finish_catch_up(&mut self) {
        if let Some((next, _)) = self.next_position.take_if(|(_, remaining)| remaining.is_empty()) {
            self.move_to(next);
        }
    }

    pub(super) fn until_next_publication(&self) -> Duration {
        self.published_at.map_or(Duration::ZERO, |at| PUBLICATION_INTERVAL.saturating_sub(at.elapsed()))
    }

    /// Makes everything heard visible, in all series at once, and says so to everyone whom it concerns.
    pub(super) fn publish(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        self.version += 1;
        self.published_at = Some(Instant::now());
        let mut changed = HashSet::new();
        for series in self.series.values_mut().filter(|series| series.is_joined() && series.is_dirty()) {
            series.publish(self.version);
            changed.insert(series.key().clone());
        }
        self.refresh_published_position();
        self.ring(|topic| topic.series.iter().any(|key| changed.contains(key)));
    }

    /// Notes where readers who have seen the last publication stand: unless something is pending, at the hub's position.
    pub(super) fn refresh_published_position(&mut self) {
        if !self.dirty
            && let Some(position) = &self.position
        {
            self.published_position = position.to_string();
        }
    }

    pub(super) fn ring(&self, concerns: impl Fn(&Topic) -> bool) {
        for (topic, state) in &self.topics {
            if concerns(topic) {
                state.bell.send_replace(());
            }
        }
    }

    /// Moves windows on, and drops what nobody has watched for a while.
    pub(super) fn tidy_up(&mut self) {
        let now = self.now();
        for series in self.series.values_mut() {
            series.trim(now);
        }
        self.topics.retain(|_, topic| {
            if topic.bell.receiver_count() > 0 {
                topic.left_at = None;
            }
            topic.bell.receiver_count() > 0 || topic.left_at.get_or_insert_with(Instant::now).elapsed() < LINGER
        });
        let watched: HashSet<_> = self.topics.keys().flat_map(|topic| topic.series.iter()).collect();
        self.series.retain(|key, _| watched.contains(key));
        self.wanted.retain(|key| watched.contains(key));
        if let Some((_, remaining)) = &mut self.next_position {
            remaining.retain(|key| watched.contains(key));
        }
        self.finish_catch_up();
    }
}
