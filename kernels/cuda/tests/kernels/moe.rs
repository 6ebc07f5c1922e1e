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
    let (experts, _) = chosen(&logits, None, 2, gate);
    for row in experts.chunks(4) {
        let distinct: std::collections::BTreeSet<_> = row.iter().collect();
        assert!(distinct.len() == 4 && row.iter().all(|&expert| expert < 9), "{row:?}");
    }
    assert_eq!(experts[4], 4, "what is no number comes last");
}

/// Copies of rows by expert, with one expert that has none and one that has most.
fn list(rng: &mut StdRng, count: usize, experts: u32) -> Vec<u32> {
    (0..count)
        .map(|_| if rng.random_bool(0.5) { 2 } else { rng.random_range(0..experts) })
        .map(|e| e + u32::from(e == 1))
        .collect()
}

fn permute<T: Real>(tokens: usize, copies: usize, width: usize) {
    let (mut rng, experts) = (StdRng::seed_from_u64(7), 6);
    let all = tokens * copies;
    let list = list(&mut rng, all, experts);
    let (mut places, mut ends) = (vec![u32::MAX; all + 1], vec![-1i64; experts as usize + 1]);
    let (a, b, c) = (list.as_ptr(), places.as_mut_ptr(), ends.as_mut_ptr());
    type Group = unsafe extern "C" fn(*const u32, *mut u32, *mut i64, usize);
    // SAFETY: the list has as many places, and there is an end an expert.
    launch(&plan::group(experts as usize), |entry: Group| unsafe { entry(a, b, c, all) });
    let mut order: Vec<usize> = (0..all).collect();
    order.sort_by_key(|&copy| list[copy]);
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

    let weights = Walled::<f32>::random(&mut rng, all);
    let y = Walled::<T>::random(&mut rng, all * width);
    let mut sums = Walled::<T>::empty(tokens * width);
    let (from, factors, to, count) = (y.at(), weights.at(), sums.at_mut(), tokens * width);
    type Unpermute<T> = unsafe extern "C" fn(*const T, *const u32, *const f32, *mut T, usize, usize, usize);
    // SAFETY: as above, the other way round; a weight for each copy.
    launch(&plan::by_element("unpermute", T::SUFFIX, count), |entry: Unpermute<T>| unsafe {
        entry(from, b, factors, to, count, width, copies)
    });
    let (y, weights) = (y.values(), weights.values());
    let sum = |i: usize| -> f64 {
        let of_token = (i / width * copies)..(i / width + 1) * copies;
        of_token.map(|copy| weights[copy] * y[places[copy] as usize * width + i % width]).sum()
    };
    sums.is("unpermute", &(0..count).map(sum).collect::<Vec<_>>());
}

#[test]
fn rows_go_to_their_experts_and_come_back() {
    // Fewer copies than a block has threads, and more.
    for_each_type!(permute(3, 2, 5));
    for_each_type!(permute(211, 4, 33));
}

fn grouped<T: Real>(counts: &[usize], inner: usize, outputs: usize) {
    let mut rng = StdRng::seed_from_u64(8);
    let (rows, experts) = (counts.iter().sum::<usize>(), counts.len());
    let x = Walled::<T>::random(&mut rng, rows * inner);
    let weight = Walled::<T>::random(&mut rng, experts * outputs * inner);
    let mut y = Walled::<T>::empty(rows * outputs);
    let ends: Vec<i64> = counts
        .iter()
        .scan(0, |end, count| {
            *end += *count as i64;
            Some(*end)
        })
        .collect();
    let size = Grouped { rows, inner, outputs, experts };
    let planned = plan::grouped_linear(&size, T::SUFFIX).expect("so many rows");
    let (a, b, c, to) = (x.at(), weight.at(), ends.as_ptr(), y.at_mut());
    type Entry<T> = unsafe extern "C" fn(*const T, *const T, *const i64, *mut T, Grouped);
    // SAFETY: `size` describes the four.
    launch(&planned, |entry: Entry<T>| unsafe { entry(a, b, c, to, size) });
    let (x, weight) = (x.values(), weight.values());
    let expert_of = counts.iter().enumerate().flat_map(|(expert, count)| std::iter::repeat_n(expert, *count));
    let row = |(row, expert): (usize, usize)| {
        let (x, weight) = (&x[row * inner..][..inner], &weight[expert * outputs * inner..][..outputs * inner]);
        weight.chunks(inner).map(|column| column.iter().zip(x).map(|(a, b)| a * b).sum()).collect::<Vec<f64>>()
    };
    y.is(&format!("{counts:?} rows of {inner} to {outputs}"), &expert_of.enumerate().flat_map(row).collect::<Vec<_>>());
}

#[test]
fn groups_of_rows_are_multiplied_with_their_experts_matrices() {
    // Experts without rows at every place, one row, parts of tiles and several; widths that no tile divides.
    for_each_type!(grouped(&[0, 1, 0, 40, 16, 0], 64, 64));
    for_each_type!(grouped(&[3, 17, 0], 37, 70));
    for_each_type!(grouped(&[0, 0, 5], 1, 1));
    let size = Grouped { rows: 16 * 65535, inner: 1, outputs: 1, experts: 1 };
    assert!(plan::grouped_linear(&size, "f32").is_none());
}
