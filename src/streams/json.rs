//! JSON as sources write it, what of it Postgres can keep, and its numbers by their value, with all their digits.

use bigdecimal::BigDecimal;
use serde_json::{Number, Value};

/// Numbers have no more digits than this, written or meant by an exponent. Postgres keeps a hundred times as many; each takes
/// room, however short it is written.
const MOST_DIGITS: usize = 1_000;

/// Values lie within each other no deeper than this. serde_json reads 127 levels, and what is kept has to be read again, also
/// as part of something else; and what is walked through level by level must not use up the stack.
pub(super) const MOST_LEVELS: usize = 100;

/// Reads JSON. What of its text is not Unicode becomes U+FFFD, and a byte order mark is left out: a few bytes spoil no page.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(bytes).or_else(|error| serde_json::from_str(&mended(bytes)).map_err(|_| error))
}

/// The same with all bytes that are not UTF-8, and all halves of surrogate pairs, replaced.
fn mended(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (mut mended, mut rest) = (String::with_capacity(text.len()), &*text);
    while let Some(escape) = rest.find('\\') {
        mended.push_str(&rest[..escape]);
        rest = &rest[escape..];
        let length = match (unit(rest), rest.get(6..).and_then(unit)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
            (Some(0xd800..0xe000), _) => {
                mended.push('\u{fffd}');
                rest = &rest[6..];
                continue;
            }
            (Some(_), _) => 6,
            // The backslash, and what it stands before.
            (None, _) => rest.chars().take(2).map(char::len_utf8).sum(),
        };
        mended.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    mended.push_str(rest);
    mended
}

/// The code unit of UTF-16 that an escape at the beginning of a text stands for.
fn unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Whether a value has more levels than these. A text or a number has none.
pub(super) fn is_deeper(value: &Value, levels: usize) -> bool {
    match (value, levels.checked_sub(1)) {
        (Value::Array(_) | Value::Object(_), None) => true,
        (Value::Array(values), Some(rest)) => values.iter().any(|value| is_deeper(value, rest)),
        (Value::Object(fields), Some(rest)) => fields.values().any(|value| is_deeper(value, rest)),
        _ => false,
    }
}

/// Why a value is not kept; nothing if it can be.
pub(super) fn refusal(value: &Value) -> Option<&'static str> {
    if is_deeper(value, MOST_LEVELS) {
        return Some("has more than 100 levels");
    }
    refusal_of_content(value)
}

fn refusal_of_content(value: &Value) -> Option<&'static str> {
    let refusal_of_text =
        |text: &str| text.contains('\0').then_some("has a NUL character, which Postgres cannot store");
    match value {
        Value::Null | Value::Bool(_) => None,
        Value::Number(number) => is_too_long(number).then_some("has a number of more than 1,000 digits"),
        Value::String(text) => refusal_of_text(text),
        Value::Array(values) => values.iter().find_map(refusal_of_content),
        Value::Object(fields) => {
            fields.iter().find_map(|(name, value)| refusal_of_text(name).or_else(|| refusal_of_content(value)))
        }
    }
}

/// The same for people to look at, without what is not kept.
pub(super) fn displayable(value: Value) -> Value {
    displayable_within(value, MOST_LEVELS)
}

fn displayable_within(value: Value, levels: usize) -> Value {
    let clean = |text: String| text.replace('\0', "\u{2400}");
    let within = |value| displayable_within(value, levels - 1);
    match value {
        // What is written has no NUL but as an escape.
        Value::Array(_) | Value::Object(_) if levels == 0 => value.to_string().into(),
        Value::String(text) => clean(text).into(),
        Value::Number(number) if is_too_long(&number) => number.to_string().into(),
        Value::Array(values) => values.into_iter().map(within).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (clean(name), within(value))).collect(),
        other => other,
    }
}

fn is_too_long(number: &Number) -> bool {
    // Most are short, and have no exponent.
    let text = number.as_str();
    text.len() > MOST_DIGITS || (text.contains(['e', 'E']) && decimal(text).is_none())
}

/// The number that a text is, exactly, unless it is too long.
pub(super) fn decimal(text: &str) -> Option<BigDecimal> {
    let is_plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    if text.len() > MOST_DIGITS || !text.bytes().all(is_plain) {
        return None;
    }
    let decimal: BigDecimal = text.parse().ok()?;
    let scale = usize::try_from(decimal.fractional_digit_count().unsigned_abs()).ok()?;
    (scale <= MOST_DIGITS).then_some(decimal)
}

/// A number as JSON has it.
pub(super) fn number(decimal: &BigDecimal) -> Option<Value> {
    decimal.to_string().parse().ok().map(Value::Number)
}

