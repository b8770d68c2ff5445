//! `newcycle worker`

use tokio_util::sync::CancellationToken;

use super::{CommandError, cancel_on_signal, print};
use crate::database::{Database, DatabaseSettings};
use crate::server;
use crate::streams::StreamSettings;

/// What to work at.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = WORKER_HELP)]
pub struct WorkerSettings {
    #[command(flatten, next_help_heading = "Data streams")]
    streams: StreamSettings,
}

const WORKER_HELP: &str = "\
Servers and workers speak through Postgres only: start as many as there is to fetch, on machines that reach the sources, and
servers with --stream-workers 0 if they are to leave all of it to them. A worker that is killed loses nothing: another one goes
on after the last page. All of them need the same NEWCYCLE_ENCRYPTION_KEY, or the same data directory.";

pub(super) async fn run(settings: WorkerSettings, database: &DatabaseSettings) -> Result<(), CommandError> {
    if settings.streams.stream_workers == 0 {
        return Err("a worker with --stream-workers 0 has nothing to do".into());
    }
    let shutdown = CancellationToken::new();
    let _stop_on_signal = tokio::spawn(cancel_on_signal(shutdown.clone()));
    let data_dir = &database.data_dir;
    let Some(database) = shutdown.run_until_cancelled(Database::open(database)).await.transpose()? else {
        return Ok(());
    };
    let worked = async {
        database.migrate().await?;
        print("newcycle works at data streams");
        server::work(&database, settings.streams, data_dir, shutdown).await?;
        Ok::<_, CommandError>(())
    }
    .await;
    tracing::info!("stopping");
    database.close().await;
    worked
}
