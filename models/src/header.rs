//! The header of a safetensors file, checked completely before a byte of data is used.
//!
//! Layout: eight bytes of header length, little-endian; a JSON object from tensor name to dtype, shape and byte range; the
//! data, which the ranges must cover without a hole or an overlap.

use anyhow::{Context, Result, bail, ensure};
use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The format's own limit; a longer header is damage or an attack, not a model.
const MAX_HEADER: u64 = 100_000_000;

/// Where one tensor lies in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Bytes from the start of the file.
    pub range: Range<usize>,
}

/// Parses and checks the header of a file whose whole content is `bytes`.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<String, Entry>> {
    let Some(length) = bytes.first_chunk::<8>() else {
        bail!("the file has {} bytes, too few for a safetensors header; it is truncated", bytes.len());
    };
    let length = u64::from_le_bytes(*length);
    ensure!(
        length <= MAX_HEADER,
        "the header claims {length} bytes, the format allows {MAX_HEADER}; this is not a safetensors file, or it is corrupt"
    );
    let start = 8 + length as usize;
    let Some(header) = bytes.get(8..start) else {
        bail!(
            "the header claims {length} bytes and the file has {} after its length; it is truncated",
            bytes.len() - 8
        );
    };
    let header = std::str::from_utf8(header).context("the header is not UTF-8; the file is corrupt")?;
    let Rows(rows) =
        serde_json::from_str(header).context("the header is not what safetensors writes; the file is corrupt")?;
    let mut entries = BTreeMap::new();
    for (name, row) in rows {
        let entry = entry(&name, row, start, bytes.len())?;
        ensure!(!entries.contains_key(&name), "tensor {name} occurs twice in the header");
        entries.insert(name, entry);
    }
    check_cover(&entries, start, bytes.len())?;
    Ok(entries)
}

fn entry(name: &str, row: Row, start: usize, end: usize) -> Result<Entry> {
    let Row { dtype, shape, data_offsets: (from, to) } = row;
    let have = end - start;
    ensure!(from <= to, "tensor {name}: data_offsets [{from}, {to}] run backwards");
    ensure!(
        to <= have,
        "tensor {name}: its data ends at byte {to}, the file holds {have} bytes of data; it is truncated or corrupt"
    );
    let bits = shape.iter().try_fold(dtype.bitsize(), |bits, dim| bits.checked_mul(*dim));
    let bytes = bits
        .with_context(|| format!("tensor {name}: the size of shape {shape:?} does not fit in 64 bits"))?
        .div_ceil(8);
    ensure!(
        to - from == bytes,
        "tensor {name}: shape {shape:?} of {dtype:?} wants {bytes} bytes, its data_offsets give {}",
        to - from
    );
    Ok(Entry { dtype, shape, range: start + from..start + to })
}

/// The ranges must tile the data: what overlaps or is left over was not written by a safetensors writer.
fn check_cover(entries: &BTreeMap<String, Entry>, start: usize, end: usize) -> Result<()> {
    let mut by_place: Vec<_> = entries.iter().collect();
    by_place.sort_by_key(|(_, entry)| (entry.range.start, entry.range.end));
    let mut reached = (start, None);
    for (name, Entry { range, .. }) in by_place {
        let (covered, before) = reached;
        if range.start < covered {
            bail!("tensors {} and {name} overlap in the file", before.unwrap_or("?"));
        }
        ensure!(
            range.start == covered,
            "{} bytes before tensor {name} belong to no tensor; the header is corrupt",
            range.start - covered
        );
        reached = (range.end, Some(name.as_str()));
    }
    ensure!(reached.0 == end, "{} bytes at the end belong to no tensor; the file is corrupt", end - reached.0);
    Ok(())
}

#[derive(Deserialize)]
struct Row {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The header's rows in file order; a map type would hide a name that occurs twice.
struct Rows(Vec<(String, Row)>);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Rows;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object from tensor name to dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Rows, A::Error> {
                let mut rows = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        rows.push((name, map.next_value()?));
                    }
                }
                Ok(Rows(rows))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    fn row(shape: &str, from: usize, to: usize) -> String {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    }

    #[test]
    fn a_good_header() {
        let header =
            format!(r#"{{"__metadata__":{{"format":"pt"}},"a":{},"b":{}}}"#, row("[2]", 0, 8), row("[1,3]", 8, 20));
        let entries = read(&file(&header, 20)).unwrap();
        let start = 8 + header.len();
        assert_eq!(entries["b"], Entry { dtype: Dtype::F32, shape: vec![1, 3], range: start + 8..start + 20 });
    }

    #[test]
    fn damage_is_named() {
        let one = |row: String| format!(r#"{{"a":{row}}}"#);
        let two = |a: String, b: String| format!(r#"{{"a":{a},"b":{b}}}"#);
        let huge = "[4294967296,4294967296]";
        let cases = [
            (vec![1, 2, 3], "too few"),
            (u64::MAX.to_le_bytes().to_vec(), "the header claims 18446744073709551615 bytes"),
            (1000_u64.to_le_bytes().to_vec(), "truncated"),
            (file("not json", 0), "not what safetensors writes"),
            (file(&one(row("[2]", 0, 8)), 4), "ends at byte 8, the file holds 4"),
            (file(&one(row("[2]", 8, 0)), 8), "backwards"),
            (file(&one(row("[3]", 0, 8)), 8), "wants 12 bytes"),
            (file(&one(row(huge, 0, 8)), 8), "does not fit"),
            (file(&one(row("[2]", 0, 8)), 9), "1 bytes at the end"),
            (file(&one(row("[2]", 4, 12)), 12), "belong to no tensor"),
            (file(&two(row("[2]", 0, 8), row("[2]", 4, 12)), 12), "overlap"),
            (file(&format!(r#"{{"a":{0},"a":{0}}}"#, row("[2]", 0, 8)), 8), "twice"),
            (file(&one(r#"{"dtype":"F33","shape":[],"data_offsets":[0,4]}"#.into()), 4), "not what safetensors writes"),
        ];
        for (bytes, says) in cases {
            let error = format!("{:#}", read(&bytes).unwrap_err());
            assert!(error.contains(says), "wanted {says:?} in {error:?}");
        }
    }

    /// Truncating or changing a byte anywhere is an error or another valid header, never a panic.
    #[test]
    fn mutations_do_not_panic() {
        let header = format!(r#"{{"a":{},"b":{}}}"#, row("[2]", 0, 8), row("[1,3]", 8, 20));
        let good = file(&header, 20);
        for at in 0..good.len() {
            let _ = read(&good[..at]);
            for value in [0, 1, b'9', b'"', b'}', 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                if let Ok(entries) = read(&bad) {
                    assert!(entries.values().all(|entry| entry.range.end <= bad.len()), "byte {at} set to {value}");
                }
            }
        }
    }
}
