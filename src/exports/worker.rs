//! Takes exports and makes them: one at a time, of which there are several in a server.
//!
//! What can happen to an export while it is made: it is complete; it is cancelled; something fails, for now or for good; the
//! server stops; or the worker was not heard of for so long that another has taken it. Whichever it is, nothing is left in
//! the depot but the file of one that is complete, and the state that is recorded is one that [`State::after`] allows.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::making::{self, Counts, Made, MakeError, Source};
use super::record::apply;
use super::{Event, Export, Exports, Inner, State};
use crate::jobs::{self, Halt, Lease, LeaseError};
use crate::telemetry::SPANS;

/// One that fails so often has failed.
const ATTEMPTS: i32 = 5;
/// One that was begun so often and never ended takes its servers down with it: it is not given another one.
const MOST_BEGINNINGS: i32 = 20;
/// Before the second attempt; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Works at an export until it is over, or cannot go on.
pub(super) async fn work(exports: Exports, lease: Lease) -> Result<(), LeaseError> {
    let exports = &exports;
    let Some(export) = begin(exports, lease).await? else { return Ok(()) };
    if export.state == State::Cancelling {
        return end(exports, lease, Event::Stop, None).await;
    }
    if lease.attempt > MOST_BEGINNINGS {
        let reason = format!("It was begun {MOST_BEGINNINGS} times and its server ended each time");
        return end(exports, lease, Event::Fail, Some(&reason)).await;
    }
    tracing::info!(id = %lease.id, attempt = lease.attempt, dataset = export.dataset.name(), "an export begins");
    let counts = Arc::default();
    let halt = CancellationToken::new();
    let goes_on = |state: State| state != State::Cancelling;
    let report = async || Ok(goes_on(report(exports, lease, &counts).await?));
    let look = async || Ok(goes_on(look(exports, lease).await?));
    let made = async {
        let mut making = std::pin::pin!(make(exports, lease, &export, &counts, &halt));
        tokio::select! {
            made = &mut making => made,
            why = jobs::keep(lease, exports.listen(), &exports.0.stop, report, look) => {
                halt.cancel();
                // It may have been done in this very moment. If not, it is nothing that can be seen.
                drop(making.await);
                Err(Stopped::Halted(why))
            }
        }
    }
    .await;
    match made {
        Ok(made) => complete(exports, lease, &made).await,
        Err(Stopped::Halted(Halt::Cancelled)) => end(exports, lease, Event::Stop, None).await,
        Err(Stopped::Halted(Halt::Stopped)) => release(exports, lease, Duration::ZERO, None).await,
        Err(Stopped::Halted(Halt::Lost) | Stopped::Lease(LeaseError::Lost)) => {
            forget(exports, lease).await;
            Err(LeaseError::Lost)
        }
        Err(Stopped::Lease(error)) => Err(error),
        Err(Stopped::Failed(error)) => {
            let (reason, may_pass) = error.explain();
            tracing::warn!(
                id = %lease.id, attempt = lease.attempt, error = &error as &dyn std::error::Error, "an export failed"
            );
            if may_pass && lease.attempt < ATTEMPTS {
                let pause = FIRST_PAUSE * 2_u32.pow(lease.attempt.clamp(1, ATTEMPTS).unsigned_abs() - 1);
                release(exports, lease, pause, Some(&reason)).await
            } else {
                end(exports, lease, Event::Fail, Some(&reason)).await
            }
        }
    }
}

/// Why there is no file.
#[derive(Debug)]
enum Stopped {
    Halted(Halt),
    Failed(MakeError),
    Lease(LeaseError),
}

impl From<LeaseError> for Stopped {
    fn from(error: LeaseError) -> Self {
        Self::Lease(error)
    }
}

/// Records that the worker has it. Nothing if there is nothing to do any more.
async fn begin(exports: &Exports, lease: Lease) -> Result<Option<Export>, LeaseError> {
    // Of attempts before this one.
    if lease.attempt > 1 {
        forget(exports, lease).await;
    }
    let mut transaction = exports.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    let Some(export) = apply(&mut transaction, lease.id, Event::Take).await? else {
        // The state is a terminal one, or the export is gone: so should be its job.
        lease.finish(&mut transaction).await?;
        transaction.commit().await?;
        return Ok(None);
    };
    let extension = export.format.extension(export.compression);
    // Each attempt has a name of its own: one that does not know yet that it was lost cannot spoil the next one's.
    let export = sqlx::query_as(
        "update jobs.exports set object = $2, rows_done = 0, bytes_done = 0, estimated_rows = null, as_of = null,
            snapshot = null, started_at = coalesce(started_at, clock_timestamp())
        where id = $1 returning *",
    )
    .bind(lease.id)
    .bind(format!("{}/{}.{extension}", lease.id, lease.attempt))
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Some(export))
}

/// Opens the ledger and the store, and makes the file.
#[tracing::instrument(
    target = SPANS, name = "make an export", skip_all,
    fields(newcycle.dataset = export.dataset.name(), newcycle.rows, newcycle.bytes)
)]
async fn make(
    exports: &Exports,
    lease: Lease,
    export: &Export,
    counts: &Arc<Counts>,
    halt: &CancellationToken,
) -> Result<Made, Stopped> {
    let halted = || Stopped::Halted(Halt::Stopped);
    let Inner { primary, depot, .. } = &*exports.0;
    let order = export.order();
    let object = export.object.as_deref().unwrap_or_default();
    let source = halt.run_until_cancelled(Source::open(primary.connector(), &order)).await.ok_or_else(halted)?;
    let source = source.map_err(Stopped::Failed)?;
    open(exports, lease, &source).await?;
    match making::make(&source, &order, depot, object, counts, halt).await {
        Some(Ok(made)) => {
            Span::current().record("newcycle.rows", made.rows).record("newcycle.bytes", made.size);
            Ok(made)
        }
        otherwise => {
            source.cancel().await;
            Err(otherwise.and_then(Result::err).map_or_else(halted, Stopped::Failed))
        }
    }
}

