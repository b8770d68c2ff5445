//! Group commit: single rows of many requests, written many at a time.
//!
//! While one statement is on its way to the disk, the rows of further requests gather, and together they are the next
//! statement. Nothing waits for company: when the server is quiet, a row is written by itself, at once. The busier it is,
//! the more rows share what a transaction costs (a round trip, a flush, and the lock that commits with notifications
//! take in turn). PostgreSQL's own `commit_delay` does the same for flushes alone.
//!
//! **Invariant:** a request is answered after the commit of its row, and a row that cannot be written takes no other with
//! it.

mod authors;
mod metrics;
mod steps;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::Instrument;
use uuid::Uuid;

use super::{BaseItem, Item, LedgerError, NewRecord, Outcome, Record, Transfer, User};
use crate::audit::Author;
use authors::{Authors, insert_and_note};
pub use metrics::Metrics;
use metrics::QueueMetrics;
use steps::Steps;

/// Rows in a statement at most. What a statement costs by itself is a few per cent of that many rows, and what changes
/// through them always fits into one notification (8,000 bytes), each row counting for another base item.
const MOST_ROWS: usize = 100;
/// Rows of a kind that may wait. They are written within half a second or so; whoever comes on top of them is told to
/// come again, which is better than an answer that comes too late. A row takes about 200 bytes here, a base item with the
/// longest description 40 KB.
pub const MOST_WAITING: usize = 8192;

/// A handle for creating single rows, in somebody's name or nobody's. Each kind of row is written by a task of its own.
#[derive(Clone, Debug)]
pub struct Writer {
    queues: Arc<Queues>,
    author: Option<Author>,
}

/// The rows that wait to be written.
#[derive(Debug)]
pub struct Queues {
    pub(super) base_items: Queue<BaseItem>,
    pub(super) users: Queue<User>,
    pub(super) items: Queue<Item>,
    pub(super) transfers: Queue<Transfer>,
}

impl Writer {
    /// Starts to write to this database. The tasks end when the last handle is gone.
    pub fn start(pool: &PgPool, metrics: &Metrics, tasks: &mut JoinSet<()>) -> Self {
        let queues = Queues {
            base_items: Queue::start(pool, metrics, tasks),
            users: Queue::start(pool, metrics, tasks),
            items: Queue::start(pool, metrics, tasks),
            transfers: Queue::start(pool, metrics, tasks),
        };
        Self { queues: Arc::new(queues), author: None }
    }

    /// One that writes in that name.
    pub fn in_the_name_of(&self, author: Option<Author>) -> Self {
        Self { queues: Arc::clone(&self.queues), author }
    }

    /// In whose name it writes.
    pub fn author(&self) -> Option<&Author> {
        self.author.as_ref()
    }

    /// How many rows of each table wait now.
    pub fn waiting(&self) -> [(&'static str, usize); 4] {
        let Queues { base_items, users, items, transfers } = &*self.queues;
        [base_items.waiting(), users.waiting(), items.waiting(), transfers.waiting()]
    }

    /// Creates a record. With an id of the caller's own this can be repeated safely.
    pub async fn create<R: Record>(&self, new: R::New) -> Result<Outcome<R>, LedgerError> {
        R::queue(&self.queues).create(new, self.author.clone()).await
    }
}

/// Rows of one kind that wait to be written.
#[derive(Debug)]
pub struct Queue<R: Record> {
    sender: mpsc::Sender<Waiting<R>>,
    metrics: QueueMetrics,
}

/// A row that waits, and who waits for it.
#[derive(Debug)]
struct Waiting<R: Record> {
    id: Uuid,
    new: R::New,
    author: Option<Author>,
    since: Instant,
    steps: Option<Box<Steps>>,
    answer: oneshot::Sender<Result<Outcome<R>, LedgerError>>,
}

impl<R: Record> Waiting<R> {
    fn answer(self, outcome: Result<Outcome<R>, LedgerError>) {
        // The last step is over before the request can be.
        drop(self.steps);
        // Whoever does not listen any more has gone away.
        let _ = self.answer.send(outcome);
    }
}

impl<R: Record> Queue<R> {
    fn start(pool: &PgPool, metrics: &Metrics, tasks: &mut JoinSet<()>) -> Self {
        let (sender, receiver) = mpsc::channel(MOST_WAITING);
        let metrics = metrics.of(R::TABLE);
        tasks.spawn(write_all(pool.clone(), receiver, metrics.clone()));
        Self { sender, metrics }
    }

