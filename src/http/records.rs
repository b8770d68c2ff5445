//! Creating, getting and listing rows of the ledger: the same for every kind.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::extract::{BODY_LIMIT, MediaType, collect, from_json, media_type, moment};
use super::guard::Admitted;
use super::problem::{FieldError, Problem};
use super::rows::rows;
use crate::audit::Author;
use crate::ledger::{LedgerError, Outcome, PageRequest, PageToken, Record, Writer, bulk};

const DEFAULT_PAGE_SIZE: i64 = 100;
const LARGEST_PAGE_SIZE: i64 = 1000;

/// Writes in the name of whoever sent the request.
pub(super) struct WriterFor(pub(super) Writer);

impl FromRequestParts<App> for WriterFor {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let author = parts.extensions.get::<Admitted>().and_then(Admitted::author);
        Ok(Self(app.writer.in_the_name_of(author)))
    }
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// At most so many rows, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub(super) page_size: Option<i64>,
    /// The `next_page_token` of the page before.
    pub(super) page_token: Option<String>,
}

impl ListQuery {
    /// The page that is meant.
    pub(super) fn page(&self) -> Result<PageRequest, Problem> {
        page(self.page_size, self.page_token.as_deref())
    }
}

/// Which page of a list, at which moment.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListAtQuery {
    /// The moment; now, unless said otherwise.
    #[serde(default, deserialize_with = "moment")]
    pub(super) at: Option<DateTime<Utc>>,
    /// At most so many rows, 1 to 1000.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    pub(super) page_size: Option<i64>,
    /// The `next_page_token` of the page before.
    pub(super) page_token: Option<String>,
}

impl ListAtQuery {
    /// The page that is meant.
    pub(super) fn page(&self) -> Result<PageRequest, Problem> {
        page(self.page_size, self.page_token.as_deref())
    }
}

fn page(size: Option<i64>, token: Option<&str>) -> Result<PageRequest, Problem> {
    let size = page_size(size)?;
    let after = token
        .map(str::parse::<PageToken>)
        .transpose()
        .map_err(|error| Problem::field("page_token", error.to_string()))?;
    Ok(PageRequest { size, after })
}

/// How many rows a page may have.
pub(super) fn page_size(size: Option<i64>) -> Result<i64, Problem> {
    let size = size.unwrap_or(DEFAULT_PAGE_SIZE);
    if (1..=LARGEST_PAGE_SIZE).contains(&size) {
        Ok(size)
    } else {
        Err(Problem::field("page_size", format!("must be between 1 and {LARGEST_PAGE_SIZE}")))
    }
}

/// How a bulk request is done.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateQuery {
    /// Bulk only: insert the good rows and report the others, instead of all or nothing.
    #[serde(default)]
    #[param(default = false)]
    pub(super) skip_rejected: bool,
}

/// What became of a bulk request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkAnswer {
    /// How many rows are new.
    pub(super) inserted: u64,
    /// How many were there before.
    pub(super) unchanged: u64,
    /// With `skip_rejected`: how many were not inserted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(super) rejected: Option<u64>,
    /// With `skip_rejected`: the first hundred of those, by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<FieldError>,
}

/// An answer to a request that created nothing by itself, or more than one row.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Accepted<R> {
    /// The row that was there.
    Unchanged(R),
    /// What became of many rows.
    Bulk(BulkAnswer),
}

/// Whose turn it is to load many rows, and how many bytes of them. A load holds a connection for as long as its body takes
/// to come: half of the connections stay free for everybody else.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    turns: Arc<Semaphore>,
    most_bytes: usize,
}

