//! The ledger: base items, users, items and transfers. Rows are inserted and read, never changed.
//!
//! Each kind of record lives in a module with its SQL. What they share (inserting one, getting one, listing) is here,
//! written once against [`Record`]; whole files and streams go through [`bulk`].

pub mod base_item;
pub mod bulk;
pub mod item;
pub mod page;
pub mod transfer;
pub mod user;

use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;
use sqlx::{FromRow, PgPool, Postgres};
use uuid::Uuid;

pub use base_item::{BaseItem, NewBaseItem};
pub use item::{Item, NewItem};
pub use page::{Page, PageRequest, PageToken};
pub use transfer::{NewTransfer, Owner, Transfer};
pub use user::{NewUser, User};

/// Clocks differ a little; a timestamp further ahead than this would outrank every later transfer. The database has
/// the same limit.
pub const FUTURE_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// The years of the moments that can be spoken of: the ledger begins with the first, and RFC 3339 ends with the last.
pub const YEARS: RangeInclusive<i32> = 1..=9999;

/// What the ledger says no to.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// There is no such row.
    #[error("there is no {what} {id}")]
    NotFound {
        /// The kind of record.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// Another row has this id.
    #[error("{what} {id} exists with other content")]
    Conflict {
        /// The kind of record.
        what: &'static str,
        /// Its id.
        id: Uuid,
    },
    /// A field has a value that cannot be.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// Why not.
        reason: String,
    },
    /// The database failed.
    #[error("the ledger could not be reached")]
    Database(#[source] sqlx::Error),
}

impl LedgerError {
    fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }
}

/// The database enforces, this translates: every named constraint and what it means to whoever sent the row.
impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        let Some(constraint) = error.as_database_error().and_then(|error| error.constraint()) else {
            return Self::Database(error);
        };
        match constraint {
            "items_base_item_id_fkey" => Self::invalid("base_item_id", "there is no base item with this id"),
            "transfers_owner_id_fkey" => Self::invalid("owner_id", "there is no user with this id"),
            "transfers_item_id_fkey" => Self::invalid("item_id", "there is no item with this id"),
            "base_items_id_not_nil" => Self::invalid("id", "the nil id is reserved"),
            "base_items_description_length" => Self::invalid("description", base_item::DESCRIPTION_LENGTH),
            "items_created_at_not_in_future" | "users_created_at_not_in_future" => {
                Self::invalid("created_at", IN_FUTURE)
            }
            "transfers_timestamp_not_in_future" => Self::invalid("timestamp", IN_FUTURE),
            "base_items_created_at_range" | "items_created_at_range" | "users_created_at_range" => {
                Self::invalid("created_at", TOO_EARLY)
            }
            "transfers_timestamp_range" => Self::invalid("timestamp", TOO_EARLY),
            _ => Self::Database(error),
        }
    }
}

const IN_FUTURE: &str = "lies more than five minutes in the future";
const TOO_EARLY: &str = "lies before the year 1";

/// A kind of row of the ledger.
pub trait Record: Serialize + for<'r> FromRow<'r, PgRow> + Send + Unpin + 'static {
    /// What is sent to create one.
    type New: NewRecord<Self>;
    /// What people call it.
    const WHAT: &'static str;
    /// Its table, which is also the last part of its URL but for the hyphen.
    const TABLE: &'static str;
    /// Inserts one, unless its id is taken; binds as [`NewRecord::bind`] does.
    const INSERT: &'static str;
    /// Gets the one with id $1.
    const GET: &'static str;
    /// Lists those before ($1, $2), newest first, at most $3.
    const LIST: &'static str;
    /// Makes room for a bulk load: a line number, then the columns as [`NewRecord::copy`] writes them.
    const STAGE: &'static str;
    /// Fills it.
    const COPY: &'static str;
    /// Takes out rows whose parents are missing, and returns line, field and reason.
    const REJECT_ORPHANS: &'static [&'static str];
    /// Moves the rest into the ledger, where the first of several with the same id counts.
    const MERGE: &'static str;
    /// The lines whose ids belong to other rows.
    const CONFLICTS: &'static str;
    /// Makes room for more of the same load.
    const CLEAR: &'static str;
    /// Ends the load.
    const UNSTAGE: &'static str;
    /// The id.
    fn id(&self) -> Uuid;
    /// When it happened, which is what lists are sorted by.
    fn moment(&self) -> DateTime<Utc>;
}

