//! When streams run: every so often from when they were started, or by a cron expression.
//!
//! **Invariant:** what is scheduled depends on nothing but the schedule: a run that took long, or a server that was away, moves
//! no later run. All that is here is pure; the clock is an argument.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use uuid::Uuid;

/// Streams that are due at the same moment begin within this share of their interval, each with a delay of its own.
const JITTER_SHARE: i32 = 10;
/// And at the latest so long after.
const LONGEST_JITTER: TimeDelta = TimeDelta::seconds(30);
/// So many missed moments of a cron expression are counted at most.
const MOST_COUNTED: i64 = 10_000;
/// A cron expression without a time in that long has none.
const HORIZON: TimeDelta = TimeDelta::days(366 * 10);

/// When a stream runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Schedule {
    /// Every so often.
    Interval(TimeDelta),
    /// By the clocks of a time zone.
    Cron(Box<Cron>, Tz),
}

/// The run after one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// When it is scheduled; never, if the schedule has no further moment.
    pub at: Option<DateTime<Utc>>,
    /// How many scheduled moments have passed until now, for which there is no run any more.
    pub skipped: i64,
}

/// A cron expression that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct MalformedCron(String);

impl Schedule {
    /// Every so many seconds.
    pub(super) fn every(seconds: i64) -> Self {
        Self::Interval(TimeDelta::try_seconds(seconds.max(1)).unwrap_or(TimeDelta::MAX))
    }

    /// By a cron expression (minute, hour, day of month, month, day of week) that names a moment yet to come.
    pub(super) fn cron(expression: &str, zone: Tz) -> Result<Self, MalformedCron> {
        let schedule = Self::read_cron(expression, zone)?;
        if schedule.following(Utc::now()).is_none() {
            return Err(MalformedCron("it names no moment within ten years".to_owned()));
        }
        Ok(schedule)
    }

    /// By one that was checked before: its last moment may have passed.
    pub(super) fn read_cron(expression: &str, zone: Tz) -> Result<Self, MalformedCron> {
        // Of a part without a value the crate makes one that no moment has, and looks for it second by second up to the year 5000.
        if expression.split_whitespace().flat_map(|part| part.split(',')).any(str::is_empty) {
            return Err(MalformedCron("it has a comma without a value beside it".to_owned()));
        }
        let cron = Cron::from_str(expression).map_err(|error| MalformedCron(error.to_string()))?;
        Ok(Self::Cron(Box::new(cron), zone))
    }

