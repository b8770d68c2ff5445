//! What becomes of records: each is transformed, brought into the ledger and stored; or it cannot be processed, and is kept
//! with the reason.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use super::destination::{self, Destination, LedgerMapping, Rows};
use super::record::Stream;
use super::source::{FetchError, Fetched};
use super::transform::Step;
use super::{Streams, json, transform};
use crate::audit::Author;

/// An index takes a little more.
const LONGEST_KEY: usize = 1_000;

/// What became of the records of a page.
pub(super) struct Processed {
    /// Records by their keys: of several with the same key, the last.
    pub(super) accepted: Accepted,
    /// Those that could not be processed, as the source has them, and why.
    pub(super) rejected: Rejected,
}

pub(super) type Accepted = BTreeMap<String, Value>;
type Rejected = BTreeMap<String, (Value, String)>;

/// A record that fits.
struct Candidate {
    key: String,
    record: Value,
    prepared: Prepared,
}

/// What a record becomes.
pub(super) struct Prepared {
    pub(super) transformed: Value,
    pub(super) rows: Rows,
}

/// Transforms records, and brings them into the ledger. A bad one spoils no other.
pub(super) async fn process(
    streams: &Streams,
    stream: &Stream,
    records: Vec<Fetched>,
) -> Result<Processed, FetchError> {
    let (id, steps) = (stream.id, stream.transform.clone());
    let mapping = stream.destination.clone().map(|Destination::Ledger(mapping)| mapping);
    // Thousands of records take the processor for a while: whoever serves dashboards shares a thread with this one.
    let preparing = tokio::task::spawn_blocking(move || prepare_all(id, &steps, mapping.as_ref(), records));
    let (mut candidates, rejected) = preparing.await.map_err(|error| FetchError::transient(error.to_string()))?;
    let mut processed = Processed { accepted: Accepted::new(), rejected };
    let rows: Vec<_> = candidates.iter_mut().map(|candidate| std::mem::take(&mut candidate.prepared.rows)).collect();
    let writer = streams.0.writer.in_the_name_of(Some(Author::stream(id, &stream.name)));
    let refusals = destination::write(&writer, &rows)
        .await
        .map_err(|error| FetchError::transient(format!("The ledger cannot be written now: {error}")))?;
    for (Candidate { key, record, prepared }, refusal) in candidates.into_iter().zip(refusals) {
        match refusal {
            None => {
                processed.accepted.insert(key, prepared.transformed);
            }
            Some(reason) => {
                processed.rejected.insert(key, (record, reason));
            }
        }
    }
    Ok(processed)
}

/// Those that fit, and those that do not. What does not even fail in order is a fault of ours, and spoils no other.
fn prepare_all(
    stream: Uuid,
    steps: &[Step],
    mapping: Option<&LedgerMapping>,
    records: Vec<Fetched>,
) -> (Vec<Candidate>, Rejected) {
    let (mut candidates, mut rejected) = (Vec::new(), Rejected::new());
    for Fetched { key, record } in records {
        let key = match storable(key, &record) {
            Ok(key) => key,
            Err(reason) => {
                // What has no key is known by what it is.
                let digest = hex::encode(Sha256::digest(record.to_string()));
                rejected.insert(digest, (json::displayable(record), reason));
                continue;
            }
        };
        match catch_unwind(AssertUnwindSafe(|| prepare(stream, steps, mapping, &record))) {
            Ok(Ok(Some(prepared))) => candidates.push(Candidate { key, record, prepared }),
            Ok(Ok(None)) => {}
            Ok(Err(reason)) => {
                rejected.insert(key, (record, reason));
            }
            Err(panic) => {
                let reason = words(&*panic);
                tracing::error!(%stream, key, reason, "a record could not be processed by a fault of newcycle");
                rejected.insert(key, (record, format!("This is a fault of newcycle: {reason}")));
            }
        }
    }
    (candidates, rejected)
}

/// The key of a record that can be stored.
pub(super) fn storable(key: Option<String>, record: &Value) -> Result<String, String> {
    let key = key.ok_or("The record has no key: see the source's key")?;
    if key.len() > LONGEST_KEY {
        return Err("The record's key is longer than 1,000 bytes".to_owned());
    }
    match json::refusal(record) {
        Some(reason) => Err(format!("The record {reason}")),
        None => Ok(key),
    }
}

/// What becomes of a record; nothing if it is left out, or why it does not fit.
pub(super) fn prepare(
    stream: Uuid,
    steps: &[Step],
    mapping: Option<&LedgerMapping>,
    record: &Value,
) -> Result<Option<Prepared>, String> {
    let Some(transformed) = transform::apply(steps, record.clone())? else { return Ok(None) };
    let rows = mapping.map(|mapping| mapping.rows(stream, &transformed)).transpose()?.unwrap_or_default();
    Ok(Some(Prepared { transformed, rows }))
}

/// Adds what was processed to a batch. How many of the records had not been there, and how many could not be processed.
pub(super) async fn insert(
    connection: &mut PgConnection,
    stream: Uuid,
    batch: i64,
    processed: &Processed,
) -> Result<(i64, i64), sqlx::Error> {
    let added = insert_records(connection, stream, batch, &processed.accepted).await?;
    let rejected = &processed.rejected;
    let (records, reasons): (Vec<_>, Vec<_>) = rejected.values().map(|(record, reason)| (record, reason)).unzip();
    sqlx::query(
        "insert into jobs.dead_letters as d (stream_id, batch, key, record, reason)
        select $1, $2, key, record, reason from unnest($3::text[], $4::jsonb[], $5::text[]) as new (key, record, reason)
        on conflict (stream_id, key) do update set
            batch = excluded.batch, record = excluded.record, reason = excluded.reason, times = d.times + 1,
            last_seen_at = clock_timestamp()",
    )
    .bind(stream)
    .bind(batch)
    .bind(rejected.keys().collect::<Vec<_>>())
    .bind(records)
    .bind(reasons)
    .execute(connection)
    .await?;
    Ok((added, i64::try_from(rejected.len()).unwrap_or(i64::MAX)))
}

/// Adds records to a batch, and forgets that they could not be processed before. How many had not been there.
pub(super) async fn insert_records(
    connection: &mut PgConnection,
    stream: Uuid,
    batch: i64,
    records: &Accepted,
) -> Result<i64, sqlx::Error> {
    let (keys, records): (Vec<_>, Vec<_>) = records.iter().unzip();
    let added = sqlx::query_scalar(
        "with stored as (
            insert into jobs.records (stream_id, batch, key, record)
            select $1, $2, key, record from unnest($3::text[], $4::jsonb[]) as new (key, record)
            on conflict (stream_id, batch, key) do update set record = excluded.record
            returning xmax = 0 as is_new
        )
        select count(*) filter (where is_new) from stored",
    )
    .bind(stream)
    .bind(batch)
    .bind(&keys)
    .bind(records)
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query("delete from jobs.dead_letters where stream_id = $1 and key = any($2) and state = 'dead'")
        .bind(stream)
        .bind(keys)
        .execute(connection)
        .await?;
    Ok(added)
}

/// What a panic said.
pub(super) fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it says nothing".to_owned())
}
