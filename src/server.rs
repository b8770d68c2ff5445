//! The server: the tasks that belong together, from start to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, AuditSettings};
use crate::auth::Authority;
use crate::database::Database;
use crate::exports::{Depot, ExportSettings, Exports};
use crate::http::{self, App, ConnectionMetrics, ConnectionSettings, Connections, Parts};
use crate::hub::Hub;
use crate::jobs::Bell;
use crate::ledger::{Writer, writer};
use crate::listener;
use crate::metrics::Figures;
use crate::statistics::compactor;
use crate::streams::{StreamSettings, Streams};
use crate::tls::Tls;

/// Requests under way when the server stops have this long to end. Streams end at once.
const GRACE: Duration = Duration::from_secs(10);

/// Why the server stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A part of the server failed, without which streams would show old figures and call them live.
    #[error("a part of the server ended by itself; what it said stands above in the log")]
    TaskEnded,
    /// There is no client for fetching data streams.
    #[error("data streams cannot be fetched")]
    Client(#[from] reqwest::Error),
    /// Our own Postgres ended, though nobody asked it to.
    #[error("the embedded Postgres stopped by itself; its log is postgres.log in the data directory")]
    PostgresEnded,
}

/// How to serve.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Settings {
    /// What is served to whom, and how much of it.
    pub http: http::Settings,
    /// With TLS on all sockets, if at all.
    pub tls: Option<Tls>,
    /// What clients may ask for in connections and in time.
    pub connections: ConnectionSettings,
    /// How exports are made and kept.
    pub exports: ExportSettings,
    /// How long it is remembered who wrote what.
    pub audit: AuditSettings,
    /// How data streams are fetched and kept.
    pub streams: StreamSettings,
    /// Where keys of our own are kept.
    pub data_dir: PathBuf,
}

/// Serves on the given sockets until the shutdown is asked for, and until then everything has ended.
pub async fn run(
    database: &Database,
    listeners: Vec<TcpListener>,
    authority: Authority,
    depot: Depot,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let hub = Arc::new(Hub::with_limit(settings.http.limits.max_series));
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    let own_stop = stop.clone();
    let shared_hub = Arc::clone(&hub);
    tasks.spawn(async move { shared_hub.run(own_stop).await });
    let mut registry = Registry::with_prefix("newcycle");
    let listener_metrics = listener::Metrics::register(&mut registry);
    tasks.spawn(listener::run(
        database.primary.clone(),
        database.own_pool.clone(),
        Arc::clone(&hub),
        listener_metrics,
        stop.clone(),
    ));
    let compactor_metrics = compactor::Metrics::register(&mut registry);
    tasks.spawn(compactor::run(database.own_pool.clone(), compactor_metrics, stop.clone()));
    tasks.spawn(authority.clone().run(stop.clone()));
    tasks.spawn(audit::run(database.own_pool.clone(), settings.audit, stop.clone()));

    if let Some(tls) = &settings.tls {
        tasks.spawn(tls.clone().follow(stop.clone()));
    }
    let bell = Bell::default();
    tasks.spawn(bell.clone().run(database.primary.clone(), database.own_pool.clone(), stop.clone()));
    let exports = Exports::new(database, bell.clone(), depot, settings.exports, stop.clone());
    exports.start(&mut tasks);

    // These write for requests and for streams, and end with the last of them.
    let mut writers = JoinSet::new();
    let writer = Writer::start(&database.pool, &writer::Metrics::register(&mut registry), &mut writers);
    let streams = Streams::new(database, bell, writer.clone(), settings.streams, &settings.data_dir, stop.clone())?;
    streams.start_tasks(&mut tasks);
    let figures = Figures::register(&mut registry, database, settings.tls.as_ref());
    let parts = Parts { pool: database.pool.clone(), hub, writer, exports, streams, authority, figures };
    let connection_metrics = ConnectionMetrics::register(&mut registry);
    let router = http::router(App::new(parts, settings.http, registry));
    let connections =
        Connections::new(router, &settings.connections, connection_metrics, settings.tls.as_ref(), stop.clone());
    let connections = Arc::new(connections);
    let mut servers = JoinSet::new();
    for listener in listeners {
        servers.spawn(http::serve(listener, Arc::clone(&connections)));
    }
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(_) = servers.join_next() => if shutdown.is_cancelled() { Ok(()) } else { Err(ServerError::TaskEnded) },
        Some(_) = tasks.join_next() => if shutdown.is_cancelled() { Ok(()) } else { Err(ServerError::TaskEnded) },
        Some(_) = writers.join_next() => Err(ServerError::TaskEnded),
        () = database.embedded_exit() => Err(ServerError::PostgresEnded),
    };
    stop.cancel();
    let all_ended = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all_ended).await.is_err() {
        tracing::warn!("some requests did not end in time and were cut off");
    }
    while tasks.join_next().await.is_some() {}
    outcome
}

/// Fetches data streams until the shutdown is asked for, and serves nobody.
pub async fn work(
    database: &Database,
    settings: StreamSettings,
    data_dir: &Path,
    shutdown: CancellationToken,
) -> Result<(), ServerError> {
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    let bell = Bell::default();
    tasks.spawn(bell.clone().run(database.primary.clone(), database.own_pool.clone(), stop.clone()));
    let mut writers = JoinSet::new();
    let metrics = writer::Metrics::register(&mut Registry::default());
    let writer = Writer::start(&database.pool, &metrics, &mut writers);
    Streams::new(database, bell, writer, settings, data_dir, stop.clone())?.start_tasks(&mut tasks);
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        Some(_) = tasks.join_next() => if shutdown.is_cancelled() { Ok(()) } else { Err(ServerError::TaskEnded) },
        () = database.embedded_exit() => Err(ServerError::PostgresEnded),
    };
    stop.cancel();
    while tasks.join_next().await.is_some() {}
    outcome
}
