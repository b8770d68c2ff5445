//! Everything that the hub knows, as it is under its lock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;

use super::catalogue::Catalogue;
use super::frame::Frame;
use super::series::Series;
use super::topic::{Format, Told, Topic, TopicState};
use super::{LINGER, LONGEST_REST, REST_OWED, SHORTEST_REST, Status, rest_for};
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
    pub(super) series: Catalogue,
    /// Series to be read, in the order of asking.
    wanted: Vec<SeriesKey>,
    pub(super) topics: HashMap<Arc<Topic>, TopicState>,
    /// Counts publications.
    pub(super) version: u64,
    /// The position as of the last publication, as text.
    pub(super) published_position: String,
    pub(super) published_at: Option<Instant>,
    /// How often something was heard since.
    pub(super) hearings: u32,
    /// The rest that was due then, for this publication and those before it.
    pub(super) due_rest: Duration,
    /// The series in which something waits to be published.
    dirty: Vec<SeriesKey>,
    pub(super) clock: Option<(UnixMillis, Instant)>,
    pub(super) heartbeats: u64,
    pub(super) lag: Option<Duration>,
}

/// What has been counted.
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
        for series in self.series.covering(delta) {
            series.hear(delta);
            if series.is_dirty() {
                list(series, &mut self.dirty);
            }
        }
    }

    /// Has a series published though it has heard nothing.
    pub(super) fn list(&mut self, key: &SeriesKey) {
        if let Some(series) = self.series.get_mut(key) {
            list(series, &mut self.dirty);
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

    pub(super) fn finish_catch_up(&mut self) {
        if let Some((next, _)) = self.next_position.take_if(|(_, remaining)| remaining.is_empty()) {
            self.move_to(next);
        }
    }

    /// Asks for a series to be read.
    pub(super) fn want(&mut self, key: &SeriesKey) {
        if let Some(series) = self.series.get_mut(key)
            && !series.is_wanted
        {
            series.is_wanted = true;
            self.wanted.push(key.clone());
        }
    }

    /// The series to be read, but for those that are being read: what is under way will be of no use, so they stay.
    pub(super) fn take_wanted(&mut self) -> Vec<SeriesKey> {
        let mut taken = Vec::new();
        self.wanted.retain(|key| match self.series.get_mut(key) {
            Some(series) if series.is_being_read() => true,
            Some(series) => {
                series.is_wanted = false;
                series.begin_reading();
                taken.push(key.clone());
                false
            }
            None => false,
        });
        taken
    }

    /// Moves windows on, and drops what nobody has watched for a while.
    pub(super) fn tidy_up(&mut self) {
        let now = self.now();
        for series in self.series.iter_mut() {
            series.trim(now);
        }
        let before = self.topics.len();
        self.topics.retain(|_, topic| {
            topic.snapshot = None;
            if topic.streams() > 0 {
                topic.left_at = None;
            }
            topic.streams() > 0 || topic.left_at.get_or_insert_with(Instant::now).elapsed() < LINGER
        });
        if self.topics.len() == before {
            return;
        }
        for series in self.series.iter_mut() {
            series.topics.retain(|topic| self.topics.contains_key(topic));
        }
        self.series.retain(|series| !series.topics.is_empty());
        self.wanted.retain(|key| self.series.contains(key));
        if let Some((_, remaining)) = &mut self.next_position {
            remaining.retain(|key| self.series.contains(key));
        }
        self.finish_catch_up();
    }
}

/// What is told to everyone at once.
impl State {
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn until_next_publication(&self) -> Duration {
        self.published_at.map_or(Duration::ZERO, |at| self.rest().saturating_sub(at.elapsed()))
    }

    /// How long after a publication the next one may be.
    pub(super) fn rest(&self) -> Duration {
        self.due_rest.saturating_sub(REST_OWED).clamp(SHORTEST_REST, 2 * LONGEST_REST)
    }

    /// Makes everything heard visible, in all series at once, and tells everyone whom it concerns.
    pub(super) fn publish(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        let seen = self.version;
        self.version += 1;
        let mut concerned = HashSet::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(series) = self.series.get_mut(&key) else { continue };
            series.is_listed = false;
            if series.is_joined() && series.is_dirty() {
                series.publish(self.version);
                concerned.extend(series.topics.iter().cloned());
            }
        }
        self.refresh_published_position();
        let (mut messages, mut bytes) = (0, 0);
        for topic in &concerned {
            let Some((streams, length)) = self.tell_changes(topic, seen) else { continue };
            messages += streams;
            bytes += streams * length;
        }
        let now = Instant::now();
        let rested = self.published_at.map_or(Duration::ZERO, |at| now - at);
        self.due_rest =
            self.due_rest.saturating_sub(rested) + rest_for(messages, bytes, std::mem::take(&mut self.hearings));
        self.published_at = Some(now);
    }

    /// Tells a topic what changed in the last publication: how many streams, and how many bytes each.
    fn tell_changes(&mut self, topic: &Topic, seen: u64) -> Option<(usize, usize)> {
        // Without streams nobody reads it; and whoever waits for a first reading is told everything after that.
        if self.topics.get(topic)?.streams() == 0 || !self.all_joined(topic) {
            return None;
        }
        let bytes = self.encode(topic, Some(seen), &[]);
        if bytes.is_empty() {
            return None;
        }
        let told = self.told(topic);
        let state = self.topics.get_mut(topic)?;
        state.encoded = Some(((seen, self.version), bytes.clone()));
        let told_to = (state.streams(), bytes.len());
        state.tell(bytes, true, told);
        Some(told_to)
    }

    pub(super) fn set_status(&mut self, status: Status) {
        if self.status == status {
            return;
        }
        self.status = status;
        for (topic, state) in &self.topics {
            if topic.format == Format::Events {
                state.tell(status_message(status), false, self.told(topic));
            }
        }
    }

    pub(super) fn beat(&mut self) {
        self.heartbeats += 1;
        self.refresh_published_position();
        for (topic, state) in self.topics.iter().filter(|(_, state)| state.streams() > 0) {
            state.tell(self.heartbeat(topic, true), false, self.told(topic));
        }
    }

    /// Notes where readers who have seen the last publication stand: unless something is pending, at the hub's position.
    pub(super) fn refresh_published_position(&mut self) {
        if self.dirty.is_empty()
            && let Some(position) = &self.position
        {
            self.published_position = position.to_string();
        }
    }

    /// What a stream of the topic has been told when it lacks nothing.
    pub(super) fn told(&self, topic: &Topic) -> Told {
        Told {
            version: Some(self.version),
            status: (topic.format == Format::Events).then_some(self.status),
            heartbeats: self.heartbeats,
        }
    }

    pub(super) fn all_joined(&self, topic: &Topic) -> bool {
        topic.series.iter().all(|key| self.series.get(key).is_some_and(Series::is_joined))
    }
}

