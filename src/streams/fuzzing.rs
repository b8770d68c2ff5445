//! What holds of streams that somebody defines, of what sources answer, and of what becomes of it.

use std::path::Path;
use std::sync::LazyLock;

use chrono::DateTime;
use chrono_tz::Tz;
use serde_json::{Value, json};
use uuid::Uuid;

use super::definition::NewStream;
use super::json::{MOST_LEVELS, displayable, greater, is_deeper, parse, refusal, same};
use super::processing;
use super::schedule::Schedule;
use super::seal::{Keys, Seal};
use super::source::fuzzing as source;
use super::transform::{MOST_STEPS, MOST_TEXT, Step, apply};
use crate::fuzzing::{choice, choice_and_text, number};

static SEAL: LazyLock<Seal> = LazyLock::new(|| {
    let keys: Keys = "07".repeat(32).parse().expect("a key");
    Seal::new(&keys, Path::new("/nowhere"))
});

/// Streams to be created.
pub fn definitions(bytes: &[u8]) {
    let Ok(new) = serde_json::from_slice::<NewStream>(bytes) else { return };
    let Ok(definition) = new.validate() else { return };
    assert!(!definition.name.is_empty() && definition.name.chars().count() <= 100);
    assert!(definition.transform.len() <= MOST_STEPS);
    // What is kept is what was said, and holds no secrets.
    let source = json!(definition.source);
    assert_eq!(refusal(&source), None);
    assert_eq!(serde_json::from_value::<super::source::SourceSettings>(source).expect("a source"), definition.source);
    let steps: Vec<Step> = serde_json::from_value(json!(definition.transform)).expect("steps");
    assert_eq!(steps, definition.transform);
    if let Some(auth) = &definition.auth {
        let kept = serde_json::to_vec(auth).expect("JSON");
        assert_eq!(serde_json::from_slice::<super::source::Auth>(&kept).expect("a secret"), *auth);
    }
}

/// Cron expressions and intervals.
pub fn schedules(bytes: &[u8]) {
    let Some((late, rest)) = number(bytes) else { return };
    let Some((choice, expression)) = choice_and_text(rest) else { return };
    let zone = [Tz::UTC, Tz::Europe__Berlin, Tz::America__Havana, Tz::Australia__Lord_Howe][choice % 4];
    let schedule = match (expression.parse(), Schedule::read_cron(expression, zone)) {
        (Ok(seconds), _) => Schedule::every(seconds),
        (_, Ok(schedule)) => schedule,
        _ => return,
    };
    let scheduled = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
    // What has no moments is no schedule, which takes a look at three thousand years.
    if matches!(schedule, Schedule::Cron(..)) && schedule.following(scheduled).is_none() {
        return;
    }
    // Up to three years late: more than one wants to count is not counted.
    let now = scheduled + chrono::TimeDelta::milliseconds(late.rem_euclid(100_000_000_000));
    let next = schedule.next(scheduled, now);
    assert!(next.skipped >= 0);
    if let Some(at) = next.at {
        assert!(at > now, "{expression:?} {now}: {at}");
        assert_eq!(schedule.next(at, now).at, Some(at), "it has not come yet");
    }
    assert!(schedule.first(now) >= now);
    assert!(schedule.jitter(Uuid::from_u128(u128::from(late.unsigned_abs()))) >= chrono::TimeDelta::zero());
}

/// Answers of sources: JSON, and headers.
pub fn answers(bytes: &[u8]) {
    let Some((choice, rest)) = choice(bytes) else { return };
    match choice % 4 {
        0 => values(rest),
        1 => source::headers(rest),
        2 => source::links(rest),
        _ => source::pages(rest),
    }
}

fn values(bytes: &[u8]) {
    let strictly = serde_json::from_slice::<Value>(bytes);
    let Ok(value) = parse(bytes) else {
        assert!(strictly.is_err(), "what is JSON can be read");
        return;
    };
    assert!(strictly.is_err() || strictly.is_ok_and(|strictly| strictly == value), "and is not changed");
    assert_eq!(serde_json::from_str::<Value>(&value.to_string()).expect("JSON"), value);
    let shown = displayable(value.clone());
    assert_eq!(refusal(&shown), None);
    assert!(refusal(&value).is_some() || shown == value, "what can be kept is shown as it is");
    assert!(same(&value, &value));
    if let Value::Array(values) = value
        && let [one, other, ..] = &values[..]
    {
        assert_eq!(same(one, other), same(other, one));
        let [first, second] = [greater(one.clone(), other.clone()), greater(other.clone(), one.clone())];
        let written = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert!(same(&first, &second) || written(&first) == written(&second), "{one} {other}: {first} {second}");
    }
}

/// Steps, and records that they are taken with: `{"steps": […], "record": …}`.
pub fn transforms(bytes: &[u8]) {
    let Ok(Value::Object(mut both)) = parse(bytes) else { return };
    let (Some(steps), Some(record)) = (both.remove("steps"), both.remove("record")) else { return };
    let Ok(steps) = serde_json::from_value::<Vec<Step>>(steps) else { return };
    // As streams and previews have them.
    if steps.len() > MOST_STEPS || processing::storable(Some(String::new()), &record).is_err() {
        return;
    }
    let outcome = apply(&steps, record.clone());
    assert_eq!(outcome, apply(&steps, record), "the same record becomes the same");
    if let Ok(Some(transformed)) = outcome {
        assert!(!is_deeper(&transformed, MOST_LEVELS + 1));
        let length = transformed.to_string().len();
        // Each text is written with escapes, which are six times as long at most.
        assert!(length <= 8 * (bytes.len() + MOST_TEXT), "{length} bytes of {}", bytes.len());
        if !json!(steps).to_string().contains("\\u0000") {
            assert_eq!(refusal(&transformed), None, "what was stored can be stored");
        }
    }
}

/// Secrets that are kept sealed, and whatever else lies where they are kept.
pub fn seals(bytes: &[u8]) {
    let Some((number, rest)) = number(bytes) else { return };
    let stream = Uuid::from_u128(u128::from(number.unsigned_abs()));
    assert!(SEAL.open(stream, rest).is_err(), "somebody sealed without the key");
    let mut sealed = SEAL.seal(stream, rest).expect("there is a key");
    assert_eq!(SEAL.open(stream, &sealed).expect("it is ours"), rest);
    let at = number.unsigned_abs() as usize % sealed.len();
    sealed[at] ^= 1;
    assert!(SEAL.open(stream, &sealed).is_err(), "it was changed");
    sealed[at] ^= 1;
    assert!(SEAL.open(Uuid::max(), &sealed).is_err(), "it is of another stream");
    if let Ok(text) = std::str::from_utf8(rest) {
        drop(text.parse::<Keys>());
        drop(text.parse::<super::AllowedNetworks>());
    }
}
