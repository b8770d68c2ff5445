//! `/exports`: files of the ledger, made while their callers watch, or do something else.

use std::time::Duration;

use axum::extract::{Extension, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, RequestPartsExt};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::App;
use super::document::{
    DownloadProblems, FileBytes, LookupProblems, QueryProblems, ServerSentEvent, StartProblems, TransitionProblems,
};
use super::download::Download;
use super::extract::{self, Path, Query, moment};
use super::guard::{Admitted, Allowed, ManageExports};
use super::problem::{Kind, Problem};
use super::records::ListQuery;
use super::statistics::{check_base_item, parse_resolution, parse_zone};
use super::watch::{Look, Watch, to_json};
use crate::auth::Scope;
use crate::exports::{Compression, Dataset, Export, Exports, Filter, Format, Order, Viewer};
use crate::jobs::Ringing;
use crate::ledger::Page;
use crate::statistics::Metric;

/// How long a client may wait for an answer: proxies give up after a minute.
const LONGEST_WAIT: Duration = Duration::from_secs(50);
/// Whoever waits looks this often even if no bell rings.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(start, list))
        .routes(routes!(get, remove))
        .routes(routes!(events))
        .routes(routes!(cancel))
        .routes(routes!(data))
}

impl FromRequestParts<App> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, Problem> {
        let Ok(Extension(Admitted { caller, .. })) = parts.extract::<Extension<Admitted>>().await else {
            return Err(Problem::new(Kind::Internal, "this route is not guarded"));
        };
        Ok(Self {
            owner: caller.identity.map(|identity| identity.id.to_string()),
            sees_all: caller.scopes.allow(Scope::Admin),
        })
    }
}

/// An export to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewExport {
    /// What is exported.
    dataset: Dataset,
    /// How the file is written.
    format: Format,
    /// How it is compressed.
    #[serde(default)]
    #[schema(default = "none")]
    compression: Compression,
    /// From this moment on: what was created, transferred or counted then. Not for `ownership`. Buckets of statistics are
    /// whole.
    #[serde(default, deserialize_with = "moment")]
    from: Option<DateTime<Utc>>,
    /// Before this moment. Of `ownership`, who owned what then.
    #[serde(default, deserialize_with = "moment")]
    to: Option<DateTime<Utc>>,
    /// Only of this base item; not for `base-items` and `users`.
    base_item_id: Option<Uuid>,
    /// How wide the buckets of `statistics` are.
    #[schema(value_type = Option<crate::statistics::Resolution>, default = "day")]
    resolution: Option<String>,
    /// IANA name of the time zone by whose clocks the buckets of `statistics` go.
    #[schema(default = "UTC", example = "Europe/Berlin")]
    timezone: Option<String>,
}

impl NewExport {
    async fn validate(self, pool: &PgPool) -> Result<Order, Problem> {
        for filter in Filter::ALL {
            let is_given = match filter {
                Filter::From => self.from.is_some(),
                Filter::To => self.to.is_some(),
                Filter::BaseItem => self.base_item_id.is_some(),
                Filter::Resolution => self.resolution.is_some(),
                Filter::Timezone => self.timezone.is_some(),
            };
            if is_given && !self.dataset.has(filter) {
                let detail = format!("the dataset {} cannot be narrowed down by this", self.dataset.name());
                return Err(Problem::field(filter.field(), detail));
            }
        }
        if self.from.zip(self.to).is_some_and(|(from, to)| from >= to) {
            return Err(Problem::field("to", "must be later than from"));
        }
        let resolution = self.resolution.as_deref().map(parse_resolution).transpose()?;
        let timezone = self.timezone.as_deref().map(parse_zone).transpose()?;
        check_base_item(pool, &[Metric::ItemCreation], self.base_item_id).await?;
        Ok(Order {
            dataset: self.dataset,
            format: self.format,
            compression: self.compression,
            from: self.from,
            to: self.to,
            base_item_id: self.base_item_id,
            resolution,
            timezone,
        })
    }
}

