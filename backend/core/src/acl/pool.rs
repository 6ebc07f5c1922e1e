//! Which memory of the pool is whose: free, handed out, or kept for captured graphs.
//!
//! A captured graph runs on the addresses that its capture saw, again and again. So what was allocated during a capture
//! is cut from memory that belongs to the graph, and what existed before and was used is pinned: neither is handed to
//! anybody else while the graph lives, also after the tensors that held it are gone.

use super::blocks::Blocks;
use std::collections::{BTreeMap, BTreeSet};

/// Small requests of a capture are cut from pieces of this many bytes, so that they can share what others gave back.
const PIECE: usize = 256 << 10;

/// Memory of one device that is kept for later requests.
#[derive(Default)]
pub(super) struct Pool {
    pub(super) blocks: Blocks,
    /// Most bytes that the pool may take from the device.
    pub(super) limit: Option<usize>,
    /// Most bytes that were in use at once.
    pub(super) peak: usize,
    graphs: BTreeMap<u64, Kept>,
    pinned: BTreeMap<u64, Pin>,
    /// The graph that is being captured.
    recording: Option<u64>,
    last_graph: u64,
}

/// What is kept for one graph.
#[derive(Default)]
struct Kept {
    /// Cut from blocks of the pool, which are in use as long as this is here.
    blocks: Blocks,
    pins: BTreeSet<u64>,
    /// The graph is gone; what its tensors still hold stays until they are.
    over: bool,
}

/// A block that graphs use and that was not allocated for them.
#[derive(Default)]
struct Pin {
    graphs: usize,
    /// Its own user gave it back meanwhile.
    given: bool,
}

impl Pool {
    /// A block of at least `bytes`; for the graph that is being captured if `recording`. `None` when no block fits.
    pub(super) fn take(&mut self, bytes: usize, recording: bool) -> Option<u64> {
        let address = match self.recording.filter(|_| recording) {
            Some(graph) => self.take_for(graph, bytes),
            None => self.blocks.take(bytes),
        };
        self.peak = self.peak.max(self.blocks.in_use());
        address
    }

    fn take_for(&mut self, graph: u64, bytes: usize) -> Option<u64> {
        let kept = self.graphs.get_mut(&graph)?;
        if let Some(address) = kept.blocks.take(bytes) {
            return Some(address);
        }
        let piece = (Blocks::is_small(bytes)).then(|| self.blocks.take(PIECE.max(bytes))).flatten();
        let address = piece.or_else(|| self.blocks.take(bytes))?;
        kept.blocks.add_segment(address, self.blocks.size_in_use(address)?, bytes);
        kept.blocks.take(bytes)
    }

    /// Gives a block back, to the graph that it belongs to or to everybody.
    pub(super) fn give(&mut self, address: u64) {
        if let Some(pin) = self.pinned.get_mut(&address) {
            pin.given = true;
            return;
        }
        let owner = self.graphs.iter_mut().find(|(_, kept)| kept.blocks.size_in_use(address).is_some());
        match owner {
            None => drop(self.blocks.give(address)),
            Some((&graph, kept)) => {
                kept.blocks.give(address);
                if kept.over {
                    self.reclaim(graph);
                }
            }
        }
    }

    /// Begins to keep memory for a graph, whose number this answers.
    pub(super) fn begin_graph(&mut self) -> u64 {
        self.last_graph += 1;
        self.graphs.insert(self.last_graph, Kept::default());
        self.recording = Some(self.last_graph);
        self.last_graph
    }

    /// The capture is over.
    pub(super) fn end_capture(&mut self) {
        self.recording = None;
    }

    /// The graph that is being captured uses the block at `address`.
    pub(super) fn pin(&mut self, address: u64) {
        let Some(kept) = self.recording.and_then(|graph| self.graphs.get_mut(&graph)) else { return };
        if kept.blocks.size_in_use(address).is_none() && kept.pins.insert(address) {
            self.pinned.entry(address).or_default().graphs += 1;
        }
    }

