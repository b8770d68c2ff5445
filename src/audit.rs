//! Who wrote what through which key: `access.audit`.
//!
//! Rows of the ledger are noted by the transaction that inserts them (`ledger/writer.rs`, `ledger/bulk.rs`), commands about
//! exports and data streams by the guard before every route (`http/guard.rs`).

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often what is too old is looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(3600);
/// So many entries are deleted by a statement: none holds up others for long.
const FORGOTTEN_AT_ONCE: i64 = 10_000;
/// A year, and a month to look at it.
const RETENTION: &str = "400d";

/// How long it is remembered.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct AuditSettings {
    /// How long it is remembered who wrote what through which key (the table access.audit), as in 400d; 0 for ever
    #[arg(long, env = "NEWCYCLE_AUDIT_RETENTION", value_name = "DURATION", default_value = RETENTION, value_parser = crate::duration::parse)]
    pub audit_retention: Duration,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { audit_retention: crate::duration::parse(RETENTION).unwrap_or_default() }
    }
}

/// In whose name something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The key, the subject or the data stream.
    pub id: Arc<str>,
    /// What people call it.
    pub name: Arc<str>,
    /// How they said who they are.
    pub through: &'static str,
}

impl Author {
    /// A data stream.
    pub fn stream(id: Uuid, name: &str) -> Self {
        Self { id: id.to_string().into(), name: name.into(), through: "stream" }
    }
}

/// Notes that these rows were inserted, in the transaction that did so.
pub async fn note(
    connection: &mut PgConnection,
    author: &Author,
    table: &str,
    ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query("insert into access.audit (author, author_name, through, action, ids) values ($1, $2, $3, $4, $5)")
        .bind(&*author.id)
        .bind(&*author.name)
        .bind(author.through)
        .bind(action(table))
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}

/// What is done to a table of the ledger.
pub fn action(table: &str) -> String {
    format!("insert into {table}")
}

/// A command that is about to be done.
#[derive(Clone, Copy, Debug)]
pub struct Entry(i64);

/// Notes a command before it is done.
pub async fn begin(
    pool: &PgPool,
    author: &Author,
    action: &str,
    request_id: Option<&str>,
) -> Result<Entry, sqlx::Error> {
    sqlx::query_scalar(
        "insert into access.audit (author, author_name, through, action, request_id) values ($1, $2, $3, $4, $5)
        returning id",
    )
    .bind(&*author.id)
    .bind(&*author.name)
    .bind(author.through)
    .bind(action)
    .bind(request_id)
    .fetch_one(pool)
    .await
    .map(Entry)
}

/// Notes how it was answered.
pub async fn end(pool: &PgPool, Entry(id): Entry, status: u16) -> Result<(), sqlx::Error> {
    let status = i16::try_from(status).unwrap_or(i16::MAX);
    sqlx::query("update access.audit set status = $2 where id = $1").bind(id).bind(status).execute(pool).await?;
    Ok(())
}

/// Forgets what is too old, until the stop.
pub async fn run(pool: PgPool, AuditSettings { audit_retention }: AuditSettings, stop: CancellationToken) {
    if audit_retention.is_zero() {
        return stop.cancelled().await;
    }
    let mut ticks = interval(FORGET_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match stop.run_until_cancelled(forget(&pool, audit_retention)).await {
            Some(Ok(())) | None => {}
            Some(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "old entries of the audit cannot be deleted");
            }
        }
    }
}

async fn forget(pool: &PgPool, age: Duration) -> Result<(), sqlx::Error> {
    loop {
        let deleted = sqlx::query(
            "delete from access.audit where id in (
                select id from access.audit where at < now() - make_interval(secs => $1) order by id limit $2
            )",
        )
        .bind(age.as_secs_f64())
        .bind(FORGOTTEN_AT_ONCE)
        .execute(pool)
        .await?;
        if deleted.rows_affected() < FORGOTTEN_AT_ONCE.cast_unsigned() {
            return Ok(());
        }
    }
}
