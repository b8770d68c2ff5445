//! What is recorded of exports, and who may see it.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, Row};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Cap, Compression, Dataset, Event, Exports, Format, IllegalTransition, Order, State};
use crate::jobs::{self, Kind};
use crate::ledger::{Page, PageRequest, PageToken};
use crate::statistics::{self, Resolution};

/// Has those take turns who add exports: "newcycle" and "expo" in ASCII. A cap counts what others are about to add.
const CREATE_LOCK: (i32, i32) = (0x6e65_7763, 0x6578_706f);

/// An export: what was asked for, how far it is, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Export {
    /// Identifies it.
    pub id: Uuid,
    /// What is exported.
    pub dataset: Dataset,
    /// How the file is written.
    pub format: Format,
    /// How it is compressed.
    pub compression: Compression,
    /// From this moment on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub from: Option<DateTime<Utc>>,
    /// Before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub to: Option<DateTime<Utc>>,
    /// Only of this base item.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub base_item_id: Option<Uuid>,
    /// How wide the buckets of statistics are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub resolution: Option<Resolution>,
    /// By whose clocks days begin in statistics.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub timezone: Option<String>,
    /// How far it is.
    pub state: State,
    /// Counts its changes.
    pub version: i64,
    /// What is done of it.
    pub progress: Progress,
    /// Why it failed, or why it has to be tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was first worked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub started_at: Option<DateTime<Utc>>,
    /// When it was complete, cancelled or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub finished_at: Option<DateTime<Utc>>,
    /// The moment of which it shows the ledger: everything in it was read in one snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub as_of: Option<DateTime<Utc>>,
    /// When the file goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_at: Option<DateTime<Utc>>,
    /// The file, once it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub result: Option<ExportResult>,
    /// Where the file lies in the store.
    #[serde(skip)]
    pub(crate) object: Option<String>,
}

/// How much of an export is done.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Progress {
    /// How many rows.
    pub rows: i64,
    /// How many bytes of the file.
    pub bytes: i64,
    /// How many rows Postgres expects there to be, if it can say: an estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub estimated_rows: Option<i64>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ExportResult {
    /// What it is called when it is downloaded.
    #[schema(example = "transfers-20261122T043216Z.csv.gz")]
    pub name: String,
    /// How many rows it has.
    pub rows: i64,
    /// How many bytes it has.
    pub size: i64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// Who looks at exports, or changes them.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// The key or subject, if they said so.
    pub owner: Option<String>,
    /// Whether others' exports are theirs, too.
    pub sees_all: bool,
}

/// Why there is no export, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such export, or it is somebody else's.
    #[error("there is no export {0}")]
    NotFound(Uuid),
    /// That cannot happen in the state that it is in.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// There are as many as may be.
    #[error("there are as many exports as may be")]
    Full(Cap),
    /// The database failed.
    #[error("the exports could not be reached")]
    Database(#[from] sqlx::Error),
}

impl Exports {
    /// Records an export and has it made.
    pub async fn create(&self, owner: Option<&str>, order: &Order) -> Result<Export, ExportError> {
        let settings = &self.0.settings;
        let mut transaction = self.0.pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock($1, $2)")
            .bind(CREATE_LOCK.0)
            .bind(CREATE_LOCK.1)
            .execute(&mut *transaction)
            .await?;
        let (all, own): (i64, i64) = sqlx::query_as(
            "select count(*), count(*) filter (where owner = $1) from jobs.exports
            where state in ('created', 'pending', 'running', 'cancelling')",
        )
        .bind(owner)
        .fetch_one(&mut *transaction)
        .await?;
        // Nobody has a share of their own where nobody has to say who they are.
        if own >= i64::from(settings.max_exports_per_key) {
            return Err(ExportError::Full(Cap::PerCaller(settings.max_exports_per_key)));
        }
        if all >= i64::from(settings.max_exports) {
            return Err(ExportError::Full(Cap::All(settings.max_exports)));
        }
        let export: Export = sqlx::query_as(
            "insert into jobs.exports
                (owner, dataset, format, compression, from_moment, to_moment, base_item_id, resolution, timezone)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning *",
        )
        .bind(owner)
        .bind(order.dataset.name())
        .bind(order.format.name())
        .bind(order.compression.name())
        .bind(order.from)
        .bind(order.to)
        .bind(order.base_item_id)
        .bind(order.resolution.map(Resolution::name))
        .bind(order.timezone.map(Tz::name))
        .fetch_one(&mut *transaction)
        .await?;
        jobs::enqueue(&mut transaction, export.id, Kind::Export).await?;
        transaction.commit().await?;
        Ok(export)
    }

    /// An export, if it may be seen.
    pub async fn get(&self, id: Uuid, viewer: &Viewer) -> Result<Export, ExportError> {
        let mut connection = self.0.pool.acquire().await?;
        get(&mut connection, id, viewer).await
    }

    /// Exports, newest first.
    pub async fn list(&self, viewer: &Viewer, request: PageRequest) -> Result<Page<Export>, ExportError> {
        let rows = sqlx::query_as(
            "select * from jobs.exports
            where ($1 or owner is not distinct from $2) and ($3::timestamptz is null or (created_at, id) < ($3, $4))
            order by created_at desc, id desc limit $5",
        )
        .bind(viewer.sees_all)
        .bind(&viewer.owner)
        .bind(request.after.map(|token| token.moment))
        .bind(request.after.map(|token| token.id))
        .bind(request.size + 1)
        .fetch_all(&self.0.pool)
        .await?;
        Ok(Page::new(rows, request.size, |export: &Export| PageToken { moment: export.created_at, id: export.id }))
    }

