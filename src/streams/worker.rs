//! Takes streams that are due, and fetches a batch of each, page by page.
//!
//! What comes of a page decides what is next: another page; the end, with everything that this changes; a pause, after which
//! the same batch goes on, here or elsewhere; or the end of the batch, and where somebody has to change something, of the
//! stream. Whatever it is, it is one transaction that begins with [`Lease::hold`].

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::Value;
use sqlx::PgConnection;
use tracing::Instrument;

use super::processing::{Processed, insert, process, words};
use super::record::{Locked, Stream, cancel_batch, forget, locked};
use super::source::{FetchError, Page, Source};
use super::state::{Desired, Event, State};
use super::{Streams, json};
use crate::jobs::{self, Halt, Lease, LeaseError};
use crate::telemetry::SPANS;

/// A batch that so often in a row could not go on has failed; the stream tries again when it is scheduled.
const ATTEMPTS: i32 = 8;
/// One that was begun so often without a page takes its workers down with it.
const MOST_BEGINNINGS: i32 = 20;
/// One that had to be read anew so often, because the source changed, has failed.
const MOST_RESTARTS: i32 = 5;
/// A source that says so often in a row "come again at once" does not mean it.
const MOST_AT_ONCE: i32 = 5;
/// Before the second attempt at most; doubles with each. How much of it is left to chance, so that not everybody comes back
/// to a source at the same moment that was away ("full jitter": M. Brooker, Exponential Backoff And Jitter, 2015).
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A source that gives so many pages in a row with nothing on them, or nothing that was not there before, would never end.
const MOST_IDLE_PAGES: u32 = 100;
/// Nor would one with more pages than this: 10 million records where there are 100 on a page.
const MOST_PAGES: i64 = 100_000;
/// If so many records are on the first page and none fits, it is not the records.
const ENOUGH_TO_JUDGE: usize = 10;

/// A batch that is being fetched.
struct Run {
    stream: Stream,
    number: i64,
    position: Option<Value>,
    mark: Option<Value>,
    pages: i64,
    failures: i32,
    waits: i32,
    restarts: i32,
    beginnings: i32,
}

/// What of a batch is counted, so that each next pause is longer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Setback {
    /// It failed, for now.
    Failure,
    /// The source wanted to be asked less often.
    Wait,
}

/// Why a run does not go on.
#[derive(Debug)]
enum Stopped {
    Halted(Halt),
    Lease(LeaseError),
    /// The source, or what was to be done with its records.
    Fetch(FetchError),
    /// A fault of ours.
    Bug(String),
}

impl From<LeaseError> for Stopped {
    fn from(error: LeaseError) -> Self {
        Self::Lease(error)
    }
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Self {
        Self::Lease(error.into())
    }
}