    /// The graph will not run again.
    pub(super) fn end_graph(&mut self, graph: u64) {
        let Some(kept) = self.graphs.get_mut(&graph) else { return };
        kept.over = true;
        for address in std::mem::take(&mut kept.pins) {
            let Some(pin) = self.pinned.get_mut(&address) else { continue };
            pin.graphs -= 1;
            if pin.graphs == 0 {
                let given = pin.given;
                self.pinned.remove(&address);
                if given {
                    self.give(address);
                }
            }
        }
        self.reclaim(graph);
    }

    /// Gives the pool what a graph that is over kept and nobody holds.
    fn reclaim(&mut self, graph: u64) {
        let Some(kept) = self.graphs.get_mut(&graph) else { return };
        for address in kept.blocks.drain_unused() {
            self.blocks.give(address);
        }
        if kept.blocks.reserved() == 0 {
            self.graphs.remove(&graph);
        }
    }

    /// Bytes that are kept for the graph.
    pub(super) fn kept_for(&self, graph: u64) -> usize {
        self.graphs.get(&graph).map_or(0, |kept| kept.blocks.reserved())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        let mut pool = Pool::default();
        pool.blocks.add_segment(0x1000_0000, 2 << 20, 1000);
        pool
    }

    #[test]
    fn memory_of_a_capture_is_nobody_elses_until_the_graph_is_gone() {
        let mut pool = pool();
        let graph = pool.begin_graph();
        let inside = pool.take(1000, true).expect("room");
        pool.give(inside);
        assert_eq!(pool.take(1000, true), Some(inside), "a capture uses again what it gave back");
        pool.give(inside);
        pool.end_capture();
        let kept = pool.kept_for(graph);
        assert!(kept >= 1024 && pool.blocks.in_use() == kept);
        let range = inside..inside + kept as u64;
        let others: Vec<_> = std::iter::from_fn(|| pool.take(1000, false)).collect();
        assert!(!others.is_empty() && others.iter().all(|at| !range.contains(at)));
        others.into_iter().for_each(|at| pool.give(at));
        pool.end_graph(graph);
        assert_eq!((pool.blocks.in_use(), pool.kept_for(graph)), (0, 0));
    }

    #[test]
    fn what_a_graph_uses_outlives_its_holder() {
        let mut pool = pool();
        let before = pool.take(1000, false).expect("room");
        let (first, second) = (pool.begin_graph(), {
            pool.pin(before);
            pool.pin(before);
            pool.end_capture();
            let second = pool.begin_graph();
            pool.pin(before);
            pool.end_capture();
            second
        });
        pool.give(before);
        assert_eq!(pool.blocks.in_use(), 1024);
        pool.end_graph(first);
        assert_eq!(pool.blocks.in_use(), 1024, "the other graph uses it still");
        pool.end_graph(second);
        assert_eq!(pool.blocks.in_use(), 0);
    }

    #[test]
    fn a_result_outlives_its_graph() {
        let mut pool = pool();
        let graph = pool.begin_graph();
        let result = pool.take(1000, true).expect("room");
        pool.end_capture();
        pool.end_graph(graph);
        assert!(pool.blocks.in_use() > 0 && pool.take(1000, false) != Some(result));
        pool.give(result);
        assert_eq!(pool.blocks.in_use(), 1024, "only what this test took itself is in use");
    }

    #[test]
    fn a_pin_on_another_graphs_memory_holds_it() {
        let mut pool = pool();
        let first = pool.begin_graph();
        let result = pool.take(1000, true).expect("room");
        pool.end_capture();
        let second = pool.begin_graph();
        pool.pin(result);
        pool.end_capture();
        pool.give(result);
        pool.end_graph(first);
        assert!(pool.blocks.in_use() > 0, "the second graph reads what the first one made");
        pool.end_graph(second);
        assert_eq!(pool.blocks.in_use(), 0);
    }
}
