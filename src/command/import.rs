//! `newcycle import`

mod columns;
mod source;

#[cfg(any(test, fuzzing))]
pub(crate) use source::fuzzing;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use super::progress::Progress;
use super::{CommandError, cancel_on_signal, print, tell};
use crate::database::{Database, DatabaseSettings};
use crate::ledger::bulk::{self, LoadError, Report};
use crate::ledger::{BaseItem, Item, Record, Transfer, User};
use columns::FromColumns;
use source::{Format, Source};

/// So many rejected rows are described in all; the rest are only counted, as thousands of lines help nobody.
const DESCRIBED_REJECTIONS: usize = 100;

/// What to load.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = IMPORT_HELP)]
pub struct ImportSettings {
    #[command(flatten)]
    files: Files,
    /// Import the good rows and report the others, instead of all or nothing
    #[arg(long)]
    skip_rejected: bool,
    /// How rows are written in standard input, and in files whose names do not end in .csv, .ndjson or .jsonl
    #[arg(long, value_enum)]
    format: Option<Format>,
}

const IMPORT_HELP: &str = "\
Columns of CSV files, in any order; the first row names them. Fields of NDJSON are called the same:
  base items  id, description, created_at
  users       id, created_at
  items       id, base_item_id, created_at
  transfers   id, item_id, owner_id, timestamp
Ids are UUIDs, times are RFC 3339 with an offset (2026-11-21T10:01:00Z). A time that is missing or empty is now.

Everything is one transaction: base items, users, items, transfers, in this order, and then all of it is there, or, if
anything fails or the import is stopped, nothing. A server may run meanwhile; its pages show the rows at once.

An import can be repeated when the rows have ids: what is there already counts as unchanged. A row without an id gets
a new one each time, so importing it twice makes two rows of it.

Wrong rows are reported as file:line: field: reason. Any wrong row means that nothing is imported and that the exit
code is 1; with --skip-rejected the others are imported, and the exit code is 0.

Examples:
  newcycle import --base-items kinds.csv --users people.csv --items pieces.csv --transfers sales.csv
  newcycle import --transfers 2025.csv 2026.csv --skip-rejected
  generate-sales | newcycle import --transfers - --format ndjson";

/// The files, by what is in them.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Files {
    /// Files with base items, as CSV or NDJSON; - is standard input
    #[arg(long, value_name = "FILE", num_args = 1..)]
    base_items: Vec<PathBuf>,
    /// Files with users
    #[arg(long, value_name = "FILE", num_args = 1..)]
    users: Vec<PathBuf>,
    /// Files with items
    #[arg(long, value_name = "FILE", num_args = 1..)]
    items: Vec<PathBuf>,
    /// Files with transfers
    #[arg(long, value_name = "FILE", num_args = 1..)]
    transfers: Vec<PathBuf>,
}

/// The same, opened.
struct Sources {
    base_items: Vec<Source>,
    users: Vec<Source>,
    items: Vec<Source>,
    transfers: Vec<Source>,
}

