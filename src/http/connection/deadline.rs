//! The one timer of a connection.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::progress::{Phase, Progress};

/// Between requests, or while its client takes nothing of an answer, a connection may rest for at least so long, and for
/// twice as long at most. Longer than clients and proxies keep connections for later (most 60 seconds, some 90), so that
/// it is they who close them, and never the server in the moment of the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// What has taken too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooLong {
    /// The head of a request.
    Head,
    /// The next request.
    Idle,
}

/// Ends connections that hold a place without using it. The timer is only set anew for a head that came in pieces, and
/// once in a while for all others: a timer for each request would take some of the rate.
pub(super) struct Deadline {
    timer: Pin<Box<Sleep>>,
    /// What the timer was set for: the head of that request, or an idle connection.
    set_for: Option<u32>,
}

impl Deadline {
    /// Of a connection that began at that moment.
    pub(super) fn new(begin: Instant, header_timeout: Duration) -> Self {
        Self { timer: Box::pin(sleep_until(begin + header_timeout)), set_for: Some(0) }
    }

    /// Whether the connection has taken too long; to be asked whenever it waits for something.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        progress: &mut Progress,
        header_timeout: Duration,
    ) -> Poll<TooLong> {
        let head = (progress.phase == Phase::Head).then_some(progress.requests);
        if head.is_some() && head != self.set_for {
            self.set(header_timeout, head);
        }
        while self.timer.as_mut().poll(context).is_ready() {
            if head.is_some() {
                return Poll::Ready(TooLong::Head);
            }
            // It may have been set for a head that has come since.
            let was_for_idle = self.set_for.is_none();
            let was_active = std::mem::take(&mut progress.was_active) || progress.phase == Phase::Handling;
            if was_for_idle && !was_active {
                return Poll::Ready(TooLong::Idle);
            }
            self.set(IDLE_TIMEOUT, None);
        }
        Poll::Pending
    }

    fn set(&mut self, timeout: Duration, set_for: Option<u32>) {
        self.set_for = set_for;
        self.timer.as_mut().reset(Instant::now() + timeout);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{advance, timeout};

    use super::*;

    const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

    /// What ends the connection, if nothing happens on it, and after how long.
    async fn end(deadline: &mut Deadline, progress: &mut Progress) -> (TooLong, Duration) {
        let begin = Instant::now();
        let end = poll_fn(|context| deadline.poll(context, progress, HEADER_TIMEOUT)).await;
        (end, begin.elapsed())
    }

    /// What does not end the connection.
    async fn go_on(deadline: &mut Deadline, progress: &mut Progress, duration: Duration) {
        let ended = timeout(duration, end(deadline, progress)).await;
        assert!(ended.is_err(), "{ended:?}");
    }

    fn request(progress: &mut Progress) {
        progress.read();
        progress.handle(false);
        progress.answered();
        progress.written();
        progress.flushed();
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_connects_and_asks_for_nothing_is_ended_as_a_slow_head_is() {
        let (begin, mut progress) = (Instant::now(), Progress::default());
        // The handshake took its part.
        advance(Duration::from_secs(4)).await;
        let mut deadline = Deadline::new(begin, HEADER_TIMEOUT);
        assert_eq!(end(&mut deadline, &mut progress).await, (TooLong::Head, Duration::from_secs(6)));
    }

    #[tokio::test(start_paused = true)]
    async fn every_head_has_its_own_time() {
        let mut progress = Progress::default();
        let mut deadline = Deadline::new(Instant::now(), HEADER_TIMEOUT);
        go_on(&mut deadline, &mut progress, Duration::from_secs(9)).await;
        request(&mut progress);
        progress.read();
        go_on(&mut deadline, &mut progress, Duration::from_secs(9)).await;
        // A piece more of the same head.
        progress.read();
        assert_eq!(end(&mut deadline, &mut progress).await, (TooLong::Head, Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_used_may_rest_for_longer_than_clients_keep_it() {
        let mut progress = Progress::default();
        let mut deadline = Deadline::new(Instant::now(), HEADER_TIMEOUT);
        for _ in 0..3 {
            request(&mut progress);
            go_on(&mut deadline, &mut progress, IDLE_TIMEOUT).await;
        }
        let (ended, after) = end(&mut deadline, &mut progress).await;
        assert_eq!(ended, TooLong::Idle);
        assert!(after <= IDLE_TIMEOUT, "{after:?} and what it has rested before");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_may_take_as_long_as_it_wants() {
        let mut progress = Progress::default();
        let mut deadline = Deadline::new(Instant::now(), HEADER_TIMEOUT);
        progress.read();
        progress.handle(true);
        go_on(&mut deadline, &mut progress, 10 * IDLE_TIMEOUT).await;
        progress.answered();
        // The rest of a body that nobody wanted is not the head of a request.
        progress.read();
        go_on(&mut deadline, &mut progress, IDLE_TIMEOUT).await;
    }
}
