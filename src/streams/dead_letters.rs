//! Records that could not be processed: kept with the reason, and tried again when somebody has changed what was wrong.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Streams;
use super::processing::{Accepted, insert_records, process};
use super::record::{StreamError, fetch};
use super::source::{FetchError, Fetched};
use crate::jobs::{self, Kind, Lease, LeaseError};
use crate::ledger::{Page as ListPage, PageRequest, PageToken};

/// Before a dead letter is tried again that could not be tried, for now.
const PAUSE: Duration = Duration::from_secs(5);

/// A record that could not be processed.
#[derive(Clone, Debug, PartialEq, Serialize, FromRow, ToSchema)]
pub struct DeadLetter {
    /// Identifies it.
    pub id: Uuid,
    /// The stream that it came in.
    pub stream_id: Uuid,
    /// The batch that it came in last.
    pub batch: i64,
    /// What identifies it in its source; if it has no key, a digest of it.
    pub key: String,
    /// The record, as the source has it.
    pub record: Value,
    /// Why it could not be processed.
    pub reason: String,
    /// How often it came.
    pub times: i64,
    /// `dead`, or `retrying` while a worker is to try again.
    pub state: String,
    /// Counts its changes.
    pub version: i64,
    /// When it came first.
    pub created_at: DateTime<Utc>,
    /// When it came last.
    pub last_seen_at: DateTime<Utc>,
}

impl Streams {
    /// Dead letters, newest first; of a stream, if one is said.
    pub async fn dead_letters(
        &self,
        stream: Option<Uuid>,
        request: PageRequest,
    ) -> Result<ListPage<DeadLetter>, StreamError> {
        let rows = sqlx::query_as(
            "select * from jobs.dead_letters
            where ($1::uuid is null or stream_id = $1) and ($2::timestamptz is null or (created_at, id) < ($2, $3))
            order by created_at desc, id desc limit $4",
        )
        .bind(stream)
        .bind(request.after.map(|token| token.moment))
        .bind(request.after.map(|token| token.id))
        .bind(request.size + 1)
        .fetch_all(&self.0.pool)
        .await?;
        Ok(ListPage::new(rows, request.size, |letter: &DeadLetter| PageToken {
            moment: letter.created_at,
            id: letter.id,
        }))
    }

    /// Has a worker try again.
    pub async fn retry(&self, id: Uuid) -> Result<DeadLetter, StreamError> {
        let mut transaction = self.0.pool.begin().await?;
        let retried: Option<DeadLetter> = sqlx::query_as(
            "update jobs.dead_letters set state = 'retrying' where id = $1 and state = 'dead' returning *",
        )
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await?;
        let letter = match retried {
            Some(letter) => {
                jobs::enqueue(&mut transaction, id, Kind::DeadLetter).await?;
                letter
            }
            None => sqlx::query_as("select * from jobs.dead_letters where id = $1")
                .bind(id)
                .fetch_optional(&mut *transaction)
                .await?
                .ok_or(StreamError::NoDeadLetter(id))?,
        };
        transaction.commit().await?;
        Ok(letter)
    }
}

/// What comes of another try.
enum Outcome {
    /// It went well, or there is nothing to do any more: what is to be added to which batch.
    Over(Option<(i64, Accepted)>),
    /// It does not fit now either.
    Dead(String),
    /// It cannot be tried now.
    Later(String),
}

/// Tries again. What goes well is added to the batch that readers see, and is dead no more.
pub(super) async fn work(streams: Streams, lease: Lease) -> Result<(), LeaseError> {
    let id = lease.id;
    let outcome = try_again(&streams, id).await?;
    let mut transaction = streams.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    match outcome {
        Outcome::Later(reason) => {
            tracing::info!(%id, reason, "a dead letter is tried again later");
            lease.release(&mut transaction, PAUSE).await?;
            transaction.commit().await?;
            return Ok(());
        }
        Outcome::Dead(reason) => {
            sqlx::query(
                "update jobs.dead_letters set state = 'dead', reason = $2, times = times + 1, last_seen_at = clock_timestamp()
                where id = $1",
            )
            .bind(id)
            .bind(reason)
            .execute(&mut *transaction)
            .await?;
        }
        Outcome::Over(added) => {
            let stream: Option<Uuid> =
                sqlx::query_scalar("delete from jobs.dead_letters where id = $1 returning stream_id")
                    .bind(id)
                    .fetch_optional(&mut *transaction)
                    .await?;
            if let (Some(stream), Some((batch, records))) = (stream, added) {
                add(&mut transaction, stream, batch, &records).await?;
            }
        }
    }
    lease.finish(&mut transaction).await?;
    transaction.commit().await?;
    Ok(())
}

async fn try_again(streams: &Streams, id: Uuid) -> Result<Outcome, LeaseError> {
    let mut connection = streams.0.own_pool.acquire().await?;
    let found: Option<DeadLetter> = sqlx::query_as("select * from jobs.dead_letters where id = $1")
        .bind(id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(letter) = found else { return Ok(Outcome::Over(None)) };
    let stream = match fetch(&mut connection, letter.stream_id).await {
        Ok(stream) => stream,
        Err(StreamError::Database(error)) => return Err(error.into()),
        Err(_) => return Ok(Outcome::Over(None)),
    };
    drop(connection);
    let fetched = Fetched { key: stream.source.key_of(&letter.record), record: letter.record };
    Ok(match process(streams, &stream, vec![fetched]).await {
        Ok(processed) => match processed.rejected.into_values().next() {
            Some((_, reason)) => Outcome::Dead(reason),
            // What is left out by now changes no batch.
            None if processed.accepted.is_empty() => Outcome::Over(None),
            None => Outcome::Over(stream.latest_batch.map(|batch| (batch, processed.accepted))),
        },
        Err(FetchError::Transient { reason, .. }) => Outcome::Later(reason),
        Err(error) => Outcome::Dead(error.to_string()),
    })
}

/// Adds records to a batch that is complete; one that is not there any more needs none.
async fn add(connection: &mut PgConnection, stream: Uuid, batch: i64, records: &Accepted) -> Result<(), sqlx::Error> {
    let revised = sqlx::query(
        "update jobs.batches set revision = revision + 1 where stream_id = $1 and number = $2 and state = 'complete'",
    )
    .bind(stream)
    .bind(batch)
    .execute(&mut *connection)
    .await?;
    if revised.rows_affected() == 0 {
        return Ok(());
    }
    let added = insert_records(connection, stream, batch, records).await?;
    sqlx::query(
        "with batch as (update jobs.batches set records = records + $3 where stream_id = $1 and number = $2)
        update jobs.streams set records = records + $3 where id = $1",
    )
    .bind(stream)
    .bind(batch)
    .bind(added)
    .execute(connection)
    .await
    .map(drop)
}
