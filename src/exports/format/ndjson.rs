//! JSON, an object a line.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use uuid::fmt::Hyphenated;

use super::super::dataset::Column;
use super::super::tuples::Value;

/// So much is written at a time.
const BUFFER_BYTES: usize = 32 * 1024;

/// Writes rows as JSON.
pub(in super::super) struct Ndjson<W> {
    output: W,
    /// What stands before each value: a comma but for the first, and the column's name.
    names: Vec<String>,
    buffer: Vec<u8>,
}

impl<W: Write> Ndjson<W> {
    pub(super) fn new(columns: &[Column], output: W) -> Self {
        let names = columns.iter().enumerate().map(|(position, column)| {
            let before = if position == 0 { '{' } else { ',' };
            format!("{before}\"{}\":", column.name)
        });
        Self { output, names: names.collect(), buffer: Vec::with_capacity(BUFFER_BYTES + 1024) }
    }

    pub(super) fn row(&mut self, values: &[Value<'_>]) -> io::Result<()> {
        let buffer = &mut self.buffer;
        for (name, value) in self.names.iter().zip(values) {
            buffer.extend_from_slice(name.as_bytes());
            match value {
                Value::Uuid(id) => {
                    buffer.push(b'"');
                    buffer.extend_from_slice(id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]).as_bytes());
                    buffer.push(b'"');
                }
                Value::Text(text) => serde_json::to_writer(&mut *buffer, text)?,
                Value::Timestamp(timestamp) => {
                    buffer.push(b'"');
                    moment(*timestamp, buffer)?;
                    buffer.push(b'"');
                }
                Value::Integer(number) => write!(buffer, "{number}")?,
            }
        }
        buffer.extend_from_slice(b"}\n");
        if buffer.len() >= BUFFER_BYTES {
            self.output.write_all(buffer)?;
            buffer.clear();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&self.buffer)?;
        Ok(self.output)
    }
}

/// A moment as the REST interface writes it (RFC 3339, UTC, no more digits than needed by threes).
pub(super) fn moment(moment: DateTime<Utc>, buffer: &mut Vec<u8>) -> io::Result<()> {
    write!(buffer, "{:?}Z", moment.naive_utc())
}
