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
use super::turns::{Holder, Sent, Turns};
use super::{LINGER, Status};
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
    /// When whose streams are told what was published.
    pub(super) turns: Turns,
    /// The series in which something waits to be published.
    dirty: Vec<SeriesKey>,
    pub(super) clock: Option<(UnixMillis, Instant)>,
    pub(super) heartbeats: u64,
    pub(super) lag: Option<Duration>,
    /// When the last notification came.
    pub(super) heard_at: Option<Instant>,
}

/// What has been counted.
impl State {
    pub(super) fn now(&self) -> UnixMillis {
        match self.clock {
            Some((told, at)) => told + i64::try_from(at.elapsed().as_millis()).unwrap_or(0),
            None => Utc::now().timestamp_millis(),
        }
    }

    /// Counts a delta in every series that covers it, unless it was counted before. Whether it was not.
    pub(super) fn accept(&mut self, delta: &Delta) -> bool {
        let Some(position) = &mut self.position else { return false };
        if position.snapshot.sees(delta.xid) || !position.heard.insert(delta.id) {
            return false;
        }
        self.heard.push((delta.xid, delta.id));
        for series in self.series.covering(delta) {
            series.hear(delta);
            if series.is_dirty() {
                list(series, &mut self.dirty);
            }
        }
        true
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
            topic.audiences.retain(|_, audience| audience.streams() > 0);
            if topic.streams() > 0 {
                topic.left_at = None;
            }
            topic.streams() > 0 || topic.left_at.get_or_insert_with(Instant::now).elapsed() < LINGER
        });
        let holders: HashSet<_> = self.topics.values().flat_map(|topic| topic.audiences.keys().copied()).collect();
        self.turns.retain(|holder| holders.contains(&holder));
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
    /// Whether there is anything to publish or to tell.
    pub(super) fn is_pending(&self) -> bool {
        !self.dirty.is_empty() || self.turns.is_owing()
    }

    pub(super) fn until_next_publication(&self) -> Duration {
        let next = self.turns.next(!self.dirty.is_empty());
        next.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Makes everything heard visible, and tells those whose turn it is.
    pub(super) fn publish(&mut self) {
        self.show();
        let now = Instant::now();
        self.tell(&self.turns.due(now), now);
    }

    /// Makes everything heard visible, in all series at once: whomever it concerns is to be told.
    pub(super) fn show(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
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
        for topic in concerned {
            let audiences = self.topics.get(&topic).into_iter().flat_map(|topic| &topic.audiences);
            for (holder, _) in audiences.filter(|(_, audience)| audience.streams() > 0) {
                self.turns.owe(*holder, &topic);
            }
        }
    }

    /// Tells these holders everything that they are owed.
    pub(super) fn tell(&mut self, holders: &[Holder], now: Instant) {
        let mut sent = Vec::new();
        for &holder in holders {
            let topics = self.turns.take(holder);
            sent.push((holder, topics.iter().map(|topic| self.tell_changes(topic, holder)).sum()));
        }
        self.turns.rest(now, sent);
    }

    /// Tells the streams of a holder what changed in a topic since they were told the last time.
    fn tell_changes(&mut self, topic: &Topic, holder: Holder) -> Sent {
        // Whoever waits for a first reading is told everything after that.
        if !self.all_joined(topic) {
            return Sent::default();
        }
        let version = self.version;
        let audience = self.topics.get_mut(topic).and_then(|topic| topic.audiences.get_mut(&holder));
        // Without streams nobody reads it.
        let Some(audience) = audience.filter(|audience| audience.streams() > 0) else { return Sent::default() };
        let seen = std::mem::replace(&mut audience.version, version);
        let bytes = self.merged_changes(topic, seen);
        if bytes.is_empty() {
            return Sent::default();
        }
        let told = self.told(topic, version);
        let audience = self.topics.get(topic).and_then(|topic| topic.audiences.get(&holder));
        audience.map_or_else(Sent::default, |audience| {
            let messages = audience.streams();
            let sent = Sent { messages, bytes: messages * bytes.len() };
            audience.tell(bytes, true, told);
            sent
        })
    }

    pub(super) fn set_status(&mut self, status: Status) {
        if self.status == status {
            return;
        }
        self.status = status;
        for (topic, state) in self.topics.iter().filter(|(topic, _)| topic.format == Format::Events) {
            for audience in state.audiences.values() {
                audience.tell(status_message(status), false, self.told(topic, audience.version));
            }
        }
    }

    pub(super) fn beat(&mut self) {
        self.heartbeats += 1;
        self.refresh_published_position();
        for (topic, state) in &self.topics {
            for (holder, audience) in state.audiences.iter().filter(|(_, audience)| audience.streams() > 0) {
                // Versions in which nothing of theirs changed are not told: who is owed nothing lacks nothing.
                let is_owed = self.turns.owes(*holder, topic);
                let version = if is_owed { audience.version } else { self.version };
                audience.tell(self.heartbeat(topic, !is_owed), false, self.told(topic, version));
            }
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

    /// What a stream of the topic has been told when it lacks nothing but values of later versions.
    pub(super) fn told(&self, topic: &Topic, version: u64) -> Told {
        Told {
            version: Some(version),
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
