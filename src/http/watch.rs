//! Server-sent events about things that change now and then, and that Postgres can be asked about.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::App;
use super::guard::Admitted;
use super::limits::{Limits, Stay};
use super::metrics::{End, EventStreams, OpenStream};
use super::problem::{Kind, Problem};
use super::sse::{self, LAST_EVENT_ID};
use crate::jobs::Ringing;

/// A reader is told so often at most.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked even if no bell rings. If nothing has changed, a heartbeat tells the reader, and proxies, that the
/// connection is alive.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Named, as those of statistics: whoever reads with `EventSource` hears of no comments. Without data it would be dropped.
const HEARTBEAT: &[u8] = b"event: heartbeat\ndata: {}\n\n";

/// A request that may be answered with a stream of events.
pub(super) struct Watch {
    limits: Limits,
    metrics: EventStreams,
    admitted: Admitted,
    stop: CancellationToken,
    last_id: Option<String>,
    is_wanted: bool,
}

/// What somebody sees who looks.
pub(super) struct Look {
    /// As it is sent.
    pub(super) text: String,
    /// Which of its versions it is, if it has any: the message's id.
    pub(super) version: Option<i64>,
    /// Whether it will not change any more.
    pub(super) is_last: bool,
}

/// Something as it is sent.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Problem> {
    serde_json::to_string(value).map_err(|error| Problem::new(Kind::Internal, error.to_string()))
}

impl FromRequestParts<App> for Watch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Some(admitted) = parts.extensions.get::<Admitted>() else {
            return Err(Problem::new(Kind::Internal, "this route is not guarded"));
        };
        let last_id = parts.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        Ok(Self {
            limits: app.limits.clone(),
            metrics: app.event_streams.clone(),
            admitted: admitted.clone(),
            stop: app.exports.stop().clone(),
            last_id: last_id.map(str::to_owned),
            is_wanted: sse::is_wanted(&parts.headers),
        })
    }
}

impl Watch {
    /// Whether it asks for a stream (`Accept: text/event-stream`) where there is an answer at once as well.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Whether the reader saw that version last.
    pub(super) fn has_seen(&self, version: i64) -> bool {
        self.last_id.as_deref() == Some(&*version.to_string())
    }

    /// Answers with what is seen now, and again whenever the bell rings for it and it has changed.
    pub(super) fn open<F>(
        self,
        ringing: Ringing,
        about: Option<Uuid>,
        look: impl Fn() -> F + Send + Sync + 'static,
    ) -> Result<Response, Problem>
    where
        F: Future<Output = Result<Look, Problem>> + Send + 'static,
    {
        let stay = self.limits.enter(self.admitted)?;
        let open = self.metrics.open_watch(self.last_id.is_some());
        let (seen, stop, step) = (String::new(), self.stop, Step::Begin);
        let watcher = Watcher { ringing, about, look, seen, stay, open, stop, step };
        let messages = stream::unfold(watcher, |mut watcher| async move {
            let message = watcher.next().await?;
            Some((Ok::<_, Infallible>(message), watcher))
        });
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-store"),
            // Proxies that collect before they pass on (nginx) do not with this.
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        Ok((headers, Body::from_stream(messages)).into_response())
    }
}

/// One reader.
struct Watcher<L> {
    ringing: Ringing,
    about: Option<Uuid>,
    look: L,
    /// What the reader was told last.
    seen: String,
    stay: Stay,
    open: OpenStream,
    stop: CancellationToken,
    step: Step,
}

#[derive(Clone, Copy)]
enum Step {
    Begin,
    Look,
    Wait,
    End,
}

impl<L, F> Watcher<L>
where
    L: Fn() -> F,
    F: Future<Output = Result<Look, Problem>>,
{
    /// The next message; nothing when there will be no more: it is over, the server stops, or the reader may not see it any
    /// more.
    async fn next(&mut self) -> Option<Bytes> {
        let stop = self.stop.clone();
        let message = stop.run_until_cancelled(self.message()).await.unwrap_or(Err(End::Shutdown));
        message.map_err(|end| self.open.ends(end)).ok()
    }

    async fn message(&mut self) -> Result<Bytes, End> {
        loop {
            match self.step {
                Step::Begin => {
                    self.step = Step::Look;
                    return Ok(sse::retry());
                }
                Step::Look => {
                    self.step = Step::Wait;
                    // A database that is away comes back.
                    let Ok(look) = (self.look)().await else { continue };
                    if look.is_last {
                        self.step = Step::End;
                    }
                    if look.text != self.seen {
                        let id = look.version.map(|version| format!("id: {version}\n")).unwrap_or_default();
                        let message = format!("{id}data: {}\n\n", look.text);
                        self.seen = look.text;
                        return Ok(message.into());
                    }
                }
                Step::Wait => {
                    self.step = Step::Look;
                    let ring = async {
                        match self.about {
                            Some(id) => self.ringing.about(id).await,
                            None => self.ringing.any().await,
                        }
                        sleep(PAUSE).await;
                    };
                    tokio::select! {
                        () = self.stay.over() => return Err(End::AccessEnded),
                        rung = timeout(LOOK_INTERVAL, ring) => if rung.is_err() {
                            return Ok(Bytes::from_static(HEARTBEAT));
                        }
                    }
                }
                Step::End => return Err(End::Complete),
            }
        }
    }
}
