//! How far a connection is, as its parts tell each other past hyper, which is between them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http::sse::{Framing, Stream};

/// Shared by the parts of a connection.
#[derive(Clone, Default)]
pub(super) struct SharedProgress(Arc<Mutex<Progress>>);

impl SharedProgress {
    // All parts of a connection run in one task, so nobody ever waits here.
    pub(super) fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct Progress {
    pub(super) phase: Phase,
    /// How many requests have been handed to their handlers.
    pub(super) requests: u32,
    /// Whether anything was ever read.
    pub(super) was_read: bool,
    /// Whether anything was read or written since somebody looked.
    pub(super) was_active: bool,
    /// Whether everything that was written has left hyper.
    pub(super) is_flushed: bool,
    /// Whether the handler has read the request's body to its end.
    pub(super) is_body_read: bool,
    /// A stream of which hyper has the head and wants the body.
    pub(super) stream: Option<(Stream, Framing)>,
    /// Whether the head of the stream's response has been written to the socket, and everything before it.
    pub(super) is_head_sent: bool,
}

/// What a connection is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// A request's head is on its way. A connection begins with one: whoever connects wants something.
    #[default]
    Head,
    /// A handler is at work.
    Handling,
    /// The request has been answered as far as the handler is concerned. What comes next begins another one.
    Answered,
    /// The same, but the handler did not want all of the body: what comes next may be the rest of it.
    AnsweredEarly,
}

impl Progress {
    /// Something was read from the socket.
    pub(super) fn read(&mut self) {
        self.was_read = true;
        self.was_active = true;
        if self.phase == Phase::Answered {
            self.phase = Phase::Head;
        }
    }

    /// Something was written to the socket.
    pub(super) fn written(&mut self) {
        self.was_active = true;
        self.is_flushed = false;
    }

    /// Everything that was written has been flushed.
    pub(super) fn flushed(&mut self) {
        self.is_flushed = true;
        if self.stream.is_some() {
            self.is_head_sent = true;
        }
    }

    /// A request goes to its handler.
    pub(super) fn handle(&mut self, has_body: bool) {
        self.phase = Phase::Handling;
        self.requests = self.requests.wrapping_add(1);
        self.is_body_read = !has_body;
    }

    /// The handler has answered.
    pub(super) fn answered(&mut self) {
        self.phase = if self.is_body_read { Phase::Answered } else { Phase::AnsweredEarly };
    }
}
