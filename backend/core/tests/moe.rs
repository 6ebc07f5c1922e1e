//! Routing and grouped products against plain loops in F64, on every device, fused and decomposed.

mod operands;

use candle_ascend::ops::moe::{self, Gating};
use candle_ascend::{DType, Device, Result, Tensor, Var, ops};
use operands::{devices, operand, ours, rng};

const EXPERTS: usize = 12;

fn rows(x: &Tensor) -> Vec<Vec<f64>> {
    x.to_dtype(DType::F64).and_then(|x| x.to_vec2()).expect("a matrix")
}

/// Indices of `values` from the largest down.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// The rule of DeepSeek-V3's report for one token: experts and weights.
fn by_groups(logits: &[f64], bias: &[f64], k: usize, (groups, kept): (usize, usize), factor: f64) -> Vec<(usize, f64)> {
    let scores: Vec<f64> = logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
    let ranks: Vec<f64> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
    let size = logits.len() / groups;
    let of_group: Vec<f64> =
        ranks.chunks(size).map(|group| descending(group).iter().take(2).map(|&i| group[i]).sum()).collect();
    let open = &descending(&of_group)[..kept];
    let chosen: Vec<usize> =
        descending(&ranks).into_iter().filter(|expert| open.contains(&(expert / size))).take(k).collect();
    let sum: f64 = chosen.iter().map(|&i| scores[i]).sum();
    chosen.into_iter().map(|i| (i, scores[i] / sum * factor)).collect()
}

#[test]
fn choices_follow_the_rules() {
    let (logits, bias) =
        (operand(&mut rng(1), &[9, EXPERTS], DType::F32), operand(&mut rng(2), &[EXPERTS], DType::F32));
    for device in devices() {
        let (x, b) = (ours(&logits, &device), ours(&bias, &device));
        let sigmoid = Gating::Sigmoid { bias: Some(&b), groups: 4, kept_groups: 2, renormalise: true, factor: 2.5 };
        let bias: Vec<f64> = b.to_dtype(DType::F64).and_then(|b| b.to_vec1()).expect("a vector");
        let softmax = |row: &[f64]| {
            let total: f64 = row.iter().map(|x| x.exp()).sum();
            descending(row).into_iter().take(3).map(|i| (i, row[i].exp() / total)).collect::<Vec<_>>()
        };
        let grouped = |row: &[f64]| by_groups(row, &bias, 3, (4, 2), 2.5);
        type Rule<'a> = &'a dyn Fn(&[f64]) -> Vec<(usize, f64)>;
        let among_chosen = |row: &[f64]| {
            let chosen = softmax(row);
            let total: f64 = chosen.iter().map(|(_, weight)| weight).sum();
            chosen.into_iter().map(|(i, weight)| (i, weight / total)).collect::<Vec<_>>()
        };
        let cases: [(Gating, Rule); 3] = [
            (Gating::Softmax { renormalise: false }, &softmax),
            (Gating::Softmax { renormalise: true }, &among_chosen),
            (sigmoid, &grouped),
        ];
        for (gating, rule) in cases {
            let (weights, experts) = moe::route(&x, 3, gating).expect("a choice");
            let experts: Vec<Vec<u32>> = experts.to_vec2().expect("experts");
            for ((row, weights), experts) in rows(&x).iter().zip(rows(&weights)).zip(experts) {
                for ((expert, weight), (got, got_weight)) in rule(row).into_iter().zip(experts.iter().zip(weights)) {
                    assert_eq!(expert, *got as usize, "{gating:?} on {}", device.kind());
                    // F32 exponentials and one quotient.
                    assert!((weight - got_weight).abs() < 1e-5, "{gating:?}: {got_weight}, wanted {weight}");
                }
            }
        }
    }
}

/// Grouping, a product a group, and the weighted sum are together a sum over each token's experts.
fn layer(x: &Tensor, weight: &Tensor, chosen: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let permuted = moe::permute(x, chosen, weight.dim(0)?)?;
    let y = moe::grouped_linear(&permuted.rows, weight, &permuted.ends)?;
    moe::unpermute(&y, &permuted.places, weights)
}

#[test]
fn grouped_products_are_sums_over_experts() {
    // Expert 1 gets nothing, expert 4 most: groups are empty and unbalanced.
    let chosen = [4, 0, 4, 2, 3, 4, 4, 5, 0, 4];
    grouped_products(&chosen, &[17, 33]);
    // Work enough for several threads.
    grouped_products(&chosen.repeat(9), &[50, 65]);
}

