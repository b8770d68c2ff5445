//! A hub subscription as a response of server-sent events.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::App;
use super::connection::{Place, Takeover, Wire};
use super::guard::Admitted;
use super::limits::{Limits, Stay};
use super::metrics::{End, EventStreams, OpenStream, SlowReader};
use super::problem::{Kind, Problem};
use crate::hub::{Hub, Step, Subscription, Topic};
use crate::statistics::{Delta, Position, query};

/// How long readers wait before they connect again, by chance within these bounds: when a server stops, they should not
/// all come to the next one in the same second.
const RETRY_MILLIS: std::ops::Range<u64> = 500..3_000;
/// What a reader who connects again saw last.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// A resumed stream that waits longer for what it missed gets everything instead.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// A request that may be answered with a stream.
pub(super) struct StreamRequest {
    hub: Arc<Hub>,
    pool: PgPool,
    limits: Limits,
    metrics: EventStreams,
    admitted: Admitted,
    takeover: Takeover,
    last_id: Option<String>,
    is_wanted: bool,
}

impl FromRequestParts<App> for StreamRequest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let (Some(admitted), Some(takeover)) = (parts.extensions.get(), parts.extensions.get()) else {
            return Err(Problem::new(Kind::Internal, "this route is not guarded"));
        };
        let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        Ok(Self {
            hub: Arc::clone(&app.hub),
            pool: app.pool.clone(),
            limits: app.limits.clone(),
            metrics: app.event_streams.clone(),
            admitted: Admitted::clone(admitted),
            takeover: Takeover::clone(takeover),
            last_id: text(LAST_EVENT_ID).map(str::to_owned),
            is_wanted: is_wanted(&parts.headers),
        })
    }
}

/// Whether a request asks for a stream.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("").split(',');
    accepted.any(|range| range.split(';').next().unwrap_or("").trim() == "text/event-stream")
}

impl StreamRequest {
    /// Whether it asks for a stream (`Accept: text/event-stream`) where there is an answer at once as well.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Answers with the stream of a topic, from where the reader left off if it can say so.
    pub(super) fn open(self, topic: Topic, interval: Option<Duration>) -> Result<Response, Problem> {
        let holder = self.admitted.holder.unwrap_or_default();
        let stay = Arc::new(self.limits.enter(self.admitted)?);
        let resume = self.last_id.as_deref().and_then(|id| topic.position_of(id));
        let subscription = self.hub.subscribe(topic, holder, resume, interval)?;
        let open = self.metrics.open_statistics(self.last_id.is_some());
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-store"),
            // Proxies that collect before they pass on (nginx) do not with this.
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        Ok((headers, self.takeover.body(Stream { subscription, pool: self.pool, stay, open })).into_response())
    }
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
    stay: Arc<Stay>,
    open: OpenStream,
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
            let (stay, slow) = (Arc::clone(&self.stay), self.open.slow_readers());
            let writer = Writer { wire: &wire, framing, stop: &stop, stay: &stay, slow: &slow };
            let telling = async {
                writer.write(retry()).await?;
                let mut over = pin!(stay.over());
                loop {
                    match self.next_unless(over.as_mut()).await {
                        Ok(messages) => writer.write(messages).await?,
                        Err(end) => {
                            // A reader who cannot be told any more has left.
                            let _ = writer.write_last(&retry());
                            return Err::<Infallible, End>(end);
                        }
                    }
                }
            };
            let end = tokio::select! {
                biased;
                () = wire.gone() => End::ClientGone,
                Err(end) = telling => end,
            };
            self.open.ends(end);
        }
    }

    /// What comes next, until the stream is over.
    async fn next_unless(&mut self, over: Pin<&mut impl Future<Output = ()>>) -> Result<Bytes, End> {
        tokio::select! {
            biased;
            () = over => Err(End::AccessEnded),
            messages = self.next() => messages.ok_or(End::Shutdown),
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
    stay: &'a Stay,
    slow: &'a Gauge,
}

impl<W: Wire> Writer<'_, W> {
    /// Writes messages from the buffer that they share with other streams: most often in one call to the kernel.
    async fn write(&self, messages: Bytes) -> Result<(), End> {
        let mut written = 0;
        loop {
            match self.try_write(&messages, &mut written, b"") {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Box::pin(self.writable()).await?,
                Err(_broken) => return Err(End::ClientGone),
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

    /// Waits until there is room; not beyond the stop, nor the end of the stay: nobody waits for slow readers then.
    async fn writable(&self) -> Result<(), End> {
        let _slow = SlowReader::count(self.slow);
        tokio::select! {
            room = self.wire.writable() => room.map_err(|_broken| End::ClientGone),
            () = self.stop.cancelled() => Err(End::Shutdown),
            () = self.stay.over() => Err(End::AccessEnded),
        }
    }
}

/// Says how long readers wait before they connect again.
pub(super) fn retry() -> Bytes {
    let span = RETRY_MILLIS.end - RETRY_MILLIS.start;
    // Every `RandomState` is seeded differently.
    let millis = RETRY_MILLIS.start + RandomState::new().hash_one(0) % span;
    format!("retry: {millis}\n\n").into()
}
