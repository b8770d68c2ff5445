//! How fast refusals are answered: so slowly that a flood of requests that are refused leaves the server to others.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// A request too many is answered after this at the earliest: who does not wait, but asks again at once, has ten answers a
/// second on a connection.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The time between two refusals of a caller: a hundredth of a core at some 20 µs each. Who is refused now and then does
/// not notice.
const INTERVAL: Duration = Duration::from_millis(2);
/// Nobody waits for longer than this, so that no client takes the server for dead, and a server that stops waits for
/// nobody: what 2,500 connections of one caller bring about.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Callers are told apart by so many places, in 8 KB, whoever may come. Two who share one are only refused more slowly.
const PLACES: usize = 1 << 10;

/// When refusals are answered. Refusing takes processor time as well: a pause alone bounds what a connection can ask for,
/// but not what a client with thousands of them can. So the refusals of a caller are answered one after the other.
#[derive(Debug)]
pub(super) struct Refusals {
    begin: Instant,
    /// When the next refusal may be answered, in nanoseconds since the begin.
    next: Box<[AtomicU64]>,
    /// Keyed at random: nobody can choose whom they share a place with.
    hasher: RandomState,
}

impl Refusals {
    pub(super) fn new() -> Self {
        let next = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { begin: Instant::now(), next, hasher: RandomState::new() }
    }

    /// What stands for a caller.
    pub(super) fn of(&self, caller: &impl Hash) -> u64 {
        self.hasher.hash_one(caller)
    }

    /// Waits until a refusal of this caller may be answered.
    pub(super) async fn wait(&self, caller: u64, is_too_many: bool) {
        let shortest = if is_too_many { SHORTEST_PAUSE } else { Duration::ZERO };
        let pause = self.queue(caller).max(shortest);
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }

    /// Takes the next turn of this caller; how long until then.
    fn queue(&self, caller: u64) -> Duration {
        let now = nanoseconds(self.begin.elapsed());
        let (interval, longest) = (nanoseconds(INTERVAL), nanoseconds(LONGEST_PAUSE));
        let place = &self.next[usize::try_from(caller % PLACES as u64).unwrap_or_default()];
        let turn = |next: u64| next.clamp(now, now + longest);
        // Only the time is kept, and nothing is read by it: relaxed is enough.
        let taken = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| Some(turn(next) + interval));
        let (Ok(next) | Err(next)) = taken;
        Duration::from_nanos(turn(next) - now)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_now_and_then_is_answered_at_once() {
        let refusals = Refusals::new();
        for _ in 0..3 {
            assert_eq!(refusals.queue(1), Duration::ZERO);
            tokio::time::advance(INTERVAL).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_a_time_are_answered_one_after_the_other() {
        let refusals = Refusals::new();
        for number in 0..1_000 {
            assert_eq!(refusals.queue(1), INTERVAL * number);
        }
        assert_eq!(refusals.queue(2), Duration::ZERO, "another caller");
        assert_eq!(refusals.queue(1 + PLACES as u64), INTERVAL * 1_000, "one who shares the place");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_too_long() {
        let refusals = Refusals::new();
        let longest = (0..20_000).map(|_| refusals.queue(1)).max();
        assert_eq!(longest, Some(LONGEST_PAUSE));
        tokio::time::advance(LONGEST_PAUSE + INTERVAL).await;
        assert_eq!(refusals.queue(1), Duration::ZERO, "and then it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_too_often_always_waits() {
        let refusals = Refusals::new();
        let begun = Instant::now();
        refusals.wait(1, true).await;
        assert!(begun.elapsed() >= SHORTEST_PAUSE);
    }
}
