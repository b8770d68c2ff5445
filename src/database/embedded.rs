//! A private Postgres under the data directory, for everyone who has not been given one.
//!
//! [`EmbeddedPostgres::start`] finds the Postgres programs, makes a cluster the first time, runs `postgres` itself and
//! waits until it answers; [`EmbeddedPostgres::stop`] stops it in order. When this process is killed, the kernel sends
//! Postgres the signal for a fast shutdown, so that the cluster is left clean all the same.
//!
//! What lies in the data directory:
//!
//! | name           | what                                                                    |
//! | -------------- | ----------------------------------------------------------------------- |
//! | `cluster/`     | Postgres' own data directory, and its socket                            |
//! | `pgpass`       | the generated password in psql's format, readable by its owner only     |
//! | `port`         | the port of the last time, used again if it is free                     |
//! | `postgres.log` | what Postgres says; begun anew when it is large                         |
//! | `lock`         | held by the process whose Postgres this is, for as long as it lives     |

mod binaries;
mod cluster;
mod endpoint;
mod process;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;

use self::binaries::{Installation, Places};
use self::cluster::{Cluster, Lock};
pub use self::endpoint::Endpoint;
use self::process::Postmaster;

/// The superuser of the embedded cluster, and the owner of [`DATABASE`].
pub const USER: &str = "newcycle";
/// The database of the embedded cluster.
pub const DATABASE: &str = "newcycle";

/// Postgres answers after a twentieth of a second; after a crash it replays its log first, which may take minutes.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// How often a starting Postgres is asked whether it is ready.
const START_POLL: Duration = Duration::from_millis(10);
/// A Postgres whose parent was killed writes a checkpoint and ends; one that takes longer than this is not ending.
const PREVIOUS_TIMEOUT: Duration = Duration::from_secs(60);
/// A fast shutdown ends all sessions and writes a checkpoint. If that takes longer, recovery will have to do.
const FAST_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// An immediate shutdown writes nothing; Postgres itself kills its children after five seconds.
const IMMEDIATE_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// A chosen port can be taken by another process before Postgres binds it, and the orphans of a killed Postgres need a
/// moment to notice: both are worth another try, after [`RETRY_DELAY`].
const START_ATTEMPTS: u32 = 5;
/// Orphaned backends notice that their Postgres is gone at once when idle, within a second or so when busy.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Where the embedded Postgres lives and how it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory that holds everything; made if missing.
    pub data_dir: PathBuf,
    /// The TCP port on 127.0.0.1. Without one: that of the last time if it is free, else any free one.
    pub port: Option<u16>,
    /// Whether committed data survive a power cut.
    pub durability: Durability,
    /// The directory of the programs `postgres` and `initdb`; without it they are looked for.
    pub binaries: Option<PathBuf>,
    /// Where `scripts/postgres.sh` puts the Postgres it fetches: `<cache_dir>/<major version>/bin/postgres`.
    pub cache_dir: PathBuf,
}

impl Settings {
    /// Data that are kept, on any port, with `NEWCYCLE_POSTGRES_BIN` and `NEWCYCLE_POSTGRES_CACHE` from the environment.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            data_dir: data_dir.into(),
            port: None,
            durability: Durability::Kept,
            binaries: variable("NEWCYCLE_POSTGRES_BIN"),
            cache_dir: variable("NEWCYCLE_POSTGRES_CACHE").unwrap_or_else(binaries::default_cache_dir),
        }
    }
}

/// Whether committed data survive a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Postgres as it is: a commit is on the disk before it is answered.
    Kept,
    /// For tests: nothing is ever synced, which is faster and loses everything in a power cut.
    Throwaway,
}

