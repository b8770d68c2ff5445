//! One policy: who has sent how much.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, PoisonError, RwLock};

use governor::RateLimiter;
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;

use super::Verdict;
use super::quota::Rate;

/// How many callers are told apart, at some 50 bytes each. If more than these have sent something that still counts,
/// all are forgotten and begin anew. It takes as many addresses of one's own to bring this about, each of which could
/// send as much anyway; to refuse those who are new would be what somebody with so many wants.
const MAX_CALLERS: usize = 100_000;
/// After so many requests, those are forgotten who have sent nothing for so long that all of theirs is filled in. So
/// many more than [`MAX_CALLERS`] may be remembered at a time; looking through them takes milliseconds, which is
/// nothing for each of 10,000 requests.
const SWEEP_AFTER: u32 = 10_000;

type Counts<K, C> = RateLimiter<K, DashMapStateStore<K>, C, StateInformationMiddleware>;

/// Counts requests by caller.
pub(super) struct Limiter<K, C>
where
    K: Clone + Eq + Hash,
    C: Clock + Clone,
{
    rate: Rate,
    clock: C,
    /// Written only for forgetting everyone; the counts are shared by themselves.
    counts: RwLock<Counts<K, C>>,
    since_sweep: AtomicU32,
}

impl<K, C> Limiter<K, C>
where
    K: Clone + Eq + Hash,
    C: Clock + Clone,
{
    pub(super) fn new(rate: Rate, clock: C) -> Self {
        let counts = RwLock::new(nobody(rate, &clock));
        Self { rate, clock, counts, since_sweep: AtomicU32::new(0) }
    }

    /// Counts a request of this caller, unless it is refused: trying on does not make anyone wait longer.
    pub(super) fn check(&self, caller: &K) -> Verdict {
        if self.since_sweep.fetch_add(1, Ordering::Relaxed) == SWEEP_AFTER {
            self.since_sweep.store(0, Ordering::Relaxed);
            self.sweep(MAX_CALLERS);
        }
        let outcome = self.counts.read().unwrap_or_else(PoisonError::into_inner).check_key(caller);
        match outcome {
            Ok(state) => Verdict {
                is_allowed: true,
                remaining: state.remaining_burst_capacity(),
                // The library does not say how far the next one is already filled in.
                more_within: self.rate.seconds_for_one(),
            },
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Verdict { is_allowed: false, remaining: 0, more_within: seconds.max(1) }
            }
        }
    }

    fn sweep(&self, max_callers: usize) {
        let callers = {
            let counts = self.counts.read().unwrap_or_else(PoisonError::into_inner);
            counts.retain_recent();
            counts.len()
        };
        if callers > max_callers {
            tracing::warn!(callers, "too many callers to tell apart: how much each has sent is forgotten");
            *self.counts.write().unwrap_or_else(PoisonError::into_inner) = nobody(self.rate, &self.clock);
        }
    }
}

fn nobody<K: Clone + Eq + Hash, C: Clock + Clone>(rate: Rate, clock: &C) -> Counts<K, C> {
    RateLimiter::dashmap_with_clock(rate.quota(), clock.clone()).with_middleware()
}

impl<K, C> fmt::Debug for Limiter<K, C>
where
    K: Clone + Eq + Hash,
    C: Clock + Clone,
{
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Limiter").field("rate", &self.rate).finish_non_exhaustive()
    }
}

