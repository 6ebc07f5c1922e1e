//! Fused operators three ways on one simulated NPU: aclnn's, our Ascend C kernels, and the decomposition, each against plain
//! loops in F64. `cargo test -p candle-ascend --test npu_kernels -- --nocapture` prints the table of docs/kernels.md.

mod operands;

use ascend_kernels::{add_rms_norm, gating, permute, rotary_cache, unpermute};
use candle_ascend::ops::moe::{self, Gating};
use candle_ascend::ops::{self, Kernels, Turn, with_kernels};
use candle_ascend::{DType, Device, Tensor};
use operands::{devices, rng};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

const WAYS: [Kernels; 3] = [Kernels::Aclnn, Kernels::Ours, Kernels::Plain];
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The largest relative error of rounding to `dtype`.
fn roundoff(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2f64.powi(-11),
        DType::BF16 => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    }
}

fn npu() -> Device {
    devices()[1].clone()
}

/// `values` as `dtype` on the NPU, and as that type holds them.
fn placed(values: Vec<f64>, dims: &[usize], dtype: DType) -> (Tensor, Vec<f64>) {
    let tensor = Tensor::from_vec(values, dims, &Device::Cpu).and_then(|x| x.to_dtype(dtype)).expect("an operand");
    let held = read(&tensor);
    (tensor.to_device(&npu()).expect("to the NPU"), held)
}

fn random(rng: &mut StdRng, dims: &[usize], dtype: DType) -> (Tensor, Vec<f64>) {
    let count = dims.iter().product();
    placed((0..count).map(|_| rng.random_range(-3f64..3.)).collect(), dims, dtype)
}

fn read(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_device(&Device::Cpu).and_then(|x| x.to_dtype(DType::F64)).and_then(|x| x.flatten_all());
    flat.and_then(|x| x.to_vec1()).expect("numbers")
}

fn read_u32(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().and_then(|x| x.to_vec1()).expect("numbers")
}

/// Cases and largest errors of one operator, by type and way.
struct Table {
    operator: &'static str,
    cells: Vec<(DType, Kernels, usize, f64)>,
}

impl Table {
    fn new(operator: &'static str) -> Self {
        let cells = DTYPES.into_iter().flat_map(|dtype| WAYS.map(|way| (dtype, way, 0, 0.0)));
        Self { operator, cells: cells.collect() }
    }

    /// One result of a case: no number may be further from `wanted` than `allowed` of its size and of theirs together.
    fn hold(&mut self, (dtype, way): (DType, Kernels), wanted: &[f64], got: &Tensor, allowed: f64) {
        let got = read(got);
        assert_eq!(got.len(), wanted.len(), "{} {dtype:?} {way}", self.operator);
        let scale = (wanted.iter().map(|x| x * x).sum::<f64>() / wanted.len() as f64).sqrt();
        let mut worst = 0f64;
        for (i, (wanted, got)) in wanted.iter().zip(&got).enumerate() {
            let error = (wanted - got).abs() / (wanted.abs() + scale).max(1e-30);
            let operator = self.operator;
            assert!(error <= allowed, "{operator} {dtype:?} {way}: element {i} is {got}, wanted {wanted} ({error:e})");
            worst = worst.max(error);
        }
        let cell = self.cells.iter_mut().find(|cell| (cell.0, cell.1) == (dtype, way)).expect("a cell for each");
        *cell = (dtype, way, cell.2 + 1, cell.3.max(worst));
    }

    fn print(&self) {
        for row in self.cells.chunks(WAYS.len()) {
            let cell = |way: usize| format!("{} results, {:.1e}", row[way].2, row[way].3);
            println!("| `{}` | {} | {} | {} | {} |", self.operator, row[0].0.as_str(), cell(0), cell(1), cell(2));
        }
    }
}