impl Turns {
    /// As many as the pool can spare, of so many bytes each.
    pub(super) fn new(pool: &PgPool, most_bytes: usize) -> Self {
        let half = pool.options().get_max_connections().div_ceil(2);
        let turns = Arc::new(Semaphore::new(usize::try_from(half).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { turns, most_bytes }
    }
}

/// A body is too large.
#[derive(Debug, thiserror::Error)]
#[error("A body may have {0} bytes: send the rows in several requests, or load them with `newcycle import`")]
pub(super) struct BodyTooLarge(usize);

/// The body, up to so many bytes.
fn limited(body: Body, most: usize) -> Body {
    let mut left = most;
    Body::from_stream(body.into_data_stream().map(move |piece| {
        let piece = piece?;
        left = left.checked_sub(piece.len()).ok_or_else(|| axum::Error::new(BodyTooLarge(most)))?;
        Ok::<_, axum::Error>(piece)
    }))
}

/// Creates one row from a JSON object, or many from an array or from NDJSON.
pub(super) async fn create<R: Record>(
    pool: &PgPool,
    writer: &Writer,
    turns: &Turns,
    path: &str,
    query: &CreateQuery,
    request: Request,
) -> Result<Response, Problem> {
    let media_type = media_type(&request)?;
    let (many, request) = match media_type {
        MediaType::Json => peek(request).await?,
        MediaType::Ndjson => (true, request),
    };
    if many {
        create_many::<R>(pool, writer.author(), turns, query, media_type, request).await
    } else {
        create_one::<R>(writer, path, request).await
    }
}

async fn create_one<R: Record>(writer: &Writer, path: &str, request: Request) -> Result<Response, Problem> {
    let new = from_json::<R::New>(&collect(request).await?)?;
    Ok(match writer.create::<R>(new).await? {
        Outcome::Created(row) => {
            let location = HeaderValue::from_str(&format!("{path}/{}", row.id()));
            let mut response = (StatusCode::CREATED, Json(row)).into_response();
            if let Ok(location) = location {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        Outcome::Unchanged(row) => Json(Accepted::Unchanged(row)).into_response(),
    })
}

async fn create_many<R: Record>(
    pool: &PgPool,
    author: Option<&Author>,
    turns: &Turns,
    query: &CreateQuery,
    media_type: MediaType,
    request: Request,
) -> Result<Response, Problem> {
    // Nobody closes the semaphore.
    let _turn = turns.turns.acquire().await.ok();
    let mut transaction = pool.begin().await?;
    let report = bulk::load::<R, Problem>(
        &mut transaction,
        rows(limited(request.into_body(), turns.most_bytes), media_type),
        author,
        |_| {},
    )
    .await;
    let report = match report {
        Ok(report) => report,
        Err(bulk::LoadError::Input(problem)) => return Err(problem),
        Err(bulk::LoadError::Ledger(error)) => return Err(error.into()),
    };
    if report.rejected > 0 && !query.skip_rejected {
        transaction.rollback().await?;
        return Err(Problem::rejected(report));
    }
    transaction.commit().await.map_err(LedgerError::from)?;
    let answer = BulkAnswer {
        inserted: report.inserted,
        unchanged: report.unchanged,
        rejected: query.skip_rejected.then_some(report.rejected),
        errors: report.rejections.into_iter().map(FieldError::from).collect(),
    };
    Ok(Json(Accepted::<R>::Bulk(answer)).into_response())
}

/// Whether the body begins like an array, and the request as it was.
async fn peek(request: Request) -> Result<(bool, Request), Problem> {
    let (parts, body) = request.into_parts();
    let mut stream = body.into_data_stream();
    let mut seen = Vec::new();
    let mut blanks = 0;
    let is_array = loop {
        match stream.next().await {
            None => break false,
            Some(Err(error)) => return Err(Problem::unreadable(&error)),
            Some(Ok(bytes)) => {
                let first = bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace());
                blanks += bytes.len();
                seen.push(Ok(bytes));
                // What does not begin within the limit is read as one row, which is then too large.
                if first.is_some() || blanks > BODY_LIMIT {
                    break first == Some(b'[');
                }
            }
        }
    };
    let body = Body::from_stream(futures_util::stream::iter(seen).chain(stream));
    Ok((is_array, Request::from_parts(parts, body)))
}
