//! Layers and functions give what candle-nn's give, on the CPU, on the simulated NPU and on a GPU where there is one.

use candle_ascend::{DType, Device, Module, Tensor};
use candle_ascend_nn as nn;
use candle_core::Tensor as C;
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

fn devices() -> Vec<Device> {
    static OPEN: OnceLock<Vec<Device>> = OnceLock::new();
    let open = OPEN.get_or_init(|| {
        candle_ascend::register_simulator(|soc| Ok(Arc::new(cann_sim::Embedded::for_soc(soc)?)));
        let mut open = vec![Device::Cpu, Device::new_sim("", 0).expect("the simulated NPU opens")];
        match Device::new_cuda(0) {
            Ok(gpu) => open.push(gpu),
            // Straight to the terminal: what a passing test prints is swallowed.
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "did not run on cuda: {error}");
            }
        }
        open
    });
    open.clone()
}

/// Deterministic values in [-2, 2), the same for both libraries.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 * 4.0 - 2.0
    };
    (0..count).map(|_| next()).collect()
}

/// The same values as a tensor of ours and of candle's.
fn both(device: &Device, shape: &[usize], seed: u64) -> (Tensor, C) {
    let data = values(shape.iter().product(), seed);
    let ours = Tensor::from_vec(data.clone(), shape, device).expect("ours");
    (ours, C::from_vec(data, shape, &candle_core::Device::Cpu).expect("candle's"))
}

/// 1e-5: both sides sum in f32, in different orders, over at most a few dozen terms below 4.
#[track_caller]
fn same(what: &str, ours: &Tensor, theirs: &C) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let ours = ours.to_device(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect("ours");
    let theirs = theirs.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("candle's");
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{what}, element {i}: {a}, candle-nn has {b}");
    }
}

#[test]
fn layers() {
    for device in devices() {
        let (x, cx) = both(&device, &[3, 5, 7], 1);
        let (w, cw) = both(&device, &[11, 7], 2);
        let (b, cb) = both(&device, &[11], 3);
        let theirs = candle_core::Module::forward(&candle_nn::Linear::new(cw, Some(cb)), &cx).expect("linear");
        same("linear", &nn::Linear::new(w, Some(b)).forward(&x).expect("linear"), &theirs);

        let (g, cg) = both(&device, &[7], 4);
        let (h, ch) = both(&device, &[7], 5);
        let theirs = candle_core::Module::forward(&candle_nn::RmsNorm::new(cg.clone(), 1e-6), &cx).expect("rms norm");
        same("rms norm", &nn::RmsNorm::new(g.clone(), 1e-6).forward(&x).expect("rms norm"), &theirs);
        let theirs = candle_core::Module::forward(&candle_nn::LayerNorm::new(cg, ch, 1e-5), &cx).expect("layer norm");
        same("layer norm", &nn::LayerNorm::new(g, h, 1e-5).forward(&x).expect("layer norm"), &theirs);

        let (table, ctable) = both(&device, &[13, 6], 6);
        let ids = [0u32, 12, 5, 5, 1, 7];
        let ours = Tensor::from_slice(&ids, (2, 3), &device).expect("ids");
        let theirs = C::from_slice(&ids, (2, 3), &candle_core::Device::Cpu).expect("ids");
        let theirs = candle_core::Module::forward(&candle_nn::Embedding::new(ctable, 6), &theirs).expect("embedding");
        same("embedding", &nn::Embedding::new(table, 6).forward(&ours).expect("embedding"), &theirs);
    }
}

#[test]
fn activations() {
    use candle_nn::Activation as Theirs;
    use nn::Activation as Ours;
    let pairs = [
        (Ours::Gelu, Theirs::Gelu),
        (Ours::NewGelu, Theirs::NewGelu),
        (Ours::Relu, Theirs::Relu),
        (Ours::Relu2, Theirs::Relu2),
        (Ours::Silu, Theirs::Silu),
        (Ours::Sigmoid, Theirs::Sigmoid),
        (Ours::Swiglu, Theirs::Swiglu),
        (Ours::GeluPytorchTanh, Theirs::GeluPytorchTanh),
    ];
    for device in devices() {
        let (x, cx) = both(&device, &[3, 8], 7);
        for (ours, theirs) in &pairs {
            let wanted = candle_core::Module::forward(theirs, &cx).expect("candle's");
            same(&format!("{ours:?}"), &ours.forward(&x).expect("ours"), &wanted);
        }
    }
}

