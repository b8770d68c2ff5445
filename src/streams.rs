//! Data streams: records of other companies' APIs, fetched on a schedule, batch by complete batch.
//!
//! A stream is a row ([`Stream`]) whose state changes by one pure function ([`State::after`]), and a job in the queue of
//! [`crate::jobs`] that is due when the stream is. A worker, in a server or a process of its own, takes it, fetches pages from
//! a source, transforms their records, brings them into the ledger, and stores them. Servers and workers speak through
//! Postgres only. Begin reading at `streams/worker.rs`.

mod dead_letters;
mod definition;
mod destination;
mod field;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod janitor;
mod json;
mod preview;
mod processing;
mod record;
mod schedule;
mod seal;
mod settings;
mod source;
mod state;
mod transform;
mod worker;

use std::path::Path;
use std::sync::Arc;

use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::database::Database;
use crate::jobs::{self, Bell, Kind, Ringing};
use crate::ledger::Writer;

pub use dead_letters::DeadLetter;
pub use definition::{Change, Definition, Invalid, NewStream};
pub use preview::{NewPreview, Preview};
pub use record::{Batch, BatchState, StoredRecord, Stream, StreamError};
pub(crate) use seal::FILE as ENCRYPTION_KEY_FILE;
pub use seal::{Keys, Seal, SealError};
pub use settings::StreamSettings;
pub use source::AllowedNetworks;
pub use state::{Desired, State};

/// How many seconds lie between the runs of a stream that does not say.
pub const DEFAULT_INTERVAL: i64 = 300;

/// The streams of a database, as a server or a worker sees them. A shared handle.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// For requests.
    pool: PgPool,
    /// For the work.
    own_pool: PgPool,
    bell: Bell,
    writer: Writer,
    seal: Seal,
    client: source::Client,
    settings: StreamSettings,
    stop: CancellationToken,
}

impl Streams {
    /// Those of a database, until the stop.
    pub fn new(
        database: &Database,
        bell: Bell,
        writer: Writer,
        settings: StreamSettings,
        data_directory: &Path,
        stop: CancellationToken,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self(Arc::new(Inner {
            pool: database.pool.clone(),
            own_pool: database.own_pool.clone(),
            bell,
            writer,
            seal: Seal::new(&settings.encryption_key, data_directory),
            client: source::Client::new(settings.stream_networks.clone(), settings.stream_timeout)?,
            settings,
            stop,
        })))
    }

    /// Starts the tasks that fetch, and clean up.
    pub fn start_tasks(&self, tasks: &mut JoinSet<()>) {
        let Inner { own_pool, bell, settings, stop, .. } = &*self.0;
        if settings.stream_workers == 0 {
            return;
        }
        let run = |kind, most| (own_pool.clone(), kind, most, bell.clone(), stop.clone());
        let streams = self.clone();
        let (pool, kind, most, bell, stop) = run(Kind::Stream, settings.stream_workers);
        tasks.spawn(jobs::run(pool, kind, most, bell, stop, move |lease| worker::work(streams.clone(), lease)));
        let streams = self.clone();
        let (pool, kind, most, bell, stop) = run(Kind::DeadLetter, 1);
        tasks.spawn(jobs::run(pool, kind, most, bell, stop, move |lease| dead_letters::work(streams.clone(), lease)));
        let streams = self.clone();
        let (pool, kind, most, bell, stop) = run(Kind::Preview, 2);
        tasks.spawn(jobs::run(pool, kind, most, bell, stop, move |lease| preview::work(streams.clone(), lease)));
        tasks.spawn(janitor::run(self.clone()));
    }

    /// Hears of changes from now on.
    pub fn listen(&self) -> Ringing {
        self.0.bell.listen()
    }

    /// When the server stops: whoever waits for something here should not wait any longer.
    pub fn stop_token(&self) -> &CancellationToken {
        &self.0.stop
    }
}
