//! The file of an export as a response, or a part of it (RFC 9110, 13 and 14).

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt;
use http_range_header::parse_range_header;
use tokio_util::sync::CancellationToken;

use super::problem::{Kind, Problem};
use crate::exports::{Depot, Export, ExportResult, State};

/// A file that is there.
#[derive(Debug)]
pub(super) struct Download<'a> {
    export: &'a Export,
    result: &'a ExportResult,
    object: &'a str,
    size: u64,
    etag: String,
}

/// What of a file is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Everything,
    Part(Range<u64>),
    /// Something that is not in it.
    Nothing,
}

impl<'a> Download<'a> {
    /// The file of an export that has one.
    pub(super) fn of(export: &'a Export) -> Result<Self, Problem> {
        match (export.state, &export.result, &export.object) {
            (State::Complete, Some(result), Some(object)) => Ok(Self {
                export,
                result,
                object,
                size: u64::try_from(result.size).unwrap_or(0),
                etag: format!("\"{}\"", result.sha256),
            }),
            (State::Expired, ..) => {
                Err(Problem::new(Kind::Gone, "The file has been removed: start the export again to have a new one"))
            }
            (State::Cancelled | State::Failed, ..) => {
                let detail = format!("The export is {}: there is no file", export.state);
                Err(Problem::new(Kind::WrongState, detail))
            }
            _ => Err(Problem::new(Kind::WrongState, format!("The export is {}: there is no file yet", export.state))),
        }
    }

    /// Answers with the file; it breaks off if the caller may not have it any more.
    pub(super) async fn answer(
        self,
        method: &Method,
        headers: &HeaderMap,
        depot: &Depot,
        ended: CancellationToken,
    ) -> Result<Response, Problem> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let has_file = text(header::IF_NONE_MATCH).is_some_and(|tags| {
            tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == self.etag || tag.trim() == "*")
        });
        if has_file {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, self.etag)]).into_response());
        }
        // What is resumed must be the same file. Dates, which the field may also have, are not told of files here.
        let is_same = text(header::IF_RANGE).is_none_or(|tag| tag.trim() == self.etag);
        let range = text(header::RANGE).filter(|_| is_same && *method == Method::GET);
        let (status, part) = match range.map_or(Wanted::Everything, |range| wanted(range, self.size)) {
            Wanted::Everything => (StatusCode::OK, 0..self.size),
            Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
            Wanted::Nothing => {
                let detail = format!("The file has {} bytes", self.size);
                let mut response = Problem::new(Kind::RangeNotSatisfiable, detail).into_response();
                if let Ok(value) = HeaderValue::try_from(format!("bytes */{}", self.size)) {
                    response.headers_mut().insert(header::CONTENT_RANGE, value);
                }
                return Ok(response);
            }
        };
        let body = if *method == Method::HEAD || part.is_empty() {
            Body::empty()
        } else {
            let bytes = depot.read(self.object, part.clone()).await.map_err(|error| missing(&error))?;
            Body::from_stream(bytes.take_until(ended.cancelled_owned()))
        };
        let mut response = (status, body).into_response();
        self.describe(&part, status, response.headers_mut());
        Ok(response)
    }

    fn describe(&self, part: &Range<u64>, status: StatusCode, headers: &mut HeaderMap) {
        let Self { export, result, size, .. } = self;
        let digest = BASE64_STANDARD.encode(hex::decode(&result.sha256).unwrap_or_default());
        let mut set = |name, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        set(header::CONTENT_TYPE, export.format.media_type(export.compression).to_owned());
        set(header::CONTENT_LENGTH, (part.end - part.start).to_string());
        set(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", result.name));
        set(header::ETAG, self.etag.clone());
        set(header::ACCEPT_RANGES, "bytes".to_owned());
        // Each is its owner's alone.
        set(header::CACHE_CONTROL, "private, no-cache".to_owned());
        set(header::HeaderName::from_static("repr-digest"), format!("sha-256=:{digest}:"));
        if status == StatusCode::PARTIAL_CONTENT {
            set(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", part.start, part.end - 1));
        }
    }
}

/// What a `Range` asks for. What is not understood is as if it was not there, and so are several ranges at a time. So is
/// any of an empty file, in which the crate would see a first byte.
pub(super) fn wanted(range: &str, size: u64) -> Wanted {
    if size == 0 {
        return Wanted::Everything;
    }
    let Ok(parsed) = parse_range_header(range) else { return Wanted::Everything };
    match parsed.validate(size).as_deref() {
        Ok([one]) => Wanted::Part(*one.start()..*one.end() + 1),
        Ok(_) => Wanted::Everything,
        Err(_) => Wanted::Nothing,
    }
}

fn missing(error: &object_store::Error) -> Problem {
    tracing::error!(error = error as &dyn std::error::Error, "the file of an export cannot be read");
    let detail = match error {
        object_store::Error::NotFound { .. } => {
            "The file is not in the store of this server: several servers need a store that they share"
        }
        _ => "The store does not give the file out at the moment",
    };
    Problem::new(Kind::Unavailable, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parts_of_the_file() {
        for (range, expected) in [
            ("bytes=0-9", Wanted::Part(0..10)),
            ("bytes=90-", Wanted::Part(90..100)),
            ("bytes=-10", Wanted::Part(90..100)),
            ("bytes=99-99", Wanted::Part(99..100)),
            ("bytes=50-500", Wanted::Part(50..100)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=200-300", Wanted::Nothing),
            ("bytes=0-1,5-6", Wanted::Everything),
            ("lines=0-1", Wanted::Everything),
            ("bytes", Wanted::Everything),
        ] {
            assert_eq!(wanted(range, 100), expected, "{range}");
            assert_eq!(wanted(range, 0), Wanted::Everything, "{range} of nothing");
        }
    }
}
