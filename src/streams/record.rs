//! What is recorded of streams, and what can be asked of them.
//!
//! Everything that changes a stream locks the row of its job first, decides by [`State::after`], and writes both rows.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};
use utoipa::ToSchema;
use uuid::Uuid;

use super::destination::Destination;
use super::schedule::Schedule;
use super::seal::SealError;
use super::source::{Auth, SourceSettings};
use super::state::{Desired, Event, State};
use super::transform::Step;
use super::{Definition, Streams};
use crate::jobs::{self, Kind};
use crate::ledger::{Page, PageRequest, PageToken};
use crate::statistics;

/// A data stream: what is fetched, when, and how that goes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Stream {
    /// Identifies it.
    pub id: Uuid,
    /// What people call it. No other stream has this name.
    pub name: String,
    /// What is fetched, without its secrets.
    pub source: SourceSettings,
    /// Which kind of secret it has: `bearer`, `basic`, `key` or `oauth2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub auth: Option<String>,
    /// How many seconds lie between its runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub interval_seconds: Option<i64>,
    /// When it runs, as a cron expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub cron: Option<String>,
    /// By whose clocks.
    pub timezone: String,
    /// What is done to each record before it is stored.
    pub transform: Vec<Step>,
    /// Where records go besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub destination: Option<Destination>,
    /// What is wanted of it.
    pub desired: Desired,
    /// What it does.
    pub state: State,
    /// Counts its changes.
    pub version: i64,
    /// When it is to run next. That it did not begin yet is for jitter: up to a tenth of its interval, and half a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_run_at: Option<DateTime<Utc>>,
    /// When the present run goes on, after something went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub retry_at: Option<DateTime<Utc>>,
    /// When its last run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_run_at: Option<DateTime<Utc>>,
    /// What went wrong last, until it goes well again; where somebody has to change something, what.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_error: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_error_at: Option<DateTime<Utc>>,
    /// The newest complete batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub latest_batch: Option<i64>,
    /// How many batches are complete.
    pub batches: i64,
    /// How many records they have had.
    pub records: i64,
    /// How many runs did not take place when they were to, because another was under way or no worker was there.
    pub skipped_runs: i64,
    /// How many records could not be processed.
    pub dead_letters: i64,
    /// The batch that is being fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub running: Option<Batch>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// Where the greatest value of the field by which only what is new is fetched stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub mark: Option<Value>,
    #[serde(skip)]
    pub(super) secrets: Option<Vec<u8>>,
}

/// A run of a stream, and what it fetched.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow, ToSchema)]
pub struct Batch {
    /// Counts from 1 within its stream.
    pub number: i64,
    /// How far it is.
    #[sqlx(try_from = "String")]
    pub state: BatchState,
    /// When it was to begin; nothing if somebody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub scheduled_at: Option<DateTime<Utc>>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub finished_at: Option<DateTime<Utc>>,
    /// How many pages were fetched.
    pub pages: i64,
    /// How many records it has.
    pub records: i64,
    /// How many records could not be processed.
    pub rejected: i64,
    /// How many bytes they came in.
    pub bytes: i64,
    /// How many runs did not take place because this one was under way, or no worker was there.
    pub skipped_runs: i64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// How many records were added after it was complete: what dead letters became.
    pub revision: i64,
    /// When its records were removed, as there are newer batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub removed_at: Option<DateTime<Utc>>,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchState {
    /// It is being fetched.
    Running,
    /// Everything is there.
    Complete,
    /// It could not be fetched; why is its `reason`. Nothing of it is kept.
    Failed,
    /// The stream was stopped meanwhile. Nothing of it is kept.
    Cancelled,
}

impl TryFrom<String> for BatchState {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "running" => Ok(Self::Running),
            "complete" => Ok(Self::Complete),
            "failed" => Ok(Self::Failed),
            "cancelled" => Ok(Self::Cancelled),
            _ => Err(format!("{name:?} is of another version")),
        }
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow, ToSchema)]
pub struct StoredRecord {
    /// What identifies it in its source.
    pub key: String,
    /// The record, transformed.
    pub record: Value,
}

