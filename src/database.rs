//! Postgres: one that is given, or one of our own; the pool, and the schema.

pub mod embedded;
mod primary;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool, Row};
use tokio_postgres::config::Host;

use crate::keep_alive::{self, KeepAlive};
use crate::tls::{file_or_nothing, named};
use embedded::{DATABASE, EmbeddedError, EmbeddedPostgres, Endpoint};
pub use primary::{Connector, NoPrimary, Primary};
pub use target::{SslMode, Target, UnknownSslMode};

/// The schema, as prose: see `migrations/`.
pub(crate) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");
/// The oldest Postgres with everything that the schema uses.
pub(crate) const OLDEST_VERSION: i32 = 150_000;
/// A request that gets no connection for so long is told to come again: either the database is away, or there is more
/// to do than can be done.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long that took is for traces. Whoever wants to have it in the log gets everything.
const ACQUIRE_LEVEL: log::LevelFilter = log::LevelFilter::Trace;
/// Connections for what the server does of itself: a sweep, a fold, some series being read at the same time, what exports
/// record, and one that hears the bell of jobs.
pub(crate) const OWN_CONNECTIONS: u32 = 6;
/// A host that does not answer within this is down; the next one is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the database is.
#[derive(Clone, Debug, clap::Args)]
pub struct DatabaseSettings {
    /// Postgres to use, as postgres://user:password@host:port/database. Of several hosts, as host1:5432,host2:5432, the one
    /// that takes writes is used. Without it and without PGHOST, newcycle runs one of its own in its data directory
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", global = true)]
    pub database_url: Option<String>,
    /// Host of the Postgres to use, or the directory of its socket; several are separated by commas
    #[arg(long, env = "PGHOST", value_name = "HOST", global = true)]
    pub pghost: Option<String>,
    /// Port of the Postgres to use [default: 5432]; of newcycle's own one: any free port
    #[arg(long, env = "PGPORT", value_name = "PORT", global = true)]
    pub pgport: Option<u16>,
    /// User of the Postgres to use [default: newcycle]
    #[arg(long, env = "PGUSER", value_name = "USER", global = true)]
    pub pguser: Option<String>,
    /// Password for the Postgres to use
    #[arg(long, env = "PGPASSWORD", hide_env_values = true, value_name = "PASSWORD", global = true)]
    pub pgpassword: Option<String>,
    /// Database of the Postgres to use [default: newcycle]
    #[arg(long, env = "PGDATABASE", value_name = "NAME", global = true)]
    pub pgdatabase: Option<String>,
    /// How connections to Postgres are encrypted, and whom they trust, unless the URL says it: disable, prefer, require, verify-ca
    /// or verify-full, as of psql [default: prefer]
    #[arg(long, env = "PGSSLMODE", value_name = "MODE", value_enum, global = true, hide_possible_values = true)]
    pub pgsslmode: Option<SslMode>,
    /// A file with certificates (PEM) of authorities that are trusted besides public ones, unless the URL says it (sslrootcert)
    #[arg(long, env = "PGSSLROOTCERT", value_name = "FILE", value_parser = file_or_nothing(), global = true)]
    pub pgsslrootcert: Option<PathBuf>,
    /// How many connections the server keeps at most, for requests; it has eight more of its own, and one for each export that is made
    #[arg(long, env = "NEWCYCLE_DATABASE_CONNECTIONS", value_name = "N", default_value_t = 16, global = true)]
    pub database_connections: u32,
    /// Where newcycle's own Postgres and other files are kept
    #[arg(long, env = "NEWCYCLE_DATA_DIR", value_name = "DIRECTORY", default_value = ".newcycle", global = true)]
    pub data_dir: PathBuf,
}

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL cannot be read.
    #[error("DATABASE_URL is not a Postgres URL")]
    MalformedUrl(#[source] tokio_postgres::Error),
    /// A way of encryption that there is not.
    #[error(transparent)]
    SslMode(#[from] UnknownSslMode),
    /// Certificates of authorities that cannot be read.
    #[error("cannot read the certificates in {}, which sslrootcert names", .path.display())]
    UnreadableRoots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// What the TLS library does not take.
    #[error("connections to Postgres cannot be encrypted")]
    Tls(#[from] rustls::Error),
    /// A setting that Postgres clients here do not have.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Our own Postgres does not run.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// It does not answer.
    #[error("cannot connect to Postgres")]
    Connect(#[source] NoPrimary),
    /// It is too old.
    #[error("this is PostgreSQL {found}; newcycle needs 15 or later")]
    TooOld {
        /// Its version.
        found: String,
    },
    /// The schema could not be brought up to date.
    #[error("the schema could not be brought up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Something else failed.
    #[error("a query failed")]
    Query(#[from] sqlx::Error),
}

/// A database that answers.
#[derive(Debug)]
pub struct Database {
    /// Connections for requests.
    pub pool: PgPool,
    /// A few more for what the server does of itself: however busy the others are, the statistics go on.
    pub own_pool: PgPool,
    /// Where it is, and how to connect otherwise.
    pub primary: Primary,
    /// How to reach our own Postgres, if it is ours.
    pub endpoint: Option<Endpoint>,
    embedded: Option<EmbeddedPostgres>,
}

impl Database {
    /// Connects to the Postgres that the settings name, or starts our own; or, if another process runs that one,
    /// connects to it.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, DatabaseError> {
        let (target, endpoint, embedded) = if let Some(target) = settings.named()? {
            (target, None, None)
        } else {
            let mut own = embedded::Settings::new(&settings.data_dir);
            own.port = settings.pgport;
            match EmbeddedPostgres::start(own).await {
                Ok(embedded) => {
                    let endpoint = embedded.endpoint().clone();
                    (endpoint.client_config(DATABASE).into(), Some(endpoint), Some(embedded))
                }
                Err(error @ EmbeddedError::InUse { .. }) => {
                    let endpoint = EmbeddedPostgres::attach(&settings.data_dir).await?.ok_or(error)?;
                    (endpoint.client_config(DATABASE).into(), Some(endpoint), None)
                }
                Err(error) => return Err(error.into()),
            }
        };
        let opened = Self::connect(target, settings.database_connections).await;
        match opened {
            Ok(database) => Ok(Self { endpoint, embedded, ..database }),
            Err(error) => {
                if let Some(embedded) = embedded {
                    embedded.stop().await;
                }
                Err(error)
            }
        }
    }

    /// Connects to a Postgres.
    pub async fn connect(mut target: Target, connections: u32) -> Result<Self, DatabaseError> {
        let config = &mut target.config;
        if config.get_application_name().is_none() {
            config.application_name("newcycle");
        }
        let is_remote = config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)));
        let primary = Primary::among(&target)?;
        primary.find().await.map_err(DatabaseError::Connect)?;
        let ports = primary.ports();
        let limits = |connections| {
            let ports = ports.clone();
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .acquire_time_level(ACQUIRE_LEVEL)
                // When nobody waits for it, as somebody does when it is taken.
                .after_release(|connection, _| Box::pin(is_at_rest(connection)))
                .after_connect(move |connection, _| {
                    if is_remote && let Err(error) = keep_alive::watch_all(&ports, KeepAlive::DATABASE) {
                        tracing::warn!(%error, "a connection to Postgres that dies in silence will not be noticed");
                    }
                    Box::pin(refuse_standbys(connection))
                })
        };
        let own_pool = limits(OWN_CONNECTIONS).connect_lazy_with(primary.options().clone());
        let pool = limits(connections).connect_with(primary.options().clone()).await?;
        primary.lead([pool.clone(), own_pool.clone()]);
        let (number, version): (i32, String) =
            sqlx::query_as("select current_setting('server_version_num')::int, current_setting('server_version')")
                .fetch_one(&pool)
                .await?;
        if number < OLDEST_VERSION {
            return Err(DatabaseError::TooOld { found: version });
        }
        Ok(Self { pool, own_pool, primary, endpoint: None, embedded: None })
    }

    /// Brings the schema up to date. Servers that do so at the same time take turns.
    pub async fn migrate(&self) -> Result<(), DatabaseError> {
        MIGRATIONS.run(&self.pool).await?;
        // Transaction ids that the statistics remember but Postgres has yet to give out: a dump of another cluster.
        let restored: bool = sqlx::query_scalar(
            "select pg_snapshot_xmax(folded) > pg_snapshot_xmax(pg_current_snapshot()) from statistics.state",
        )
        .fetch_one(&self.pool)
        .await?;
        if restored {
            tracing::warn!("this database was restored from a dump: counting the ledger anew");
            sqlx::query("select statistics.rebuild()").execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Completes when our own Postgres ends, which it should not do by itself.
    pub async fn embedded_exit(&self) {
        match &self.embedded {
            Some(embedded) => drop(embedded.exited().await),
            None => std::future::pending().await,
        }
    }

    /// Closes the pool and stops our own Postgres.
    pub async fn close(self) {
        tokio::join!(self.pool.close(), self.own_pool.close());
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

impl DatabaseSettings {
    /// The Postgres that the settings name, if they name one.
    pub(crate) fn named(&self) -> Result<Option<Target>, DatabaseError> {
        let target = self.place()?;
        Ok(target.map(|target| target.or(self.pgsslmode, named(self.pgsslrootcert.as_ref()).map(PathBuf::as_path))))
    }

    fn place(&self) -> Result<Option<Target>, DatabaseError> {
        if let Some(url) = self.database_url.as_deref().filter(|url| !url.is_empty()) {
            let mut target: Target = url.parse()?;
            if let (None, Some(password)) = (target.config.get_password(), &self.pgpassword) {
                target.config.password(password);
            }
            return Ok(Some(target));
        }
        let Some(host) = self.pghost.as_deref().filter(|host| !host.is_empty()) else { return Ok(None) };
        let mut config = tokio_postgres::Config::new();
        for host in host.split(',') {
            config.host(host);
        }
        config
            .port(self.pgport.unwrap_or(5432))
            .user(self.pguser.as_deref().unwrap_or("newcycle"))
            .dbname(self.pgdatabase.as_deref().unwrap_or("newcycle"));
        if let Some(password) = &self.pgpassword {
            config.password(password);
        }
        Ok(Some(config.into()))
    }
}

/// Whether a connection is outside of a transaction. Whoever gives up while theirs begins leaves it open (sqlx 0.9.0 rolls back
/// only what has begun; <https://github.com/transact-rs/sqlx/pull/4394> repairs it, and is in no release yet), and the next one's
/// rows would be acknowledged in it and never be committed. The first statement of a transaction begins when that does; with the
/// extended protocol it would be a little later. One that still has answers to others fails, and is closed as well.
async fn is_at_rest(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::raw_sql("select transaction_timestamp() = statement_timestamp()").fetch_one(connection).await?;
    row.try_get(0)
}

/// A host that was the primary may be a standby when it comes back, with figures of an earlier moment.
async fn refuse_standbys(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let is_standby: bool = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(connection).await?;
    if is_standby { Err(sqlx::Error::Protocol("this Postgres is a standby".to_owned())) } else { Ok(()) }
}
