//! How others connect to the embedded Postgres.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio_postgres::config::SslMode;

use super::cluster::Cluster;
use super::{DATABASE, EmbeddedError, USER, binaries};

/// How to connect to the embedded Postgres.
#[derive(Clone)]
pub struct Endpoint {
    port: u16,
    password: String,
    socket_dir: Option<PathBuf>,
    passfile: PathBuf,
    psql: PathBuf,
}

impl Endpoint {
    pub(super) fn new(cluster: &Cluster, port: u16, bin: Option<&Path>) -> Result<Self, EmbeddedError> {
        Ok(Self {
            port,
            password: cluster.password()?,
            socket_dir: cluster.socket_dir(port),
            passfile: cluster.passfile(),
            psql: binaries::psql(bin),
        })
    }

    /// The address it listens on.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::LOCALHOST
    }

    /// The TCP port; also part of the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The generated password of [`USER`]: letters and digits.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The directory of the Unix socket; none when its path would be longer than the system allows.
    pub fn socket_dir(&self) -> Option<&Path> {
        self.socket_dir.as_deref()
    }

    /// A URL over TCP, with the password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@{}:{}/{database}?sslmode=disable", self.password, self.host(), self.port)
    }

    /// Options for a pool: over the socket where there is one, else over TCP.
    pub fn connect_options(&self, database: &str) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(USER)
            .password(&self.password)
            .database(database)
            .ssl_mode(PgSslMode::Disable);
        match &self.socket_dir {
            Some(directory) => options.socket(directory),
            None => options,
        }
    }

    /// The same for a connection of its own, without a pool.
    pub fn client_config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.port(self.port).user(USER).password(&self.password).dbname(database).ssl_mode(SslMode::Disable);
        match &self.socket_dir {
            Some(directory) => config.host_path(directory),
            None => config.host("127.0.0.1"),
        };
        config
    }

    /// A command to paste into a shell. It names a file with the password, not the password.
    pub fn psql_command(&self) -> String {
        let passfile = shell_word(&self.passfile.to_string_lossy());
        let psql = shell_word(&self.psql.to_string_lossy());
        format!("PGPASSFILE={passfile} {psql} -h {} -p {} -U {USER} -d {DATABASE}", self.host(), self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Endpoint").field("port", &self.port).finish_non_exhaustive()
    }
}

/// `text` as one word of a shell command.
fn shell_word(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+@%:,".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
