//! Records that could not be processed: kept with the reason, and tried again when somebody has changed what was wrong.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::FromRow;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Streams;
use super::record::{StreamError, fetch};
use super::source::{FetchError, Fetched, Page};
use super::worker::{insert_records, process};
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

/// Tries again. What goes well is added to the batch that readers see, and is dead no more.
pub(super) async fn work(streams: Streams, lease: Lease) -> Result<(), LeaseError> {
    let found: Option<DeadLetter> = sqlx::query_as("select * from jobs.dead_letters where id = $1")
        .bind(lease.id)
        .fetch_optional(&streams.0.own_pool)
        .await?;
    let Some(letter) = found else { return done(&streams, lease, None, None).await };
    let stream = fetch(&mut *streams.0.own_pool.acquire().await?, letter.stream_id).await;
    let Ok(stream) = stream else { return done(&streams, lease, None, None).await };
    let key = stream.source.key_of(&letter.record);
    let fetched = Fetched { key, record: letter.record.clone() };
    let page = Page { records: vec![fetched], next: None, mark: None, bytes: 0, pause: Duration::ZERO };
    match process(&streams, &stream, page).await {
        Ok(processed) => {
            let reason = processed.rejected.values().next().map(|(_, reason)| reason.clone());
            let batch = stream.latest_batch.filter(|_| !processed.accepted.is_empty());
            if let Some(batch) = batch {
                let mut transaction = streams.0.own_pool.begin().await?;
                lease.hold(&mut transaction).await?;
                // A batch that is not there any more needs no record.
                let revised = sqlx::query(
                    "update jobs.batches set revision = revision + 1 where stream_id = $1 and number = $2 and state = 'complete'",
                )
                .bind(stream.id)
                .bind(batch)
                .execute(&mut *transaction)
                .await?;
                if revised.rows_affected() == 1 {
                    let added = insert_records(&mut transaction, stream.id, batch, &processed.accepted).await?;
                    sqlx::query("update jobs.batches set records = records + $3 where stream_id = $1 and number = $2")
                        .bind(stream.id)
                        .bind(batch)
                        .bind(added)
                        .execute(&mut *transaction)
                        .await?;
                    sqlx::query("update jobs.streams set records = records + $2 where id = $1")
                        .bind(stream.id)
                        .bind(added)
                        .execute(&mut *transaction)
                        .await?;
                }
                sqlx::query("delete from jobs.dead_letters where id = $1")
                    .bind(lease.id)
                    .execute(&mut *transaction)
                    .await?;
                lease.finish(&mut transaction).await?;
                transaction.commit().await?;
                return Ok(());
            }
            done(&streams, lease, Some(&letter), reason.as_deref()).await
        }
        Err(FetchError::Transient { reason, .. }) => {
            tracing::info!(id = %lease.id, reason, "a dead letter is tried again later");
            let mut transaction = streams.0.own_pool.begin().await?;
            lease.release(&mut transaction, PAUSE).await?;
            transaction.commit().await?;
            Ok(())
        }
        Err(error) => done(&streams, lease, Some(&letter), Some(&error.to_string())).await,
    }
}

/// Ends the job of a dead letter, which is dead again for that reason, or gone.
async fn done(
    streams: &Streams,
    lease: Lease,
    letter: Option<&DeadLetter>,
    reason: Option<&str>,
) -> Result<(), LeaseError> {
    let mut transaction = streams.0.own_pool.begin().await?;
    lease.hold(&mut transaction).await?;
    match (letter, reason) {
        (Some(_), Some(reason)) => {
            sqlx::query(
                "update jobs.dead_letters set state = 'dead', reason = $2, times = times + 1, last_seen_at = clock_timestamp()
                where id = $1",
            )
            .bind(lease.id)
            .bind(reason)
            .execute(&mut *transaction)
            .await?;
        }
        // It went well, or is left out by now.
        _ => {
            sqlx::query("delete from jobs.dead_letters where id = $1")
                .bind(lease.id)
                .execute(&mut *transaction)
                .await?;
        }
    }
    lease.finish(&mut transaction).await?;
    transaction.commit().await?;
    Ok(())
}
