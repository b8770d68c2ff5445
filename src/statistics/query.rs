//! What Postgres knows of the statistics: the counts of a series, and everything that changed since a position.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgConnection, PgPool, Row};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Delta, Extent, Metric, Position, Resolution, SeriesKey, Snapshot, UnixMillis, date_time};

/// More changes than this are not replayed one by one: it is cheaper to read the live series again.
const REPLAYED_DELTAS: i64 = 10_000;
/// Clocks differ: a window reaches this far into the future. The database refuses events later than five minutes.
const CLOCK_TOLERANCE_MILLIS: i64 = 6 * 60 * 1_000;
/// How many buckets are looked at in one step of a search for the newest non-empty ones.
const LARGEST_SPAN: u32 = 10_000;

/// A series as one snapshot of the database shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The history that the snapshot belongs to.
    pub epoch: Uuid,
    /// Which transactions are counted.
    pub snapshot: Snapshot,
    /// The non-empty buckets and their counts, newest first.
    pub counts: Vec<(UnixMillis, i64)>,
}

/// What changed after a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The history that the snapshot belongs to.
    pub epoch: Uuid,
    /// Everything up to here is among the deltas.
    pub snapshot: Snapshot,
    /// The database's clock.
    pub now: UnixMillis,
    /// The deltas that the position lacks, or nothing when they are too many or no longer there.
    pub deltas: Option<Vec<Delta>>,
}

/// Reads a series. `now` says where a window ends.
pub async fn read(pool: &PgPool, key: &SeriesKey, now: UnixMillis) -> Result<Reading, sqlx::Error> {
    // All statements of the transaction share one snapshot, which it also reports.
    let mut transaction = pool.begin_with("begin isolation level repeatable read read only").await?;
    let row = sqlx::query("select statistics.history() as epoch, pg_current_snapshot()::text as snapshot")
        .fetch_one(&mut *transaction)
        .await?;
    let counts = counts(&mut transaction, key, now).await?;
    transaction.commit().await?;
    Ok(Reading { epoch: row.try_get("epoch")?, snapshot: decode(&row, "snapshot")?, counts })
}

/// Where the database stands.
pub async fn present(pool: &PgPool) -> Result<Changes, sqlx::Error> {
    let row = sqlx::query(
        "select statistics.history() as epoch, pg_current_snapshot()::text as snapshot, clock_timestamp() as now",
    )
    .fetch_one(pool)
    .await?;
    decode_changes(&row, None)
}

/// Everything that was counted after the position.
pub async fn changes_since(pool: &PgPool, position: &Position) -> Result<Changes, sqlx::Error> {
    let mut transaction = pool.begin_with("begin isolation level repeatable read read only").await?;
    let row = sqlx::query(
        "select statistics.history() as epoch, pg_current_snapshot()::text as snapshot, clock_timestamp() as now,
            -- A snapshot from the future: of another cluster, or of a primary that lost its last transactions.
            statistics.history() = $1 and pruned_below <= pg_snapshot_xmin($2::pg_snapshot)
                and pg_snapshot_xmax($2::pg_snapshot) <= pg_snapshot_xmax(pg_current_snapshot()) as known
        from statistics.state",
    )
    .bind(position.epoch)
    .bind(position.snapshot.to_string())
    .fetch_one(&mut *transaction)
    .await?;
    let deltas = if row.try_get("known")? {
        let (first_ids, last_ids): (Vec<i64>, Vec<i64>) = position.heard.ranges().unzip();
        let rows = sqlx::query(
            // The snapshot as a subquery's result, or it would be parsed for each row; and an upper end, which has the
            // planner use the index (see the view "unfolded").
            "with position as materialized (select $1::pg_snapshot as snapshot)
            select id, xid::text::bigint as xid, metric::text as metric, base_item_id, bucket, count
            from statistics.deltas d
            where xid >= (select pg_snapshot_xmin(snapshot) from position) and xid <= '18446744073709551615'
                and not pg_visible_in_snapshot(xid, (select snapshot from position))
                and not exists (
                    select from unnest($2::bigint[], $3::bigint[]) as heard (first_id, last_id)
                    where d.id between first_id and last_id
                )
            limit $4",
        )
        .bind(position.snapshot.to_string())
        .bind(first_ids)
        .bind(last_ids)
        .bind(REPLAYED_DELTAS + 1)
        .fetch_all(&mut *transaction)
        .await?;
        let few = i64::try_from(rows.len()).is_ok_and(|amount| amount <= REPLAYED_DELTAS);
        few.then(|| rows.iter().map(decode_delta).collect::<Result<_, _>>()).transpose()?
    } else {
        None
    };
    transaction.commit().await?;
    decode_changes(&row, deltas)
}

