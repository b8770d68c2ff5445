//! `newcycle doctor`
//!
//! Each check is a small function that looks at one thing and says what it found; none of them changes anything. They are
//! asked one after the other over one connection, each within seconds, so that a database that hangs is told as well as one
//! that is away, and one that has few connections to spare keeps them.

mod activity;
mod configuration;
mod finding;
mod hosts;
mod place;
mod postgres;
mod questions;
mod schema;
mod statistics;
mod work;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::timeout;

use self::finding::{Finding, Report};
use self::questions::{Questions, Unanswered};
use super::serve::ServeSettings;
use super::tell;
use crate::database::embedded::{DATABASE, EmbeddedPostgres};
use crate::database::{CONNECT_TIMEOUT, Connector, DatabaseError, DatabaseSettings, Primary, Target};

/// What to look at: what `serve` would have, with the same settings.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = DOCTOR_HELP)]
pub struct DoctorSettings {
    /// Say it for machines, as JSON
    #[arg(long)]
    json: bool,
    /// Recount the ledger as well and compare it with the statistics: that reads everything, and takes its time
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    serve: ServeSettings,
}

const DOCTOR_HELP: &str = "\
Give it the settings that the server has: run it with the same environment and flags, beside it. It starts nothing and changes
nothing, neither schema nor rows, whatever is wrong. It exits with 0 if there is no problem (there may be warnings), with 1 if there is
one, and with 2 if the settings cannot be read.

Examples:
  newcycle doctor                                      what is wrong, if anything
  docker compose exec server newcycle doctor           the same in a container
  newcycle doctor --deep                               also after a restore: are the statistics exact?
  newcycle doctor --json | jq '.findings[] | select(.mark == \"problem\")'";

pub(super) async fn run(settings: &DoctorSettings, database: &DatabaseSettings) -> ExitCode {
    let mut report = Report::default();
    configuration::check(&settings.serve, database, &mut report).await;
    check_database(settings, database, &mut report).await;
    place::check(&settings.serve, database, &mut report).await;
    if settings.json {
        match report.as_json() {
            Ok(json) => show(&json),
            Err(error) => tell(&error.to_string()),
        }
    } else {
        show(&report.to_string());
    }
    if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whoever wants the first lines only (`| head`) has them.
fn show(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Everything that takes a database.
async fn check_database(settings: &DoctorSettings, database: &DatabaseSettings, report: &mut Report) {
    let target = match database_target(database).await {
        Ok(target) => target,
        Err(finding) => return report.add("database", [finding]),
    };
    let primary = match Primary::among(&target) {
        Ok(primary) => primary,
        Err(error) => return report.add("database", [unusable(&error)]),
    };
    let Some(connector) = hosts::check(&primary, report).await else { return };
    match Questions::to(&connector).await {
        Ok(mut questions) => examine(settings, database, (&mut questions, &connector), report).await,
        Err(unanswered) => report.add("database", [unanswered.into()]),
    }
}

/// Where the database is: the one that is named, or our own if it runs. It is not started.
async fn database_target(settings: &DatabaseSettings) -> Result<Target, Finding> {
    match settings.named() {
        Ok(Some(target)) => return Ok(target),
        Ok(None) => {}
        Err(error) => return Err(unusable(&error)),
    }
    let directory = settings.data_dir.display();
    match timeout(CONNECT_TIMEOUT, EmbeddedPostgres::attach(&settings.data_dir)).await {
        Ok(Ok(Some(endpoint))) => Ok(endpoint.client_config(DATABASE).into()),
        Ok(Ok(None)) => Err(not_running(&settings.data_dir)),
        Ok(Err(error)) => Err(Finding::problem(error.to_string(), "run it as the user who runs the server")),
        Err(_) => Err(Finding::problem(
            format!("the Postgres in {directory} does not answer"),
            format!("look at {directory}/postgres.log, then restart the server"),
        )),
    }
}

/// What is wrong with the settings.
fn unusable(error: &DatabaseError) -> Finding {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let remedy = match error {
        DatabaseError::SslMode(_) => "sslmode=verify-full, or require where the certificate cannot be checked",
        DatabaseError::UnreadableRoots { .. } => {
            "name the file with the certificates of the authority, PEM, that this user may read; none is needed for public ones"
        }
        _ => "DATABASE_URL=postgres://user:password@host:5432/database",
    };
    Finding::problem(format!("{error}{cause}"), remedy)
}

fn not_running(data_dir: &Path) -> Finding {
    let directory = data_dir.display();
    let found = if data_dir.join("cluster").is_dir() {
        format!("neither DATABASE_URL nor PGHOST is set, and newcycle's own Postgres in {directory} does not run")
    } else {
        format!("neither DATABASE_URL nor PGHOST is set, and there is no Postgres of newcycle's own in {directory}")
    };
    let remedy = "start the server (`systemctl start newcycle`, `newcycle serve`), or set DATABASE_URL or \
        NEWCYCLE_DATA_DIR as the server has it; all that takes a database was left out";
    Finding::problem(found, remedy)
}

/// What a database that answers is asked.
async fn examine(
    settings: &DoctorSettings,
    database: &DatabaseSettings,
    (questions, connector): (&mut Questions, &Connector),
    report: &mut Report,
) {
    let add = |report: &mut Report, check, outcome: Result<Vec<Finding>, Unanswered>, fine: &str| match outcome {
        Ok(findings) => report.add_or(check, findings, fine),
        Err(unanswered) => report.add(check, [unanswered.into()]),
    };
    let serve = &settings.serve;
    add(report, "sslmode", postgres::encryption(questions).await, "");
    add(report, "settings", postgres::settings(questions).await, "commits are durable, autovacuum is on");
    add(report, "capacity", postgres::capacity(questions, serve, database).await, "there are enough connections");
    add(report, "ids", postgres::transaction_ids(questions).await, "transaction ids are far from their end");
    add(report, "wal", postgres::write_ahead_log(questions).await, "nothing holds the write-ahead log up");
    add(report, "migrations", schema::migrations(questions).await, "the schema is this program's");
    add(report, "rights", schema::rights(questions).await, "the role may do what the server does");
    add(report, "triggers", schema::triggers(questions).await, "all triggers are there and on");
    add(report, "constraints", schema::constraints(questions).await, "all constraints hold, all indexes are usable");
    add(report, "notifications", activity::round_trip(questions, connector).await, "a notification arrives");
    add(report, "queue", activity::queue(questions).await, "the queue of notifications is empty enough");
    add(report, "sessions", activity::sessions(questions).await, "no session holds others up");
    add(report, "vacuum", statistics::dead_rows(questions).await, "dead rows are cleaned up");
    add(report, "folding", statistics::folding(questions).await, "deltas are folded");
    let counted =
        if settings.deep { statistics::recount(questions).await } else { statistics::sample(questions).await };
    add(report, "statistics", counted, "the statistics agree with a recount");
    add(report, "jobs", work::jobs(questions, serve).await, "no job is stuck");
    add(report, "streams", work::streams(questions).await, "no data stream was stopped by an error");
    add(report, "dead letters", work::dead_letters(questions).await, "none");
    add(report, "exports", work::exports(questions).await, "none failed in the last day");
    add(report, "secrets", work::secrets(questions, serve, &database.data_dir).await, "the key opens all secrets");
    add(report, "access", configuration::access(questions, serve).await, "");
}

/// A length of time as people say it.
fn for_people(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.max(0.0) as u64);
    humantime::format_duration(whole).to_string()
}
