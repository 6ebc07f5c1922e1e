//! Choosing experts, grouping rows by them and back, and the products of the groups.

use super::*;
use npu_cuda::plan::{Gate, Grouped};

/// Rows of logits with a few equal ones, through the kernel: experts and weights.
fn chosen(logits: &[f32], bias: Option<&[f32]>, rows: usize, gate: Gate) -> (Vec<usize>, Vec<f64>) {
    let planned = plan::route(&gate, rows).expect("so many experts");
    let walled = |values: &[f32]| Walled::<f32>::of(f64::NAN, values.iter().map(|v| f64::from(*v)));
    let (from, bias) = (walled(logits), bias.map(walled));
    let mut weights = Walled::<f32>::empty(rows * gate.chosen);
    let mut experts = vec![u32::MAX; rows * gate.chosen + 2];
    type Entry = unsafe extern "C" fn(*const f32, *const f32, *mut f32, *mut u32, Gate);
    let (a, b, c) = (from.at(), bias.as_ref().map_or(std::ptr::null(), Walled::at), weights.at_mut());
    let d = experts[1..].as_mut_ptr();
    // SAFETY: the operands are `rows` rows of what the gate says.
    launch(&planned, |entry: Entry| unsafe { entry(a, b, c, d, gate) });
    assert!(experts[0] == u32::MAX && experts[experts.len() - 1] == u32::MAX, "written outside of the result");
    let experts = experts[1..experts.len() - 1].iter().map(|&expert| expert as usize).collect();
    (experts, weights.values())
}

/// The definition, in F64, sorting by rank and then by number.
fn by_definition(logits: &[f32], bias: Option<&[f32]>, gate: Gate) -> (Vec<usize>, Vec<f64>) {
    let (mut experts, mut weights) = (Vec::new(), Vec::new());
    for row in logits.chunks(gate.experts) {
        let exponentials: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        let scores: Vec<f64> =
            exponentials.iter().map(|e| if gate.sigmoid == 1 { e / (1. + e) } else { e / sum }).collect();
        let mut ranks: Vec<f64> =
            scores.iter().enumerate().map(|(i, s)| s + bias.map_or(0., |bias| f64::from(bias[i]))).collect();
        let sorted = |ranks: &[f64]| {
            let mut order: Vec<usize> = (0..ranks.len()).collect();
            order.sort_by(|&a, &b| ranks[b].total_cmp(&ranks[a]).then(a.cmp(&b)));
            order
        };
        let size = gate.experts / gate.groups;
        let of_groups: Vec<f64> =
            ranks.chunks(size).map(|group| sorted(group).iter().take(2).map(|&i| group[i]).sum()).collect();
        for &group in &sorted(&of_groups)[gate.kept..] {
            ranks[group * size..][..size].fill(f64::NEG_INFINITY);
        }
        let best = &sorted(&ranks)[..gate.chosen];
        let total: f64 = best.iter().map(|&i| scores[i]).sum();
        let scale = f64::from(gate.factor) / if gate.renormalise == 1 { total } else { 1. };
        experts.extend(best);
        weights.extend(best.iter().map(|&i| scores[i] * scale));
    }
    (experts, weights)
}

#[test]
fn experts_are_chosen_by_the_definition() {
    let mut rng = StdRng::seed_from_u64(6);
    let softmax = Gate { experts: 8, chosen: 2, groups: 1, kept: 1, sigmoid: 0, renormalise: 1, factor: 1. };
    let sigmoid = Gate { experts: 256, chosen: 8, groups: 8, kept: 4, sigmoid: 1, renormalise: 1, factor: 2.5 };
    for (gate, biased) in [
        (softmax, false),
        (Gate { renormalise: 0, experts: 60, chosen: 60, ..softmax }, false),
        (Gate { experts: 1000, chosen: 5, ..softmax }, false),
        (sigmoid, true),
        (Gate { experts: 12, chosen: 3, groups: 4, kept: 1, ..sigmoid }, true),
        (Gate { experts: 7, chosen: 3, groups: 7, kept: 5, renormalise: 0, ..sigmoid }, false),
    ] {
        let rows = 5;
        let mut logits: Vec<f32> = (0..rows * gate.experts).map(|_| rng.random_range(-3.0..3.0)).collect();
        // Equals: the one that stands first is taken.
        logits[3] = logits[1];
        let bias: Vec<f32> = (0..gate.experts).map(|_| rng.random_range(-0.5..0.5)).collect();
        let bias = biased.then_some(bias.as_slice());
        let (experts, weights) = chosen(&logits, bias, rows, gate);
        let (wanted, of_wanted) = by_definition(&logits, bias, gate);
        assert_eq!(experts, wanted, "{gate:?}");
        for (got, wanted) in weights.iter().zip(&of_wanted) {
            assert!((got - wanted).abs() <= 4e-6 * wanted.abs().max(0.1), "{gate:?}: {got}, wanted {wanted}");
        }
    }
    assert!(plan::route(&Gate { experts: 1025, ..softmax }, 1).is_none());
}

