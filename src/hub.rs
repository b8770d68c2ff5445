//! Live series in memory, and everyone who watches them.
//!
//! The hub is told what happened (it asks nobody), keeps the exact counts of every series that somebody watches, and
//! hands out their newest *values*. Values are idempotent: whoever missed some is brought up to date by the newest.
//!
//! **Invariant:** the hub knows neither SQL nor HTTP. Where the changes come from is not its business.
//!
//! **Invariant:** every committed event is counted exactly once in every series. Three checks see to it:
//!
//! 1. a delta that was heard before, or that belongs to a transaction below the hub's own [`Position`], is dropped;
//! 2. a series that is being read keeps what it hears until the reading is there;
//! 3. a series counts only deltas of transactions that its reading's snapshot does not see.

mod catalogue;
mod frame;
mod metrics;
#[cfg(test)]
mod model;
mod series;
mod state;
mod subscription;
mod topic;
mod turns;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use metrics::Metrics;

use crate::statistics::query::{Changes, Reading};
use crate::statistics::{Delta, Position, SeriesKey, UnixMillis};
use state::State;
pub use subscription::{Step, Subscription};
use topic::TopicState;
pub use topic::{Format, Topic};
pub use turns::Holder;

/// What newcomers are told is encoded once in so long: when a server stops, thousands come here at once. Not longer,
/// because it also tells them what time it is.
const SNAPSHOT_LIFETIME: Duration = Duration::from_millis(50);
/// How often every stream hears the server's clock. Readers call a stream stale when two of these stay out.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// How often windows move on and forgotten series are dropped.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A series that nobody watches stays this long, for readers who reload the page.
const LINGER: Duration = Duration::from_secs(30);
/// So many different series are kept at most, unless told otherwise; a further one is refused. One takes some 100 bytes a
/// non-empty bucket.
pub const MOST_SERIES: usize = 10_000;
/// A clock that goes back further than this makes windows reach back to buckets that were forgotten: read them again.
const CLOCK_STEP_MILLIS: i64 = 5_000;

/// What a sweep finds so long after news was most likely written beside it. As long as from one sweep to the next.
const NEWS_LAST: Duration = Duration::from_secs(1);

/// Whether the database can be heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Every committed event arrives.
    Live,
    /// It cannot be heard: the counts are those of an earlier moment.
    #[default]
    Stale,
}

/// There are as many live series as the hub keeps.
#[derive(Debug, thiserror::Error)]
#[error("{0} different series are being watched, which is the limit")]
pub struct TooManySeries(usize);

/// A shared handle. All of its state is behind one mutex: everything done under it is short and never waits, and a
/// publication has to change all series at one moment, so that a single position describes them all.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    most_series: usize,
    /// Something is waiting to be published.
    pending: Notify,
    /// A series is waiting to be read.
    wanted: Notify,
    metrics: Metrics,
}

impl Default for Hub {
    fn default() -> Self {
        Self::with_limit(MOST_SERIES)
    }
}

/// For those who watch.
impl Hub {
    /// One that keeps so many different series.
    pub fn with_limit(most_series: usize) -> Self {
        let (pending, wanted) = (Notify::new(), Notify::new());
        Self { state: Mutex::default(), most_series, pending, wanted, metrics: Metrics::default() }
    }

    /// Starts to watch a topic. Streams of one holder are told things together, and rest together. With the position of
    /// an earlier stream only what changed since is sent; with an interval values come at most so often, else whenever
    /// they are published.
    pub fn subscribe(
        self: &Arc<Self>,
        topic: Topic,
        holder: Holder,
        resume: Option<Position>,
        interval: Option<Duration>,
    ) -> Result<Subscription, TooManySeries> {
        let mut state = self.lock();
        let topic = match state.topics.get_key_value(&topic) {
            Some((topic, _)) => Arc::clone(topic),
            None => self.add(&mut state, topic)?,
        };
        let (version, heartbeats) = (state.version, state.heartbeats);
        let topic_state = state.topics.entry(Arc::clone(&topic)).or_default();
        topic_state.left_at = None;
        let news = topic_state.audience(holder, version).news.subscribe();
        state.turns.enter(holder);
        drop(state);
        Ok(Subscription::new(Arc::clone(self), topic, news, resume, interval, heartbeats))
    }

