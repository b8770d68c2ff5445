//! Which part of a record is meant: a JSON Pointer (RFC 6901), or the name of a field.

use std::fmt;

use jsonptr::PointerBuf;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::json::{MOST_LEVELS, is_deeper};

/// A part of a record: `name`, or `/properties/name` for one that lies deeper.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = r"^(/([^~]|~[01])*|[^/][\s\S]*)?$", example = "/properties/name")]
pub struct Field(PointerBuf);

/// A pointer that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a field's name nor a JSON Pointer of 100 parts at most, as /properties/name")]
pub struct MalformedField(String);

impl TryFrom<String> for Field {
    type Error = MalformedField;

    fn try_from(text: String) -> Result<Self, MalformedField> {
        if text.is_empty() || text.starts_with('/') {
            let pointer = PointerBuf::parse(text.clone()).ok().filter(|pointer| pointer.count() <= MOST_LEVELS);
            pointer.map(Self).ok_or(MalformedField(text))
        } else {
            Ok(Self(PointerBuf::from_tokens([text])))
        }
    }
}

impl From<Field> for String {
    fn from(field: Field) -> Self {
        field.0.to_string()
    }
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl Field {
    /// A field of the record itself.
    pub fn named(name: &str) -> Self {
        Self(PointerBuf::from_tokens([name]))
    }

    /// All of the record.
    pub fn everything() -> Self {
        Self(PointerBuf::new())
    }

    /// What is there, unless it is null.
    pub fn of<'a>(&self, record: &'a Value) -> Option<&'a Value> {
        self.0.resolve(record).ok().filter(|value| !value.is_null())
    }

    /// What is there, as text, if it can be one without doubt: texts, numbers and truth values.
    pub fn text_of(&self, record: &Value) -> Option<String> {
        match self.of(record)? {
            Value::String(text) => Some(text.clone()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            _ => None,
        }
    }

    /// Puts a value there, and makes what has to be around it.
    pub fn put(&self, record: &mut Value, value: Value) -> Result<(), String> {
        if is_deeper(&value, MOST_LEVELS.saturating_sub(self.0.count())) {
            return Err(format!("{self} cannot be set: the record would have more than {MOST_LEVELS} levels"));
        }
        self.0.assign(record, value).map(drop).map_err(|error| format!("{self} cannot be set: {error}"))
    }

    /// Takes out what is there.
    pub fn take(&self, record: &mut Value) -> Option<Value> {
        // Of an element that an array does not have, `delete` panics.
        self.0.resolve(record).is_ok().then(|| self.0.delete(record))?
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(text: &str) -> Field {
        text.to_owned().try_into().expect("a field")
    }

    #[test]
    fn names_and_pointers_lead_to_values() {
        let record = json!({"a": {"b/c": [1, null]}, "a/b": "x", "n": 7, "t": true});
        for (text, value) in [
            ("a", Some(json!({"b/c": [1, null]}))),
            ("/a/b~1c/0", Some(json!(1))),
            ("/a/b~1c/1", None),
            ("a/b", Some(json!("x"))),
            ("/a/x/y", None),
            ("", Some(record.clone())),
        ] {
            assert_eq!(field(text).of(&record).cloned(), value, "{text}");
        }
        assert_eq!(
            ["n", "t", "a"].map(|name| field(name).text_of(&record)),
            [Some("7".to_owned()), Some("true".to_owned()), None]
        );
        assert!(Field::try_from("/a~2".to_owned()).is_err());
    }

    #[test]
    fn a_record_gets_no_more_levels_than_can_be_read_again() {
        assert!(Field::try_from("/a".repeat(MOST_LEVELS + 1)).is_err());
        let deep = field(&"/a".repeat(MOST_LEVELS));
        let mut record = json!({});
        deep.put(&mut record, json!(1)).expect("room");
        let before = record.clone();
        assert!(deep.put(&mut record, json!([])).is_err());
        assert!(field("a").put(&mut record.clone(), before.clone()).is_err());
        assert_eq!(record, before);
    }

    #[test]
    fn values_are_put_and_taken() {
        let mut record = json!({"a": 1});
        field("/b/c").put(&mut record, json!(2)).expect("room");
        assert_eq!(record, json!({"a": 1, "b": {"c": 2}}));
        assert_eq!(field("a").take(&mut record), Some(json!(1)));
        assert_eq!(field("a").take(&mut record), None);
        assert_eq!(record, json!({"b": {"c": 2}}));
        let mut record = json!({"a": []});
        assert_eq!(["/a/0", "/a/-", "/a/1"].map(|name| field(name).take(&mut record)), [None, None, None]);
    }
}
