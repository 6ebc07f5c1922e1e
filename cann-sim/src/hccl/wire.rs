//! What goes over a connection: frames with a header of fixed size, and the greetings before them.

use serde_json::Value;
use std::io::{self, Read, Write};

/// Which conversation a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The beginning of a sub-communicator.
    Setup,
    /// The collective of that number.
    Collective,
    /// The message of that number between two ranks, from the sender and from the receiver.
    Forth,
    Back,
}

const CLASSES: [Class; 4] = [Class::Setup, Class::Collective, Class::Forth, Class::Back];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The communicator, among those that share the connection.
    pub group: u64,
    pub class: Class,
    pub number: u64,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data(Tag),
    /// The sender gives the communicator up, and blames a rank of the mesh; the payload says why, and `code` is what the
    /// streams of the others answer.
    Abort {
        group: u64,
        culprit: u32,
        code: i32,
    },
    /// The sender has destroyed its communicator; nothing follows.
    Farewell,
}

pub const HEADER: usize = 32;
/// Up to here header and payload leave in one packet.
const SMALL: usize = 4096;

fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    let (code, class, culprit, group, number) = match kind {
        Kind::Data(tag) => (0u8, tag.class as u8, 0, tag.group, tag.number),
        Kind::Abort { group, culprit, code } => (1, 0, culprit, group, code as u64),
        Kind::Farewell => (2, 0, 0, 0, 0),
    };
    let mut bytes = [0; HEADER];
    (bytes[0], bytes[1]) = (code, class);
    bytes[4..8].copy_from_slice(&culprit.to_le_bytes());
    bytes[8..16].copy_from_slice(&group.to_le_bytes());
    bytes[16..24].copy_from_slice(&number.to_le_bytes());
    bytes[24..].copy_from_slice(&(length as u64).to_le_bytes());
    bytes
}

/// Writes one frame.
pub fn write(to: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let header = header(kind, payload.len());
    if payload.len() <= SMALL {
        return to.write_all(&[&header, payload].concat());
    }
    to.write_all(&header)?;
    to.write_all(payload)
}

/// Reads one frame; `None` at the end of the connection.
pub fn read(from: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut header = [0; HEADER];
    if from.read(&mut header[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..])?;
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let culprit = u32::from_le_bytes(std::array::from_fn(|i| header[4 + i]));
    let kind = match (header[0], CLASSES.get(header[1] as usize)) {
        (0, Some(&class)) => Kind::Data(Tag { group: word(8), class, number: word(16) }),
        (1, _) => Kind::Abort { group: word(8), culprit, code: word(16) as i32 },
        (2, _) => Kind::Farewell,
        (kind, _) => return Err(io::Error::other(format!("a frame of the unknown kind {kind}"))),
    };
    let length = word(24);
    let mut payload = Vec::new();
    payload.try_reserve_exact(length as usize).map_err(io::Error::other)?;
    from.take(length).read_to_end(&mut payload)?;
    match payload.len() as u64 == length {
        true => Ok(Some((kind, payload))),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Longest greeting: addresses of some thousand ranks.
const GREETING: u32 = 1 << 20;
const MAGIC: &[u8; 8] = b"simhccl1";

/// Writes a greeting: a text that only another simulated HCCL understands.
pub fn greet(to: &mut impl Write, greeting: &Value) -> io::Result<()> {
    let text = greeting.to_string();
    to.write_all(&[&MAGIC[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat())
}

/// Reads a greeting.
pub fn greeting(from: &mut impl Read) -> io::Result<Value> {
    let mut start = [0; 12];
    from.read_exact(&mut start)?;
    let length = u32::from_le_bytes(std::array::from_fn(|i| start[8 + i]));
    if &start[..8] != MAGIC || length > GREETING {
        return Err(io::Error::other("the other side is no simulated HCCL of this version"));
    }
    let mut text = vec![0; length as usize];
    from.read_exact(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were_written() {
        let tag = Tag { group: u64::MAX, class: Class::Back, number: 7 };
        let frames = [
            (Kind::Data(tag), vec![1; 3]),
            (Kind::Data(tag), vec![2; SMALL + 1]),
            (Kind::Abort { group: 5, culprit: 3, code: -7 }, b"why".to_vec()),
            (Kind::Farewell, Vec::new()),
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|(kind, payload)| write(&mut bytes, *kind, payload).unwrap());
        let mut from = &bytes[..];
        for frame in frames {
            assert_eq!(read(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(read(&mut from).unwrap(), None);
        let cut = &bytes[..HEADER + 2];
        assert_eq!(read(&mut &cut[..]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stranger_is_no_greeting() {
        assert!(greeting(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).is_err());
    }
}
