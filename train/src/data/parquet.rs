//! Parquet files, unpacked once.
//!
//! A run reads samples in random order, and what Parquet can read at once is a group of thousands of rows. So the rows are
//! written to a temporary file as they come, an object a line, and read from there; it has no name and goes with the process.

use super::source::{Span, span};
use anyhow::{Context, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;

/// Whether `file` begins as Parquet does.
pub(super) fn is(file: &File) -> Result<bool> {
    let mut start = [0; 4];
    let read = file.read_at(&mut start, 0)?;
    Ok(&start[..read] == b"PAR1")
}

/// The rows of `file` as lines of another, and where each lies.
pub(super) fn unpack(file: File) -> Result<(File, Vec<Span>)> {
    let reader = SerializedFileReader::new(file).context("not a whole Parquet file")?;
    let unpacked =
        tempfile::tempfile().context("no temporary file to unpack it to; TMPDIR says where they are made")?;
    let mut writer = BufWriter::with_capacity(1 << 20, unpacked);
    let mut spans = Vec::new();
    let mut start = 0;
    for row in reader.get_row_iter(None)? {
        let number = spans.len() as u64 + 1;
        let row = row.with_context(|| format!("row {number}"))?;
        let text = serde_json::to_vec(&object(&row))?;
        writer.write_all(&text).context("unpacking it to a temporary file; TMPDIR says where those are made")?;
        spans.push(span(start, text.len() as u64, number)?);
        start += text.len() as u64;
    }
    Ok((writer.into_inner().context("unpacking it to a temporary file")?, spans))
}

fn object(row: &Row) -> Value {
    Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect())
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => (*flag).into(),
        Field::Byte(number) => (*number).into(),
        Field::Short(number) => (*number).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) => (*number).into(),
        Field::UByte(number) => (*number).into(),
        Field::UShort(number) => (*number).into(),
        Field::UInt(number) => (*number).into(),
        Field::ULong(number) => (*number).into(),
        Field::Float16(number) => f64::from(*number).into(),
        // By way of its shortest text, so that 0.1 stays 0.1.
        Field::Float(number) => number.to_string().parse::<f64>().unwrap_or(f64::from(*number)).into(),
        Field::Double(number) => (*number).into(),
        Field::Str(text) => text.as_str().into(),
        // Writers that do not say that a column is text mean text all the same.
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let key = |key: &Field| match value(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(map.entries().iter().map(|(name, field)| (key(name), value(field))).collect())
        }
        Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => field.to_string().into(),
    }
}
