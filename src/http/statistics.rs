//! `/statistics`: counts once, and live.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::App;
use super::document::{QueryProblems, ServerSentEvent};
use super::extract::{Path, Query, moment};
use super::guard::{Allowed, StatisticsRead};
use super::limits::Limits;
use super::problem::Problem;
use super::sse::StreamRequest;
use crate::hub::{Format, Hub, Topic};
use crate::ledger::{self, BaseItem};
use crate::statistics::query::Share;
use crate::statistics::{self, Calendar, Extent, Metric, Resolution, SeriesKey, UnixMillis};

const DEFAULT_LIMIT: u32 = 1000;
const DEFAULT_WINDOW: u32 = 60;
const DEFAULT_SHARES: u32 = 10;
const MOST_SHARES: u32 = 1_000;
/// A stream may ask for this much time between messages at most: longer would look like a dead one.
const LONGEST_INTERVAL_MILLIS: u64 = 60_000;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stream)).routes(routes!(breakdown)).routes(routes!(counts))
}

/// A bucket and how many events it has.
#[derive(Debug, Serialize, ToSchema)]
struct Count {
    /// The start of the bucket, in UTC.
    #[schema(format = DateTime, example = "2026-11-21T10:01:00Z")]
    time: String,
    /// How many events.
    count: i64,
}

/// Which buckets.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CountsQuery {
    /// From the bucket that contains this moment on.
    #[serde(default, deserialize_with = "moment")]
    pub(super) from: Option<DateTime<Utc>>,
    /// Up to this moment; a bucket that contains it is whole.
    #[serde(default, deserialize_with = "moment")]
    pub(super) to: Option<DateTime<Utc>>,
    /// IANA name of the time zone by whose clocks hours, days and longer buckets go.
    #[param(default = "UTC", example = "Europe/Berlin")]
    pub(super) timezone: Option<String>,
    /// Only events of this base item; not for `user-creation`.
    base_item_id: Option<Uuid>,
    /// At most so many buckets, the newest, 1 to 10000 unless the server is set up otherwise.
    #[param(minimum = 1, maximum = 10_000, default = 1000)]
    limit: Option<u32>,
    /// `zero` includes empty buckets.
    #[param(example = "zero")]
    fill: Option<Fill>,
}

/// What to do about empty buckets.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fill {
    /// Include them.
    Zero,
}

/// Count events, once or live
///
/// Non-empty buckets, newest first. With `Accept: text/event-stream` the same array comes at once and again after every
/// change, as an unnamed message: `new EventSource(url).onmessage`.
#[utoipa::path(
    get, path = "/statistics/{metric}/{resolution}", operation_id = "get_counts", tag = "statistics", security(("key" = ["statistics:read"])),
    params(
        ("metric" = Metric, Path, description = "What is counted"),
        ("resolution" = Resolution, Path, description = "How wide the buckets are"),
        CountsQuery,
    ),
    responses(
        (status = 200, description = "The counts", content((Vec<Count> = "application/json"), (ServerSentEvent = "text/event-stream"))),
        QueryProblems,
    )
)]
async fn counts(
    _: Allowed<StatisticsRead>,
    State(pool): State<PgPool>,
    State(hub): State<Arc<Hub>>,
    State(limits): State<Limits>,
    stream: StreamRequest,
    Path((metric, resolution)): Path<(String, String)>,
    Query(query): Query<CountsQuery>,
) -> Result<Response, Problem> {
    let metric = parse_metric(&metric, "metric")?;
    let calendar = parse_calendar(&resolution, query.timezone.as_deref())?;
    check_base_item(&pool, &[metric], query.base_item_id).await?;
    let limit =
        within("limit", query.limit.unwrap_or(DEFAULT_LIMIT.min(limits.most_buckets())), 1, limits.most_buckets())?;
    check_order(query.from, query.to)?;
    let from = query.from.map(|from| calendar.start_of(from.timestamp_millis()));
    let to = query.to.map(|to| end_covering(calendar, to));
    let extent = Extent::Latest { from, to, limit };
    let key = SeriesKey { metric, calendar, base_item: query.base_item_id, extent };
    if stream.is_wanted() {
        let topic = Topic::new(vec![key], Format::Array { fill: query.fill.is_some() });
        return stream.open(topic, None);
    }
    let mut connection = pool.acquire().await?;
    let now = hub.now();
    let mut counts = statistics::query::counts(&mut connection, &key, now).await?;
    if query.fill.is_some() {
        counts = key.fill_gaps(now, &counts);
    }
    let count = |(time, count)| Count { time: calendar.format(time), count };
    Ok(Json(counts.into_iter().map(count).collect::<Vec<_>>()).into_response())
}

/// Which events are broken down.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct BreakdownQuery {
    /// From this moment on; from the first event, unless said otherwise.
    #[serde(default, deserialize_with = "moment")]
    from: Option<DateTime<Utc>>,
    /// Before this moment.
    #[serde(default, deserialize_with = "moment")]
    to: Option<DateTime<Utc>>,
    /// So many base items are named, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 10)]
    limit: Option<u32>,
}

