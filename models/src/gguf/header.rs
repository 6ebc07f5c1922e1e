//! The header of a GGUF file, checked completely before a byte of data is used.
//!
//! Layout: `GGUF`, a version, the numbers of tensors and of metadata entries; the entries, each a name, a type and a value;
//! the tensors, each a name, its dimensions from the innermost out, a type and an offset; then, aligned, the data. Integers
//! are little-endian.

use anyhow::{Context, Result, bail, ensure};
use candle_ascend::DType;
use candle_ascend::ops::Format;
use std::collections::BTreeMap;
use std::ops::Range;

/// A value of the metadata. Integers of every width are one kind, and so are floats.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Integer(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    List(Vec<Value>),
}

/// What a tensor is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Float(DType),
    Blocks(Format),
    /// Known by name and not supported.
    Other(&'static str),
}

/// Where one tensor lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub kind: Kind,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub range: Range<usize>,
}

/// A header.
#[derive(Debug)]
pub struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Entry>,
}

/// ggml's tensor types: number, name, and for those not read here elements and bytes of a block.
const TYPES: &[(u32, &str, Kind)] = &[
    (0, "F32", Kind::Float(DType::F32)),
    (1, "F16", Kind::Float(DType::F16)),
    (2, "Q4_0", Kind::Blocks(Format::Q4_0)),
    (3, "Q4_1", Kind::Blocks(Format::Q4_1)),
    (6, "Q5_0", Kind::Blocks(Format::Q5_0)),
    (7, "Q5_1", Kind::Blocks(Format::Q5_1)),
    (8, "Q8_0", Kind::Blocks(Format::Q8_0)),
    (9, "Q8_1", Kind::Other("Q8_1")),
    (10, "Q2_K", Kind::Other("Q2_K")),
    (11, "Q3_K", Kind::Other("Q3_K")),
    (12, "Q4_K", Kind::Blocks(Format::Q4K)),
    (13, "Q5_K", Kind::Blocks(Format::Q5K)),
    (14, "Q6_K", Kind::Blocks(Format::Q6K)),
    (15, "Q8_K", Kind::Other("Q8_K")),
    (16, "IQ2_XXS", Kind::Other("IQ2_XXS")),
    (17, "IQ2_XS", Kind::Other("IQ2_XS")),
    (18, "IQ3_XXS", Kind::Other("IQ3_XXS")),
    (19, "IQ1_S", Kind::Other("IQ1_S")),
    (20, "IQ4_NL", Kind::Other("IQ4_NL")),
    (21, "IQ3_S", Kind::Other("IQ3_S")),
    (22, "IQ2_S", Kind::Other("IQ2_S")),
    (23, "IQ4_XS", Kind::Other("IQ4_XS")),
    (24, "I8", Kind::Other("I8")),
    (25, "I16", Kind::Other("I16")),
    (26, "I32", Kind::Other("I32")),
    (27, "I64", Kind::Other("I64")),
    (28, "F64", Kind::Float(DType::F64)),
    (29, "IQ1_M", Kind::Other("IQ1_M")),
    (30, "BF16", Kind::Float(DType::BF16)),
    (34, "TQ1_0", Kind::Other("TQ1_0")),
    (35, "TQ2_0", Kind::Other("TQ2_0")),
    (39, "MXFP4", Kind::Other("MXFP4")),
];

/// Names of the types that load.
pub fn supported() -> String {
    let names = TYPES.iter().filter(|row| !matches!(row.2, Kind::Other(_))).map(|row| row.1);
    names.collect::<Vec<_>>().join(", ")
}

impl Kind {
    /// Elements and bytes of a block; none for what is not read.
    fn block(self) -> Option<(usize, usize)> {
        match self {
            Kind::Float(dtype) => Some((1, dtype.size_in_bytes())),
            Kind::Blocks(format) => Some((format.block(), format.bytes())),
            Kind::Other(_) => None,
        }
    }

    pub fn name(self) -> &'static str {
        TYPES.iter().find(|row| row.2 == self).map_or("of an unnamed type", |row| row.1)
    }
}

