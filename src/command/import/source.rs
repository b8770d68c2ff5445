//! Files and standard input as streams of rows, read on a thread of their own: parsing one batch overlaps with Postgres
//! merging the one before, and a pipe that nothing comes through blocks nobody.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use csv::ByteRecord;
use futures_util::{Stream, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::columns::{FromColumns, Header, HeaderError};
use crate::http::parse;
use crate::ledger::bulk::Line;

/// A row is far smaller than this. A quote that is opened and never closed would make the rest of the file one row, and
/// memory is bounded.
const ROW_LIMIT: u64 = 1024 * 1024;
/// What is read from a file at once.
const READ_BUFFER: usize = 256 * 1024;
/// Rows go from the reading thread to the loader in portions, as a handover costs as much as reading several rows.
const PORTION: usize = 1000;
/// So many portions wait for the loader; then the reading thread waits. Enough to keep it busy between two of them.
const WAITING_PORTIONS: usize = 4;

/// How rows are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Comma-separated values; the first row names the columns
    Csv,
    /// A JSON object a line
    Ndjson,
}

/// Why a file cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[error("{source_name}{}", .line.map(|line| format!(":{line}")).unwrap_or_default())]
pub(super) struct SourceError {
    source_name: String,
    line: Option<u64>,
    #[source]
    fault: Fault,
}

/// What is wrong with it.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("cannot be opened")]
    Open(#[source] io::Error),
    #[error("cannot be read")]
    Read(#[source] io::Error),
    #[error("is a directory")]
    Directory,
    #[error("say with --format whether this is csv or ndjson")]
    UnknownFormat,
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("this row has more than {ROW_LIMIT} bytes{}", .0)]
    TooLong(&'static str),
}

/// An input that has been opened, and whose header row is in order.
pub(super) struct Source {
    /// What people call it.
    pub(super) name: String,
    /// How many bytes it has, if that is known.
    pub(super) bytes: Option<u64>,
    /// How many bytes have been read.
    pub(super) read: Arc<AtomicU64>,
    rows: Rows,
}

enum Rows {
    Csv { reader: csv::Reader<RowLines>, header: Header },
    Ndjson(Input),
}

type Input = BufReader<Counted>;

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open<N: FromColumns>(path: &Path, format: Option<Format>) -> Result<Self, SourceError> {
        let standard_input = is_standard_input(path);
        let name = if standard_input { "standard input".to_owned() } else { path.display().to_string() };
        let fault = |fault| SourceError { source_name: name.clone(), line: None, fault };
        let format = format_of(path).or(format).ok_or_else(|| fault(Fault::UnknownFormat))?;
        let (input, bytes): (Box<dyn Read + Send>, _) = if standard_input {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path).map_err(|error| fault(Fault::Open(error)))?;
            let metadata = file.metadata().map_err(|error| fault(Fault::Open(error)))?;
            if metadata.is_dir() {
                return Err(fault(Fault::Directory));
            }
            // A named pipe has no length.
            (Box::new(file), metadata.is_file().then_some(metadata.len()))
        };
        let read = Arc::new(AtomicU64::new(0));
        let input = BufReader::with_capacity(READ_BUFFER, Counted { input, read: Arc::clone(&read) });
        let rows = match format {
            Format::Csv => csv_rows::<N>(input).map_err(|(line, fault)| SourceError {
                source_name: name.clone(),
                line: Some(line),
                fault,
            })?,
            Format::Ndjson => Rows::Ndjson(input),
        };
        Ok(Self { name, bytes, read, rows })
    }

    /// Starts reading.
    pub(super) fn lines<N>(self) -> impl Stream<Item = Result<Line<N>, SourceError>>
    where
        N: FromColumns + DeserializeOwned + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(WAITING_PORTIONS);
        // Not one of the runtime's threads: it waits for those at its end, and this one may be waiting for a pipe.
        thread::spawn(move || {
            let mut portions = Portions { sender, portion: Vec::new() };
            let outcome = match self.rows {
                Rows::Csv { reader, header } => read_csv(reader, &header, &mut portions),
                Rows::Ndjson(input) => read_ndjson(input, &mut portions),
            };
            match outcome {
                Ok(()) => portions.send(),
                Err((line, fault)) => {
                    portions.send();
                    let error = SourceError { source_name: self.name, line: Some(line), fault };
                    // Nobody listens when the import has been given up.
                    drop(portions.sender.blocking_send(Err(error)));
                }
            }
        });
        stream::unfold(receiver, |mut receiver| async { receiver.recv().await.map(|portion| (portion, receiver)) })
            .map_ok(|lines| stream::iter(lines.into_iter().map(Ok)))
            .try_flatten()
    }
}

/// Whether the path stands for standard input.
pub(super) fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// The format that the name of a file tells.
fn format_of(path: &Path) -> Option<Format> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "csv" => Some(Format::Csv),
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        _ => None,
    }
}

