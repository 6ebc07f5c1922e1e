//! Files mapped read-only into host memory, from which weights are copied to a device.

use memmap2::{Mmap, UncheckedAdvice};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// No system has larger pages by default; smaller ones divide it.
const PAGE: usize = 64 << 10;

/// A file whose content is read through memory, page by page as it is touched.
///
/// A file that another process shortens while it is mapped cannot be read any more; the system then ends this process.
#[derive(Debug)]
pub struct MappedFile {
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps the file at `path`. An empty file maps to no bytes.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder"));
        }
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the mapping is private and never written here. Bytes that another process writes into the file may
        // appear in it, which is harmless: they are numbers, and the header is checked on a copy of its text.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { map: Some(map) })
    }

    /// Lets the system have the memory of the pages that lie wholly in `range`; they are read from the file again when
    /// they are next touched. What was copied elsewhere then does not stand in memory twice.
    pub fn release(&self, range: Range<usize>) -> io::Result<()> {
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        match &self.map {
            // SAFETY: the mapping is private, read-only and backed by the file, so that a page that is dropped comes back
            // with the same content.
            Some(map) if start < end && end <= map.len() => unsafe {
                map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start)
            },
            _ => Ok(()),
        }
    }

    /// The content.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}
