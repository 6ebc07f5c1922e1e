//! Optimizer steps, and arithmetic over lists of tensors.

use super::moments::norm_of;
use super::types::*;
use super::wide::{Wide, with_wide};
use crate::aclnn::{Call, Kernel, Launch, Scalar, Tensor, TensorList};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::status::Result;

/// The tensors that one AdamW step reads and writes.
struct Adam {
    parameter: Tensor,
    first: Tensor,
    second: Tensor,
    grad: Tensor,
    /// Largest second moments so far, and whether the new ones go back there; else they take the second moments' place.
    peak: Option<(Tensor, bool)>,
}

/// The numbers of one AdamW step.
#[derive(Clone, Copy)]
struct Rates {
    lr: f32,
    beta1: f32,
    beta2: f32,
    weight_decay: f32,
    eps: f32,
    /// `1 - beta^t` of both moments.
    corrections: [f32; 2],
    maximize: bool,
}

impl Adam {
    fn check(&self, call: &Call) -> Result<()> {
        call.rank_in(&self.parameter, 1..=8)?;
        call.dtype_in(&self.parameter, FLOATS)?;
        let peak = self.peak.iter().map(|(tensor, _)| tensor);
        [&self.first, &self.second, &self.grad].into_iter().chain(peak).try_for_each(|tensor| {
            call.same_dtype(tensor, &self.parameter)?;
            call.shape_is(tensor, &self.parameter.shape)
        })
    }

    /// One step; everything is computed in `f32` and each tensor rounded once.
    fn step(&self, launch: &Launch, rates: Rates) -> Result<()> {
        let Rates { lr, beta1, beta2, weight_decay, eps, corrections, maximize } = rates;
        let mut parameter = self.parameter.load_f32(launch)?;
        let (mut first, mut second) = (self.first.load_f32(launch)?, self.second.load_f32(launch)?);
        let mut peak = self.peak.as_ref().map(|(tensor, _)| tensor.load_f32(launch)).transpose()?;
        for (i, grad) in self.grad.load_f32(launch)?.into_iter().enumerate() {
            let grad = if maximize { -grad } else { grad };
            first[i] = beta1 * first[i] + (1.0 - beta1) * grad;
            second[i] = beta2 * second[i] + (1.0 - beta2) * grad * grad;
            let moment = match &mut peak {
                Some(peak) => {
                    peak[i] = peak[i].max(second[i]);
                    peak[i]
                }
                None => second[i],
            };
            let step = lr / ((moment / corrections[1]).sqrt() + eps) * (first[i] / corrections[0]);
            parameter[i] -= step + lr * weight_decay * parameter[i];
        }
        match (&self.peak, peak) {
            (Some((tensor, true)), Some(peak)) => tensor.store_f32(launch, &peak)?,
            (_, Some(peak)) => second = peak,
            _ => {}
        }
        self.first.store_f32(launch, &first)?;
        self.second.store_f32(launch, &second)?;
        self.parameter.store_f32(launch, &parameter)
    }
}

/// Refuses a step that needs the largest second moments and has none.
fn needs_peak(call: &Call, amsgrad: bool, peak: Option<Tensor>, write: bool) -> Result<Option<(Tensor, bool)>> {
    match (amsgrad, peak) {
        (false, _) => Ok(None),
        (true, Some(peak)) => Ok(Some((peak, write))),
        (true, None) => call.invalid("amsgrad is true and max_grad_norm null"),
    }
}

/// One AdamW step whose rates are device tensors of one element; the powers are those before the step.
#[allow(clippy::too_many_arguments)]
pub fn apply_adam_w(
    call: &mut Call,
    var_ref: Tensor,
    m_ref: Tensor,
    v_ref: Tensor,
    beta1_power: Tensor,
    beta2_power: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    eps: Tensor,
    grad: Tensor,
    max_grad_norm: Option<Tensor>,
    amsgrad: bool,
    maximize: bool,
) -> Result<Kernel> {
    let peak = needs_peak(call, amsgrad, max_grad_norm, false)?;
    let adam = Adam { parameter: var_ref, first: m_ref, second: v_ref, grad, peak };
    adam.check(call)?;
    let rates = [beta1_power, beta2_power, lr, weight_decay, beta1, beta2, eps];
    for rate in &rates {
        call.same_dtype(rate, &adam.parameter)?;
        call.shape_is(rate, &[1])?;
    }
    Ok(Box::new(move |launch| {
        let read = rates.iter().map(|rate| Ok(rate.load_f32(launch)?[0])).collect::<Result<Vec<_>>>()?;
        let [power1, power2, lr, weight_decay, beta1, beta2, eps] = read[..] else {
            unreachable!("seven rates were read")
        };
        let corrections = [1.0 - power1 * beta1, 1.0 - power2 * beta2];
        adam.step(launch, Rates { lr, beta1, beta2, weight_decay, eps, corrections, maximize })
    }))
}

/// One AdamW step whose rates are host numbers; `step` is a device tensor of one element, counted from 1.
#[allow(clippy::too_many_arguments)]
pub fn apply_adam_w_v2(
    call: &mut Call,
    var_ref: Tensor,
    m_ref: Tensor,
    v_ref: Tensor,
    max_grad_norm_ref: Option<Tensor>,
    grad: Tensor,
    step: Tensor,
    lr: f32,
    beta1: f32,
    beta2: f32,
    weight_decay: f32,
    eps: f32,
    amsgrad: bool,
    maximize: bool,
) -> Result<Kernel> {
    let peak = needs_peak(call, amsgrad, max_grad_norm_ref, true)?;
    let adam = Adam { parameter: var_ref, first: m_ref, second: v_ref, grad, peak };
    adam.check(call)?;
    call.dtype_in(&step, &[I64, F32])?;
    if step.count() != 1 {
        return call.invalid(format!("step has {} elements, wanted 1", step.count()));
    }
    Ok(Box::new(move |launch| {
        let step = step.load_f64(launch)?[0];
        let corrections = [beta1, beta2].map(|beta| (1.0 - (beta as f64).powf(step)) as f32);
        adam.step(launch, Rates { lr, beta1, beta2, weight_decay, eps, corrections, maximize })
    }))
}

