//! Connections, from the socket to the routes; and how a stream takes its socket over.
//!
//! hyper speaks HTTP. What it keeps for a connection (buffers, the request's head, the layers around the response) is
//! much more than an idle stream needs, and each message would go through all of it. So once hyper has sent the head of
//! a stream's response, the connection is taken apart, and the stream goes on with the bare socket; on an encrypted
//! connection, with the socket and the TLS session.

mod body;
mod deadline;
mod farewell;
mod metrics;
mod pace;
mod places;
mod progress;
mod settings;
mod socket;
mod takeover;
mod wire;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::http::Version;
use futures_util::future::poll_fn;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::problem::{Kind, Problem};
use super::sse::Framing;
use crate::keep_alive::KeepAlive;
use crate::tls::Tls;
pub(super) use body::BodyError;
use body::TimedBody;
use deadline::{Deadline, TooLong};
pub use metrics::ConnectionMetrics;
use pace::Pace;
pub(super) use places::Place;
use places::{Full, Places};
use progress::SharedProgress;
pub use settings::{ConnectionSettings, TooFewFiles};
use socket::Socket;
pub(super) use takeover::Takeover;
use wire::Carrier;
pub(super) use wire::Wire;

/// The pause after a connection could not be accepted, most often because too many files are open: asking again at once
/// would take a core, and the next connection waits with the kernel meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// So much of what a client does not take waits with the kernel, and the rest here, where streams share it. Without a limit the
/// kernel keeps up to four megabytes for each (tcp_wmem), of memory that all connections of the machine have together: two
/// thousand readers who read nothing took what there is (tcp_mem), and everybody's connections came to a standstill.
#[cfg(target_os = "linux")]
const MOST_UNSENT_BYTES: u32 = 64 * 1024;
/// Who has connected when the server stops has so long to say what they want: it may be on its way.
const LINGER: Duration = Duration::from_millis(100);
/// So many clients are told at once that there is no room for them; more are just closed, as those who are told take
/// files too.
const REFUSED_AT_ONCE: usize = 64;
/// The first byte of a TLS connection: the type of a record with a handshake in it (RFC 8446, 5.1). No method of HTTP
/// begins like that.
const TLS_HANDSHAKE: u8 = 0x16;

/// What all connections have in common, whichever listener they come by.
pub struct Connections {
    router: Router,
    tls: Option<TlsAcceptor>,
    header_timeout: Duration,
    body_timeout: Duration,
    keep_alive: KeepAlive,
    places: Arc<Places>,
    refusals: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Connections {
    /// Connections to these routes, until the stop is asked for.
    pub fn new(
        router: Router,
        settings: &ConnectionSettings,
        metrics: ConnectionMetrics,
        tls: Option<&Tls>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            router,
            tls: tls.map(Tls::acceptor),
            header_timeout: settings.header_timeout,
            body_timeout: settings.body_timeout,
            keep_alive: KeepAlive::within(settings.client_timeout),
            places: Arc::new(Places::new(settings, metrics)),
            refusals: Arc::new(Semaphore::new(REFUSED_AT_ONCE)),
            stop,
        }
    }

    /// Finds a place for a connection, or says that there is none.
    fn receive(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr, tasks: &TaskTracker) {
        // Messages are small and written whole: waiting for more to fill a packet would only delay them.
        let _ = socket.set_nodelay(true);
        let _ = self.keep_alive.watch(&socket);
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&socket).set_tcp_notsent_lowat(MOST_UNSENT_BYTES);
        match self.places.take(peer.ip()) {
            Err(full) => self.refuse(socket, full, tasks),
            Ok(place) => {
                let connection = Connection { shared: Arc::clone(self), streams: tasks.clone(), place };
                match &self.tls {
                    None => {
                        let transport = Transport { peer, is_encrypted: false };
                        tasks.spawn(connection.serve(socket, transport, Instant::now()))
                    }
                    Some(acceptor) => tasks.spawn(connection.serve_encrypted(socket, peer, acceptor.clone())),
                };
            }
        }
    }

    /// Nothing is read for that; and on an encrypted connection nothing could be said without a handshake, which costs
    /// more than a request does.
    fn refuse(&self, socket: TcpStream, full: Full, tasks: &TaskTracker) {
        if self.tls.is_none()
            && let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned()
        {
            let stop = self.stop.clone();
            tasks.spawn(async move {
                let problem = Problem::new(Kind::Unavailable, full.to_string());
                stop.run_until_cancelled(farewell::answer(socket, problem)).await;
                drop(permit);
            });
        }
    }
}

/// Serves everyone who connects, until the stop is asked for and all connections have ended.
pub async fn serve(listener: TcpListener, connections: Arc<Connections>) {
    let tasks = TaskTracker::new();
    let stop = &connections.stop;
    let mut pace = Pace::default();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((socket, peer)) => {
                connections.receive(socket, peer, &tasks);
                let now = Instant::now();
                let next = pace.accepted(now);
                if next > now {
                    stop.run_until_cancelled(tokio::time::sleep_until(next)).await;
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "connections cannot be accepted");
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
    receive_others(listener, &connections, &tasks);
    tasks.close();
    tasks.wait().await;
}

/// Whoever has connected by now is answered, and nobody after that. Asks the kernel, which may know of more connections than
/// the runtime does.
fn receive_others(listener: TcpListener, connections: &Arc<Connections>, tasks: &TaskTracker) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((socket, peer)) = listener.accept() {
        let socket = socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket));
        if let Ok(socket) = socket {
            connections.receive(socket, peer, tasks);
        }
    }
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
    shared: Arc<Connections>,
    /// Where streams go on when they have taken their sockets over.
    streams: TaskTracker,
    place: Place,
}

