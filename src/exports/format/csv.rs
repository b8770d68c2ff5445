//! Comma-separated values (RFC 4180).

use std::io::{self, Write};

use uuid::fmt::Hyphenated;

use super::super::dataset::Column;
use super::super::tuples::Value;
use super::ndjson::moment;

/// Writes rows as CSV.
pub(in super::super) struct Csv<W: Write> {
    writer: ::csv::Writer<W>,
    scratch: Vec<u8>,
}

impl<W: Write> Csv<W> {
    pub(super) fn new(columns: &[Column], output: W) -> io::Result<Self> {
        let mut writer = ::csv::Writer::from_writer(output);
        writer.write_record(columns.iter().map(|column| column.name))?;
        Ok(Self { writer, scratch: Vec::new() })
    }

    pub(super) fn row(&mut self, values: &[Value<'_>]) -> io::Result<()> {
        for value in values {
            match value {
                Value::Uuid(id) => {
                    self.writer.write_field(id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]))?;
                }
                Value::Text(text) => self.writer.write_field(text)?,
                Value::Timestamp(timestamp) => {
                    self.scratch.clear();
                    moment(*timestamp, &mut self.scratch)?;
                    self.writer.write_field(&self.scratch)?;
                }
                Value::Integer(number) => {
                    self.scratch.clear();
                    write!(self.scratch, "{number}")?;
                    self.writer.write_field(&self.scratch)?;
                }
            }
        }
        self.writer.write_record(None::<&[u8]>)?;
        Ok(())
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.writer.into_inner().map_err(::csv::IntoInnerError::into_error)
    }
}