    /// The first run of a stream that is started now.
    pub(super) fn first(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::Interval(_) => now,
            Self::Cron(..) => self.following(now).unwrap_or(now),
        }
    }

    /// The run after the one that was scheduled then and is over now. One that is not due yet stays as it is: somebody had
    /// the stream fetch before.
    pub(super) fn next(&self, scheduled: DateTime<Utc>, now: DateTime<Utc>) -> Next {
        if scheduled > now {
            return Next { at: Some(scheduled), skipped: 0 };
        }
        match self {
            Self::Interval(interval) => {
                let interval_micros = interval.num_microseconds().unwrap_or(i64::MAX).max(1);
                let passed = (now - scheduled).num_microseconds().unwrap_or(0) / interval_micros;
                let at = i32::try_from(passed + 1).ok().and_then(|times| interval.checked_mul(times));
                Next { at: at.and_then(|after| scheduled.checked_add_signed(after)), skipped: passed }
            }
            Self::Cron(..) => {
                let mut moment = scheduled;
                for skipped in 0..MOST_COUNTED {
                    match self.following(moment) {
                        Some(next) if next <= now => moment = next,
                        at => return Next { at, skipped },
                    }
                }
                Next { at: self.following(now), skipped: MOST_COUNTED }
            }
        }
    }

    /// How much later than scheduled a stream begins: always the same for one, so that the time between its runs is that of the
    /// schedule, and another for each, so that hundreds that were scheduled together do not begin together.
    pub(super) fn jitter(&self, stream: Uuid) -> TimeDelta {
        let room = match self {
            Self::Interval(interval) => (*interval / JITTER_SHARE).min(LONGEST_JITTER),
            // Nobody says how far apart the moments are: the closest are a minute, or a second where seconds are given.
            Self::Cron(..) => TimeDelta::seconds(1),
        };
        // The last bits of an id are random.
        let share = i64::try_from(stream.as_u128() % 1_000).unwrap_or(0);
        TimeDelta::microseconds(room.num_microseconds().unwrap_or(0) / 1_000 * share)
    }

    pub(super) fn following(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let Self::Cron(cron, zone) = self else { return None };
        let next = cron.find_next_occurrence(&moment.with_timezone(zone), false).ok()?.with_timezone(&Utc);
        (next - moment <= HORIZON).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use chrono_tz::Europe::Berlin;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a moment")
    }

    #[test]
    fn runs_that_take_long_move_no_others() {
        let schedule = Schedule::every(300);
        let begin = at("2026-03-01T00:00:00Z");
        assert_eq!(schedule.first(begin), begin);
        for (now, next, skipped) in [
            ("2026-03-01T00:00:07Z", "2026-03-01T00:05:00Z", 0),
            ("2026-03-01T00:04:59.999999Z", "2026-03-01T00:05:00Z", 0),
            ("2026-03-01T00:05:00Z", "2026-03-01T00:10:00Z", 1),
            ("2026-03-01T01:00:01Z", "2026-03-01T01:05:00Z", 12),
        ] {
            assert_eq!(schedule.next(begin, at(now)), Next { at: Some(at(next)), skipped }, "{now}");
        }
    }

    #[test]
    fn a_run_in_between_takes_the_place_of_none() {
        let (scheduled, now) = (at("2026-03-01T00:05:00Z"), at("2026-03-01T00:03:00Z"));
        assert_eq!(Schedule::every(300).next(scheduled, now), Next { at: Some(scheduled), skipped: 0 });
    }

    #[test]
    fn the_longest_interval_has_no_second_moment() {
        let begin = at("2026-03-01T00:00:00Z");
        let schedule = Schedule::every(i64::MAX);
        assert_eq!(schedule.next(begin, begin), Next { at: None, skipped: 0 });
        assert!(schedule.jitter(Uuid::from_u128(999)) <= LONGEST_JITTER);
    }

    #[test]
    fn cron_goes_by_the_clocks_of_its_zone() {
        let schedule = Schedule::cron("30 2 * * *", Berlin).expect("a schedule");
        let mut moment = at("2026-03-27T12:00:00Z");
        let mut moments = Vec::new();
        for _ in 0..4 {
            moment = schedule.next(moment, moment).at.expect("another");
            moments.push(moment);
        }
        // On the 29th, there is no half past two; what was to happen then happens when the clocks go on.
        let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"];
        assert_eq!(moments, expected.map(at));
        let late = schedule.next(at("2026-06-01T00:30:00Z"), at("2026-06-04T12:00:00Z"));
        assert_eq!(late, Next { at: Some(at("2026-06-05T00:30:00Z")), skipped: 3 });
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for expression in ["", "every day", "61 * * * *", "* * * *", "0 0 30 2 *", "* * , * *", "1,, * * * *"] {
            assert!(Schedule::cron(expression, Tz::UTC).is_err(), "{expression:?}");
        }
    }

    proptest! {
        /// Days of a stream's life: runs that take anything from nothing to hours, and servers that are away for as long.
        #[test]
        fn however_long_runs_take_each_moment_is_run_or_skipped_once(
            interval in 1..10_000_i64,
            late in proptest::collection::vec(0..100_000_000_000_i64, 1..200),
        ) {
            let schedule = Schedule::every(interval);
            let begin = at("2026-01-01T00:00:00Z");
            let mut scheduled = begin;
            let (mut runs, mut skipped) = (0, 0);
            for late in late {
                let over = scheduled + TimeDelta::microseconds(late);
                let next = schedule.next(scheduled, over);
                let following = next.at.expect("another");
                prop_assert!(following > over && following - over <= TimeDelta::seconds(interval));
                runs += 1;
                skipped += next.skipped;
                prop_assert_eq!(following - begin, TimeDelta::seconds(interval) * (runs + i32::try_from(skipped).expect("few")));
                scheduled = following;
            }
        }

        #[test]
        fn those_that_are_due_together_begin_one_by_one_and_soon(interval in 1..1_000_000_i64, id: u128) {
            let schedule = Schedule::every(interval);
            let jitter = schedule.jitter(Uuid::from_u128(id));
            prop_assert!(jitter >= TimeDelta::zero() && jitter * 10 <= TimeDelta::seconds(interval));
            prop_assert!(jitter <= LONGEST_JITTER);
        }
    }
}