    /// Adds a topic, and the series that nobody has watched before.
    fn add(&self, state: &mut State, topic: Topic) -> Result<Arc<Topic>, TooManySeries> {
        let new: HashSet<_> = topic.series.iter().filter(|key| !state.series.contains(key)).collect();
        if state.series.len() + new.len() > self.most_series {
            return Err(TooManySeries(self.most_series));
        }
        let new: Vec<_> = new.into_iter().cloned().collect();
        let topic = Arc::new(topic);
        for key in &topic.series {
            state.series.get_or_add(key).topics.push(Arc::clone(&topic));
        }
        for key in &new {
            state.want(key);
            self.wanted.notify_one();
        }
        Ok(topic)
    }

    /// Whether the database can be heard.
    pub fn status(&self) -> Status {
        self.lock().status
    }

    /// The time by the database's clock, as far as it is known: windows and events then agree on what is now.
    pub fn now(&self) -> UnixMillis {
        self.lock().now()
    }

    /// What it counts of itself.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How many series and topics are live, and how many streams watch them.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let state = self.lock();
        let streams = state.topics.values().map(TopicState::streams).sum();
        (state.series.len(), state.topics.len(), streams)
    }
}

/// For whoever brings the news: the listener, and only it.
impl Hub {
    /// Hears deltas, in any order, as often as they come.
    pub fn hear(&self, deltas: &[Delta]) {
        let mut state = self.lock();
        state.turns.hear();
        state.heard_at = Some(Instant::now());
        for delta in deltas {
            state.accept(delta);
        }
        self.publish_soon(state);
    }

    /// Hears that something happened, which is to be looked up.
    pub fn hear_of_more(&self) {
        self.lock().heard_at = Some(Instant::now());
    }

    /// Up to where every series has counted: what came after it is to be looked up and told with [`Hub::catch_up`].
    /// Nothing while series are being read for that purpose; and nothing before the first position is known.
    pub fn position(&self) -> Option<Position> {
        let state = self.lock();
        if state.next_position.is_some() { None } else { state.position.clone() }
    }

    /// Whether a catch-up waits for series to be read again.
    pub fn is_catching_up(&self) -> bool {
        self.lock().next_position.is_some()
    }

    /// Takes in everything that changed after [`Hub::position`], or that this is more than can be told.
    pub fn catch_up(&self, changes: Changes) {
        let mut state = self.lock();
        let before = state.now();
        state.clock = Some((changes.now, Instant::now()));
        let clock_went_back = changes.now < before - CLOCK_STEP_MILLIS;
        let same_epoch = state.position.as_ref().is_some_and(|position| position.epoch == changes.epoch);
        let next = Position { epoch: changes.epoch, snapshot: changes.snapshot, heard: Default::default() };
        match changes.deltas {
            Some(deltas) if same_epoch && !clock_went_back => {
                let corrections = deltas.iter().filter(|delta| state.accept(delta)).count() as u64;
                let has_news = state.heard_at.is_some_and(|heard_at| heard_at.elapsed() < NEWS_LAST);
                let counter = if has_news { &self.metrics.beside_news } else { &self.metrics.without_news };
                counter.inc_by(corrections);
                state.move_to(next);
            }
            _ => {
                // What lies between a reading that has begun and these changes is not told: it has to begin again.
                let behind: HashSet<_> = state
                    .series
                    .iter()
                    .filter(|series| series.is_joined() || series.is_being_read())
                    .map(|series| series.key().clone())
                    .collect();
                for key in &behind {
                    state.want(key);
                }
                if behind.is_empty() {
                    state.move_to(next);
                } else {
                    state.next_position = Some((next, behind));
                }
            }
        }
        state.refresh_published_position();
        self.wanted.notify_one();
        self.publish_soon(state);
    }

