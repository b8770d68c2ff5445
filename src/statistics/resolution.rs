//! How wide buckets are.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use utoipa::ToSchema;

/// The width of a bucket, from a millisecond to a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    /// 1 ms.
    Millisecond,
    /// 1 s.
    Second,
    /// 60 s.
    Minute,
    /// From one whole local hour to the next.
    Hour,
    /// A local day: 24 hours, or 23 or 25 when the clocks change.
    Day,
    /// Monday to Sunday (ISO 8601).
    Week,
    /// A calendar month.
    Month,
    /// Three calendar months, from January, April, July and October.
    Quarter,
    /// A calendar year.
    Year,
}

impl Resolution {
    /// Every resolution, finest first.
    pub const ALL: [Self; 9] = [
        Self::Millisecond,
        Self::Second,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Quarter,
        Self::Year,
    ];

    /// The name in URLs and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Millisecond => "millisecond",
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
        }
    }

    /// Its width in milliseconds where that is the same always and everywhere: such buckets follow UTC. Those from the
    /// hour on follow the clocks of a time zone.
    pub const fn fixed_width(self) -> Option<i64> {
        match self {
            Self::Millisecond => Some(1),
            Self::Second => Some(1_000),
            Self::Minute => Some(60_000),
            _ => None,
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A resolution that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("unknown resolution {0:?}; there are millisecond, second, minute, hour, day, week, month, quarter and year")]
pub struct UnknownResolution(String);

impl FromStr for Resolution {
    type Err = UnknownResolution;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|resolution| resolution.name() == name)
            .ok_or_else(|| UnknownResolution(name.to_owned()))
    }
}