/// What stands for an identity: as short as any, so that long ones take no more memory. Of 100,000 callers two share a
/// limit with a probability of 1 : 3,000,000,000, and nobody can tell who, since the hash is keyed at random.
pub(super) fn hashed(identity: &str) -> u64 {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    HASHER.hash_one(identity)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limiter(rate: &str) -> (Limiter<u32, FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limiter::new(rate.parse().expect("a rate"), clock.clone()), clock)
    }

    fn allowed(remaining: u32, more_within: u64) -> Verdict {
        Verdict { is_allowed: true, remaining, more_within }
    }

    fn refused(more_within: u64) -> Verdict {
        Verdict { is_allowed: false, remaining: 0, more_within }
    }

    #[test]
    fn a_windows_requests_may_come_at_once_and_then_as_many_as_are_filled_in() {
        let (limiter, clock) = limiter("3/min");
        for remaining in [2, 1, 0] {
            assert_eq!(limiter.check(&1), allowed(remaining, 20));
        }
        assert_eq!(limiter.check(&1), refused(20));
        clock.advance(Duration::from_millis(18_500));
        assert_eq!(limiter.check(&1), refused(2));
        clock.advance(Duration::from_millis(1_499));
        assert_eq!(limiter.check(&1), refused(1));
        clock.advance(Duration::from_millis(1));
        assert_eq!(limiter.check(&1), allowed(0, 20));
        assert_eq!(limiter.check(&1), refused(20));
        clock.advance(Duration::from_secs(60));
        assert_eq!(limiter.check(&1), allowed(2, 20));
    }

    #[test]
    fn less_than_a_windows_requests_may_be_allowed_at_once() {
        let (limiter, clock) = limiter("60/min,burst=2");
        let sent = || (0..10).filter(|_| limiter.check(&1).is_allowed).count();
        assert_eq!(sent(), 2);
        let in_the_minute: usize = (0..60)
            .map(|_| {
                clock.advance(Duration::from_secs(1));
                sent()
            })
            .sum();
        assert_eq!(in_the_minute, 60);
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(limiter.check(&1), allowed(1, 1), "no more than two, however long it was silent");
    }

    #[test]
    fn there_is_no_turn_of_the_window_to_send_twice_as_much_around() {
        let (limiter, clock) = limiter("60/min");
        clock.advance(Duration::from_secs(59));
        let sent = (0..200).filter(|_| limiter.check(&1).is_allowed).count();
        clock.advance(Duration::from_secs(2));
        let more = (0..200).filter(|_| limiter.check(&1).is_allowed).count();
        assert_eq!((sent, more), (60, 2));
    }

    #[test]
    fn callers_are_told_apart() {
        let (limiter, _) = limiter("1/s");
        assert!(limiter.check(&1).is_allowed);
        assert!(!limiter.check(&1).is_allowed);
        assert!(limiter.check(&2).is_allowed);
    }

    #[test]
    fn to_try_on_does_not_make_the_wait_longer() {
        let (limiter, clock) = limiter("1/min");
        assert!(limiter.check(&1).is_allowed);
        for _ in 0..59 {
            clock.advance(Duration::from_secs(1));
            assert!(!limiter.check(&1).is_allowed);
        }
        clock.advance(Duration::from_secs(1));
        assert!(limiter.check(&1).is_allowed);
    }

    #[test]
    fn callers_who_have_all_of_theirs_again_are_forgotten_by_and_by() {
        let (limiter, clock) = limiter("2/min");
        for caller in 0..SWEEP_AFTER {
            limiter.check(&caller);
        }
        clock.advance(Duration::from_secs(61));
        limiter.check(&0);
        assert_eq!(limiter.counts.read().expect("no panic").len(), 1);
    }

    #[test]
    fn callers_who_still_count_are_not_forgotten() {
        let (limiter, clock) = limiter("2/min");
        limiter.check(&1);
        limiter.check(&1);
        clock.advance(Duration::from_secs(29));
        limiter.sweep(MAX_CALLERS);
        assert!(!limiter.check(&1).is_allowed);
    }

    #[test]
    fn too_many_callers_begin_anew() {
        let (limiter, _) = limiter("1/h");
        for caller in 0..4 {
            assert!(limiter.check(&caller).is_allowed);
        }
        limiter.sweep(4);
        assert!(!limiter.check(&0).is_allowed);
        limiter.sweep(3);
        assert_eq!(limiter.counts.read().expect("no panic").len(), 0);
        assert!(limiter.check(&0).is_allowed);
    }

    #[test]
    fn the_fastest_rate_is_none() {
        let (limiter, _) = limiter("4294967295/s");
        assert!(limiter.check(&1).is_allowed);
    }

    #[test]
    fn identities_are_told_apart_by_their_hashes() {
        assert_eq!(hashed("alice"), hashed("alice"));
        assert_ne!(hashed("alice"), hashed("bob"));
    }
}
