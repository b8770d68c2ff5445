//! What takes longer than a request: a queue of leases in Postgres, and a bell that rings on every server.
//!
//! A job is taken for a while ([`take`]), held on to ([`Lease::renew`]) and given back or finished. What its worker writes,
//! it writes in transactions that begin with [`Lease::hold`]: whoever lost the lease, or gave it back, cannot write any more.
//! What a job is about lies in a table of its kind, whose state changes in the same transactions: see [`crate::exports`] and
//! [`crate::streams`].
//!
//! **Invariant:** nobody holds a transaction open while they work, and whoever locks the rows of a job locks that of the
//! queue first.

mod bell;
mod worker;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

pub use bell::{Bell, Ringing};
pub use worker::{Halt, keep, run};

/// How long a worker that was not heard of keeps a job. Renewed every second, it lasts over a restart of Postgres; and
/// nobody waits for much longer for the job of a server that was killed.
pub const LEASE: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An export is to be made.
    Export,
    /// A stream is to be fetched.
    Stream,
    /// A record that could not be processed is to be tried again.
    DeadLetter,
    /// Somebody wants to see what would become of records.
    Preview,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Stream => "stream",
            Self::DeadLetter => "dead-letter",
            Self::Preview => "preview",
        }
    }
}

/// The right to work at a job, for as long as it is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub id: Uuid,
    /// How often it was taken, this time included. The fence: a later attempt ends the right of this one.
    pub attempt: i32,
}

/// Why a worker has to let go.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has the job, or it is over.
    #[error("the job is somebody else's by now, or over")]
    Lost,
    /// Nobody can say.
    #[error("the queue cannot be reached")]
    Database(#[from] sqlx::Error),
}

/// Adds a job that is due at once.
pub async fn enqueue(connection: &mut PgConnection, id: Uuid, kind: Kind) -> Result<(), sqlx::Error> {
    sqlx::query("insert into jobs.queue (id, kind) values ($1, $2)")
        .bind(id)
        .bind(kind.name())
        .execute(connection)
        .await
        .map(drop)
}

/// Adds a job that is not due.
pub async fn enqueue_idle(connection: &mut PgConnection, id: Uuid, kind: Kind) -> Result<(), sqlx::Error> {
    sqlx::query("insert into jobs.queue (id, kind, due_at) values ($1, $2, 'infinity')")
        .bind(id)
        .bind(kind.name())
        .execute(connection)
        .await
        .map(drop)
}

/// Has a job be due then, or never. Its row must be locked.
pub async fn put_off(
    connection: &mut PgConnection,
    id: Uuid,
    due_at: Option<DateTime<Utc>>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update jobs.queue set due_at = coalesce($2, 'infinity') where id = $1")
        .bind(id)
        .bind(due_at)
        .execute(connection)
        .await
        .map(drop)
}

/// Takes the job of that kind that has been due for longest, if there is one.
pub async fn take(pool: &PgPool, kind: Kind) -> Result<Option<Lease>, sqlx::Error> {
    let taken: Option<(Uuid, i32)> = sqlx::query_as(
        "update jobs.queue set attempt = attempt + 1, held = true, due_at = now() + $2
        where id = (
            select id from jobs.queue where kind = $1 and due_at <= now() order by due_at limit 1 for update skip locked
        )
        returning id, attempt",
    )
    .bind(kind.name())
    .bind(interval(LEASE))
    .fetch_optional(pool)
    .await?;
    Ok(taken.map(|(id, attempt)| Lease { id, attempt }))
}

/// How long it is until a job of that kind is due, if that is within a while; nothing if one is, which somebody else may be
/// about to take.
pub async fn until_due(pool: &PgPool, kind: Kind, most: Duration) -> Result<Duration, sqlx::Error> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from min(due_at) - now())::float8 from jobs.queue
        where kind = $1 and due_at < now() + $2",
    )
    .bind(kind.name())
    .bind(interval(most))
    .fetch_one(pool)
    .await?;
    Ok(seconds.map_or(most, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default().min(most)))
}

/// Locks the row of a job that may or may not be there, whoever works at it: for those who want to change what it is about
/// from outside.
pub async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("select from jobs.queue where id = $1 for update").bind(id).execute(connection).await.map(drop)
}

/// Removes a job at which nobody works. Its row must be locked.
pub async fn withdraw(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("delete from jobs.queue where id = $1").bind(id).execute(connection).await.map(drop)
}

impl Lease {
    /// Makes the worker's transaction one that nobody else's attempt can come between. Everything that it writes comes
    /// after this.
    pub async fn hold(&self, connection: &mut PgConnection) -> Result<(), LeaseError> {
        self.confirm(
            sqlx::query("select from jobs.queue where id = $1 and attempt = $2 and held for update")
                .bind(self.id)
                .bind(self.attempt)
                .fetch_optional(connection)
                .await?
                .is_some(),
        )
    }

    /// Keeps the job for another while.
    pub async fn renew(&self, connection: &mut PgConnection) -> Result<(), LeaseError> {
        self.set(connection, LEASE, true).await
    }

    /// Gives the job back, to be tried again after a pause.
    pub async fn release(&self, connection: &mut PgConnection, pause: Duration) -> Result<(), LeaseError> {
        self.set(connection, pause, false).await
    }

    /// Gives the job back, to be due then, or never.
    pub async fn put_off(
        &self,
        connection: &mut PgConnection,
        due_at: Option<DateTime<Utc>>,
    ) -> Result<(), LeaseError> {
        self.set(connection, Duration::ZERO, false).await?;
        Ok(put_off(connection, self.id, due_at).await?)
    }

    /// Ends the job: nobody will take it again.
    pub async fn finish(&self, connection: &mut PgConnection) -> Result<(), LeaseError> {
        let done = sqlx::query("delete from jobs.queue where id = $1 and attempt = $2 and held")
            .bind(self.id)
            .bind(self.attempt)
            .execute(connection)
            .await?;
        self.confirm(done.rows_affected() == 1)
    }

    async fn set(&self, connection: &mut PgConnection, pause: Duration, held: bool) -> Result<(), LeaseError> {
        let done =
            sqlx::query("update jobs.queue set due_at = now() + $3, held = $4 where id = $1 and attempt = $2 and held")
                .bind(self.id)
                .bind(self.attempt)
                .bind(interval(pause))
                .bind(held)
                .execute(connection)
                .await?;
        self.confirm(done.rows_affected() == 1)
    }

    fn confirm(&self, is_ours: bool) -> Result<(), LeaseError> {
        if is_ours { Ok(()) } else { Err(LeaseError::Lost) }
    }
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: i64::try_from(duration.as_micros()).unwrap_or(i64::MAX) }
}

/// What has that name. The database knows the names, so there is one.
pub fn named<T: Copy, const N: usize>(
    row: &PgRow,
    column: &str,
    all: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<T, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    let found = all.into_iter().find(|value| name(*value) == text);
    found.ok_or_else(|| undecodable(column, format!("{text:?} is of another version")))
}

/// A value that this version does not know.
pub fn undecodable(column: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: error.into() }
}
