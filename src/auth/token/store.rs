//! The provider's keys as they were last heard of.
//!
//! One task fetches them, so that there is never more than one request under way. Whoever misses a key asks the task
//! for it, and all who ask at the same time wait for the same answer.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::keys::KeySet;
use super::source::{KeySetError, KeySource, LOAD_TIMEOUT};

/// How often keys are fetched anew unasked. Keys that a provider takes back, because somebody else got hold of them,
/// are trusted for so long.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// How soon they are fetched again after a failure: a server that starts together with its provider takes tokens within
/// this, and a provider that is down is not burdened.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often keys are fetched because tokens ask for one that is not there. Anybody can make such tokens up; ones under
/// a key that is new within this are refused until it has passed.
const ASK_INTERVAL: Duration = Duration::from_secs(10);
/// How long keys are used that cannot be fetched any more. A day is as long as access tokens live, and nobody gets new
/// ones from a provider that is down, so that its holders are let in to the end. For ever would be too long: whoever
/// keeps us from the provider would keep us from hearing that a key is to be trusted no more.
const KEEP_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Whoever waits for keys waits for no longer than this, even if the task that fetches them is not there: a little more
/// than an attempt may take, and less than requests have when the server stops.
const WAIT_TIMEOUT: Duration = LOAD_TIMEOUT.saturating_add(Duration::from_secs(1));

#[derive(Debug)]
pub(super) struct KeyStore {
    source: KeySource,
    wanted: Notify,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    /// How many attempts have ended.
    attempts: u64,
    is_under_way: bool,
    /// When the last attempt began that somebody had asked for.
    asked_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Held {
    keys: Arc<KeySet>,
    fetched_at: Instant,
}

impl State {
    fn keys(&self) -> Option<Arc<KeySet>> {
        let held = self.held.as_ref().filter(|held| held.fetched_at.elapsed() < KEEP_FOR)?;
        Some(Arc::clone(&held.keys))
    }

    fn may_be_asked(&self) -> bool {
        self.asked_at.is_none_or(|at| at.elapsed() >= ASK_INTERVAL)
    }
}

/// What was last written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Unknown,
    Good,
    /// Going on with keys from before.
    Old,
    /// Without keys.
    Bad,
}

impl KeyStore {
    pub(super) fn new(source: KeySource) -> Self {
        Self { source, wanted: Notify::new(), state: watch::Sender::default() }
    }

    pub(super) fn source(&self) -> &KeySource {
        &self.source
    }

    /// The keys, if there are any. The first to ask wait for the first attempt.
    pub(super) async fn current(&self) -> Option<Arc<KeySet>> {
        let seen = {
            let state = self.state.borrow();
            if let Some(keys) = state.keys() {
                return Some(keys);
            }
            if state.attempts > 0 && !state.is_under_way {
                return None;
            }
            state.attempts
        };
        self.attempt_after(seen).await;
        self.state.borrow().keys()
    }

    /// Other keys than these, if there are any now.
    pub(super) async fn newer_than(&self, old: &KeySet) -> Option<Arc<KeySet>> {
        let newer = || self.state.borrow().keys().filter(|keys| keys.digest != old.digest);
        let seen = {
            let state = self.state.borrow();
            if !state.is_under_way && !state.may_be_asked() {
                None
            } else {
                if !state.is_under_way {
                    self.wanted.notify_one();
                }
                Some(state.attempts)
            }
        };
        match (newer(), seen) {
            (Some(keys), _) => Some(keys),
            (None, None) => None,
            (None, Some(seen)) => {
                self.attempt_after(seen).await;
                newer()
            }
        }
    }

    async fn attempt_after(&self, seen: u64) {
        let mut state = self.state.subscribe();
        // Whoever waits in vain looks at what there is.
        let _ = timeout(WAIT_TIMEOUT, state.wait_for(|state| state.attempts > seen)).await;
    }

