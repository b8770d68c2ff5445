//! Chance that can be repeated: SplitMix64, as in Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators" (OOPSLA 2014). Good enough for example data, and for nothing that must not be guessed.

use std::time::{SystemTime, UNIX_EPOCH};

/// A source of chance.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that differs from run to run.
    #[expect(clippy::cast_possible_truncation, reason = "the lower bits are those that differ")]
    pub(super) fn seed() -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Between 0, which can be, and 1, which cannot.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double has")]
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Less than `end`, which is not 0.
    #[expect(clippy::cast_possible_truncation, reason = "the product is less than 2^64 times the end")]
    pub(super) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    /// Exponentially distributed with mean 1: how long it is until the next event of a Poisson process.
    pub(super) fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_the_reference() {
        let mut random = Random::new(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
        ];
        assert_eq!([(); 4].map(|()| random.next()), expected);
    }

    #[test]
    fn numbers_stay_in_their_ranges_and_have_their_means() {
        let mut random = Random::new(1);
        let mut sums = [0.0; 3];
        for _ in 0..100_000 {
            let (unit, below) = (random.unit(), random.below(7));
            assert!((0.0..1.0).contains(&unit) && below < 7);
            #[expect(clippy::cast_precision_loss, reason = "less than seven")]
            let values = [unit, below as f64, random.exponential()];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value / 100_000.0;
            }
        }
        for (mean, expected) in sums.into_iter().zip([0.5, 3.0, 1.0]) {
            assert!((mean - expected).abs() < 0.02, "{mean} is not {expected}");
        }
    }
}
