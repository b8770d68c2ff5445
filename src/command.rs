//! The command line: one binary, every setting as a flag and as an environment variable.

mod client;
pub mod demo;
pub mod doctor;
pub mod export;
pub mod import;
pub mod keys;
mod progress;
pub mod ready;
pub mod serve;
pub mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::database::{Database, DatabaseSettings};
use crate::http;
use crate::telemetry::{self, LogSettings};

/// A ledger of things that change hands, with exact live statistics.
///
/// Services insert base items, items, users and transfers over REST; everyone who has the dashboard open sees at once
/// how many; analysts read the same figures with psql. Postgres is all it needs, and without one it runs its own.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::ServeSettings,
    #[command(flatten, next_help_heading = "Database")]
    database: DatabaseSettings,
    #[command(flatten, next_help_heading = "Logging")]
    log: LogSettings,
}

const EXAMPLES: &str = "\
Examples:
  newcycle                               serve on http://127.0.0.1:8080 with a Postgres of its own
  newcycle --pghost db.example --pguser newcycle
                                         serve with that Postgres; put the password into PGPASSWORD
  newcycle import --transfers sales.csv  load a file into the ledger
  newcycle export transfers -o sales.csv.gz
                                         write a file of what a running server has
  newcycle demo --rate 20                let things happen on a running server";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (this is also what happens without a subcommand)
    Serve(serve::ServeSettings),
    /// Fetch data streams, beside servers or instead of them
    Worker(worker::WorkerSettings),
    /// Bring the database's schema up to date and stop; `serve` does so by itself
    Migrate,
    /// Load files into the ledger, with ids and times of their own: all of it or nothing
    Import(import::ImportSettings),
    /// Have a running server make a file of the ledger, or of a slice of it, and download that
    Export(export::ExportSettings),
    /// Make, list, rotate and revoke the keys with which services and people say who they are
    Keys(keys::KeysSettings),
    /// Let things happen on a running server: a stream of made-up items, users and transfers, for a look at the pages
    Demo(demo::DemoSettings),
    /// Print the OpenAPI document of the REST interface
    Openapi,
    /// Look at the settings, the database and the server, say what is wrong and what to do about it, and change nothing
    Doctor(Box<doctor::DoctorSettings>),
    /// Exit with 0 if the server at the address is ready, for container health checks
    Ready(ready::ReadySettings),
}

/// What ended a command.
type CommandError = Box<dyn std::error::Error + Send + Sync>;

/// Does what the command line says.
pub async fn run(line: CommandLine) -> ExitCode {
    // Others are over before anybody looks, or ask every few seconds.
    let makes_traces = matches!(line.command, None | Some(Command::Serve(_) | Command::Worker(_)));
    let outcome = match telemetry::start(&line.log, makes_traces) {
        Ok(telemetry) => {
            let outcome = execute(line).await;
            telemetry.stop().await;
            outcome
        }
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

async fn execute(line: CommandLine) -> Result<ExitCode, CommandError> {
    match line.command.unwrap_or(Command::Serve(line.serve)) {
        Command::Serve(settings) => serve::run(settings, &line.database).await?,
        Command::Worker(settings) => worker::run(settings, &line.database).await?,
        Command::Migrate => {
            let database = Database::open(&line.database).await?;
            let migrated = database.migrate().await;
            database.close().await;
            migrated?;
            tracing::info!("the schema is up to date");
        }
        Command::Import(settings) => return import::run(&settings, &line.database).await,
        Command::Export(settings) => return export::run(settings).await,
        Command::Keys(settings) => keys::run(settings, &line.database).await?,
        Command::Demo(settings) => demo::run(&settings).await?,
        Command::Openapi => print(&http::openapi().to_pretty_json()?),
        Command::Doctor(settings) => return Ok(doctor::run(&settings, &line.database).await),
        Command::Ready(settings) => return Ok(ready::run(&settings).await),
    }
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C and a service manager's request both ask for an orderly end.
async fn cancel_on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    shutdown.cancel();
    Ok(())
}

/// What a command is for goes to standard output; logs do not.
#[expect(clippy::print_stdout, reason = "the result of a command")]
fn print(text: &str) {
    println!("{text}");
}

/// What people want to know while a command works goes to standard error.
#[expect(clippy::print_stderr, reason = "what a command says while it works")]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// The error and what caused it, on one line.
#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn report(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    eprintln!("newcycle: {text}");
}