#[test]
fn logits_that_are_no_numbers_choose_experts_all_the_same() {
    let gate = Gate { experts: 9, chosen: 4, groups: 3, kept: 2, sigmoid: 1, renormalise: 1, factor: 1. };
    let mut logits = vec![f32::NAN; 18];
    logits[9 + 4] = 1.;
    let (experts, weights) = chosen(&logits, None, 2, gate);
    assert!(weights.iter().all(|weight| weight.is_nan()), "no numbers: {weights:?}");
    for row in experts.chunks(4) {
        let distinct: std::collections::BTreeSet<_> = row.iter().collect();
        assert!(distinct.len() == 4 && row.iter().all(|&expert| expert < 9), "{row:?}");
    }
    assert_eq!(experts[4], 4, "what is no number comes last");
    // One spoils its row, whether it was chosen or not, and no other row.
    let mut logits = vec![0.5; 18];
    logits[9 + 8] = f32::NAN;
    for gate in [gate, Gate { sigmoid: 0, groups: 1, kept: 1, renormalise: 0, ..gate }] {
        let (_, weights) = chosen(&logits, None, 2, gate);
        assert!(weights[..4].iter().all(|weight| weight.is_finite()), "{gate:?}: {weights:?}");
        assert!(weights[4..].iter().all(|weight| weight.is_nan()), "{gate:?}: {weights:?}");
    }
}

/// Copies of rows by expert, with one expert that has none and one that has most.
fn list(rng: &mut StdRng, count: usize, experts: u32) -> Vec<u32> {
    (0..count)
        .map(|_| if rng.random_bool(0.5) { 2 } else { rng.random_range(0..experts) })
        .map(|e| e + u32::from(e == 1))
        .collect()
}

/// Grouping `tokens` rows and their way back; `strange` of the copies name no expert.
fn permute<T: Real>(tokens: usize, copies: usize, width: usize, strange: usize) {
    let (mut rng, experts) = (StdRng::seed_from_u64(7), 6);
    let all = tokens * copies;
    let mut list = list(&mut rng, all, experts);
    // What names no expert goes behind all others, in its order.
    for (i, strange) in [u32::MAX, experts, experts + 1].into_iter().enumerate().take(strange) {
        list[all / 4 * (i + 1)] = strange;
    }
    let expert_of = |copy: usize| list[copy].min(experts);
    let (mut places, mut ends) = (vec![u32::MAX; all + 1], vec![-1i64; experts as usize + 1]);
    let (a, b, c) = (list.as_ptr(), places.as_mut_ptr(), ends.as_mut_ptr());
    type Group = unsafe extern "C" fn(*const u32, *mut u32, *mut i64, usize, usize);
    // SAFETY: the list has as many places, and there is an end an expert.
    launch(&plan::group(experts as usize), |entry: Group| unsafe { entry(a, b, c, all, experts as usize) });
    let mut order: Vec<usize> = (0..all).collect();
    order.sort_by_key(|&copy| expert_of(copy));
    assert!(order.iter().enumerate().all(|(place, &copy)| places[copy] as usize == place), "stable: {places:?}");
    let until = |expert: u32| list.iter().filter(|&&other| other <= expert).count() as i64;
    assert_eq!(ends, (0..experts).map(until).chain([-1]).collect::<Vec<_>>());
    assert_eq!(places[all], u32::MAX, "written outside of the result");

    let x = Walled::<T>::random(&mut rng, tokens * width);
    let mut rows = Walled::<T>::empty(all * width);
    let (from, to, count) = (x.at(), rows.at_mut(), all * width);
    type Permute<T> = unsafe extern "C" fn(*const T, *const u32, *mut T, usize, usize, usize);
    // SAFETY: a row of `x` for each token, one of the result for each copy.
    launch(&plan::by_element("permute", T::SUFFIX, count), |entry: Permute<T>| unsafe {
        entry(from, b, to, count, width, copies)
    });
    let values = x.values();
    let of_rows = |copy: &usize| values[copy / copies * width..][..width].to_vec();
    rows.is("permute", &order.iter().flat_map(of_rows).collect::<Vec<_>>());

    places.pop();
    unpermute::<T>(&places, copies, width, false);
    unpermute::<T>(&places, copies, width, true);
}

