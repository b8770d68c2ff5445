//! One stream: what it has been told, and what it is to be told next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

use super::state::{State, status_message};
use super::topic::{Format, News, Told, Topic};
use super::{Hub, SNAPSHOT_LIFETIME};
use crate::statistics::{Delta, Position};

/// A watcher of a topic. It holds the number of the version it has seen, never a queue: a slow one gets the newest
/// values when it asks again.
///
/// Whoever is up to date takes the topic's latest news as they are, without the hub's lock. Only newcomers, those who
/// missed something and those who want it less often ask the hub.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    topic: Arc<Topic>,
    news: watch::Receiver<News>,
    told: Told,
    /// The number of the news with which the stream was up to date; nothing while it is not.
    heard: Option<u64>,
    /// The least time between messages with values, if the reader asked for one, and when the last one was.
    interval: Option<Duration>,
    told_at: Option<Instant>,
    /// What the reader of an earlier stream lacks. Boxed, because most streams have none, and none for long.
    earlier: Option<Box<Earlier>>,
}

#[derive(Debug)]
enum Earlier {
    /// It ended here.
    Ended(Position),
    /// This happened since, and is told with the first values.
    Missed(Vec<Delta>),
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
        news: watch::Receiver<News>,
        resume: Option<Position>,
        interval: Option<Duration>,
        heartbeats: u64,
    ) -> Self {
        Self {
            hub,
            topic,
            news,
            told: Told { heartbeats, ..Told::default() },
            heard: None,
            interval,
            told_at: None,
            earlier: resume.map(|position| Box::new(Earlier::Ended(position))),
        }
    }

    /// Waits until there is something to do.
    pub async fn next(&mut self) -> Step {
        loop {
            match self.advance() {
                Ok(step) => return step,
                Err(None) => {
                    if self.news.changed().await.is_err() {
                        return Step::End;
                    }
                }
                // Boxed, because few streams ever pause, and all others would have room for it.
                Err(Some(pause)) => {
                    if let Ok(Err(_)) = Box::pin(timeout(pause, self.news.changed())).await {
                        return Step::End;
                    }
                }
            }
        }
    }

    /// What changed after the position that the reader came with; nothing if that cannot be said any more.
    pub fn resume(&mut self, missed: Option<Vec<Delta>>) {
        match missed {
            Some(missed) => self.earlier = Some(Box::new(Earlier::Missed(missed))),
            None => self.told.version = None,
        }
    }

    /// The next step; or, when there is none yet, how long to wait for one at most.
    pub(super) fn advance(&mut self) -> Result<Step, Option<Duration>> {
        // Whatever is told from here on ends the wait for a change, even if it is told before the wait begins.
        self.news.mark_unchanged();
        if let Some(heard) = self.heard {
            let news = self.news.borrow();
            if heard == news.number {
                return Err(None);
            }
            if heard == news.after && !(news.values && self.pause().is_some()) {
                if news.values && self.interval.is_some() {
                    self.told_at = Some(Instant::now());
                }
                (self.told, self.heard) = (news.told, Some(news.number));
                return Ok(Step::Send(news.bytes.clone()));
            }
            if self.interval.is_none() {
                self.hub.metrics.skipped.inc_by(news.number - heard - 1);
            }
        }
        self.ask()
    }

    fn ask(&mut self) -> Result<Step, Option<Duration>> {
        let hub = Arc::clone(&self.hub);
        let mut state = hub.lock();
        if state.closing {
            return Ok(Step::End);
        }
        let joined = state.all_joined(&self.topic);
        if let Some(Earlier::Ended(position)) = self.earlier.as_deref()
            && joined
        {
            let position = position.clone();
            // First note the version, then look up what changed: whatever comes after the look-up is of a later one.
            self.told.version = Some(state.version);
            self.earlier = None;
            return Ok(Step::LookUp(position));
        }
        let pause = self.pause();
        let bytes = self.compose(&mut state, joined && pause.is_none());
        let up_to_date = joined && self.earlier.is_none() && self.told == state.told(&self.topic, state.version);
        self.heard = up_to_date.then(|| self.news.borrow().number);
        match bytes {
            Some(bytes) => Ok(Step::Send(bytes)),
            None if up_to_date => Err(None),
            None => Err(pause),
        }
    }

    /// What this stream is to be told now: a change of status first, then values if they are due, then a heartbeat.
    fn compose(&mut self, state: &mut State, due: bool) -> Option<Bytes> {
        let mut parts: Vec<Bytes> = Vec::new();
        if self.topic.format == Format::Events && self.told.status != Some(state.status) {
            self.told.status = Some(state.status);
            parts.push(status_message(state.status));
        }
        if due && let Some(values) = self.values(state) {
            self.told_at = self.interval.map(|_| Instant::now());
            parts.push(values);
        }
        if self.told.heartbeats < state.heartbeats {
            self.told.heartbeats = state.heartbeats;
            let up_to_date = self.told.version == Some(state.version) && self.earlier.is_none();
            parts.push(state.heartbeat(&self.topic, up_to_date));
        }
        match parts.len() {
            0 | 1 => parts.pop(),
            _ => Some(parts.concat().into()),
        }
    }

    /// The values that this stream lacks. Encoded once for all streams that lack the same.
    fn values(&mut self, state: &mut State) -> Option<Bytes> {
        let missed = match self.earlier.take().map(|earlier| *earlier) {
            Some(Earlier::Missed(missed)) => missed,
            _ => Vec::new(),
        };
        if self.told.version == Some(state.version) && missed.is_empty() {
            return None;
        }
        let seen = self.told.version.replace(state.version);
        let bytes = match seen {
            None => state.snapshot(&self.topic),
            Some(seen) if missed.is_empty() => state.merged_changes(&self.topic, seen),
            Some(seen) => state.encode(&self.topic, Some(seen), &missed),
        };
        (!bytes.is_empty()).then_some(bytes)
    }

    /// How long this stream wants no values yet.
    fn pause(&self) -> Option<Duration> {
        self.interval?.checked_sub(self.told_at?.elapsed()).filter(|rest| !rest.is_zero())
    }

    /// As if the interval had passed.
    #[cfg(test)]
    pub(super) fn rest(&mut self) {
        self.told_at = None;
    }
}

impl State {
    /// All values of a topic, for a newcomer.
    fn snapshot(&mut self, topic: &Topic) -> Bytes {
        let kept = self.topics.get(topic).and_then(|topic| topic.snapshot.as_ref());
        if let Some((version, at, bytes)) = kept
            && *version == self.version
            && at.elapsed() < SNAPSHOT_LIFETIME
        {
            return bytes.clone();
        }
        let bytes = self.encode(topic, None, &[]);
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.snapshot = Some((self.version, Instant::now(), bytes.clone()));
        }
        bytes
    }

    /// Everything that changed after the version that a stream has seen.
    pub(super) fn merged_changes(&mut self, topic: &Topic, seen: u64) -> Bytes {
        let step = (seen, self.version);
        let kept = self.topics.get(topic).and_then(|topic| topic.encoded.as_ref());
        if let Some((_, bytes)) = kept.filter(|(of_step, _)| *of_step == step) {
            return bytes.clone();
        }
        let bytes = self.encode(topic, Some(seen), &[]);
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.encoded = Some((step, bytes.clone()));
        }
        bytes
    }
}
