//! The server: the tasks that belong together, from start to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::Authority;
use crate::database::Database;
use crate::exports::{Depot, ExportSettings, Exports};
use crate::http::{self, App, ConnectionSettings, Connections};
use crate::hub::Hub;
use crate::listener;
use crate::statistics::compactor;
use crate::tls::Tls;

/// Requests under way when the server stops have this long to end. Streams end at once.
const GRACE: Duration = Duration::from_secs(10);

/// Why the server stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A part of the server failed, without which streams would show old figures and call them live.
    #[error("a part of the server ended by itself; what it said stands above in the log")]
    TaskEnded,
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
    tasks.spawn(listener::run(database.config.clone(), database.own_pool.clone(), Arc::clone(&hub), stop.clone()));
    tasks.spawn(compactor::run(database.own_pool.clone(), stop.clone()));
    tasks.spawn(authority.clone().run(stop.clone()));

    if let Some(tls) = &settings.tls {
        tasks.spawn(tls.clone().follow(stop.clone()));
    }
    let exports = Exports::new(database, depot, settings.exports, stop.clone());
    exports.start(&mut tasks);

    // These write for requests, and end with the last of them.
    let mut writers = JoinSet::new();
    let router = http::router(App::start(database.pool.clone(), hub, exports, authority, settings.http, &mut writers));
    let connections = Connections::new(router, &settings.connections, settings.tls.as_ref(), stop.clone());
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
