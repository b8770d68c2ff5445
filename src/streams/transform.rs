//! What is done to each record before it is stored: a chain of small steps, declared in JSON.
//!
//! Steps are pure: the same record becomes the same, here, in a preview and when a dead letter is tried again.

use bigdecimal::{BigDecimal, ToPrimitive};
use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::field::Field;
use super::json;

/// So many steps may be taken.
pub(super) const MOST_STEPS: usize = 100;

/// Templates make so much text of a record at most, in bytes: each may name what another one made, and so double it.
pub(super) const MOST_TEXT: usize = 1 << 20;

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Moves a value to another field. A record that lacks it stays as it is.
    Rename {
        /// Where it is.
        from: Field,
        /// Where it goes.
        to: Field,
    },
    /// Leaves out everything but these fields.
    Pick(Vec<Field>),
    /// Makes a value one of another type. One that is missing or null stays so.
    Cast {
        /// Which.
        field: Field,
        /// The type.
        to: Type,
    },
    /// Leaves out records of which this does not hold.
    Filter(Filter),
    /// Sets a field to the same value everywhere.
    Constant {
        /// Which.
        field: Field,
        /// The value.
        value: Value,
    },
    /// Sets a field to a text with values in it: `{first_name} {last_name?}`. With a question mark the value may be missing.
    /// A brace itself is written twice.
    Template {
        /// Which.
        field: Field,
        /// The text.
        #[schema(value_type = String, example = "{first_name} {last_name?}")]
        template: Template,
    },
}

/// What a value can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// A text.
    String,
    /// A whole number, of any number of digits.
    Integer,
    /// A number, with all its digits.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A moment (RFC 3339), of such a text or of a date.
    Timestamp,
    /// A moment, of the seconds since 1970.
    UnixSeconds,
    /// A moment, of the milliseconds since 1970.
    UnixMillis,
}

/// Of which records something holds. Exactly one of `equals`, `in` and `exists`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "AnyFilter")]
pub struct Filter {
    field: Field,
    /// It has this value.
    #[serde(skip_serializing_if = "Option::is_none")]
    equals: Option<Value>,
    /// It has one of these values.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    one_of: Option<Vec<Value>>,
    /// It is there, and not null; or, with `false`, it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    exists: Option<bool>,
    /// Turns it around.
    #[serde(default)]
    not: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyFilter {
    field: Field,
    equals: Option<Value>,
    #[serde(rename = "in")]
    one_of: Option<Vec<Value>>,
    exists: Option<bool>,
    #[serde(default)]
    not: bool,
}

impl TryFrom<AnyFilter> for Filter {
    type Error = &'static str;

    fn try_from(any: AnyFilter) -> Result<Self, &'static str> {
        let AnyFilter { field, equals, one_of, exists, not } = any;
        match [equals.is_some(), one_of.is_some(), exists.is_some()].into_iter().filter(|is_given| *is_given).count() {
            1 => Ok(Self { field, equals, one_of, exists, not }),
            _ => Err("takes exactly one of equals, in and exists"),
        }
    }
}

/// A text with values in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Value { field: Field, is_optional: bool },
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                '{' | '}' if rest.peek() == Some(&character) => {
                    rest.next();
                    literal.push(character);
                }
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(character) => name.push(character),
                            None => return Err("has a { without its }".to_owned()),
                        }
                    }
                    let is_optional = name.ends_with('?');
                    let name = name.strip_suffix('?').unwrap_or(&name);
                    if name.is_empty() {
                        return Err("has a {} without a field".to_owned());
                    }
                    let field = Field::try_from(name.to_owned()).map_err(|error| error.to_string())?;
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Value { field, is_optional });
                }
                '}' => return Err("has a } without its {".to_owned()),
                other => literal.push(other),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { text, parts })
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

/// What the steps make of a record: nothing if it is left out, or the reason why they do not fit it.
pub(super) fn apply(steps: &[Step], record: Value) -> Result<Option<Value>, String> {
    let mut record = record;
    let mut room = MOST_TEXT;
    for step in steps {
        match step {
            Step::Rename { from, to } => {
                if let Some(value) = from.take(&mut record) {
                    to.put(&mut record, value)?;
                }
            }
            Step::Pick(fields) => {
                let mut picked = Value::Object(Map::new());
                for field in fields {
                    if let Some(value) = field.take(&mut record) {
                        field.put(&mut picked, value)?;
                    }
                }
                record = picked;
            }
            Step::Cast { field, to } => {
                if let Some(value) = field.of(&record) {
                    let cast = to.of(value).ok_or_else(|| format!("{field}: {value} is no {}", to.name()))?;
                    field.put(&mut record, cast)?;
                }
            }
            Step::Filter(filter) => {
                if !filter.holds(&record) {
                    return Ok(None);
                }
            }
            Step::Constant { field, value } => field.put(&mut record, value.clone())?,
            Step::Template { field, template } => {
                let text = template.fill(&record, &mut room)?;
                field.put(&mut record, text.into())?;
            }
        }
    }
    Ok(Some(record))
}

