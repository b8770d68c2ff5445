//! Rows of a bulk request, one by one as they arrive: lines of NDJSON, or the elements of a JSON array.

use axum::body::{Body, BodyDataStream};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use serde::de::DeserializeOwned;

use super::extract::{BODY_LIMIT, MediaType, from_json};
use super::problem::{Kind, Problem};
use crate::ledger::bulk::{Fault, Line, Rejection};

/// The rows in the body. A row that cannot be read is handed on with its line; only a body that cannot be taken apart
/// at all is an error.
pub(super) fn rows<N: DeserializeOwned>(
    body: Body,
    media_type: MediaType,
) -> impl Stream<Item = Result<Line<N>, Problem>> {
    let splitter = Splitter::new(media_type);
    stream::unfold((body.into_data_stream(), splitter), |(mut body, mut splitter)| async move {
        let row = next_row(&mut body, &mut splitter).await.transpose()?;
        Some((row.map(|(number, bytes)| parse(number, &bytes)), (body, splitter)))
    })
}

async fn next_row(body: &mut BodyDataStream, splitter: &mut Splitter) -> Result<Option<(u64, Bytes)>, Problem> {
    loop {
        if let Some(row) = splitter.take()? {
            return Ok(Some(row));
        }
        match body.next().await {
            Some(Ok(bytes)) => splitter.push(&bytes),
            Some(Err(error)) => return Err(Problem::unreadable(&error)),
            None => return splitter.finish(),
        }
    }
}

/// Reads one row.
pub fn parse<N: DeserializeOwned>(number: u64, bytes: &[u8]) -> Line<N> {
    let content = from_json(bytes).map_err(|problem: Problem| {
        let fault = if problem.is(Kind::MalformedJson) { Fault::Malformed } else { Fault::Invalid };
        match problem.errors.into_iter().next() {
            Some(error) => Rejection { line: number, fault, field: error.field, detail: error.detail },
            None => Rejection { line: number, fault, field: None, detail: problem.detail },
        }
    });
    Line { number, content }
}

/// Takes bytes apart into rows.
#[derive(Debug)]
pub(super) struct Splitter {
    media_type: MediaType,
    buffer: BytesMut,
    /// Everything before has been looked at.
    scanned: usize,
    number: u64,
    array: Array,
}

/// Where in a JSON array the splitter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Array {
    Before,
    /// After `[`; a `]` may follow.
    First,
    /// After a comma.
    Next,
    Element {
        depth: u32,
        in_string: bool,
        escaped: bool,
    },
    End,
}

