//! Rows of CSV files: which columns each kind of record has, and how a field is read.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use csv::ByteRecord;
use uuid::Uuid;

use crate::ledger::bulk::{Fault, Rejection};
use crate::ledger::{NewBaseItem, NewItem, NewTransfer, NewUser};

/// A field that cannot be read is quoted up to so many characters, so that a message stays a line.
const QUOTED_CHARACTERS: usize = 60;

/// A column that a file may have, or must have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    name: &'static str,
    required: bool,
}

const fn required(name: &'static str) -> Column {
    Column { name, required: true }
}

const fn optional(name: &'static str) -> Column {
    Column { name, required: false }
}

/// A record that can be read from the columns of a CSV file.
pub(super) trait FromColumns: Sized {
    /// What the columns are called.
    const COLUMNS: &'static [Column];
    /// Reads a row.
    fn read(row: &Row<'_>) -> Result<Self, Rejection>;
}

impl FromColumns for NewBaseItem {
    const COLUMNS: &'static [Column] = &[optional("id"), required("description"), optional("created_at")];

    fn read(row: &Row<'_>) -> Result<Self, Rejection> {
        let description = row.text("description")?.unwrap_or_default().to_owned();
        Ok(Self { id: row.id("id")?, description, created_at: row.moment("created_at")? })
    }
}

impl FromColumns for NewUser {
    const COLUMNS: &'static [Column] = &[optional("id"), optional("created_at")];

    fn read(row: &Row<'_>) -> Result<Self, Rejection> {
        Ok(Self { id: row.id("id")?, created_at: row.moment("created_at")? })
    }
}

impl FromColumns for NewItem {
    const COLUMNS: &'static [Column] = &[optional("id"), required("base_item_id"), optional("created_at")];

    fn read(row: &Row<'_>) -> Result<Self, Rejection> {
        Ok(Self {
            id: row.id("id")?,
            base_item_id: row.required_id("base_item_id")?,
            created_at: row.moment("created_at")?,
        })
    }
}

impl FromColumns for NewTransfer {
    const COLUMNS: &'static [Column] =
        &[optional("id"), required("item_id"), required("owner_id"), optional("timestamp")];

    fn read(row: &Row<'_>) -> Result<Self, Rejection> {
        Ok(Self {
            id: row.id("id")?,
            item_id: row.required_id("item_id")?,
            owner_id: row.required_id("owner_id")?,
            timestamp: row.moment("timestamp")?,
        })
    }
}

/// What is wrong with a header row.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    /// There is nothing in the file.
    #[error("the file is empty; its first row must name the columns: {known}")]
    Missing {
        /// All columns that the file could have.
        known: String,
    },
    /// A column that means nothing here.
    #[error("there is no column {}; the columns are {known}", quoted(name))]
    Unknown {
        /// What it is called.
        name: String,
        /// All columns that the file could have.
        known: String,
    },
    /// A column that comes twice.
    #[error("the column {0:?} comes twice")]
    Twice(&'static str),
    /// A column that must be there.
    #[error("the column {name:?} is missing; the columns are {known}")]
    Required {
        /// What it is called.
        name: &'static str,
        /// All columns that the file could have.
        known: String,
    },
}

/// Where in the rows of a file each column is.
#[derive(Debug)]
pub(super) struct Header {
    fields: usize,
    positions: Vec<(&'static str, usize)>,
}

impl Header {
    /// Reads the header row.
    pub(super) fn new(columns: &'static [Column], record: &ByteRecord) -> Result<Self, HeaderError> {
        let mut positions = Vec::new();
        for (position, field) in record.iter().enumerate() {
            let name = String::from_utf8_lossy(field);
            let name = name.trim();
            let Some(column) = columns.iter().find(|column| column.name == name) else {
                return Err(HeaderError::Unknown { name: name.to_owned(), known: known(columns) });
            };
            if positions.iter().any(|(taken, _)| *taken == column.name) {
                return Err(HeaderError::Twice(column.name));
            }
            positions.push((column.name, position));
        }
        let found = |column: &&Column| positions.iter().any(|(name, _)| *name == column.name);
        match columns.iter().find(|column| column.required && !found(column)) {
            Some(column) => Err(HeaderError::Required { name: column.name, known: known(columns) }),
            None => Ok(Self { fields: record.len(), positions }),
        }
    }

    /// What a file without a header row lacks.
    pub(super) fn missing(columns: &'static [Column]) -> HeaderError {
        HeaderError::Missing { known: known(columns) }
    }

    /// Reads a row.
    pub(super) fn read<N: FromColumns>(&self, line: u64, record: &ByteRecord) -> Result<N, Rejection> {
        if record.len() != self.fields {
            let fields = |count| if count == 1 { "1 field".to_owned() } else { format!("{count} fields") };
            let detail = format!("has {} where the header has {}", fields(record.len()), fields(self.fields));
            return Err(Rejection { line, fault: Fault::Malformed, field: None, detail });
        }
        N::read(&Row { header: self, line, record })
    }
}

fn known(columns: &[Column]) -> String {
    let name = |column: &Column| {
        if column.required { column.name.to_owned() } else { format!("{} (optional)", column.name) }
    };
    columns.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// A row of a file, by column.
#[derive(Debug)]
pub(super) struct Row<'a> {
    header: &'a Header,
    line: u64,
    record: &'a ByteRecord,
}

impl Row<'_> {
    /// The text of a column; none when the file does not have it.
    fn text(&self, name: &'static str) -> Result<Option<&str>, Rejection> {
        let Some((_, position)) = self.header.positions.iter().find(|(column, _)| *column == name) else {
            return Ok(None);
        };
        let bytes = self.record.get(*position).unwrap_or_default();
        std::str::from_utf8(bytes).map(Some).map_err(|_| {
            let text = String::from_utf8_lossy(bytes);
            self.rejection(name, format!("{} is not UTF-8", quoted(&text)))
        })
    }

