//! Hears from Postgres what was written, and tells the hub.
//!
//! Notifications are the fast way: they come with the commit. The sweep is the sure way: every second it reads which
//! deltas the hub's position lacks, so that whatever did not arrive (a payload too large, a writer that turned
//! notifications off, a connection that broke) is there a second later. Of transactions that run at the same time only
//! one notifies, so every piece of news is followed by a sweep at once. Both ways tell the same deltas, and the hub
//! counts each once. So after a lost connection there is nothing special to do: listen again, sweep, go on.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod metrics;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::poll_fn;
use futures_util::{StreamExt, TryFutureExt};
use serde::Deserialize;
use sqlx::PgPool;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{interval, interval_at, sleep, sleep_until, timeout};
use tokio_postgres::{AsyncMessage, Notification};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::database::{NoPrimary, Primary};
use crate::hub::{Hub, Status};
use crate::statistics::query::{self, Changes, Reading};
use crate::statistics::{Delta, Metric, SeriesKey};
pub use metrics::Metrics;

/// How often the deltas that did not arrive are looked up: the longest that one can be missing.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How long after news the deltas of those are looked up who wrote at the same time and kept quiet: about as long as what
/// they would have told could have waited in the hub.
const FOLLOW_UP: Duration = Duration::from_millis(50);
/// How often all live series are read again though nothing is missing, for faults that nobody thought of.
const READ_AGAIN_INTERVAL: Duration = Duration::from_secs(300);
/// How often a notification is sent to ourselves, to see that they arrive. Each takes the lock that all notifying
/// commits share for a moment, so not more often than a reader could notice.
const PULSE_INTERVAL: Duration = Duration::from_secs(2);
/// A connection on which our own notification has not come back for so long is as good as lost.
const PULSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A notification to ourselves, and how full the queue is. While it has no room others keep quiet, too, and we are told nothing.
const PULSE: &str = "
    select pg_notification_queue_usage(), case when statistics.may_notify() then pg_notify($1, '')::text end is not null";
/// Anything asked of Postgres that takes longer has failed.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait before the first attempt to reconnect; doubles each time, and a random part of it is taken.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait between attempts: an operator who repairs a database should not wait for us.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Notifications between the connection and the hub. When full the connection waits, and Postgres keeps the rest.
const BUFFERED_NOTIFICATIONS: usize = 1024;
/// So many series are read at the same time; they share the pool with everyone else.
const CONCURRENT_READINGS: usize = 2;

/// The milliseconds that events may have: the years 1 to 9999.
const MOMENTS: std::ops::Range<i64> = -62_135_596_800_000..253_402_300_800_000;
/// More events than a statement can insert; of so many, nine million together are still a number.
const MOST_EVENTS: i64 = 1 << 40;