/// Why there is no embedded Postgres.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// No usable installation anywhere.
    #[error(
        "no PostgreSQL {} or later found (looked in: {looked_in}). Run `make postgres` to fetch one, install \
         PostgreSQL, or set DATABASE_URL to use a running one",
        binaries::OLDEST_MAJOR
    )]
    NoBinaries {
        /// The places, comma-separated.
        looked_in: String,
    },
    /// The directory that was named explicitly does not hold what is needed.
    #[error("the PostgreSQL programs in {} cannot be used: {reason}", directory.display())]
    UnusableBinaries {
        /// The directory as named.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Only Postgres of the same major version can read a cluster.
    #[error(
        "the data in {} were written by PostgreSQL {needed}, and only that version can read them (found: {found}). \
         Install PostgreSQL {needed}, or name its programs with NEWCYCLE_POSTGRES_BIN",
        data_dir.display()
    )]
    OtherVersion {
        /// Where the data are.
        data_dir: PathBuf,
        /// The major version that wrote them.
        needed: u32,
        /// The versions there are, comma-separated.
        found: String,
    },
    /// Postgres does not run as root, and there is no other account.
    #[error("PostgreSQL does not run as root, and /etc/passwd has neither the user postgres nor nobody")]
    NoAccount,
    /// The account that runs Postgres cannot get to something.
    #[error(
        "PostgreSQL runs as the user {account} and cannot reach {}, because that user may not search {}. \
         Allow it (chmod o+x {}) or move it elsewhere ({variable})",
        path.display(), directory.display(), directory.display()
    )]
    Unreachable {
        /// The account's name.
        account: String,
        /// What has to be reached.
        path: PathBuf,
        /// The parent directory in the way.
        directory: PathBuf,
        /// The environment variable that moves it.
        variable: &'static str,
    },
    /// Another process runs the Postgres of this directory; see [`EmbeddedPostgres::attach`].
    #[error("another process is running the database in {}", data_dir.display())]
    InUse {
        /// The directory.
        data_dir: PathBuf,
    },
    /// The Postgres of an earlier process does not end.
    #[error("the PostgreSQL of an earlier run (process {pid}) does not end")]
    PreviousStillRunning {
        /// Its process id.
        pid: i32,
    },
    /// The port asked for is taken.
    #[error("cannot listen on 127.0.0.1:{port}")]
    Port {
        /// The port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// A file or a program could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed: {output}")]
    Initialise {
        /// What it said.
        output: String,
    },
    /// `postgres` ended instead of starting.
    #[error("PostgreSQL did not start; it said:\n{log}")]
    Start {
        /// The last lines of its log.
        log: String,
    },
    /// Connecting to, or preparing, the started Postgres failed.
    #[error("cannot prepare the embedded PostgreSQL")]
    Connect(#[from] tokio_postgres::Error),
}

/// A running Postgres that belongs to this process.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    endpoint: Endpoint,
    postmaster: Postmaster,
    _lock: Lock,
}

