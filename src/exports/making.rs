//! Makes the file of an export: rows from Postgres, through an encoder, into the depot.
//!
//! Three stages with short queues between them, so that Postgres, the encoder and the store work at the same time, and no
//! more is in memory than they are working at, however long the file gets.

use std::io::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{Stream, TryStreamExt};
use object_store::WriteMultipart;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::CancelToken;
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::sync::CancellationToken;

use super::depot::{self, Depot, PARTS_UNDER_WAY};
use super::format::Encoder;
use super::{Column, Dataset, Order, tuples};
use crate::database::Connector;

/// So many bytes of rows are handed to the encoder at a time: each hand-over costs some microseconds.
const BATCH_BYTES: usize = 64 << 10;
/// So many batches of rows wait for the encoder.
const BATCHES: usize = 4;
/// So many bytes of the file are handed to the store at a time.
const PIECE_BYTES: usize = 256 << 10;
/// So many of these wait for it.
const PIECES: usize = 4;
/// A Postgres that does not answer within this is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A query is asked to end, which needs a connection of its own.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the making is, for whoever looks at the same time.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) rows: AtomicI64,
    pub(super) bytes: AtomicI64,
    /// How many rows Postgres expects, once it was asked.
    pub(super) estimated_rows: OnceLock<i64>,
}