#[test]
fn functions() {
    for device in devices() {
        let (x, cx) = both(&device, &[2, 3, 9], 8);
        for dim in 0..3 {
            same(
                "softmax",
                &nn::ops::softmax(&x, dim).expect("ours"),
                &candle_nn::ops::softmax(&cx, dim).expect("candle's"),
            );
        }
        let theirs = candle_nn::ops::softmax_last_dim(&cx).expect("candle's");
        same("softmax_last_dim", &nn::ops::softmax_last_dim(&x).expect("ours"), &theirs);
        let theirs = candle_nn::ops::log_softmax(&cx, 2).expect("candle's");
        same("log_softmax", &nn::ops::log_softmax(&x, 2).expect("ours"), &theirs);
        same("silu", &nn::ops::silu(&x).expect("ours"), &candle_nn::ops::silu(&cx).expect("candle's"));

        let (q, cq) = both(&device, &[2, 3, 5, 8], 9);
        let (cos, ccos) = both(&device, &[5, 4], 10);
        let (sin, csin) = both(&device, &[5, 4], 11);
        let theirs = candle_nn::rotary_emb::rope(&cq, &ccos, &csin).expect("candle's");
        same("rope", &nn::rotary_emb::rope(&q, &cos, &sin).expect("ours"), &theirs);
        let theirs = candle_nn::rotary_emb::rope_i(&cq, &ccos, &csin).expect("candle's");
        same("rope_i", &nn::rotary_emb::rope_i(&q, &cos, &sin).expect("ours"), &theirs);
    }
}

#[test]
fn losses() {
    for device in devices() {
        let (x, cx) = both(&device, &[4, 6], 12);
        let (y, cy) = both(&device, &[4, 6], 13);
        let targets = [5u32, 0, 3, 3];
        let t = Tensor::from_slice(&targets, 4, &device).expect("targets");
        let ct = C::from_slice(&targets, 4, &candle_core::Device::Cpu).expect("targets");
        let theirs = candle_nn::loss::cross_entropy(&cx, &ct).expect("candle's");
        same("cross_entropy", &nn::loss::cross_entropy(&x, &t).expect("ours"), &theirs);
        same("mse", &nn::loss::mse(&x, &y).expect("ours"), &candle_nn::loss::mse(&cx, &cy).expect("candle's"));
    }
}

#[test]
fn a_cache_grows_like_candles() {
    for device in devices() {
        let (mut ours, mut theirs) = (nn::kv_cache::KvCache::new(2, 8), candle_nn::kv_cache::KvCache::new(2, 8));
        for (step, length) in [3, 1, 2].into_iter().enumerate() {
            let (k, ck) = both(&device, &[1, 2, length, 4], 20 + step as u64);
            let (v, cv) = both(&device, &[1, 2, length, 4], 30 + step as u64);
            let (keys, vals) = ours.append(&k, &v).expect("ours");
            let (ckeys, cvals) = theirs.append(&ck, &cv).expect("candle's");
            same("keys", &keys, &ckeys);
            same("values", &vals, &cvals);
        }
    }
}

#[test]
fn a_builder_finds_refuses_and_names() {
    for device in devices() {
        let (w, cw) = both(&device, &[4, 3], 40);
        let vb = nn::VarBuilder::from_tensors(HashMap::from([("a.b.weight".to_owned(), w)]), DType::F32, &device);
        let nested = vb.pp("a").pp("b");
        assert!(nested.contains_tensor("weight") && !nested.contains_tensor("bias"));
        same("builder", &nested.get((4, 3), "weight").expect("there"), &cw);
        let absent = nested.get((4, 3), "bias").expect_err("absent").to_string();
        assert!(absent.contains("a.b.bias"), "{absent}");
        let shape = nested.get((3, 4), "weight").expect_err("other shape").to_string();
        assert!(shape.contains("a.b.weight") && shape.contains("[4, 3]") && shape.contains("[3, 4]"), "{shape}");
    }
}