/// Start an export
///
/// The file is made in the background, of the ledger as it is when that begins (`as_of`). With `Prefer: wait=N` the answer
/// waits up to N seconds (50 at most) for the export to be over, and is 200 if it is.
#[utoipa::path(
    post, path = "/exports", operation_id = "start_export", tag = "exports", security(("key" = ["exports"])),
    params(("Prefer" = Option<String>, Header, nullable = false, description = "`wait=N` waits up to N seconds", example = "wait=10")),
    request_body = NewExport,
    responses(
        (status = 202, description = "It has been recorded, and is made", body = Export, headers(("Location" = String, description = "Its path"))),
        (status = 200, description = "With `Prefer: wait`: it is over", body = Export, headers(("Location" = String, description = "Its path"))),
        StartProblems,
    )
)]
async fn start(
    _: Allowed<ManageExports>,
    State(exports): State<Exports>,
    State(pool): State<PgPool>,
    viewer: Viewer,
    headers: HeaderMap,
    extract::Json(new): extract::Json<NewExport>,
) -> Result<Response, Problem> {
    let order = new.validate(&pool).await?;
    let wait = preferred_wait(&headers);
    let ringing = exports.listen();
    let mut export = exports.create(viewer.owner.as_deref(), &order).await?;
    if let Some(wait) = wait {
        let over = until_over(&exports, ringing, export.id, &viewer);
        if let Ok(Some(latest)) = tokio::time::timeout(wait, over).await {
            export = latest?;
        }
    }
    let status = if export.state.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/exports/{}", export.id);
    let mut response = (status, [(header::LOCATION, location)], Json(export)).into_response();
    if let Some(Ok(applied)) = wait.map(|wait| HeaderValue::from_str(&format!("wait={}", wait.as_secs()))) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// How long the client would wait (RFC 7240).
pub(super) fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut preferences = preferences.flat_map(|value| value.split([',', ';']));
    let seconds = preferences.find_map(|preference| preference.trim().strip_prefix("wait=")?.trim().parse().ok())?;
    Some(Duration::from_secs(seconds).min(LONGEST_WAIT))
}

/// Waits until nobody works at it any more. Nothing if the server stops before.
async fn until_over(
    exports: &Exports,
    mut ringing: Ringing,
    id: Uuid,
    viewer: &Viewer,
) -> Option<Result<Export, Problem>> {
    let over = async {
        loop {
            let export = exports.get(id, viewer).await?;
            if export.state.is_terminal() {
                return Ok(export);
            }
            let _ = tokio::time::timeout(LOOK_INTERVAL, ringing.about(id)).await;
        }
    };
    exports.stop().run_until_cancelled(over).await
}

/// List exports, newest first
///
/// One's own; with the scope `admin` all. With `Accept: text/event-stream` the same page comes at once and again after every
/// change, as an unnamed message, and a `heartbeat` after five seconds in which nothing changed.
#[utoipa::path(
    get, path = "/exports", operation_id = "list_exports", tag = "exports", security(("key" = ["exports"])), params(ListQuery),
    responses(
        (status = 200, description = "A page", content((Page<Export> = "application/json"), (ServerSentEvent = "text/event-stream"))),
        QueryProblems,
    )
)]
async fn list(
    _: Allowed<ManageExports>,
    State(exports): State<Exports>,
    viewer: Viewer,
    watch: Watch,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let request = query.page()?;
    if !watch.is_wanted() {
        return Ok(Json(exports.list(&viewer, request).await?).into_response());
    }
    watch.open(exports.listen(), None, move || {
        let (exports, viewer) = (exports.clone(), viewer.clone());
        async move {
            let page = exports.list(&viewer, request).await?;
            Ok(Look { text: to_json(&page)?, version: None, is_last: false })
        }
    })
}

/// Get an export
#[utoipa::path(
    get, path = "/exports/{id}", operation_id = "get_export", tag = "exports", security(("key" = ["exports"])), params(("id" = Uuid, Path)),
    responses((status = 200, description = "The export", body = Export), LookupProblems)
)]
async fn get(
    _: Allowed<ManageExports>,
    State(exports): State<Exports>,
    viewer: Viewer,
    Path(id): Path<Uuid>,
) -> Result<Json<Export>, Problem> {
    Ok(Json(exports.get(id, &viewer).await?))
}