/// Reads the header row.
fn csv_rows<N: FromColumns>(input: Input) -> Result<Rows, (u64, Fault)> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(RowLines::new(input));
    let mut record = ByteRecord::new();
    let (line, more) = next_record(&mut reader, &mut record)?;
    let header = if more { Header::new(N::COLUMNS, &record) } else { Err(Header::missing(N::COLUMNS)) };
    let header = header.map_err(|error| (line, error.into()))?;
    Ok(Rows::Csv { reader, header })
}

fn read_csv<N: FromColumns>(
    mut reader: csv::Reader<RowLines>,
    header: &Header,
    portions: &mut Portions<N>,
) -> Result<(), (u64, Fault)> {
    let mut record = ByteRecord::new();
    loop {
        let (number, more) = next_record(&mut reader, &mut record)?;
        if !more {
            return Ok(());
        }
        if !portions.push(Line { number, content: header.read(number, &record) }) {
            return Ok(());
        }
    }
}

/// Reads a row; its line, and whether there was one.
fn next_record(reader: &mut csv::Reader<RowLines>, record: &mut ByteRecord) -> Result<(u64, bool), (u64, Fault)> {
    reader.get_mut().begin_row();
    let outcome = reader.read_byte_record(record);
    let line = reader.get_ref().first_line;
    match outcome {
        Ok(more) => Ok((line, more)),
        Err(error) => Err((
            line,
            match error.into_kind() {
                csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    Fault::TooLong("; is a quotation mark missing?")
                }
                csv::ErrorKind::Io(error) => Fault::Read(error),
                other => Fault::Read(io::Error::other(format!("{other:?}"))),
            },
        )),
    }
}

fn read_ndjson<N: DeserializeOwned>(mut input: Input, portions: &mut Portions<N>) -> Result<(), (u64, Fault)> {
    let mut number = 0;
    let mut bytes = Vec::new();
    loop {
        number += 1;
        bytes.clear();
        let fault = |error| (number, Fault::Read(error));
        let read = input.by_ref().take(ROW_LIMIT + 1).read_until(b'\n', &mut bytes).map_err(fault)?;
        if read == 0 {
            return Ok(());
        }
        if bytes.len() as u64 > ROW_LIMIT {
            return Err((number, Fault::TooLong("")));
        }
        // Some programs begin UTF-8 with a mark.
        let row = if number == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes) } else { &bytes };
        // Blank lines are allowed, and counted.
        if !row.iter().all(u8::is_ascii_whitespace) && !portions.push(parse(number, row)) {
            return Ok(());
        }
    }
}

/// Collects rows and hands them over.
struct Portions<N> {
    sender: mpsc::Sender<Result<Vec<Line<N>>, SourceError>>,
    portion: Vec<Line<N>>,
}

impl<N> Portions<N> {
    /// Whether anybody still wants rows.
    fn push(&mut self, line: Line<N>) -> bool {
        self.portion.push(line);
        if self.portion.len() == PORTION {
            self.send();
        }
        !self.sender.is_closed()
    }

    fn send(&mut self) {
        let portion = std::mem::replace(&mut self.portion, Vec::with_capacity(PORTION));
        // Nobody listens when the import has been given up.
        drop(self.sender.blocking_send(Ok(portion)));
    }
}

/// Counts the bytes that are read.
struct Counted {
    input: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let amount = self.input.read(buffer)?;
        self.read.fetch_add(amount as u64, Ordering::Relaxed);
        Ok(amount)
    }
}

/// Hands out physical lines one by one, so that it is known on which line a row of CSV begins (the parser's own count
/// is off after blank lines and with CRLF), and how long it gets. Lines end with LF or CRLF; with CR alone if the first one does, as
/// old programs for the Macintosh write them, and nowhere else: a CR that is all by itself ends a row, but no editor shows it as a
/// line's end.
struct RowLines {
    input: Input,
    /// The line that is being handed out.
    line: u64,
    in_line: bool,
    /// Whether the last byte was a CR, which ends a line or belongs to a CRLF.
    after_return: bool,
    /// Whether a CR ends a line, once there was an end.
    returns_end_lines: Option<bool>,
    /// The line on which the row began, or will.
    first_line: u64,
    in_row: bool,
    row_bytes: u64,
}

impl RowLines {
    fn new(input: Input) -> Self {
        Self {
            input,
            line: 0,
            in_line: false,
            after_return: false,
            returns_end_lines: None,
            first_line: 1,
            in_row: false,
            row_bytes: 0,
        }
    }

    fn begin_row(&mut self) {
        self.in_row = false;
        self.row_bytes = 0;
        self.first_line = self.line + 1;
    }
}

