//! Connections, from the socket to the routes; and how a stream takes its socket over.
//!
//! hyper speaks HTTP. What it keeps for a connection (buffers, the request's head, the layers around the response) is
//! much more than an idle stream needs, and each message would go through all of it. So once hyper has sent the head of
//! a stream's response, the connection is taken apart, and the stream goes on with the bare socket.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Version;
use bytes::Bytes;
use futures_util::future::poll_fn;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::sse::{Framing, Stream};

/// The pause after a connection could not be accepted, most often because too many files are open: asking again at once
/// would take a core, and the next connection waits with the kernel meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves everyone who connects, until the stop is asked for and all connections have ended.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, peer)) => {
                let connection =
                    Connection { router: router.clone(), stop: stop.clone(), streams: connections.clone() };
                let transport = Transport { peer, is_encrypted: false };
                connections.spawn(connection.serve(socket, transport));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "connections cannot be accepted");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Whether the one who wanted to connect has left, which does not concern others.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// How a request reached the server: an extension of every request that came by a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transport {
    /// Who holds the other end of the connection: the client, or the last proxy before the server.
    pub(super) peer: SocketAddr,
    /// Whether the server itself speaks TLS on this connection. What a proxy says about its own side is not in here.
    pub(super) is_encrypted: bool,
}

/// For the log.
impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, is_encrypted } = self;
        write!(formatter, "{peer}{}", if *is_encrypted { " over TLS" } else { "" })
    }
}

struct Connection {
    router: Router,
    stop: CancellationToken,
    /// Where streams go on when they have taken their sockets over.
    streams: TaskTracker,
}

impl Connection {
    async fn serve(self, socket: TcpStream, transport: Transport) {
        // Messages are small and written whole: waiting for more to fill a packet would only delay them.
        let _ = socket.set_nodelay(true);
        let progress = SharedProgress::default();
        let socket = Socket { io: TokioIo::new(socket), progress: progress.clone() };
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            let framing = if request.version() == Version::HTTP_11 { Framing::Chunked } else { Framing::None };
            request.extensions_mut().insert(Takeover { progress: progress.clone(), framing });
            request.extensions_mut().insert(transport);
            self.router.clone().oneshot(request)
        });
        let mut connection = http1::Builder::new().serve_connection(socket, service);
        let mut stop = pin!(self.stop.cancelled());
        let mut stopping = false;
        let ended = poll_fn(|context| {
            if !stopping && stop.as_mut().poll(context).is_ready() {
                stopping = true;
                // hyper would wait for the first request of somebody who only connected.
                if !progress.lock().was_read {
                    return Poll::Ready(Some(Ok(())));
                }
                Pin::new(&mut connection).graceful_shutdown();
            }
            match Pin::new(&mut connection).poll(context) {
                Poll::Ready(ended) => Poll::Ready(Some(ended)),
                Poll::Pending if progress.lock().is_head_sent => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        match ended.await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "a connection broke"),
            None => {
                let stream = progress.lock().stream.take();
                let socket = connection.into_parts().io.io.into_inner();
                if let Some((stream, framing)) = stream {
                    self.streams.spawn(stream.run(socket, framing, self.stop.clone()));
                }
            }
        }
    }
}

/// How a stream takes over the socket of the connection that its request came by. Handlers get it as an `Extension`.
#[derive(Clone)]
pub(super) struct Takeover {
    progress: SharedProgress,
    framing: Framing,
}

impl Takeover {
    /// A body that holds the stream until hyper asks for it. If it is dropped before (to a HEAD request, say), so is the
    /// stream.
    pub(super) fn body(self, stream: Stream) -> Body {
        Body::new(Placeholder { stream: Some(stream), takeover: self })
    }
}

/// Has nothing to send, ever: hyper sends the response's head and then waits.
struct Placeholder {
    stream: Option<Stream>,
    takeover: Takeover,
}

impl hyper::body::Body for Placeholder {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        if let Some(stream) = self.stream.take() {
            self.takeover.progress.lock().stream = Some((stream, self.takeover.framing));
        }
        Poll::Pending
    }
}

/// How far a connection is, as its parts tell each other past hyper, which is between them.
#[derive(Clone, Default)]
struct SharedProgress(Arc<Mutex<Progress>>);

#[derive(Default)]
struct Progress {
    /// Whether anything was read.
    was_read: bool,
    /// A stream of which hyper has the head and wants the body.
    stream: Option<(Stream, Framing)>,
    /// Whether the head has been written to the socket, and everything before it.
    is_head_sent: bool,
}

impl SharedProgress {
    // All parts of a connection run in one task, so nobody ever waits here.
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket as hyper sees it.
struct Socket {
    io: TokioIo<TcpStream>,
    progress: SharedProgress,
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if read.is_ready() {
            self.progress.lock().was_read = true;
        }
        read
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    /// hyper flushes the socket when it has written everything that it has.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        let mut progress = self.progress.lock();
        if progress.stream.is_some() && matches!(flushed, Poll::Ready(Ok(()))) {
            progress.is_head_sent = true;
        }
        drop(progress);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}