#[test]
fn add_rms_norm_three_ways() {
    let mut table = Table::new("add_rms_norm");
    for dtype in DTYPES {
        for (rows, width) in [(1, 16), (100, 128), (43, 72), (3, 2000)] {
            let mut rng = rng((rows * width) as u64);
            let (x, x_held) = random(&mut rng, &[rows, width], dtype);
            let (residual, residual_held) = random(&mut rng, &[rows, width], dtype);
            let (weight, weight_held) = random(&mut rng, &[width], dtype);
            let round = |x: f64| placed_round(x, dtype);
            let held = (&x_held[..], &residual_held[..], &weight_held[..]);
            let (y, sum) = add_rms_norm::reference::add_rms_norm(held, 1e-5, round);
            for way in WAYS {
                let got = with_kernels(way, || ops::add_rms_norm(&x, &residual, &weight, 1e-5)).expect("a norm");
                // A sum may be rounded twice, by way of F32; a norm is a few operations of F32 and a rounding.
                table.hold((dtype, way), &sum, &got.1, 1.01 * roundoff(dtype));
                table.hold((dtype, way), &y, &got.0, roundoff(dtype) + 2e-6);
            }
        }
    }
    table.print();
}

fn placed_round(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F16 => half::f16::from_f64(x).to_f64(),
        DType::BF16 => half::bf16::from_f64(x).to_f64(),
        _ => f64::from(x as f32),
    }
}

/// Logits whose order no rounding changes: shuffled steps that bf16 keeps apart.
fn logits(rng: &mut StdRng, [tokens, experts]: [usize; 2], dtype: DType) -> (Tensor, Vec<f64>) {
    let row = |_| {
        let mut row: Vec<f64> = (0..experts).map(|i| (i as f64 - experts as f64 / 2.0) / 32.0).collect();
        row.shuffle(rng);
        row
    };
    placed((0..tokens).flat_map(row).collect(), &[tokens, experts], dtype)
}

#[test]
fn route_three_ways() {
    let mut tables = [Table::new("route (softmax)"), Table::new("route (sigmoid)")];
    for dtype in DTYPES {
        for (tokens, experts, k, groups, kept_groups) in [(1, 33, 8, 3, 2), (67, 128, 8, 1, 1), (32, 256, 8, 8, 4)] {
            let mut rng = rng((tokens + experts) as u64);
            let (x, held) = logits(&mut rng, [tokens, experts], dtype);
            let bias = (0..experts).map(|i| (i * 7 % experts) as f64 / 4096.0).collect();
            let (bias, bias_held) = placed(bias, &[experts], DType::F32);
            let sigmoid = Gating::Sigmoid { bias: Some(&bias), groups, kept_groups, renormalise: true, factor: 2.5 };
            let softmax_rule = |row: &[f64]| gating::reference::softmax(row, k, true);
            let sigmoid_rule =
                |row: &[f64]| gating::reference::sigmoid(row, &bias_held, k, [groups, kept_groups], (true, 2.5));
            type Rule<'a> = &'a dyn Fn(&[f64]) -> (Vec<f64>, Vec<u32>);
            let kinds: [(Gating, Rule); 2] =
                [(Gating::Softmax { renormalise: true }, &softmax_rule), (sigmoid, &sigmoid_rule)];
            for ((kind, rule), table) in kinds.into_iter().zip(&mut tables) {
                let (weights, chosen): (Vec<_>, Vec<_>) = held.chunks(experts).map(rule).unzip();
                for way in WAYS {
                    let got = with_kernels(way, || moe::route(&x, k, kind)).expect("a choice");
                    assert_eq!(read_u32(&got.1), chosen.concat(), "{kind:?} {dtype:?} {way}");
                    // Exponentials and quotients of F32, rounded where the device's operator answers the logits' type.
                    let allowed = roundoff(got.0.dtype()) + 3e-6;
                    table.hold((dtype, way), &weights.concat(), &got.0, allowed);
                }
            }
        }
    }
    tables.iter().for_each(Table::print);
}

