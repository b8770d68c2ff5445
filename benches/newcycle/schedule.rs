//! When requests are to be sent, whatever became of those before.

use std::time::{Duration, Instant};

/// Moments at a constant rate.
pub(crate) fn steady(start: Instant, rate: f64, duration: Duration) -> Vec<Instant> {
    (0..requests(rate, duration)).map(|n| start + Duration::from_secs_f64(f64::from(n) / rate)).collect()
}

/// Moments at a constant rate, each moved by chance within its interval: a strict beat could run in step with something
/// in the server, for instance with its publications.
pub(crate) fn jittered(start: Instant, rate: f64, duration: Duration) -> Vec<Instant> {
    let mut random = Random::new();
    let moments = (0..requests(rate, duration)).map(|n| (f64::from(n) + random.share()) / rate);
    moments.map(|seconds| start + Duration::from_secs_f64(seconds)).collect()
}

fn requests(rate: f64, duration: Duration) -> u32 {
    (duration.as_secs_f64() * rate) as u32
}

/// Marsaglia's xorshift: the same numbers in every run.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One of these.
    pub(crate) fn of<'a, T>(&mut self, many: &'a [T]) -> &'a T {
        &many[usize::try_from(self.bits() >> 16).unwrap_or_default() % many.len()]
    }

    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