/// A count, by base item.
#[derive(Debug, Serialize, ToSchema)]
struct Breakdown {
    /// The base items with the most events, most first.
    data: Vec<Share>,
    /// All the others together.
    rest: Rest,
    /// How many events there are in all.
    total: i64,
}

/// What the base items that are not named have of a count.
#[derive(Debug, Serialize, ToSchema)]
struct Rest {
    /// How many of them have events.
    base_items: i64,
    /// How many events they have together.
    count: i64,
}

/// Break a count down by base item
///
/// The base items with the most events in a range, and the rest. The range is exact: it need not be of whole buckets.
#[utoipa::path(
    get, path = "/statistics/{metric}/breakdown", operation_id = "get_breakdown", tag = "statistics", security(("key" = ["statistics:read"])),
    params(("metric" = Metric, Path, description = "What is counted; not `user-creation`"), BreakdownQuery),
    responses((status = 200, description = "The shares", body = Breakdown), QueryProblems)
)]
async fn breakdown(
    _: Allowed<StatisticsRead>,
    State(pool): State<PgPool>,
    Path(metric): Path<String>,
    Query(query): Query<BreakdownQuery>,
) -> Result<Json<Breakdown>, Problem> {
    let metric = parse_metric(&metric, "metric")?;
    if !metric.knows_base_items() {
        return Err(Problem::field("metric", format!("{metric} cannot be counted by base item")));
    }
    let limit = within("limit", query.limit.unwrap_or(DEFAULT_SHARES), 1, MOST_SHARES)?;
    check_order(query.from, query.to)?;
    let found = statistics::query::breakdown(&pool, metric, query.from, query.to, limit).await?;
    let named: i64 = found.top.iter().map(|share| share.count).sum();
    let names = i64::try_from(found.top.len()).unwrap_or(i64::MAX);
    Ok(Json(Breakdown {
        data: found.top,
        rest: Rest { base_items: found.base_items - names, count: found.total - named },
        total: found.total,
    }))
}

/// Which series a stream shows.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    /// Comma-separated; all, unless said otherwise.
    #[param(value_type = Option<Vec<Metric>>, style = Form, explode = false, example = json!(["item-creation", "transfers"]))]
    metrics: Option<String>,
    /// How wide the buckets are.
    #[param(value_type = Option<Resolution>, default = "minute")]
    pub(super) resolution: Option<String>,
    /// IANA name of the time zone by whose clocks hours, days and longer buckets go.
    #[param(default = "UTC", example = "Europe/Berlin")]
    pub(super) timezone: Option<String>,
    /// Only events of this base item; not for `user-creation`.
    base_item_id: Option<Uuid>,
    /// How many buckets, up to that of the present moment, 1 to 10000 unless the server is set up otherwise.
    #[param(minimum = 1, maximum = 10_000, default = 60)]
    window: Option<u32>,
    /// Also the buckets of a range: from the one that contains this moment on. Needs `to`.
    #[serde(default, deserialize_with = "moment")]
    pub(super) from: Option<DateTime<Utc>>,
    /// Up to this moment; a bucket that contains it is whole. Needs `from`; 10000 buckets at most lie between them.
    #[serde(default, deserialize_with = "moment")]
    pub(super) to: Option<DateTime<Utc>>,
    /// Also the newest event of each metric, as the second (UTC) in which it happened.
    #[param(default = false)]
    latest: Option<bool>,
    /// The least milliseconds between two messages with changes, 1 to 60000. What happens within is merged. Unless asked
    /// for more, changes come at once, then every 2 to 50 milliseconds, depending on how many streams are open.
    #[param(minimum = 1, maximum = 60_000)]
    interval: Option<u64>,
}

