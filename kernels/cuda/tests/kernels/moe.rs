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
    launch(&plan::group(experts as usize, all), |entry: Group| unsafe { entry(a, b, c, all, experts as usize) });
    let mut order: Vec<usize> = (0..all).collect();
    order.sort_by_key(|&copy| expert_of(copy));
    assert!(order.iter().enumerate().all(|(place, &copy)| places[copy] as usize == place), "stable: {places:?}");
    let until = |expert: u32| list.iter().filter(|&&other| other <= expert).count() as i64;
    assert_eq!(ends, (0..experts).map(until).chain([-1]).collect::<Vec<_>>());
    assert_eq!(places[all], u32::MAX, "written outside of the result");

    let x = Walled::<T>::random(&mut rng, tokens * width);
    let mut rows = Walled::<T>::empty(all * width);
    let (from, to) = (x.at(), rows.at_mut());
    type Permute<T> = unsafe extern "C" fn(*const T, *const u32, *mut T, usize, usize);
    // SAFETY: a row of `x` for each token, one of the result for each copy.
    launch(&plan::by_row("permute", T::SUFFIX, all), |entry: Permute<T>| unsafe { entry(from, b, to, width, copies) });
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
    launch(&plan::by_row("unpermute", T::SUFFIX, all / copies), |entry: Unpermute<T>| unsafe {
        entry(from, at, factors, added, to, all, width, copies)
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
    // Fewer copies than a block has threads, more, and so many that blocks have more; rows of whole vectors, and others.
    for_each_type!(permute(3, 2, 5, 0));
    for_each_type!(permute(211, 4, 33, 0));
    for_each_type!(permute(70, 3, 40, 0));
    for_each_type!(permute(1033, 4, 8, 3));
}

#[test]
fn what_names_no_expert_and_no_row_is_kept_apart() {
    for_each_type!(permute(9, 3, 5, 1));
    for_each_type!(permute(101, 4, 7, 3));
    // The second and the last token have a place beyond their rows: their sums are no numbers, nothing is read there.
    for_each_type!(unpermute(&[3, 0, 6, 1, 4, u32::MAX], 2, 37, false));
    for_each_type!(unpermute(&[3, 0, 6, 1, 4, u32::MAX], 2, 37, true));
    for_each_type!(unpermute(&[3, 0, 6, 1, 4, u32::MAX], 2, 48, false));
    for_each_type!(unpermute(&[3, 0, 6, 1, 4, u32::MAX], 2, 48, true));
}

/// Rows of each expert, and behind them rows of none; `past` is added to the last end, so that it lies beyond the rows.
fn grouped<T: Real>(counts: &[usize], nobodys: usize, past: i64, inner: usize, outputs: usize) {
    let mut ends: Vec<i64> = (1..=counts.len()).map(|count| counts[..count].iter().sum::<usize>() as i64).collect();
    ends[counts.len() - 1] += past;
    products::<T>(counts, nobodys, &ends, inner, outputs, [0, 0]);
}

/// The operand where what lies behind it cannot be read: a tile's rows are products of their own, so that numbers from beyond would not
/// show.
fn before_a_wall<T: Real>(operand: &Walled<T>) -> *const T {
    let elements = &operand.0[WALL..operand.0.len() - WALL];
    let host = host();
    // SAFETY: the function is host.cpp's, with its type; what it gives has room for the elements, and nobody else has it.
    unsafe {
        let memory = host.get::<unsafe extern "C" fn(usize) -> *mut T>(b"before_a_wall").expect("host.cpp has it");
        let to = memory(std::mem::size_of_val(elements));
        to.copy_from_nonoverlapping(elements.as_ptr(), elements.len());
        to
    }
}

/// The products of so many rows of each expert, and of none, where the kernel is told these `ends`. The operands begin so many elements
/// behind where whole vectors would.
fn products<T: Real>(
    counts: &[usize],
    nobodys: usize,
    ends: &[i64],
    inner: usize,
    outputs: usize,
    [of_x, of_weight]: [usize; 2],
) {
    let mut rng = StdRng::seed_from_u64(8);
    let (rows, experts) = (counts.iter().sum::<usize>() + nobodys, counts.len());
    let x = Walled::<T>::random(&mut rng, of_x + rows * inner);
    let weight = Walled::<T>::random(&mut rng, of_weight + experts * outputs * inner);
    let mut y = Walled::<T>::empty(rows * outputs);
    let size = Grouped { rows, inner, outputs, experts };
    let planned = plan::grouped_linear(&size, T::SUFFIX).expect("so many tiles");
    let (a, b) = (before_a_wall(&x), before_a_wall(&weight));
    let (c, to) = (ends.as_ptr(), y.at_mut());
    type Entry<T> = unsafe extern "C" fn(*const T, *const T, *const i64, *mut T, Grouped);
    // SAFETY: `size` describes the four, from the shifts on.
    launch(&planned, |entry: Entry<T>| unsafe { entry(a.add(of_x), b.add(of_weight), c, to, size) });
    let (x, weight) = (&x.values()[of_x..], &weight.values()[of_weight..]);
    let case = format!("{counts:?} rows of {inner} to {outputs} by {}", planned.entry);
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
    y.is_of_size((inner as f64).sqrt(), &case, &expert_of.enumerate().flat_map(row).collect::<Vec<_>>());
}

#[test]
fn groups_of_rows_are_multiplied_with_their_experts_matrices() {
    // Experts without rows at every place, one row, parts of tiles and several; widths that no tile divides. Few rows an expert, and
    // many.
    for_each_type!(grouped(&[0, 1, 0, 40, 16, 0], 0, 0, 64, 64));
    for_each_type!(grouped(&[0, 1, 0, 30, 6, 0], 0, 0, 520, 40));
    for_each_type!(grouped(&[3, 17, 0], 0, 0, 37, 70));
    for_each_type!(grouped(&[0, 0, 5], 0, 0, 1, 1));
    for_each_type!(grouped(&[0, 64, 1, 0, 66], 0, 0, 64, 64));
    for_each_type!(grouped(&[50, 3], 0, 0, 37, 70));
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
fn tall_tiles_are_multiplied() {
    // Whole tiles of 128 rows and rests of one, two, three and four times 32; steps of the inner width that are more than are on their way, and
    // a rest of one chunk; several columns of tiles, the last of them narrow, with an odd output.
    for_each_type!(grouped(&[0, 257, 40, 218, 0, 97], 0, 0, 72, 131));
    for_each_type!(grouped(&[128, 70], 0, 0, 264, 64));
    // Rows of a width that is not of whole vectors; rows that nobody has.
    for_each_type!(grouped(&[3, 200], 130, 0, 67, 70));
}

#[test]
fn operands_may_begin_anywhere() {
    for (counts, inner) in [(&[4, 0, 7][..], 40), (&[30, 0, 9], 40), (&[110], 40)] {
        let ends: Vec<i64> =
            counts.iter().scan(0, |end, count| Some(std::mem::replace(end, *end + count) + count)).collect();
        let counts: Vec<usize> = counts.iter().map(|count| *count as usize).collect();
        for_each_type!(products(&counts, 0, &ends, inner, 20, [1, 0]));
        for_each_type!(products(&counts, 0, &ends, inner, 20, [0, 3]));
        for_each_type!(products(&counts, 0, &ends, inner, 20, [0, 8]));
    }
}

#[test]
fn each_of_many_experts_has_its_tiles() {
    let mut rng = StdRng::seed_from_u64(10);
    for most in [3, 30] {
        let counts: Vec<usize> =
            (0..40).map(|_| if rng.random_bool(0.3) { 0 } else { rng.random_range(1..=most) }).collect();
        for_each_type!(grouped(&counts, 9, 0, 8, 5));
    }
}

#[test]
fn ends_that_do_not_rise_are_no_rows() {
    // Below the one before, below zero, and beyond the rows; also where they are looked at in another turn.
    let told = [5, 3, -4, 20, 9];
    for_each_type!(products(&[5, 0, 0, 7, 0], 0, &told, 24, 5, [0, 0]));
    let scale = |ends: &[i64]| ends.iter().map(|end| end * 10).collect::<Vec<_>>();
    for_each_type!(products(&[50, 0, 0, 70, 0], 0, &scale(&told), 24, 5, [0, 0]));
    let (mut late, mut counts) = (vec![6; 40], vec![0; 40]);
    (late[33], late[35], late[36]) = (2, 9, i64::MIN);
    (counts[0], counts[35]) = (6, 3);
    for_each_type!(products(&counts, 4, &late, 24, 5, [0, 0]));
}

#[test]
fn the_grid_of_a_grouped_product_has_a_block_for_each_tile_there_can_be() {
    let plan = |rows, outputs, experts| plan::grouped_linear(&Grouped { rows, inner: 1, outputs, experts }, "f32");
    let grid = |rows, outputs, experts| {
        let planned = plan(rows, outputs, experts).expect("a grid");
        (planned.entry, planned.grid)
    };
    // One token of eight experts: no blocks for the 248 others.
    assert_eq!(grid(8, 4096, 256), ("grouped_few_f32".into(), [8 * 128, 1, 1]));
    // 4096 tokens of eight experts each, where an expert has 256 rows.
    assert_eq!(grid(32768, 1536, 128), ("grouped_many_128_f32".into(), [(129 + (32768 - 129) / 128) * 12, 1, 1]));
    assert_eq!(grid(1 << 30, 1, 1), ("grouped_many_128_f32".into(), [(1 << 23) + 1, 1, 1]));
    assert!(plan(1 << 30, 1 << 20, 1).is_none());
    // Tensor cores pay sooner.
    let of = |rows, suffix| plan::grouped_linear(&Grouped { rows, inner: 1, outputs: 1, experts: 2 }, suffix);
    let entry = |rows, suffix| of(rows, suffix).expect("a grid").entry;
    assert_eq!(
        [15, 16, 191, 192].map(|rows| entry(rows, "bf16")),
        ["few", "many_64", "many_64", "many_128"].map(|name| format!("grouped_{name}_bf16"))
    );
    assert_eq!([31, 32].map(|rows| entry(rows, "f32")), ["grouped_few_f32", "grouped_many_64_f32"]);
    // Every way to share out the rows: how many tiles they are, of the height that the plan has.
    for (experts, rows) in [(1, 1), (2, 7), (3, 13), (2, 40), (1, 130)] {
        let (entry, [tiles, ..]) = grid(rows, 1, experts);
        let height = match entry.as_str() {
            "grouped_few_f32" => 4,
            "grouped_many_64_f32" => 64,
            _ => 128,
        };
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
