//! permute by a stable sort.

/// For `chosen` `[tokens * k]` which choice each row is, and what permute answers: which row each choice is, and where the
/// rows of each expert end. Row `i` is row `order[i] / k` of x.
pub fn permute(chosen: &[u32], experts: usize) -> (Vec<u32>, Vec<u32>, Vec<i64>) {
    let mut order: Vec<u32> = (0..chosen.len() as u32).collect();
    order.sort_by_key(|&choice| chosen[choice as usize]);
    let mut places = vec![0; chosen.len()];
    for (row, &choice) in order.iter().enumerate() {
        places[choice as usize] = row as u32;
    }
    let until = |expert: usize| chosen.iter().filter(|&&chosen| chosen as usize <= expert).count() as i64;
    (order, places, (0..experts).map(until).collect())
}