/// How a connection ended.
enum End {
    /// As hyper sees it.
    Over(hyper::Result<()>),
    /// A stream goes on with it.
    Taken,
    TooLong(TooLong),
}

impl Connection {
    async fn serve_encrypted(self, socket: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor) {
        let begin = Instant::now();
        // In a box, as the connection is there for much longer than its handshake.
        let handshake = Box::pin(shake_hands(socket, acceptor));
        let handshake = timeout_at(begin + self.shared.header_timeout, handshake);
        let lingering = async {
            self.shared.stop.cancelled().await;
            sleep(LINGER).await;
        };
        let shaken = tokio::select! {
            shaken = handshake => Some(shaken),
            () = lingering => None,
        };
        match shaken {
            Some(Ok(Ok(Handshake::Done(socket)))) => {
                self.serve(socket, Transport { peer, is_encrypted: true }, begin).await;
            }
            Some(Ok(Ok(Handshake::NotEncrypted(socket)))) => {
                let detail = "This port speaks HTTPS only: use a URL that begins with https://";
                Box::pin(self.answer(socket, Problem::new(Kind::NotEncrypted, detail))).await;
            }
            Some(Ok(Err(error))) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a TLS handshake failed");
            }
            Some(Err(_too_long)) => tracing::debug!(%peer, "a TLS handshake took too long"),
            None => {}
        }
    }

    /// Serves requests until there are no more, or a stream has taken the socket over. The connection has begun at that
    /// moment.
    fn serve<S: Carrier>(self, socket: S, transport: Transport, begin: Instant) -> impl Future<Output = ()> + Send {
        let progress = SharedProgress::default();
        let socket = Socket::new(socket, progress.clone());
        let mut deadline = Deadline::new(begin, self.shared.header_timeout);
        async move {
            let shared = &*self.shared;
            let service = service_fn(|mut request: hyper::Request<Incoming>| {
                let framing = if request.version() == Version::HTTP_11 { Framing::Chunked } else { Framing::None };
                request.extensions_mut().insert(Takeover { progress: progress.clone(), framing });
                request.extensions_mut().insert(transport);
                progress.lock().handle(!request.body().is_end_stream());
                let request = request.map(|body| TimedBody::new(body, shared.body_timeout, progress.clone()));
                let answer = shared.router.clone().oneshot(request);
                let progress = progress.clone();
                async move {
                    let answer = answer.await;
                    progress.lock().answered();
                    answer
                }
            });
            let mut connection = http1::Builder::new().serve_connection(socket, service);
            let mut stop = pin!(shared.stop.cancelled());
            let mut lingering = None;
            let mut stopping = false;
            let end = poll_fn(|context| {
                if lingering.is_none() && stop.as_mut().poll(context).is_ready() {
                    lingering = Some(Box::pin(sleep(LINGER)));
                }
                // hyper would close the connection of somebody who has not said anything yet.
                if !stopping && lingering.is_some() && progress.lock().was_read {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
                    return Poll::Ready(End::Over(ended));
                }
                let mut progress = progress.lock();
                if let Some(lingering) = &mut lingering
                    && !stopping
                {
                    if progress.was_read {
                        context.waker().wake_by_ref();
                    } else if lingering.as_mut().poll(context).is_ready() {
                        return Poll::Ready(End::Over(Ok(())));
                    }
                }
                if progress.is_head_sent {
                    return Poll::Ready(End::Taken);
                }
                deadline.poll(context, &mut progress, shared.header_timeout).map(End::TooLong)
            })
            .await;
            drop(deadline);
            match end {
                End::Over(Ok(())) => {}
                End::Over(Err(error)) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a connection broke");
                }
                End::Taken => {
                    let stream = progress.lock().stream.take();
                    let wire = connection.into_parts().io.into_inner().into_wire();
                    if let Some((stream, framing)) = stream {
                        self.streams.spawn(stream.run(wire, framing, self.shared.stop.clone(), self.place));
                    }
                }
                End::TooLong(what) => {
                    let socket = connection.into_parts().io.into_inner();
                    // In a box, as few connections come to that: none should have to be larger for it.
                    Box::pin(self.end_late(socket, what, &progress)).await;
                }
            }
        }
    }

    /// The last word to one who was too slow.
    async fn end_late<S: Carrier>(&self, socket: S, what: TooLong, progress: &SharedProgress) {
        let (was_read, is_flushed) = {
            let progress = progress.lock();
            (progress.was_read, progress.is_flushed || progress.requests == 0)
        };
        match what {
            TooLong::Head if was_read && is_flushed => {
                let seconds = self.shared.header_timeout.as_secs_f64();
                let detail = format!("The head of the request did not come within {seconds} s");
                self.answer(socket, Problem::new(Kind::TimedOut, detail)).await;
            }
            TooLong::Idle if is_flushed => {
                self.shared.stop.run_until_cancelled(farewell::close(socket)).await;
            }
            // Nothing was asked for, or the client does not take what it had asked for before.
            TooLong::Head | TooLong::Idle => {}
        }
    }

    async fn answer<S: Carrier>(&self, socket: S, problem: Problem) {
        self.shared.stop.run_until_cancelled(farewell::answer(socket, problem)).await;
    }
}

/// What comes of an attempt to encrypt.
enum Handshake {
    Done(Box<TlsStream<TcpStream>>),
    /// The client speaks something else, HTTP most likely.
    NotEncrypted(TcpStream),
}

async fn shake_hands(socket: TcpStream, acceptor: TlsAcceptor) -> io::Result<Handshake> {
    let mut first = [0];
    if socket.peek(&mut first).await? > 0 && first != [TLS_HANDSHAKE] {
        return Ok(Handshake::NotEncrypted(socket));
    }
    Ok(Handshake::Done(Box::new(acceptor.accept(socket).await?)))
}
