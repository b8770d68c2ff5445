//! Exact counting: metrics, resolutions, buckets in time zones, and the position of a reader in the stream of changes.
//!
//! Pure arithmetic, but for [`query`], which asks Postgres. Nothing here knows of the hub or of HTTP.

pub mod calendar;
pub mod compactor;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod position;
pub mod query;
pub mod resolution;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use utoipa::ToSchema;
use uuid::Uuid;

pub use calendar::Calendar;
pub use position::{Position, Snapshot};
pub use resolution::Resolution;

/// A moment as milliseconds since the Unix epoch, the finest grain of the statistics.
pub type UnixMillis = i64;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ToSchema)]
#[schema(rename_all = "kebab-case")]
pub enum Metric {
    /// Items that came into being, at their `created_at`.
    ItemCreation,
    /// Changes of ownership, at their `timestamp`.
    Transfers,
    /// Users that came into being, at their `created_at`.
    UserCreation,
}

impl Metric {
    /// Every metric, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::ItemCreation, Self::Transfers, Self::UserCreation];

    /// The name in URLs, messages and the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ItemCreation => "item-creation",
            Self::Transfers => "transfers",
            Self::UserCreation => "user-creation",
        }
    }

    /// Whether its events belong to a base item, so that they can be filtered by one.
    pub const fn knows_base_items(self) -> bool {
        !matches!(self, Self::UserCreation)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metric that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("unknown metric {0:?}; there are item-creation, transfers and user-creation")]
pub struct UnknownMetric(String);

impl FromStr for Metric {
    type Err = UnknownMetric;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|metric| metric.name() == name).ok_or_else(|| UnknownMetric(name.to_owned()))
    }
}

/// What one ledger-writing statement added to the count of one millisecond and base item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Identifies the delta in this epoch of the statistics.
    pub id: i64,
    /// The transaction that wrote it.
    pub xid: u64,
    /// What was counted.
    pub metric: Metric,
    /// The base item, or the nil id for metrics that know none.
    pub base_item: Uuid,
    /// The millisecond.
    pub bucket: UnixMillis,
    /// How many.
    pub count: i64,
}

/// Which counts a series holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesKey {
    /// What is counted.
    pub metric: Metric,
    /// How wide the buckets are, and by which zone's calendar.
    pub calendar: Calendar,
    /// Only events of this base item.
    pub base_item: Option<Uuid>,
    /// Which buckets.
    pub extent: Extent,
}

/// Which buckets a series holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// That of the present moment and those before it, so many in all; and later ones, since clocks differ.
    Window(u32),
    /// The newest non-empty ones within a range.
    Latest {
        /// The start of the first bucket.
        from: Option<UnixMillis>,
        /// The end of the last bucket.
        to: Option<UnixMillis>,
        /// At most so many.
        limit: u32,
    },
}

impl SeriesKey {
    /// Whether this delta counts in this series, its time aside.
    pub fn covers(&self, delta: &Delta) -> bool {
        self.metric == delta.metric && self.base_item.is_none_or(|id| id == delta.base_item)
    }

    /// Adds the empty buckets, newest first: from the end of the range (or now) back to its start (or the oldest count).
    /// A window is left as it is.
    pub fn fill_gaps(&self, now: UnixMillis, counts: &[(UnixMillis, i64)]) -> Vec<(UnixMillis, i64)> {
        let Extent::Latest { from, to, limit } = self.extent else { return counts.to_vec() };
        let calendar = self.calendar;
        let newest_count = counts.first().map(|&(time, _)| time);
        let newest = match to {
            Some(to) => calendar.start_of(to - 1),
            None => newest_count.map_or(calendar.start_of(now), |time| time.max(calendar.start_of(now))),
        };
        let Some(oldest) = from.or(counts.last().map(|&(time, _)| time)) else { return Vec::new() };
        // One more than the limit, for a date that the zone skipped; what is too much is cut off below.
        let oldest = oldest.max(calendar.back(newest, limit));
        let mut counted = counts.iter().copied().rev().skip_while(|&(time, _)| time < oldest).peekable();
        let mut filled = Vec::new();
        let mut time = oldest;
        while time <= newest {
            filled.push(counted.next_if(|&(bucket, _)| bucket == time).unwrap_or((time, 0)));
            time = calendar.end_of(time);
        }
        filled.reverse();
        filled.truncate(limit as usize);
        filled
    }

    /// The earliest moment that this series holds at the given time.
    pub fn starts_at(&self, now: UnixMillis) -> Option<UnixMillis> {
        match self.extent {
            Extent::Window(buckets) => Some(self.calendar.back(self.calendar.start_of(now), buckets.saturating_sub(1))),
            Extent::Latest { from, .. } => from,
        }
    }
}

/// A time zone name that the IANA database does not have.
#[derive(Debug, thiserror::Error)]
#[error("unknown time zone {0:?}; expected an IANA name such as Europe/Berlin")]
pub struct UnknownTimeZone(String);

/// The time zone of that IANA name.
pub fn parse_time_zone(name: &str) -> Result<Tz, UnknownTimeZone> {
    name.parse().map_err(|_| UnknownTimeZone(name.to_owned()))
}

/// The moment as a date and time; moments beyond chrono's range become its ends.
pub fn date_time(moment: UnixMillis) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(moment).unwrap_or(if moment < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_up_to_the_limit_across_a_date_that_was_skipped() {
        // Samoa went from 29 to 31 December 2011.
        let zone = parse_time_zone("Pacific/Apia").unwrap();
        let calendar = Calendar { resolution: Resolution::Day, zone };
        let moment = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis();
        let from = calendar.start_of(moment("2011-12-20T12:00:00-10:00"));
        let to = calendar.end_of(calendar.start_of(moment("2012-01-01T12:00:00+14:00")));
        let extent = Extent::Latest { from: Some(from), to: Some(to), limit: 4 };
        let key = SeriesKey { metric: Metric::Transfers, calendar, base_item: None, extent };
        let counted = calendar.start_of(moment("2011-12-29T12:00:00-10:00"));

        let filled = key.fill_gaps(0, &[(counted, 5)]);

        let days: Vec<_> = filled
            .iter()
            .map(|&(time, count)| (date_time(time).with_timezone(&zone).date_naive().to_string(), count))
            .collect();
        let expected = [("2012-01-01", 0), ("2011-12-31", 0), ("2011-12-29", 5), ("2011-12-28", 0)];
        assert_eq!(days, expected.map(|(day, count)| (day.to_owned(), count)));
    }
}