impl EmbeddedPostgres {
    /// Starts the Postgres of `settings.data_dir`, making its cluster the first time, and waits until it answers.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError::InUse`] when another live process runs it, else whatever stands in the way.
    pub async fn start(settings: Settings) -> Result<Self, EmbeddedError> {
        let cluster = Cluster::open(&settings.data_dir)?;
        let lock = cluster.lock()?;
        let installation = Installation::find(&Places::of(&settings), &cluster)?;
        wait_for_previous(&cluster).await?;
        if !cluster.exists() {
            cluster.initialise(&installation, settings.durability).await?;
        }
        let mut attempt = 1;
        loop {
            let port = choose_port(settings.port, &cluster)?;
            match launch(&cluster, &installation, port, settings.durability).await {
                Ok((endpoint, postmaster)) => {
                    return Ok(Self { endpoint, postmaster, _lock: lock });
                }
                Err(EmbeddedError::Start { log }) if attempt < START_ATTEMPTS && may_pass(&log) => {
                    tracing::warn!(attempt, port, "PostgreSQL did not start; trying again");
                    attempt += 1;
                    sleep(RETRY_DELAY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The running Postgres of `data_dir`, whoever started it, or none.
    ///
    /// # Errors
    ///
    /// When the directory's files cannot be read.
    pub async fn attach(data_dir: &Path) -> Result<Option<Endpoint>, EmbeddedError> {
        let Some(cluster) = Cluster::existing(data_dir)? else {
            return Ok(None);
        };
        let Some(file) = cluster.postmaster_file()? else {
            return Ok(None);
        };
        let Some(port) = file.port else {
            return Ok(None);
        };
        let endpoint = Endpoint::new(&cluster, port, file.program.as_deref().and_then(Path::parent))?;
        Ok(endpoint.client_config(DATABASE).connect(tokio_postgres::NoTls).await.is_ok().then_some(endpoint))
    }

    /// How to connect.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Completes when Postgres ends, whether asked to or not.
    pub async fn exited(&self) -> Option<ExitStatus> {
        self.postmaster.exited().await
    }

    /// Ends all sessions, writes a checkpoint and stops; without the checkpoint if that takes too long.
    pub async fn stop(self) {
        self.postmaster.signal(Signal::INT);
        if timeout(FAST_SHUTDOWN_TIMEOUT, self.postmaster.exited()).await.is_ok() {
            return;
        }
        tracing::warn!("PostgreSQL takes too long to stop: stopping it at once, it will recover at the next start");
        self.postmaster.signal(Signal::QUIT);
        if timeout(IMMEDIATE_SHUTDOWN_TIMEOUT, self.postmaster.exited()).await.is_err() {
            tracing::error!("PostgreSQL does not stop");
        }
    }
}

/// Waits for the Postgres of a process that is no more; it has been told to end, and is told again.
async fn wait_for_previous(cluster: &Cluster) -> Result<(), EmbeddedError> {
    let deadline = Instant::now() + PREVIOUS_TIMEOUT;
    let mut told = false;
    while let Some(pid) = cluster.running_postmaster()? {
        if Instant::now() > deadline {
            return Err(EmbeddedError::PreviousStillRunning { pid: pid.as_raw_pid() });
        }
        if !told {
            tracing::info!(pid = pid.as_raw_pid(), "waiting for the PostgreSQL of an earlier run to end");
            process::signal(pid, Signal::INT);
            told = true;
        }
        sleep(START_POLL).await;
    }
    Ok(())
}

/// The port asked for, else the one of the last time if it is free, else any free one.
fn choose_port(asked: Option<u16>, cluster: &Cluster) -> Result<u16, EmbeddedError> {
    let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    let port = match (asked, cluster.remembered_port()) {
        (Some(port), _) if port != 0 => {
            return free(port).map(|_| port).map_err(|source| EmbeddedError::Port { port, source });
        }
        (_, Some(port)) if free(port).is_ok() => port,
        _ => free(0).map_err(|source| EmbeddedError::Port { port: 0, source })?.port(),
    };
    Ok(port)
}

/// Whether what Postgres said before it ended may not be so the next time: see [`START_ATTEMPTS`].
fn may_pass(log: &str) -> bool {
    ["could not create any TCP/IP sockets", "is still in use", "lock file \"postmaster.pid\" already exists"]
        .iter()
        .any(|passing| log.contains(passing))
}

/// Runs `postgres` and waits until it answers and the database exists.
async fn launch(
    cluster: &Cluster,
    installation: &Installation,
    port: u16,
    durability: Durability,
) -> Result<(Endpoint, Postmaster), EmbeddedError> {
    let endpoint = Endpoint::new(cluster, port, Some(installation.bin()))?;
    let (command, log) = cluster.postgres_command(installation, port, durability)?;
    let program = installation.program("postgres");
    let on_drop = if durability == Durability::Kept { Signal::INT } else { Signal::QUIT };
    let postmaster = Postmaster::spawn(command, on_drop).await.map_err(|source| EmbeddedError::File {
        action: "run",
        path: program,
        source,
    })?;
    tokio::select! {
        biased;
        _ = postmaster.exited() => return Err(EmbeddedError::Start { log: log.tail() }),
        ready = timeout(START_TIMEOUT, wait_until_ready(&endpoint)) => match ready {
            Ok(ready) => ready?,
            Err(_) => return Err(EmbeddedError::Start { log: log.tail() }),
        },
    }
    cluster.remember_port(port)?;
    Ok((endpoint, postmaster))
}

/// Connects again and again until Postgres lets somebody in, and makes the database if this is the first time.
async fn wait_until_ready(endpoint: &Endpoint) -> Result<(), tokio_postgres::Error> {
    loop {
        let Err(error) = endpoint.client_config(DATABASE).connect(tokio_postgres::NoTls).await else {
            return Ok(());
        };
        match error.code() {
            Some(code) if *code == SqlState::INVALID_CATALOG_NAME => break,
            // Nobody listens yet, or it is still recovering.
            None | Some(&SqlState::CANNOT_CONNECT_NOW) => sleep(START_POLL).await,
            Some(_) => return Err(error),
        }
    }
    let (client, connection) = endpoint.client_config("postgres").connect(tokio_postgres::NoTls).await?;
    let create = async { client.batch_execute(&format!("create database {DATABASE}")).await };
    tokio::select! {
        created = create => created,
        closed = connection => closed,
    }
}
