//! What handlers take out of requests, with problems that name the field.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use bytes::Bytes;
use chrono::{DateTime, Datelike, Utc};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use super::problem::{Kind, Problem};
use crate::ledger::YEARS;

/// A single row is far smaller than this. Bulk requests are streams and have no limit but one a line.
pub(super) const BODY_LIMIT: usize = 1024 * 1024;

/// A JSON body.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Self::Rejection> {
        match media_type(&request)? {
            MediaType::Json => Ok(Self(from_json(&collect(request).await?)?)),
            MediaType::Ndjson => Err(unsupported("application/json")),
        }
    }
}

/// What a body is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaType {
    /// `application/json`.
    Json,
    /// `application/x-ndjson`: one JSON object a line.
    Ndjson,
}

/// What the body of the request is said to be.
pub(super) fn media_type(request: &Request) -> Result<MediaType, Problem> {
    let value = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    match value.split(';').next().unwrap_or("").trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(MediaType::Json),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(MediaType::Ndjson),
        _ => Err(unsupported("application/json or application/x-ndjson")),
    }
}

fn unsupported(expected: &str) -> Problem {
    Problem::new(Kind::UnsupportedMediaType, format!("Send the body with Content-Type: {expected}"))
}

/// The whole body, up to [`BODY_LIMIT`].
pub(super) async fn collect(request: Request) -> Result<Bytes, Problem> {
    match Limited::new(request.into_body(), BODY_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Problem::new(Kind::TooLarge, format!("A single row may have {BODY_LIMIT} bytes")))
        }
        Err(error) => Err(Problem::unreadable(&*error)),
    }
}

/// Reads a JSON object: what is no JSON is malformed, and what is JSON but not what was expected has a field that is
/// wrong.
pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // Serde would also take the fields from an array, by position.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(match serde_json::from_slice::<serde_json::Value>(bytes) {
            Ok(_) => Problem::new(Kind::InvalidField, "must be a JSON object"),
            Err(error) => malformed(&error),
        });
    }
    // Most rows have nothing wrong with them: where a fault lies is only looked for when there is one.
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let source = error.into_inner();
        // A field may be wrong before the text stops being JSON; and what is JSON may have another form than was expected.
        if let Err(error) = serde_json::from_slice::<serde_json::Value>(bytes) {
            return malformed(&error);
        }
        let message =
            if source.is_data() { without_position(&source.to_string()) } else { "has another form".to_owned() };
        let field = field_of(&path, &message);
        if field == "." { Problem::new(Kind::InvalidField, message) } else { Problem::field(field, message) }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Problem {
    let detail = error.to_string();
    // Rows are single lines: which of a request's lines it is, only the caller knows.
    let detail =
        if error.line() == 1 { format!("{} at column {}", without_position(&detail), error.column()) } else { detail };
    Problem::new(Kind::MalformedJson, detail)
}

/// The field that a message is about, with the path to it.
fn field_of(path: &str, message: &str) -> String {
    match named_field(message) {
        Some(name) if path == "." => name.to_owned(),
        // Of an unknown field, the path leads to it; of one that is missing, to where it should be.
        Some(name) if path.rsplit('.').next() != Some(name) => format!("{path}.{name}"),
        _ => path.to_owned(),
    }
}

/// Serde names a missing or unknown field in its message only.
fn named_field(message: &str) -> Option<&str> {
    let rest = ["missing field `", "unknown field `", "duplicate field `"]
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix))?;
    rest.split('`').next()
}

/// Lines and columns help with malformed JSON, not with a wrong field.
fn without_position(message: &str) -> String {
    message.rsplit_once(" at line ").map_or(message, |(text, _)| text).to_owned()
}

/// Reads a moment in a query. Neither calendars nor Postgres can reckon with everything that chrono can read.
pub(super) fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let moment = Option::<DateTime<Utc>>::deserialize(deserializer)?;
    match moment {
        Some(moment) if !YEARS.contains(&moment.year()) => {
            Err(D::Error::custom(format!("must lie in the years {} to {}", YEARS.start(), YEARS.end())))
        }
        _ => Ok(moment),
    }
}

/// The query string.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        from_query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Reads a query string.
pub(super) fn from_query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = serde_html_form::Deserializer::from_bytes(query.as_bytes());
    let value = serde_path_to_error::deserialize(pairs).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        Problem::field(field_of(&path, &message), message)
    })?;
    // Some types would be read as if the parameter was not there, and the answer would be to another question.
    match url::form_urlencoded::parse(query.as_bytes()).find(|(_, value)| value.is_empty()) {
        Some((name, _)) => Err(Problem::field(name, "must not be empty")),
        None => Ok(value),
    }
}

/// The variable parts of the path.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        use axum::extract::path::ErrorKind;
        use axum::extract::rejection::PathRejection;
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => Err(match error.into_kind() {
                ErrorKind::ParseErrorAtKey { key, value, .. } => {
                    Problem::field(key, format!("{value:?} is not an id (a UUID)"))
                }
                ErrorKind::DeserializeError { key, message, .. } => Problem::field(key, message),
                ErrorKind::Message(message) => Problem::field("id", message),
                other => Problem::field("id", other.to_string()),
            }),
            Err(other) => Err(Problem::new(Kind::NotFound, other.to_string())),
        }
    }
}