impl Read for RowLines {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.row_bytes > ROW_LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let available = self.input.fill_buf()?;
        let end = available.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let end = end.map_or(available.len(), |end| end + 1 + usize::from(available[end..].starts_with(b"\r\n")));
        let amount = end.min(buffer.len());
        let Some(last) = amount.checked_sub(1) else { return Ok(0) };
        buffer[..amount].copy_from_slice(&available[..amount]);
        self.input.consume(amount);
        if self.after_return && buffer[0] != b'\n' && *self.returns_end_lines.get_or_insert(true) {
            self.in_line = false;
        }
        if !self.in_line {
            self.line += 1;
        }
        self.in_line = buffer[last] != b'\n';
        if !self.in_line {
            self.returns_end_lines.get_or_insert(false);
        }
        self.after_return = buffer[last] == b'\r';
        if !self.in_row {
            // The parser skips blank lines between rows.
            self.first_line = self.line;
            self.in_row = buffer[..amount].iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        }
        if self.in_row {
            self.row_bytes += amount as u64;
        }
        Ok(amount)
    }
}

/// The paths in the order in which they were given, opened.
pub(super) fn open_all<N: FromColumns>(paths: &[PathBuf], format: Option<Format>) -> Result<Vec<Source>, SourceError> {
    paths.iter().map(|path| Source::open::<N>(path, format)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::NewBaseItem;

    fn input(text: &'static [u8]) -> Input {
        BufReader::with_capacity(7, Counted { input: Box::new(text), read: Arc::default() })
    }

    /// The line and first field of every row.
    fn rows(text: &'static [u8]) -> Vec<(u64, String)> {
        let Rows::Csv { mut reader, .. } = csv_rows::<NewBaseItem>(input(text)).map_err(|(_, fault)| fault).unwrap()
        else {
            unreachable!("CSV was asked for");
        };
        let mut record = ByteRecord::new();
        let mut rows = Vec::new();
        while let (line, true) = next_record(&mut reader, &mut record).map_err(|(_, fault)| fault).unwrap() {
            rows.push((line, String::from_utf8_lossy(&record[0]).into_owned()));
        }
        rows
    }

    #[test]
    fn rows_are_numbered_by_physical_lines() {
        let expected =
            |rows: &[(u64, &str)]| rows.iter().map(|(line, text)| (*line, (*text).to_owned())).collect::<Vec<_>>();
        assert_eq!(rows(b"description\na\nb\n"), expected(&[(2, "a"), (3, "b")]));
        assert_eq!(rows(b"description\na\nb"), expected(&[(2, "a"), (3, "b")]));
        assert_eq!(rows(b"description\r\na\r\nb\r\n"), expected(&[(2, "a"), (3, "b")]));
        assert_eq!(rows(b"\n\ndescription\n\r\na\n\n\n\nb\n\n"), expected(&[(5, "a"), (9, "b")]));
        assert_eq!(
            rows(b"description\n\"a\n\nmore than one buffer\"\nb\r\n\"c\r\n\r\n\"\r\nd"),
            expected(&[(2, "a\n\nmore than one buffer"), (5, "b"), (6, "c\r\n\r\n"), (9, "d")])
        );
        assert_eq!(rows(b"\xef\xbb\xbfdescription\na\n"), expected(&[(2, "a")]));
        assert_eq!(rows(b"description\ra\r\r\"b\r\"\rc"), expected(&[(2, "a"), (4, "b\r"), (6, "c")]));
        assert_eq!(rows(b"description\na\rb\nc\r\r\nd"), expected(&[(2, "a"), (2, "b"), (3, "c"), (4, "d")]));
    }

    #[test]
    fn an_open_quote_does_not_swallow_the_file() {
        struct Endless;
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(b'\n');
                Ok(buffer.len())
            }
        }
        let endless = (&b"description\na\n\"b"[..]).chain(Endless);
        let input = BufReader::new(Counted { input: Box::new(endless), read: Arc::default() });
        let Ok(Rows::Csv { mut reader, .. }) = csv_rows::<NewBaseItem>(input) else { unreachable!("CSV") };
        let mut record = ByteRecord::new();
        assert!(matches!(next_record(&mut reader, &mut record), Ok((2, true))));
        assert!(matches!(next_record(&mut reader, &mut record), Err((3, Fault::TooLong(_)))));
    }

    #[test]
    fn the_name_of_a_file_tells_its_format() {
        assert_eq!(format_of(Path::new("a/sales.CSV")), Some(Format::Csv));
        assert_eq!(format_of(Path::new("sales.ndjson")), Some(Format::Ndjson));
        assert_eq!(format_of(Path::new("sales.jsonl")), Some(Format::Ndjson));
        assert_eq!(format_of(Path::new("sales.csv.gz")), None);
        assert_eq!(format_of(Path::new("-")), None);
    }
}
