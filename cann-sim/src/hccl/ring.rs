//! The ring: each rank sends to the next and receives from the one before, part by part.
//!
//! A reduction of `B` bytes over `N` ranks sends `(N−1)/N·B` bytes from each rank, and gathering its parts as many
//! again: the least that is possible. Part `p` is reduced in the order of ranks `p+1, p+2, …, p`, in every run.

use super::reduce::reduce;
use super::round::{Outcome, Round};
use super::types::Reduction;
use crate::dtype::DType;
use std::ops::Range;

/// Bytes of each rank's part of `count` elements of `size` bytes: equal, but for the first few, which take the rest.
pub fn parts(count: u64, size: u64, ranks: usize) -> Vec<Range<usize>> {
    let (each, rest) = (count / ranks as u64, count % ranks as u64);
    let start = |rank: u64| ((each * rank + rank.min(rest)) * size) as usize;
    (0..ranks as u64).map(|rank| start(rank)..start(rank + 1)).collect()
}

/// Afterwards part `r` of rank `r`'s data is the reduction of all; the others hold intermediate results.
pub fn reduce_scatter(
    round: &Round,
    data: &mut [u8],
    parts: &[Range<usize>],
    (dtype, reduction): (DType, Reduction),
) -> Outcome<()> {
    let (rank, ranks) = (round.rank(), round.size());
    let (next, before) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    for step in 1..ranks {
        let leaving = &parts[(rank + ranks - step) % ranks];
        let arriving = &parts[(rank + 2 * ranks - step - 1) % ranks];
        round.send(next, &data[leaving.clone()])?;
        let incoming = round.receive(before, arriving.len())?;
        reduce(&mut data[arriving.clone()], &incoming, dtype, reduction);
    }
    Ok(())
}

/// Gives every rank part `r` of rank `r`.
pub fn all_gather(round: &Round, data: &mut [u8], parts: &[Range<usize>]) -> Outcome<()> {
    let (rank, ranks) = (round.rank(), round.size());
    let (next, before) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    for step in 0..ranks - 1 {
        let leaving = &parts[(rank + ranks - step) % ranks];
        let arriving = &parts[(rank + 2 * ranks - step - 1) % ranks];
        round.send(next, &data[leaving.clone()])?;
        let incoming = round.receive(before, arriving.len())?;
        data[arriving.clone()].copy_from_slice(&incoming);
    }
    Ok(())
}

/// Passes rank `root`'s data along the ring to every other rank.
pub fn broadcast(round: &Round, data: &mut [u8], root: usize) -> Outcome<()> {
    let (rank, ranks) = (round.rank(), round.size());
    let (next, before) = ((rank + 1) % ranks, (rank + ranks - 1) % ranks);
    if rank != root {
        data.copy_from_slice(&round.receive(before, data.len())?);
    }
    if next != root {
        round.send(next, data)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (count, ranks) in [(0, 3), (2, 3), (7, 3), (8, 4), (5, 1)] {
            let parts = parts(count, 4, ranks);
            assert_eq!(parts.len(), ranks);
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!((parts[0].start, parts[ranks - 1].end), (0, 4 * count as usize));
            let lengths: Vec<_> = parts.iter().map(|part| part.len()).collect();
            assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 4, "{lengths:?}");
        }
    }
}
