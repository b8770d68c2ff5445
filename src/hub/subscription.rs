//! One stream: what it has been told, and what it is to be told next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use super::frame::{Frame, NO_POSITION};
use super::state::State;
use super::{Format, Hub, Status, Topic};
use crate::statistics::{Delta, Position, SeriesKey, UnixMillis};

/// A watcher of a topic. It holds the number of the version it has seen, never a queue: a slow one gets the newest
/// values when it asks again.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    topic: Arc<Topic>,
    bell: watch::Receiver<()>,
    /// At most one message per so long.
    interval: Duration,
    told: Told,
}

#[derive(Debug)]
struct Told {
    /// The version of the last values sent; nothing before the first.
    version: Option<u64>,
    position: String,
    at: Option<Instant>,
    status: Option<Status>,
    heartbeats: u64,
    /// Where an earlier stream of this reader ended.
    resume: Option<Position>,
    /// What changed after that, to be told with the first values.
    missed: Vec<Delta>,
}

/// What a stream does next.
#[derive(Debug)]
pub enum Step {
    /// Send these messages.
    Send(Bytes),
    /// Look up what changed after this position, call [`Subscription::resume`] and ask again.
    LookUp(Position),
    /// The server stops.
    End,
}

impl Subscription {
    pub(super) fn new(
        hub: Arc<Hub>,
        topic: Arc<Topic>,
        bell: watch::Receiver<()>,
        resume: Option<Position>,
        interval: Duration,
        heartbeats: u64,
    ) -> Self {
        let told = Told {
            version: None,
            // Until there is something newer, the reader stays where it was.
            position: resume
                .as_ref()
                .map_or_else(|| String::from(NO_POSITION), |at| format!("{:016x}/{at}", topic.fingerprint)),
            at: None,
            status: None,
            heartbeats,
            resume,
            missed: Vec::new(),
        };
        Self { hub, topic, bell, interval, told }
    }