impl Filter {
    fn holds(&self, record: &Value) -> bool {
        let value = self.field.of(record);
        let holds = match (&self.equals, &self.one_of, self.exists) {
            (Some(expected), ..) => value.is_some_and(|value| json::same(value, expected)),
            (_, Some(expected), _) => value.is_some_and(|value| expected.iter().any(|one| json::same(value, one))),
            (.., exists) => value.is_some() == exists.unwrap_or(true),
        };
        holds != self.not
    }
}

impl Template {
    fn fill(&self, record: &Value, room: &mut usize) -> Result<String, String> {
        let mut text = String::new();
        let mut add = |piece: &str| {
            *room = room.checked_sub(piece.len()).ok_or("the templates make more than a megabyte of this record")?;
            text.push_str(piece);
            Ok::<_, String>(())
        };
        for part in &self.parts {
            match part {
                Part::Text(literal) => add(literal)?,
                Part::Value { field, is_optional } => match field.text_of(record) {
                    Some(value) => add(&value)?,
                    None if *is_optional && field.of(record).is_none() => {}
                    None => return Err(format!("{field}: the record has no text or number there")),
                },
            }
        }
        Ok(text)
    }
}

impl Type {
    const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Timestamp => "timestamp",
            Self::UnixSeconds => "number of seconds since 1970",
            Self::UnixMillis => "number of milliseconds since 1970",
        }
    }

    fn of(self, value: &Value) -> Option<Value> {
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            _ => return None,
        };
        match self {
            Self::String => Some(match value {
                Value::String(_) => value.clone(),
                _ => text.into(),
            }),
            Self::Integer => whole(&text).and_then(|number| json::number(&number.with_scale(0))),
            Self::Number => json::decimal(&text).and_then(|number| json::number(&number)),
            Self::Boolean => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" => Some(true.into()),
                "false" | "no" | "0" => Some(false.into()),
                _ => None,
            },
            Self::Timestamp => moment(&text).map(written),
            Self::UnixSeconds => {
                let micros: BigDecimal = json::decimal(&text)? * 1_000_000;
                DateTime::from_timestamp_micros(micros.round(0).to_i64()?).map(written)
            }
            Self::UnixMillis => DateTime::from_timestamp_millis(whole(&text)?.to_i64()?).map(written),
        }
    }
}

/// A whole number, also one that is written as 7.0.
fn whole(text: &str) -> Option<BigDecimal> {
    json::decimal(text).filter(BigDecimal::is_integer)
}

fn moment(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Some(moment.to_utc());
    }
    text.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0).map(|midnight| midnight.and_utc())
}

