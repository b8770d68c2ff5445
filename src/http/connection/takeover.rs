//! How a stream takes its connection over.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;

use super::progress::SharedProgress;
use crate::http::sse::{Framing, Stream};

/// How a stream takes over the socket of the connection that its request came by. Handlers get it as an `Extension`.
#[derive(Clone)]
pub(in crate::http) struct Takeover {
    pub(super) progress: SharedProgress,
    pub(super) framing: Framing,
}

impl Takeover {
    /// A body that holds the stream until hyper asks for it. If it is dropped before (to a HEAD request, say), so is the
    /// stream.
    pub(in crate::http) fn body(self, stream: Stream) -> Body {
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