/// Watch an export
///
/// The same as from `/exports/{id}`, at once and after every change, as unnamed messages, until it is over; a `heartbeat` after
/// five seconds in which nothing changed. To a client that connects again after that (`Last-Event-ID`) the answer is 204, which tells `EventSource` to stop.
#[utoipa::path(
    get, path = "/exports/{id}/events", operation_id = "watch_export", tag = "exports", security(("key" = ["exports"])),
    params(("id" = Uuid, Path), ("Last-Event-ID" = Option<String>, Header, nullable = false, description = "What was seen last")),
    responses(
        (status = 200, description = "The export, again and again", body = ServerSentEvent, content_type = "text/event-stream"),
        (status = 204, description = "It is over, and that was seen"),
        LookupProblems,
    )
)]
async fn events(
    _: Allowed<ManageExports>,
    State(exports): State<Exports>,
    viewer: Viewer,
    watch: Watch,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let export = exports.get(id, &viewer).await?;
    if export.state.is_terminal() && watch.has_seen(export.version) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    watch.open(exports.listen(), Some(id), move || {
        let (exports, viewer) = (exports.clone(), viewer.clone());
        async move {
            let export = exports.get(id, &viewer).await?;
            Ok(Look { text: to_json(&export)?, version: Some(export.version), is_last: export.state.is_terminal() })
        }
    })
}

/// Cancel an export
///
/// One that waits is cancelled at once (200); one that runs stops within a second (202). To cancel one that is cancelled
/// already changes nothing; one that is over otherwise cannot be cancelled (409).
#[utoipa::path(
    post, path = "/exports/{id}/cancel", operation_id = "cancel_export", tag = "exports", security(("key" = ["exports"])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "It is cancelled", body = Export),
        (status = 202, description = "It is being cancelled", body = Export),
        TransitionProblems,
    )
)]
async fn cancel(
    _: Allowed<ManageExports>,
    State(exports): State<Exports>,
    viewer: Viewer,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let export = exports.cancel(id, &viewer).await?;
    let status = if export.state.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(export)).into_response())
}

/// Download the file of an export
///
/// Parts of it with `Range`, and `If-Range` with the `ETag`, which resumes a download. `Repr-Digest` (RFC 9530) has the
/// SHA-256 of the whole file. A compressed file is sent as it is.
#[utoipa::path(
    get, path = "/exports/{id}/data", operation_id = "download_export", tag = "exports", security(("key" = ["exports"])),
    params(
        ("id" = Uuid, Path),
        ("Range" = Option<String>, Header, nullable = false, description = "One range of bytes", example = "bytes=1000-"),
        ("If-Range" = Option<String>, Header, nullable = false, description = "The `ETag` that the range is of"),
        ("If-None-Match" = Option<String>, Header, nullable = false, description = "Answers 304 if this is the `ETag`"),
    ),
    responses(
        (status = 200, description = "The file", content(
            (String = "text/csv"), (String = "application/x-ndjson"), (FileBytes = "application/vnd.apache.parquet"),
            (FileBytes = "application/gzip"), (FileBytes = "application/zstd"),
        ), headers(
            ("ETag" = String, description = "The SHA-256 of the file"),
            ("Content-Disposition" = String, description = "With the name of the file"),
        )),
        (status = 206, description = "The part that was asked for", content(
            (String = "text/csv"), (String = "application/x-ndjson"), (FileBytes = "application/vnd.apache.parquet"),
            (FileBytes = "application/gzip"), (FileBytes = "application/zstd"),
        )),
        (status = 304, description = "The client has the file"),
        DownloadProblems,
    )
)]
async fn data(
    _: Allowed<ManageExports>,
    State(exports): State<Exports>,
    viewer: Viewer,
    method: Method,
    Extension(admitted): Extension<Admitted>,
    headers: HeaderMap,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let export = exports.get(id, &viewer).await?;
    let download = Download::of(&export)?;
    download.answer(&method, &headers, exports.depot(), admitted.caller.ended).await
}

/// Drop the file of an export
///
/// What was exported when stays known for 30 days. One that is not over has to be cancelled first.
#[utoipa::path(
    delete, path = "/exports/{id}", operation_id = "delete_export", tag = "exports", security(("key" = ["exports"])), params(("id" = Uuid, Path)),
    responses((status = 204, description = "There is no file, or no more"), TransitionProblems)
)]
async fn remove(
    _: Allowed<ManageExports>,
    State(exports): State<Exports>,
    viewer: Viewer,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    exports.remove(id, &viewer).await?;
    Ok(StatusCode::NO_CONTENT)
}
