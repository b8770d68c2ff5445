//! Kinds of things.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{FromRow, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::bulk::CopyRow;
use super::writer::{Queue, Queues};
use super::{LedgerError, NewRecord, Parent, Record, check_moment, id_or_new, microseconds};

pub(super) const DESCRIPTION_LENGTH: &str = "must have 1 to 10,000 characters";

/// A kind of thing, of which items are the single pieces.
#[derive(Clone, Debug, Serialize, FromRow, ToSchema)]
pub struct BaseItem {
    /// Identifies the base item.
    pub id: Uuid,
    /// What it is, in words.
    #[schema(min_length = 1, max_length = 10_000)]
    pub description: String,
    /// When it was inserted.
    pub created_at: DateTime<Utc>,
}

/// A base item to be created.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBaseItem {
    /// An id of the caller's own makes a retry safe.
    pub id: Option<Uuid>,
    /// What it is, in words.
    #[schema(min_length = 1, max_length = 10_000, pattern = r"^[^\x00]*$")]
    pub description: String,
    /// When it was inserted; now, unless said otherwise.
    #[serde(default, deserialize_with = "microseconds")]
    pub created_at: Option<DateTime<Utc>>,
}

impl Record for BaseItem {
    type New = NewBaseItem;
    const WHAT: &'static str = "base item";
    const TABLE: &'static str = "base_items";
    const PARENTS: &'static [Parent] = &[];
    const INSERT: &'static str = "insert into base_items (id, description, created_at)
        select id, description, coalesce(created_at, least(now(), clock_timestamp()))
        from unnest($1::uuid[], $2::text[], $3::timestamptz[]) as new (id, description, created_at)
        on conflict (id) do nothing returning id, description, created_at";
    const COLUMNS: usize = 3;
    const GET: &'static str = "select id, description, created_at from base_items where id = any($1)";
    const LIST: &'static str = "select id, description, created_at from base_items
        where $1::timestamptz is null or (created_at, id) < ($1, $2)
        order by created_at desc, id desc limit $3";

    const COPY: &'static str = "copy base_items (id, description, created_at) from stdin with (format binary)";
    const STAGE: &'static str = "create temporary table staged_base_items
        (line bigint, id uuid, description text, created_at timestamptz) on commit drop";
    const COPY_STAGED: &'static str = "copy staged_base_items from stdin with (format binary)";
    const MERGE: &'static str = "insert into base_items (id, description, created_at)
        select distinct on (id) id, description, coalesce(created_at, least(now(), clock_timestamp())) from staged_base_items
        order by id, line on conflict (id) do nothing";
    const CONFLICTS: &'static str = "select s.line from staged_base_items s join base_items r on r.id = s.id
        where r.description <> s.description or r.created_at <> s.created_at";

    fn id(&self) -> Uuid {
        self.id
    }

    fn moment(&self) -> DateTime<Utc> {
        self.created_at
    }

    fn queue(queues: &Queues) -> &Queue<Self> {
        &queues.base_items
    }
}

impl NewRecord<BaseItem> for NewBaseItem {
    fn validate(&mut self, now: DateTime<Utc>) -> Result<Uuid, LedgerError> {
        check_moment("created_at", self.created_at, now)?;
        if self.id.is_some_and(|id| id.is_nil()) {
            return Err(LedgerError::invalid("id", "the nil id is reserved"));
        }
        if !(1..=10_000).contains(&self.description.chars().count()) {
            return Err(LedgerError::invalid("description", DESCRIPTION_LENGTH));
        }
        if self.description.contains('\0') {
            return Err(LedgerError::invalid("description", "must not contain a NUL character"));
        }
        Ok(id_or_new(&mut self.id))
    }

    fn parents(&self) -> impl Iterator<Item = Uuid> {
        std::iter::empty()
    }

    fn bind<'q>(
        rows: &[&'q Self],
        query: QueryAs<'q, Postgres, BaseItem, PgArguments>,
    ) -> QueryAs<'q, Postgres, BaseItem, PgArguments> {
        query
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.description.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.created_at).collect::<Vec<_>>())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.description.len()
    }

    fn copy(&self, row: &mut CopyRow<'_>) {
        row.uuid(self.id).text(&self.description).timestamp(self.created_at);
    }

    fn is(&self, stored: &BaseItem) -> bool {
        self.description == stored.description && self.created_at.is_none_or(|moment| moment == stored.created_at)
    }
}
