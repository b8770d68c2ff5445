//! How many requests in which time, and how many of them at once.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use governor::Quota;

/// So many requests in a window of time: `100/s`, `600/min`, `10000/h`, `2000/s,burst=200`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many requests may come in each window.
    pub requests: NonZeroU32,
    /// In which time.
    pub window: Window,
    /// How many of them may come at once, where that is not all.
    pub burst: Option<NonZeroU32>,
}

/// The time in which a rate's requests may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// `s`
    Second,
    /// `min`
    Minute,
    /// `h`
    Hour,
}

/// What is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rate: it takes a number of requests from 1 on and s, min or h, as in 100/s, 600/min or 10000/h, \
     and may say how many of them may come at once, as in 2000/s,burst=200"
)]
pub struct MalformedRate(pub String);

impl Window {
    const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    const fn name(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
        }
    }

    /// How long it is.
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }
}

impl Rate {
    pub(super) fn quota(self) -> Quota {
        let quota = match self.window {
            Window::Second => Quota::per_second(self.requests),
            Window::Minute => Quota::per_minute(self.requests),
            Window::Hour => Quota::per_hour(self.requests),
        };
        quota.allow_burst(self.burst.unwrap_or(self.requests))
    }

    /// Within how many seconds a request is filled in, of a bucket that is not full.
    pub(super) fn seconds_for_one(self) -> u64 {
        self.window.seconds().div_ceil(self.requests.get()).into()
    }
}

impl FromStr for Rate {
    type Err = MalformedRate;

    fn from_str(text: &str) -> Result<Self, MalformedRate> {
        let parse = || {
            let (rate, burst) = text.split_once(",burst=").map_or((text, None), |(rate, burst)| (rate, Some(burst)));
            let (requests, window) = rate.split_once('/')?;
            let requests = number(requests)?;
            let window = Window::ALL.into_iter().find(|known| known.name() == window)?;
            let burst = match burst {
                Some(burst) => Some(number(burst).filter(|burst| *burst <= requests)?),
                None => None,
            };
            Some(Self { requests, window, burst })
        };
        parse().ok_or_else(|| MalformedRate(text.to_owned()))
    }
}

fn number(text: &str) -> Option<NonZeroU32> {
    // FromStr would take a sign.
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.requests, self.window.name())?;
        self.burst.map_or(Ok(()), |burst| write!(formatter, ",burst={burst}"))
    }
}

/// A rate, or none. What is empty is none: so environment variables can be unset where files set them all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit(pub Option<Rate>);

impl FromStr for Limit {
    type Err = MalformedRate;

    fn from_str(text: &str) -> Result<Self, MalformedRate> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|rate| Self(Some(rate))) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate() -> impl Strategy<Value = Rate> {
        let window = proptest::sample::select(Window::ALL.to_vec());
        let some = |number| NonZeroU32::new(number).expect("at least one");
        (1_u32.., window).prop_flat_map(move |(requests, window)| {
            proptest::option::of(1..=requests).prop_map(move |burst| Rate {
                requests: some(requests),
                window,
                burst: burst.map(some),
            })
        })
    }

    proptest! {
        #[test]
        fn a_rate_is_read_as_it_is_written(rate in rate()) {
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
        }

        #[test]
        fn what_is_read_is_written_in_the_same_way(text in "0{0,2}[0-9]{1,11}/(s|min|h)(,burst=[1-9][0-9]{0,5})?") {
            if let Ok(rate) = text.parse::<Rate>() {
                prop_assert_eq!(rate.to_string(), text.trim_start_matches('0'));
            }
        }

        #[test]
        fn nothing_makes_the_parser_panic(text in ".*") {
            if let Err(error) = text.parse::<Rate>() {
                prop_assert_eq!(error, MalformedRate(text));
            }
        }

        /// The library rounds to nanoseconds, and takes what is too fast for those as one.
        #[test]
        fn every_rate_is_a_quota(rate in rate()) {
            prop_assert_eq!(rate.quota().burst_size(), rate.burst.unwrap_or(rate.requests));
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_with_examples() {
        for text in [
            "",
            "/",
            "100",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            " 1/s",
            "1 / s",
            "1/S",
            "1/sec",
            "1/m",
            "1/day",
            "1/s/s",
            "4294967296/s",
            "٣/s",
            "5/10s",
            "5/s,burst=",
            "5/s,burst=0",
            "5/s,burst=6",
            "5/s,burst=+1",
            "5/s, burst=1",
            "5/s,burst=1,burst=1",
        ] {
            let error = text.parse::<Rate>().expect_err(text).to_string();
            assert!(error.starts_with(&format!("{text:?} is not a rate")) && error.contains("600/min"), "{error}");
        }
    }

    #[test]
    fn one_request_is_filled_in_within_whole_seconds() {
        for (rate, seconds) in
            [("100/s", 1), ("600/min", 1), ("7/min", 9), ("10/min", 6), ("1/h", 3_600), ("10000/h", 1)]
        {
            assert_eq!(rate.parse::<Rate>().expect("a rate").seconds_for_one(), seconds, "{rate}");
        }
    }
}
