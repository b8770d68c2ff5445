//! Takes jobs of a kind and has them worked at, and holds on to them meanwhile.

use std::time::Duration;

use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Bell, Kind, LEASE, Lease, LeaseError, Ringing, take, until_due};
use crate::telemetry::{SPANS, traced};

/// How often somebody without work looks for some, besides when the bell rings, and when a job that they know of is due.
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
        let pause = match look(&pool, kind).await {
            Ok(Found::Job(lease)) => {
                let (work, pool, stop) = (in_trace(kind, lease, work(lease)), pool.clone(), stop.clone());
                working.spawn(async move {
                    let Err(error) = work.await else { return };
                    tracing::warn!(id = %lease.id, ?kind, error = &error as &dyn std::error::Error, "a job was let go of");
                    // Another attempt begins when the lease ends, here or elsewhere; or before, where that can be told.
                    if let LeaseError::Database(_) = error {
                        let _ = stop.run_until_cancelled(timeout(LEASE, give_back(&pool, lease))).await;
                    }
                });
                continue;
            }
            Ok(Found::Nothing(pause)) => pause,
            Err(error) => {
                tracing::warn!(
                    ?kind,
                    error = &error as &dyn std::error::Error,
                    "jobs cannot be looked for; trying again"
                );
                LOOK_INTERVAL
            }
        };
        let rung = async {
            ringing.any().await;
            sleep_until(looked_at + LOOK_PAUSE).await;
        };
        let _ = stop.run_until_cancelled(timeout(pause, rung)).await;
        while working.try_join_next().is_some() {}
    }
    while working.join_next().await.is_some() {}
}

/// The work as a trace of its own: whoever asked for it has gone on.
async fn in_trace<W: Future>(kind: Kind, lease: Lease, work: W) -> W::Output {
    let span = tracing::info_span!(
        target: SPANS,
        parent: None,
        "job",
        otel.name = kind.name(),
        newcycle.job.id = %lease.id,
        newcycle.job.attempt = lease.attempt,
    );
    traced(span, work).await
}

/// What there is to do.
enum Found {
    Job(Lease),
    /// For so long, as far as is known.
    Nothing(Duration),
}

async fn look(pool: &PgPool, kind: Kind) -> Result<Found, sqlx::Error> {
    if let Some(lease) = take(pool, kind).await? {
        return Ok(Found::Job(lease));
    }
    let until_due = until_due(pool, kind, LOOK_INTERVAL).await?;
    Ok(Found::Nothing(if until_due.is_zero() { LOOK_PAUSE } else { until_due }))
}

/// Gives a job back when the database answers again.
async fn give_back(pool: &PgPool, lease: Lease) {
    let mut ticks = interval(KEEP_INTERVAL);
    loop {
        ticks.tick().await;
        let given_back = async { lease.release(&mut *pool.acquire().await?, Duration::ZERO).await };
        if let Ok(()) | Err(LeaseError::Lost) = given_back.await {
            return;
        }
    }
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
