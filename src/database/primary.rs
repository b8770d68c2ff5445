//! Which host takes writes.
//!
//! Several hosts may be named, of which one is the primary and the others are standbys that may become it. tokio-postgres tries
//! all of them for each connection; sqlx knows one host only. So the primary is looked for here, when the server starts and
//! whenever the connection that listens is lost, and the pools are told where it is.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgPool};
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

use super::{CONNECT_TIMEOUT, DatabaseError, SslMode, Target};
use crate::keep_alive::KeepAlive;

const DEFAULT_PORT: u16 = 5432;

/// What a connection that is encrypted goes over.
type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// Follows the primary among the hosts that were named. A shared handle.
#[derive(Clone, Debug)]
pub struct Primary(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hosts: Vec<Candidate>,
    /// Which of them takes writes, as far as is known.
    present: AtomicUsize,
    /// Who has to be told.
    pools: OnceLock<[PgPool; 2]>,
}

/// A host, and how to connect to it with either library.
#[derive(Debug)]
struct Candidate {
    connector: Connector,
    options: PgConnectOptions,
}

/// How to connect to a host, without a pool.
#[derive(Clone)]
pub struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
}

/// None of the hosts takes writes: why not, of each.
#[derive(Debug)]
pub struct NoPrimary(Vec<(String, Reason)>);

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("it does not answer")]
    Silent,
    #[error("it is a standby, which takes no writes and delivers no notifications")]
    Standby,
    #[error(transparent)]
    Failed(#[from] tokio_postgres::Error),
}

impl Primary {
    /// The one of these hosts, which is not known yet.
    pub(crate) fn among(target: &Target) -> Result<Self, DatabaseError> {
        let config = &target.config;
        if config.get_hosts().is_empty() {
            return Err(DatabaseError::Unsupported("a host must be given for the database"));
        }
        let (ports, tls) = (config.get_ports(), target.tls()?);
        let hosts = config.get_hosts().iter().enumerate().map(|(number, host)| {
            let port = ports.get(number).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
            let connector = Connector { config: config_for(target, host, port), tls: tls.clone() };
            Ok(Candidate { connector, options: options_for(target, host, port)? })
        });
        let hosts = hosts.collect::<Result<_, sqlx::Error>>()?;
        Ok(Self(Arc::new(Inner { hosts, present: AtomicUsize::new(0), pools: OnceLock::new() })))
    }

    /// How to connect to it, as far as is known.
    pub fn connector(&self) -> &Connector {
        &self.present().connector
    }

    /// How pools connect to it, as far as is known.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.present().options
    }

    /// All hosts: how people call each, and how to connect to it.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (String, &Connector)> {
        self.0.hosts.iter().map(|host| (host.name(), &host.connector))
    }

    /// The ports of all hosts.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.0.hosts.iter().map(Candidate::port).collect()
    }

    /// Has these pools follow it, too.
    pub(super) fn lead(&self, pools: [PgPool; 2]) {
        // A database is opened once.
        let _ = self.0.pools.set(pools);
    }

    /// Looks for it again, where there is a choice.
    pub async fn follow(&self) -> Result<(), NoPrimary> {
        if self.0.hosts.len() > 1 { self.find().await } else { Ok(()) }
    }

    /// Asks all hosts at once, and has the pools connect to the first that takes writes.
    pub(super) async fn find(&self) -> Result<(), NoPrimary> {
        let hosts = &self.0.hosts;
        let ask = async |(number, host): (usize, &Candidate)| (number, host.takes_writes().await);
        let mut asked: FuturesUnordered<_> = hosts.iter().enumerate().map(ask).collect();
        let mut reasons = Vec::new();
        while let Some((number, answer)) = asked.next().await {
            match answer {
                Ok(()) => {
                    self.move_to(number);
                    return Ok(());
                }
                Err(reason) => reasons.push((hosts[number].name(), reason)),
            }
        }
        Err(NoPrimary(reasons))
    }

    fn move_to(&self, number: usize) {
        let Inner { hosts, present, pools } = &*self.0;
        if present.swap(number, Ordering::Relaxed) == number {
            return;
        }
        let host = &hosts[number];
        tracing::info!(host = host.name(), "this is the host that takes writes");
        for pool in pools.get().into_iter().flatten() {
            pool.set_connect_options(host.options.clone());
        }
    }

    fn present(&self) -> &Candidate {
        &self.0.hosts[self.0.present.load(Ordering::Relaxed)]
    }
}

