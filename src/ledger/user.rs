//! Those who can own items.

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

/// Somebody who can own items.
#[derive(Clone, Debug, Serialize, FromRow, ToSchema)]
pub struct User {
    /// Identifies the user.
    pub id: Uuid,
    /// When the user was inserted.
    pub created_at: DateTime<Utc>,
}

/// A user to be created.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// An id of the caller's own makes a retry safe.
    pub id: Option<Uuid>,
    /// When the user was inserted; now, unless said otherwise.
    #[serde(default, deserialize_with = "microseconds")]
    pub created_at: Option<DateTime<Utc>>,
}

impl Record for User {
    type New = NewUser;
    const WHAT: &'static str = "user";
    const TABLE: &'static str = "users";
    const PARENTS: &'static [Parent] = &[];
    const INSERT: &'static str = "insert into users (id, created_at)
        select id, coalesce(created_at, least(now(), clock_timestamp()))
        from unnest($1::uuid[], $2::timestamptz[]) as new (id, created_at)
        on conflict (id) do nothing returning id, created_at";
    const COLUMNS: usize = 2;
    const GET: &'static str = "select id, created_at from users where id = any($1)";
    const LIST: &'static str = "select id, created_at from users
        where $1::timestamptz is null or (created_at, id) < ($1, $2)
        order by created_at desc, id desc limit $3";

    const COPY: &'static str = "copy users (id, created_at) from stdin with (format binary)";
    const STAGE: &'static str = "create temporary table staged_users
        (line bigint, id uuid, created_at timestamptz) on commit drop";
    const COPY_STAGED: &'static str = "copy staged_users from stdin with (format binary)";
    const MERGE: &'static str = "insert into users (id, created_at)
        select distinct on (id) id, coalesce(created_at, least(now(), clock_timestamp())) from staged_users
        order by id, line on conflict (id) do nothing";
    const CONFLICTS: &'static str = "select s.line from staged_users s join users r on r.id = s.id
        where r.created_at <> s.created_at";

    fn id(&self) -> Uuid {
        self.id
    }

    fn moment(&self) -> DateTime<Utc> {
        self.created_at
    }

    fn queue(queues: &Queues) -> &Queue<Self> {
        &queues.users
    }
}

impl NewRecord<User> for NewUser {
    fn validate(&mut self, now: DateTime<Utc>) -> Result<Uuid, LedgerError> {
        check_moment("created_at", self.created_at, now)?;
        Ok(id_or_new(&mut self.id))
    }

    fn parents(&self) -> impl Iterator<Item = Uuid> {
        std::iter::empty()
    }

    fn bind<'q>(
        rows: &[&'q Self],
        query: QueryAs<'q, Postgres, User, PgArguments>,
    ) -> QueryAs<'q, Postgres, User, PgArguments> {
        query
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.created_at).collect::<Vec<_>>())
    }

    fn copy(&self, row: &mut CopyRow<'_>) {
        row.uuid(self.id).timestamp(self.created_at);
    }

    fn is(&self, stored: &User) -> bool {
        self.created_at.is_none_or(|moment| moment == stored.created_at)
    }
}

/// The items that the user owned at a moment, or owns now: newest items first.
pub async fn holdings(
    pool: &PgPool,
    user: Uuid,
    at: Option<DateTime<Utc>>,
    request: PageRequest,
) -> Result<Page<Item>, LedgerError> {
    get::<User>(pool, user).await?;
    // Candidates are the items that the user ever received; of each, the latest transfer up to the moment decides.
    let rows = sqlx::query_as::<_, Item>(
        "select i.id, i.base_item_id, i.created_at
        from items i
        where i.id in (select item_id from transfers where owner_id = $1)
            and $1 = (
                select owner_id from transfers t
                where t.item_id = i.id and t.timestamp <= coalesce($2, 'infinity')
                order by t.timestamp desc, t.id desc limit 1
            )
            and ($3::timestamptz is null or (i.created_at, i.id) < ($3, $4))
        order by i.created_at desc, i.id desc limit $5",
    )
    .bind(user)
    .bind(at)
    .bind(request.after.map(|token| token.moment))
    .bind(request.after.map(|token| token.id))
    .bind(request.size + 1)
    .fetch_all(pool)
    .await?;
    Ok(Page::new(rows, request.size, |item| PageToken { moment: item.created_at, id: item.id }))
}