    /// Waits until there is something to do.
    pub async fn next(&mut self) -> Step {
        loop {
            // Whatever rings from here on wakes the wait below, even if it rings before that.
            self.bell.mark_unchanged();
            let pause = match self.step() {
                Ok(step) => return step,
                Err(pause) => pause,
            };
            tokio::select! {
                rung = self.bell.changed() => if rung.is_err() { return Step::End },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    /// What changed after the position that the reader came with; nothing if that cannot be said any more.
    pub fn resume(&mut self, missed: Option<Vec<Delta>>) {
        match missed {
            Some(missed) => self.told.missed = missed,
            None => {
                self.told.version = None;
                self.told.position = String::from(NO_POSITION);
            }
        }
    }

    /// The next step, or how long to wait for one at most.
    fn step(&mut self) -> Result<Step, Option<Duration>> {
        let mut state = self.hub.lock();
        if state.closing {
            return Ok(Step::End);
        }
        if self.told.resume.is_some() && state.all_joined(&self.topic) {
            // First note the version, then look up what changed: whatever comes after the look-up is of a later one.
            self.told.version = Some(state.version);
            if let Some(position) = self.told.resume.take() {
                return Ok(Step::LookUp(position));
            }
        }
        let pause = self.told.at.and_then(|at| self.interval.checked_sub(at.elapsed())).filter(|rest| !rest.is_zero());
        let due = pause.is_none() && self.told.resume.is_none();
        match state.compose(&self.topic, &mut self.told, due) {
            Some(bytes) => Ok(Step::Send(bytes)),
            // Something to say, but too early.
            None if !due && self.told.version.is_none_or(|seen| seen < state.version) => Err(pause),
            None => Err(None),
        }
    }
}

impl State {
    fn all_joined(&self, topic: &Topic) -> bool {
        topic.series.iter().all(|key| self.series.get(key).is_some_and(super::series::Series::is_joined))
    }

    /// What this stream is to be told now: a change of status first, then values if they are due, then a heartbeat.
    fn compose(&mut self, topic: &Arc<Topic>, told: &mut Told, due: bool) -> Option<Bytes> {
        let mut parts: Vec<Bytes> = Vec::new();
        if topic.format == Format::Events && told.status != Some(self.status) {
            told.status = Some(self.status);
            let mut frame = Frame::new(&told.position);
            frame.status(if self.status == Status::Live { "live" } else { "stale" });
            parts.push(frame.finish(&told.position).into());
        }
        if due && let Some(values) = self.values(topic, told) {
            parts.push(values);
        }
        if told.heartbeats < self.heartbeats {
            told.heartbeats = self.heartbeats;
            if told.version == Some(self.version) && told.missed.is_empty() {
                told.position = self.id(topic);
            }
            parts.push(match topic.format {
                Format::Events => {
                    let mut frame = Frame::new(&told.position);
                    frame.heartbeat(self.now(), self.lag.map(|lag| (lag.as_secs_f64() * 1e6).round() / 1e3));
                    frame.finish(&told.position).into()
                }
                // A comment, which keeps the connection open and finds out if it is dead.
                Format::Array { .. } => Bytes::from_static(b": heartbeat\n\n"),
            });
        }
        match parts.len() {
            0 | 1 => parts.pop(),
            _ => Some(parts.concat().into()),
        }
    }

    /// The values that this stream lacks. Encoded once for all streams that lack the same.
    fn values(&mut self, topic: &Arc<Topic>, told: &mut Told) -> Option<Bytes> {
        if !self.all_joined(topic) || (told.version == Some(self.version) && told.missed.is_empty()) {
            return None;
        }
        let id = self.id(topic);
        // The first values also say what time it is, so they are made anew.
        let step = told.version.filter(|_| told.missed.is_empty()).map(|seen| (seen, self.version));
        let encoded = self.topics.get(topic).and_then(|topic| topic.encoded.as_ref());
        let bytes = match encoded {
            Some((of_step, bytes)) if step == Some(*of_step) => bytes.clone(),
            _ => {
                let bytes = Bytes::from(self.encode(topic, told).finish(&id));
                if let (Some(step), Some(topic)) = (step, self.topics.get_mut(topic)) {
                    topic.encoded = Some((step, bytes.clone()));
                }
                bytes
            }
        };
        told.version = Some(self.version);
        told.missed = Vec::new();
        if bytes.is_empty() {
            return None;
        }
        told.position = id;
        told.at = Some(Instant::now());
        Some(bytes)
    }

    fn encode<'a>(&self, topic: &Topic, told: &'a Told) -> Frame<'a> {
        let now = self.now();
        let mut frame = Frame::new(&told.position);
        for key in &topic.series {
            let Some(series) = self.series.get(key) else { continue };
            let changes = told.version.map(|seen| series.changes(seen, now, &missed_moments(key, &told.missed)));
            match (topic.format, changes) {
                (Format::Events, None) => frame.snapshot(key, now, &series.counts(now)),
                (_, Some(changes)) if changes.is_empty() => {}
                (Format::Events, Some(changes)) => frame.update(key, &changes),
                (Format::Array { fill }, _) => frame.array(key, now, &series.counts(now), fill),
            }
        }
        frame
    }

    /// What a message says about where to resume: for which topic, and after what.
    fn id(&self, topic: &Topic) -> String {
        format!("{:016x}/{}", topic.fingerprint, self.published_position)
    }
}

fn missed_moments(key: &SeriesKey, missed: &[Delta]) -> Vec<UnixMillis> {
    missed.iter().filter(|delta| key.covers(delta)).map(|delta| delta.bucket).collect()
}

impl Topic {
    /// A topic of these series.
    pub fn new(series: Vec<SeriesKey>, format: Format) -> Self {
        // FNV-1a (Fowler, Noll, Vo) over its description: the same on every server.
        let description = format!("{series:?} {format:?}");
        let fingerprint = description.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self { series, format, fingerprint }
    }

    /// The position in a message's id, if it belongs to this topic.
    pub fn position_of(&self, id: &str) -> Option<Position> {
        let (fingerprint, position) = id.split_once('/')?;
        (u64::from_str_radix(fingerprint, 16).ok()? == self.fingerprint).then(|| position.parse().ok())?
    }
}