/// Why something cannot be done with a stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There is no such stream.
    #[error("there is no stream {0}")]
    NotFound(Uuid),
    /// There is no such batch.
    #[error("the stream has no complete batch {0}")]
    NoBatch(String),
    /// Its records have been removed.
    #[error("the records of batch {0} have been removed, as there are newer ones")]
    BatchRemoved(i64),
    /// There is no such dead letter.
    #[error("there is no dead letter {0}")]
    NoDeadLetter(Uuid),
    /// Another stream has this name.
    #[error("another stream has this name")]
    NameTaken,
    /// It cannot be done now.
    #[error("a stream that is {0} cannot do that now")]
    WrongState(State),
    /// It cannot be what it is to be.
    #[error(transparent)]
    Invalid(#[from] super::Invalid),
    /// The source, or the worker, is away.
    #[error("{0}")]
    Away(String),
    /// Its secret cannot be kept.
    #[error("the secret cannot be kept")]
    Seal(#[from] SealError),
    /// The database failed.
    #[error("the streams could not be reached")]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for StreamError {
    fn from(error: sqlx::Error) -> Self {
        let constraint = error.as_database_error().and_then(|error| error.constraint());
        if constraint == Some("streams_name_is_taken") { Self::NameTaken } else { Self::Database(error) }
    }
}

const SELECT: &str = "select s.*,
        (select count(*) from jobs.dead_letters d where d.stream_id = s.id) as dead_letters,
        b.number, b.state as batch_state, b.scheduled_at, b.started_at, b.finished_at, b.pages as batch_pages,
        b.records as batch_records, b.rejected, b.bytes, b.skipped_runs as batch_skipped_runs, b.reason, b.revision
    from jobs.streams s left join jobs.batches b on b.stream_id = s.id and b.state = 'running'";

impl Streams {
    /// Creates a stream, and starts it if that is wanted.
    pub async fn create(&self, definition: &Definition) -> Result<Stream, StreamError> {
        let id = Uuid::now_v7();
        let secrets = self.seal(id, definition.auth.as_ref())?;
        let mut transaction = self.0.pool.begin().await?;
        let auth = definition.auth.as_ref().map(Auth::kind);
        definition.save(&mut transaction, id, auth, secrets.as_deref()).await?;
        jobs::enqueue_idle(&mut transaction, id, Kind::Stream).await?;
        if definition.desired == Desired::Running {
            start(&mut transaction, id).await?;
        }
        let stream = fetch(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(stream)
    }

    pub(super) fn seal(&self, id: Uuid, auth: Option<&Auth>) -> Result<Option<Vec<u8>>, SealError> {
        let Some(auth) = auth else { return Ok(None) };
        let text = serde_json::to_vec(auth).map_err(|_| SealError::Unable)?;
        self.0.seal.seal(id, &text).map(Some)
    }

    /// The secret of a stream.
    pub(super) fn secret_of(&self, stream: &Stream) -> Result<Option<Auth>, SealError> {
        let Some(sealed) = &stream.secrets else { return Ok(None) };
        let text = self.0.seal.open(stream.id, sealed)?;
        serde_json::from_slice(&text).map(Some).map_err(|_| SealError::AnotherVersion)
    }

    /// A stream.
    pub async fn get(&self, id: Uuid) -> Result<Stream, StreamError> {
        fetch(&mut *self.0.pool.acquire().await?, id).await
    }

    /// Streams, newest first.
    pub async fn list(&self, request: PageRequest) -> Result<Page<Stream>, StreamError> {
        let rows = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{SELECT} where $1::timestamptz is null or (s.created_at, s.id) < ($1, $2)
            order by s.created_at desc, s.id desc limit $3"
        )))
        .bind(request.after.map(|token| token.moment))
        .bind(request.after.map(|token| token.id))
        .bind(request.size + 1)
        .fetch_all(&self.0.pool)
        .await?;
        Ok(Page::new(rows, request.size, |stream: &Stream| PageToken { moment: stream.created_at, id: stream.id }))
    }

    /// Has a stream run on its schedule, from now on.
    pub async fn start(&self, id: Uuid) -> Result<Stream, StreamError> {
        let mut transaction = self.0.pool.begin().await?;
        start(&mut transaction, id).await?;
        let stream = fetch(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(stream)
    }

    /// Has a stream stop; also what it does now.
    pub async fn stop(&self, id: Uuid) -> Result<Stream, StreamError> {
        let mut transaction = self.0.pool.begin().await?;
        let Locked { stream, .. } = lock(&mut transaction, id).await?;
        let next = stream.state.after(Event::Stop).ok_or(StreamError::WrongState(stream.state))?;
        if stream.desired != Desired::Stopped || stream.state != next {
            sqlx::query(
                "update jobs.streams set desired = 'stopped', state = $2, next_run_at = null, retry_at = null where id = $1",
            )
            .bind(id)
            .bind(next.name())
            .execute(&mut *transaction)
            .await?;
            if next == State::Stopped {
                jobs::put_off(&mut transaction, id, None).await?;
                cancel_batch(&mut transaction, id).await?;
            }
        }
        let stream = fetch(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(stream)
    }

    /// Has a stream fetch now, whether it is started or not. Where it does so already nothing changes.
    pub async fn fetch_now(&self, id: Uuid) -> Result<Stream, StreamError> {
        let mut transaction = self.0.pool.begin().await?;
        let Locked { stream, now } = lock(&mut transaction, id).await?;
        let next = stream.state.after(Event::Fetch).ok_or(StreamError::WrongState(stream.state))?;
        if next == State::Waiting {
            sqlx::query("update jobs.streams set state = $2, retry_at = null where id = $1")
                .bind(id)
                .bind(next.name())
                .execute(&mut *transaction)
                .await?;
            jobs::put_off(&mut transaction, id, Some(now)).await?;
        }
        let stream = fetch(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(stream)
    }

    /// Removes a stream and everything that it fetched. What it brought into the ledger stays there.
    pub async fn delete(&self, id: Uuid) -> Result<(), StreamError> {
        let mut transaction = self.0.pool.begin().await?;
        jobs::lock(&mut transaction, id).await?;
        let deleted = sqlx::query("delete from jobs.streams where id = $1").bind(id).execute(&mut *transaction).await?;
        jobs::withdraw(&mut transaction, id).await?;
        transaction.commit().await?;
        if deleted.rows_affected() == 0 { Err(StreamError::NotFound(id)) } else { Ok(()) }
    }

    /// Runs of a stream, newest first, before that number.
    pub async fn batches(&self, id: Uuid, before: Option<i64>, size: i64) -> Result<Vec<Batch>, StreamError> {
        self.get(id).await?;
        let batches = sqlx::query_as(
            "select * from jobs.batches where stream_id = $1 and ($2::bigint is null or number < $2)
            order by number desc limit $3",
        )
        .bind(id)
        .bind(before)
        .bind(size)
        .fetch_all(&self.0.pool)
        .await?;
        Ok(batches)
    }

    /// A run of a stream.
    pub async fn batch(&self, id: Uuid, number: i64) -> Result<Batch, StreamError> {
        let batch = sqlx::query_as("select * from jobs.batches where stream_id = $1 and number = $2")
            .bind(id)
            .bind(number)
            .fetch_optional(&self.0.pool)
            .await?;
        batch.ok_or_else(|| StreamError::NoBatch(number.to_string()))
    }

    /// A complete batch: the newest, or that one.
    pub async fn complete_batch(&self, id: Uuid, number: Option<i64>) -> Result<Batch, StreamError> {
        let stream = self.get(id).await?;
        let number = number.or(stream.latest_batch).ok_or_else(|| StreamError::NoBatch("yet".to_owned()))?;
        let batch = self.batch(id, number).await?;
        match (batch.state, batch.removed_at) {
            (BatchState::Complete, None) => Ok(batch),
            (BatchState::Complete, Some(_)) => Err(StreamError::BatchRemoved(number)),
            _ => Err(StreamError::NoBatch(number.to_string())),
        }
    }

    /// Records of a complete batch by their keys, after that one.
    pub async fn records(
        &self,
        id: Uuid,
        number: i64,
        after: Option<&str>,
        size: i64,
    ) -> Result<Vec<StoredRecord>, StreamError> {
        let records = sqlx::query_as(
            "select key, record from jobs.records where stream_id = $1 and batch = $2 and ($3::text is null or key > $3)
            order by key limit $4",
        )
        .bind(id)
        .bind(number)
        .bind(after)
        .bind(size)
        .fetch_all(&self.0.pool)
        .await?;
        Ok(records)
    }
}

async fn start(connection: &mut PgConnection, id: Uuid) -> Result<(), StreamError> {
    let Locked { stream, now } = lock(connection, id).await?;
    if stream.desired == Desired::Running && stream.state != State::Failed {
        return Ok(());
    }
    let next = stream.state.after(Event::Start).ok_or(StreamError::WrongState(stream.state))?;
    let at = stream.next_run_at.filter(|at| *at > now).unwrap_or_else(|| stream.schedule().first(now));
    sqlx::query(
        "update jobs.streams set desired = 'running', state = $2, next_run_at = $3, retry_at = null where id = $1",
    )
    .bind(id)
    .bind(next.name())
    .bind(at)
    .execute(&mut *connection)
    .await?;
    // One that fetches, or is about to, goes on.
    if matches!(stream.state, State::Stopped | State::Failed) {
        jobs::put_off(connection, id, Some(at)).await?;
    }
    Ok(())
}

/// A stream whose job and row are locked, and the database's clock.
pub(super) struct Locked {
    pub(super) stream: Stream,
    pub(super) now: DateTime<Utc>,
}

/// Locks what a command changes.
pub(super) async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<Locked, StreamError> {
    jobs::lock(connection, id).await?;
    locked(connection, id).await
}

/// What is known of a stream whose job is locked: nobody else changes it.
pub(super) async fn locked(connection: &mut PgConnection, id: Uuid) -> Result<Locked, StreamError> {
    let stream = fetch(connection, id).await?;
    let now = sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await?;
    Ok(Locked { stream, now })
}

pub(super) async fn fetch(connection: &mut PgConnection, id: Uuid) -> Result<Stream, StreamError> {
    let query = sqlx::AssertSqlSafe(format!("{SELECT} where s.id = $1"));
    sqlx::query_as(query).bind(id).fetch_optional(connection).await?.ok_or(StreamError::NotFound(id))
}

/// Ends the batch that is under way, and forgets what there is of it.
pub(super) async fn cancel_batch(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    let cancelled: Option<i64> = sqlx::query_scalar(
        "update jobs.batches set state = 'cancelled', finished_at = clock_timestamp(), position = null
        where stream_id = $1 and state = 'running' returning number",
    )
    .bind(id)
    .fetch_optional(&mut *connection)
    .await?;
    match cancelled {
        Some(number) => forget(connection, id, number).await,
        None => Ok(()),
    }
}

/// Forgets what was fetched of a batch.
pub(super) async fn forget(connection: &mut PgConnection, id: Uuid, number: i64) -> Result<(), sqlx::Error> {
    for table in ["records", "pages"] {
        let query = sqlx::AssertSqlSafe(format!("delete from jobs.{table} where stream_id = $1 and batch = $2"));
        sqlx::query(query).bind(id).bind(number).execute(&mut *connection).await?;
    }
    Ok(())
}

impl Stream {
    /// When it runs.
    pub(super) fn schedule(&self) -> Schedule {
        let zone = statistics::parse_time_zone(&self.timezone).unwrap_or(chrono_tz::UTC);
        let cron = self.cron.as_deref().and_then(|cron| Schedule::read_cron(cron, zone).ok());
        cron.unwrap_or_else(|| Schedule::every(self.interval_seconds.unwrap_or(super::DEFAULT_INTERVAL)))
    }
}

impl FromRow<'_, PgRow> for Stream {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (Json(source), Json(transform)) = (row.try_get("source")?, row.try_get("transform")?);
        let destination: Option<Json<Destination>> = row.try_get("destination")?;
        let number: Option<i64> = row.try_get("number")?;
        let running = number.map(|number| {
            Ok::<_, sqlx::Error>(Batch {
                number,
                state: BatchState::Running,
                scheduled_at: row.try_get("scheduled_at")?,
                started_at: row.try_get("started_at")?,
                finished_at: row.try_get("finished_at")?,
                pages: row.try_get("batch_pages")?,
                records: row.try_get("batch_records")?,
                rejected: row.try_get("rejected")?,
                bytes: row.try_get("bytes")?,
                skipped_runs: row.try_get("batch_skipped_runs")?,
                reason: row.try_get("reason")?,
                revision: row.try_get("revision")?,
                removed_at: None,
            })
        });
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            source,
            auth: row.try_get("auth")?,
            interval_seconds: row.try_get("interval_seconds")?,
            cron: row.try_get("cron")?,
            timezone: row.try_get("timezone")?,
            transform,
            destination: destination.map(|Json(destination)| destination),
            desired: jobs::named(row, "desired", Desired::ALL, Desired::name)?,
            state: jobs::named(row, "state", State::ALL, State::name)?,
            version: row.try_get("version")?,
            next_run_at: row.try_get("next_run_at")?,
            retry_at: row.try_get("retry_at")?,
            last_run_at: row.try_get("last_run_at")?,
            last_error: row.try_get("last_error")?,
            last_error_at: row.try_get("last_error_at")?,
            latest_batch: row.try_get("latest_batch")?,
            batches: row.try_get("batches")?,
            records: row.try_get("records")?,
            skipped_runs: row.try_get("skipped_runs")?,
            dead_letters: row.try_get("dead_letters")?,
            running: running.transpose()?,
            created_at: row.try_get("created_at")?,
            mark: row.try_get("mark")?,
            secrets: row.try_get("secrets")?,
        })
    }
}
