//! The records of a file by their number, without the file in memory.

use super::parquet;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The bytes of one record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub start: u64,
    pub bytes: u32,
    /// The line that it begins in, or its row, from 1.
    pub number: u32,
}

/// A file of JSON objects.
pub(super) struct Source {
    path: PathBuf,
    file: File,
    spans: Vec<Span>,
    /// What [`Span::number`] counts.
    unit: &'static str,
}

impl Source {
    /// Finds the records of the file at `path`: a JSON object a line, one JSON array of objects, or Parquet.
    pub fn open(path: &Path) -> Result<Self> {
        let named = || format!("cannot read {}", path.display());
        let meta = fs::metadata(path).with_context(named)?;
        ensure!(!meta.is_dir(), "{} is a folder; name the JSONL, JSON or Parquet files in it", path.display());
        ensure!(meta.len() > 0, "{} is empty", path.display());
        let file = File::open(path).with_context(named)?;
        let (file, spans, unit) = if parquet::is(&file).with_context(named)? {
            let (unpacked, spans) = parquet::unpack(file).with_context(named)?;
            (unpacked, spans, "row")
        } else {
            let spans = find(&mut BufReader::with_capacity(1 << 20, &file)).with_context(named)?;
            (file, spans, "line")
        };
        ensure!(!spans.is_empty(), "{} has no records", path.display());
        Ok(Self { path: path.to_owned(), file, spans, unit })
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Where record `index` is, for people.
    pub fn place(&self, index: usize) -> String {
        format!("{}, {} {}", self.path.display(), self.unit, self.spans[index].number)
    }

    pub fn read(&self, index: usize) -> Result<Value> {
        let span = self.spans[index];
        let mut bytes = vec![0; span.bytes as usize];
        self.file.read_exact_at(&mut bytes, span.start).context("it cannot be read any more; has the file changed?")?;
        serde_json::from_slice(&bytes).map_err(|error| anyhow::anyhow!("not valid JSON: {error}"))
    }
}

fn find(reader: &mut impl BufRead) -> Result<Vec<Span>> {
    const MARK: &[u8] = b"\xEF\xBB\xBF";
    let mut offset = 0;
    if reader.fill_buf()?.starts_with(MARK) {
        offset = MARK.len() as u64;
        reader.consume(MARK.len());
    }
    // What is not blank decides, and is within the first buffer of any file that is worth reading.
    let first = reader.fill_buf()?.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') { elements(reader, offset) } else { lines(reader, offset) }
}

/// A record a line; blank lines are none.
fn lines(reader: &mut impl BufRead, mut offset: u64) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            let before = line.len() - line.trim_ascii_start().len();
            spans.push(span(offset + before as u64, text.len() as u64, number)?);
        }
        offset += read as u64;
    }
    Ok(spans)
}

/// The elements of one JSON array.
fn elements(reader: &mut impl Read, offset: u64) -> Result<Vec<Span>> {
    let mut scan = Scan { line: 1, ..Scan::default() };
    let mut buffer = vec![0; 1 << 20];
    let mut at = offset;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        for &byte in &buffer[..read] {
            scan.take(byte, at)?;
            at += 1;
        }
    }
    ensure!(scan.closed, "the array that the file begins with does not end; the file is cut off in line {}", scan.line);
    Ok(scan.spans)
}

/// Where the elements of an array begin and end. What is inside of them is left to the parser.
#[derive(Default)]
struct Scan {
    spans: Vec<Span>,
    line: u64,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Offset and line of the element that goes on.
    start: Option<(u64, u64)>,
    closed: bool,
}

impl Scan {
    fn take(&mut self, byte: u8, at: u64) -> Result<()> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
        } else {
            self.outside_of_strings(byte, at)?;
        }
        self.line += u64::from(byte == b'\n');
        Ok(())
    }

    fn outside_of_strings(&mut self, byte: u8, at: u64) -> Result<()> {
        if byte.is_ascii_whitespace() {
            return Ok(());
        }
        ensure!(!self.closed, "line {} goes on after the end of the array", self.line);
        match byte {
            b'[' if self.depth == 0 => self.depth = 1,
            b',' if self.depth == 1 => self.finish(at, true)?,
            b']' if self.depth == 1 => {
                self.finish(at, !self.spans.is_empty())?;
                self.closed = true;
            }
            _ => {
                self.start.get_or_insert((at, self.line));
                match byte {
                    b'"' => self.in_string = true,
                    b'[' | b'{' => self.depth += 1,
                    b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, end: u64, wanted: bool) -> Result<()> {
        match self.start.take() {
            Some((start, line)) => self.spans.push(span(start, end - start, line)?),
            None if wanted => bail!("line {} has a comma of the array with nothing beside it", self.line),
            None => {}
        }
        Ok(())
    }
}

pub(super) fn span(start: u64, bytes: u64, number: u64) -> Result<Span> {
    let Ok(bytes) = u32::try_from(bytes) else {
        bail!("record {number} has {bytes} bytes, more than a record can have")
    };
    Ok(Span { start, bytes, number: u32::try_from(number).context("more than 4,294,967,295 lines")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn open(text: &str) -> Result<Source> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Source::open(file.path())
    }

    fn records(text: &str) -> Vec<(u32, Value)> {
        let source = open(text).unwrap();
        (0..source.len()).map(|i| (source.spans[i].number, source.read(i).unwrap())).collect()
    }

    #[test]
    fn lines_and_arrays_are_read_by_number_with_the_line_that_they_begin_in() {
        let number = |n: u32| serde_json::json!({ "n": n, "s": "a\"]},[\\" });
        let one = |n: u32| number(n).to_string();
        let lines = format!("\u{FEFF}\n  {} \r\n\n{}", one(1), one(2));
        assert_eq!(records(&lines), [(2, number(1)), (4, number(2))]);
        let array =
            format!("\n[\n{} ,{}\n,\n\n{}]\n", one(1), one(2), serde_json::to_string_pretty(&number(3)).unwrap());
        assert_eq!(records(&array), [(3, number(1)), (3, number(2)), (6, number(3))]);
    }

    #[test]
    fn files_without_records_say_what_they_are() {
        let says = |text: &str, wanted: &str| {
            let error = format!("{:#}", open(text).err().expect(text));
            assert!(error.contains(wanted), "{text:?}: {error}");
        };
        says("", "is empty");
        says("\n \n", "has no records");
        says("[]", "has no records");
        says("[{\"a\": 1},\n{\"b\"", "cut off in line 2");
        says("[{}]\nx", "line 2 goes on");
        says("[{},\n,{}]", "line 2 has a comma");
        says("[{},]", "nothing beside it");
        let folder = format!("{:#}", Source::open(Path::new("/")).err().expect("a folder"));
        assert!(folder.contains("is a folder"), "{folder}");
        let missing = format!("{:#}", Source::open(Path::new("no/such.jsonl")).err().expect("no file"));
        assert!(missing.contains("no/such.jsonl") && missing.contains("No such file"), "{missing}");
    }
}