    /// Fetches the keys at once, in intervals, and when they are asked for.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let mut health = Health::Unknown;
        let mut is_asked = false;
        loop {
            let Some(outcome) = stop.run_until_cancelled(self.attempt(is_asked)).await else { return };
            let interval = if outcome.is_ok() { REFRESH_INTERVAL } else { RETRY_INTERVAL };
            health = self.tell(health, outcome);
            let next = Instant::now() + interval;
            is_asked = loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep_until(next) => break false,
                    () = self.wanted.notified() => if self.state.borrow().may_be_asked() { break true },
                }
            };
        }
    }

    /// Fetches the keys once, and says whether they are others than before.
    async fn attempt(&self, is_asked: bool) -> Result<bool, KeySetError> {
        self.state.send_modify(|state| {
            state.is_under_way = true;
            state.asked_at = if is_asked { Some(Instant::now()) } else { state.asked_at };
        });
        let fetched_at = Instant::now();
        let outcome = self.source.load().await.and_then(|document| KeySet::parse(&document));
        let mut outcome = outcome.map(|keys| Held { keys: Arc::new(keys), fetched_at });
        let mut is_new = false;
        self.state.send_modify(|state| {
            state.is_under_way = false;
            state.attempts += 1;
            if let Ok(held) = &mut outcome {
                let before = state.held.replace(held.clone());
                is_new = before.is_none_or(|before| before.keys.digest != held.keys.digest);
            }
        });
        outcome.map(|_| is_new)
    }

    /// One line in the log when something has changed, not one for each attempt.
    fn tell(&self, before: Health, outcome: Result<bool, KeySetError>) -> Health {
        let keys = self.state.borrow().keys();
        let (health, error) = match outcome {
            Ok(is_new) => {
                if is_new || before != Health::Good {
                    let keys = keys.map_or(0, |keys| keys.len());
                    tracing::info!(keys, "tokens are verified with keys of the identity provider");
                }
                return Health::Good;
            }
            Err(error) if keys.is_some() => (Health::Old, error),
            Err(error) => (Health::Bad, error),
        };
        let error = &error as &dyn Error;
        match health {
            _ if health == before => {}
            Health::Old => {
                tracing::warn!(error, "the identity provider's keys cannot be had; those from before are used");
            }
            _ => tracing::error!(error, "the identity provider's keys cannot be had; no token is accepted"),
        }
        health
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde_json::json;
    use tempfile::TempDir;
    use tokio::task::JoinHandle;

    use super::*;

    /// A store that reads a file, in a time that passes only when the test has it pass.
    struct Running {
        directory: TempDir,
        store: Arc<KeyStore>,
        stop: CancellationToken,
        task: JoinHandle<()>,
    }

    impl Running {
        fn start(key: Option<&str>) -> Self {
            let directory = TempDir::new().expect("a directory");
            if let Some(key) = key {
                write(&file(directory.path()), key);
            }
            let store = Arc::new(KeyStore::new(KeySource::File(file(directory.path()))));
            let stop = CancellationToken::new();
            let task = tokio::spawn({
                let (store, stop) = (Arc::clone(&store), stop.clone());
                async move { store.run(stop).await }
            });
            Self { directory, store, stop, task }
        }

        fn write(&self, key: &str) {
            write(&file(self.directory.path()), key);
        }

        fn remove(&self) {
            std::fs::remove_file(file(self.directory.path())).expect("the file is there");
        }

        fn attempts(&self) -> u64 {
            self.store.state.borrow().attempts
        }

        /// Lets so much time pass, and an attempt end that becomes due by it.
        async fn pass(&self, time: Duration) {
            let seen = self.attempts();
            tokio::time::advance(time).await;
            self.store.attempt_after(seen).await;
            assert_eq!(self.attempts(), seen + 1, "an attempt");
        }

        async fn stop(self) {
            self.stop.cancel();
            self.task.await.expect("it ends");
        }
    }

    fn file(directory: &Path) -> PathBuf {
        directory.join("keys.json")
    }

    fn write(path: &Path, key: &str) {
        let number = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": number, "kid": key });
        std::fs::write(path, json!({ "keys": [key] }).to_string()).expect("the file is written");
    }

    fn has(keys: Option<&Arc<KeySet>>, id: &str) -> bool {
        keys.is_some_and(|keys| keys.candidates(Some(id), jsonwebtoken::Algorithm::EdDSA).is_ok())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_ask_wait_for_the_keys() {
        let running = Running::start(Some("a"));
        assert!(has(running.store.current().await.as_ref(), "a"));
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_keys_it_is_tried_again_soon() {
        let running = Running::start(None);
        assert!(running.store.current().await.is_none());
        running.write("a");
        running.pass(RETRY_INTERVAL).await;
        assert!(has(running.store.current().await.as_ref(), "a"));
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_anew_in_intervals() {
        let running = Running::start(Some("a"));
        running.store.current().await.expect("keys");
        running.write("b");
        running.pass(REFRESH_INTERVAL).await;
        assert!(has(running.store.current().await.as_ref(), "b"));
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_cannot_be_had_any_more_are_kept_for_a_day() {
        let running = Running::start(Some("a"));
        running.store.current().await.expect("keys");
        running.remove();
        running.pass(REFRESH_INTERVAL).await;
        running.pass(KEEP_FOR - REFRESH_INTERVAL - RETRY_INTERVAL).await;
        assert!(has(running.store.current().await.as_ref(), "a"));
        running.pass(RETRY_INTERVAL).await;
        assert!(running.store.current().await.is_none());
        running.write("a");
        running.pass(RETRY_INTERVAL).await;
        assert!(has(running.store.current().await.as_ref(), "a"));
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_asked_for_once_in_ten_seconds() {
        let running = Running::start(Some("a"));
        let old = running.store.current().await.expect("keys");
        assert!(running.store.newer_than(&old).await.is_none());
        assert_eq!(running.attempts(), 2);
        running.write("b");
        assert!(running.store.newer_than(&old).await.is_none(), "asked a moment ago");
        assert_eq!(running.attempts(), 2);
        tokio::time::advance(ASK_INTERVAL).await;
        assert!(has(running.store.newer_than(&old).await.as_ref(), "b"));
        assert!(running.store.newer_than(&old).await.is_some(), "others came meanwhile");
        assert_eq!(running.attempts(), 3);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_ask_at_the_same_time_get_the_same_answer() {
        let running = Running::start(Some("a"));
        let old = running.store.current().await.expect("keys");
        running.write("b");
        let asking = (0..100).map(|_| running.store.newer_than(&old));
        for newer in futures_util::future::join_all(asking).await {
            assert!(has(newer.as_ref(), "b"));
        }
        assert_eq!(running.attempts(), 2);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_task_that_is_not_there() {
        let store = KeyStore::new(KeySource::File("keys.json".into()));
        assert!(store.current().await.is_none());
    }
}