impl Candidate {
    async fn takes_writes(&self) -> Result<(), Reason> {
        let asking = async {
            let (client, connection) = self.connector.connect().await?;
            let question = client.query_one("select pg_is_in_recovery()", &[]);
            tokio::select! {
                row = question => if row?.try_get(0)? { Err(Reason::Standby) } else { Ok(()) },
                ended = connection => Err(ended.err().map_or(Reason::Silent, Reason::Failed)),
            }
        };
        timeout(CONNECT_TIMEOUT, asking).await.unwrap_or(Err(Reason::Silent))
    }

    fn port(&self) -> u16 {
        self.options.get_port()
    }

    /// How people call it.
    fn name(&self) -> String {
        match self.connector.config.get_hosts() {
            [Host::Unix(directory), ..] => directory.display().to_string(),
            _ => format!("{}:{}", self.options.get_host(), self.port()),
        }
    }
}

impl Connector {
    /// How tokio-postgres connects.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same by that name, so that whoever looks at pg_stat_activity knows whose connection it is.
    pub fn called(&self, name: &str) -> Self {
        let mut named = self.clone();
        named.config.application_name(name);
        named
    }

    /// Connects.
    pub async fn connect(&self) -> Result<(Client, Connection<Socket, Encrypted>), tokio_postgres::Error> {
        self.config.connect(self.tls.clone()).await
    }

    /// How whoever cancels a query encrypts.
    pub(crate) fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connector").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Nobody listens on the way to a Unix socket, and Postgres offers nothing there.
fn mode_for(target: &Target, host: &Host) -> SslMode {
    match host {
        Host::Tcp(_) => target.mode(),
        Host::Unix(_) => SslMode::Disable,
    }
}

/// How to connect there.
fn config_for(target: &Target, host: &Host, port: u16) -> Config {
    let config = &target.config;
    let KeepAlive { idle, interval, retries, user_timeout } = KeepAlive::DATABASE;
    let mut single = Config::new();
    match host {
        Host::Tcp(name) => single.host(name),
        Host::Unix(directory) => single.host_path(directory),
    };
    single.port(port).connect_timeout(CONNECT_TIMEOUT);
    single.ssl_mode(mode_for(target, host).into()).channel_binding(config.get_channel_binding());
    single.keepalives_idle(idle).keepalives_interval(interval).keepalives_retries(retries);
    single.tcp_user_timeout(user_timeout);
    if let Some(user) = config.get_user() {
        single.user(user);
    }
    if let Some(password) = config.get_password() {
        single.password(password);
    }
    if let Some(database) = config.get_dbname() {
        single.dbname(database);
    }
    if let Some(name) = config.get_application_name() {
        single.application_name(name);
    }
    if let Some(options) = config.get_options() {
        single.options(options);
    }
    single
}

/// How a pool connects there.
fn options_for(target: &Target, host: &Host, port: u16) -> Result<PgConnectOptions, sqlx::Error> {
    let config = &target.config;
    let mut options = match config.get_options() {
        None => PgConnectOptions::new_without_pgpass(),
        // As they stand it takes them in a URL only.
        Some(given) => {
            let url = Url::parse_with_params("postgres://localhost", [("options", given)]);
            PgConnectOptions::from_url(&url.map_err(sqlx::Error::config)?)?
        }
    };
    options = options
        .port(port)
        .ssl_mode(mode_for(target, host).into())
        .application_name(config.get_application_name().unwrap_or("newcycle"))
        // Statements here are small and many: compiling them costs more than it saves.
        .options([("jit", "off"), ("timezone", "UTC")]);
    options = match host {
        Host::Tcp(name) => options.host(name),
        Host::Unix(directory) => options.socket(directory),
    };
    if let Some(roots) = target.roots() {
        options = options.ssl_root_cert(roots);
    }
    if let Some(user) = config.get_user() {
        options = options.username(user);
    }
    if let Some(password) = config.get_password() {
        options = options.password(&String::from_utf8_lossy(password));
    }
    if let Some(database) = config.get_dbname() {
        options = options.database(database);
    }
    Ok(options)
}

impl fmt::Display for NoPrimary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (host, reason)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(formatter, "{separator}{host}: {reason}")?;
            let mut cause = std::error::Error::source(reason);
            while let Some(error) = cause {
                write!(formatter, ": {error}")?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for NoPrimary {}
