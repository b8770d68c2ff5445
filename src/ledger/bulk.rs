//! Many rows at once, from a file or a stream, through binary COPY. Memory stays bounded at any size, here and in
//! Postgres. The caller owns the transaction, so that it decides whether some rejected rows undo the rest.
//!
//! Most loads have nothing wrong with them, so each batch is first copied straight into the ledger, as fast as `COPY`
//! does it by itself, while the next one is being read. When the database refuses a batch, that one is undone and goes
//! through a staging table, where set-wise checks find the rows at fault; good batches after it go straight again.

use std::pin::Pin;

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt, pin_mut};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{LedgerError, NewRecord, Parent, Record};
use crate::audit::{self, Author};

/// So many rows are written at a time. Postgres remembers the rows of a statement until its end (to check and count them),
/// and so does the server (to look closer should one be refused): this bounds both. Much fewer, and the statements
/// themselves would begin to show.
const BATCH: usize = 50_000;
/// A batch also ends when its rows take so many bytes in COPY's format: long descriptions, say.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
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

/// Loads rows within the caller's transaction, in somebody's name or nobody's. `progress` hears how many lines have been
/// dealt with.
pub async fn load<R: Record, E>(
    connection: &mut PgConnection,
    lines: impl Stream<Item = Result<Line<R::New>, E>>,
    author: Option<&Author>,
    mut progress: impl FnMut(u64),
) -> Result<Report, LoadError<E>> {
    pin_mut!(lines);
    let mut report = Report::default();
    // What a row gets that does not say when it happened.
    let now = sqlx::query_scalar("select now()").fetch_one(&mut *connection).await?;
    let mut straight = true;
    let mut batch = Batch::<R>::read(&mut lines).await.map_err(LoadError::Input)?;
    let mut read = 0;
    loop {
        let last = batch.is_last;
        let writing = write_for(author, connection, &batch, now, straight);
        let reading = async { if last { Ok(Batch::default()) } else { Batch::read(&mut lines).await } };
        let (written, next) = tokio::join!(writing, reading);
        straight = written?.add_to(&mut report);
        read += batch.lines;
        for rejection in std::mem::take(&mut batch.rejections) {
            report.reject(rejection);
        }
        progress(read);
        if last {
            break;
        }
        batch = next.map_err(LoadError::Input)?;
    }
    report.keep_the_first();
    Ok(report)
}

/// A row that can be written, as far as can be said without the database.
#[derive(Debug)]
struct Row<R: Record> {
    id: Uuid,
    line: u64,
    new: R::New,
}

/// Rows that are written together, as far as they can be judged without the database.
#[derive(Debug)]
struct Batch<R: Record> {
    /// By id: two loads with the same rows then wait for each other, but never both at once.
    rows: Vec<Row<R>>,
    rejections: Vec<Rejection>,
    lines: u64,
    is_last: bool,
}

impl<R: Record> Default for Batch<R> {
    fn default() -> Self {
        Self { rows: Vec::new(), rejections: Vec::new(), lines: 0, is_last: true }
    }
}

impl<R: Record> Batch<R> {
    async fn read<E>(lines: &mut Pin<&mut impl Stream<Item = Result<Line<R::New>, E>>>) -> Result<Self, E> {
        let mut batch = Self { is_last: false, ..Self::default() };
        let mut bytes = 0;
        while batch.rows.len() < BATCH && bytes < BATCH_BYTES {
            let Some(line) = lines.next().await.transpose()? else {
                batch.is_last = true;
                break;
            };
            batch.lines += 1;
            let number = line.number;
            let checked = line.content.and_then(|mut new: R::New| match new.validate(Utc::now()) {
                Ok(id) => Ok(Row { id, line: number, new }),
                Err(error) => Err(rejection(number, &error)),
            });
            match checked {
                Ok::<Row<R>, _>(row) => {
                    bytes += row.new.size();
                    batch.rows.push(row);
                }
                // Rejections are counted, but not all of them are kept: a batch of nothing else has to end, too.
                Err(rejection) => {
                    bytes += size_of::<Rejection>();
                    batch.rejections.push(rejection);
                }
            }
        }
        batch.rows.sort_unstable_by_key(|row| (row.id, row.line));
        Ok(batch)
    }
}

/// What became of the rows of a batch.
#[derive(Debug, Default)]
struct Written {
    inserted: Vec<Uuid>,
    unchanged: u64,
    rejections: Vec<Rejection>,
}

impl Written {
    /// Whether all rows were new.
    fn add_to(self, report: &mut Report) -> bool {
        let all_new = self.unchanged == 0 && self.rejections.is_empty();
        report.inserted += self.inserted.len() as u64;
        report.unchanged += self.unchanged;
        for rejection in self.rejections {
            report.reject(rejection);
        }
        all_new
    }
}

