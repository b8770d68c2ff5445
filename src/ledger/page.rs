//! Lists, a page at a time. A page begins after a row, not after a number of rows: rows that come meanwhile shift nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::YEARS;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows, newest first.
    pub data: Vec<T>,
    /// Where the next page begins; null on the last one.
    #[schema(required)]
    pub next_page_token: Option<String>,
}

impl<T> Page<T> {
    /// A page of the rows that were found when one more was asked for.
    pub fn new(mut rows: Vec<T>, size: i64, token: impl Fn(&T) -> PageToken) -> Self {
        let size = usize::try_from(size).unwrap_or(0);
        let more = rows.len() > size;
        rows.truncate(size);
        let next_page_token = rows.last().filter(|_| more).map(|row| token(row).to_string());
        Self { data: rows, next_page_token }
    }
}

/// Which page.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// At most so many rows.
    pub size: i64,
    /// After this row.
    pub after: Option<PageToken>,
}

/// The last row of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// When it happened.
    pub moment: DateTime<Utc>,
    /// Its id.
    pub id: Uuid,
}

/// Text that no page ended with.
#[derive(Debug, thiserror::Error)]
#[error("is not the next_page_token of an earlier page")]
pub struct MalformedPageToken;

impl std::fmt::Display for PageToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.moment.timestamp_micros().to_be_bytes());
        bytes[8..].copy_from_slice(self.id.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl std::str::FromStr for PageToken {
    type Err = MalformedPageToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| MalformedPageToken)?;
        let (moment, id) = bytes.split_first_chunk::<8>().ok_or(MalformedPageToken)?;
        let moment = DateTime::from_timestamp_micros(i64::from_be_bytes(*moment))
            .filter(|moment| YEARS.contains(&moment.year()))
            .ok_or(MalformedPageToken)?;
        Ok(Self { moment, id: Uuid::from_slice(id).map_err(|_| MalformedPageToken)? })
    }
}