impl From<FetchError> for Stopped {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

/// Works at a stream until its batch is over, or cannot go on for now.
pub(super) async fn work(streams: Streams, lease: Lease) -> Result<(), LeaseError> {
    let Some(mut run) = begin(&streams, lease).await? else { return Ok(()) };
    let (id, batch) = (lease.id, run.number);
    tracing::debug!(%id, batch, "a batch begins, or goes on");
    let fetched = {
        let fetching = AssertUnwindSafe(fetch(&streams, lease, &mut run)).catch_unwind();
        let goes_on = |state: State| state == State::Running;
        let report = async || Ok(goes_on(renew(&streams, lease).await?));
        let look = async || Ok(goes_on(look(&streams, lease).await?));
        tokio::select! {
            fetched = fetching => fetched.unwrap_or_else(|panic| Err(Stopped::Bug(words(&*panic)))),
            halt = jobs::keep(lease, streams.listen(), streams.stop_token(), report, look) => Err(Stopped::Halted(halt)),
        }
    };
    let stopped = match fetched {
        Ok(()) => {
            tracing::debug!(%id, batch, "a batch is complete");
            return Ok(());
        }
        Err(stopped) => stopped,
    };
    match stopped {
        Stopped::Halted(Halt::Lost) => Err(LeaseError::Lost),
        Stopped::Lease(error) => Err(error),
        Stopped::Halted(Halt::Cancelled | Halt::Stopped) => release(&streams, lease, Duration::ZERO, None).await,
        Stopped::Fetch(FetchError::Limited { retry_after }) => {
            // Who is told to come again at once should not do so without end.
            let least = if run.waits < MOST_AT_ONCE { Duration::ZERO } else { FIRST_PAUSE };
            let pause = retry_after.map_or_else(|| backoff(run.waits), |pause| pause.max(least));
            let reason =
                format!("The source wants to be asked less often (429): it is asked again in {} s", pause.as_secs());
            release(&streams, lease, pause, Some((Setback::Wait, &reason))).await
        }
        Stopped::Fetch(FetchError::Transient { reason, retry_after }) if run.failures + 1 < ATTEMPTS => {
            tracing::info!(%id, batch, reason, attempt = run.failures + 1, "a batch goes on later");
            let pause = backoff(run.failures).max(retry_after.unwrap_or_default());
            release(&streams, lease, pause, Some((Setback::Failure, &reason))).await
        }
        Stopped::Fetch(FetchError::Transient { reason, .. } | FetchError::Moved(reason)) => {
            tracing::warn!(%id, batch, reason, "a batch failed");
            end(&streams, lease, &run, Event::Finish, &reason).await
        }
        Stopped::Fetch(FetchError::User(reason) | FetchError::Denied(reason)) => {
            tracing::warn!(%id, batch, reason, "a stream has to be changed before it can go on");
            end(&streams, lease, &run, Event::Fail, &reason).await
        }
        Stopped::Bug(reason) => {
            tracing::error!(%id, batch, position = ?run.position, reason, "a batch failed by a fault of newcycle");
            let reason = format!("This is a fault of newcycle: {reason}");
            end(&streams, lease, &run, Event::Finish, &reason).await
        }
    }
}

/// Records that a worker has it, and finds the batch that is under way, or begins one. Nothing if there is nothing to do.
async fn begin(streams: &Streams, lease: Lease) -> Result<Option<Run>, LeaseError> {
    let mut transaction = streams.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    let Locked { stream, now } = locked(&mut transaction, lease.id).await.map_err(gone)?;
    let Some(next) = stream.state.after(Event::Take) else {
        lease.put_off(&mut transaction, None).await?;
        transaction.commit().await?;
        return Ok(None);
    };
    if next == State::Stopping {
        // Its worker was told to stop, and died before it had.
        drop(transaction);
        release(streams, lease, Duration::ZERO, None).await?;
        return Ok(None);
    }
    let scheduled = stream.next_run_at.filter(|at| *at <= now);
    let (number, position, mark, pages, failures, waits, restarts, beginnings) = sqlx::query_as(
        "insert into jobs.batches as b (stream_id, number, scheduled_at, mark, beginnings)
        select $1, coalesce(max(number), 0) + 1, $2, $3, 1 from jobs.batches where stream_id = $1
        on conflict (stream_id) where state = 'running' do update set beginnings = b.beginnings + 1
        returning number, position, mark, pages, failures, waits, restarts, beginnings",
    )
    .bind(lease.id)
    .bind(scheduled)
    .bind(&stream.mark)
    .fetch_one(&mut *transaction)
    .await?;
    sqlx::query(
        "update jobs.streams set state = $2, retry_at = null,
            last_run_at = case when retry_at is null then clock_timestamp() else last_run_at end
        where id = $1",
    )
    .bind(lease.id)
    .bind(next.name())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Some(Run { stream, number, position, mark, pages, failures, waits, restarts, beginnings }))
}

