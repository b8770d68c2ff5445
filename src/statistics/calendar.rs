//! Buckets of time by the clocks of a zone.
//!
//! Buckets are contiguous: each ends where the next begins, whatever the clocks do.
//!
//! - Milliseconds, seconds and minutes follow UTC.
//! - An **hour** begins when the local clock reads a whole hour, and also when the clocks change: an hour that is
//!   repeated in autumn is two buckets, and a change by half an hour (Lord Howe Island) makes one of half an hour.
//! - A **day** and anything longer begins at the first moment at which the local clock reads its start or something
//!   later. A day without midnight begins when the clocks jump over it; when midnight comes twice, the first counts.
//!
//! The SQL functions `statistics.bucket_start` and `statistics.bucket_end` are the same rules for psql; a test holds
//! the two against each other.

use chrono::{Datelike, Days, MappedLocalTime, Months, NaiveDate, NaiveDateTime, Offset, SecondsFormat, TimeZone};
use chrono_tz::Tz;

use super::{Resolution, UnixMillis, date_time};

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
/// No zone is further from UTC than this, ever.
const LARGEST_OFFSET: i64 = 26 * HOUR;
/// 0001-01-01T00:00:00Z: the ledger accepts nothing earlier, and a window never needs to begin before it.
const BEGINNING: UnixMillis = -62_135_596_800_000;

/// Buckets of a resolution in a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Calendar {
    /// How wide the buckets are.
    pub resolution: Resolution,
    /// Whose clocks they follow.
    pub zone: Tz,
}

impl Calendar {
    /// The start of the bucket that contains the moment.
    pub fn start_of(&self, moment: UnixMillis) -> UnixMillis {
        if let Some(width) = self.resolution.fixed_width() {
            return moment.div_euclid(width) * width;
        }
        if self.resolution == Resolution::Hour {
            let offset = self.offset_at(moment);
            let whole_hour = (moment + offset).div_euclid(HOUR) * HOUR - offset;
            return if self.offset_at(whole_hour) == offset {
                whole_hour
            } else {
                self.first(whole_hour, moment, |at| self.offset_at(at) == offset)
            };
        }
        let mut start = self.first_moment_of(self.truncate(self.local_date(moment)));
        // The clocks may have been set back over midnight: then the next bucket has already begun.
        loop {
            let end = self.end_of(start);
            if end > moment {
                return start;
            }
            start = end;
        }
    }

    /// The end of the bucket with this start, which is the start of the next.
    pub fn end_of(&self, start: UnixMillis) -> UnixMillis {
        if let Some(width) = self.resolution.fixed_width() {
            return start + width;
        }
        if self.resolution == Resolution::Hour {
            let offset = self.offset_at(start);
            let end = ((start + offset).div_euclid(HOUR) + 1) * HOUR - offset;
            return if self.offset_at(end) == offset {
                end
            } else {
                self.first(start, end, |at| self.offset_at(at) != offset)
            };
        }
        let mut date = self.truncate(self.local_date(start));
        // A date that the zone skipped (Samoa, 30 December 2011) begins where the next one does: no bucket.
        loop {
            date = self.step(date, 1);
            let end = self.first_moment_of(date);
            if end > start {
                return end;
            }
        }
    }

    /// The start of the bucket so many buckets before the one with this start. A date that the zone skipped counts as one,
    /// and a change of the clocks by half an hour as none.
    pub fn back(&self, start: UnixMillis, buckets: u32) -> UnixMillis {
        let earlier = if let Some(width) = self.resolution.fixed_width() {
            start - i64::from(buckets) * width
        } else if self.resolution == Resolution::Hour {
            self.start_of(start - i64::from(buckets) * HOUR)
        } else {
            let date = self.step(self.truncate(self.local_date(start)), -i64::from(buckets));
            self.first_moment_of(date)
        };
        earlier.max(self.start_of_beginning())
    }

    /// The edges of all buckets from the one with this start to the one that contains the last moment, ends included.
    pub fn edges(&self, start: UnixMillis, last: UnixMillis) -> Vec<UnixMillis> {
        let mut edges = vec![start];
        let mut edge = start;
        while edge <= last {
            edge = self.end_of(edge);
            edges.push(edge);
        }
        edges
    }

