//! `/streams` and `/dead-letters`: what is fetched from elsewhere, and what of it could not be processed.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::App;
use super::document::{
    GoneProblems, LookupProblems, QueryProblems, ServerSentEvent, StartProblems, TransitionProblems,
};
use super::extract::{self, Path, Query};
use super::guard::{Allowed, ManageStreams};
use super::problem::Problem;
use super::records::{ListQuery, page_size};
use super::watch::{Look, Watch, to_json};
use crate::ledger::Page;
use crate::streams::{
    Batch, Change, DeadLetter, NewPreview, NewStream, Preview, StoredRecord, Stream, StreamError, Streams,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, change, remove))
        .routes(routes!(events))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(run))
        .routes(routes!(batches))
        .routes(routes!(batch))
        .routes(routes!(data))
        .routes(routes!(preview))
        .routes(routes!(dead_letters))
        .routes(routes!(retry))
}

/// Create a data stream
///
/// Unless its `desired` is `running`, it does nothing yet: start it, or have it run once.
#[utoipa::path(
    post, path = "/streams", operation_id = "create_stream", tag = "streams", security(("key" = ["streams:manage"])),
    request_body = NewStream,
    responses(
        (status = 201, description = "It was created", body = Stream, headers(("Location" = String, description = "Its path"))),
        (status = 409, description = "Another stream has this name", body = Problem, content_type = "application/problem+json"),
        StartProblems,
    )
)]
async fn create(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    extract::Json(new): extract::Json<NewStream>,
) -> Result<Response, Problem> {
    let definition = new.validate().map_err(StreamError::from)?;
    let stream = streams.create(&definition).await?;
    let location = format!("/streams/{}", stream.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(stream)).into_response())
}

/// List data streams, newest first
///
/// With `Accept: text/event-stream` the same page comes at once and again after every change, as an unnamed message, and a
/// `heartbeat` after five seconds in which nothing changed.
#[utoipa::path(
    get, path = "/streams", operation_id = "list_streams", tag = "streams", security(("key" = ["streams:manage"])), params(ListQuery),
    responses(
        (status = 200, description = "A page", content((Page<Stream> = "application/json"), (ServerSentEvent = "text/event-stream"))),
        QueryProblems,
    )
)]
async fn list(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    watch: Watch,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let request = query.page()?;
    if !watch.is_wanted() {
        return Ok(Json(streams.list(request).await?).into_response());
    }
    watch.open(streams.listen(), None, move || {
        let streams = streams.clone();
        async move { Ok(Look { text: to_json(&streams.list(request).await?)?, version: None, is_last: false }) }
    })
}

/// Get a data stream
#[utoipa::path(
    get, path = "/streams/{id}", operation_id = "get_stream", tag = "streams", security(("key" = ["streams:manage"])), params(("id" = Uuid, Path)),
    responses((status = 200, description = "The stream", body = Stream), LookupProblems)
)]
async fn get(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path(id): Path<Uuid>,
) -> Result<Json<Stream>, Problem> {
    Ok(Json(streams.get(id).await?))
}

/// Change a data stream
///
/// From its next run on. A stream that fetches at the moment has to be stopped before; a run that waits to go on is given up. A
/// secret that is not given again stays, unless the source is at another place.
#[utoipa::path(
    patch, path = "/streams/{id}", operation_id = "change_stream", tag = "streams", security(("key" = ["streams:manage"])), params(("id" = Uuid, Path)),
    request_body = Change,
    responses(
        (status = 200, description = "The stream", body = Stream),
        (status = 404, description = "There is no such stream", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It fetches at the moment, or another stream has this name", body = Problem, content_type = "application/problem+json"),
        StartProblems,
    )
)]
async fn change(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path(id): Path<Uuid>,
    extract::Json(change): extract::Json<Change>,
) -> Result<Json<Stream>, Problem> {
    Ok(Json(streams.change(id, change).await?))
}

/// Delete a data stream
///
/// With everything that it fetched. What it brought into the ledger stays there.
#[utoipa::path(
    delete, path = "/streams/{id}", operation_id = "delete_stream", tag = "streams", security(("key" = ["streams:manage"])), params(("id" = Uuid, Path)),
    responses((status = 204, description = "It is gone"), LookupProblems)
)]
async fn remove(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    streams.delete(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Watch a data stream
///
/// The same as from `/streams/{id}`, at once and after every change, as unnamed messages; a `heartbeat` after five seconds in
/// which nothing changed.
#[utoipa::path(
    get, path = "/streams/{id}/events", operation_id = "watch_stream", tag = "streams", security(("key" = ["streams:manage"])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "The stream, again and again", body = ServerSentEvent, content_type = "text/event-stream"),
        LookupProblems,
    )
)]
async fn events(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    watch: Watch,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    streams.get(id).await?;
    watch.open(streams.listen(), Some(id), move || {
        let streams = streams.clone();
        async move { Ok(Look { text: to_json(&streams.get(id).await?)?, version: None, is_last: false }) }
    })
}

