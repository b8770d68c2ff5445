//! Tells waiting tasks that something changed in the tables of jobs.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::database::{NoPrimary, Primary};

/// What the triggers notify on.
const CHANNEL: &str = "newcycle_jobs";
/// Before the next attempt to listen. Everybody who waits for the bell looks now and then without it.
const PAUSE: Duration = Duration::from_secs(1);
/// So many rings are kept for a task that is busy. One that missed some is told that anything may have changed.
const KEPT_RINGS: usize = 256;

/// Why the bell cannot be heard.
#[derive(Debug, thiserror::Error)]
enum BellError {
    #[error("no host takes writes")]
    NoPrimary(#[from] NoPrimary),
    #[error("the database cannot be listened to")]
    Listen(#[from] sqlx::Error),
}

/// Rings when a job or what it is about has changed, on any server. A shared handle.
#[derive(Clone, Debug)]
pub struct Bell {
    /// The id of what changed, or nothing: then it can have been anything.
    rings: broadcast::Sender<Option<Uuid>>,
}

impl Default for Bell {
    fn default() -> Self {
        Self { rings: broadcast::Sender::new(KEPT_RINGS) }
    }
}

impl Bell {
    /// Hears what is rung from now on. Whoever looks at something looks after this, or might miss a change.
    pub fn listen(&self) -> Ringing {
        Ringing { rings: self.rings.subscribe() }
    }

    /// Listens to the database until the end.
    pub async fn run(self, primary: Primary, pool: PgPool, stop: CancellationToken) {
        loop {
            let listening = self.follow(&primary, &pool);
            let Some(Err(error)) = stop.run_until_cancelled(listening).await else { return };
            tracing::warn!(error = &error as &dyn std::error::Error, "the bell for jobs cannot be heard; trying again");
            if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }

    async fn follow(&self, primary: &Primary, pool: &PgPool) -> Result<(), BellError> {
        primary.follow().await?;
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        loop {
            // What was rung while nobody listened is unknown.
            self.ring(None);
            while let Some(notification) = listener.try_recv().await? {
                // Anybody may notify: what is not an id still says that something happened.
                self.ring(notification.payload().parse().ok());
            }
        }
    }

    fn ring(&self, what: Option<Uuid>) {
        // Nobody may be waiting.
        let _ = self.rings.send(what);
    }
}

/// Hears the bell.
#[derive(Debug)]
pub struct Ringing {
    rings: broadcast::Receiver<Option<Uuid>>,
}

impl Ringing {
    /// Waits until something may have changed.
    pub async fn any(&mut self) {
        if self.next().await.is_some() {
            // One look is enough for all that has been rung until then.
            self.rings = self.rings.resubscribe();
        }
    }

    /// Waits until this may have changed.
    pub async fn about(&mut self, id: Uuid) {
        while self.next().await.flatten().is_some_and(|other| other != id) {}
    }

    /// The next ring: about what, if that is known.
    async fn next(&mut self) -> Option<Option<Uuid>> {
        match self.rings.recv().await {
            Ok(what) => Some(what),
            Err(RecvError::Lagged(_)) => Some(None),
            // The server stops: whoever waits is about to be stopped, too.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
