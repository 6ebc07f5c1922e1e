//! Event files for TensorBoard.
//!
//! A file is a sequence of TFRecords: the length (u64, little-endian), its masked CRC32C, the bytes, and their masked CRC32C. The
//! bytes are an `Event` in protobuf's wire format, of which a file of scalars needs five fields.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A file of scalars that is being written.
pub struct Events {
    file: File,
    path: PathBuf,
}

impl Events {
    /// A new file in `folder`, under the name that TensorBoard looks for.
    pub fn create(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
        let name = format!("events.out.tfevents.{}.{host}.{}.0", now() as u64, std::process::id());
        let path = folder.join(name);
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let mut events = Self { file, path };
        let version = message().double(1, now()).bytes(3, b"brain.Event:2").done();
        events.write(&version)?;
        Ok(events)
    }

    /// Adds the value of `tag` at `step`.
    pub fn scalar(&mut self, step: usize, tag: &str, value: f64) -> Result<()> {
        let value = message().bytes(1, tag.as_bytes()).float(2, value as f32).done();
        let summary = message().bytes(1, &value).done();
        self.write(&message().double(1, now()).varint(2, step as u64).bytes(5, &summary).done())
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let record = [&length[..], &masked_crc(&length), event, &masked_crc(event)].concat();
        self.file.write_all(&record).with_context(|| format!("writing {}", self.path.display()))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0., |since| since.as_secs_f64())
}

/// A checksum of bytes that may hold checksums themselves, for which TFRecord rotates it and adds a constant.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// A protobuf message, field by field.
#[derive(Default)]
struct Message(Vec<u8>);

fn message() -> Message {
    Message::default()
}

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A field's number with the kind of what follows: 0 a varint, 1 eight bytes, 2 a length and bytes, 5 four bytes.
    fn tag(&mut self, field: u64, kind: u64) {
        self.raw_varint(field << 3 | kind);
    }

    fn varint(mut self, field: u64, value: u64) -> Self {
        self.tag(field, 0);
        self.raw_varint(value);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.tag(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.tag(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.tag(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What TensorBoard's own reader makes of it was looked at once by hand; these bytes are that file's first record but for
    /// its time, and pin the framing and the mask.
    #[test]
    fn records_are_framed_as_tfrecords() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path()).unwrap();
        events.scalar(300, "train/loss", 0.5).unwrap();
        let bytes = fs::read(&events.path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(length, 9 + 2 + 13, "a double with its tag, and the version with tag and length");
        // The CRC32C of the eight bytes of 24, rotated and shifted, as TensorFlow writes it.
        assert_eq!(&bytes[8..12], &[0xa3, 0x7f, 0x4b, 0x22]);
        assert_eq!(&bytes[21..36], b"\x1a\x0dbrain.Event:2");
        let event = &bytes[12 + 24 + 4..];
        let length = u64::from_le_bytes(event[..8].try_into().unwrap()) as usize;
        assert_eq!(event.len(), 12 + length + 4);
        let event = &event[12..12 + length];
        assert_eq!(&event[9..12], [0x10, 0xac, 0x02], "step 300 as a varint");
        assert_eq!(&event[12..16], [0x2a, 19, 0x0a, 17], "a summary of one value");
        assert_eq!(&event[16..28], b"\x0a\x0atrain/loss");
        assert_eq!(&event[28..], [0x15, 0, 0, 0, 0x3f], "a half as a float");
    }
}
