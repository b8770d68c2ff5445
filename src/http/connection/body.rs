//! A request's body that must go on.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::progress::SharedProgress;

/// Why a body does not go on.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum BodyError {
    /// Nothing of it came for so long.
    #[error("nothing of the body came for {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The connection broke, or it is no HTTP.
    #[error(transparent)]
    Broken(Box<dyn Error + Send + Sync>),
}

/// A body of which the next piece must come in time. There is no timer for one that is there already, as most are.
pub(super) struct TimedBody<B> {
    body: B,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether something came since the timer was set.
    went_on: bool,
    progress: SharedProgress,
}

impl<B> TimedBody<B> {
    pub(super) fn new(body: B, timeout: Duration, progress: SharedProgress) -> Self {
        Self { body, timeout, timer: None, went_on: false, progress }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for TimedBody<B>
where
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.went_on = true;
            if frame.is_none() {
                this.progress.lock().is_body_read = true;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| BodyError::Broken(error.into()))));
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(this.timeout)));
        if std::mem::take(&mut this.went_on) {
            timer.as_mut().reset(Instant::now() + this.timeout);
        }
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Some(Err(BodyError::TimedOut(this.timeout))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_its_time_as_long_as_it_goes_on() {
        let timeout = Duration::from_secs(30);
        let pauses = [0, 29, 29, 0, 29, 31].map(Duration::from_secs);
        let pieces = stream::iter(pauses).then(|pause| async move {
            sleep(pause).await;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{}\n")))
        });
        let mut body = TimedBody::new(StreamBody::new(Box::pin(pieces)), timeout, SharedProgress::default());
        for _ in 0..5 {
            body.frame().await.unwrap().unwrap();
        }
        let start = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::TimedOut(_)));
        assert_eq!(start.elapsed(), timeout);
    }
}