/// Start a data stream
///
/// It runs at once, or when its cron expression says, and from then on as scheduled. To start one that is started changes
/// nothing.
#[utoipa::path(
    put, path = "/streams/{id}/start", operation_id = "start_stream", tag = "streams", security(("key" = ["streams:manage"])), params(("id" = Uuid, Path)),
    responses((status = 200, description = "The stream", body = Stream), TransitionProblems)
)]
async fn start(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path(id): Path<Uuid>,
) -> Result<Json<Stream>, Problem> {
    Ok(Json(streams.start(id).await?))
}

/// Stop a data stream
///
/// Also what it fetches at the moment (202), which stops within a second and leaves nothing behind. To stop one that is stopped
/// changes nothing.
#[utoipa::path(
    put, path = "/streams/{id}/stop", operation_id = "stop_stream", tag = "streams", security(("key" = ["streams:manage"])), params(("id" = Uuid, Path)),
    responses(
        (status = 200, description = "It has stopped", body = Stream),
        (status = 202, description = "It stops", body = Stream),
        TransitionProblems,
    )
)]
async fn stop(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    let stream = streams.stop(id).await?;
    let status = if stream.state == crate::streams::State::Stopping { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok((status, Json(stream)).into_response())
}

/// Have a data stream fetch now
///
/// Besides its schedule, and also if it is stopped. Where it fetches already nothing changes.
#[utoipa::path(
    post, path = "/streams/{id}/run", operation_id = "run_stream", tag = "streams", security(("key" = ["streams:manage"])), params(("id" = Uuid, Path)),
    responses((status = 202, description = "It does, or is about to", body = Stream), TransitionProblems)
)]
async fn run(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    Ok((StatusCode::ACCEPTED, Json(streams.fetch_now(id).await?)).into_response())
}

/// Which page of the batches of a stream.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct BatchesQuery {
    /// At most so many batches, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    page_size: Option<i64>,
    /// Those before this number: the `next_before` of the page before.
    before: Option<i64>,
}

/// Batches of a stream.
#[derive(Debug, Serialize, ToSchema)]
struct Batches {
    /// The batches, newest first.
    data: Vec<Batch>,
    /// `before` for the next page; null on the last one.
    next_before: Option<i64>,
}

/// List the batches of a data stream, newest first
#[utoipa::path(
    get, path = "/streams/{id}/batches", operation_id = "list_batches", tag = "streams", security(("key" = ["streams:manage"])),
    params(("id" = Uuid, Path), BatchesQuery),
    responses((status = 200, description = "A page", body = Batches), LookupProblems)
)]
async fn batches(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path(id): Path<Uuid>,
    Query(query): Query<BatchesQuery>,
) -> Result<Json<Batches>, Problem> {
    let size = page_size(query.page_size)?;
    let mut data = streams.batches(id, query.before, size + 1).await?;
    let next_before = truncate(&mut data, size).map(|batch| batch.number);
    Ok(Json(Batches { data, next_before }))
}

/// Leaves so many of one more than were wanted: the last one, if there are further ones.
fn truncate<T>(rows: &mut Vec<T>, size: i64) -> Option<&T> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let has_more = rows.len() > size;
    rows.truncate(size);
    rows.last().filter(|_| has_more)
}

/// Get a batch
#[utoipa::path(
    get, path = "/streams/{id}/batches/{number}", operation_id = "get_batch", tag = "streams", security(("key" = ["streams:manage"])),
    params(("id" = Uuid, Path), ("number" = i64, Path, description = "Counts from 1")),
    responses((status = 200, description = "The batch", body = Batch), LookupProblems)
)]
async fn batch(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path((id, number)): Path<(Uuid, i64)>,
) -> Result<Json<Batch>, Problem> {
    Ok(Json(streams.batch(id, number).await?))
}

/// Which records of a stream.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DataQuery {
    /// The number of a complete batch, or `latest`.
    #[param(default = "latest")]
    batch: Option<String>,
    /// At most so many records, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    page_size: Option<i64>,
    /// The `next_page_token` of the page before. It is of the same batch, also if there is a newer one by now.
    page_token: Option<String>,
}

/// Records of a complete batch.
#[derive(Debug, Serialize, ToSchema)]
struct Data {
    /// The batch.
    batch: Batch,
    /// Its records by their keys.
    data: Vec<StoredRecord>,
    /// For the next page; null on the last one.
    next_page_token: Option<String>,
}