/// The non-empty buckets of a series, newest first.
pub async fn counts(
    connection: &mut PgConnection,
    key: &SeriesKey,
    now: UnixMillis,
) -> Result<Vec<(UnixMillis, i64)>, sqlx::Error> {
    let fixed = key.calendar.resolution.fixed_width().is_some();
    match key.extent {
        Extent::Window(_) if fixed => latest(connection, key, key.starts_at(now), None, i64::MAX).await,
        Extent::Window(_) => {
            let start = key.starts_at(now).unwrap_or(now);
            let edges = key.calendar.edges(start, now + CLOCK_TOLERANCE_MILLIS);
            // Later is what was counted before the database's clock was set back: its time is yet to come.
            let mut counts = newest_sums(connection, key, edges.last().copied(), None, u32::MAX).await?;
            counts.extend(sums(connection, key, &edges).await?);
            Ok(counts)
        }
        Extent::Latest { from, to, limit } if fixed => latest(connection, key, from, to, i64::from(limit)).await,
        Extent::Latest { from, to, limit } => newest_sums(connection, key, from, to, limit).await,
    }
}

/// Buckets that follow UTC: minutes are read as they are stored, seconds as well for as long as they are kept; what is
/// finer or older is counted from the ledger.
async fn latest(
    connection: &mut PgConnection,
    key: &SeriesKey,
    from: Option<UnixMillis>,
    to: Option<UnixMillis>,
    limit: i64,
) -> Result<Vec<(UnixMillis, i64)>, sqlx::Error> {
    let query = match key.calendar.resolution {
        Resolution::Millisecond => {
            "select bucket, count from statistics.latest_milliseconds(
                $1::statistics.metric, $2, coalesce($3, '-infinity'), coalesce($4, 'infinity'), $5)"
        }
        Resolution::Second => {
            "select bucket, count from statistics.latest_seconds(
                $1::statistics.metric, $2, coalesce($3, '-infinity'), coalesce($4, 'infinity'), $5)"
        }
        _ => {
            "select bucket, count from statistics.latest(
                $1::statistics.metric, 'minute', $2, coalesce($3, '-infinity'), coalesce($4, 'infinity'), $5)"
        }
    };
    let rows = sqlx::query(query)
        .bind(key.metric.name())
        .bind(key.base_item)
        .bind(from.map(date_time))
        .bind(to.map(date_time))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    decode_counts(&rows)
}

