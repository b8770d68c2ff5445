//! A hub subscription as a response of server-sent events.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::connection::{Place, Takeover, Wire};
use super::problem::Problem;
use crate::hub::{Hub, Step, Subscription, Topic};
use crate::statistics::{Delta, Position, query};

/// How long readers wait before they connect again, by chance within these bounds: when a server stops, they should not
/// all come to the next one in the same second.
const RETRY_MILLIS: std::ops::Range<u64> = 500..3_000;
/// A resumed stream that waits longer for what it missed gets everything instead.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// The stream of a topic, from where the reader left off if it can say so.
pub(super) fn stream(
    hub: &Arc<Hub>,
    pool: PgPool,
    topic: Topic,
    headers: &HeaderMap,
    interval: Option<Duration>,
    takeover: Takeover,
) -> Result<Response, Problem> {
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let resume = last_id.and_then(|id| topic.position_of(id));
    let subscription = hub.subscribe(topic, resume, interval)?;
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that collect before they pass on (nginx) do not with this.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, takeover.body(Stream { subscription, pool })).into_response())
}

/// How messages are told apart from what HTTP has to say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    /// Chunks (RFC 9112, 7.1).
    Chunked,
    /// None: HTTP/1.0 ends a body with its connection.
    None,
}

/// A subscription that writes to its reader. There are thousands of these, so what is seldom needed is in a box.
pub(super) struct Stream {
    subscription: Subscription,
    pool: PgPool,
}

impl Stream {
    /// Goes on, after the response's head, until either side ends it. Its connection has had that place so far.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` keeps its arguments twice, some 200 bytes a stream")]
    pub(super) fn run<W: Wire>(
        mut self,
        wire: W,
        framing: Framing,
        stop: CancellationToken,
        place: Place,
    ) -> impl Future<Output = ()> + Send {
        async move {
            let _place = &place;
            let writer = Writer { wire: &wire, framing, stop: &stop };
            let telling = async {
                writer.write(retry()).await?;
                while let Some(messages) = self.next().await {
                    writer.write(messages).await?;
                }
                writer.write_last(&retry())
            };
            tokio::select! {
                biased;
                () = wire.gone() => {}
                // A reader who cannot be told any more has left.
                _ = telling => {}
            }
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.subscription.next().await {
                Step::Send(bytes) => return Some(bytes),
                Step::End => return None,
                Step::LookUp(position) => {
                    let missed = Box::pin(look_up(&self.pool, &position)).await;
                    self.subscription.resume(missed);
                }
            }
        }
    }
}

async fn look_up(pool: &PgPool, position: &Position) -> Option<Vec<Delta>> {
    match tokio::time::timeout(LOOK_UP_TIMEOUT, query::changes_since(pool, position)).await {
        Ok(Ok(changes)) => changes.deltas,
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a stream cannot be resumed");
            None
        }
        Err(_too_long) => None,
    }
}

struct Writer<'a, W> {
    wire: &'a W,
    framing: Framing,
    stop: &'a CancellationToken,
}

impl<W: Wire> Writer<'_, W> {
    /// Writes messages from the buffer that they share with other streams: most often in one call to the kernel.
    async fn write(&self, messages: Bytes) -> io::Result<()> {
        let mut written = 0;
        loop {
            match self.try_write(&messages, &mut written, b"") {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Box::pin(self.writable()).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes the last messages if there is room for them: whoever stops does not wait for slow readers.
    fn write_last(&self, messages: &Bytes) -> io::Result<()> {
        let end: &[u8] = match self.framing {
            Framing::Chunked => b"0\r\n\r\n",
            Framing::None => b"",
        };
        self.try_write(messages, &mut 0, end)?;
        self.wire.end();
        Ok(())
    }

    /// Writes as much as there is room for, after what has been written already. Whether that was all.
    fn try_write(&self, messages: &Bytes, written: &mut usize, end: &[u8]) -> io::Result<bool> {
        let mut size = [0; 20];
        let mut slices = match self.framing {
            Framing::Chunked => {
                let mut rest = &mut size[..];
                write!(rest, "{:x}\r\n", messages.len())?;
                let unused = rest.len();
                let used = size.len() - unused;
                [&size[..used], messages, b"\r\n", end].map(IoSlice::new)
            }
            Framing::None => [&[], &messages[..], &[], end].map(IoSlice::new),
        };
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if *written < length {
            let mut slices = &mut slices[..];
            IoSlice::advance_slices(&mut slices, *written);
            *written += self.wire.try_write_vectored(slices)?;
        }
        if *written < length {
            return Ok(false);
        }
        self.wire.try_flush()?;
        Ok(true)
    }

    /// Waits until there is room, or for the stop.
    async fn writable(&self) -> io::Result<()> {
        let room = self.stop.run_until_cancelled(self.wire.writable()).await;
        room.unwrap_or_else(|| Err(io::ErrorKind::Interrupted.into()))
    }
}

fn retry() -> Bytes {
    let span = RETRY_MILLIS.end - RETRY_MILLIS.start;
    // Every `RandomState` is seeded differently.
    let millis = RETRY_MILLIS.start + RandomState::new().hash_one(0) % span;
    format!("retry: {millis}\n\n").into()
}