#[test]
fn permute_and_unpermute_three_ways() {
    let mut tables = [Table::new("permute"), Table::new("unpermute")];
    for dtype in DTYPES {
        for (tokens, k, experts, width) in [(1, 1, 1, 16), (7, 3, 33, 17), (60, 8, 16, 40)] {
            let mut rng = rng((tokens + width) as u64);
            let (x, x_held) = random(&mut rng, &[tokens, width], dtype);
            let (weights, weights_held) = random(&mut rng, &[tokens, k], DType::F32);
            let chosen: Vec<u32> = (0..tokens * k).map(|_| rng.random_range(0..experts.min(20)) as u32).collect();
            let on_npu = Tensor::from_vec(chosen.clone(), (tokens, k), &npu()).expect("experts");
            let (order, places, ends) = permute::reference::permute(&chosen, experts);
            let rows: Vec<f64> =
                order.iter().flat_map(|&i| x_held[i as usize / k * width..][..width].to_vec()).collect();
            let sums = unpermute::reference::unpermute(&rows, &places, &weights_held, k, width);
            for way in WAYS {
                with_kernels(way, || {
                    let permuted = moe::permute(&x, &on_npu, experts).expect("rows by expert");
                    assert_eq!(permuted.ends.to_vec1::<i64>().expect("ends"), ends, "{dtype:?} {way}");
                    tables[0].hold((dtype, way), &rows, &permuted.rows, 0.0);
                    let back = moe::unpermute(&permuted.rows, &permuted.places, &weights).expect("sums");
                    // k products and sums of F32 that may cancel, and a rounding.
                    tables[1].hold((dtype, way), &sums, &back, roundoff(dtype) + 1e-6);
                });
            }
        }
    }
    tables.iter().for_each(Table::print);
}

#[test]
fn turn_and_write_at_three_ways() {
    let mut table = Table::new("turn_and_write_at");
    for dtype in DTYPES {
        for (batch, tokens, heads, kv_heads, width) in [(1, 1, 8, 2, 128), (2, 3, 2, 1, 64)] {
            for norm in [None, Some(1e-6)] {
                let mut rng = rng((batch + heads) as u64);
                let (all, capacity) = (heads + 2 * kv_heads, 16);
                let (qkv, held) = random(&mut rng, &[batch, tokens, all, width], dtype);
                // The second half of a table is like the first, as rotary tables are.
                let [(cos, cos_held), (sin, sin_held)] = [(); 2].map(|_| {
                    let (half, held) = random(&mut rng, &[tokens, width / 2], dtype);
                    let twice: Vec<f64> = held.chunks(width / 2).flat_map(|row| [row, row].concat()).collect();
                    (Tensor::cat(&[&half, &half], 1).expect("both halves"), twice)
                });
                let [(q_weight, q_held), (k_weight, k_held)] = [(); 2].map(|_| random(&mut rng, &[width], dtype));
                let places: Vec<i64> = (0..batch as i64).map(|b| 4 * b + 3).collect();
                let positions = Tensor::from_vec(places.clone(), batch, &npu()).expect("positions");

                let mut queries = vec![0.0; batch * heads * tokens * width];
                let mut cached = vec![0.0; 2 * batch * kv_heads * capacity * width];
                for (row, head) in held.chunks(width).enumerate() {
                    let (b, t, n) = (row / all / tokens, row / all % tokens, row % all);
                    let tables = (&cos_held[t * width..][..width], &sin_held[t * width..][..width]);
                    let turned = |weight: &[f64]| {
                        let norm = norm.map(|epsilon| (weight, epsilon));
                        rotary_cache::reference::turned(head, tables, norm, |x| placed_round(x, dtype))
                    };
                    let slot = |which: usize, n: usize| {
                        (((which * batch + b) * kv_heads + n) * capacity + places[b] as usize + t) * width
                    };
                    if n < heads {
                        queries[((b * heads + n) * tokens + t) * width..][..width].copy_from_slice(&turned(&q_held));
                    } else if n < heads + kv_heads {
                        cached[slot(0, n - heads)..][..width].copy_from_slice(&turned(&k_held));
                    } else {
                        cached[slot(1, n - heads - kv_heads)..][..width].copy_from_slice(head);
                    }
                }
                for way in WAYS {
                    let dims = [2, batch, kv_heads, capacity, width];
                    let cache = Tensor::zeros(&dims[..], dtype, &npu()).expect("a cache");
                    // Heads are turned in their place on some ways: each has its own.
                    let own = qkv.copy().and_then(|x| x.transpose(1, 2)).expect("heads");
                    let part = |first, count| own.narrow(1, first, count).expect("heads of a kind");
                    let parts = [part(0, heads), part(heads, kv_heads), part(heads + kv_heads, kv_heads)];
                    let norms = norm.map(|epsilon| (&q_weight, &k_weight, epsilon));
                    let turn = Turn { norms, cos: &cos, sin: &sin };
                    let got = with_kernels(way, || ops::turn_and_write_at(parts, turn, &cache, &positions));
                    // Where a norm is rounded first, a step of its type may fall the other way.
                    let allowed = if norm.is_some() { 4.0 } else { 1.0 } * roundoff(dtype) + 2e-6;
                    table.hold((dtype, way), &queries, &got.expect("turned heads"), allowed);
                    table.hold((dtype, way), &cached, &cache, allowed);
                }
            }
        }
    }
    table.print();
}