fn written(moment: DateTime<Utc>) -> Value {
    moment.to_rfc3339_opts(SecondsFormat::AutoSi, true).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    fn steps(value: Value) -> Vec<Step> {
        serde_json::from_value(value).expect("steps")
    }

    #[test]
    fn templates_that_name_each_other_do_not_grow_without_end() {
        let step = json!({"template": {"field": "a", "template": "{a}{a}"}});
        let doubling = |times| apply(&steps(vec![step.clone(); times].into()), json!({"a": "x"}));
        assert_eq!(doubling(10).map(|record| record.expect("a record")["a"].as_str().map(str::len)), Ok(Some(1 << 10)));
        assert!(doubling(MOST_STEPS).is_err());
    }

    #[test]
    fn steps_are_taken_one_after_the_other() {
        let steps = steps(json!([
            {"filter": {"field": "/properties/stage", "in": ["sold", "handed over"]}},
            {"rename": {"from": "/properties/serial", "to": "serial"}},
            {"rename": {"from": "/properties/owner/mail", "to": "owner"}},
            {"cast": {"field": "/properties/sold", "to": "unix_millis"}},
            {"rename": {"from": "/properties/sold", "to": "sold_at"}},
            {"cast": {"field": "price", "to": "number"}},
            {"template": {"field": "title", "template": "{serial} of {owner}{/properties/note?} {{sold}}"}},
            {"constant": {"field": "source", "value": {"name": "crm"}}},
            {"pick": ["serial", "owner", "sold_at", "title", "price", "source"]},
        ]));
        let record = json!({
            "id": 1, "price": "12.5",
            "properties": {"stage": "sold", "serial": 77, "owner": {"mail": "a@example.com"}, "sold": "1767225600000"},
        });
        assert_eq!(
            apply(&steps, record),
            Ok(Some(json!({
                "serial": 77, "owner": "a@example.com", "sold_at": "2026-01-01T00:00:00Z", "price": 12.5,
                "title": "77 of a@example.com {sold}", "source": {"name": "crm"},
            })))
        );
        assert_eq!(apply(&steps, json!({"properties": {"stage": "new"}})), Ok(None));
    }

    #[test]
    fn values_become_of_another_type_or_are_said_to_be_none() {
        for (to, value, expected) in [
            ("string", json!(7), Some(json!("7"))),
            ("string", json!(" x "), Some(json!(" x "))),
            ("string", json!([1]), None),
            ("integer", json!("42"), Some(json!(42))),
            ("integer", json!(42.0), Some(json!(42))),
            ("integer", json!("42.5"), None),
            ("integer", json!("18446744073709551616.0"), Some(read("18446744073709551616"))),
            ("integer", json!("1e1001"), None),
            ("number", json!("9007199254740993"), Some(json!(9_007_199_254_740_993_i64))),
            ("number", json!("0.10000000000000000001"), Some(read("0.10000000000000000001"))),
            ("number", json!("1e3"), Some(json!(1000))),
            ("number", json!("1_000"), None),
            ("number", json!("NaN"), None),
            ("boolean", json!("Yes"), Some(json!(true))),
            ("boolean", json!(0), Some(json!(false))),
            ("boolean", json!("maybe"), None),
            ("timestamp", json!("2026-01-01T01:00:00.5+01:00"), Some(json!("2026-01-01T00:00:00.500Z"))),
            ("timestamp", json!("2026-01-01"), Some(json!("2026-01-01T00:00:00Z"))),
            ("timestamp", json!("1.1.2026"), None),
            ("unix_seconds", json!(1_767_225_600.25), Some(json!("2026-01-01T00:00:00.250Z"))),
            ("unix_seconds", json!(1e300), None),
            ("unix_millis", json!("1767225600000.0"), Some(json!("2026-01-01T00:00:00Z"))),
            ("unix_millis", json!("soon"), None),
        ] {
            let steps = steps(json!([{"cast": {"field": "v", "to": to}}]));
            let cast = apply(&steps, json!({"v": value})).ok().flatten().map(|record| record["v"].clone());
            assert_eq!(cast, expected, "{value} to {to}");
        }
        let steps = steps(json!([{"cast": {"field": "/a/b", "to": "integer"}}]));
        assert_eq!(apply(&steps, json!({"a": {"b": "x"}})), Err("/a/b: \"x\" is no integer".to_owned()));
        assert_eq!(apply(&steps, json!({"a": {}})), Ok(Some(json!({"a": {}}))), "what is missing stays so");
    }

    #[test]
    fn filters_hold_or_do_not() {
        for (filter, expected) in [
            (json!({"field": "a", "equals": 1}), true),
            (json!({"field": "a", "equals": 1.0}), true),
            (json!({"field": "a", "equals": 1, "not": true}), false),
            (json!({"field": "a", "in": [2, 3]}), false),
            (json!({"field": "b", "exists": true}), false),
            (json!({"field": "b", "exists": false}), true),
            (json!({"field": "c", "equals": 1, "not": true}), true),
        ] {
            let steps = steps(json!([{"filter": filter}]));
            assert_eq!(apply(&steps, json!({"a": 1, "b": null})).expect("it fits").is_some(), expected, "{steps:?}");
        }
    }

    #[test]
    fn a_template_needs_its_values() {
        let steps = steps(json!([{"template": {"field": "t", "template": "{a}"}}]));
        assert_eq!(apply(&steps, json!({})), Err("/a: the record has no text or number there".to_owned()));
    }

    #[test]
    fn steps_that_make_no_sense_are_refused() {
        for (step, reason) in [
            (json!({"explode": {}}), "unknown variant"),
            (json!({"rename": {"from": "a"}}), "missing field `to`"),
            (json!({"rename": {"from": "a", "to": "b", "too": "c"}}), "unknown field `too`"),
            (json!({"rename": {"from": "/a~", "to": "b"}}), "neither a field's name nor a JSON Pointer"),
            (json!({"cast": {"field": "a", "to": "colour"}}), "unknown variant `colour`"),
            (json!({"filter": {"field": "a"}}), "exactly one of equals, in and exists"),
            (json!({"filter": {"field": "a", "equals": 1, "exists": true}}), "exactly one of equals, in and exists"),
            (json!({"template": {"field": "a", "template": "{b"}}), "a { without its }"),
            (json!({"template": {"field": "a", "template": "b}"}}), "a } without its {"),
            (json!({"template": {"field": "a", "template": "{}"}}), "a {} without a field"),
        ] {
            let error = serde_json::from_value::<Step>(step.clone()).expect_err("it makes no sense").to_string();
            assert!(error.contains(reason), "{step}: {error}");
        }
    }

    #[test]
    fn steps_are_written_as_they_are_read() {
        let value = json!([
            {"rename": {"from": "/a", "to": "/b/c"}},
            {"pick": ["/b"]},
            {"filter": {"field": "/b", "in": [1], "not": false}},
            {"template": {"field": "/d", "template": "{{{b/c}}}"}},
        ]);
        assert_eq!(serde_json::to_value(steps(value.clone())).expect("JSON"), value);
    }
}
