//! Takes jobs of a kind and has them worked at, and holds on to them meanwhile.

use std::time::Duration;

use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Bell, Kind, Lease, LeaseError, Ringing, take};

/// How often somebody without work looks for some, besides when the bell rings: for jobs that are due again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Who looked in vain looks again so much later at the earliest: bells ring for each page of each stream.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How often a lease is renewed, and said how far the work is. What people watch moves once a second.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Why somebody stops in the middle of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Somebody changed their mind.
    Cancelled,
    /// Another has it by now.
    Lost,
    /// The server stops.
    Stopped,
}

/// Has jobs of a kind worked at until the stop, so many at a time.
pub async fn run<F>(
    pool: PgPool,
    kind: Kind,
    most: usize,
    bell: Bell,
    stop: CancellationToken,
    work: impl Fn(Lease) -> F,
) where
    F: Future<Output = Result<(), LeaseError>> + Send + 'static,
{
    let mut ringing = bell.listen();
    let mut working = JoinSet::new();
    while !stop.is_cancelled() {
        let looked_at = Instant::now();
        while working.len() >= most {
            working.join_next().await;
        }
        match take(&pool, kind).await {
            Ok(Some(lease)) => {
                let work = work(lease);
                working.spawn(async move {
                    if let Err(error) = work.await {
                        // Another attempt begins when the lease ends, here or elsewhere.
                        tracing::warn!(id = %lease.id, ?kind, error = &error as &dyn std::error::Error, "a job was let go of");
                    }
                });
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(
                    ?kind,
                    error = &error as &dyn std::error::Error,
                    "jobs cannot be looked for; trying again"
                );
            }
        }
        let rung = async {
            ringing.any().await;
            sleep_until(looked_at + LOOK_PAUSE).await;
        };
        let _ = stop.run_until_cancelled(timeout(LOOK_INTERVAL, rung)).await;
        while working.try_join_next().is_some() {}
    }
    while working.join_next().await.is_some() {}
}

/// Holds on to a job until there is a reason to stop. To report renews the lease; both that and to look tell whether the work
/// goes on.
pub async fn keep<R, L>(
    lease: Lease,
    mut ringing: Ringing,
    stop: &CancellationToken,
    report: impl Fn() -> R,
    look: impl Fn() -> L,
) -> Halt
where
    R: Future<Output = Result<bool, LeaseError>>,
    L: Future<Output = Result<bool, LeaseError>>,
{
    let mut ticks = interval(KEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let goes_on = tokio::select! {
            () = stop.cancelled() => return Halt::Stopped,
            _ = ticks.tick() => report().await,
            () = ringing.about(lease.id) => look().await,
        };
        match goes_on {
            Ok(true) => {}
            Ok(false) => return Halt::Cancelled,
            Err(LeaseError::Lost) => return Halt::Lost,
            // The lease may end meanwhile. Then somebody else takes the job, which is noticed here when the database
            // answers again: until then nothing can be recorded anyway.
            Err(LeaseError::Database(error)) => {
                tracing::warn!(id = %lease.id, error = &error as &dyn std::error::Error, "a lease cannot be renewed");
            }
        }
    }
}