/// The sums of the random rows at `places`; with a row for each token that is added to them, or without.
fn unpermute<T: Real>(places: &[u32], copies: usize, width: usize, common: bool) {
    let (mut rng, all, count) = (StdRng::seed_from_u64(9), places.len(), places.len() / copies * width);
    let (weights, y) = (Walled::<f32>::random(&mut rng, all), Walled::<T>::random(&mut rng, all * width));
    let shared = common.then(|| Walled::<T>::random(&mut rng, count));
    let mut sums = Walled::<T>::empty(count);
    let (from, factors, to) = (y.at(), weights.at(), sums.at_mut());
    let (at, added) = (places.as_ptr(), shared.as_ref().map_or(std::ptr::null(), Walled::at));
    type Unpermute<T> = unsafe extern "C" fn(*const T, *const u32, *const f32, *const T, *mut T, usize, usize, usize);
    // SAFETY: a row of `y` and a weight for each place, a row of the others for each token.
    launch(&plan::by_element("unpermute", T::SUFFIX, count), |entry: Unpermute<T>| unsafe {
        entry(from, at, factors, added, to, count, width, copies)
    });
    let (y, weights, shared) = (y.values(), weights.values(), shared.map(|shared| shared.values()));
    let element = |copy: usize, column: usize| match places[copy] as usize {
        place if place < all => y[place * width + column],
        _ => f64::NAN,
    };
    let sum = |i: usize| -> f64 {
        let of_token = (i / width * copies)..(i / width + 1) * copies;
        let routed: f64 = of_token.map(|copy| weights[copy] * element(copy, i % width)).sum();
        routed + shared.as_ref().map_or(0., |shared| shared[i])
    };
    sums.is(&format!("unpermute, common rows: {common}"), &(0..count).map(sum).collect::<Vec<_>>());
}

#[test]
fn rows_go_to_their_experts_and_come_back() {
    // Fewer copies than a block has threads, and more.
    for_each_type!(permute(3, 2, 5, 0));
    for_each_type!(permute(211, 4, 33, 0));
}

#[test]
fn what_names_no_expert_and_no_row_is_kept_apart() {
    for_each_type!(permute(9, 3, 5, 1));
    for_each_type!(permute(101, 4, 7, 3));
    // The second and the last token have a place beyond their rows: their sums are no numbers, nothing is read there.
    for_each_type!(unpermute(&[3, 0, 6, 1, 4, u32::MAX], 2, 37, false));
    for_each_type!(unpermute(&[3, 0, 6, 1, 4, u32::MAX], 2, 37, true));
}

/// Rows of each expert, and behind them rows of none; `past` is added to the last end, so that it lies beyond the rows.
fn grouped<T: Real>(counts: &[usize], nobodys: usize, past: i64, inner: usize, outputs: usize) {
    let mut rng = StdRng::seed_from_u64(8);
    let (rows, experts) = (counts.iter().sum::<usize>() + nobodys, counts.len());
    let x = Walled::<T>::random(&mut rng, rows * inner);
    let weight = Walled::<T>::random(&mut rng, experts * outputs * inner);
    let mut y = Walled::<T>::empty(rows * outputs);
    let mut ends: Vec<i64> = (1..=experts).map(|count| counts[..count].iter().sum::<usize>() as i64).collect();
    ends[experts - 1] += past;
    let size = Grouped { rows, inner, outputs, experts };
    let planned = plan::grouped_linear(&size, T::SUFFIX).expect("so many outputs");
    let (a, b, c, to) = (x.at(), weight.at(), ends.as_ptr(), y.at_mut());
    type Entry<T> = unsafe extern "C" fn(*const T, *const T, *const i64, *mut T, Grouped);
    // SAFETY: `size` describes the four.
    launch(&planned, |entry: Entry<T>| unsafe { entry(a, b, c, to, size) });
    let (x, weight) = (x.values(), weight.values());
    let counts: Vec<usize> = counts.iter().copied().chain([nobodys]).collect();
    let expert_of = counts.iter().enumerate().flat_map(|(expert, count)| std::iter::repeat_n(expert, *count));
    let row = |(row, expert): (usize, usize)| {
        if expert == experts {
            return vec![f64::NAN; outputs];
        }
        let (x, weight) = (&x[row * inner..][..inner], &weight[expert * outputs * inner..][..outputs * inner]);
        weight.chunks(inner).map(|column| column.iter().zip(x).map(|(a, b)| a * b).sum()).collect::<Vec<f64>>()
    };
    // Products of numbers below 2 add up like a random walk.
    let (size, case) = ((inner as f64).sqrt(), format!("{counts:?} rows of {inner} to {outputs}"));
    y.is_of_size(size, &case, &expert_of.enumerate().flat_map(row).collect::<Vec<_>>());
}