/// `chosen` are two experts a token, of weights `[6, O, I]`.
fn grouped_products(chosen: &[u32], &[outputs, inner]: &[usize; 2]) {
    let tokens = chosen.len() / 2;
    for (dtype, tolerance) in [(DType::F32, 2e-5), (DType::BF16, 1.2e-2), (DType::F16, 2e-3)] {
        let (x, weight) =
            (operand(&mut rng(3), &[tokens, inner], dtype), operand(&mut rng(4), &[6, outputs, inner], dtype));
        for device in devices() {
            let (x, weight) = (ours(&x, &device), ours(&weight, &device));
            let ids = Tensor::from_slice(chosen, (tokens, 2), &device).expect("experts");
            let shares: Vec<f32> = (0..2 * tokens).map(|i| 0.1 + 0.05 * (i % 10) as f32).collect();
            let weights = Tensor::from_slice(&shares, (tokens, 2), &device).expect("weights");
            let fused = layer(&x, &weight, &ids, &weights).expect("fused");
            let parts = ops::decomposed(|| layer(&x, &weight, &ids, &weights)).expect("decomposed");
            let matrices: Vec<Vec<Vec<f64>>> =
                weight.to_dtype(DType::F64).and_then(|w| w.to_vec3()).expect("three dimensions");
            for got in [fused, parts] {
                assert_eq!(got.dtype(), dtype);
                for (token, (row, got)) in rows(&x).iter().zip(rows(&got)).enumerate() {
                    for (column, got) in got.into_iter().enumerate() {
                        let term = |i: usize| {
                            let matrix = &matrices[chosen[i] as usize][column];
                            shares[i] as f64 * matrix.iter().zip(row).map(|(w, x)| w * x).sum::<f64>()
                        };
                        let terms = [term(2 * token), term(2 * token + 1)];
                        let (wanted, size) = (terms[0] + terms[1], terms[0].abs() + terms[1].abs());
                        // The products are rounded to the type, then their sum; terms may cancel.
                        let close = (got - wanted).abs() <= tolerance * size.max(1.0);
                        assert!(close, "{dtype:?} on {}: {got}, wanted {wanted}", device.kind());
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_an_expert_keep_their_order() {
    for device in devices() {
        let x = Tensor::arange(0f32, 6f32, &device).and_then(|x| x.reshape((6, 1))).expect("rows");
        let ids = Tensor::from_slice(&[2u32, 0, 2, 2, 0, 2], (6, 1), &device).expect("experts");
        let permuted = moe::permute(&x, &ids, 4).expect("permuted");
        assert_eq!(rows(&permuted.rows).concat(), [1.0, 4.0, 0.0, 2.0, 3.0, 5.0]);
        assert_eq!(permuted.ends.to_vec1::<i64>().expect("ends"), [2, 2, 6, 6]);
    }
}

/// More copies than a kernel for GPUs sorts in its shared memory.
#[test]
fn many_rows_keep_their_order_decomposed() {
    const COPIES: u32 = 9000;
    let chosen: Vec<u32> = (0..COPIES).map(|copy| copy % 3).collect();
    let wanted: Vec<u32> = (0..COPIES).map(|copy| copy % 3 * (COPIES / 3) + copy / 3).collect();
    for device in devices() {
        let x = Tensor::zeros((COPIES as usize, 1), DType::F32, &device).expect("rows");
        let ids = Tensor::from_slice(&chosen, (COPIES as usize, 1), &device).expect("experts");
        let permuted = ops::decomposed(|| moe::permute(&x, &ids, 3)).expect("permuted");
        assert_eq!(permuted.places.to_vec1::<u32>().expect("places"), wanted, "on {}", device.kind());
    }
}

#[test]
fn misfits_are_refused_with_words() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).expect("zeros");
    let logits = zeros(&[2, EXPERTS], DType::F32);
    let grouped = |groups, kept_groups| {
        let gating = Gating::Sigmoid { bias: None, groups, kept_groups, renormalise: true, factor: 1.0 };
        moe::route(&logits, 2, gating).map(|_| ())
    };
    let ends = Tensor::from_slice(&[1i64, 0], 2, &Device::Cpu).expect("ends");
    let falling = moe::grouped_linear(&zeros(&[1, 4], DType::F32), &zeros(&[2, 3, 4], DType::F32), &ends);
    let cases = [
        (moe::route(&logits, 13, Gating::Softmax { renormalise: true }).map(|_| ()), "13 of 12 experts"),
        (grouped(5, 1), "1 of 5 groups over 12 experts"),
        (grouped(4, 5), "5 of 4 groups"),
        (falling.map(|_| ()), "the group of expert 1 ends at 0 after 1"),
        (
            moe::permute(&zeros(&[3, 4], DType::F32), &zeros(&[2, 2], DType::U32), 4).map(|_| ()),
            "wanted [T, H] and [T, K]",
        ),
        (
            Tensor::from_slice(&[0u32, 3, 4, 1], (2, 2), &Device::Cpu)
                .and_then(|ids| moe::permute(&zeros(&[2, 4], DType::F32), &ids, 4).map(|_| ())),
            "choice 0 of row 1 is expert 4, and there are 4",
        ),
        (
            Tensor::from_slice(&[1u32, 2], 2, &Device::Cpu).and_then(|places| {
                moe::unpermute(&zeros(&[2, 4], DType::F32), &places, &zeros(&[1, 2], DType::F32)).map(|_| ())
            }),
            "choice 1 of token 0 is in row 2, of 2",
        ),
        (
            moe::unpermute(&zeros(&[4, 3], DType::F32), &zeros(&[4], DType::U32), &zeros(&[3, 2], DType::F32))
                .map(|_| ()),
            "wanted [T·K, H], [T·K] and [T, K]",
        ),
    ];
    for (got, wanted) in cases {
        let message = got.expect_err(wanted).to_string();
        assert!(message.contains(wanted), "{message:?}, wanted {wanted:?}");
    }
}

/// Gradients of what a layer makes, which is linear in the rows, the matrices and the weights, against plain loops. They are
/// those of the primitives: no device's fused operator may take the place of an operation that is recorded.
#[test]
fn gradients_flow_through_a_layer() {
    const CHOSEN: [u32; 8] = [2, 0, 2, 3, 0, 2, 3, 2];
    let [(tokens, inner), (experts, outputs)] = [(4, 5), (4, 3)];
    let random = |seed, dims: &[usize]| operand(&mut rng(seed), dims, DType::F32);
    let (x, matrices, shares, grad) = (
        random(11, &[tokens, inner]),
        random(12, &[experts, outputs, inner]),
        random(13, &[tokens, 2]),
        random(14, &[tokens, outputs]),
    );
    for device in devices() {
        let variable = |x: &candle_core::Tensor| Var::from_tensor(&ours(x, &device)).expect("a variable");
        let [of_x, of_matrices, of_shares] = [&x, &matrices, &shares].map(variable);
        let ids = Tensor::from_slice(&CHOSEN, (tokens, 2), &device).expect("experts");
        let grads = layer(&of_x, &of_matrices, &ids, &of_shares)
            .and_then(|y| (y * ours(&grad, &device))?.sum_all()?.backward())
            .expect("gradients");
        let values = |variable: &Var| {
            let gradient = grads.get(variable).unwrap_or_else(|| panic!("no gradient on {}", device.kind()));
            let flat =
                gradient.to_device(&Device::Cpu).and_then(|g| g.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>());
            flat.expect("values")
        };
        let [x, matrices, shares, grad] = [&x, &matrices, &shares, &grad].map(|x| operands::values(x).2);
        let mut wanted = [vec![0.; x.len()], vec![0.; matrices.len()], vec![0.; shares.len()]];
        for (at, &expert) in CHOSEN.iter().enumerate() {
            let (token, matrix) = (at / 2, expert as usize * outputs);
            for (row, column) in (0..outputs).flat_map(|row| (0..inner).map(move |column| (row, column))) {
                let weight = matrices[(matrix + row) * inner + column];
                let (input, back) = (x[token * inner + column], grad[token * outputs + row]);
                wanted[0][token * inner + column] += shares[at] * weight * back;
                wanted[1][(matrix + row) * inner + column] += shares[at] * input * back;
                wanted[2][at] += weight * input * back;
            }
        }
        for (name, got, wanted) in [
            ("rows", values(&of_x), &wanted[0]),
            ("matrices", values(&of_matrices), &wanted[1]),
            ("weights", values(&of_shares), &wanted[2]),
        ] {
            assert_eq!(got.len(), wanted.len());
            for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
                // Sums of some ten products of three numbers up to 3, in F32.
                let close = (got - wanted).abs() <= 2e-5 * wanted.abs().max(10.);
                assert!(close, "{name} on {}: element {i} is {got}, wanted {wanted}", device.kind());
            }
        }
    }
}

/// Bad routing is said where it is: by the CPU at once, by an NPU when its stream comes there. A GPU's kernels cannot stop: they
/// make it no numbers.
#[test]
fn logits_and_experts_that_are_none_are_named() {
    devices();
    // A failure of a stream is heard by all who wait for it: an NPU of its own.
    for device in [Device::Cpu, Device::new_sim("", 7).expect("a simulated NPU opens")] {
        let mut values = vec![0.5f32; 2 * EXPERTS];
        values[EXPERTS + 4] = f32::NAN;
        let logits = Tensor::from_vec(values, (2, EXPERTS), &device).expect("logits");
        let sigmoid = Gating::Sigmoid { bias: None, groups: 4, kept_groups: 2, renormalise: true, factor: 1.0 };
        for gating in [Gating::Softmax { renormalise: true }, sigmoid] {
            let chosen = moe::route(&logits, 2, gating).and_then(|(_, experts)| experts.to_vec2::<u32>());
            assert_says(chosen.expect_err("no number"), &["row 1", "expert 4", "not a number"]);
        }
        let x = Tensor::zeros((2, 4), DType::F32, &device).expect("rows");
        let ids = Tensor::from_slice(&[0u32, 1, 3, 7], (2, 2), &device).expect("experts");
        let ends = moe::permute(&x, &ids, 6).and_then(|permuted| permuted.ends.to_vec1::<i64>());
        let (row, choice) = if device.is_cpu() { ("of row 1", "choice 1") } else { ("at row 1", "choice 1") };
        assert_says(ends.expect_err("no expert"), &[row, choice, "7"]);
    }
    for gpu in devices().into_iter().filter(Device::is_cuda) {
        let mut values = vec![0.5f32; 2 * EXPERTS];
        values[EXPERTS + 4] = f32::NAN;
        let logits = Tensor::from_vec(values, (2, EXPERTS), &gpu).expect("logits");
        let sigmoid = Gating::Sigmoid { bias: None, groups: 4, kept_groups: 2, renormalise: true, factor: 1.0 };
        for gating in [Gating::Softmax { renormalise: true }, sigmoid] {
            let weights = rows(&moe::route(&logits, 2, gating).expect("a choice").0);
            assert!(
                weights[0].iter().all(|w| (w - 0.5).abs() < 1e-6) && weights[1].iter().all(|w| w.is_nan()),
                "{weights:?}"
            );
        }
        let ones = |dims: &[usize]| Tensor::ones(dims, DType::F32, &gpu).expect("ones");
        let ids = Tensor::from_slice(&[0u32, 1, 3, 7], (2, 2), &gpu).expect("experts");
        let sums = rows(&layer(&ones(&[2, 4]), &ones(&[6, 3, 4]), &ids, &ones(&[2, 2])).expect("sums"));
        assert!(sums[0] == [8.; 3] && sums[1].iter().all(|sum| sum.is_nan()), "{sums:?}");
    }
}

fn assert_says(error: candle_ascend::Error, words: &[&str]) {
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

/// What all tokens share is added to their experts' sum, which is rounded once with it or once before.
#[test]
fn shared_rows_are_added() {
    let chosen: Vec<u32> = vec![1, 0, 2, 1, 0, 2];
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
        let (y, shared) = (operand(&mut rng(5), &[6, 7], dtype), operand(&mut rng(6), &[3, 7], dtype));
        for device in devices() {
            let (y, shared) = (ours(&y, &device), ours(&shared, &device));
            let ids = Tensor::from_slice(&chosen, (3, 2), &device).expect("experts");
            let weights = Tensor::from_slice(&[0.5f32, 0.25, 1.0, 0.75, 0.125, 0.5], (3, 2), &device).expect("weights");
            let places = moe::permute(&shared, &ids, 3).expect("permuted").places;
            let got = rows(&moe::unpermute_onto(&shared, &y, &places, &weights).expect("sums"));
            let (places, weights): (Vec<u32>, _) = (places.to_vec1().expect("places"), rows(&weights));
            let (y, shared) = (rows(&y), rows(&shared));
            for (token, got) in got.iter().enumerate() {
                for (column, got) in got.iter().enumerate() {
                    let of = |j: usize| weights[token][j] * y[places[2 * token + j] as usize][column];
                    let wanted = shared[token][column] + of(0) + of(1);
                    assert!(
                        (got - wanted).abs() <= tolerance * wanted.abs().max(1.0),
                        "{dtype:?}: {got}, wanted {wanted}"
                    );
                }
            }
        }
    }
}
