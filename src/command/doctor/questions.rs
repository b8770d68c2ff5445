//! Questions to a database that may be sick: each has its time, and none can change anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Notification, Row};

use super::finding::Finding;
use crate::database::{CONNECT_TIMEOUT, Connector};

/// Postgres itself gives up a question after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// A Postgres that does not even do that has so much longer.
const GRACE: Duration = Duration::from_secs(3);
/// Recounting a ledger of a thousand million rows takes a good part of this.
const LONG_PATIENCE: Duration = Duration::from_secs(6 * 60 * 60);

/// A connection for questions.
pub(super) struct Questions {
    client: Client,
    pub(super) notifications: mpsc::UnboundedReceiver<Notification>,
    /// Whoever did not answer once is not asked again: the next question would wait behind the first.
    is_silent: AtomicBool,
    /// Ends with this.
    _driver: JoinSet<()>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Postgres does not answer any more; said once.
    #[error("Postgres stopped answering")]
    Silent,
    /// It has been silent before.
    #[error("not asked, as Postgres stopped answering")]
    NotAsked,
    /// Reading that takes too long.
    #[error("Postgres did not find out within {} s", PATIENCE.as_secs())]
    Slow,
    /// The schema lacks something, which the check of migrations says.
    #[error("what this looks at is not there")]
    Missing,
    /// The role may not look.
    #[error("the role may not look: {0}")]
    Denied(String),
    /// Something else.
    #[error("the question failed: {0}")]
    Failed(String),
}

impl Questions {
    /// Connects.
    pub(super) async fn to(connector: &Connector) -> Result<Self, Unanswered> {
        let connector = connector.called("newcycle doctor");
        let connecting = timeout(CONNECT_TIMEOUT, connector.connect()).await.map_err(|_| Unanswered::Silent)?;
        let (client, mut connection) = connecting.map_err(|error| Unanswered::of(&error))?;
        let (sender, notifications) = mpsc::unbounded_channel();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message {
                    // Nobody may be waiting for it.
                    let _ = sender.send(notification);
                }
            }
        });
        Ok(Self { client, notifications, is_silent: AtomicBool::new(false), _driver: driver })
    }

    /// The rows that a question has for an answer.
    pub(super) async fn ask(&self, question: &str) -> Result<Vec<Row>, Unanswered> {
        self.ask_for(PATIENCE, question).await
    }

    /// The same with all the time in the world.
    pub(super) async fn ask_patiently(&self, question: &str) -> Result<Vec<Row>, Unanswered> {
        self.ask_for(LONG_PATIENCE, question).await
    }

    /// The one row.
    pub(super) async fn ask_one(&self, question: &str) -> Result<Row, Unanswered> {
        self.ask(question).await?.pop().ok_or(Unanswered::Missing)
    }

    /// Statements that have no answer, outside of a transaction.
    pub(super) async fn tell(&self, statements: &str) -> Result<(), Unanswered> {
        self.within(PATIENCE, async { self.client.batch_execute(statements).await }).await
    }

    /// In a transaction that can only read. A proxy that pools by transaction keeps it on one connection, and nothing of
    /// its settings stays behind; statements have no names, as such a proxy may not know them the next time.
    async fn ask_for(&self, patience: Duration, question: &str) -> Result<Vec<Row>, Unanswered> {
        let begin = format!("begin read only; set local statement_timeout = {}", patience.as_millis());
        self.within(patience, async {
            self.client.batch_execute(&begin).await?;
            let answer = self.client.query_typed(question, &[]).await;
            self.client.batch_execute("rollback").await?;
            answer
        })
        .await
    }

    async fn within<T>(
        &self,
        patience: Duration,
        asking: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Unanswered> {
        if self.is_silent.load(Ordering::Relaxed) {
            return Err(Unanswered::NotAsked);
        }
        let answer = match timeout(patience + GRACE, asking).await {
            Ok(answer) => answer.map_err(|error| Unanswered::of(&error)),
            Err(_) => Err(Unanswered::Silent),
        };
        if matches!(answer, Err(Unanswered::Silent)) || self.client.is_closed() {
            self.is_silent.store(true, Ordering::Relaxed);
        }
        answer
    }
}

impl Unanswered {
    fn of(error: &tokio_postgres::Error) -> Self {
        let message = || error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        match error.code() {
            None if error.is_closed() => Self::Silent,
            Some(&SqlState::QUERY_CANCELED) => Self::Slow,
            Some(&SqlState::UNDEFINED_TABLE | &SqlState::UNDEFINED_FUNCTION | &SqlState::UNDEFINED_COLUMN) => {
                Self::Missing
            }
            Some(&SqlState::INVALID_SCHEMA_NAME) => Self::Missing,
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Self::Denied(message()),
            _ => Self::Failed(message()),
        }
    }
}

/// What that means for a check: only what is said nowhere else is a problem.
impl From<Unanswered> for Finding {
    fn from(unanswered: Unanswered) -> Self {
        let text = unanswered.to_string();
        match unanswered {
            Unanswered::Silent => {
                Self::problem(text, "look at Postgres' log and its machine (load, disk, memory); then run this again")
            }
            Unanswered::NotAsked | Unanswered::Missing => Self::skipped(text),
            Unanswered::Slow => Self::warning(text, "Postgres is busy, or somebody holds a lock: see the other lines"),
            Unanswered::Denied(_) => Self::warning(text, "run it as the role that the server uses"),
            Unanswered::Failed(_) => Self::warning(text, "look at Postgres' log"),
        }
    }
}