/// Writes a batch, and notes who did.
async fn write_for<R: Record>(
    author: Option<&Author>,
    connection: &mut PgConnection,
    batch: &Batch<R>,
    now: DateTime<Utc>,
    straight: bool,
) -> Result<Written, sqlx::Error> {
    let written = write(connection, batch, now, straight).await?;
    if let Some(author) = author {
        audit::note(connection, author, R::TABLE, &written.inserted).await?;
    }
    Ok(written)
}

async fn write<R: Record>(
    connection: &mut PgConnection,
    batch: &Batch<R>,
    now: DateTime<Utc>,
    straight: bool,
) -> Result<Written, sqlx::Error> {
    if batch.rows.is_empty() {
        return Ok(Written::default());
    }
    if straight {
        let mut savepoint = connection.begin().await?;
        match copy(&mut savepoint, R::COPY, batch, |row, _| row.moment = Some(now)).await {
            Ok(()) => {
                savepoint.commit().await?;
                let inserted = batch.rows.iter().map(|row| row.id).collect();
                return Ok(Written { inserted, ..Written::default() });
            }
            // Integrity constraints, and a deadlock with another load of the same rows: those are what staging is for.
            Err(error) if has_code(&error, &["23", "40P01"]) => savepoint.rollback().await?,
            Err(error) => return Err(error),
        }
    }
    sqlx::query(R::STAGE).execute(&mut *connection).await?;
    copy(connection, R::COPY_STAGED, batch, |row, line| {
        row.bigint(line.cast_signed());
    })
    .await?;
    let written = merge::<R>(connection, batch.rows.len() as u64).await?;
    sqlx::query(AssertSqlSafe(format!("drop table staged_{}", R::TABLE))).execute(connection).await?;
    Ok(written)
}

fn has_code(error: &sqlx::Error, prefixes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| prefixes.iter().any(|prefix| code.starts_with(prefix)))
}

/// Copies all rows of the batch; `begin` writes what comes before a row's own columns, from its line number.
async fn copy<R: Record>(
    connection: &mut PgConnection,
    statement: &'static str,
    batch: &Batch<R>,
    begin: impl Fn(&mut CopyRow<'_>, u64),
) -> Result<(), sqlx::Error> {
    let mut copy = connection.copy_in_raw(statement).await?;
    let mut buffer = COPY_HEADER.to_vec();
    for row in &batch.rows {
        let mut columns = CopyRow::begin(&mut buffer);
        begin(&mut columns, row.line);
        row.new.copy(&mut columns);
        columns.end();
        if buffer.len() >= CHUNK {
            copy.send(std::mem::take(&mut buffer)).await?;
        }
    }
    buffer.extend_from_slice(&COPY_TRAILER);
    copy.send(buffer).await?;
    copy.finish().await?;
    Ok(())
}

/// Moves what is staged into the ledger, but for rows that cannot be there.
async fn merge<R: Record>(connection: &mut PgConnection, mut staged: u64) -> Result<Written, sqlx::Error> {
    let mut written = Written::default();
    for parent in R::PARENTS {
        let Parent { column, table, reason } = parent;
        let orphans = AssertSqlSafe(format!(
            "delete from staged_{} s where not exists (select from {table} p where p.id = s.{column}) returning line",
            R::TABLE
        ));
        let orphans: Vec<i64> = sqlx::query_scalar(orphans).fetch_all(&mut *connection).await?;
        staged -= orphans.len() as u64;
        written.rejections.extend(orphans.into_iter().map(|line| Rejection {
            line: line.cast_unsigned(),
            fault: Fault::Invalid,
            field: Some((*column).to_owned()),
            detail: (*reason).to_owned(),
        }));
    }
    let merge = AssertSqlSafe(format!("{} returning id", R::MERGE));
    written.inserted = sqlx::query_scalar(merge).fetch_all(&mut *connection).await?;
    let inserted = written.inserted.len() as u64;
    if inserted == staged {
        return Ok(written);
    }
    let conflicts: Vec<i64> = sqlx::query_scalar(R::CONFLICTS).fetch_all(connection).await?;
    written.unchanged = staged.saturating_sub(inserted + conflicts.len() as u64);
    written.rejections.extend(conflicts.into_iter().map(|line| Rejection {
        line: line.cast_unsigned(),
        fault: Fault::Conflict,
        field: Some("id".to_owned()),
        detail: format!("a {} with this id exists with other content", R::WHAT),
    }));
    Ok(written)
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
    /// What stands for a moment that is not given, if anything does.
    moment: Option<DateTime<Utc>>,
}

impl<'a> CopyRow<'a> {
    fn begin(buffer: &'a mut Vec<u8>) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&0_i16.to_be_bytes());
        Self { buffer, start, fields: 0, moment: None }
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
        let micros =
            value.or(self.moment).map(|moment| (moment.timestamp_micros() - POSTGRES_EPOCH_MICROS).to_be_bytes());
        self.field(micros.as_ref().map(<[u8; 8]>::as_slice))
    }
}
