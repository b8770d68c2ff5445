//! How fast connections are accepted.

use std::time::Duration;

use tokio::time::Instant;

/// A new connection costs the server and the kernel some 50 µs of processor time. So many a second take half a core, and
/// leave the rest to those who are there already; all dashboards of a busy server are back in a second or two.
const INTERVAL: Duration = Duration::from_micros(100);
/// Connections that come now and then, or this many together, do not wait.
const AT_ONCE: u32 = 64;

/// Accepts connections one after the other, in even steps, as soon as there are many.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the next one would be accepted if none ever came earlier than in even steps.
    next: Option<Instant>,
}

impl Pace {
    /// Counts a connection that was accepted now. Until when the next one has to wait.
    pub(super) fn accepted(&mut self, now: Instant) -> Instant {
        let next = self.next.map_or(now, |next| next.max(now)) + INTERVAL;
        self.next = Some(next);
        next - INTERVAL * AT_ONCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_wait_for_each_other_and_a_few_do_not() {
        let mut pace = Pace::default();
        let begin = Instant::now();
        for _ in 0..AT_ONCE {
            assert!(pace.accepted(begin) <= begin, "a few");
        }
        for number in 1..=1_000 {
            assert_eq!(pace.accepted(begin), begin + INTERVAL * number, "one of many");
        }
        let later = begin + INTERVAL * (1_000 + AT_ONCE);
        for _ in 0..AT_ONCE {
            assert!(pace.accepted(later) <= later, "a few, after some silence");
        }
        assert_eq!(pace.accepted(later), later + INTERVAL);
    }
}
