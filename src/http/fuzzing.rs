//! What holds of requests, whatever is in them, and of the settings that say what is believed of them.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::download::{Wanted, wanted};
use super::extract::{MediaType, from_query, media_type};
use super::problem::Problem;
use super::rate::{client_address, forwarded_https};
use super::records::{CreateQuery, ListAtQuery, ListQuery};
use super::rows::Splitter;
use super::statistics::{CountsQuery, StreamQuery, end_covering, parse_calendar, parse_range};
use super::streams::{read_token, write_token};
use super::{Limit, Origins, Rate, TrustedProxies, cookie, exports, parse, sse};
use crate::auth::Scopes;
use crate::database::Primary;
use crate::fuzzing::{choice_and_text, number};
use crate::ledger::bulk::Line;
use crate::ledger::{BaseItem, Item, NewRecord, PageToken, Record, Transfer, User, YEARS};
use crate::statistics::Extent;

/// Serde reads so many levels of JSON, and rows lie one level deeper in an array.
const MOST_LEVELS: usize = 100;

type Rows = Vec<(u64, Bytes)>;

/// Bodies of bulk requests, taken apart into rows, and rows of every kind.
pub fn rows(bytes: &[u8]) {
    let Some((&choice, text)) = bytes.split_first() else { return };
    let media_type = if choice & 1 == 0 { MediaType::Json } else { MediaType::Ndjson };
    let split = split(media_type, text, text.len().max(1));
    let in_pieces = self::split(media_type, text, usize::from(choice >> 1).max(1));
    assert_eq!(in_pieces.as_ref().ok(), split.as_ref().ok(), "wherever the pieces end");
    let is_deep = text.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > MOST_LEVELS;
    match (media_type, &split) {
        (MediaType::Json, Ok(rows)) => {
            let all: Result<Vec<Value>, _> = rows.iter().map(|(_, row)| serde_json::from_slice(row)).collect();
            if let (Ok(all), false) = (all, is_deep) {
                assert_eq!(serde_json::from_slice::<Vec<Value>>(text).expect("an array"), all);
            }
        }
        (MediaType::Json, Err(_)) => assert!(serde_json::from_slice::<Vec<Value>>(text).is_err(), "it is an array"),
        (MediaType::Ndjson, _) => {
            let lines = text.split(|byte| *byte == b'\n').zip(1_u64..);
            let lines: Vec<_> = lines.filter(|(line, _)| !line.iter().all(u8::is_ascii_whitespace)).collect();
            let rows = split.as_ref().expect("every line is a row");
            assert!(lines.iter().map(|(line, number)| (*number, *line)).eq(rows.iter().map(|(n, row)| (*n, &**row))));
        }
    }
    for (number, row) in split.iter().flatten() {
        read::<BaseItem>(*number, row);
        read::<User>(*number, row);
        read::<Item>(*number, row);
        read::<Transfer>(*number, row);
    }
    // Also as a whole: a request with a single row.
    read::<BaseItem>(1, text);
}

fn split(media_type: MediaType, text: &[u8], piece: usize) -> Result<Rows, Problem> {
    let mut splitter = Splitter::new(media_type);
    let mut rows = Vec::new();
    for bytes in text.chunks(piece) {
        splitter.push(bytes);
        while let Some(row) = splitter.take()? {
            rows.push(row);
        }
    }
    rows.extend(splitter.finish()?);
    Ok(rows)
}

fn read<R: Record>(number: u64, row: &[u8]) {
    let Line { number: line, content } = parse::<R::New>(number, row);
    assert_eq!(line, number);
    match content {
        Ok(mut new) => {
            // What passes is what Postgres can keep.
            let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
            if let Ok(id) = new.validate(now) {
                assert!(serde_json::from_slice::<Value>(row).is_ok_and(|row| row.is_object()));
                assert_eq!(new.validate(now).expect("it is still good"), id);
            }
        }
        Err(rejection) => assert!(rejection.line == number && !rejection.detail.is_empty()),
    }
}