/// Messages.
impl State {
    /// What changed after the version that a stream has seen, and at what it missed; everything, if it has seen nothing.
    pub(super) fn encode(&self, topic: &Topic, seen: Option<u64>, missed: &[Delta]) -> Bytes {
        let now = self.now();
        let mut frame = Frame::default();
        for key in &topic.series {
            let Some(series) = self.series.get(key) else { continue };
            let changes = seen.map(|seen| series.changes(seen, now, &missed_moments(key, missed)));
            match (topic.format, changes) {
                (Format::Events, None) => frame.snapshot(key, now, &series.counts(now)),
                (_, Some(changes)) if changes.is_empty() => {}
                (Format::Events, Some(changes)) => frame.update(key, &changes),
                (Format::Array { fill }, _) => frame.array(key, now, &series.counts(now), fill),
            }
        }
        frame.finish(Some(&topic.id(&self.published_position)))
    }

    /// A heartbeat, with an id for a stream that lacks nothing.
    pub(super) fn heartbeat(&self, topic: &Topic, up_to_date: bool) -> Bytes {
        match topic.format {
            Format::Events => {
                let mut frame = Frame::default();
                frame.heartbeat(self.now(), self.lag.map(|lag| (lag.as_secs_f64() * 1e6).round() / 1e3));
                frame.finish(up_to_date.then(|| topic.id(&self.published_position)).as_deref())
            }
            // A comment, which keeps the connection open and finds out if it is dead.
            Format::Array { .. } => Bytes::from_static(b": heartbeat\n\n"),
        }
    }
}

pub(super) fn status_message(status: Status) -> Bytes {
    let mut frame = Frame::default();
    frame.status(if status == Status::Live { "live" } else { "stale" });
    frame.finish(None)
}

fn list(series: &mut Series, dirty: &mut Vec<SeriesKey>) {
    if !series.is_listed {
        series.is_listed = true;
        dirty.push(series.key().clone());
    }
}

fn missed_moments(key: &SeriesKey, missed: &[Delta]) -> Vec<UnixMillis> {
    missed.iter().filter(|delta| key.covers(delta)).map(|delta| delta.bucket).collect()
}
