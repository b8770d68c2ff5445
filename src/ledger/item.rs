//! Single pieces that change hands.

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

/// A single piece, of one base item.
#[derive(Clone, Debug, Serialize, FromRow, ToSchema)]
pub struct Item {
    /// Identifies the item.
    pub id: Uuid,
    /// What kind of thing it is.
    pub base_item_id: Uuid,
    /// When it came into being.
    pub created_at: DateTime<Utc>,
}

/// An item to be created.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    /// An id of the caller's own makes a retry safe.
    pub id: Option<Uuid>,
    /// What kind of thing it is.
    pub base_item_id: Uuid,
    /// When it came into being; now, unless said otherwise.
    #[serde(default, deserialize_with = "microseconds")]
    pub created_at: Option<DateTime<Utc>>,
}

pub(super) const BASE_ITEM: Parent =
    Parent { column: "base_item_id", table: "base_items", reason: "there is no base item with this id" };

impl Record for Item {
    type New = NewItem;
    const WHAT: &'static str = "item";
    const TABLE: &'static str = "items";
    const PARENTS: &'static [Parent] = &[BASE_ITEM];
    const INSERT: &'static str = "insert into items (id, base_item_id, created_at)
        select id, base_item_id, coalesce(created_at, least(now(), clock_timestamp()))
        from unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) as new (id, base_item_id, created_at)
        on conflict (id) do nothing returning id, base_item_id, created_at";
    const COLUMNS: usize = 3;
    const GET: &'static str = "select id, base_item_id, created_at from items where id = any($1)";
    const LIST: &'static str = "select id, base_item_id, created_at from items
        where $1::timestamptz is null or (created_at, id) < ($1, $2)
        order by created_at desc, id desc limit $3";

    const COPY: &'static str = "copy items (id, base_item_id, created_at) from stdin with (format binary)";
    const STAGE: &'static str = "create temporary table staged_items
        (line bigint, id uuid, base_item_id uuid, created_at timestamptz) on commit drop";
    const COPY_STAGED: &'static str = "copy staged_items from stdin with (format binary)";
    const MERGE: &'static str = "insert into items (id, base_item_id, created_at)
        select distinct on (id) id, base_item_id, coalesce(created_at, least(now(), clock_timestamp())) from staged_items
        order by id, line on conflict (id) do nothing";
    const CONFLICTS: &'static str = "select s.line from staged_items s join items r on r.id = s.id
        where r.base_item_id <> s.base_item_id or r.created_at <> s.created_at";

    fn id(&self) -> Uuid {
        self.id
    }

    fn moment(&self) -> DateTime<Utc> {
        self.created_at
    }

    fn queue(queues: &Queues) -> &Queue<Self> {
        &queues.items
    }
}

impl NewRecord<Item> for NewItem {
    fn validate(&mut self, now: DateTime<Utc>) -> Result<Uuid, LedgerError> {
        check_moment("created_at", self.created_at, now)?;
        Ok(id_or_new(&mut self.id))
    }

    fn parents(&self) -> impl Iterator<Item = Uuid> {
        [self.base_item_id].into_iter()
    }

    fn bind<'q>(
        rows: &[&'q Self],
        query: QueryAs<'q, Postgres, Item, PgArguments>,
    ) -> QueryAs<'q, Postgres, Item, PgArguments> {
        query
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.base_item_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.created_at).collect::<Vec<_>>())
    }

    fn copy(&self, row: &mut CopyRow<'_>) {
        row.uuid(self.id).uuid(Some(self.base_item_id)).timestamp(self.created_at);
    }

    fn is(&self, stored: &Item) -> bool {
        self.base_item_id == stored.base_item_id && self.created_at.is_none_or(|moment| moment == stored.created_at)
    }
}