/// Query strings.
pub fn queries(bytes: &[u8]) {
    let Some((choice, query)) = choice_and_text(bytes) else { return };
    let most_buckets = [1, 60, 10_000][choice % 3];
    if let Ok(query) = from_query::<CountsQuery>(query)
        && let Ok(calendar) = parse_calendar(["minute", "hour", "week", "year"][choice % 4], query.timezone.as_deref())
    {
        for moment in [query.from, query.to].into_iter().flatten() {
            check_years(moment);
            let start = calendar.start_of(moment.timestamp_millis());
            assert!(start <= moment.timestamp_millis() && end_covering(calendar, moment) >= moment.timestamp_millis());
        }
    }
    if let Ok(query) = from_query::<StreamQuery>(query)
        && let Ok(calendar) = parse_calendar(query.resolution.as_deref().unwrap_or("minute"), query.timezone.as_deref())
        && let Ok(Some(extent)) = parse_range(calendar, query.from, query.to, most_buckets)
    {
        let Extent::Latest { from: Some(from), to: Some(to), limit } = extent else { panic!("{extent:?} has no ends") };
        assert!(from < to && limit == most_buckets);
        // A date that a zone skipped, or clocks that were changed by half an hour, make one more.
        assert!(calendar.edges(from, to - 1).len() <= most_buckets as usize + 3);
    }
    if let Ok(query) = from_query::<ListQuery>(query) {
        drop(query.page().map(|page| assert!((1..=1000).contains(&page.size))));
    }
    if let Ok(query) = from_query::<ListAtQuery>(query) {
        query.at.into_iter().for_each(check_years);
    }
    drop(from_query::<CreateQuery>(query));
}

fn check_years(moment: DateTime<Utc>) {
    assert!(YEARS.contains(&chrono::Datelike::year(&moment)), "{moment}");
}

/// Tokens of pages.
pub fn pages(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<PageToken>() {
        check_years(token.moment);
        assert_eq!(token.to_string(), text, "a page has one token");
    }
    if let Ok((batch, key)) = read_token(text) {
        assert_eq!(read_token(&write_token(batch, &key)).expect("it can be read"), (batch, key));
    }
}

/// Values of headers.
pub fn headers(bytes: &[u8]) {
    let Some((number, rest)) = number(bytes) else { return };
    let Ok(value) = HeaderValue::from_bytes(rest) else { return };
    let with = |name: HeaderName| HeaderMap::from_iter([(name, value.clone())]);
    if let Ok(range) = value.to_str() {
        let size = number.unsigned_abs();
        match wanted(range, size) {
            Wanted::Part(part) => assert!(part.start < part.end && part.end <= size, "{part:?} of {size}"),
            Wanted::Everything | Wanted::Nothing => {}
        }
    }
    if let Some(session) = cookie::session(&with(header::COOKIE)) {
        assert!(value.to_str().expect("it was read").contains(&session));
    }
    let wait = exports::preferred_wait(&with(HeaderName::from_static("prefer")));
    assert!(wait.is_none_or(|wait| wait.as_secs() <= 60));
    if sse::is_wanted(&with(header::ACCEPT)) {
        assert!(value.to_str().expect("it was read").contains("text/event-stream"));
    }
    let mut request = Request::new(axum::body::Body::empty());
    *request.headers_mut() = with(header::CONTENT_TYPE);
    drop(media_type(&request));
    let peer = IpAddr::V4(Ipv4Addr::from((number as u32).to_be_bytes()));
    let mut forwarded = with(HeaderName::from_static("x-forwarded-for"));
    forwarded.insert("x-forwarded-proto", value.clone());
    let nobody = TrustedProxies::default();
    assert_eq!(client_address(peer, &forwarded, &nobody), peer);
    assert!(!forwarded_https(peer, &forwarded, &nobody));
    let everybody: TrustedProxies = "0.0.0.0/0,::/0".parse().expect("networks");
    let client = client_address(peer, &forwarded, &everybody);
    assert_eq!(client.to_canonical(), client);
}

/// Settings that have a form of their own.
pub fn settings(bytes: &[u8]) {
    let Some((choice, text)) = choice_and_text(bytes) else { return };
    match choice % 5 {
        0 => {
            if let Ok(rate) = text.parse::<Rate>() {
                assert_eq!(rate.to_string().parse::<Rate>().expect("it can be read"), rate);
                assert!(rate.burst.is_none_or(|burst| burst <= rate.requests));
            }
            drop(text.parse::<Limit>());
        }
        1 => {
            if let Ok(proxies) = text.parse::<TrustedProxies>() {
                assert!(proxies != TrustedProxies::default() || text.split(',').all(|name| name.trim().is_empty()));
            }
        }
        2 => {
            if text.parse::<Origins>().is_ok() {
                let mut names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                assert!(names.all(|name| name.to_ascii_lowercase().starts_with("http")));
            }
        }
        3 => {
            let names: Vec<_> = Scopes::known_of(text.split_whitespace()).names();
            assert!(names.iter().all(|name| text.contains(name)));
        }
        _ => {
            if let Ok(target) = text.parse() {
                drop(Primary::among(&target));
            }
        }
    }
}
