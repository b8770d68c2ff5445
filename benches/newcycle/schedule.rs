//! When requests are to be sent, whatever became of those before.

use std::time::{Duration, Instant};

/// Moments at a constant rate.
pub(crate) fn steady(start: Instant, rate: f64, duration: Duration) -> Vec<Instant> {
    (0..requests(rate, duration)).map(|n| start + Duration::from_secs_f64(f64::from(n) / rate)).collect()
}

/// Moments at a constant rate, each moved by chance within its interval: a strict beat could run in step with something
/// in the server, for instance with its publications.
pub(crate) fn jittered(start: Instant, rate: f64, duration: Duration) -> Vec<Instant> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let moments = (0..requests(rate, duration)).map(|n| (f64::from(n) + random.next()) / rate);
    moments.map(|seconds| start + Duration::from_secs_f64(seconds)).collect()
}

fn requests(rate: f64, duration: Duration) -> u32 {
    (duration.as_secs_f64() * rate) as u32
}

/// Marsaglia's xorshift: the same moments in every run.
struct Random(u64);

impl Random {
    /// From 0 to 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}