/// Buckets that follow the clocks of a zone are summed between their edges, which this side knows.
async fn sums(
    connection: &mut PgConnection,
    key: &SeriesKey,
    edges: &[UnixMillis],
) -> Result<Vec<(UnixMillis, i64)>, sqlx::Error> {
    let rows = sqlx::query("select bucket, count from statistics.sums($1::statistics.metric, $2, $3)")
        .bind(key.metric.name())
        .bind(key.base_item)
        .bind(edges.iter().copied().map(date_time).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    decode_counts(&rows)
}

/// The newest non-empty buckets that follow a zone's clocks: from the newest event backwards, in spans that grow, over
/// gaps in one step.
async fn newest_sums(
    connection: &mut PgConnection,
    key: &SeriesKey,
    from: Option<UnixMillis>,
    to: Option<UnixMillis>,
    limit: u32,
) -> Result<Vec<(UnixMillis, i64)>, sqlx::Error> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut counts = Vec::new();
    let mut end = to;
    let mut span = u32::try_from(limit).unwrap_or(LARGEST_SPAN).clamp(1, LARGEST_SPAN);
    while counts.len() < limit {
        let newest: Option<DateTime<Utc>> = sqlx::query_scalar(
            "select bucket from statistics.latest_seconds(
                $1::statistics.metric, $2, coalesce($3, '-infinity'), coalesce($4, 'infinity'), 1)",
        )
        .bind(key.metric.name())
        .bind(key.base_item)
        .bind(from.map(date_time))
        .bind(end.map(date_time))
        .fetch_optional(&mut *connection)
        .await?;
        let Some(newest) = newest.map(|moment| moment.timestamp_millis()) else { break };
        let mut start = key.calendar.back(key.calendar.start_of(newest), span - 1);
        if let Some(from) = from {
            start = start.max(from);
        }
        counts.extend(sums(connection, key, &key.calendar.edges(start, newest)).await?);
        end = Some(start);
        span = span.saturating_mul(2).min(LARGEST_SPAN);
    }
    counts.truncate(limit);
    Ok(counts)
}

/// How much of a count is whose.
#[derive(Debug)]
pub struct Breakdown {
    /// The base items with the most events, most first.
    pub top: Vec<Share>,
    /// How many events there are of all base items.
    pub total: i64,
    /// How many base items have any.
    pub base_items: i64,
}

/// What a base item has of a count.
#[derive(Debug, Serialize, FromRow, ToSchema)]
pub struct Share {
    /// Which base item.
    pub base_item_id: Uuid,
    /// What it is.
    pub description: String,
    /// How many events.
    pub count: i64,
}

/// The events of a metric within a range, by base item.
pub async fn breakdown(
    pool: &PgPool,
    metric: Metric,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    limit: u32,
) -> Result<Breakdown, sqlx::Error> {
    let rows = sqlx::query(
        "select b.id as base_item_id, b.description, c.count,
            sum(c.count) over ()::bigint as total, count(*) over () as base_items
        from statistics.breakdown($1::statistics.metric, coalesce($2, '-infinity'), coalesce($3, 'infinity')) c
        join base_items b on b.id = c.base_item_id
        order by c.count desc, b.id
        limit $4",
    )
    .bind(metric.name())
    .bind(from)
    .bind(to)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    let (total, base_items) = rows
        .first()
        .map_or(Ok((0, 0)), |row| Ok::<_, sqlx::Error>((row.try_get("total")?, row.try_get("base_items")?)))?;
    let top = rows.iter().map(Share::from_row).collect::<Result<_, _>>()?;
    Ok(Breakdown { top, total, base_items })
}

fn decode_counts(rows: &[PgRow]) -> Result<Vec<(UnixMillis, i64)>, sqlx::Error> {
    rows.iter().map(|row| Ok((row.try_get::<DateTime<Utc>, _>(0)?.timestamp_millis(), row.try_get(1)?))).collect()
}

fn decode_changes(row: &PgRow, deltas: Option<Vec<Delta>>) -> Result<Changes, sqlx::Error> {
    Ok(Changes {
        epoch: row.try_get("epoch")?,
        snapshot: decode(row, "snapshot")?,
        now: row.try_get::<DateTime<Utc>, _>("now")?.timestamp_millis(),
        deltas,
    })
}

fn decode_delta(row: &PgRow) -> Result<Delta, sqlx::Error> {
    Ok(Delta {
        id: row.try_get("id")?,
        xid: row.try_get::<i64, _>("xid")?.cast_unsigned(),
        metric: decode::<Metric>(row, "metric")?,
        base_item: row.try_get("base_item_id")?,
        bucket: row.try_get::<DateTime<Utc>, _>("bucket")?.timestamp_millis(),
        count: row.try_get("count")?,
    })
}

fn decode<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &PgRow,
    column: &str,
) -> Result<T, sqlx::Error> {
    row.try_get::<String, _>(column)?
        .parse()
        .map_err(|error| sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(error) })
}