/// What was made.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) rows: i64,
    pub(super) size: i64,
    pub(super) sha256: [u8; 32],
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error("the ledger cannot be read")]
    Ledger(#[from] tokio_postgres::Error),
    #[error("Postgres does not answer")]
    Silent,
    #[error("the file cannot be stored")]
    Store(#[from] object_store::Error),
    #[error("the file cannot be written")]
    Encode(#[from] io::Error),
    #[error("the encoder ended")]
    Panicked,
}

impl MakeError {
    /// Why, for people; and whether it may go better the next time.
    pub(super) fn explain(&self) -> (String, bool) {
        use tokio_postgres::error::SqlState;
        let transient_classes = ["08", "40", "53", "57", "58"];
        match self {
            Self::Store(error) => depot::explain(error),
            Self::Silent => ("The database does not answer".to_owned(), true),
            Self::Ledger(error) => match error.as_db_error() {
                None => ("The connection to the database was lost".to_owned(), true),
                Some(error) if *error.code() == SqlState::DISK_FULL => {
                    ("The database's disk is full".to_owned(), false)
                }
                Some(error) => {
                    let may_pass = transient_classes.iter().any(|class| error.code().code().starts_with(class));
                    (format!("The database says: {}", error.message()), may_pass)
                }
            },
            Self::Encode(error) => (format!("The file cannot be written: {error}"), false),
            Self::Panicked => ("The file cannot be written: this is a fault of newcycle".to_owned(), false),
        }
    }
}

/// The ledger, in a snapshot.
pub(super) struct Source {
    client: tokio_postgres::Client,
    cancel: CancelToken,
    tls: MakeRustlsConnect,
    /// Ends with this.
    _connection: JoinSet<()>,
    /// The moment that it shows.
    pub(super) as_of: DateTime<Utc>,
    /// Which transactions it shows.
    pub(super) snapshot: String,
    query: String,
}

impl Source {
    /// Connects, and takes the snapshot in which everything is read.
    pub(super) async fn open(connector: &Connector, order: &Order) -> Result<Self, MakeError> {
        tokio::time::timeout(CONNECT_TIMEOUT, Self::connect(connector, order)).await.map_err(|_| MakeError::Silent)?
    }

    async fn connect(connector: &Connector, order: &Order) -> Result<Self, MakeError> {
        let (client, connection) = connector.called("newcycle export").connect().await?;
        let mut connection_task = JoinSet::new();
        connection_task.spawn(async move {
            // What went wrong is said to whoever waits for rows.
            let _ = connection.await;
        });
        let (cancel, tls) = (client.cancel_token(), connector.tls());
        client
            .batch_execute(
                "set timezone to 'UTC'; set jit to off; set statement_timeout to 0;
                set idle_in_transaction_session_timeout to 0;
                begin isolation level repeatable read read only",
            )
            .await?;
        // The first query of the transaction takes the snapshot.
        let row = client.query_one("select pg_current_snapshot()::text, clock_timestamp()", &[]).await?;
        let (snapshot, as_of) = (row.get(0), row.get::<_, std::time::SystemTime>(1).into());
        Ok(Self { client, cancel, tls, _connection: connection_task, as_of, snapshot, query: order.query() })
    }

    /// How many rows the planner expects.
    async fn estimate(&self) -> Result<Option<i64>, MakeError> {
        let row = self.client.query_one(&format!("explain (format json) {}", self.query), &[]).await?;
        let plan: serde_json::Value = row.get(0);
        Ok(plan[0]["Plan"]["Plan Rows"].as_i64())
    }

    async fn rows(&self) -> Result<impl Stream<Item = Result<Bytes, tokio_postgres::Error>> + use<>, MakeError> {
        let statement = format!("copy ({}) to stdout (format binary)", self.query);
        Ok(self.client.copy_out(&statement).await?)
    }

    /// Has Postgres stop: it would only notice that nobody listens when it has rows to send, and it may sort for minutes
    /// before the first.
    pub(super) async fn cancel(self) {
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, self.cancel.cancel_query(self.tls)).await;
    }
}

/// Makes the file: all of it and the store has it, or nothing. Until the halt is asked for.
pub(super) async fn make(
    source: &Source,
    order: &Order,
    depot: &Depot,
    object: &str,
    counts: &Arc<Counts>,
    halt: &CancellationToken,
) -> Option<Result<Made, MakeError>> {
    let mut upload = match halt.run_until_cancelled(depot.begin(object)).await? {
        Ok(upload) => upload,
        Err(error) => return Some(Err(error.into())),
    };
    let made = halt.run_until_cancelled(pump(source, order, counts, &mut upload)).await;
    match made {
        Some(Ok(made)) => match halt.run_until_cancelled(upload.finish()).await? {
            Ok(_) => Some(Ok(made)),
            Err(error) => Some(Err(error.into())),
        },
        other => {
            if let Err(error) = upload.abort().await {
                tracing::debug!(error = &error as &dyn std::error::Error, "an upload cannot be given up");
            }
            other
        }
    }
}

async fn pump(
    source: &Source,
    order: &Order,
    counts: &Arc<Counts>,
    upload: &mut WriteMultipart,
) -> Result<Made, MakeError> {
    // What a function returns the planner cannot guess.
    if order.dataset != Dataset::Statistics
        && let Some(rows) = source.estimate().await?
    {
        counts.estimated_rows.get_or_init(|| rows);
    }
    let rows = source.rows().await?;
    let (batches, to_encode) = mpsc::channel(BATCHES);
    let (pieces, mut to_store) = mpsc::channel(PIECES);
    let encoder = Encoder::new(
        order.format,
        order.compression,
        order.dataset.columns(),
        Output::new(pieces, Arc::clone(counts)),
    )?;
    // Encoding and compressing take the processor for milliseconds: they would hold up whoever shares a thread with them.
    // If this future is dropped the encoder ends by itself, as its queues do.
    let (columns, counts) = (order.dataset.columns(), Arc::clone(counts));
    let encoding = tokio::task::spawn_blocking(move || encode(encoder, columns, to_encode, &counts));
    let reading = async {
        let mut rows = std::pin::pin!(rows);
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(row) = rows.try_next().await? {
            bytes += row.len();
            batch.push(row);
            if bytes >= BATCH_BYTES {
                bytes = 0;
                if batches.send(mem::take(&mut batch)).await.is_err() {
                    break;
                }
            }
        }
        // An encoder that has ended says itself why.
        let _ = batches.send(batch).await;
        drop(batches);
        Ok::<_, MakeError>(())
    };
    let storing = async {
        while let Some(piece) = to_store.recv().await {
            upload.wait_for_capacity(PARTS_UNDER_WAY).await?;
            upload.put(piece);
        }
        Ok::<_, MakeError>(())
    };
    let encoding = async { encoding.await.map_err(|_| MakeError::Panicked)? };
    let ((), (), made) = tokio::try_join!(storing, reading, encoding)?;
    Ok(made)
}

/// Encodes rows until there are no more.
fn encode(
    mut encoder: Encoder<Output>,
    columns: &'static [Column],
    mut batches: mpsc::Receiver<Vec<Bytes>>,
    counts: &Counts,
) -> Result<Made, MakeError> {
    let mut is_whole = false;
    while let Some(batch) = batches.blocking_recv() {
        // Values borrow from the batch.
        let mut values = Vec::with_capacity(columns.len());
        let mut rows = 0;
        for piece in &batch {
            let mut rest = &**piece;
            while !rest.is_empty() {
                let Some(more) = tuples::read(rest, columns, &mut values).map_err(io::Error::other)? else {
                    is_whole = true;
                    break;
                };
                encoder.row(&values)?;
                rows += 1;
                rest = more;
            }
        }
        counts.rows.fetch_add(rows, Ordering::Relaxed);
    }
    // Whoever read the rows failed, or was told to halt, and says so themselves.
    if !is_whole {
        return Err(io::Error::other("the rows broke off").into());
    }
    let (size, sha256) = encoder.finish()?.finish()?;
    Ok(Made { rows: counts.rows.load(Ordering::Relaxed), size, sha256 })
}

/// The file, on its way to the store.
struct Output {
    pieces: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
    hash: Sha256,
    size: i64,
    counts: Arc<Counts>,
}

impl Output {
    fn new(pieces: mpsc::Sender<Bytes>, counts: Arc<Counts>) -> Self {
        Self { pieces, piece: Vec::with_capacity(PIECE_BYTES), hash: Sha256::new(), size: 0, counts }
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.hash.update(&piece);
        let length = i64::try_from(piece.len()).map_err(io::Error::other)?;
        self.size += length;
        self.counts.bytes.fetch_add(length, Ordering::Relaxed);
        self.pieces.blocking_send(piece.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(mut self) -> io::Result<(i64, [u8; 32])> {
        self.send()?;
        Ok((self.size, self.hash.finalize().into()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
