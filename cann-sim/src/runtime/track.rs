//! Who touched which bytes of a block last, to find accesses that nothing orders.

use super::clock::{Clock, HOST};
use super::memory::{Access, Site};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// One access: where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    pub op: &'static str,
    pub stream: u32,
    pub position: u64,
}

impl std::fmt::Display for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.stream {
            HOST => write!(f, "{} by the host", self.op),
            stream => write!(f, "{} (task {} of stream {stream})", self.op, self.position),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Segment {
    end: u64,
    writer: Option<Epoch>,
    /// The last reader of each stream since the last write.
    readers: Vec<Epoch>,
}

/// The accesses to one block, per range of bytes.
#[derive(Debug, Default)]
pub struct Track {
    segments: BTreeMap<u64, Segment>,
    prune_at: usize,
}

/// An earlier access that nothing orders before the new one, and what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Race {
    pub earlier: Epoch,
    pub earlier_wrote: bool,
}

/// Who touched what within one run of a graph, by the number of the block.
#[derive(Debug, Default)]
pub struct Accesses(Mutex<HashMap<u64, Track>>);

/// A task's place within a run of a graph that has several branches.
#[derive(Debug)]
pub struct Branch {
    pub accesses: Arc<Accesses>,
    /// Stream and place of the capture.
    pub stream: u32,
    pub position: u64,
    /// What the capture's own events order before it.
    pub clock: Arc<Clock>,
}

impl Branch {
    /// Notes an access to the bytes `[start, end)` of block `block` and finds one of another branch that it races with.
    pub fn access(&self, block: u64, start: u64, end: u64, access: Access, op: &'static str) -> Option<Race> {
        let (stream, position, clock) = (self.stream, self.position, self.clock.clone());
        let site = Site { op, stream, position, clock, branch: None };
        let mut blocks = self.accesses.0.lock().unwrap_or_else(|e| e.into_inner());
        blocks.entry(block).or_insert_with(Track::unpruned).access(start, end, access, &site)
    }
}

const PRUNE: usize = 512;

impl Track {
    /// Forgets nothing: places within a graph are no places of streams, of which the host knows what is finished.
    fn unpruned() -> Self {
        Self { prune_at: usize::MAX, ..Self::default() }
    }

    /// Notes an access to the bytes `[start, end)` of the block and finds one that it races with.
    pub fn access(&mut self, start: u64, end: u64, access: Access, site: &Site) -> Option<Race> {
        if start == end {
            return None;
        }
        self.prune();
        self.split(start);
        self.split(end);
        let race = self.conflict(start, end, access, site);
        let epoch = Epoch { op: site.op, stream: site.stream, position: site.position };
        match access {
            Access::Write => {
                let covered: Vec<u64> = self.segments.range(start..end).map(|(&at, _)| at).collect();
                covered.iter().for_each(|at| drop(self.segments.remove(at)));
                self.segments.insert(start, Segment { end, writer: Some(epoch), readers: Vec::new() });
            }
            Access::Read => self.note_reader(start, end, epoch),
        }
        race
    }

    fn conflict(&self, start: u64, end: u64, access: Access, site: &Site) -> Option<Race> {
        let unordered = |e: &Epoch| e.stream != site.stream && !site.clock.covers(e.stream, e.position);
        for segment in self.segments.range(start..end).map(|(_, segment)| segment) {
            if let Some(writer) = segment.writer.filter(unordered) {
                return Some(Race { earlier: writer, earlier_wrote: true });
            }
            if access == Access::Write
                && let Some(&reader) = segment.readers.iter().find(|reader| unordered(reader))
            {
                return Some(Race { earlier: reader, earlier_wrote: false });
            }
        }
        None
    }

    fn note_reader(&mut self, start: u64, end: u64, epoch: Epoch) {
        let mut gaps = Vec::new();
        let mut at = start;
        for (&from, segment) in self.segments.range_mut(start..end) {
            if at < from {
                gaps.push((at, from));
            }
            match segment.readers.iter_mut().find(|reader| reader.stream == epoch.stream) {
                Some(reader) => *reader = epoch,
                None => segment.readers.push(epoch),
            }
            at = segment.end;
        }
        if at < end {
            gaps.push((at, end));
        }
        for (from, end) in gaps {
            self.segments.insert(from, Segment { end, writer: None, readers: vec![epoch] });
        }
    }

    /// Makes `at` a boundary between segments.
    fn split(&mut self, at: u64) {
        let Some((_, segment)) = self.segments.range_mut(..at).next_back() else { return };
        if segment.end > at {
            let upper = segment.clone();
            segment.end = at;
            self.segments.insert(at, upper);
        }
    }

    /// Forgets what the host already waited for, once there is much of it: nothing issued later can race with it.
    fn prune(&mut self) {
        if self.segments.len() < self.prune_at.max(PRUNE) {
            return;
        }
        let host: Clock = super::clock::host();
        let open = |e: &Epoch| !host.covers(e.stream, e.position);
        self.segments
            .retain(|_, segment| segment.writer.as_ref().is_some_and(open) || segment.readers.iter().any(open));
        self.prune_at = 2 * self.segments.len();
    }
}