    fn waiting(&self) -> (&'static str, usize) {
        (R::TABLE, self.sender.max_capacity() - self.sender.capacity())
    }

    async fn create(&self, mut new: R::New, author: Option<Author>) -> Result<Outcome<R>, LedgerError> {
        let id = new.validate(Utc::now())?;
        let (answer, answered) = oneshot::channel();
        let steps = Steps::begin(R::TABLE);
        match self.sender.try_send(Waiting { id, new, author, since: Instant::now(), steps, answer }) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => return Err(LedgerError::Stopped),
            Err(TrySendError::Full(_)) => {
                self.metrics.refused.inc();
                return Err(LedgerError::Busy);
            }
        }
        answered.await.unwrap_or(Err(LedgerError::Stopped))
    }
}

/// Writes what comes, until nothing can come any more.
async fn write_all<R: Record>(pool: PgPool, mut queue: mpsc::Receiver<Waiting<R>>, metrics: QueueMetrics) {
    let mut batch = Vec::with_capacity(MOST_ROWS);
    while queue.recv_many(&mut batch, MOST_ROWS).await > 0 {
        let mut connection = match pool.acquire().await {
            Ok(connection) => connection,
            Err(error) => {
                // All others that wait would wait for the same thing, in vain and one after the other.
                while let Ok(waiting) = queue.try_recv() {
                    batch.push(waiting);
                }
                answer_all(batch.drain(..), &LedgerError::from(error));
                continue;
            }
        };
        // The connection is kept while there is something to write, and nothing is wrong with it: taking one from the pool
        // costs a round trip.
        while !batch.is_empty() {
            let started = Instant::now();
            metrics.begin(started, batch.iter().map(|waiting| waiting.since));
            let rows = batch.len();
            let steps = batch.iter_mut().filter_map(|waiting| waiting.steps.as_deref_mut());
            let statement = steps::statement(R::TABLE, rows, steps);
            let written = write(&mut connection, std::mem::take(&mut batch)).instrument(statement).await;
            metrics.write_seconds.observe(started.elapsed().as_secs_f64());
            if let Err(Broken) = written {
                break;
            }
            while batch.len() < MOST_ROWS
                && let Ok(waiting) = queue.try_recv()
            {
                batch.push(waiting);
            }
        }
    }
}

/// A connection that may be of no use any more.
struct Broken;

/// Writes some rows and answers each.
async fn write<R: Record>(connection: &mut PgConnection, mut batch: Vec<Waiting<R>>) -> Result<(), Broken> {
    // Whoever has gone away cannot be told that the row was written: then it had better not be.
    batch.retain(|waiting| !waiting.answer.is_closed());
    // Two servers that write the same ids in the same order wait for each other, but never both at once.
    batch.sort_by_key(|waiting| waiting.id);
    let error = match insert(connection, &batch).await {
        Ok(outcomes) => {
            answer_each(batch, outcomes);
            return Ok(());
        }
        Err(error) => error,
    };
    // Rows are at fault when the database names what is wrong with them; anything else would only fail again.
    if !matches!(error, LedgerError::Invalid { .. }) {
        answer_all(batch, &error);
        return Err(Broken);
    }
    if batch.len() == 1 {
        answer_all(batch, &error);
        return Ok(());
    }
    if let Err(error) = take_orphans(connection, &mut batch).await {
        answer_all(batch, &error);
        return Err(Broken);
    }
    if let Ok(outcomes) = insert(connection, &batch).await {
        answer_each(batch, outcomes);
        return Ok(());
    }
    // Something rarer than a missing parent: a clock that differs from the database's, say.
    for waiting in batch {
        let rows = std::slice::from_ref(&waiting);
        match insert(connection, rows).await {
            Ok(outcomes) => answer_each(vec![waiting], outcomes),
            Err(error) => answer_all([waiting], &error),
        }
    }
    Ok(())
}

