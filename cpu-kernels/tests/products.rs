//! Every form of the product against plain `f64` loops, at shapes that fill no register and no tile.

use half::{bf16, f16};
use npu_cpu_kernels::{
    Float, Form, Rows, grouped_product_by, product, product_by, share, share_chunks, weighted_sums_by,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// (rows, inner, outputs): one of everything, tails of every register length, tiles with and without a rest.
const SHAPES: [(usize, usize, usize); 12] = [
    (1, 1, 1),
    (1, 31, 7),
    (1, 896, 61),
    (2, 33, 1),
    (3, 40, 25),
    (4, 64, 24),
    (5, 97, 50),
    (8, 129, 13),
    (17, 65, 49),
    (33, 15, 100),
    (2, 0, 3),
    (150, 300, 61),
];

fn values<T: Float>(rng: &mut StdRng, count: usize) -> Vec<T> {
    (0..count).map(|_| T::round(rng.random_range(-1.0..1.0))).collect()
}

/// How a product is computed: by a form, or as it is at once chosen for its type and sizes.
type Multiply<T> = dyn Fn(Rows<T>, Rows<T>, Option<&[f32]>, &mut [f32]);

/// Compares `x·Wᵀ + bias` of one type in one form; rows lie `gap` elements further apart than they are long.
fn agrees<T: Float>(form: Form, seed: u64, gap: usize) {
    let by_form = move |x: Rows<T>, w: Rows<T>, bias: Option<&[f32]>, y: &mut [f32]| product_by(form, x, w, bias, y);
    compare(&format!("{form:?}"), &by_form, &SHAPES, seed, gap);
}

fn compare<T: Float>(name: &str, multiply: &Multiply<T>, shapes: &[(usize, usize, usize)], seed: u64, gap: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    for &(rows, inner, outputs) in shapes {
        let stride = inner + gap;
        let (x, w) = (values::<T>(&mut rng, rows * stride), values::<T>(&mut rng, outputs * stride));
        let bias = values::<f32>(&mut rng, outputs);
        let mut y = vec![f32::NAN; rows * outputs];
        let (x_rows, w_rows) = (Rows::strided(&x, rows, inner, stride), Rows::strided(&w, outputs, inner, stride));
        multiply(x_rows, w_rows, Some(&bias), &mut y);
        for (index, got) in y.into_iter().enumerate() {
            let (row, col) = (index / outputs, index % outputs);
            let terms = (0..inner).map(|k| x[row * stride + k].widen() as f64 * w[col * stride + k].widen() as f64);
            let (sum, size) = terms.fold((bias[col] as f64, bias[col].abs() as f64), |(s, a), t| (s + t, a + t.abs()));
            // Both sides see the same stored values. Whatever the order, each of the additions (and products, where they
            // are not fused) is off by at most 2^-24 of what the terms' sizes add up to.
            let tolerance = (2 * inner + 2) as f64 * 2f64.powi(-24) * size;
            let off = (got as f64 - sum).abs();
            assert!(off <= tolerance, "{name} {rows}x{inner}x{outputs} ({row}, {col}): {got}, wanted {sum}");
        }
    }
}

#[test]
fn products_of_many_rows_agree_with_the_definition() {
    // Packed (F32), and by parts of the depth (16-bit types): a part and some more, and less than one.
    let shapes = [(32, 5000, 7), (70, 2049, 65), (33, 100, 200)];
    for gap in [0, 5] {
        compare::<f32>("f32", &product, &shapes, 1, gap);
        compare::<bf16>("bf16", &product, &shapes, 2, gap);
        compare::<f16>("f16", &product, &shapes, 3, gap);
    }
}

#[test]
fn every_form_agrees_with_the_definition() {
    let forms = Form::available();
    println!("forms of this machine: {forms:?}");
    for form in forms {
        for gap in [0, 5] {
            agrees::<f32>(form, 1, gap);
            agrees::<bf16>(form, 2, gap);
            agrees::<f16>(form, 3, gap);
        }
    }
}

/// Groups of rows, each with its own weight: empty ones at both ends and between, one of a row, one beyond the cache's share.
fn groups_agree<T: Float>(form: Form, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    for (sizes, inner, outputs) in [
        (&[0, 1, 0, 0, 5, 33, 2, 0][..], 97, 50),
        (&[700, 1, 0, 24], 1000, 25),
        (&[3], 40, 25),
        (&[0, 0, 4], 7, 1),
        (&[0, 0], 8, 3),
    ] {
        let mut ends = Vec::new();
        sizes.iter().for_each(|size| ends.push(ends.last().unwrap_or(&0) + size));
        let rows: usize = sizes.iter().sum();
        let (x, w) = (values::<T>(&mut rng, rows * inner), values::<T>(&mut rng, sizes.len() * outputs * inner));
        let mut y = vec![f32::NAN; rows * outputs];
        let weight = Rows::new(&w, sizes.len() * outputs, inner);
        grouped_product_by(form, Rows::new(&x, rows, inner), weight, &ends, &mut y);
        for (index, got) in y.into_iter().enumerate() {
            let (row, col) = (index / outputs, index % outputs);
            let group = ends.iter().position(|end| row < *end).expect("a group");
            let w = &w[(group * outputs + col) * inner..][..inner];
            let terms = x[row * inner..][..inner].iter().zip(w).map(|(x, w)| x.widen() as f64 * w.widen() as f64);
            let (sum, size) = terms.fold((0f64, 0f64), |(s, a), t| (s + t, a + t.abs()));
            // As for the product.
            let tolerance = (2 * inner + 2) as f64 * 2f64.powi(-24) * size;
            let off = (got as f64 - sum).abs();
            assert!(off <= tolerance, "{form:?} {sizes:?}x{inner}x{outputs} ({row}, {col}): {got}, wanted {sum}");
        }
    }
}

#[test]
fn grouped_products_agree_with_the_definition() {
    for form in Form::available() {
        groups_agree::<f32>(form, 9);
        groups_agree::<bf16>(form, 10);
        groups_agree::<f16>(form, 11);
    }
}

fn weights_agree<T: Float>(form: Form, seed: u64, gap: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    for (rows, inner, outputs) in SHAPES {
        let (p_stride, v_stride) = (inner + gap, outputs + gap);
        let (p, v) = (values::<f32>(&mut rng, rows * p_stride), values::<T>(&mut rng, inner * v_stride));
        let mut out = vec![f32::NAN; rows * outputs];
        let (p_rows, v_rows) = (Rows::strided(&p, rows, inner, p_stride), Rows::strided(&v, inner, outputs, v_stride));
        weighted_sums_by(form, p_rows, v_rows, &mut out);
        for (index, got) in out.into_iter().enumerate() {
            let (row, col) = (index / outputs, index % outputs);
            let terms = (0..inner).map(|t| p[row * p_stride + t] as f64 * v[t * v_stride + col].widen() as f64);
            let (sum, size) = terms.fold((0f64, 0f64), |(s, a), t| (s + t, a + t.abs()));
            // As for the product.
            let tolerance = (2 * inner + 2) as f64 * 2f64.powi(-24) * size;
            let off = (got as f64 - sum).abs();
            assert!(off <= tolerance, "{form:?} {rows}x{inner}x{outputs} ({row}, {col}): {got}, wanted {sum}");
        }
    }
}

#[test]
fn weighted_sums_agree_with_the_definition() {
    for form in Form::available() {
        for gap in [0, 5] {
            weights_agree::<f32>(form, 6, gap);
            weights_agree::<bf16>(form, 7, gap);
            weights_agree::<f16>(form, 8, gap);
        }
    }
}

#[test]
fn the_result_is_rounded_once() {
    let mut rng = StdRng::seed_from_u64(4);
    let (rows, inner, outputs) = (3, 50, 31);
    let (x, w) = (values::<bf16>(&mut rng, rows * inner), values::<bf16>(&mut rng, outputs * inner));
    let bias = values::<bf16>(&mut rng, outputs);
    let wide: Vec<f32> = bias.iter().map(|b| b.widen()).collect();
    for form in Form::available() {
        let (x, w) = (Rows::new(&x, rows, inner), Rows::new(&w, outputs, inner));
        let (mut narrow, mut exact) = (vec![bf16::ZERO; rows * outputs], vec![0f32; rows * outputs]);
        product_by(form, x, w, Some(&bias), &mut narrow);
        product_by(form, x, w, Some(&wide), &mut exact);
        let rounded: Vec<bf16> = exact.into_iter().map(bf16::from_f32).collect();
        assert_eq!(narrow, rounded, "{form:?}");
    }
}

#[test]
fn rounding_to_bf16_is_that_of_the_half_crate() {
    let mut rng = StdRng::seed_from_u64(5);
    // The last two lie in the middle of two values: one goes down to the even one, one up.
    let ties = [0x3f80_8000, 0x3f81_8000].map(f32::from_bits);
    let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, ties[0], ties[1]];
    let any = (0..100_000).map(|_| f32::from_bits(rng.random::<u32>()));
    for value in special.into_iter().chain(any) {
        let (ours, theirs) = (<bf16 as Float>::round(value), bf16::from_f32(value));
        assert!(ours.to_bits() == theirs.to_bits(), "{value}: {ours:?}, wanted {theirs:?}");
    }
}

