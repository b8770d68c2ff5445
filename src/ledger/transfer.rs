//! Changes of ownership. The owner of an item is the `owner_id` of its latest transfer by `(timestamp, id)`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{FromRow, PgPool, Postgres};
use utoipa::ToSchema;
use uuid::Uuid;

use super::bulk::CopyRow;
use super::writer::{Queue, Queues};
use super::{
    Item, LedgerError, NewRecord, Page, PageRequest, PageToken, Parent, Record, check_moment, get, id_or_new,
    microseconds,
};

/// A change of ownership.
#[derive(Clone, Debug, Serialize, FromRow, ToSchema)]
pub struct Transfer {
    /// Identifies the transfer.
    pub id: Uuid,
    /// What changed hands.
    pub item_id: Uuid,
    /// Who owns it from then on.
    pub owner_id: Uuid,
    /// When.
    pub timestamp: DateTime<Utc>,
}

/// A transfer to be recorded.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTransfer {
    /// An id of the caller's own makes a retry safe.
    pub id: Option<Uuid>,
    /// What changes hands.
    pub item_id: Uuid,
    /// Who owns it from then on.
    pub owner_id: Uuid,
    /// When; now, unless said otherwise.
    #[serde(default, deserialize_with = "microseconds")]
    pub timestamp: Option<DateTime<Utc>>,
}

pub(super) const ITEM: Parent = Parent { column: "item_id", table: "items", reason: "there is no item with this id" };
pub(super) const OWNER: Parent = Parent { column: "owner_id", table: "users", reason: "there is no user with this id" };

impl Record for Transfer {
    type New = NewTransfer;
    const WHAT: &'static str = "transfer";
    const TABLE: &'static str = "transfers";
    const PARENTS: &'static [Parent] = &[ITEM, OWNER];
    const INSERT: &'static str = "insert into transfers (id, item_id, owner_id, timestamp)
        select id, item_id, owner_id, coalesce(timestamp, least(now(), clock_timestamp()))
        from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[]) as new (id, item_id, owner_id, timestamp)
        on conflict (id) do nothing returning id, item_id, owner_id, timestamp";
    const COLUMNS: usize = 4;
    const GET: &'static str = "select id, item_id, owner_id, timestamp from transfers where id = any($1)";
    const LIST: &'static str = "select id, item_id, owner_id, timestamp from transfers
        where $1::timestamptz is null or (timestamp, id) < ($1, $2)
        order by timestamp desc, id desc limit $3";

    const COPY: &'static str = "copy transfers (id, item_id, owner_id, timestamp) from stdin with (format binary)";
    const STAGE: &'static str = "create temporary table staged_transfers
        (line bigint, id uuid, item_id uuid, owner_id uuid, timestamp timestamptz) on commit drop";
    const COPY_STAGED: &'static str = "copy staged_transfers from stdin with (format binary)";
    const MERGE: &'static str = "insert into transfers (id, item_id, owner_id, timestamp)
        select distinct on (id) id, item_id, owner_id, coalesce(timestamp, least(now(), clock_timestamp())) from staged_transfers
        order by id, line on conflict (id) do nothing";
    const CONFLICTS: &'static str = "select s.line from staged_transfers s join transfers r on r.id = s.id
        where r.item_id <> s.item_id or r.owner_id <> s.owner_id or r.timestamp <> s.timestamp";

    fn id(&self) -> Uuid {
        self.id
    }

    fn moment(&self) -> DateTime<Utc> {
        self.timestamp
    }

    fn queue(queues: &Queues) -> &Queue<Self> {
        &queues.transfers
    }
}

impl NewRecord<Transfer> for NewTransfer {
    fn validate(&mut self, now: DateTime<Utc>) -> Result<Uuid, LedgerError> {
        check_moment("timestamp", self.timestamp, now)?;
        Ok(id_or_new(&mut self.id))
    }

    fn parents(&self) -> impl Iterator<Item = Uuid> {
        [self.item_id, self.owner_id].into_iter()
    }

    fn bind<'q>(
        rows: &[&'q Self],
        query: QueryAs<'q, Postgres, Transfer, PgArguments>,
    ) -> QueryAs<'q, Postgres, Transfer, PgArguments> {
        query
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.item_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.owner_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.timestamp).collect::<Vec<_>>())
    }

    fn copy(&self, row: &mut CopyRow<'_>) {
        row.uuid(self.id).uuid(Some(self.item_id)).uuid(Some(self.owner_id)).timestamp(self.timestamp);
    }

    fn is(&self, stored: &Transfer) -> bool {
        self.item_id == stored.item_id
            && self.owner_id == stored.owner_id
            && self.timestamp.is_none_or(|moment| moment == stored.timestamp)
    }
}

/// Who owns an item, or owned it at a moment.
#[derive(Clone, Debug, Serialize, FromRow, ToSchema)]
pub struct Owner {
    /// The owner.
    pub owner_id: Uuid,
    /// Since when.
    pub since: DateTime<Utc>,
    /// By which transfer.
    pub transfer_id: Uuid,
}

/// The owner of an item at a moment, or now; nobody before its first transfer.
pub async fn owner(pool: &PgPool, item: Uuid, at: Option<DateTime<Utc>>) -> Result<Option<Owner>, LedgerError> {
    let owner = sqlx::query_as(
        "select owner_id, timestamp as since, id as transfer_id from transfers
        where item_id = $1 and timestamp <= coalesce($2, 'infinity')
        order by timestamp desc, id desc limit 1",
    )
    .bind(item)
    .bind(at)
    .fetch_optional(pool)
    .await?;
    if owner.is_none() {
        get::<Item>(pool, item).await?;
    }
    Ok(owner)
}

/// The transfers of an item, newest first.
pub async fn history(pool: &PgPool, item: Uuid, request: PageRequest) -> Result<Page<Transfer>, LedgerError> {
    get::<Item>(pool, item).await?;
    let rows = sqlx::query_as(
        "select id, item_id, owner_id, timestamp from transfers
        where item_id = $1 and ($2::timestamptz is null or (timestamp, id) < ($2, $3))
        order by timestamp desc, id desc limit $4",
    )
    .bind(item)
    .bind(request.after.map(|token| token.moment))
    .bind(request.after.map(|token| token.id))
    .bind(request.size + 1)
    .fetch_all(pool)
    .await?;
    Ok(Page::new(rows, request.size, |transfer: &Transfer| PageToken { moment: transfer.timestamp, id: transfer.id }))
}
