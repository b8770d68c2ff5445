//! Apache Parquet.

use std::io::{self, Write};
use std::sync::Arc;

use ::parquet::basic::{
    Compression as Codec, GzipLevel, LogicalType, Repetition, TimeUnit, Type as PhysicalType, ZstdLevel,
};
use ::parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::types::{ColumnPath, Type};
use bytes::Bytes;

use super::super::dataset::{Column, ColumnKind};
use super::super::tuples::Value;
use super::{Compression, GZIP_LEVEL, ZSTD_LEVEL};

/// A row group is kept in memory until it is written: some 10 MB with so many rows, which is enough for readers to skip and
/// share work by.
const ROW_GROUP_ROWS: usize = 100_000;
/// Long texts make a row group end earlier.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Ids take more memory as values of the library than as bytes: so many are values at a time.
const VALUES_AT_ONCE: usize = 8_192;
const ID_BYTES: usize = 16;

/// Writes rows as Parquet.
pub(in super::super) struct Parquet<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Buffer>,
    rows: usize,
    bytes: usize,
}

/// What a row group has in a column so far.
enum Buffer {
    /// Ids, one after the other.
    Uuid(Vec<u8>),
    /// Microseconds since 1970, or numbers.
    Integer(Vec<i64>),
    Text(Vec<ByteArray>),
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn new(columns: &[Column], compression: Compression, output: W) -> io::Result<Self> {
        let fields =
            columns.iter().map(|column| field(*column).map(Arc::new)).collect::<Result<_, _>>().map_err(broken)?;
        let schema = Type::group_type_builder("schema").with_fields(fields).build().map_err(broken)?;
        let codec = match compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Gzip => Codec::GZIP(GzipLevel::try_new(GZIP_LEVEL).map_err(broken)?),
            Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).map_err(broken)?),
        };
        let mut properties = WriterProperties::builder()
            .set_compression(codec)
            // What is known of each page would be kept until the end of the file, 60 kB a row group; and as rows come in no
            // order, it would let readers skip nothing.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_created_by(concat!("newcycle ", env!("CARGO_PKG_VERSION")).to_owned());
        // Ids of rows are all different: a dictionary of them would be them again.
        for unique in ["id", "transfer_id"] {
            properties = properties.set_column_dictionary_enabled(ColumnPath::from(unique), false);
        }
        let writer =
            SerializedFileWriter::new(output, Arc::new(schema), Arc::new(properties.build())).map_err(broken)?;
        let columns = columns.iter().map(|column| match column.kind {
            ColumnKind::Uuid => Buffer::Uuid(Vec::with_capacity(ROW_GROUP_ROWS * ID_BYTES)),
            ColumnKind::Timestamp | ColumnKind::Integer => Buffer::Integer(Vec::with_capacity(ROW_GROUP_ROWS)),
            ColumnKind::Text => Buffer::Text(Vec::new()),
        });
        Ok(Self { writer, columns: columns.collect(), rows: 0, bytes: 0 })
    }

    pub(super) fn row(&mut self, values: &[Value<'_>]) -> io::Result<()> {
        for (column, value) in self.columns.iter_mut().zip(values) {
            match (column, value) {
                (Buffer::Uuid(ids), Value::Uuid(id)) => ids.extend_from_slice(id.as_bytes()),
                (Buffer::Integer(numbers), Value::Integer(number)) => numbers.push(*number),
                (Buffer::Integer(numbers), Value::Timestamp(moment)) => numbers.push(moment.timestamp_micros()),
                (Buffer::Text(texts), Value::Text(text)) => {
                    self.bytes += text.len();
                    texts.push(ByteArray::from(*text));
                }
                _ => return Err(io::Error::other("a value is not of its column's kind")),
            }
        }
        self.rows += 1;
        if self.rows >= ROW_GROUP_ROWS || self.bytes >= ROW_GROUP_BYTES { self.write_group() } else { Ok(()) }
    }

    fn write_group(&mut self) -> io::Result<()> {
        if self.rows > 0 {
            (self.rows, self.bytes) = (0, 0);
            let mut group = self.writer.next_row_group().map_err(broken)?;
            for column in &mut self.columns {
                let mut writer = group.next_column().map_err(broken)?.ok_or_else(|| io::Error::other("no column"))?;
                column.write(&mut writer).map_err(broken)?;
                writer.close().map_err(broken)?;
            }
            group.close().map_err(broken)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_group()?;
        self.writer.into_inner().map_err(broken)
    }
}

impl Buffer {
    /// Writes what is there, and begins anew.
    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        match self {
            Self::Uuid(ids) => {
                let writer = writer.typed::<FixedLenByteArrayType>();
                for some in ids.chunks(VALUES_AT_ONCE * ID_BYTES) {
                    // These share one piece of memory.
                    let mut some = Bytes::copy_from_slice(some);
                    let mut values = Vec::with_capacity(VALUES_AT_ONCE);
                    while some.len() >= ID_BYTES {
                        values.push(FixedLenByteArray::from(ByteArray::from(some.split_to(ID_BYTES))));
                    }
                    writer.write_batch(&values, None, None)?;
                }
                ids.clear();
            }
            Self::Integer(numbers) => {
                writer.typed::<Int64Type>().write_batch(numbers, None, None)?;
                numbers.clear();
            }
            Self::Text(texts) => {
                writer.typed::<ByteArrayType>().write_batch(texts, None, None)?;
                texts.clear();
            }
        }
        Ok(())
    }
}

fn field(column: Column) -> Result<Type, ParquetError> {
    let (physical, logical) = match column.kind {
        ColumnKind::Uuid => (PhysicalType::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid)),
        ColumnKind::Timestamp => (PhysicalType::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
        ColumnKind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        ColumnKind::Integer => (PhysicalType::INT64, None),
    };
    let builder = Type::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(logical);
    if column.kind == ColumnKind::Uuid { builder.with_length(16).build() } else { builder.build() }
}

/// Errors of the output come back as they were.
fn broken(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}
