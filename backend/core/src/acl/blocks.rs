//! The bookkeeping of the memory pool: segments that came from the device, cut into blocks and merged again.
//!
//! Pure arithmetic on addresses, so that its rules are tested without a device. Small requests are cut from small
//! segments and never fragment the large ones. A block that is freed can be handed out at once: all users of a pool
//! work in one stream's order.

use std::collections::{BTreeMap, BTreeSet};

/// Addresses and sizes are multiples of this: the alignment that the fastest copies of the device want.
const GRAIN: usize = 512;
/// Requests up to this size share small segments.
const SMALL: usize = 1 << 20;
const SMALL_SEGMENT: usize = 2 << 20;
/// Smallest segment for larger requests; beyond it a segment is as large as the request.
const LARGE_SEGMENT: usize = 20 << 20;
/// Segments are multiples of the device's huge page.
const PAGE: usize = 2 << 20;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    /// Cut from segments that only small requests share.
    Small,
    Large,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    size: usize,
    segment: u64,
    free: bool,
}

/// How large a segment to ask the device for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// With room for later requests of the same class.
    Usual,
    /// Whole huge pages for a large request; small ones still share a segment.
    Pages,
    /// The request and nothing more, when the device is nearly full.
    Exact,
}

/// Blocks of one pool.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    segments: BTreeMap<u64, (usize, Class)>,
    blocks: BTreeMap<u64, Block>,
    /// Free blocks by class and size, so that the smallest that fits is found first.
    free: BTreeSet<(Class, usize, u64)>,
    reserved: usize,
    in_use: usize,
}

impl Blocks {
    /// Size of the block that a request of `bytes` gets at least.
    pub(super) fn rounded(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(GRAIN)
    }

    /// Size of the segment to ask the device for when no block fits.
    pub(super) fn segment_size(bytes: usize, room: Room) -> usize {
        let bytes = Self::rounded(bytes);
        match (room, Self::class(bytes)) {
            (Room::Exact, _) => bytes,
            (_, Class::Small) => SMALL_SEGMENT,
            (Room::Usual, Class::Large) if bytes < LARGE_SEGMENT / 2 => LARGE_SEGMENT,
            (_, Class::Large) => bytes.next_multiple_of(PAGE),
        }
    }

    /// Whether a request of `bytes` shares segments with other small ones.
    pub(super) fn is_small(bytes: usize) -> bool {
        Self::class(Self::rounded(bytes)) == Class::Small
    }

    /// Size of the block in use that begins at `address`; `None` when there is none.
    pub(super) fn size_in_use(&self, address: u64) -> Option<usize> {
        self.blocks.get(&address).filter(|block| !block.free).map(|block| block.size)
    }

    fn class(bytes: usize) -> Class {
        if bytes <= SMALL { Class::Small } else { Class::Large }
    }

    /// Adds memory that came from the device.
    pub(super) fn add_segment(&mut self, address: u64, size: usize, bytes: usize) {
        let class = Self::class(Self::rounded(bytes));
        self.segments.insert(address, (size, class));
        self.blocks.insert(address, Block { size, segment: address, free: true });
        self.free.insert((class, size, address));
        self.reserved += size;
    }

    /// Takes the smallest free block that holds `bytes` and cuts off what is left over.
    pub(super) fn take(&mut self, bytes: usize) -> Option<u64> {
        let wanted = Self::rounded(bytes);
        let class = Self::class(wanted);
        let (_, size, address) = *self.free.range((class, wanted, 0)..).next().filter(|(found, ..)| *found == class)?;
        self.free.remove(&(class, size, address));
        let block = self.blocks.get_mut(&address)?;
        block.free = false;
        let rest = size - wanted;
        // A large block keeps a small rest: it would only ever serve as the tail of this one.
        let cut = if class == Class::Small { rest >= GRAIN } else { rest > SMALL };
        if cut {
            block.size = wanted;
            let tail = Block { size: rest, segment: block.segment, free: true };
            self.blocks.insert(address + wanted as u64, tail);
            self.free.insert((class, rest, address + wanted as u64));
        }
        self.in_use += if cut { wanted } else { size };
        Some(address)
    }

    /// Gives a block back and merges it with free neighbours of its segment. False when there is no such block in use.
    pub(super) fn give(&mut self, address: u64) -> bool {
        let Some(block) = self.blocks.get(&address).copied().filter(|block| !block.free) else { return false };
        let class = self.segments.get(&block.segment).map_or(Class::Small, |(_, class)| *class);
        self.in_use -= block.size;
        let (mut start, mut size) = (address, block.size);
        let next = self.blocks.get(&(address + block.size as u64)).copied();
        if let Some(next) = next.filter(|next| next.free && next.segment == block.segment) {
            let at = address + block.size as u64;
            self.blocks.remove(&at);
            self.free.remove(&(class, next.size, at));
            size += next.size;
        }
        let before = self.blocks.range(..address).next_back().map(|(&at, &before)| (at, before));
        if let Some((at, before)) = before.filter(|(_, before)| before.free && before.segment == block.segment) {
            self.blocks.remove(&address);
            self.free.remove(&(class, before.size, at));
            start = at;
            size += before.size;
        }
        self.blocks.insert(start, Block { size, segment: block.segment, free: true });
        self.free.insert((class, size, start));
        true
    }