impl Splitter {
    pub(super) fn new(media_type: MediaType) -> Self {
        Self { media_type, buffer: BytesMut::new(), scanned: 0, number: 0, array: Array::Before }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next row, if it is complete.
    pub(super) fn take(&mut self) -> Result<Option<(u64, Bytes)>, Problem> {
        let row = match self.media_type {
            MediaType::Ndjson => self.take_line()?,
            MediaType::Json => self.take_element()?,
        };
        if row.is_none() && self.buffer.len() > BODY_LIMIT {
            return Err(too_large(self.number + 1));
        }
        Ok(row)
    }

    /// What is left when no more bytes come.
    pub(super) fn finish(&mut self) -> Result<Option<(u64, Bytes)>, Problem> {
        match self.media_type {
            MediaType::Ndjson if self.buffer.is_empty() => Ok(None),
            MediaType::Ndjson => {
                self.push(b"\n");
                self.take_line()
            }
            MediaType::Json if self.array == Array::End => Ok(None),
            MediaType::Json => Err(Problem::new(Kind::MalformedJson, "The array ends before its closing bracket")),
        }
    }

    fn take_line(&mut self) -> Result<Option<(u64, Bytes)>, Problem> {
        while let Some(length) = self.buffer[self.scanned..].iter().position(|&byte| byte == b'\n') {
            let line = self.cut(self.scanned + length)?;
            // Blank lines are allowed, and counted.
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some((self.number, line)));
            }
        }
        self.scanned = self.buffer.len();
        Ok(None)
    }

    fn take_element(&mut self) -> Result<Option<(u64, Bytes)>, Problem> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            // JSON has fewer of them than ASCII.
            let blank = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            let at = self.scanned;
            self.scanned += 1;
            match (self.array, byte) {
                (Array::Element { depth, in_string: true, escaped }, _) => {
                    let in_string = escaped || byte != b'"';
                    self.array = Array::Element { depth, in_string, escaped: !escaped && byte == b'\\' };
                }
                (Array::Element { depth: 0, .. }, b',' | b']') => {
                    self.array = if byte == b',' { Array::Next } else { Array::End };
                    let row = self.cut(at)?;
                    return Ok(Some((self.number, row)));
                }
                (Array::Element { depth, .. }, _) => {
                    let depth = match byte {
                        b'{' | b'[' => depth + 1,
                        b'}' | b']' => depth.saturating_sub(1),
                        _ => depth,
                    };
                    self.array = Array::Element { depth, in_string: byte == b'"', escaped: false };
                }
                (_, _) if blank => self.drop_scanned(),
                (Array::Before, b'[') => {
                    self.array = Array::First;
                    self.drop_scanned();
                }
                (Array::First, b']') => {
                    self.array = Array::End;
                    self.drop_scanned();
                }
                (Array::First | Array::Next, _) if byte != b',' && byte != b']' => {
                    let depth = u32::from(matches!(byte, b'{' | b'['));
                    self.array = Array::Element { depth, in_string: byte == b'"', escaped: false };
                }
                _ => {
                    let detail = format!("Unexpected {:?} after element {}", char::from(byte), self.number);
                    return Err(Problem::new(Kind::MalformedJson, detail));
                }
            }
        }
        Ok(None)
    }

    /// Takes out the row that ends before this byte, and the byte.
    fn cut(&mut self, end: usize) -> Result<Bytes, Problem> {
        let row = self.buffer.split_to(end).freeze();
        self.buffer.advance(1);
        self.scanned = 0;
        self.number += 1;
        if row.len() > BODY_LIMIT { Err(too_large(self.number)) } else { Ok(row) }
    }

    fn drop_scanned(&mut self) {
        self.buffer.advance(self.scanned);
        self.scanned = 0;
    }
}

fn too_large(number: u64) -> Problem {
    Problem::new(Kind::TooLarge, format!("Row {number} has more than {BODY_LIMIT} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes the text in pieces of the given size and collects the rows.
    fn split(media_type: MediaType, text: &str, piece: usize) -> Result<Vec<(u64, String)>, String> {
        let mut splitter = Splitter::new(media_type);
        let mut rows = Vec::new();
        let mut keep = |row: (u64, Bytes)| {
            rows.push((row.0, String::from_utf8(row.1.trim_ascii().to_vec()).unwrap()));
        };
        for bytes in text.as_bytes().chunks(piece) {
            splitter.push(bytes);
            while let Some(row) = splitter.take().map_err(|problem| problem.detail)? {
                keep(row);
            }
        }
        if let Some(row) = splitter.finish().map_err(|problem| problem.detail)? {
            keep(row);
        }
        Ok(rows)
    }

    #[test]
    fn an_array_is_split_wherever_the_pieces_end() {
        let text = r#" [ {"a":"]},[\"\\"} , [1,[2]],3 ,"x,\\", {} ]  "#;
        for piece in 1..text.len() {
            let rows = split(MediaType::Json, text, piece).unwrap();
            let texts: Vec<_> = rows.iter().map(|(_, row)| row.as_str()).collect();
            assert_eq!(texts, [r#"{"a":"]},[\"\\"}"#, "[1,[2]]", "3", r#""x,\\""#, "{}"], "pieces of {piece}");
        }
        assert_eq!(split(MediaType::Json, "[]", 1).unwrap(), []);
    }

    #[test]
    fn a_broken_array_is_an_error() {
        for text in ["[", "[1", "[1,", "[1,]", "[,]", "[1]]", "{}", "", "[1] x", "[{\"a\":1]", "\x0c[]"] {
            assert!(split(MediaType::Json, text, 1).is_err(), "{text}");
        }
    }

    #[test]
    fn lines_keep_their_numbers() {
        let rows = split(MediaType::Ndjson, "{}\n\n  \n{\"a\":1}\r\n3", 2).unwrap();
        let expected = [(1, "{}"), (4, "{\"a\":1}"), (5, "3")].map(|(line, row)| (line, row.to_owned()));
        assert_eq!(rows, expected);
    }
}
