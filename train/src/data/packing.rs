//! Bins for samples of different lengths.

use std::collections::BTreeSet;

/// Puts every sample into a bin of at most `most` tokens, or alone where it is longer: the longest first, each into the
/// fullest bin that has room ("best fit decreasing", at most 11/9 of the fewest bins and 4 more; Johnson, 1973). Samples of
/// one length are taken in the order of `order`.
///
/// The bins one after the other, the longest sample of each first, and where each ends.
pub(super) fn pack(lengths: &[u32], order: &[u32], most: u32) -> (Vec<u32>, Vec<u32>) {
    let mut samples = order.to_vec();
    samples.sort_by_key(|&sample| std::cmp::Reverse(lengths[sample as usize]));
    // Room and number of each bin that has some left.
    let mut open: BTreeSet<(u32, u32)> = BTreeSet::new();
    let mut bins: Vec<Vec<u32>> = Vec::new();
    for sample in samples {
        let length = lengths[sample as usize];
        let (room, bin) = match open.range((length, 0)..).next().copied() {
            Some(found) => {
                open.remove(&found);
                found
            }
            None => {
                bins.push(Vec::new());
                (most.max(length), bins.len() as u32 - 1)
            }
        };
        bins[bin as usize].push(sample);
        if room > length {
            open.insert((room - length, bin));
        }
    }
    let mut end = 0;
    let ends = bins.iter().map(|bin| {
        end += bin.len() as u32;
        end
    });
    let ends = ends.collect();
    (bins.concat(), ends)
}