#[test]
fn ours_are_a_launch_each() {
    // Registers the simulator. Counted on a device of its own.
    npu();
    let device = Device::new_sim("", 5).expect("a sixth simulated NPU");
    let Device::Npu(counted) = &device else { unreachable!("a simulated NPU is one") };
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).expect("zeros");
    let (x, weight, logits) = (zeros(&[4, 64], DType::BF16), zeros(&[64], DType::BF16), zeros(&[4, 32], DType::F32));
    let qkv = zeros(&[1, 1, 10, 64], DType::BF16).transpose(1, 2).expect("heads");
    let [q, k, v] = [(0, 6), (6, 2), (8, 2)].map(|(first, count)| qkv.narrow(1, first, count).expect("a kind"));
    let (table, cache) = (zeros(&[1, 64], DType::BF16), zeros(&[2, 1, 2, 8, 64], DType::BF16));
    let positions = zeros(&[1], DType::I64);
    let turn = Turn { norms: Some((&weight, &weight, 1e-6)), cos: &table, sin: &table };
    let sigmoid = Gating::Sigmoid { bias: None, groups: 4, kept_groups: 2, renormalise: true, factor: 1.0 };
    let before = counted.counters().launches;
    with_kernels(Kernels::Ours, || -> candle_ascend::Result<()> {
        ops::add_rms_norm(&x, &x, &weight, 1e-6)?;
        moe::route(&logits, 4, Gating::Softmax { renormalise: true })?;
        moe::route(&logits, 4, sigmoid)?;
        ops::turn_and_write_at([q, k, v], turn, &cache, &positions)?;
        Ok(())
    })
    .expect("four operators");
    assert_eq!(counted.counters().launches - before, 4);
}

#[test]
fn what_a_kernel_does_not_take_is_said_before_the_launch() {
    let logits = Tensor::zeros((2, 100), DType::F32, &npu()).expect("logits");
    let softmax = Gating::Softmax { renormalise: false };
    let error = with_kernels(Kernels::Ours, || moe::route(&logits, 65, softmax)).expect_err("65 are too many");
    assert!(error.to_string().contains("it takes 1 to 64"), "{error}");
}

#[test]
fn a_logit_that_is_no_number_fails_the_stream() {
    npu();
    let device = Device::new_sim("", 6).expect("a seventh simulated NPU");
    let logits = Tensor::from_vec(vec![0f32, 1.0, f32::NAN, 2.0], (1, 4), &device).expect("logits");
    let routed = with_kernels(Kernels::Ours, || moe::route(&logits, 2, Gating::Softmax { renormalise: true }));
    let error = routed.and_then(|(weights, _)| weights.to_vec2::<f32>()).expect_err("no choice can be right");
    assert!(error.to_string().contains("gating_softmax_f32") && error.to_string().contains("gating.h"), "{error}");
}