    /// Forgets the segments of which nothing is in use, for the caller to give back to the device.
    pub(super) fn drain_unused(&mut self) -> Vec<u64> {
        let unused: Vec<_> = self
            .segments
            .iter()
            .filter(|(address, (size, _))| {
                self.blocks.get(address).is_some_and(|block| block.free && block.size == *size)
            })
            .map(|(&address, &(size, class))| (address, size, class))
            .collect();
        for &(address, size, class) in &unused {
            self.segments.remove(&address);
            self.blocks.remove(&address);
            self.free.remove(&(class, size, address));
            self.reserved -= size;
        }
        unused.into_iter().map(|(address, ..)| address).collect()
    }

    /// Bytes that came from the device.
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Bytes of the blocks that are handed out.
    pub(super) fn in_use(&self) -> usize {
        self.in_use
    }

    pub(super) fn largest_free(&self) -> usize {
        self.free.iter().map(|&(_, size, _)| size).max().unwrap_or(0)
    }

    /// Sizes of the blocks in use, largest first.
    pub(super) fn sizes_in_use(&self) -> Vec<usize> {
        let mut sizes: Vec<_> = self.blocks.values().filter(|block| !block.free).map(|block| block.size).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(bytes: usize) -> Blocks {
        let mut blocks = Blocks::default();
        blocks.add_segment(0x1000_0000, Blocks::segment_size(bytes, Room::Usual), bytes);
        blocks
    }

    #[test]
    fn neighbours_merge_in_every_order() {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut blocks = grown(1000);
            let taken: Vec<_> = (0..3).map(|_| blocks.take(1000).expect("room")).collect();
            assert_eq!(blocks.in_use(), 3 * 1024);
            order.iter().for_each(|&i| assert!(blocks.give(taken[i])));
            assert_eq!((blocks.in_use(), blocks.largest_free()), (0, SMALL_SEGMENT), "order {order:?}");
            assert_eq!(blocks.drain_unused().len(), 1);
            assert_eq!(blocks.reserved(), 0);
        }
    }

    #[test]
    fn small_requests_stay_out_of_large_segments() {
        let mut blocks = grown(8 << 20);
        assert_eq!(blocks.take(100), None);
        assert!(blocks.take(8 << 20).is_some());
        assert!(blocks.take(8 << 20).is_some(), "a 20 MiB segment serves two requests of 8 MiB");
        assert!(blocks.drain_unused().is_empty());
    }

    #[test]
    fn segments_do_not_merge_with_each_other() {
        let mut blocks = grown(64 << 20);
        blocks.add_segment(0x1000_0000 + (64 << 20), 64 << 20, 64 << 20);
        let (a, b) = (blocks.take(64 << 20).expect("room"), blocks.take(64 << 20).expect("room"));
        assert!(blocks.give(a) && blocks.give(b) && !blocks.give(a), "a block is given back once");
        assert_eq!(blocks.largest_free(), 64 << 20);
        assert_eq!(blocks.drain_unused().len(), 2);
    }

    #[test]
    fn an_exact_segment_holds_its_request_and_nothing_more() {
        for bytes in [1, 40 << 10, (1 << 20) + 1, 30 << 20] {
            let size = Blocks::segment_size(bytes, Room::Exact);
            assert!(size >= bytes && size < bytes + GRAIN, "{bytes} bytes in a segment of {size}");
            let mut blocks = Blocks::default();
            blocks.add_segment(0x1000_0000, size, bytes);
            let address = blocks.take(bytes).expect("the segment was made for it");
            assert_eq!((blocks.in_use(), blocks.largest_free()), (size, 0));
            assert!(blocks.give(address));
            assert_eq!(blocks.drain_unused(), [address]);
        }
    }

    /// Random takes and gives never overlap and always return to one free block.
    #[test]
    fn no_two_blocks_overlap() {
        let mut blocks = grown(1000);
        let mut live: Vec<(u64, usize)> = Vec::new();
        let mut state = 12345u64;
        for _ in 0..5000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let size = (state >> 40) as usize % 30_000 + 1;
            match blocks.take(size).filter(|_| state & 0x10000 != 0) {
                Some(address) => {
                    assert!(
                        live.iter().all(|&(at, n)| address + size as u64 <= at || at + n as u64 <= address),
                        "overlap"
                    );
                    live.push((address, size));
                }
                None if !live.is_empty() => {
                    let (address, _) = live.swap_remove(state as usize % live.len());
                    assert!(blocks.give(address));
                }
                None => {}
            }
            // `take` above may have handed out a block that the filter dropped.
            let known: BTreeSet<_> = live.iter().map(|&(at, _)| at).collect();
            let lost: Vec<_> =
                blocks.blocks.iter().filter(|(at, b)| !b.free && !known.contains(at)).map(|(&at, _)| at).collect();
            lost.into_iter().for_each(|at| assert!(blocks.give(at)));
        }
        live.iter().for_each(|&(at, _)| assert!(blocks.give(at)));
        assert_eq!(blocks.largest_free(), SMALL_SEGMENT);
    }
}
