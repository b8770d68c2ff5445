//! Exports: the ledger, or a slice of it, as a file.
//!
//! An export is a row ([`Export`]) whose state changes by one pure function ([`State::after`]), and a job in the queue of
//! [`crate::jobs`]. A worker of any server takes it, reads the ledger in one snapshot, writes the file to the depot, and
//! records both in the transaction that ends the job. Begin reading at `exports/worker.rs`.

pub mod dataset;
mod depot;
mod format;
mod janitor;
mod making;
mod record;
mod settings;
mod state;
mod tuples;
mod worker;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::database::{Database, Primary};
use crate::jobs::{self, Bell, Kind, Ringing};
use crate::statistics::Resolution;

pub use dataset::{Column, ColumnKind, Dataset, Filter};
pub use depot::{Depot, DepotError, Store};
pub use format::{Compression, Format};
pub use record::{Export, ExportError, ExportResult, Progress, Viewer};
pub use settings::{Cap, ExportSettings};
pub use state::{Event, IllegalTransition, State};

/// What somebody wants to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What of.
    pub dataset: Dataset,
    /// Written how.
    pub format: Format,
    /// Compressed how.
    pub compression: Compression,
    /// From this moment on; from the first, unless said otherwise.
    pub from: Option<DateTime<Utc>>,
    /// Before this moment.
    pub to: Option<DateTime<Utc>>,
    /// Only of this base item.
    pub base_item_id: Option<Uuid>,
    /// How wide the buckets of statistics are.
    pub resolution: Option<Resolution>,
    /// By whose clocks days begin in statistics.
    pub timezone: Option<Tz>,
}

/// The exports of a database, as a server sees them. A shared handle.
#[derive(Clone, Debug)]
pub struct Exports(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// For requests.
    pool: PgPool,
    /// For workers: they go on however busy the others are.
    own_pool: PgPool,
    /// How to connect for reading the ledger: each running export has a connection of its own, as it is in a transaction
    /// for as long as it reads.
    primary: Primary,
    bell: Bell,
    depot: Depot,
    settings: ExportSettings,
    stop: CancellationToken,
}

impl Exports {
    /// Those of a database, with their files in that depot, until the stop.
    pub fn new(
        database: &Database,
        bell: Bell,
        depot: Depot,
        settings: ExportSettings,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            pool: database.pool.clone(),
            own_pool: database.own_pool.clone(),
            primary: database.primary.clone(),
            bell,
            depot,
            settings,
            stop,
        }))
    }

    /// Starts the tasks that make them and clean up after them.
    pub fn start(&self, tasks: &mut JoinSet<()>) {
        let Inner { bell, own_pool, stop, settings, .. } = &*self.0;
        tasks.spawn(janitor::run(self.clone()));
        if settings.export_workers > 0 {
            let exports = self.clone();
            let work = move |lease| worker::work(exports.clone(), lease);
            let (pool, bell, stop) = (own_pool.clone(), bell.clone(), stop.clone());
            tasks.spawn(jobs::run(pool, Kind::Export, settings.export_workers, bell, stop, work));
        }
    }

    /// Hears of changes from now on.
    pub fn listen(&self) -> Ringing {
        self.0.bell.listen()
    }

    /// When the server stops: whoever waits for something here should not wait any longer.
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Where the files are.
    pub fn depot(&self) -> &Depot {
        &self.0.depot
    }
}