/// Get the records of a complete batch
///
/// Of the newest, unless said otherwise. While the next one is fetched, nothing of it is seen. With `If-None-Match` the answer
/// is 304 as long as nothing has changed.
#[utoipa::path(
    get, path = "/streams/{id}/data", operation_id = "get_stream_data", tag = "streams", security(("key" = ["streams:manage"])),
    params(
        ("id" = Uuid, Path), DataQuery,
        ("If-None-Match" = Option<String>, Header, nullable = false, description = "Answers 304 if this is the `ETag`"),
    ),
    responses(
        (status = 200, description = "A page", body = Data, headers(("ETag" = String, description = "The batch and its revision"))),
        (status = 304, description = "The client has this"),
        GoneProblems,
    )
)]
async fn data(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    headers: HeaderMap,
    Path(id): Path<Uuid>,
    Query(query): Query<DataQuery>,
) -> Result<Response, Problem> {
    let size = page_size(query.page_size)?;
    let token = query.page_token.as_deref().map(read_token).transpose()?;
    let number = match (&token, query.batch.as_deref()) {
        (Some((number, _)), _) => Some(*number),
        (None, None | Some("latest")) => None,
        (None, Some(text)) => {
            Some(text.parse().map_err(|_| Problem::field("batch", "must be the number of a batch, or latest"))?)
        }
    };
    let batch = streams.complete_batch(id, number).await?;
    let etag = format!("\"{}.{}\"", batch.number, batch.revision);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if known.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let after = token.as_ref().map(|(_, key)| key.as_str());
    let mut records = streams.records(id, batch.number, after, size + 1).await?;
    let next = truncate(&mut records, size).map(|last| write_token(batch.number, &last.key));
    let headers = [(header::ETAG, etag), (header::CACHE_CONTROL, "private, no-cache".to_owned())];
    Ok((headers, Json(Data { batch, data: records, next_page_token: next })).into_response())
}

pub(super) fn write_token(batch: i64, key: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{batch}:{key}"))
}

pub(super) fn read_token(token: &str) -> Result<(i64, String), Problem> {
    let text = BASE64_URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let read = text.as_deref().and_then(|text| text.split_once(':'));
    let read = read.and_then(|(number, key)| Some((number.parse().ok()?, key.to_owned())));
    read.ok_or_else(|| Problem::field("page_token", "is not one that was given out"))
}

/// Try what a stream would make of records
///
/// Of those in `sample`, or of the first page of the source, which a worker fetches. Nothing is stored, and nothing goes into the
/// ledger; ids are those of no stream.
#[utoipa::path(
    post, path = "/streams/preview", operation_id = "preview_stream", tag = "streams", security(("key" = ["streams:manage"])),
    request_body = NewPreview,
    responses(
        (status = 200, description = "What would become of them", body = Preview),
        (status = 404, description = "There is no stream `stream_id`", body = Problem, content_type = "application/problem+json"),
        StartProblems,
    )
)]
async fn preview(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    extract::Json(new): extract::Json<NewPreview>,
) -> Result<Json<Preview>, Problem> {
    Ok(Json(streams.preview(new).await?))
}

/// Which dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DeadLettersQuery {
    /// Of this stream only.
    stream_id: Option<Uuid>,
    /// At most so many, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    page_size: Option<i64>,
    /// The `next_page_token` of the page before.
    page_token: Option<String>,
}

/// List records that could not be processed, newest first
#[utoipa::path(
    get, path = "/dead-letters", operation_id = "list_dead_letters", tag = "streams", security(("key" = ["streams:manage"])), params(DeadLettersQuery),
    responses((status = 200, description = "A page", body = Page<DeadLetter>), QueryProblems)
)]
async fn dead_letters(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Json<Page<DeadLetter>>, Problem> {
    let page = ListQuery { page_size: query.page_size, page_token: query.page_token }.page()?;
    Ok(Json(streams.dead_letters(query.stream_id, page).await?))
}

/// Try again to process a record
///
/// As the stream is now. If it goes well, the record is added to the newest complete batch, and is no dead letter any more.
#[utoipa::path(
    post, path = "/dead-letters/{id}/retry", operation_id = "retry_dead_letter", tag = "streams", security(("key" = ["streams:manage"])), params(("id" = Uuid, Path)),
    responses((status = 202, description = "A worker tries again", body = DeadLetter), LookupProblems)
)]
async fn retry(
    _: Allowed<ManageStreams>,
    State(streams): State<Streams>,
    Path(id): Path<Uuid>,
) -> Result<Response, Problem> {
    Ok((StatusCode::ACCEPTED, Json(streams.retry(id).await?)).into_response())
}