    /// The start of a bucket as RFC 3339, in UTC, with milliseconds only where they say something.
    pub fn format(&self, start: UnixMillis) -> String {
        let milliseconds = self.resolution == Resolution::Millisecond;
        let format = if milliseconds { SecondsFormat::Millis } else { SecondsFormat::Secs };
        date_time(start).to_rfc3339_opts(format, true)
    }

    fn start_of_beginning(&self) -> UnixMillis {
        // The bucket that contains the ledger's earliest moment; computed without its zone's exotic past.
        BEGINNING - if self.resolution.fixed_width().is_some() { 0 } else { LARGEST_OFFSET }
    }

    fn local(&self, moment: UnixMillis) -> NaiveDateTime {
        self.zone.from_utc_datetime(&date_time(moment).naive_utc()).naive_local()
    }

    fn local_date(&self, moment: UnixMillis) -> NaiveDate {
        self.local(moment).date()
    }

    fn offset_at(&self, moment: UnixMillis) -> i64 {
        let offset = self.zone.offset_from_utc_datetime(&date_time(moment).naive_utc());
        i64::from(offset.fix().local_minus_utc()) * SECOND
    }

    /// The first day of the bucket that contains the date.
    fn truncate(&self, date: NaiveDate) -> NaiveDate {
        let first_of_month = |month: u32| NaiveDate::from_ymd_opt(date.year(), month, 1).unwrap_or(date);
        match self.resolution {
            Resolution::Week => date - Days::new(u64::from(date.weekday().num_days_from_monday())),
            Resolution::Month => first_of_month(date.month()),
            Resolution::Quarter => first_of_month(date.month0() / 3 * 3 + 1),
            Resolution::Year => first_of_month(1),
            _ => date,
        }
    }

    /// The first day of the bucket so many buckets later, or earlier.
    fn step(&self, first_day: NaiveDate, buckets: i64) -> NaiveDate {
        let days = |days: i64| match days {
            0.. => first_day.checked_add_days(Days::new(days.unsigned_abs())),
            _ => first_day.checked_sub_days(Days::new(days.unsigned_abs())),
        };
        let months = |months: i64| {
            let amount = Months::new(u32::try_from(months.unsigned_abs()).unwrap_or(u32::MAX));
            if months >= 0 { first_day.checked_add_months(amount) } else { first_day.checked_sub_months(amount) }
        };
        match self.resolution {
            Resolution::Week => days(buckets * 7),
            Resolution::Month => months(buckets),
            Resolution::Quarter => months(buckets * 3),
            Resolution::Year => months(buckets * 12),
            _ => days(buckets),
        }
        .unwrap_or(if buckets < 0 { NaiveDate::MIN } else { NaiveDate::MAX })
    }

    /// The first moment at which the local clock reads this date or a later one.
    fn first_moment_of(&self, date: NaiveDate) -> UnixMillis {
        let midnight = date.and_time(chrono::NaiveTime::MIN);
        match self.zone.from_local_datetime(&midnight) {
            MappedLocalTime::Single(moment) | MappedLocalTime::Ambiguous(moment, _) => moment.timestamp_millis(),
            MappedLocalTime::None => {
                // The clocks jumped over midnight: the moment of the jump.
                let as_if_utc = midnight.and_utc().timestamp_millis();
                let before = self.offset_at(as_if_utc - LARGEST_OFFSET);
                self.first(as_if_utc - LARGEST_OFFSET, as_if_utc - before, |at| self.local(at) >= midnight)
            }
        }
    }

    /// The first second in (low, high] for which the condition holds, which it does from there on.
    fn first(&self, low: UnixMillis, high: UnixMillis, holds: impl Fn(UnixMillis) -> bool) -> UnixMillis {
        let (mut low, mut high) = (low.div_euclid(SECOND), high.div_euclid(SECOND));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if holds(middle * SECOND) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high * SECOND
    }
}