/// Watch several metrics over one connection
///
/// Server-sent events. Their ids say from where another connection, to any server, resumes (`Last-Event-ID`):
///
/// - `snapshot` `{metric, resolution, timezone, as_of, buckets: [{time, count}, …]}`: all non-empty buckets, newest first
/// - `update` `{metric, buckets: [{time, count}, …]}`: the new counts (not differences) of the buckets that changed
/// - both also have `series: "range"` for the range that `from` and `to` ask for, and `series: "latest"` for the newest event
/// - `heartbeat` `{time, lag_ms}`: every five seconds; the database's clock, and how long a notification takes
/// - `status` `{status}`: `live`, or `stale` while the database cannot be heard
#[utoipa::path(
    get, path = "/statistics/stream", operation_id = "stream_counts", tag = "statistics", security(("key" = ["statistics:read"])),
    params(StreamQuery, ("Last-Event-ID" = Option<String>, Header, nullable = false, description = "Resume after this message")),
    responses(
        (status = 200, description = "Events, until either side ends it", body = ServerSentEvent, content_type = "text/event-stream"),
        QueryProblems,
    )
)]
async fn stream(
    _: Allowed<StatisticsRead>,
    State(pool): State<PgPool>,
    State(limits): State<Limits>,
    stream: StreamRequest,
    Query(query): Query<StreamQuery>,
) -> Result<Response, Problem> {
    let mut metrics = Vec::new();
    match &query.metrics {
        None => metrics.extend(Metric::ALL),
        Some(names) => {
            for name in names.split(',') {
                let metric = parse_metric(name.trim(), "metrics")?;
                if metrics.contains(&metric) {
                    return Err(Problem::field("metrics", format!("names {metric} twice")));
                }
                metrics.push(metric);
            }
        }
    }
    let calendar = parse_calendar(query.resolution.as_deref().unwrap_or("minute"), query.timezone.as_deref())?;
    check_base_item(&pool, &metrics, query.base_item_id).await?;
    let window =
        within("window", query.window.unwrap_or(DEFAULT_WINDOW.min(limits.most_buckets())), 1, limits.most_buckets())?;
    let interval = match query.interval {
        Some(millis) => Some(Duration::from_millis(within("interval", millis, 1, LONGEST_INTERVAL_MILLIS)?)),
        None => None,
    };
    let range = parse_range(calendar, query.from, query.to, limits.most_buckets())?;
    let newest = Extent::Latest { from: None, to: None, limit: 1 };
    let mut series = Vec::new();
    for metric in metrics {
        let mut add = |calendar, extent| {
            series.push(SeriesKey { metric, calendar, base_item: query.base_item_id, extent });
        };
        add(calendar, Extent::Window(window));
        if let Some(range) = &range {
            add(calendar, range.clone());
        }
        if query.latest == Some(true) {
            add(Calendar { resolution: Resolution::Second, zone: Tz::UTC }, newest.clone());
        }
    }
    stream.open(Topic::new(series, Format::Events), interval)
}

fn parse_metric(name: &str, field: &str) -> Result<Metric, Problem> {
    name.parse().map_err(|error: statistics::UnknownMetric| Problem::field(field, error.to_string()))
}

pub(super) fn parse_calendar(resolution: &str, zone: Option<&str>) -> Result<Calendar, Problem> {
    Ok(Calendar { resolution: parse_resolution(resolution)?, zone: parse_zone(zone.unwrap_or("UTC"))? })
}

pub(super) fn parse_resolution(name: &str) -> Result<Resolution, Problem> {
    name.parse()
        .map_err(|error: statistics::resolution::UnknownResolution| Problem::field("resolution", error.to_string()))
}

pub(super) fn parse_zone(name: &str) -> Result<Tz, Problem> {
    statistics::parse_time_zone(name).map_err(|error| Problem::field("timezone", error.to_string()))
}

pub(super) async fn check_base_item(pool: &PgPool, metrics: &[Metric], base_item: Option<Uuid>) -> Result<(), Problem> {
    let Some(id) = base_item else { return Ok(()) };
    if let Some(metric) = metrics.iter().find(|metric| !metric.knows_base_items()) {
        return Err(Problem::field("base_item_id", format!("{metric} cannot be counted by base item")));
    }
    match ledger::get::<BaseItem>(pool, id).await {
        Err(ledger::LedgerError::NotFound { .. }) => {
            Err(Problem::field("base_item_id", "there is no base item with this id"))
        }
        other => other.map(drop).map_err(Problem::from),
    }
}

fn check_order(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Result<(), Problem> {
    if from.zip(to).is_some_and(|(from, to)| from >= to) {
        return Err(Problem::field("to", "must be later than from"));
    }
    Ok(())
}

/// The buckets from one moment to another, which must not be too many.
pub(super) fn parse_range(
    calendar: Calendar,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    most_buckets: u32,
) -> Result<Option<Extent>, Problem> {
    check_order(from, to)?;
    let (from, to) = match (from, to) {
        (Some(from), Some(to)) => (calendar.start_of(from.timestamp_millis()), end_covering(calendar, to)),
        (Some(_), None) => return Err(Problem::field("to", "is needed where there is a from")),
        (None, Some(_)) => return Err(Problem::field("from", "is needed where there is a to")),
        (None, None) => return Ok(None),
    };
    if from < calendar.back(calendar.start_of(to - 1), most_buckets - 1) {
        return Err(Problem::field("from", format!("is more than {most_buckets} buckets before to")));
    }
    Ok(Some(Extent::Latest { from: Some(from), to: Some(to), limit: most_buckets }))
}

fn within<N: Copy + PartialOrd + std::fmt::Display>(field: &str, value: N, least: N, most: N) -> Result<N, Problem> {
    if value < least || value > most {
        return Err(Problem::field(field, format!("must be between {least} and {most}")));
    }
    Ok(value)
}

/// The end of the last bucket that has moments before this one.
pub(super) fn end_covering(calendar: Calendar, moment: DateTime<Utc>) -> UnixMillis {
    let millis = moment.timestamp_millis() + i64::from(!moment.timestamp_subsec_micros().is_multiple_of(1000));
    calendar.end_of(calendar.start_of(millis - 1))
}