    /// Has every series read again, though nothing seems to be missing: whatever went wrong unnoticed (a notification
    /// that somebody forged, say) is put right.
    pub fn read_again(&self) {
        let mut state = self.lock();
        let joined: Vec<_> =
            state.series.iter().filter(|series| series.is_joined()).map(|series| series.key().clone()).collect();
        for key in joined {
            state.want(&key);
        }
        self.wanted.notify_one();
    }

    /// Waits until a series is to be read.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The series to be read now. From here on each keeps what it hears until [`Hub::join`] or [`Hub::join_failed`].
    pub fn take_wanted(&self) -> Vec<SeriesKey> {
        let mut state = self.lock();
        if state.position.is_none() { Vec::new() } else { state.take_wanted() }
    }

    /// A reading that was begun after [`Hub::take_wanted`] returned its key.
    pub fn join(&self, key: &SeriesKey, reading: Reading) {
        let mut state = self.lock();
        let epochs = [state.position.as_ref(), state.next_position.as_ref().map(|(next, _)| next)];
        let known_epoch = epochs.into_iter().flatten().any(|position| position.epoch == reading.epoch);
        let (now, version) = (state.now(), state.version);
        let Some(series) = state.series.get_mut(key) else { return };
        let wanted_again = series.is_wanted;
        if wanted_again || !known_epoch {
            series.abandon_reading();
            state.want(key);
            if !known_epoch {
                // The statistics were rebuilt a moment ago: the next catch-up tells, and makes one under way void.
                state.next_position = None;
            }
            if wanted_again {
                self.wanted.notify_one();
            }
            return;
        }
        let first = !series.is_joined();
        series.join(reading);
        series.trim(now);
        if first {
            // Nobody has seen anything of it yet: what was read can be shown under the present version.
            series.publish(version);
            let topics = series.topics.clone();
            state.refresh_published_position();
            for topic in &topics {
                if let Some(topic) = state.topics.get_mut(topic) {
                    topic.ring(version);
                }
            }
        } else {
            state.list(key);
        }
        if let Some((_, remaining)) = &mut state.next_position {
            remaining.remove(key);
        }
        state.finish_catch_up();
        self.publish_soon(state);
    }

    /// The reading failed; the series is to be read again.
    pub fn join_failed(&self, key: &SeriesKey) {
        let mut state = self.lock();
        if let Some(series) = state.series.get_mut(key) {
            series.abandon_reading();
        }
        state.want(key);
    }

    /// Tells everyone whether the database can be heard.
    pub fn set_status(&self, status: Status) {
        self.lock().set_status(status);
    }

    /// How long a notification took to come back.
    pub fn set_lag(&self, lag: Duration) {
        self.lock().lag = Some(lag);
    }
}

/// For the one task that keeps the time.
impl Hub {
    /// Publishes what is pending, beats, and tidies up, until the end; then ends all streams.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.pending.notified() => {
                    let rest = self.lock().until_next_publication();
                    tokio::time::sleep(rest).await;
                    self.publish(self.lock());
                }
                _ = heartbeat.tick() => self.lock().beat(),
                _ = upkeep.tick() => self.lock().tidy_up(),
            }
        }
        let mut state = self.lock();
        state.closing = true;
        let version = state.version;
        state.topics.values_mut().for_each(|topic| topic.ring(version));
    }

    /// Publishes now if it is somebody's turn, else leaves it to the task.
    fn publish_soon(&self, state: MutexGuard<'_, State>) {
        if !state.is_pending() {
            return;
        }
        if state.until_next_publication().is_zero() {
            self.publish(state);
        } else {
            self.pending.notify_one();
        }
    }

    /// Publishes, and leaves it to the task to tell those whose turn it is not.
    fn publish(&self, mut state: MutexGuard<'_, State>) {
        state.publish();
        if state.is_pending() {
            self.pending.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can leave a half-done change behind when it panics that reading again
        // would not put right; going on is better than taking everyone down.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