/// Why an import ended early.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("interrupted: nothing was imported")]
    Interrupted,
    #[error("nothing was imported")]
    Undone(#[source] Box<dyn Error + Send + Sync>),
    /// The connection was lost between asking for the commit and hearing of it.
    #[error("whether the rows were imported is not known; importing them again, if they have ids, shows it")]
    Unconfirmed(#[source] sqlx::Error),
}

impl ImportError {
    fn undone(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Undone(error.into())
    }
}

pub(super) async fn run(settings: &ImportSettings, database: &DatabaseSettings) -> Result<ExitCode, CommandError> {
    // All files first: what is wrong with the last one should not show after an hour of loading the others.
    let sources = settings.files.open(settings.format)?;
    let shutdown = CancellationToken::new();
    let _stop_on_signal = tokio::spawn(cancel_on_signal(shutdown.clone()));
    let Some(database) = shutdown.run_until_cancelled(Database::open(database)).await.transpose()? else {
        return Err(ImportError::Interrupted.into());
    };
    let imported = shutdown.run_until_cancelled(import(&database, sources, settings.skip_rejected)).await;
    database.close().await;
    Ok(imported.unwrap_or(Err(ImportError::Interrupted))?)
}

async fn import(database: &Database, sources: Sources, skip_rejected: bool) -> Result<ExitCode, ImportError> {
    let begin = Instant::now();
    database.migrate().await.map_err(ImportError::undone)?;
    // A connection of its own: the pool's warn of statements that take a second, and here those are in order. When the
    // import is interrupted it just closes, and Postgres rolls back.
    let options = PgConnectOptions::clone(&database.pool.connect_options()).disable_statement_logging();
    let mut connection = options.connect().await.map_err(ImportError::undone)?;
    let mut transaction = connection.begin().await.map_err(ImportError::undone)?;
    let mut summary = Summary::default();
    summary.load::<BaseItem>(&mut transaction, "base items", sources.base_items).await?;
    summary.load::<User>(&mut transaction, "users", sources.users).await?;
    summary.load::<Item>(&mut transaction, "items", sources.items).await?;
    summary.load::<Transfer>(&mut transaction, "transfers", sources.transfers).await?;
    let rejected: u64 = summary.kinds.iter().map(|kind| kind.rejected).sum();
    let described = u64::try_from(summary.described).unwrap_or(u64::MAX);
    if rejected > described {
        tell(&format!("… and {} more rejected rows", HumanCount(rejected - described)));
    }
    if rejected > 0 && !skip_rejected {
        transaction.rollback().await.map_err(ImportError::undone)?;
        let rows = if rejected == 1 { "1 row is".to_owned() } else { format!("{} rows are", HumanCount(rejected)) };
        tell(&format!("newcycle: {rows} wrong, so nothing was imported; --skip-rejected imports the others"));
        return Ok(ExitCode::FAILURE);
    }
    transaction.commit().await.map_err(ImportError::Unconfirmed)?;
    print(&summary.table());
    print(&format!("imported in {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

impl Files {
    fn open(&self, format: Option<Format>) -> Result<Sources, CommandError> {
        let all = [&self.base_items, &self.users, &self.items, &self.transfers];
        if all.into_iter().flatten().filter(|path| source::is_standard_input(path)).count() > 1 {
            return Err("standard input (-) can be named once only".into());
        }
        Ok(Sources {
            base_items: source::open_all::<<BaseItem as Record>::New>(&self.base_items, format)?,
            users: source::open_all::<<User as Record>::New>(&self.users, format)?,
            items: source::open_all::<<Item as Record>::New>(&self.items, format)?,
            transfers: source::open_all::<<Transfer as Record>::New>(&self.transfers, format)?,
        })
    }
}

/// What became of all rows.
#[derive(Debug, Default)]
struct Summary {
    kinds: Vec<Kind>,
    described: usize,
}

/// What became of the rows of a kind.
#[derive(Debug)]
struct Kind {
    name: &'static str,
    inserted: u64,
    unchanged: u64,
    rejected: u64,
    time: Duration,
}

impl Summary {
    /// Loads all files of a kind.
    async fn load<R>(
        &mut self,
        connection: &mut PgConnection,
        name: &'static str,
        sources: Vec<Source>,
    ) -> Result<(), ImportError>
    where
        R: Record<New: FromColumns + DeserializeOwned>,
    {
        if sources.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        let mut kind = Kind { name, inserted: 0, unchanged: 0, rejected: 0, time: Duration::ZERO };
        for source in sources {
            let file = source.name.clone();
            let template = if source.bytes.is_some() {
                "{prefix} {wide_bar} {percent:>3}%  {msg}"
            } else {
                "{prefix} {spinner}  {msg}"
            };
            let mut progress = Progress::begin(format!("{name} from {file}"), source.bytes, template);
            let (read, begin) = (Arc::clone(&source.read), Instant::now());
            let loaded = bulk::load::<R, _>(connection, source.lines(), None, |rows| {
                progress.show(read.load(Ordering::Relaxed), || {
                    format!("{} rows, {} rows/s", HumanCount(rows), rate(rows, begin.elapsed()))
                });
            })
            .await;
            let report = loaded.map_err(|error| match error {
                LoadError::Input(error) => ImportError::undone(error),
                LoadError::Ledger(error) => ImportError::undone(error),
            })?;
            drop(progress);
            self.describe(&file, &report);
            kind.inserted += report.inserted;
            kind.unchanged += report.unchanged;
            kind.rejected += report.rejected;
        }
        kind.time = begin.elapsed();
        self.kinds.push(kind);
        Ok(())
    }

    /// Reports rejected rows, as long as there is room.
    fn describe(&mut self, file: &str, report: &Report) {
        for rejection in report.rejections.iter().take(DESCRIBED_REJECTIONS - self.described) {
            let field = rejection.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
            tell(&format!("{file}:{}: {field}{}", rejection.line, rejection.detail));
            self.described += 1;
        }
    }

    fn table(&self) -> String {
        let mut table = row("", ["inserted", "unchanged", "rejected", "time", "rows/s"].map(str::to_owned));
        for kind in &self.kinds {
            let rows = kind.inserted + kind.unchanged + kind.rejected;
            table.push('\n');
            table.push_str(&row(
                kind.name,
                [
                    HumanCount(kind.inserted).to_string(),
                    HumanCount(kind.unchanged).to_string(),
                    HumanCount(kind.rejected).to_string(),
                    format!("{:.2} s", kind.time.as_secs_f64()),
                    rate(rows, kind.time).to_string(),
                ],
            ));
        }
        table
    }
}

fn row(name: &str, [inserted, unchanged, rejected, time, rate]: [String; 5]) -> String {
    format!("{name:<10} {inserted:>13} {unchanged:>13} {rejected:>13} {time:>11} {rate:>11}")
}

/// Rows a second, to read.
fn rate(rows: u64, time: Duration) -> HumanCount {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "to read")]
    HumanCount((rows as f64 / time.as_secs_f64().max(1e-3)).round() as u64)
}