/// Why the listener starts over.
#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error("no host takes writes")]
    NoPrimary(#[from] NoPrimary),
    #[error("cannot connect")]
    Connect(#[source] tokio_postgres::Error),
    #[error("the connection does not answer")]
    Silent,
    #[error(
        "LISTEN works, but a notification to ourselves does not arrive: is there a proxy that pools by transaction? \
        Let newcycle connect to Postgres itself"
    )]
    Deaf,
    #[error("the connection was lost")]
    Lost(#[source] Option<tokio_postgres::Error>),
    #[error("the statistics cannot be read")]
    Sweep(#[source] sqlx::Error),
}

/// Listens until the end, whatever happens to the connection meanwhile.
pub async fn run(primary: Primary, pool: PgPool, hub: Arc<Hub>, metrics: Metrics, shutdown: CancellationToken) {
    let mut backoff = SHORTEST_BACKOFF;
    loop {
        let started = Instant::now();
        let listening = listen(&primary, &pool, &hub, &metrics);
        let Some(Err(error)) = shutdown.run_until_cancelled(listening).await else { return };
        hub.set_status(Status::Stale);
        metrics.reconnects.inc();
        if started.elapsed() > LONGEST_BACKOFF {
            backoff = SHORTEST_BACKOFF;
        }
        let pause = jittered(backoff);
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            retry_in_ms = pause.as_millis(),
            "cannot hear the database"
        );
        if shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}

/// Between half of the pause and all of it, so that many servers do not come back in the same moment.
fn jittered(pause: Duration) -> Duration {
    // Every `RandomState` is seeded differently.
    let random = RandomState::new().hash_one(Instant::now()) as u32;
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// One connection, from LISTEN to its loss.
async fn listen(primary: &Primary, pool: &PgPool, hub: &Arc<Hub>, metrics: &Metrics) -> Result<(), ListenError> {
    primary.follow().await?;
    let own_channel = format!("newcycle_pulse_{}", Uuid::new_v4().simple());
    let (client, mut connection) = timeout(QUERY_TIMEOUT, primary.connector().called("newcycle listener").connect())
        .await
        .map_err(|_| ListenError::Silent)?
        .map_err(ListenError::Connect)?;
    let client = Arc::new(client);
    let (sender, mut notifications) = mpsc::channel(BUFFERED_NOTIFICATIONS);
    // Dropped at the end of this function, which ends whatever it still runs.
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        let mut messages = poll_fn(move |context| connection.poll_message(context));
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notification(notification)) => {
                    if sender.send(notification).await.is_err() {
                        return None;
                    }
                }
                Ok(AsyncMessage::Notice(notice)) => tracing::info!(%notice, "notice from Postgres"),
                Ok(_) => {}
                Err(error) => return Some(error),
            }
        }
        None
    });
    let listen = format!("listen item_creation; listen item_transfer; listen user_creation; listen {own_channel}");
    timeout(QUERY_TIMEOUT, client.batch_execute(&listen))
        .await
        .map_err(|_| ListenError::Silent)?
        .map_err(|error| ListenError::Lost(Some(error)))?;
    // From here on Postgres keeps every notification for us: whatever we read now, nothing falls between.

    let mut sweeps: JoinSet<Result<Changes, sqlx::Error>> = JoinSet::new();
    let mut readings = Readings::new(pool.clone(), Arc::clone(hub));
    let mut pulses: JoinSet<Result<(f64, bool), tokio_postgres::Error>> = JoinSet::new();
    let mut sweep_ticks = interval(SWEEP_INTERVAL);
    let mut pulse_ticks = interval(PULSE_INTERVAL);
    let mut read_again_ticks = interval_at(tokio::time::Instant::now() + READ_AGAIN_INTERVAL, READ_AGAIN_INTERVAL);
    let mut pulse_sent: Option<Instant> = None;
    let mut sweep_due = true;
    let mut follow_up: Option<tokio::time::Instant> = None;
    let mut pulse_arrived = false;
    let mut caught_up = false;
    let mut is_quiet = false;
    loop {
        if sweep_due && sweeps.is_empty() && !hub.is_catching_up() {
            sweep_due = false;
            sweeps.spawn(sweep(pool.clone(), hub.position()));
        }
        if caught_up && pulse_arrived && !hub.is_catching_up() {
            hub.set_status(Status::Live);
        }
        tokio::select! {
            // News first: a backlog of notifications is worth more than anything that could be asked for.
            biased;
            notification = notifications.recv() => match notification {
                Some(notification) if notification.channel() == own_channel => {
                    pulse_arrived = true;
                    if let Some(sent) = pulse_sent.take() {
                        let lag = sent.elapsed();
                        hub.set_lag(lag);
                        metrics.lag_seconds.observe(lag.as_secs_f64());
                    }
                }
                Some(notification) => match decode(&notification) {
                    Some(Content::Changes(deltas)) => {
                        metrics.told.inc();
                        hub.hear(&deltas);
                        follow_up.get_or_insert_with(|| tokio::time::Instant::now() + FOLLOW_UP);
                    }
                    Some(Content::TooMany) => {
                        metrics.resync.inc();
                        hub.hear_of_more();
                        sweep_due = true;
                    }
                    None => {
                        metrics.unreadable.inc();
                        sweep_due = true;
                    }
                },
                None => {
                    let reason = driver.join_next().await.and_then(Result::ok).flatten();
                    return Err(ListenError::Lost(reason));
                }
            },
            Some(changes) = sweeps.join_next() => match changes {
                Ok(Ok(changes)) => {
                    // Where some were found there may be more: their writers do not take turns with the sweeps.
                    if changes.deltas.as_ref().is_none_or(|deltas| !deltas.is_empty()) {
                        follow_up.get_or_insert_with(|| tokio::time::Instant::now() + FOLLOW_UP);
                    }
                    hub.catch_up(changes);
                    caught_up = true;
                }
                Ok(Err(error)) => return Err(ListenError::Sweep(error)),
                Err(_panicked_or_cancelled) => sweep_due = true,
            },
            () = sleep_until(follow_up.unwrap_or_else(tokio::time::Instant::now)), if follow_up.is_some() => {
                follow_up = None;
                sweep_due = true;
            }
            () = hub.wanted() => readings.begin(),
            () = readings.finish_one() => {}
            _ = sweep_ticks.tick() => {
                sweep_due = true;
                // Readings that failed are asked for again.
                readings.begin();
            }
            _ = read_again_ticks.tick() => hub.read_again(),
            _ = pulse_ticks.tick() => match pulse_sent {
                Some(sent) if sent.elapsed() > PULSE_TIMEOUT && pulse_arrived => return Err(ListenError::Silent),
                Some(sent) if sent.elapsed() > PULSE_TIMEOUT => return Err(ListenError::Deaf),
                Some(_) => {}
                None => {
                    pulse_sent = Some(Instant::now());
                    let (client, channel) = (Arc::clone(&client), own_channel.clone());
                    pulses.spawn(async move {
                        let row = client.query_one(PULSE, &[&channel]).await?;
                        Ok((row.try_get(0)?, row.try_get(1)?))
                    });
                }
            },
            Some(sent) = pulses.join_next() => match sent {
                Ok(Ok((queue_usage, was_sent))) => {
                    metrics.queue_usage.set(queue_usage);
                    if was_sent {
                        is_quiet = false;
                    } else {
                        // What is not sent does not arrive. Sweeps go on, so what streams show is a second old at most.
                        pulse_sent = None;
                        pulse_arrived = true;
                        if !std::mem::replace(&mut is_quiet, true) {
                            tracing::warn!(
                                queue_usage,
                                "the queue of notifications is filling up, so nothing is sent: a session that listens idles in a transaction"
                            );
                        }
                    }
                }
                Ok(Err(error)) => return Err(ListenError::Lost(Some(error))),
                Err(_panicked_or_cancelled) => {}
            },
        }
    }
}