/// A record to be created.
pub trait NewRecord<R>: DeserializeOwned + Send + Sync + 'static {
    /// Gives it an id of the ledger's own unless it has one, and checks what needs no database.
    fn validate(&mut self, now: DateTime<Utc>) -> Result<Uuid, LedgerError>;
    /// Binds its columns in the order of [`Record::INSERT`].
    fn bind<'q>(&'q self, query: QueryAs<'q, Postgres, R, PgArguments>) -> QueryAs<'q, Postgres, R, PgArguments>;
    /// Writes its columns for [`Record::COPY`], after the line number.
    fn copy(&self, row: &mut bulk::CopyRow<'_>);
    /// Whether the stored row is this one. What was not said is not compared.
    fn is(&self, stored: &R) -> bool;
}

/// Whether a row was created or had been there before.
#[derive(Debug)]
pub enum Outcome<R> {
    /// It is new.
    Created(R),
    /// The same row was there: a retry.
    Unchanged(R),
}

/// Creates a record. With an id of the caller's own this can be repeated safely.
pub async fn create<R: Record>(pool: &PgPool, mut new: R::New) -> Result<Outcome<R>, LedgerError> {
    let id = new.validate(Utc::now())?;
    if let Some(created) = new.bind(sqlx::query_as(R::INSERT)).fetch_optional(pool).await? {
        return Ok(Outcome::Created(created));
    }
    let stored = get::<R>(pool, id).await?;
    if new.is(&stored) { Ok(Outcome::Unchanged(stored)) } else { Err(LedgerError::Conflict { what: R::WHAT, id }) }
}

/// Gets a record.
pub async fn get<R: Record>(pool: &PgPool, id: Uuid) -> Result<R, LedgerError> {
    let found = sqlx::query_as(R::GET).bind(id).fetch_optional(pool).await?;
    found.ok_or(LedgerError::NotFound { what: R::WHAT, id })
}

/// Lists records, newest first.
pub async fn list<R: Record>(pool: &PgPool, request: PageRequest) -> Result<Page<R>, LedgerError> {
    let rows = sqlx::query_as(R::LIST)
        .bind(request.after.map(|token| token.moment))
        .bind(request.after.map(|token| token.id))
        .bind(request.size + 1)
        .fetch_all(pool)
        .await?;
    Ok(Page::new(rows, request.size, |row: &R| PageToken { moment: row.moment(), id: row.id() }))
}

fn check_moment(field: &'static str, moment: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Result<(), LedgerError> {
    match moment {
        Some(moment) if moment > now + FUTURE_TOLERANCE => Err(LedgerError::invalid(field, IN_FUTURE)),
        Some(moment) if moment.year() < *YEARS.start() => Err(LedgerError::invalid(field, TOO_EARLY)),
        _ => Ok(()),
    }
}

/// Ids that the ledger gives are time-ordered (version 7) and, within a server, strictly ascending: of two transfers
/// in the same microsecond the one that was asked for later wins.
fn id_or_new(id: &mut Option<Uuid>) -> Uuid {
    *id.get_or_insert_with(Uuid::now_v7)
}

/// Reads a timestamp as the database keeps it: to the microsecond, and a leap second as the second after it.
fn microseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let moment = Option::<DateTime<Utc>>::deserialize(deserializer)?;
    Ok(moment.and_then(|moment| DateTime::from_timestamp_micros(moment.timestamp_micros())))
}
