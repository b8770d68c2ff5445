//! What holds of positions, resolutions and time zones that somebody names.

use chrono::DateTime;
use chrono_tz::TZ_VARIANTS;

use super::{Calendar, Position, Resolution, Snapshot, parse_time_zone};
use crate::fuzzing::{choice_and_text, number};

/// From 0001-01-01 to 9999-12-31, in milliseconds.
const MOMENTS: std::ops::Range<i64> = -62_135_596_800_000..253_402_300_800_000;

/// Positions (`Last-Event-ID`) and snapshots, which Postgres writes the same way.
pub fn positions(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(snapshot) = text.parse::<Snapshot>() {
        assert_eq!(snapshot.to_string().parse::<Snapshot>().expect("what is written can be read"), snapshot);
    }
    let Ok(mut position) = text.parse::<Position>() else { return };
    let written = position.to_string();
    let again: Position = written.parse().expect("what is written can be read");
    assert_eq!(again.to_string(), written);
    // What is too long to be written is left out, which claims less: never more.
    for xid in [0, 1, position.snapshot.xmin, position.snapshot.xmax, u64::MAX] {
        assert!(position.snapshot.sees(xid) || !again.snapshot.sees(xid));
    }
    for (first, last) in again.heard.ranges() {
        assert!(position.heard.contains(first) && position.heard.contains(last));
    }
    for id in [i64::MIN, -1, 0, 1, i64::MAX] {
        let was_there = position.heard.contains(id);
        assert_eq!(position.heard.insert(id), !was_there);
        assert!(position.heard.contains(id) && !position.heard.insert(id));
    }
    let ranges: Vec<_> = position.heard.ranges().collect();
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "{ranges:?}");
}

/// Buckets of any moment in any zone; and the names of resolutions and zones.
pub fn calendars(bytes: &[u8]) {
    let Some((moment, rest)) = number(bytes) else { return };
    let Some((choice, name)) = choice_and_text(rest) else { return };
    let resolution = name.parse().unwrap_or(Resolution::ALL[choice % Resolution::ALL.len()]);
    let any_zone = TZ_VARIANTS[moment.unsigned_abs() as usize % TZ_VARIANTS.len()];
    let zone = parse_time_zone(name).unwrap_or(any_zone);
    assert_eq!(parse_time_zone(zone.name()).expect("its own name"), zone);
    let calendar = Calendar { resolution, zone };
    let moment = MOMENTS.start + moment.rem_euclid(MOMENTS.end - MOMENTS.start);
    let start = calendar.start_of(moment);
    let end = calendar.end_of(start);
    assert!(start <= moment && moment < end, "{calendar:?} {moment}: {start} to {end}");
    assert_eq!([calendar.start_of(start), calendar.start_of(end - 1), calendar.start_of(end)], [start, start, end]);
    // The first bucket of a zone may begin before the ledger does, and nothing is asked for before that.
    assert!(calendar.back(start, choice as u32) <= start.max(MOMENTS.start));
    let written = DateTime::parse_from_rfc3339(&calendar.format(start)).map(|time| time.timestamp_millis());
    // Buckets of zones may begin before the year 1, or between two seconds where clocks went by the sun.
    assert!(written.is_err() || (written.expect("a time") - start).abs() < 1_000, "{calendar:?} {start}");
}
