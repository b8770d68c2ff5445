//! Rows as `copy … to stdout (format binary)` sends them.
//!
//! Source: PostgreSQL's documentation of COPY, "Binary Format", and of its types' binary forms in the server's sources.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::dataset::{Column, ColumnKind};

/// The signature, the flags and the length of an extension that nobody uses.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Microseconds from 1970 to 2000, from which Postgres counts.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Uuid(Uuid),
    Timestamp(DateTime<Utc>),
    Text(&'a str),
    Integer(i64),
}

/// What Postgres sent is not what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rows are not in the form that was asked for")]
pub(super) struct MalformedTuple;

/// The values of the row that begins a piece of a copy, and what comes after the row. Nothing at the end of the copy, which
/// Postgres marks.
pub(super) fn read<'a>(
    piece: &'a [u8],
    columns: &[Column],
    values: &mut Vec<Value<'a>>,
) -> Result<Option<&'a [u8]>, MalformedTuple> {
    values.clear();
    let mut rest = Rest(piece.strip_prefix(HEADER).unwrap_or(piece));
    let amount = i16::from_be_bytes(rest.take()?);
    if amount == -1 {
        return Ok(None);
    }
    if usize::try_from(amount) != Ok(columns.len()) {
        return Err(MalformedTuple);
    }
    for column in columns {
        let length = usize::try_from(i32::from_be_bytes(rest.take()?)).map_err(|_| MalformedTuple)?;
        let bytes = rest.take_slice(length)?;
        values.push(decode(column.kind, bytes).ok_or(MalformedTuple)?);
    }
    Ok(Some(rest.0))
}

fn decode(kind: ColumnKind, bytes: &[u8]) -> Option<Value<'_>> {
    Some(match kind {
        ColumnKind::Uuid => Value::Uuid(Uuid::from_slice(bytes).ok()?),
        ColumnKind::Timestamp => {
            let micros = i64::from_be_bytes(bytes.try_into().ok()?).checked_add(POSTGRES_EPOCH)?;
            Value::Timestamp(DateTime::from_timestamp_micros(micros)?)
        }
        ColumnKind::Text => Value::Text(std::str::from_utf8(bytes).ok()?),
        ColumnKind::Integer => Value::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
    })
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MalformedTuple> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MalformedTuple)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn take_slice(&mut self, length: usize) -> Result<&'a [u8], MalformedTuple> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(MalformedTuple)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exports::Dataset;

    fn tuple(fields: &[&[u8]]) -> Vec<u8> {
        let mut bytes = i16::try_from(fields.len()).expect("few").to_be_bytes().to_vec();
        for field in fields {
            bytes.extend(i32::try_from(field.len()).expect("short").to_be_bytes());
            bytes.extend(*field);
        }
        bytes
    }

    #[test]
    fn a_row_is_read_with_and_without_the_header_before_it() {
        let id = Uuid::from_u128(7);
        let row = tuple(&[id.as_bytes(), "a \"chair\"\n".as_bytes(), &(-1_i64).to_be_bytes()]);
        for bytes in [row.clone(), [HEADER, &row].concat()] {
            let mut values = Vec::new();
            let rest = read(&bytes, Dataset::BaseItems.columns(), &mut values).expect("a row").expect("not the end");
            assert!(rest.is_empty());
            let moment = "1999-12-31T23:59:59.999999Z".parse().expect("a moment");
            assert_eq!(values, [Value::Uuid(id), Value::Text("a \"chair\"\n"), Value::Timestamp(moment)]);
        }
    }

    #[test]
    fn the_end_is_marked() {
        let columns = Dataset::Users.columns();
        let end = (-1_i16).to_be_bytes();
        assert_eq!(read(&end, columns, &mut Vec::new()), Ok(None));
        assert_eq!(read(&[HEADER, &end].concat(), columns, &mut Vec::new()), Ok(None), "there may be no rows");
    }

    #[test]
    fn what_is_missing_is_an_error_and_so_is_what_is_too_much() {
        let columns = Dataset::Users.columns();
        let whole = tuple(&[&[0; 16], &[0; 8]]);
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length], columns, &mut Vec::new()), Err(MalformedTuple), "{length}");
        }
        for fields in [&[&[0; 16][..]][..], &[&[0; 16], &[0; 7]], &[&[0; 16], &[0; 8], &[0; 8]]] {
            assert_eq!(read(&tuple(fields), columns, &mut Vec::new()), Err(MalformedTuple));
        }
        let null = [2_i16.to_be_bytes().as_slice(), &(-1_i32).to_be_bytes(), &(-1_i32).to_be_bytes()].concat();
        assert_eq!(read(&null, columns, &mut Vec::new()), Err(MalformedTuple), "no column may be null");
    }

    proptest! {
        #[test]
        fn nothing_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for dataset in Dataset::ALL {
                let _ = read(&bytes, dataset.columns(), &mut Vec::new());
            }
        }
    }
}