fn answer_each<R: Record>(batch: Vec<Waiting<R>>, outcomes: Vec<Result<Outcome<R>, LedgerError>>) {
    for (waiting, outcome) in batch.into_iter().zip(outcomes) {
        waiting.answer(outcome);
    }
}

fn answer_all<R: Record>(batch: impl IntoIterator<Item = Waiting<R>>, error: &LedgerError) {
    for waiting in batch {
        waiting.answer(Err(error.clone()));
    }
}

/// Inserts all rows or, with an error, none. What became of each, in their order.
async fn insert<R: Record>(
    connection: &mut PgConnection,
    batch: &[Waiting<R>],
) -> Result<Vec<Result<Outcome<R>, LedgerError>>, LedgerError> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<_> = batch.iter().map(|waiting| &waiting.new).collect();
    let created: Vec<R> = match Authors::of(batch) {
        None => R::New::bind(&rows, sqlx::query_as(R::INSERT)).fetch_all(&mut *connection).await?,
        Some(authors) => {
            let noted = AssertSqlSafe(insert_and_note::<R>());
            authors.bind(R::New::bind(&rows, sqlx::query_as(noted))).fetch_all(&mut *connection).await?
        }
    };
    let mut created: HashMap<_, _> = created.into_iter().map(|row| (row.id(), row)).collect();
    // Of several with the same id the first was inserted.
    let outcomes: Vec<_> = batch.iter().map(|waiting| created.remove(&waiting.id).map(Outcome::Created)).collect();
    if outcomes.iter().all(Option::is_some) {
        return Ok(outcomes.into_iter().flatten().map(Ok).collect());
    }
    // The others had been there before. That those above are written is certain, whatever comes of this.
    let taken: Vec<_> =
        batch.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_none()).map(|(waiting, _)| waiting.id).collect();
    let stored: Result<Vec<R>, _> = sqlx::query_as(R::GET).bind(taken).fetch_all(connection).await;
    let stored = stored.map(|rows| rows.into_iter().map(|row| (row.id(), row)).collect::<HashMap<_, _>>());
    let stored = stored.map_err(LedgerError::from);
    let compare = |waiting: &Waiting<R>| {
        let stored = stored.as_ref().map_err(Clone::clone)?;
        match stored.get(&waiting.id) {
            Some(row) if waiting.new.is(row) => Ok(Outcome::Unchanged(row.clone())),
            Some(_) => Err(LedgerError::Conflict { what: R::WHAT, id: waiting.id }),
            None => Err(LedgerError::NotFound { what: R::WHAT, id: waiting.id }),
        }
    };
    let outcomes = batch.iter().zip(outcomes);
    Ok(outcomes.map(|(waiting, outcome)| outcome.map_or_else(|| compare(waiting), Ok)).collect())
}

/// Answers those whose parents are missing, and leaves the others: one query for each kind of parent.
async fn take_orphans<R: Record>(
    connection: &mut PgConnection,
    batch: &mut Vec<Waiting<R>>,
) -> Result<(), LedgerError> {
    for (n, parent) in R::PARENTS.iter().enumerate() {
        let ids: HashSet<_> = batch.iter().filter_map(|waiting| waiting.new.parents().nth(n)).collect();
        let missing = AssertSqlSafe(format!(
            "select id from unnest($1::uuid[]) as parent (id)
            where not exists (select from {table} where {table}.id = parent.id)",
            table = parent.table
        ));
        let missing: Vec<Uuid> =
            sqlx::query_scalar(missing).bind(Vec::from_iter(ids)).fetch_all(&mut *connection).await?;
        let is_orphan = |waiting: &mut Waiting<R>| waiting.new.parents().nth(n).is_some_and(|id| missing.contains(&id));
        answer_all(batch.extract_if(.., is_orphan), &parent.missing());
    }
    Ok(())
}
