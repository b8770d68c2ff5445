//! Many rows at once, from a file or a stream: through COPY into a staging table, checked set-wise, then merged into
//! the ledger, many rows a statement. Memory stays bounded at any size, here and in Postgres. The caller owns the transaction, so that it decides
//! whether some rejected rows undo the rest.

use std::pin::Pin;

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt, TryStreamExt, pin_mut};
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{LedgerError, NewRecord, Record};

/// So many rows are checked and merged at a time. Postgres keeps every row of a statement until the statement ends, to
/// count it, and this bounds that, as well as the sorting. Much fewer, and the statements themselves would begin to show.
const BATCH: u64 = 50_000;
/// Rows are sent to Postgres in pieces of about this many bytes.
const CHUNK: usize = 256 * 1024;
/// So many rejected rows are described; the rest are only counted.
const DESCRIBED_REJECTIONS: usize = 100;
/// Start of COPY's binary format: signature, no flags, no header extension (PostgreSQL manual, COPY, "Binary Format").
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const COPY_TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// 2000-01-01T00:00:00Z, from which Postgres counts microseconds.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// One row of the input, or why it is none.
#[derive(Debug)]
pub struct Line<N> {
    /// Counted from 1; in a JSON array, the position of the element.
    pub number: u64,
    /// The row.
    pub content: Result<N, Rejection>,
}

/// Why a row was not taken.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, ToSchema)]
pub struct Rejection {
    /// The line, counted from 1; in a JSON array, the position of the element.
    pub line: u64,
    /// What kind of fault it has.
    #[serde(skip)]
    pub fault: Fault,
    /// The field that is wrong, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

/// What kind of fault a row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read at all.
    Malformed,
    /// It has a field that is wrong.
    Invalid,
    /// Its id belongs to another row.
    Conflict,
}

/// What became of the rows.
#[derive(Debug, Default)]
pub struct Report {
    /// How many are new.
    pub inserted: u64,
    /// How many had been there before.
    pub unchanged: u64,
    /// How many were not taken.
    pub rejected: u64,
    /// How many of those could not be read.
    pub malformed: u64,
    /// How many of those have the id of another row.
    pub conflicts: u64,
    /// The first of the rejected ones, by line.
    pub rejections: Vec<Rejection>,
}

impl Report {
    fn reject(&mut self, rejection: Rejection) {
        self.rejected += 1;
        self.malformed += u64::from(rejection.fault == Fault::Malformed);
        self.conflicts += u64::from(rejection.fault == Fault::Conflict);
        self.rejections.push(rejection);
        if self.rejections.len() >= 2 * DESCRIBED_REJECTIONS {
            self.keep_the_first();
        }
    }

    fn keep_the_first(&mut self) {
        self.rejections.sort_by_key(|rejection| rejection.line);
        self.rejections.truncate(DESCRIBED_REJECTIONS);
    }
}

/// Why a load ended early.
#[derive(Debug, thiserror::Error)]
pub enum LoadError<E> {
    /// The input broke off.
    #[error("the input could not be read")]
    Input(#[source] E),
    /// The ledger refused or failed.
    #[error(transparent)]
    Ledger(LedgerError),
}

impl<E> From<sqlx::Error> for LoadError<E> {
    fn from(error: sqlx::Error) -> Self {
        Self::Ledger(error.into())
    }
}

/// Loads rows within the caller's transaction. `progress` hears how many lines have been dealt with.
pub async fn load<R: Record, E>(
    connection: &mut PgConnection,
    lines: impl Stream<Item = Result<Line<R::New>, E>>,
    progress: impl FnMut(u64),
) -> Result<Report, LoadError<E>> {
    pin_mut!(lines);
    let mut loader = Loader { lines, progress, read: 0, report: Report::default() };
    sqlx::query(R::STAGE).execute(&mut *connection).await?;
    loop {
        let (staged, more) = loader.stage::<R, E>(connection).await?;
        loader.merge::<R>(connection, staged).await?;
        (loader.progress)(loader.read);
        if !more {
            break;
        }
        sqlx::query(R::CLEAR).execute(&mut *connection).await?;
    }
    sqlx::query(R::UNSTAGE).execute(&mut *connection).await?;
    loader.report.keep_the_first();
    Ok(loader.report)
}

/// A load under way.
struct Loader<'a, S, P> {
    lines: Pin<&'a mut S>,
    progress: P,
    read: u64,
    report: Report,
}

