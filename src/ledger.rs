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
pub mod writer;

use std::ops::RangeInclusive;
use std::sync::Arc;

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
pub use writer::Writer;

/// Clocks differ a little; a timestamp further ahead than this would outrank every later transfer. The database has
/// the same limit.
pub const FUTURE_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// The years of the moments that can be spoken of: the ledger begins with the first, and RFC 3339 ends with the last.
pub const YEARS: RangeInclusive<i32> = 1..=9999;

/// What the ledger says no to.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// More rows are waiting to be written than there is room for.
    #[error("more rows are waiting to be written than can wait; nothing was written")]
    Busy,
    /// The writer has ended.
    #[error("the server stops")]
    Stopped,
    /// The database failed. One failure can concern many rows.
    #[error("the ledger could not be reached")]
    Database(#[source] Arc<sqlx::Error>),
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
            return Self::Database(Arc::new(error));
        };
        match constraint {
            "items_base_item_id_fkey" => item::BASE_ITEM.missing(),
            "transfers_item_id_fkey" => transfer::ITEM.missing(),
            "transfers_owner_id_fkey" => transfer::OWNER.missing(),
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
            _ => Self::Database(Arc::new(error)),
        }
    }
}

const IN_FUTURE: &str = "lies more than five minutes in the future";
const TOO_EARLY: &str = "lies before the year 1";

/// A row that a row refers to.
#[derive(Clone, Copy, Debug)]
pub struct Parent {
    /// The column with its id.
    pub column: &'static str,
    /// Its table.
    pub table: &'static str,
    /// What to say when there is none.
    pub reason: &'static str,
}

impl Parent {
    fn missing(&self) -> LedgerError {
        LedgerError::invalid(self.column, self.reason)
    }
}

/// A kind of row of the ledger.
pub trait Record: Clone + Serialize + for<'r> FromRow<'r, PgRow> + Send + Sync + Unpin + 'static {
    /// What is sent to create one.
    type New: NewRecord<Self>;
    /// What people call it.
    const WHAT: &'static str;
    /// Its table, which is also the last part of its URL but for the hyphen.
    const TABLE: &'static str;
    /// What it refers to.
    const PARENTS: &'static [Parent];
    /// Inserts those whose ids are not taken, and returns them; binds as [`NewRecord::bind`] does, the ids first. What does
    /// not say when it happened gets the transaction's moment, unless the clock was set back since: the future is refused.
    const INSERT: &'static str;
    /// How many arrays that binds.
    const COLUMNS: usize;
    /// Gets those with the ids in the array $1.
    const GET: &'static str;
    /// Lists those before ($1, $2), newest first, at most $3.
    const LIST: &'static str;
    /// Takes rows as [`NewRecord::copy`] writes them.
    const COPY: &'static str;
    /// Makes room for rows that are to be looked at first: a line number, then the columns.
    const STAGE: &'static str;
    /// Fills it.
    const COPY_STAGED: &'static str;
    /// Moves the good ones into the ledger, where the first of several with the same id counts.
    const MERGE: &'static str;
    /// The lines whose ids belong to other rows.
    const CONFLICTS: &'static str;
    /// The id.
    fn id(&self) -> Uuid;
    /// When it happened, which is what lists are sorted by.
    fn moment(&self) -> DateTime<Utc>;
    /// Where single ones wait to be written.
    fn queue(queues: &writer::Queues) -> &writer::Queue<Self>;
}

/// A record to be created.
pub trait NewRecord<R>: std::fmt::Debug + DeserializeOwned + Send + Sync + Unpin + 'static {
    /// Gives it an id of the ledger's own unless it has one, and checks what needs no database.
    fn validate(&mut self, now: DateTime<Utc>) -> Result<Uuid, LedgerError>;
    /// The ids of what it refers to, in the order of [`Record::PARENTS`].
    fn parents(&self) -> impl Iterator<Item = Uuid>;
    /// Binds the columns of some rows, an array each, in the order of [`Record::INSERT`].
    fn bind<'q>(
        rows: &[&'q Self],
        query: QueryAs<'q, Postgres, R, PgArguments>,
    ) -> QueryAs<'q, Postgres, R, PgArguments>;
    /// About how many bytes it takes.
    fn size(&self) -> usize {
        size_of::<Self>()
    }
    /// Writes its columns for [`Record::COPY`].
    fn copy(&self, row: &mut bulk::CopyRow<'_>);
    /// Whether the stored row is this one. What was not said is not compared.
    fn is(&self, stored: &R) -> bool;
}

/// Whether a row was created or had been there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<R> {
    /// It is new.
    Created(R),
    /// The same row was there: a retry.
    Unchanged(R),
}

/// Gets a record.
pub async fn get<R: Record>(pool: &PgPool, id: Uuid) -> Result<R, LedgerError> {
    let found = sqlx::query_as(R::GET).bind([id]).fetch_optional(pool).await?;
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