    /// Has an export stop. One at which nobody works is cancelled at once; a worker stops within a second.
    pub async fn cancel(&self, id: Uuid, viewer: &Viewer) -> Result<Export, ExportError> {
        let mut transaction = self.0.pool.begin().await?;
        jobs::lock(&mut transaction, id).await?;
        let export = self.change(&mut transaction, id, viewer, Event::Cancel).await?;
        if export.state == State::Cancelled {
            jobs::withdraw(&mut transaction, id).await?;
        }
        transaction.commit().await?;
        Ok(export)
    }

    /// Has the file of an export that is over go.
    pub async fn remove(&self, id: Uuid, viewer: &Viewer) -> Result<(), ExportError> {
        let mut transaction = self.0.pool.begin().await?;
        self.change(&mut transaction, id, viewer, Event::Expire).await?;
        transaction.commit().await?;
        // Should this fail, the janitor does it.
        super::janitor::clean(self, id).await;
        Ok(())
    }

    async fn change(
        &self,
        connection: &mut PgConnection,
        id: Uuid,
        viewer: &Viewer,
        event: Event,
    ) -> Result<Export, ExportError> {
        // Whose it is never changes: it can be looked at before.
        get(connection, id, viewer).await?;
        match apply(connection, id, event).await? {
            Some(export) => Ok(export),
            None => {
                let state = get(connection, id, viewer).await?.state;
                Err(IllegalTransition { state, event }.into())
            }
        }
    }
}

async fn get(connection: &mut PgConnection, id: Uuid, viewer: &Viewer) -> Result<Export, ExportError> {
    sqlx::query_as("select * from jobs.exports where id = $1 and ($2 or owner is not distinct from $3)")
        .bind(id)
        .bind(viewer.sees_all)
        .bind(&viewer.owner)
        .fetch_optional(connection)
        .await?
        .ok_or(ExportError::NotFound(id))
}

/// Has something happen to an export, if it can in the state that it is in: nothing otherwise. One conditional update, so
/// that of two events that exclude each other one wins, whoever sends them.
pub(super) async fn apply(
    connection: &mut PgConnection,
    id: Uuid,
    event: Event,
) -> Result<Option<Export>, sqlx::Error> {
    let (states, next): (Vec<_>, Vec<_>) = event.transitions().map(|(state, next)| (state.name(), next.name())).unzip();
    sqlx::query_as(
        "update jobs.exports e set
            state = t.next,
            finished_at = case when t.next = any($4) then coalesce(e.finished_at, clock_timestamp()) end
        from unnest($2::text[], $3::text[]) as t (state, next)
        where e.id = $1 and e.state = t.state
        returning e.*",
    )
    .bind(id)
    .bind(states)
    .bind(next)
    .bind(terminal_states())
    .fetch_optional(connection)
    .await
}

/// The names of the states in which nobody works any more.
pub(super) fn terminal_states() -> Vec<&'static str> {
    State::ALL.into_iter().filter(|state| state.is_terminal()).map(State::name).collect()
}

impl Export {
    /// What was asked for.
    pub fn order(&self) -> Order {
        Order {
            dataset: self.dataset,
            format: self.format,
            compression: self.compression,
            from: self.from,
            to: self.to,
            base_item_id: self.base_item_id,
            resolution: self.resolution,
            timezone: self.timezone.as_deref().and_then(|zone| statistics::parse_time_zone(zone).ok()),
        }
    }
}

impl FromRow<'_, PgRow> for Export {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let dataset = jobs::named(row, "dataset", Dataset::ALL, Dataset::name)?;
        let format = jobs::named(row, "format", Format::ALL, Format::name)?;
        let compression = jobs::named(row, "compression", Compression::ALL, Compression::name)?;
        let resolution: Option<&str> = row.try_get("resolution")?;
        let resolution =
            resolution.map(str::parse).transpose().map_err(|error| jobs::undecodable("resolution", error))?;
        let state = jobs::named(row, "state", State::ALL, State::name)?;
        let rows = row.try_get("rows_done")?;
        let as_of: Option<DateTime<Utc>> = row.try_get("as_of")?;
        let (size, sha256): (Option<i64>, Option<Vec<u8>>) = (row.try_get("size")?, row.try_get("sha256")?);
        let result = size.zip(sha256).zip(as_of).map(|((size, sha256), as_of)| ExportResult {
            name: format!("{}-{}.{}", dataset.name(), as_of.format("%Y%m%dT%H%M%SZ"), format.extension(compression)),
            rows,
            size,
            sha256: hex::encode(sha256),
        });
        Ok(Self {
            id: row.try_get("id")?,
            dataset,
            format,
            compression,
            from: row.try_get("from_moment")?,
            to: row.try_get("to_moment")?,
            base_item_id: row.try_get("base_item_id")?,
            resolution,
            timezone: row.try_get("timezone")?,
            state,
            version: row.try_get("version")?,
            progress: Progress {
                rows,
                bytes: row.try_get("bytes_done")?,
                estimated_rows: row.try_get("estimated_rows")?,
            },
            reason: row.try_get("reason")?,
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            as_of,
            expires_at: row.try_get("expires_at")?,
            result,
            object: row.try_get("object")?,
        })
    }
}