/// Records which moment the file will show.
async fn open(exports: &Exports, lease: Lease, source: &Source) -> Result<(), LeaseError> {
    let mut transaction = exports.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    apply(&mut transaction, lease.id, Event::Open).await?;
    sqlx::query("update jobs.exports set as_of = $2, snapshot = $3::pg_snapshot, reason = null where id = $1")
        .bind(lease.id)
        .bind(source.as_of)
        .bind(&source.snapshot)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

async fn report(exports: &Exports, lease: Lease, counts: &Counts) -> Result<State, LeaseError> {
    let mut transaction = exports.0.own_pool.begin().await?;
    lease.renew(&mut transaction).await?;
    // What has not changed is not written: each write rings the bell.
    sqlx::query(
        "update jobs.exports set rows_done = $2, bytes_done = $3, estimated_rows = $4
        where id = $1 and (rows_done, bytes_done, estimated_rows) is distinct from ($2, $3, $4)",
    )
    .bind(lease.id)
    .bind(counts.rows.load(Ordering::Relaxed))
    .bind(counts.bytes.load(Ordering::Relaxed))
    .bind(counts.estimated_rows.get())
    .execute(&mut *transaction)
    .await?;
    let state = state(&mut transaction, lease).await?;
    transaction.commit().await?;
    Ok(state)
}

async fn look(exports: &Exports, lease: Lease) -> Result<State, LeaseError> {
    let mut connection = exports.0.own_pool.acquire().await?;
    state(&mut connection, lease).await
}

async fn state(connection: &mut PgConnection, lease: Lease) -> Result<State, LeaseError> {
    let name: Option<String> = sqlx::query_scalar(
        "select e.state from jobs.exports e join jobs.queue q using (id) where e.id = $1 and q.attempt = $2 and q.held",
    )
    .bind(lease.id)
    .bind(lease.attempt)
    .fetch_optional(connection)
    .await?;
    name.and_then(|name| name.parse().ok()).ok_or(LeaseError::Lost)
}

/// Records the file, and that nobody needs to work at it any more. Who has cancelled it before was first, and there is no
/// file.
async fn complete(exports: &Exports, lease: Lease, made: &Made) -> Result<(), LeaseError> {
    let recorded = record(exports, lease, made).await;
    match &recorded {
        Ok(true) => tracing::info!(id = %lease.id, rows = made.rows, bytes = made.size, "an export is complete"),
        Ok(false) => return end(exports, lease, Event::Stop, None).await,
        Err(LeaseError::Lost) => drop(forget(exports, lease).await),
        // Whether it was recorded is not known. If not, the next attempt removes the file.
        Err(LeaseError::Database(_)) => {}
    }
    recorded.map(drop)
}

async fn record(exports: &Exports, lease: Lease, made: &Made) -> Result<bool, LeaseError> {
    let mut transaction = exports.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    // Before the state: what is complete has a result.
    sqlx::query(
        "update jobs.exports set rows_done = $2, bytes_done = $3, size = $3, sha256 = $4,
            expires_at = clock_timestamp() + $5
        where id = $1",
    )
    .bind(lease.id)
    .bind(made.rows)
    .bind(made.size)
    .bind(&made.sha256[..])
    .bind(PgInterval { months: 0, days: 0, microseconds: micros(exports.0.settings.export_lifetime) })
    .execute(&mut *transaction)
    .await?;
    if apply(&mut transaction, lease.id, Event::Complete).await?.is_none() {
        transaction.rollback().await?;
        return Ok(false);
    }
    lease.finish(&mut transaction).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Ends an export that has no file.
async fn end(exports: &Exports, lease: Lease, event: Event, reason: Option<&str>) -> Result<(), LeaseError> {
    // First, so that what is over has left nothing behind. Should it fail, the janitor does it.
    let is_clean = forget(exports, lease).await;
    let mut transaction = exports.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    if let Some(export) = apply(&mut transaction, lease.id, event).await? {
        tracing::info!(id = %lease.id, state = export.state.name(), "an export is over");
        sqlx::query("update jobs.exports set reason = $2, object = case when not $3 then object end where id = $1")
            .bind(lease.id)
            .bind(reason.filter(|_| export.state == State::Failed))
            .bind(is_clean)
            .execute(&mut *transaction)
            .await?;
    }
    lease.finish(&mut transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// Gives an export back, to be tried again after a pause. One that is being cancelled is not tried again.
async fn release(exports: &Exports, lease: Lease, pause: Duration, reason: Option<&str>) -> Result<(), LeaseError> {
    let is_clean = forget(exports, lease).await;
    let mut transaction = exports.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    let released = apply(&mut transaction, lease.id, Event::Release).await?;
    let is_cancelled = released.is_some_and(|export| export.state == State::Cancelling);
    lease.release(&mut transaction, if is_cancelled { Duration::ZERO } else { pause }).await?;
    sqlx::query("update jobs.exports set reason = $2, object = case when not $3 then object end where id = $1")
        .bind(lease.id)
        .bind(reason)
        .bind(is_clean)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Removes what this attempt and those before it have left; whether nothing of it is there any more. Not what a later one
/// has: this one may have been lost without knowing it yet.
async fn forget(exports: &Exports, lease: Lease) -> bool {
    let removed = exports.0.depot.remove_attempts(lease.id, lease.attempt).await;
    if let Err(error) = &removed {
        tracing::warn!(id = %lease.id, error = error as &dyn std::error::Error, "a file cannot be removed");
    }
    removed.is_ok()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