/// What the position lacks; without a position, where the database stands.
async fn sweep(pool: PgPool, position: Option<crate::statistics::Position>) -> Result<Changes, sqlx::Error> {
    let changes = async {
        match position {
            Some(position) => query::changes_since(&pool, &position).await,
            None => query::present(&pool).await,
        }
    };
    within(changes).await
}

async fn within<T>(query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(QUERY_TIMEOUT, query).unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut)).await
}

/// The series that are being read. When this is dropped they are given back, for whoever listens next.
struct Readings {
    pool: PgPool,
    hub: Arc<Hub>,
    permits: Arc<Semaphore>,
    running: JoinSet<Result<Reading, sqlx::Error>>,
    keys: HashMap<tokio::task::Id, SeriesKey>,
}

impl Readings {
    fn new(pool: PgPool, hub: Arc<Hub>) -> Self {
        let permits = Arc::new(Semaphore::new(CONCURRENT_READINGS));
        Self { pool, hub, permits, running: JoinSet::new(), keys: HashMap::new() }
    }

    /// Begins to read everything that the hub wants.
    fn begin(&mut self) {
        for key in self.hub.take_wanted() {
            let (pool, permits, hub, wanted) =
                (self.pool.clone(), Arc::clone(&self.permits), Arc::clone(&self.hub), key.clone());
            let task = self.running.spawn(async move {
                let _permit = permits.acquire_owned().await;
                within(query::read(&pool, &wanted, hub.now())).await
            });
            self.keys.insert(task.id(), key);
        }
    }

    /// Waits for a reading to end and hands it over. Waits for ever while there is none.
    async fn finish_one(&mut self) {
        let (id, reading) = match self.running.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, reading))) => (id, Some(reading)),
            Some(Err(error)) => (error.id(), None),
        };
        let Some(key) = self.keys.remove(&id) else { return };
        match reading {
            Some(Ok(reading)) => self.hub.join(&key, reading),
            Some(Err(error)) => {
                tracing::warn!(?key, error = &error as &dyn std::error::Error, "a series cannot be read");
                self.hub.join_failed(&key);
            }
            None => self.hub.join_failed(&key),
        }
    }
}

impl Drop for Readings {
    fn drop(&mut self) {
        for key in self.keys.values() {
            self.hub.join_failed(key);
        }
    }
}

/// What a notification says.
enum Content {
    Changes(Vec<Delta>),
    /// That there are more than it can say: they are to be looked up.
    TooMany,
}

/// What a notification says; nothing if it cannot be read.
fn decode(notification: &Notification) -> Option<Content> {
    read(notification.channel(), notification.payload())
}

/// Whether the ledger can have such a delta. Calendars cannot reckon with every number, nor sums hold it.
fn is_possible(delta: &Delta) -> bool {
    delta.id > 0 && MOMENTS.contains(&delta.bucket) && (1..=MOST_EVENTS).contains(&delta.count)
}

fn read(channel: &str, payload: &str) -> Option<Content> {
    #[derive(Deserialize)]
    struct Payload {
        xid: String,
        #[serde(default)]
        deltas: Vec<(i64, i64, Uuid, i64)>,
        #[serde(default)]
        resync: bool,
    }
    let metric = match channel {
        "item_creation" => Metric::ItemCreation,
        "item_transfer" => Metric::Transfers,
        "user_creation" => Metric::UserCreation,
        _ => return Some(Content::Changes(Vec::new())),
    };
    // Anybody may notify on these channels. What is not ours says at least that something happened.
    let payload: Payload = serde_json::from_str(payload).ok()?;
    let xid = payload.xid.parse().ok()?;
    let delta = |(id, bucket, base_item, count)| Delta { id, xid, metric, base_item, bucket, count };
    let deltas = payload.deltas.into_iter().map(delta).map(|delta| is_possible(&delta).then_some(delta));
    if payload.resync { Some(Content::TooMany) } else { deltas.collect::<Option<_>>().map(Content::Changes) }
}
