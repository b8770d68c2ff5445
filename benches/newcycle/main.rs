//! `make bench`: how fast newcycle is, and how much it takes, on this machine.
//!
//! The server under test is the program itself, as a process of its own, on a real Postgres with fsync on that the
//! bench starts for each measurement; everything goes over loopback. The load comes from here, from threads that share
//! the machine's cores with what they measure and therefore do as little as they can.
//!
//! - [`measurement`] and its modules: one a measurement, each from setting up to its section of the report; [`plan`] says
//!   how long and how large;
//! - [`posts`] sends requests, at once or by a [`schedule`], [`watch`] reads streams, [`barrage`] asks for more than it may
//!   have, all over epoll ([`poll`]); [`http`] and [`inbox`] know the formats;
//! - [`cluster`], [`server`], [`nchan`], [`pgbench`] run what is measured, [`child`] sees that it ends with us, [`ledger`]
//!   makes many millions of events;
//! - [`figures`] are numbers with their spread, [`plot`] draws them, [`report`] writes `RESULTS.md`, [`machine`] says
//!   on what they were taken.
//!
//! Linux only: epoll, /proc.

mod barrage;
mod child;
mod cluster;
mod figures;
mod http;
mod inbox;
mod ledger;
mod machine;
mod measurement;
mod nchan;
mod pgbench;
mod plan;
mod plot;
mod poll;
mod posts;
mod report;
mod schedule;
mod server;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use measurement::Measurement;
use plan::Plan;
use report::Report;

/// What can go wrong is told, not handled.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One for each of 10,000 streams and then some; what a process may have at most on many machines.
const OPEN_FILES: u64 = 20_000;
/// The longest takes a few minutes on a small machine. What takes longer than this is given up, so that the rest is done.
const MEASUREMENT_TIMEOUT: Duration = Duration::from_secs(600);
/// Postgres writes a last checkpoint into the directory when we are interrupted; then it can be removed.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a removal is tried.
const REMOVAL_POLL: Duration = Duration::from_millis(200);

/// Measures newcycle and writes benches/RESULTS.md.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these measurements, into a report under target/
    #[arg(value_enum)]
    only: Vec<Measurement>,
    /// Everything short and small, to try the bench itself, into a report under target/
    #[arg(long)]
    quick: bool,
    /// How many events the large ledger has [default: 50 million, with --quick 300,000]
    #[arg(long, value_name = "N")]
    events: Option<u64>,
    /// What cargo passes
    #[arg(long, hide = true)]
    bench: bool,
}

/// What all measurements share.
struct Run {
    plan: Plan,
    /// Everything that is written while measuring is in here.
    directory: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let directory = run_directory();
    let outcome = tokio::select! {
        outcome = measure(&arguments, &directory) => outcome,
        _ = interruption() => Err("interrupted".into()),
    };
    remove(&directory);
    // Not by returning: load that is still under way after an interruption would be waited for.
    std::process::exit(match outcome {
        Ok(()) => 0,
        Err(error) => {
            tell(&format!("FAILED: {error}"));
            1
        }
    })
}

/// Ctrl-C, or what `timeout` sends.
async fn interruption() -> Outcome<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn measure(arguments: &Arguments, directory: &Path) -> Outcome<()> {
    std::fs::create_dir_all(directory)?;
    raise_open_files()?;
    let begun = Instant::now();
    let run = Run { plan: Plan::new(arguments.quick, arguments.events), directory: directory.to_owned() };
    let chosen = if arguments.only.is_empty() { Measurement::ALL.to_vec() } else { arguments.only.clone() };
    let whole = arguments.only.is_empty() && !arguments.quick && arguments.events.is_none();

    let mut report = Report::new(machine::describe(directory)?, whole);
    let mut failed = Vec::new();
    for measurement in chosen {
        tell(&format!("\n{measurement}"));
        let started = Instant::now();
        let taken = timeout(MEASUREMENT_TIMEOUT, measurement.take(&run)).await;
        let taken = taken.unwrap_or_else(|_| Err(format!("not done after {} s", MEASUREMENT_TIMEOUT.as_secs()).into()));
        match taken {
            Ok(section) => report.sections.push(section),
            Err(error) => {
                tell(&format!("  failed: {error}"));
                report.sections.push(measurement.failed(error.as_ref()));
                failed.push(format!("{measurement}: {error}"));
            }
        }
        tell(&format!("  took {:.0} s", started.elapsed().as_secs_f64()));
    }
    report.took = begun.elapsed();
    let results = if whole {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench")
    };
    let path = report.write(&results)?;
    tell(&format!("\n{}\n\n{} s in all; the report is {}", report.table(), begun.elapsed().as_secs(), path.display()));
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
}

/// What people want to know while it runs.
#[expect(clippy::print_stdout, reason = "a program for the terminal")]
fn tell(text: &str) {
    println!("{text}");
}

/// Under target/, which is on a disk: where Postgres syncs to matters. Left over directories of runs that were killed
/// are removed.
fn run_directory() -> PathBuf {
    const PREFIX: &str = "bench-";
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in base.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
    base.join(format!("{PREFIX}{}", std::process::id()))
}

fn remove(directory: &Path) {
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    while directory.exists() && std::fs::remove_dir_all(directory).is_err() && Instant::now() < deadline {
        std::thread::sleep(REMOVAL_POLL);
    }
}

/// Children inherit it.
fn raise_open_files() -> Outcome<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?;
    }
    Ok(())
}