/// What lists of tensors to be added or scaled take.
const LISTED: &[DType] = &[F32, F16, BF16, I32, I16, I8, U8];

/// Checks lists of inputs and outputs: as many, of one type, of the same shapes.
fn check_lists(call: &Call, inputs: &[&TensorList], out: &TensorList, types: &[DType]) -> Result<DType> {
    let Some(first) = out.first() else {
        return call.invalid("out is empty");
    };
    call.dtype_in(first, types)?;
    for list in inputs {
        if list.len() != out.len() {
            return call.invalid(format!("{} tensors come in and {} go out", list.len(), out.len()));
        }
        for (x, out) in list.iter().zip(out) {
            at_most_8d(call, &[x])?;
            call.same_dtype(x, first)?;
            call.same_dtype(out, first)?;
            call.shape_is(out, &x.shape)?;
        }
    }
    Ok(first.dtype)
}

/// Checks a factor on the device: one element, of the type that goes with the list's.
fn check_factor(call: &Call, factor: &Tensor, dtype: DType) -> Result<()> {
    call.dtype_in(
        factor,
        match dtype {
            F16 => &[F16],
            F32 | BF16 => &[F32],
            _ => &[I32],
        },
    )?;
    match factor.count() {
        1 => Ok(()),
        count => call.invalid(format!("{} has {count} elements, wanted 1", factor.name)),
    }
}

/// The kernels of a list and a factor: `f(element, factor)`.
macro_rules! with_factor {
    ($x:ident, $out:ident, $dtype:ident, |$launch:ident, $W:ident| $factor:expr, $f:expr) => {
        Box::new(move |$launch: &Launch| {
            with_wide!($dtype, $W => {
                let factor: $W = $factor;
                $x.iter().zip(&$out).try_for_each(|(x, out)| {
                    let values: Vec<$W> = $W::load(x, $launch)?.into_iter().map(|value| $f(value, factor)).collect();
                    $W::store(out, $launch, &values)
                })
            })
        })
    };
}

/// Adds one number to every tensor of a list.
pub fn foreach_add_scalar(call: &mut Call, x: TensorList, scalar: Tensor, out: TensorList) -> Result<Kernel> {
    let dtype = check_lists(call, &[&x], &out, LISTED)?;
    check_factor(call, &scalar, dtype)?;
    Ok(with_factor!(x, out, dtype, |launch, W| W::load(&scalar, launch)?[0], W::plus))
}

/// Multiplies every tensor of a list by one number.
pub fn foreach_mul_scalar(call: &mut Call, x: TensorList, scalar: Tensor, out: TensorList) -> Result<Kernel> {
    let dtype = check_lists(call, &[&x], &out, &[F32, F16, BF16, I32])?;
    check_factor(call, &scalar, dtype)?;
    Ok(with_factor!(x, out, dtype, |launch, W| W::load(&scalar, launch)?[0], W::times))
}

/// Multiplies every tensor of a list by one host number.
pub fn foreach_mul_scalar_v2(call: &mut Call, x: TensorList, scalar: Scalar, out: TensorList) -> Result<Kernel> {
    let dtype = check_lists(call, &[&x], &out, &[F32, F16, BF16, I32])?;
    let allowed: &[DType] = match dtype {
        F16 => &[F16, F64],
        I32 => &[I32, I64],
        _ => &[F32, F64],
    };
    if !allowed.contains(&scalar.dtype) {
        return call.invalid(format!("scalar is {}, wanted one of {allowed:?} with {dtype} tensors", scalar.dtype));
    }
    Ok(with_factor!(x, out, dtype, |launch, W| W::of(&scalar), W::times))
}

/// `x1 + alpha · x2` of each pair of tensors.
pub fn foreach_add_list(
    call: &mut Call,
    x1: TensorList,
    x2: TensorList,
    alpha: Tensor,
    out: TensorList,
) -> Result<Kernel> {
    let dtype = check_lists(call, &[&x1, &x2], &out, LISTED)?;
    check_factor(call, &alpha, dtype)?;
    Ok(Box::new(move |launch| {
        with_wide!(dtype, W => {
            let alpha = W::load(&alpha, launch)?[0];
            x1.iter().zip(&x2).zip(&out).try_for_each(|((a, b), out)| {
                let pairs = W::load(a, launch)?.into_iter().zip(W::load(b, launch)?);
                W::store(out, launch, &pairs.map(|(a, b)| a.plus(alpha.times(b))).collect::<Vec<W>>())
            })
        })
    }))
}

/// The norm of each tensor of a list.
pub fn foreach_norm(call: &mut Call, x: TensorList, scalar: Scalar, out: TensorList) -> Result<Kernel> {
    if x.len() != out.len() {
        return call.invalid(format!("{} tensors come in and {} go out", x.len(), out.len()));
    }
    for (x, out) in x.iter().zip(&out) {
        call.dtype_in(x, FLOATS)?;
        call.same_dtype(out, x)?;
        if out.count() != 1 {
            return call.invalid(format!("out has shape {:?}, wanted one element", out.shape));
        }
    }
    let p = scalar.float;
    Ok(Box::new(move |launch| {
        x.iter().zip(&out).try_for_each(|(x, out)| out.store_f64(launch, &[norm_of(&x.load_f64(launch)?, p)]))
    }))
}