#[test]
fn every_task_runs_once() {
    for tasks in [0, 1, 2, 3, 100] {
        for _ in 0..200 {
            let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            share(tasks, |task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
                // A job within a job has no helpers left and runs all the same.
                share(2, |_| {
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 3), "{tasks} tasks: {counts:?}");
        }
    }
    let mut data = [0usize; 103];
    share_chunks(&mut data, 10, |index, chunk| chunk.iter_mut().for_each(|value| *value += index + 1));
    assert!(data.iter().enumerate().all(|(i, value)| *value == i / 10 + 1), "{data:?}");
}

#[test]
fn a_panic_is_passed_on_and_the_team_survives() {
    let outcome = std::panic::catch_unwind(|| share(16, |task| assert!(task != 7, "task seven fails on purpose")));
    assert!(outcome.is_err(), "a task's panic was swallowed");
    let (caller, joined) = (std::thread::current().id(), AtomicBool::new(false));
    let outcome = std::panic::catch_unwind(|| {
        share(2, |_| {
            if std::thread::current().id() != caller {
                joined.store(true, Ordering::Relaxed);
                panic!("a helper fails on purpose");
            }
            // The other task is left to a helper, for which a busy machine may take its time.
            let start = Instant::now();
            while !joined.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(2) {
                std::thread::yield_now();
            }
        })
    });
    match joined.into_inner() {
        true => assert!(outcome.is_err(), "a helper's panic was swallowed"),
        false => println!("not run: no helper joined within two seconds"),
    }
    every_task_runs_once();
}
