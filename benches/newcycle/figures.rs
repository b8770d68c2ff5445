//! Numbers with their spread and their units.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies in nanoseconds, to three digits.
pub(crate) type Latencies = Histogram<u64>;

/// The shortest latency that can be told apart from none, one microsecond.
const SHORTEST_LATENCY: u64 = 1_000;
/// Two minutes: longer than anything is waited for.
const LONGEST_LATENCY: u64 = 120_000_000_000;
/// Significant digits of latencies.
const DIGITS: u8 = 3;

pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(SHORTEST_LATENCY, LONGEST_LATENCY, DIGITS).unwrap_or_else(|_| unreachable!("bounds"))
}

pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The latency that this share of the requests does not exceed, in milliseconds.
pub(crate) fn millis(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e6
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    Milliseconds,
    Kilobytes,
    Times,
    Percent,
}

/// The median of repetitions, and their extremes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => self.0[middle],
            _ => f64::midpoint(self.0[middle - 1], self.0[middle]),
        }
    }

    pub(crate) fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// `12.3 ms (11.9–14.0)`
    pub(crate) fn show(&self, unit: Unit) -> Shown<'_> {
        Shown(self, unit)
    }
}

impl FromIterator<f64> for Spread {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut spread = Self::default();
        values.into_iter().for_each(|value| spread.push(value));
        spread
    }
}

/// The p50, p99 and p99.9 of repetitions, in milliseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Percentiles(pub(crate) [Spread; 3]);

impl Percentiles {
    pub(crate) fn push(&mut self, latencies: &Latencies) {
        for (spread, quantile) in self.0.iter_mut().zip([0.5, 0.99, 0.999]) {
            spread.push(millis(latencies, quantile));
        }
    }

    pub(crate) fn p99(&self) -> &Spread {
        &self.0[1]
    }

    pub(crate) fn shown(&self) -> [String; 3] {
        [0, 1, 2].map(|which| self.0[which].show(Unit::Milliseconds).to_string())
    }
}

/// A spread as text.
#[derive(Debug)]
pub(crate) struct Shown<'a>(&'a Spread, Unit);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(spread, unit) = self;
        match spread.0.as_slice() {
            [] => formatter.write_str("—"),
            [only] => formatter.write_str(&show(*only, *unit)),
            [least, .., most] => {
                write!(formatter, "{} ({}–{})", show(spread.median(), *unit), number(*least), number(*most))
            }
        }
    }
}

/// A number with its unit.
pub(crate) fn show(value: f64, unit: Unit) -> String {
    let number = number(value);
    match unit {
        Unit::PerSecond => format!("{number}/s"),
        Unit::Milliseconds => format!("{number} ms"),
        Unit::Kilobytes => format!("{number} KB"),
        Unit::Times => format!("{number} ×"),
        Unit::Percent => format!("{number} %"),
    }
}

/// Three digits, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1_000.0 {
        let decimals = if size >= 100.0 {
            0
        } else if size >= 10.0 {
            1
        } else {
            2
        };
        return format!("{value:.decimals$}");
    }
    let digits = format!("{size:.0}");
    let mut grouped = String::from(if value < 0.0 { "-" } else { "" });
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
