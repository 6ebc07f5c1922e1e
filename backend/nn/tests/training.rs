//! Optimizers and the gradients of losses give what candle-nn's give, on the CPU and on the simulated NPU.

use candle_ascend::{DType, Device, Result, Tensor, Var};
use candle_ascend_nn::{AdamW, Optimizer, ParamsAdamW, SGD, loss, ops};
use candle_core::{Tensor as C, Var as CVar};
use candle_nn::Optimizer as _;
use std::sync::{Arc, OnceLock};

fn devices() -> Vec<Device> {
    static NPU: OnceLock<Device> = OnceLock::new();
    let npu = NPU.get_or_init(|| {
        candle_ascend::register_simulator(|soc| Ok(Arc::new(cann_sim::Embedded::for_soc(soc)?)));
        Device::new_sim("", 0).expect("the simulated NPU opens")
    });
    vec![Device::Cpu, npu.clone()]
}

/// Values in [-1, 1) that look random.
fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1000) as f32 / 500. - 1.).collect()
}

fn ours(shape: &[usize], seed: usize, device: &Device) -> Result<Tensor> {
    Tensor::from_vec(values(shape.iter().product(), seed), shape, device)
}

fn theirs(shape: &[usize], seed: usize) -> Result<C> {
    C::from_vec(values(shape.iter().product(), seed), shape, &candle_core::Device::Cpu)
}

/// Two roundings of F32 a step, on values below two.
#[track_caller]
fn same(what: &str, ours: &Tensor, theirs: &C) -> Result<()> {
    let ours = ours.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
    let theirs = theirs.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        assert!((a - b).abs() <= 4e-6, "{what}: element {i} is {a}, candle-nn has {b}");
    }
    Ok(())
}

/// A small regression, written once for both libraries.
macro_rules! regression {
    ($w:expr, $b:expr, $x:expr, $y:expr) => {
        ($x.matmul($w.as_tensor())?.broadcast_add($b.as_tensor())?.tanh()? - &$y)?.sqr()?.mean_all()
    };
}

/// Steps of both optimizers from the same start; each step's variables are compared.
macro_rules! steps {
    ($name:expr, $device:expr, $ours:expr, $theirs:expr) => {{
        let (w, b) = (Var::from_tensor(&ours(&[4, 3], 1, $device)?)?, Var::from_tensor(&ours(&[3], 2, $device)?)?);
        let (cw, cb) = (CVar::from_tensor(&theirs(&[4, 3], 1)?)?, CVar::from_tensor(&theirs(&[3], 2)?)?);
        let mut optimizer = $ours(vec![w.clone(), b.clone()])?;
        let mut wanted = $theirs(vec![cw.clone(), cb.clone()])?;
        let (x, y) = (ours(&[5, 4], 3, $device)?, ours(&[5, 3], 4, $device)?);
        let (cx, cy) = (theirs(&[5, 4], 3)?, theirs(&[5, 3], 4)?);
        for step in 0..6 {
            if step == 3 {
                optimizer.set_learning_rate(0.02);
                wanted.set_learning_rate(0.02);
            }
            optimizer.backward_step(&regression!(w, b, x, y)?)?;
            wanted.backward_step(&regression!(cw, cb, cx, cy)?)?;
            let case = format!("{} step {step} on {}", $name, $device.kind());
            same(&case, &w, &cw)?;
            same(&case, &b, &cb)?;
        }
        assert_eq!(optimizer.learning_rate(), wanted.learning_rate());
    }};
}

#[test]
fn optimizers_step_as_candles() -> Result<()> {
    let params = ParamsAdamW { lr: 0.05, weight_decay: 0.1, ..ParamsAdamW::default() };
    let theirs_params = candle_nn::ParamsAdamW { lr: 0.05, weight_decay: 0.1, ..candle_nn::ParamsAdamW::default() };
    for device in devices() {
        steps!("SGD", &device, |vars| SGD::new(vars, 0.1), |vars| candle_nn::SGD::new(vars, 0.1));
        steps!("AdamW", &device, |vars| AdamW::new(vars, params.clone()), |vars| candle_nn::AdamW::new(
            vars,
            theirs_params.clone()
        ));
    }
    Ok(())
}

#[test]
fn a_step_of_adamw_is_one_launch_a_tensor_on_an_npu() -> Result<()> {
    // A device of its own: the launches of other tests count too. The first call makes the simulator known.
    devices();
    let device = Device::new_sim("", 1)?;
    let Device::Npu(npu) = &device else { panic!("not an NPU") };
    let vars = [3, 5, 7].map(|size| Var::ones(size, DType::F32, &device)).into_iter().collect::<Result<Vec<_>>>()?;
    let mut loss = Tensor::zeros((), DType::F32, &device)?;
    for var in &vars {
        loss = (loss + var.sqr()?.sum_all()?)?;
    }
    let grads = loss.backward()?;
    let mut optimizer = AdamW::new_lr(vars, 0.1)?;
    let before = npu.counters().launches;
    optimizer.step(&grads)?;
    assert_eq!(npu.counters().launches - before, 3);
    Ok(())
}

#[test]
fn losses_have_candles_gradients() -> Result<()> {
    type Ours = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;
    type Theirs = fn(&C, &C, &C) -> Result<C>;
    let cases: [(&str, Ours, Theirs); 5] = [
        ("cross_entropy", |x, _, t| loss::cross_entropy(x, t), |x, _, t| candle_nn::loss::cross_entropy(x, t)),
        ("mse", |x, y, _| loss::mse(x, y), |x, y, _| candle_nn::loss::mse(x, y)),
        // Differences of the two are 1.46 or 0.54 in size: on both sides of the bend.
        ("huber", |x, y, _| loss::huber(x, y, 0.8), |x, y, _| candle_nn::loss::huber(x, y, 0.8)),
        (
            "binary_cross_entropy_with_logit",
            |x, y, _| loss::binary_cross_entropy_with_logit(x, &y.abs()?),
            |x, y, _| candle_nn::loss::binary_cross_entropy_with_logit(x, &y.abs()?),
        ),
        (
            "softmax of the first dimension",
            |x, y, _| (ops::softmax(x, 0)? * y)?.sum_all(),
            |x, y, _| (candle_nn::ops::softmax(x, 0)? * y)?.sum_all(),
        ),
    ];
    let targets = [2u32, 0, 3, 3];
    for (name, loss, wanted) in cases {
        let cx = CVar::from_tensor(&theirs(&[4, 5], 5)?)?;
        let ct = C::new(&targets, &candle_core::Device::Cpu)?;
        let wanted = wanted(&cx, &theirs(&[4, 5], 6)?, &ct)?.backward()?;
        for device in devices() {
            let x = Var::from_tensor(&ours(&[4, 5], 5, &device)?)?;
            let grads = loss(&x, &ours(&[4, 5], 6, &device)?, &Tensor::new(&targets, &device)?)?.backward()?;
            let (got, wanted) = (grads.get(&x).expect("gradient"), wanted.get(&cx).expect("candle's gradient"));
            same(&format!("{name} on {}", device.kind()), got, wanted)?;
        }
    }
    Ok(())
}