fn decimal_of(value: &Value) -> Option<BigDecimal> {
    decimal(value.as_number()?.as_str())
}

/// Whether two values are the same. A number is, however it is written: 1, 1.0 and 1e0.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    one == other || decimal_of(one).is_some_and(|one| decimal_of(other) == Some(one))
}

/// The greater of two values. Numbers are compared as such, everything else as text.
pub(super) fn greater(one: Value, other: Value) -> Value {
    let is_greater = match (decimal_of(&one), decimal_of(&other)) {
        (Some(one), Some(other)) => one >= other,
        _ => {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text(&one) >= text(&other)
        }
    };
    if is_greater { one } else { other }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn text_that_is_not_unicode_spoils_nothing_else() {
        for (text, expected) in [
            (&br#"["\ud800", "a\udc00\u00e4"]"#[..], json!(["\u{fffd}", "a\u{fffd}ä"])),
            (br#"["\ud83d\ude00\ud83d\ud83d\ude00"]"#, json!(["😀\u{fffd}😀"])),
            (br#"["\\ud800\ud800", "\""]"#, json!(["\\ud800\u{fffd}", "\""])),
            ("\u{feff}[1]".as_bytes(), json!([1])),
            (b"{\"a\": \"\xff\xc3\xa4\\n\"}", json!({"a": "\u{fffd}ä\n"})),
        ] {
            assert_eq!(parse(text).expect("JSON"), expected);
        }
        for text in [&b"[\"\\ud800\""[..], b"\xff", b"[\"\\", b"[\"\\u12", b""] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_can_end_a_worker(bytes: Vec<u8>, text in r#"[\[\]"\\ud8c0-9a]{0,40}"#) {
            let _ = (parse(&bytes), parse(text.as_bytes()));
            prop_assert!(serde_json::from_str::<Value>(&text).is_err() || mended(text.as_bytes()) == text);
        }
    }

    #[test]
    fn numbers_keep_their_digits_and_are_the_same_by_value() {
        let long = "123456789012345678901234567890.10";
        assert_eq!(read(long).to_string(), long);
        for (one, other, expected) in [
            ("1", "1.0", true),
            ("1e2", "100", true),
            ("9007199254740993", "9007199254740992", false),
            ("0.1", "0.10000000000000000001", false),
            ("1", "\"1\"", false),
            ("[1]", "[1]", true),
            ("1e999999999", "1e999999999", true),
            ("1e999999999", "2e999999999", false),
        ] {
            assert_eq!(same(&read(one), &read(other)), expected, "{one} and {other}");
        }
    }

    #[test]
    fn the_greater_value_is_found() {
        for (one, other, expected) in [
            ("9", "10", "10"),
            ("9007199254740993", "9007199254740992", "9007199254740993"),
            ("\"2026-01-02T00:00:00Z\"", "\"2026-01-01T00:00:00Z\"", "\"2026-01-02T00:00:00Z\""),
            ("\"9\"", "\"10\"", "\"9\""),
        ] {
            assert_eq!(greater(read(one), read(other)), read(expected));
        }
    }

    #[test]
    fn what_has_too_many_levels_is_refused_and_can_be_looked_at() {
        let nested = |levels, text: &str| read(&format!("{}{text}{}", "[".repeat(levels), "]".repeat(levels)));
        assert_eq!(refusal(&nested(MOST_LEVELS, "1")), None);
        for levels in [MOST_LEVELS + 1, 127] {
            assert!(refusal(&nested(levels, "1")).is_some());
            assert_eq!(refusal(&displayable(nested(levels, r#""\u0000""#))), None, "{levels}");
        }
    }

    #[test]
    fn what_postgres_cannot_keep_is_refused_and_can_be_looked_at() {
        for value in [json!("a\0b"), json!({"a\0": 1}), json!([{"a": ["\0"]}]), read("1e1001"), read("[-1e-999999999]")]
        {
            assert!(refusal(&value).is_some(), "{value}");
            assert_eq!(refusal(&displayable(value)), None);
        }
        let digits = "9".repeat(MOST_DIGITS);
        for value in [json!(null), json!({"a": [true, "b", 1.5]}), read("1e1000"), read(&digits), read("-0.5E-3")] {
            assert_eq!(refusal(&value), None, "{value}");
            assert_eq!(displayable(value.clone()), value);
        }
        assert!(refusal(&read(&format!("{digits}9"))).is_some());
        assert_eq!(displayable(json!({"a\0": "b\0"})), json!({"a\u{2400}": "b\u{2400}"}));
        assert_eq!(displayable(read("1e9999999")), json!("1e+9999999"));
    }
}