/// Parses and checks the header of a file whose whole content is `bytes`.
pub fn read(bytes: &[u8]) -> Result<Header> {
    let mut reader = Reader { bytes, at: 0 };
    ensure!(bytes.starts_with(b"GGUF"), "the file does not begin with GGUF; it is not a GGUF file, or it is corrupt");
    reader.at = 4;
    let version = reader.u32()?;
    ensure!(matches!(version, 2 | 3), "GGUF version {version}; versions 2 and 3 are supported");
    let (tensors, entries) = (reader.u64()?, reader.u64()?);
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let key = reader.text().context("in the metadata's names")?;
        let kind = reader.u32()?;
        let value = reader.value(kind, 0).with_context(|| format!("in the metadata's {key}"))?;
        ensure!(metadata.insert(key.clone(), value).is_none(), "{key} occurs twice in the metadata");
    }
    let mut rows = Vec::new();
    for _ in 0..tensors {
        rows.push(reader.tensor()?);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        Some(Value::Integer(n @ 1..=0x10_0000)) => *n as usize,
        Some(other) => bail!("general.alignment is {other:?}, wanted a small positive number"),
    };
    let start = reader.at.next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, kind, shape, offset) in rows {
        let range = range(&name, kind, &shape, start, offset, bytes.len())?;
        ensure!(!tensors.contains_key(&name), "tensor {name} occurs twice in the header");
        tensors.insert(name, Entry { kind, shape, range });
    }
    Ok(Header { metadata, tensors })
}

fn range(name: &str, kind: Kind, shape: &[usize], start: usize, offset: u64, end: usize) -> Result<Range<usize>> {
    let elements = shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim));
    // The size of what is not read is not known either; asking for such a tensor is the error.
    let Some((block, bytes)) = kind.block() else { return Ok(0..0) };
    let columns = shape.last().copied().unwrap_or(1);
    ensure!(
        columns.is_multiple_of(block),
        "tensor {name}: rows of {columns} are not a multiple of {block}, the block of {}",
        kind.name()
    );
    let size = elements.and_then(|n| (n / block).checked_mul(bytes));
    let size = size.with_context(|| format!("tensor {name}: the size of shape {shape:?} does not fit in 64 bits"))?;
    let from = usize::try_from(offset).ok().and_then(|offset| start.checked_add(offset));
    let to = from.and_then(|from| from.checked_add(size)).filter(|to| *to <= end);
    match (from, to) {
        (Some(from), Some(to)) => Ok(from..to),
        _ => bail!(
            "tensor {name}: {size} bytes at byte {offset} of the data, which has {}; the file is truncated or corrupt",
            end.saturating_sub(start)
        ),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some(bytes) = self.bytes[self.at..].first_chunk::<N>() else {
            bail!("the header ends after {} bytes; the file is truncated", self.bytes.len());
        };
        self.at += N;
        Ok(*bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A count of things of at least one byte each, which cannot be more than the bytes that are left.
    fn count(&mut self) -> Result<usize> {
        let (count, left) = (self.u64()?, self.bytes.len() - self.at);
        match usize::try_from(count) {
            Ok(count) if count <= left => Ok(count),
            _ => bail!("a length of {count} with {left} bytes left; the file is truncated or corrupt"),
        }
    }

    fn text(&mut self) -> Result<String> {
        let length = self.count()?;
        let bytes = &self.bytes[self.at..self.at + length];
        self.at += length;
        // Tokens of some vocabularies are no UTF-8; a name that is none is not found under any name that is asked for.
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Integer(self.take::<1>()?[0].into()),
            1 => Value::Integer(i8::from_le_bytes(self.take()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.take()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.take()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.take()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.take()?).into()),
            7 => Value::Flag(self.take::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => {
                ensure!(depth < 4, "lists of lists of lists; the file is corrupt");
                let (kind, count) = (self.u32()?, self.count()?);
                Value::List((0..count).map(|_| self.value(kind, depth + 1)).collect::<Result<_>>()?)
            }
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.take()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.take()?)),
            other => bail!("a value of type {other}, which the format does not have; the file is corrupt"),
        })
    }

    /// Name, type, shape and offset of a tensor.
    fn tensor(&mut self) -> Result<(String, Kind, Vec<usize>, u64)> {
        let name = self.text().context("in the tensors' names")?;
        let rank = self.u32()?;
        ensure!(rank <= 8, "tensor {name} has {rank} dimensions; the file is corrupt");
        let mut shape = Vec::new();
        for _ in 0..rank {
            let dim = self.u64()?;
            shape.push(usize::try_from(dim).ok().with_context(|| format!("tensor {name} has a dimension of {dim}"))?);
        }
        shape.reverse();
        let (number, offset) = (self.u32()?, self.u64()?);
        let Some((_, _, kind)) = TYPES.iter().find(|row| row.0 == number) else {
            bail!("tensor {name} is of ggml's type {number}, which is not known; {} are supported", supported());
        };
        Ok((name, *kind, shape, offset))
    }
}
