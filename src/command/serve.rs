//! `newcycle serve`

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use super::{CommandError, cancel_on_signal, print};
use crate::audit::AuditSettings;
use crate::auth::{AuthSettings, Authority};
use crate::database::{Database, DatabaseSettings};
use crate::exports::{Depot, ExportSettings};
use crate::http::{self, ConnectionSettings, CorsSettings, LimitSettings, RateSettings};
use crate::server;
use crate::streams::StreamSettings;
use crate::tls::TlsSettings;

/// How many connections the kernel keeps that were not accepted yet, if its own limit allows: every dashboard comes back
/// in the same seconds after a restart, and those for whom there is no room try again only a second later, or three.
const BACKLOG: u32 = 4_096;

/// Where to serve.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeSettings {
    /// Address to listen on. Others than this machine reach any but 127.0.0.1 and ::1
    #[arg(long, env = "SERVER_HOST", value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(super) server_host: IpAddr,
    /// Port of the REST interface and the dashboard; 0 for any free one
    #[arg(long, env = "SERVER_PORT", value_name = "PORT", default_value_t = 8080)]
    pub(super) server_port: u16,
    /// A second port with the same on it, for instance to let people reach the dashboard elsewhere than services
    #[arg(long, env = "DASHBOARD_PORT", value_name = "PORT")]
    dashboard_port: Option<u16>,
    #[command(flatten, next_help_heading = "Access")]
    pub(super) auth: AuthSettings,
    #[command(flatten, next_help_heading = "Access")]
    audit: AuditSettings,
    #[command(flatten, next_help_heading = "Access")]
    cors: CorsSettings,
    #[command(flatten, next_help_heading = "Limits")]
    pub(super) rates: RateSettings,
    #[command(flatten, next_help_heading = "Limits")]
    pub(super) limits: LimitSettings,
    #[command(flatten, next_help_heading = "Exports")]
    pub(super) exports: ExportSettings,
    #[command(flatten, next_help_heading = "Data streams")]
    pub(super) streams: StreamSettings,
    #[command(flatten, next_help_heading = "TLS")]
    pub(super) tls: TlsSettings,
    #[command(flatten, next_help_heading = "Connections")]
    pub(super) connections: ConnectionSettings,
}

pub(super) async fn run(settings: ServeSettings, database: &DatabaseSettings) -> Result<(), CommandError> {
    // What does not need Postgres first: a wrong file or a port that is taken should not cost a start of it.
    let auth = settings.auth.at(settings.server_host)?;
    let server_settings = server::Settings {
        tls: settings.tls.load()?,
        connections: settings.connections,
        audit: settings.audit,
        exports: settings.exports,
        streams: settings.streams,
        data_dir: database.data_dir.clone(),
        http: http::Settings { limits: settings.limits, rates: settings.rates, cors: settings.cors },
    };
    server_settings.connections.raise_file_limit()?;
    let scheme = if server_settings.tls.is_some() { "https" } else { "http" };
    let mut listeners = Vec::new();
    for port in [Some(settings.server_port), settings.dashboard_port].into_iter().flatten() {
        let address = SocketAddr::new(settings.server_host, port);
        listeners.push(listen(address).map_err(|error| format!("cannot listen on {address}: {error}"))?);
    }
    let server = listeners[0].local_addr()?;
    let dashboard = listeners[listeners.len() - 1].local_addr()?;
    let shutdown = CancellationToken::new();
    let _stop_on_signal = tokio::spawn(cancel_on_signal(shutdown.clone()));

    let data_dir = &database.data_dir;
    let Some(database) = shutdown.run_until_cancelled(Database::open(database)).await.transpose()? else {
        return Ok(());
    };
    let served = async {
        database.migrate().await?;
        let authority = Authority::load(database.own_pool.clone(), auth).await?;
        settings.auth.check(settings.server_host, &authority)?;
        if !authority.knows_anybody() && !authority.is_open() {
            tracing::warn!("there is no key yet, so nobody can come in: create one with `newcycle keys create`");
        }
        print(&format!(
            "newcycle is ready\n  dashboard  {scheme}://{dashboard}/\n  API docs   {scheme}://{server}/docs/"
        ));
        if let Some(endpoint) = &database.endpoint {
            print(&format!("  psql       {}", endpoint.psql_command()));
        }
        if authority.is_open() {
            print("  access     open to whoever reaches it; `newcycle keys create` makes a first key");
        }
        let depot = Depot::open(&server_settings.exports.export_store, data_dir)?;
        server::run(&database, listeners, authority, depot, server_settings, shutdown).await?;
        Ok::<_, CommandError>(())
    }
    .await;
    tracing::info!("stopping");
    database.close().await;
    served
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that comes back does not wait for its old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