#[test]
fn groups_of_rows_are_multiplied_with_their_experts_matrices() {
    // Experts without rows at every place, one row, parts of tiles and several; widths that no tile divides. Few rows an expert, and
    // many.
    for_each_type!(grouped(&[0, 1, 0, 40, 16, 0], 0, 0, 64, 64));
    for_each_type!(grouped(&[3, 17, 0], 0, 0, 37, 70));
    for_each_type!(grouped(&[0, 0, 5], 0, 0, 1, 1));
    for_each_type!(grouped(&[0, 64, 1, 0, 66], 0, 0, 64, 64));
    for_each_type!(grouped(&[130, 3], 0, 0, 37, 70));
    // Every expert has a tile that is filled in part: the grid has no block more.
    for_each_type!(grouped(&[1, 5, 1, 1], 0, 0, 5, 3));
    for_each_type!(grouped(&[65, 1], 1, 0, 5, 3));
    // A last end beyond the rows; rows that no expert has, some, a tile and one, and all.
    for_each_type!(grouped(&[2, 5], 0, 1000, 33, 3));
    for_each_type!(grouped(&[2, 50], 0, 1000, 33, 3));
    for_each_type!(grouped(&[2, 5], 3, 0, 33, 65));
    for_each_type!(grouped(&[4], 5, 0, 33, 3));
    for_each_type!(grouped(&[16], 65, 0, 33, 3));
    for_each_type!(grouped(&[0, 0], 5, 0, 33, 3));
}

#[test]
fn the_grid_of_a_grouped_product_has_a_block_for_each_tile_there_can_be() {
    let plan = |rows, outputs, experts| plan::grouped_linear(&Grouped { rows, inner: 1, outputs, experts }, "f32");
    let grid = |rows, outputs, experts| {
        let planned = plan(rows, outputs, experts).expect("a grid");
        (planned.entry, planned.grid)
    };
    // One token of eight experts: no blocks for the 248 others.
    assert_eq!(grid(8, 4096, 256), ("grouped_few_f32".into(), [8, 128, 1]));
    assert_eq!(grid(1 << 30, 1, 1), ("grouped_many_f32".into(), [(1 << 24) + 1, 1, 1]));
    assert!(plan(16, 64 * 65535 + 1, 1).is_none());
    // Every way to share out the rows: how many tiles they are, of the height that the plan has.
    for (experts, rows) in [(1, 1), (2, 7), (3, 13), (2, 40), (1, 130)] {
        let (entry, [tiles, ..]) = grid(rows, 1, experts);
        let height = if entry == "grouped_few_f32" { 4 } else { 64 };
        let mut most = 0;
        let mut counts = vec![0; experts + 1];
        fn share(left: usize, counts: &mut [usize], at: usize, each: &mut impl FnMut(&[usize])) {
            if at + 1 == counts.len() {
                counts[at] = left;
                return each(counts);
            }
            for count in 0..=left {
                counts[at] = count;
                share(left - count, counts, at + 1, each);
            }
        }
        share(rows, &mut counts, 0, &mut |counts| {
            most = most.max(counts.iter().map(|count| count.div_ceil(height)).sum::<usize>())
        });
        assert_eq!(tiles as usize, most, "{rows} rows of {experts} experts");
    }
}