impl<S, P> Loader<'_, S, P> {
    /// Copies the next rows into the staging table. How many, and whether there may be more.
    async fn stage<R: Record, E>(&mut self, connection: &mut PgConnection) -> Result<(u64, bool), LoadError<E>>
    where
        S: Stream<Item = Result<Line<R::New>, E>>,
    {
        let mut copy = connection.copy_in_raw(R::COPY).await?;
        let mut buffer = COPY_HEADER.to_vec();
        let mut staged = 0;
        let more = loop {
            if staged == BATCH {
                break true;
            }
            let line = match self.lines.next().await {
                Some(Ok(line)) => line,
                Some(Err(error)) => {
                    copy.abort("the input broke off").await?;
                    return Err(LoadError::Input(error));
                }
                None => break false,
            };
            self.read += 1;
            let number = line.number;
            let checked = line.content.and_then(|mut new| match new.validate(Utc::now()) {
                Ok(_) => Ok(new),
                Err(error) => Err(rejection(number, &error)),
            });
            match checked {
                Ok(new) => {
                    let mut row = CopyRow::begin(&mut buffer);
                    row.bigint(number.cast_signed());
                    new.copy(&mut row);
                    row.end();
                    staged += 1;
                }
                Err(rejection) => self.report.reject(rejection),
            }
            if buffer.len() >= CHUNK {
                copy.send(std::mem::take(&mut buffer)).await?;
            }
        };
        buffer.extend_from_slice(&COPY_TRAILER);
        copy.send(buffer).await?;
        copy.finish().await?;
        Ok((staged, more))
    }

    /// Moves what is staged into the ledger, but for rows that cannot be there.
    async fn merge<R: Record>(&mut self, connection: &mut PgConnection, mut staged: u64) -> Result<(), sqlx::Error> {
        let report = &mut self.report;
        for reject_orphans in R::REJECT_ORPHANS {
            let mut orphans = sqlx::query(*reject_orphans).fetch(&mut *connection);
            while let Some(row) = orphans.try_next().await? {
                let line = row.try_get::<i64, _>(0)?.cast_unsigned();
                let (field, detail) = (Some(row.try_get(1)?), row.try_get(2)?);
                report.reject(Rejection { line, fault: Fault::Invalid, field, detail });
                staged -= 1;
            }
        }
        let inserted = sqlx::query(R::MERGE).execute(&mut *connection).await?.rows_affected();
        report.inserted += inserted;
        // Usually all rows are new, and then there is nothing to compare them with.
        if inserted == staged {
            return Ok(());
        }
        let mut conflicts = 0;
        let mut lines = sqlx::query_scalar::<_, i64>(R::CONFLICTS).fetch(&mut *connection);
        while let Some(line) = lines.try_next().await? {
            let (line, field) = (line.cast_unsigned(), Some("id".to_owned()));
            let detail = format!("a {} with this id exists with other content", R::WHAT);
            report.reject(Rejection { line, fault: Fault::Conflict, field, detail });
            conflicts += 1;
        }
        report.unchanged += staged.saturating_sub(inserted + conflicts);
        Ok(())
    }
}

/// The same refusal, for a line.
pub fn rejection(line: u64, error: &LedgerError) -> Rejection {
    let (field, detail) = match error {
        LedgerError::Invalid { field, reason } => (Some((*field).to_owned()), reason.clone()),
        other => (None, other.to_string()),
    };
    Rejection { line, fault: Fault::Invalid, field, detail }
}

/// Writes one row of COPY's binary format.
#[derive(Debug)]
pub struct CopyRow<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
    fields: i16,
}

impl<'a> CopyRow<'a> {
    fn begin(buffer: &'a mut Vec<u8>) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&0_i16.to_be_bytes());
        Self { buffer, start, fields: 0 }
    }

    /// The number of fields comes first in the format, but is known last.
    fn end(self) {
        self.buffer[self.start..self.start + 2].copy_from_slice(&self.fields.to_be_bytes());
    }

    fn field(&mut self, value: Option<&[u8]>) -> &mut Self {
        self.fields += 1;
        // Fields have up to 2 GiB by the format, and one line of the input far less by our own limits.
        let length = value.map_or(Ok(-1), |value| i32::try_from(value.len())).unwrap_or(-1);
        self.buffer.extend_from_slice(&length.to_be_bytes());
        self.buffer.extend_from_slice(value.unwrap_or_default());
        self
    }

    fn bigint(&mut self, value: i64) -> &mut Self {
        self.field(Some(&value.to_be_bytes()))
    }

    /// A uuid, or null.
    pub fn uuid(&mut self, value: Option<Uuid>) -> &mut Self {
        self.field(value.as_ref().map(|id| id.as_bytes().as_slice()))
    }

    /// A text.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.field(Some(value.as_bytes()))
    }

    /// A timestamptz, or null.
    pub fn timestamp(&mut self, value: Option<DateTime<Utc>>) -> &mut Self {
        let micros = value.map(|moment| (moment.timestamp_micros() - POSTGRES_EPOCH_MICROS).to_be_bytes());
        self.field(micros.as_ref().map(<[u8; 8]>::as_slice))
    }
}