    /// The value of a column; none when it is empty.
    fn value<T: FromStr>(&self, name: &'static str, expected: &str) -> Result<Option<T>, Rejection> {
        match self.text(name)?.map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| self.rejection(name, format!("{} is not {expected}", quoted(text))))
            }
        }
    }

    fn id(&self, name: &'static str) -> Result<Option<Uuid>, Rejection> {
        self.value(name, "an id (a UUID)")
    }

    fn required_id(&self, name: &'static str) -> Result<Uuid, Rejection> {
        self.id(name)?.ok_or_else(|| self.rejection(name, "must not be empty".to_owned()))
    }

    fn moment(&self, name: &'static str) -> Result<Option<DateTime<Utc>>, Rejection> {
        let moment = self.value::<Moment>(name, "a time as in RFC 3339, such as 2026-11-21T10:01:00Z")?;
        Ok(moment.map(|Moment(moment)| moment))
    }

    fn rejection(&self, field: &'static str, detail: String) -> Rejection {
        Rejection { line: self.line, fault: Fault::Invalid, field: Some(field.to_owned()), detail }
    }
}

/// RFC 3339 and nothing else (chrono's own `FromStr` takes more), as the database keeps it: to the microsecond, and a
/// leap second as the second after it.
struct Moment(DateTime<Utc>);

impl FromStr for Moment {
    type Err = chrono::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = DateTime::parse_from_rfc3339(text)?.to_utc();
        Ok(Self(DateTime::from_timestamp_micros(moment.timestamp_micros()).unwrap_or(moment)))
    }
}

/// The text in quotes, shortened if it is long.
fn quoted(text: &str) -> impl fmt::Display {
    match text.char_indices().nth(QUOTED_CHARACTERS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: &str = "0193f2a0-0000-7000-8000-000000000001";
    const OWNER: &str = "0193f2a0-0000-7000-8000-000000000002";

    fn header(columns: &[&str]) -> Result<Header, HeaderError> {
        Header::new(NewTransfer::COLUMNS, &ByteRecord::from(columns.to_vec()))
    }

    fn rejected(columns: &[&str], fields: &[&[u8]]) -> (Option<String>, String) {
        let read = header(columns).unwrap().read::<NewTransfer>(7, &ByteRecord::from(fields.to_vec()));
        let rejection = read.expect_err("a rejection");
        assert_eq!(rejection.line, 7);
        (rejection.field, rejection.detail)
    }

    #[test]
    fn columns_come_in_any_order_and_optional_ones_may_be_missing_or_empty() {
        let record = ByteRecord::from(vec![OWNER, "", ITEM]);
        let transfer: NewTransfer = header(&["owner_id", " timestamp ", "item_id"]).unwrap().read(2, &record).unwrap();
        assert_eq!(transfer.item_id.to_string(), ITEM);
        assert_eq!(transfer.owner_id.to_string(), OWNER);
        assert_eq!((transfer.id, transfer.timestamp), (None, None));
    }

    #[test]
    fn times_have_an_offset_and_are_kept_to_the_microsecond() {
        let record = ByteRecord::from(vec![ITEM, OWNER, "2026-03-01T12:00:00.123456789+01:00"]);
        let transfer: NewTransfer = header(&["item_id", "owner_id", "timestamp"]).unwrap().read(2, &record).unwrap();
        assert_eq!(transfer.timestamp.unwrap().to_rfc3339(), "2026-03-01T11:00:00.123456+00:00");
        for text in ["2026-03-01", "2026-03-01T12:00:00", "2026-02-30T12:00:00Z", "yesterday"] {
            let (field, detail) =
                rejected(&["item_id", "owner_id", "timestamp"], &[ITEM.as_bytes(), OWNER.as_bytes(), text.as_bytes()]);
            assert_eq!(field.as_deref(), Some("timestamp"));
            assert_eq!(detail, format!("{text:?} is not a time as in RFC 3339, such as 2026-11-21T10:01:00Z"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let columns = ["item_id", "owner_id"];
        let field = |name: &str| Some(name.to_owned());
        assert_eq!(
            rejected(&columns, &[b"17", OWNER.as_bytes()]),
            (field("item_id"), "\"17\" is not an id (a UUID)".to_owned())
        );
        assert_eq!(rejected(&columns, &[ITEM.as_bytes(), b" "]), (field("owner_id"), "must not be empty".to_owned()));
        assert_eq!(
            rejected(&columns, &[b"\xff", OWNER.as_bytes()]),
            (field("item_id"), "\"\u{fffd}\" is not UTF-8".to_owned())
        );
        assert_eq!(
            rejected(&columns, &[ITEM.as_bytes()]),
            (None, "has 1 field where the header has 2 fields".to_owned())
        );
        let (_, detail) = rejected(&columns, &["é".repeat(1000).as_bytes(), OWNER.as_bytes()]);
        assert_eq!(detail.chars().filter(|&letter| letter == 'é').count(), QUOTED_CHARACTERS);
    }

    #[test]
    fn a_header_row_that_does_not_fit_is_refused() {
        let message = |columns: &[&str]| header(columns).unwrap_err().to_string();
        let known = "the columns are id (optional), item_id, owner_id, timestamp (optional)";
        assert_eq!(message(&["item_id", "owner_id", "price"]), format!("there is no column \"price\"; {known}"));
        assert_eq!(message(&["item_id"]), format!("the column \"owner_id\" is missing; {known}"));
        assert_eq!(message(&["item_id", "owner_id", "item_id"]), "the column \"item_id\" comes twice");
    }
}
