//! How files are written.

mod csv;
mod ndjson;
mod parquet;

use std::io::{self, Write};

use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::csv::Csv;
use self::ndjson::Ndjson;
use self::parquet::Parquet;
use super::dataset::Column;
use super::tuples::Value;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// RFC 4180, with the columns' names in the first line, in UTF-8; lines end with a line feed.
    Csv,
    /// One JSON object a line.
    Ndjson,
    /// Apache Parquet: UUIDs, and timestamps in microseconds of UTC.
    Parquet,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952. Of a Parquet file, its pages.
    Gzip,
    /// RFC 8878. Of a Parquet file, its pages.
    Zstd,
}

/// Half as large as with the fastest level, at twice the time; the levels above take more time than they save.
const GZIP_LEVEL: u32 = 6;
/// The default of zstd itself.
const ZSTD_LEVEL: i32 = 3;

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Csv, Self::Ndjson, Self::Parquet];

    /// Its name in requests and in the database, which is also how names of files end.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
        }
    }

    /// How names of files end.
    pub const fn extension(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Csv, Compression::None) => "csv",
            (Self::Csv, Compression::Gzip) => "csv.gz",
            (Self::Csv, Compression::Zstd) => "csv.zst",
            (Self::Ndjson, Compression::None) => "ndjson",
            (Self::Ndjson, Compression::Gzip) => "ndjson.gz",
            (Self::Ndjson, Compression::Zstd) => "ndjson.zst",
            (Self::Parquet, _) => "parquet",
        }
    }

    /// What HTTP calls such a file. What is compressed is one on the reader's disk, too: it is no encoding of the transfer.
    pub const fn media_type(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Parquet, _) => "application/vnd.apache.parquet",
            (_, Compression::Gzip) => "application/gzip",
            (_, Compression::Zstd) => "application/zstd",
            (Self::Csv, Compression::None) => "text/csv; charset=utf-8; header=present",
            (Self::Ndjson, Compression::None) => "application/x-ndjson",
        }
    }
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Gzip, Self::Zstd];

    /// Its name in requests and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Writes rows as a file.
pub(super) enum Encoder<W: Write + Send> {
    Csv(Box<Csv<Compressed<W>>>),
    Ndjson(Box<Ndjson<Compressed<W>>>),
    Parquet(Box<Parquet<W>>),
}

impl<W: Write + Send> Encoder<W> {
    /// Begins a file.
    pub(super) fn new(
        format: Format,
        compression: Compression,
        columns: &'static [Column],
        output: W,
    ) -> io::Result<Self> {
        Ok(match format {
            Format::Csv => Self::Csv(Box::new(Csv::new(columns, Compressed::new(compression, output)?)?)),
            Format::Ndjson => Self::Ndjson(Box::new(Ndjson::new(columns, Compressed::new(compression, output)?))),
            Format::Parquet => Self::Parquet(Box::new(Parquet::new(columns, compression, output)?)),
        })
    }

    /// Writes a row.
    pub(super) fn row(&mut self, values: &[Value<'_>]) -> io::Result<()> {
        match self {
            Self::Csv(csv) => csv.row(values),
            Self::Ndjson(ndjson) => ndjson.row(values),
            Self::Parquet(parquet) => parquet.row(values),
        }
    }

    /// Ends the file.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Csv(csv) => csv.finish()?.finish(),
            Self::Ndjson(ndjson) => ndjson.finish()?.finish(),
            Self::Parquet(parquet) => parquet.finish(),
        }
    }
}

/// Compresses what is written, or does not.
pub(super) enum Compressed<W: Write> {
    Not(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Compressed<W> {
    fn new(compression: Compression, output: W) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Not(output),
            Compression::Gzip => Self::Gzip(GzEncoder::new(output, flate2::Compression::new(GZIP_LEVEL))),
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(output, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::Not(output) => Ok(output),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Not(output) => output.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing is flushed before the end: compressors would begin a new block.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
