//! Products over sorted experts against plain loops in F64; candle has them for CUDA only.

use candle_ascend::quantized::{GgmlDType, QTensor};
use candle_ascend::{DType, Device, Tensor};
use candle_ascend_nn::moe::{moe_gemm, moe_gemm_gguf};
use std::sync::Arc;

const TOKENS: usize = 5;
const TOP: usize = 2;
const EXPERTS: usize = 4;
const OUTPUTS: usize = 3;
const WIDTH: usize = 32;

fn devices() -> [Device; 2] {
    candle_ascend::register_simulator(|soc| Ok(Arc::new(cann_sim::Embedded::for_soc(soc)?)));
    [Device::Cpu, Device::new_sim("", 0).expect("the simulated NPU opens")]
}

fn values(count: usize, step: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * step) % 17) as f32 / 8. - 1.).collect()
}

/// Experts of each token; expert 1 has none.
const CHOSEN: [u32; TOKENS * TOP] = [3, 0, 0, 2, 2, 3, 3, 0, 2, 0];

/// The assignments in the order of their experts.
fn sorted() -> (Vec<u32>, Vec<u32>) {
    let mut order: Vec<u32> = (0..CHOSEN.len() as u32).collect();
    order.sort_by_key(|&assignment| CHOSEN[assignment as usize]);
    let experts = order.iter().map(|&assignment| CHOSEN[assignment as usize]).collect();
    (order, experts)
}

fn wanted(input: &[f32], weights: &[f32], scale: Option<&[f32]>) -> Vec<f64> {
    let mut out = Vec::new();
    for (assignment, &expert) in CHOSEN.iter().enumerate() {
        let row = if scale.is_some() { assignment } else { assignment / TOP };
        for n in 0..OUTPUTS {
            let weight = &weights[(expert as usize * OUTPUTS + n) * WIDTH..][..WIDTH];
            let sum: f64 = weight.iter().zip(&input[row * WIDTH..]).map(|(w, x)| *w as f64 * *x as f64).sum();
            out.push(sum * scale.map_or(1., |scale| scale[assignment] as f64));
        }
    }
    out
}

/// 1e-5: sums of 32 products below one in F32.
fn check(what: &str, got: &Tensor, wanted: &[f64]) {
    assert_eq!(got.dims(), [TOKENS * TOP, OUTPUTS], "{what}");
    let got = got.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("values");
    for (i, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!((*got as f64 - wanted).abs() < 1e-5, "{what}: element {i} is {got}, wanted {wanted}");
    }
}

#[test]
fn each_token_meets_its_experts() {
    let (input, rows) = (values(TOKENS * WIDTH, 5), values(TOKENS * TOP * WIDTH, 7));
    let (weights, scale) = (values(EXPERTS * OUTPUTS * WIDTH, 3), values(TOKENS * TOP, 11));
    let (order, experts) = sorted();
    for device in devices() {
        let tensor = |data: &[f32], dims: &[usize]| Tensor::from_slice(data, dims, &device).expect("tensor");
        let (order, experts) = (
            Tensor::new(order.as_slice(), &device).expect("ids"),
            Tensor::new(experts.as_slice(), &device).expect("ids"),
        );
        let (x, xs) = (tensor(&input, &[TOKENS, WIDTH]), tensor(&rows, &[TOKENS * TOP, WIDTH]));
        let w = tensor(&weights, &[EXPERTS, OUTPUTS, WIDTH]);
        let s = Some(tensor(&scale, &[TOKENS, TOP]));
        let out = moe_gemm(&x, &w, &None, &order, &experts, TOP, true).expect("product");
        check("tokens", &out, &wanted(&input, &weights, None));
        let out = moe_gemm(&xs, &w, &s, &order, &experts, TOP, false).expect("product");
        check("rows with weights", &out, &wanted(&rows, &weights, Some(&scale)));

        // F32 in blocks of one, which loses nothing.
        let host = Tensor::from_slice(&weights, (EXPERTS, OUTPUTS, WIDTH), &Device::Cpu).expect("tensor");
        let blocks = QTensor::quantize_onto(&host, GgmlDType::F32, &device).expect("blocks");
        let out = moe_gemm_gguf(&x, &blocks, &None, &order, &experts, TOP, true, DType::F32).expect("product");
        check("blocks", &out, &wanted(&input, &weights, None));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let device = Device::Cpu;
    let (order, experts) = sorted();
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device).expect("zeros");
    let run = |order: &[u32], experts: &[u32], rows: usize| {
        let (order, experts) = (Tensor::new(order, &device).expect("ids"), Tensor::new(experts, &device).expect("ids"));
        let out = moe_gemm(&zeros(&[rows, 4]), &zeros(&[EXPERTS, 3, 4]), &None, &order, &experts, TOP, true);
        out.expect_err("refused").to_string()
    };
    let mut twice = order.clone();
    twice[1] = twice[0];
    assert!(run(&twice, &experts, TOKENS).contains("twice"));
    let mut beyond = experts.clone();
    beyond[9] = 9;
    assert!(run(&order, &beyond, TOKENS).contains("expert 9 of 4"));
    let mut unsorted = experts.clone();
    unsorted.reverse();
    assert!(run(&order, &unsorted, TOKENS).contains("ascending"));
    assert!(run(&order, &experts, TOKENS + 1).contains("do not fit"));
}