/// Fetches what is left of the batch.
async fn fetch(streams: &Streams, lease: Lease, run: &mut Run) -> Result<(), Stopped> {
    if run.beginnings > MOST_BEGINNINGS {
        let reason = format!("it was begun {MOST_BEGINNINGS} times, and its worker ended each time");
        return Err(Stopped::Bug(reason));
    }
    let source = open(streams, &run.stream)?;
    let mut idle_pages = 0;
    loop {
        let Page { records, next, mark, bytes, pause } = match source.fetch(run.position.as_ref()).await {
            Ok(page) => page,
            Err(FetchError::Moved(reason)) if run.restarts < MOST_RESTARTS => {
                tracing::info!(id = %lease.id, batch = run.number, reason, "a batch is read anew");
                restart(streams, lease, run).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(reason) = next.as_ref().and_then(json::refusal) {
            return Err(FetchError::User(format!("The source's cursor {reason}")).into());
        }
        let is_empty = records.is_empty();
        let processing = tracing::info_span!(target: SPANS, "process a page", newcycle.records = records.len() as i64);
        let processed = process(streams, &run.stream, records).instrument(processing).await?;
        let mark = mark.filter(|mark| json::refusal(mark).is_none());
        run.mark = run.mark.take().into_iter().chain(mark).reduce(json::greater);
        if run.pages == 0 && processed.accepted.is_empty() && processed.rejected.len() >= ENOUGH_TO_JUDGE {
            let reason = processed.rejected.values().next().map(|(_, reason)| reason.as_str()).unwrap_or_default();
            return Err(
                FetchError::User(format!("No record of the first page fits: change the stream. {reason}")).into()
            );
        }
        let added = store(streams, lease, run, &processed, bytes, next.as_ref()).await?;
        // Of records that are left out, or that do not fit, it is not known whether they were there before.
        let is_idle = if processed.accepted.is_empty() { is_empty } else { added == 0 };
        run.pages += 1;
        run.position = next;
        if run.position.is_none() {
            return Ok(());
        }
        idle_pages = if is_idle { idle_pages + 1 } else { 0 };
        if idle_pages >= MOST_IDLE_PAGES {
            let reason =
                format!("The source gave nothing new on {MOST_IDLE_PAGES} pages, and says that there are more");
            return Err(FetchError::User(format!("{reason}: change the source's pagination")).into());
        }
        if run.pages >= MOST_PAGES {
            let reason = format!(
                "The source has more than {MOST_PAGES} pages: change the source's pagination, or its pages' size"
            );
            return Err(FetchError::User(reason).into());
        }
        tokio::time::sleep(pause).await;
    }
}

fn open(streams: &Streams, stream: &Stream) -> Result<Box<dyn Source>, FetchError> {
    let auth = streams.secret_of(stream);
    let auth = auth.map_err(|error| FetchError::User(format!("The stream's secret cannot be read: {error}")))?;
    stream.source.open(streams.0.client.clone(), auth, stream.mark.clone())
}

/// Stores a page; with the last one, the batch is complete. How many of its records had not been there.
#[tracing::instrument(target = SPANS, name = "store a page", skip_all)]
async fn store(
    streams: &Streams,
    lease: Lease,
    run: &Run,
    processed: &Processed,
    bytes: u64,
    next: Option<&Value>,
) -> Result<i64, Stopped> {
    let mut transaction = streams.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    let (added, rejected) = insert(&mut transaction, lease.id, run.number, processed).await?;
    if let Some(next) = next {
        let is_new = sqlx::query(
            "insert into jobs.pages (stream_id, batch, position) values ($1, $2, $3) on conflict do nothing",
        )
        .bind(lease.id)
        .bind(run.number)
        .bind(next)
        .execute(&mut *transaction)
        .await?
        .rows_affected()
            == 1;
        if !is_new {
            let reason = "The source leads back to a page that was read already: change the source's pagination";
            return Err(FetchError::User(reason.to_owned()).into());
        }
    }
    sqlx::query(
        "update jobs.batches set pages = pages + 1, records = records + $3, rejected = rejected + $4, bytes = bytes + $5,
            position = $6, mark = $7, failures = 0, waits = 0, beginnings = 0
        where stream_id = $1 and number = $2",
    )
    .bind(lease.id)
    .bind(run.number)
    .bind(added)
    .bind(rejected)
    .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
    .bind(next)
    .bind(&run.mark)
    .execute(&mut *transaction)
    .await?;
    if next.is_none() {
        complete(&mut transaction, lease, run).await?;
    }
    transaction.commit().await?;
    Ok(added)
}

/// Ends a batch that has everything, and says when the next one begins.
async fn complete(connection: &mut PgConnection, lease: Lease, run: &Run) -> Result<(), LeaseError> {
    let skipped = schedule_next(connection, lease, Event::Finish, None).await?;
    sqlx::query(
        "with batch as (
            update jobs.batches set state = 'complete', finished_at = clock_timestamp(), skipped_runs = $3
            where stream_id = $1 and number = $2 returning records, mark
        ), pages as (
            delete from jobs.pages where stream_id = $1 and batch = $2
        )
        update jobs.streams s set
            latest_batch = $2, batches = s.batches + 1, records = s.records + batch.records, mark = batch.mark,
            last_error = null, last_error_at = null
        from batch where s.id = $1",
    )
    .bind(lease.id)
    .bind(run.number)
    .bind(skipped)
    .execute(&mut *connection)
    .await?;
    if !run.stream.source.is_incremental() {
        return Ok(());
    }
    // Older versions were kept where the rest of their batch was removed.
    sqlx::query(
        "delete from jobs.records r using jobs.records new, jobs.batches b
        where new.stream_id = $1 and new.batch = $2 and r.stream_id = $1 and r.key = new.key and r.batch < $2
            and b.stream_id = $1 and b.number = r.batch and b.removed_at is not null",
    )
    .bind(lease.id)
    .bind(run.number)
    .execute(connection)
    .await?;
    Ok(())
}

/// Records what a stream does after a run, and when the next one begins. How many were skipped.
async fn schedule_next(
    connection: &mut PgConnection,
    lease: Lease,
    event: Event,
    error: Option<&str>,
) -> Result<i64, LeaseError> {
    let Locked { stream, now } = locked(connection, lease.id).await.map_err(gone)?;
    // A run that somebody asked for once is followed by none.
    let event = if event == Event::Finish && stream.desired == Desired::Stopped { Event::Rest } else { event };
    let state = stream.state.after(event).ok_or(LeaseError::Lost)?;
    let schedule = stream.schedule();
    let next = schedule.next(stream.next_run_at.unwrap_or(now), now);
    let next_at = next.at.filter(|_| state == State::Waiting);
    let skipped = if stream.next_run_at.is_some() { next.skipped } else { 0 };
    lease.put_off(connection, next_at.map(|at| at + schedule.jitter(lease.id))).await?;
    sqlx::query(
        "update jobs.streams set state = $2, next_run_at = $3, retry_at = null, skipped_runs = skipped_runs + $4,
            last_error = coalesce($5, last_error),
            last_error_at = case when $5 is null then last_error_at else clock_timestamp() end
        where id = $1",
    )
    .bind(lease.id)
    .bind(state.name())
    .bind(next_at)
    .bind(skipped)
    .bind(error)
    .execute(connection)
    .await?;
    Ok(skipped)
}

/// Begins the batch anew: what was read is not what there is any more.
async fn restart(streams: &Streams, lease: Lease, run: &mut Run) -> Result<(), Stopped> {
    let mut transaction = streams.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    forget(&mut transaction, lease.id, run.number).await?;
    sqlx::query(
        "update jobs.batches set restarts = restarts + 1, pages = 0, records = 0, rejected = 0, bytes = 0, position = null,
            mark = $3
        where stream_id = $1 and number = $2",
    )
    .bind(lease.id)
    .bind(run.number)
    .bind(&run.stream.mark)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    (run.restarts, run.pages, run.position) = (run.restarts + 1, 0, None);
    run.mark.clone_from(&run.stream.mark);
    Ok(())
}

/// Gives a stream back, to go on with the same batch after a pause. One that is being stopped does not go on.
async fn release(
    streams: &Streams,
    lease: Lease,
    pause: Duration,
    why: Option<(Setback, &str)>,
) -> Result<(), LeaseError> {
    let (setback, reason) = why.unzip();
    let mut transaction = streams.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    let Locked { stream, now } = locked(&mut transaction, lease.id).await.map_err(gone)?;
    let state = stream.state.after(Event::Release).ok_or(LeaseError::Lost)?;
    if state == State::Stopped {
        cancel_batch(&mut transaction, lease.id).await?;
        lease.put_off(&mut transaction, None).await?;
    } else {
        sqlx::query(
            "update jobs.batches set beginnings = 0, failures = failures + $2, waits = waits + $3
            where stream_id = $1 and state = 'running'",
        )
        .bind(lease.id)
        .bind(i32::from(setback == Some(Setback::Failure)))
        .bind(i32::from(setback == Some(Setback::Wait)))
        .execute(&mut *transaction)
        .await?;
        lease.put_off(&mut transaction, Some(now + pause)).await?;
    }
    sqlx::query(
        "update jobs.streams set state = $2, retry_at = $3, last_error = coalesce($4, last_error),
            last_error_at = case when $4 is null then last_error_at else clock_timestamp() end
        where id = $1",
    )
    .bind(lease.id)
    .bind(state.name())
    .bind((state == State::Waiting).then_some(now + pause))
    .bind(reason)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Ends a batch that cannot be completed. Nothing of it is kept.
async fn end(streams: &Streams, lease: Lease, run: &Run, event: Event, reason: &str) -> Result<(), LeaseError> {
    let mut transaction = streams.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    let skipped = schedule_next(&mut transaction, lease, event, Some(reason)).await?;
    sqlx::query(
        "update jobs.batches set state = 'failed', finished_at = clock_timestamp(), position = null, reason = $3,
            skipped_runs = $4
        where stream_id = $1 and number = $2",
    )
    .bind(lease.id)
    .bind(run.number)
    .bind(reason)
    .bind(skipped)
    .execute(&mut *transaction)
    .await?;
    forget(&mut transaction, lease.id, run.number).await?;
    transaction.commit().await?;
    Ok(())
}

async fn renew(streams: &Streams, lease: Lease) -> Result<State, LeaseError> {
    let mut connection = streams.0.own_pool.acquire().await?;
    lease.renew(&mut connection).await?;
    state(&mut connection, lease).await
}

async fn look(streams: &Streams, lease: Lease) -> Result<State, LeaseError> {
    let mut connection = streams.0.own_pool.acquire().await?;
    state(&mut connection, lease).await
}

async fn state(connection: &mut PgConnection, lease: Lease) -> Result<State, LeaseError> {
    let name: Option<String> = sqlx::query_scalar(
        "select s.state from jobs.streams s join jobs.queue q using (id) where s.id = $1 and q.attempt = $2 and q.held",
    )
    .bind(lease.id)
    .bind(lease.attempt)
    .fetch_optional(connection)
    .await?;
    let found = name.and_then(|name| State::ALL.into_iter().find(|state| state.name() == name));
    found.ok_or(LeaseError::Lost)
}

/// A stream that was deleted is nobody's any more.
fn gone(error: super::StreamError) -> LeaseError {
    match error {
        super::StreamError::Database(error) => LeaseError::Database(error),
        _ => LeaseError::Lost,
    }
}

/// How long to wait after that many failures in a row.
pub(super) fn backoff(failures: i32) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.max(0).unsigned_abs())).min(LONGEST_PAUSE);
    // Without random numbers everybody waits for as long as they may.
    longest.mul_f64(getrandom::u32().map_or(1.0, |chance| f64::from(chance) / f64::from(u32::MAX)))
}
