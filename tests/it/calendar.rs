//! Buckets by the clocks of every zone: they leave no gap, and Postgres draws the same lines.

use std::ops::Range;

use chrono::{DateTime, Datelike, NaiveDateTime, NaiveTime, TimeDelta, Timelike, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use newcycle::statistics::{Calendar, Resolution, UnixMillis, date_time};
use proptest::prelude::*;
use proptest::sample::select;
use uuid::Uuid;

use crate::harness::database;

const DAY: i64 = 86_400_000;
/// Zones whose clocks do something that others do not: changes by half an hour, at midnight, at a minute past, across
/// the date line.
const PECULIAR: [Tz; 7] = [
    Tz::Europe__Berlin,
    Tz::America__St_Johns,
    Tz::Asia__Kolkata,
    Tz::Australia__Lord_Howe,
    Tz::Pacific__Apia,
    Tz::America__Havana,
    Tz::America__Nuuk,
];

fn millis(text: &str) -> UnixMillis {
    text.parse::<DateTime<Utc>>().expect("a moment").timestamp_millis()
}

fn local(zone: Tz, moment: UnixMillis) -> NaiveDateTime {
    date_time(moment).with_timezone(&zone).naive_local()
}

/// The moments of a span at which the zone's clocks change.
fn clock_changes(zone: Tz, span: Range<UnixMillis>) -> Vec<UnixMillis> {
    let ahead = |moment: UnixMillis| local(zone, moment).and_utc().timestamp_millis() - moment;
    let mut changes = Vec::new();
    let mut before = span.start;
    while before < span.end {
        let after = before + 7 * DAY;
        if ahead(before) != ahead(after) {
            let (mut low, mut high) = (before, after);
            while high - low > 1 {
                let middle = i64::midpoint(low, high);
                if ahead(middle) == ahead(before) { low = middle } else { high = middle }
            }
            changes.push(high);
        }
        before = after;
    }
    changes
}

fn zones() -> impl Strategy<Value = Tz> {
    prop_oneof![select(&PECULIAR), select(&TZ_VARIANTS)]
}

/// Any moment that the ledger knows, more often one of this age, and most often one near a change of the clocks.
fn moments(zone: Tz) -> impl Strategy<Value = UnixMillis> {
    let age = millis("1900-01-01T00:00:00Z")..millis("2040-01-01T00:00:00Z");
    let near = (age.clone(), -2 * DAY..2 * DAY, any::<bool>()).prop_map(move |(from, distance, close)| {
        let change = clock_changes(zone, from..from + 400 * DAY).first().copied().unwrap_or(from);
        change + if close { distance / 40 } else { distance }
    });
    prop_oneof![
        1 => millis("0001-01-01T00:00:00Z")..millis("9999-12-31T23:59:59Z"),
        2 => age,
        4 => near,
    ]
}

fn cases() -> impl Strategy<Value = (Calendar, UnixMillis)> {
    zones().prop_flat_map(|zone| {
        let calendar = select(&Resolution::ALL).prop_map(move |resolution| Calendar { resolution, zone });
        (calendar, moments(zone))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_moment_is_in_exactly_one_bucket((calendar, moment) in cases()) {
        let start = calendar.start_of(moment);
        let end = calendar.end_of(start);
        prop_assert!(start <= moment && moment < end, "{} to {}", date_time(start), date_time(end));
        // Whatever lies between belongs to the same bucket, and the next one begins where this one ends.
        for inside in [start, start + (end - start) / 2, end - 1] {
            prop_assert_eq!(calendar.start_of(inside), start, "{}", date_time(inside));
        }
        prop_assert_eq!(calendar.start_of(end), end);
    }

    #[test]
    fn buckets_begin_where_the_clocks_say((calendar, moment) in cases()) {
        let start = calendar.start_of(moment);
        let (first, before) = (local(calendar.zone, start), local(calendar.zone, start - 1));
        let date = first.date();
        let turns = match calendar.resolution {
            Resolution::Millisecond | Resolution::Second | Resolution::Minute => {
                let width = calendar.resolution.fixed_width().expect("a width");
                prop_assert_eq!(start.rem_euclid(width), 0);
                return Ok(());
            }
            // On the hour, or when the clocks change.
            Resolution::Hour => first.minute() == 0 && first.second() == 0 || first - before != TimeDelta::milliseconds(1),
            Resolution::Day => true,
            Resolution::Week => date.iso_week() != (date - TimeDelta::days(1)).iso_week() || date.iso_week() != before.date().iso_week(),
            Resolution::Month => date.month() != before.month(),
            Resolution::Quarter => date.quarter() != before.date().quarter(),
            Resolution::Year => date.year() != before.year(),
        };
        prop_assert!(turns, "{first} after {before}");
        if calendar.resolution > Resolution::Hour {
            // At midnight, or at the moment at which the clocks jump over it.
            prop_assert!(date > before.date(), "{first} after {before}");
            prop_assert!(first.time() == NaiveTime::MIN || first - before > TimeDelta::milliseconds(1), "{first}");
        }
    }

    #[test]
    fn going_back_leads_to_a_bucket_that_is_about_so_many_earlier(
        (calendar, moment) in cases(), buckets in 0_u32..200,
    ) {
        let start = calendar.start_of(moment);
        let back = calendar.back(start, buckets);
        prop_assume!(back > millis("0001-01-02T00:00:00Z"));
        prop_assert_eq!(calendar.start_of(back), back);
        let steps = i64::try_from(calendar.edges(back, start).len()).expect("few") - 2;
        // A date that was skipped (Samoa, 30 December 2011) counts; half hours at a change of the clocks do not.
        prop_assert!((steps - i64::from(buckets)).abs() <= i64::from(buckets) / 50 + 1, "{steps} steps");
    }
}

#[test]
fn days_have_23_24_or_25_hours_and_some_others() {
    for (zone, start, halves) in [
        (Tz::Europe__Berlin, "2021-03-27T23:00:00Z", 46),
        (Tz::Europe__Berlin, "2021-06-30T22:00:00Z", 48),
        (Tz::Europe__Berlin, "2021-10-30T22:00:00Z", 50),
        // By half an hour.
        (Tz::Australia__Lord_Howe, "2021-10-02T13:30:00Z", 47),
        (Tz::Australia__Lord_Howe, "2021-04-03T13:00:00Z", 49),
        // From midnight to one o'clock, and from one o'clock back to midnight: the first midnight counts.
        (Tz::America__Havana, "2021-03-14T05:00:00Z", 46),
        (Tz::America__Havana, "2021-11-07T04:00:00Z", 50),
        // A minute past midnight: the day is an hour shorter; and back into the day before, which has ended already.
        (Tz::America__St_Johns, "2010-03-14T03:30:00Z", 46),
        (Tz::America__St_Johns, "2010-11-07T02:30:00Z", 50),
        // The days before and after the one that Samoa skipped.
        (Tz::Pacific__Apia, "2011-12-29T10:00:00Z", 48),
        (Tz::Pacific__Apia, "2011-12-30T10:00:00Z", 48),
    ] {
        let day = Calendar { resolution: Resolution::Day, zone };
        let start = millis(start);
        assert_eq!(day.start_of(start), start, "{zone}");
        assert_eq!(day.end_of(day.start_of(start - 1)), start, "{zone}");
        assert_eq!((day.end_of(start) - start) / 1_800_000, halves, "{zone} {}", date_time(start));
    }
}

#[test]
fn the_hour_that_comes_twice_is_two_buckets() {
    let hour = Calendar { resolution: Resolution::Hour, zone: Tz::Europe__Berlin };
    let edges = hour.edges(millis("2021-10-30T23:30:00Z") - 1_800_000, millis("2021-10-31T01:30:00Z"));
    let expected = ["2021-10-30T23:00:00Z", "2021-10-31T00:00:00Z", "2021-10-31T01:00:00Z", "2021-10-31T02:00:00Z"];
    assert_eq!(edges, expected.map(millis));

    // On Lord Howe Island half an hour comes twice: it is a bucket of its own.
    let hour = Calendar { resolution: Resolution::Hour, zone: Tz::Australia__Lord_Howe };
    let edges = hour.edges(millis("2021-04-03T14:00:00Z"), millis("2021-04-03T15:45:00Z"));
    let expected = ["2021-04-03T14:00:00Z", "2021-04-03T15:00:00Z", "2021-04-03T15:30:00Z", "2021-04-03T16:30:00Z"];
    assert_eq!(edges, expected.map(millis));
}

/// How Postgres answers: what was asked, and `date_trunc`, with what the clocks showed at both moments.
type Truncated = (String, i64, i64, NaiveDateTime, NaiveDateTime);

/// Postgres' `date_trunc(unit, moment, zone)` is another's reading of the same calendar. It differs on purpose where the
/// clocks are set back or forward, because it truncates what the clock shows, and may so arrive at another moment:
///
/// - When the clocks change within an hour (by half an hour on Lord Howe Island, or at a minute past), the truncated
///   clock lies before the change. Our bucket begins at the change, or buckets would overlap.
/// - When midnight comes twice (Havana in autumn), it takes the second one, which lies after some of the day's moments.
/// - When the clocks are set back over midnight (St John's before 2011), the last hour of the day comes again after the
///   next day has begun. It counts those moments to the day before, so that its day would be in two pieces.
///
/// Everything else must agree. Only the years from 1970 on, as the time zone database promises no more.
#[tokio::test]
async fn postgres_truncates_to_the_same_buckets() {
    let database = database().await;
    let names: Vec<String> =
        sqlx::query_scalar("select name from pg_timezone_names").fetch_all(&database.pool).await.expect("names");
    let mut zones: Vec<Tz> = names.iter().filter_map(|name| name.parse().ok()).collect();
    assert!(zones.len() > 400 && PECULIAR.iter().all(|zone| zones.contains(zone)), "{} zones", zones.len());
    // Many are alike: the peculiar ones every time, and others by chance.
    zones.sort_by_cached_key(|zone| (!PECULIAR.contains(zone), Uuid::new_v4()));
    zones.truncate(150);
    let (mut compared, mut unknown, mut on_purpose) = (0, 0, 0);
    for zone in zones {
        let mut moments: Vec<UnixMillis> = (0..68).map(|year| year * 365 * DAY + DAY / 3).collect();
        let mut changes = clock_changes(zone, 0..68 * 365 * DAY);
        if !PECULIAR.contains(&zone) && !changes.is_empty() {
            // A few are enough for the many.
            let any = usize::try_from(Uuid::new_v4().as_u128() % changes.len() as u128).expect("an index");
            changes.rotate_left(any);
            changes.truncate(6);
        }
        for change in changes {
            moments.extend(
                [-DAY, -7_200_000, -60_000, -1, 0, 60_000, 1_799_999, 3_600_000, 5_400_000].map(|d| change + d),
            );
        }
        let rows: Vec<Truncated> = sqlx::query_as(
            "select unit, (extract(epoch from moment) * 1000)::bigint, (extract(epoch from start) * 1000)::bigint,
                moment at time zone $2, start at time zone $2
            from unnest($1::timestamptz[]) as moment
            cross join unnest(array['hour', 'day', 'week', 'month', 'quarter', 'year']) as unit
            cross join lateral date_trunc(unit, moment, $2) as start",
        )
        .bind(moments.iter().copied().map(date_time).collect::<Vec<_>>())
        .bind(zone.name())
        .fetch_all(&database.pool)
        .await
        .expect("truncated moments");
        for (unit, moment, truncated, local_moment, local_truncated) in rows {
            let calendar = Calendar { resolution: unit.parse().expect("a resolution"), zone };
            let start = calendar.start_of(moment);
            compared += 1;
            if start == truncated {
                continue;
            }
            if local(zone, moment) != local_moment || local(zone, truncated) != local_truncated {
                // The two have other editions of the time zone database.
                unknown += 1;
                continue;
            }
            on_purpose += 1;
            let (first, before) = (local(zone, start), local(zone, start - 1));
            let clocks_change = first - before != TimeDelta::milliseconds(1);
            let explained = match calendar.resolution {
                Resolution::Hour => truncated < start && clocks_change,
                _ => {
                    let second_midnight = start < truncated && first == local_truncated;
                    let set_back = truncated < start && local_moment < first;
                    second_midnight || set_back
                }
            };
            assert!(
                explained,
                "{unit} in {zone}: {} is in the bucket that begins {}, not {}",
                date_time(moment),
                date_time(start),
                date_time(truncated)
            );
        }
    }
    assert!(unknown * 50 < compared, "{unknown} of {compared} could not be compared");
    assert!(on_purpose > 0 && on_purpose * 50 < compared, "{on_purpose} of {compared} differ on purpose");
}
