//! Numbers that follow from others: of a seed, a step, a name.

/// `value` with its bits mixed, so that neighbours have nothing in common: the finaliser of SplitMix64 (Steele, Lea and Flood,
/// OOPSLA 2014).
pub fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number for each name.
pub fn hash(name: &str) -> u64 {
    name.bytes().fold(0, |state, byte| mix(state ^ u64::from(byte)))
}
