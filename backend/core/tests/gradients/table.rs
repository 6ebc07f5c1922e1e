//! One case an operator, written once for candle's tensors and ours.

use candle_ascend::ops::{self, AttentionMask, Nf4Packer, Weight};
use candle_ascend::{D, IndexOp as _, Result, Tensor};
use candle_core::Tensor as Candle;
use std::sync::Arc;

/// The same function over candle's tensors.
pub type CandleFunction = fn(&[Candle]) -> Result<Candle>;

/// A function whose gradient is checked.
pub struct Case {
    pub name: &'static str,
    pub shapes: &'static [&'static [usize]],
    pub ours: fn(&[Tensor]) -> Result<Tensor>,
    /// Where candle has it with a gradient.
    pub candle: Option<CandleFunction>,
    /// Whether NPUs can compute it.
    pub npu: bool,
}

/// The body sees the operands as a slice, and the tensor type as `T`.
macro_rules! both {
    ($name:literal, $shapes:expr, |$x:ident| $body:expr) => {
        Case {
            name: $name,
            shapes: &$shapes,
            ours: |$x| {
                #[allow(unused_imports)]
                use candle_ascend::Tensor as T;
                $body
            },
            candle: Some(|$x| {
                #[allow(unused_imports)]
                use candle_core::{IndexOp as _, Tensor as T};
                $body
            }),
            npu: true,
        }
    };
}

macro_rules! ours {
    ($name:literal, $shapes:expr, |$x:ident| $body:expr) => {
        Case { name: $name, shapes: &$shapes, ours: |$x| $body, candle: None, npu: true }
    };
}

const PAIR: [&[usize]; 2] = [&[3, 4], &[3, 4]];
const ONE: [&[usize]; 1] = [&[3, 4]];

pub fn cases() -> Vec<Case> {
    [elementwise(), views(), reductions_and_products(), indexing(), fused()].into_iter().flatten().collect()
}

fn elementwise() -> Vec<Case> {
    vec![
        both!("exp", ONE, |x| x[0].exp()),
        both!("log", ONE, |x| (x[0].abs()? + 0.5)?.log()),
        both!("sin", ONE, |x| x[0].sin()),
        both!("cos", ONE, |x| x[0].cos()),
        both!("tanh", ONE, |x| x[0].tanh()),
        both!("abs", ONE, |x| x[0].abs()),
        both!("neg", ONE, |x| x[0].neg()),
        both!("recip", ONE, |x| (x[0].abs()? + 0.5)?.recip()),
        both!("sqr", ONE, |x| x[0].sqr()),
        both!("sqrt", ONE, |x| (x[0].abs()? + 0.5)?.sqrt()),
        both!("erf", ONE, |x| x[0].erf()),
        both!("gelu", ONE, |x| x[0].gelu()),
        both!("gelu_erf", ONE, |x| x[0].gelu_erf()),
        both!("relu", ONE, |x| x[0].relu()),
        both!("silu", ONE, |x| x[0].silu()),
        // candle stops at these without an entry for the variable, as we do.
        both!("floor", ONE, |x| x[0].floor()? * &x[0]),
        both!("round", ONE, |x| x[0].round()? * &x[0]),
        both!("sign", ONE, |x| x[0].sign()? * &x[0]),
        ours!("ceil", ONE, |x| x[0].ceil()? * &x[0]),
        both!("affine", ONE, |x| x[0].affine(-1.5, 0.3)),
        both!("affine by nothing", ONE, |x| x[0].affine(0., 2.)? + &x[0]),
        both!("powf", ONE, |x| (x[0].abs()? + 0.5)?.powf(1.7)),
        both!("elu", ONE, |x| x[0].elu(0.7)),
        both!("add", PAIR, |x| &x[0] + &x[1]),
        both!("sub", PAIR, |x| &x[0] - &x[1]),
        both!("mul", PAIR, |x| &x[0] * &x[1]),
        both!("mul with itself", ONE, |x| &x[0] * &x[0]),
        both!("div", PAIR, |x| &x[0] / (x[1].abs()? + 0.5)?),
        both!("maximum", PAIR, |x| x[0].maximum(&x[1])),
        both!("minimum", PAIR, |x| x[0].minimum(&x[1])),
        both!("clamp", ONE, |x| x[0].clamp(-1f32, 1.5f32)),
        both!("where_cond", PAIR, |x| x[0].gt(&x[1])?.where_cond(&(&x[0] * 2.)?, &x[1])),
        both!("pow", PAIR, |x| (x[0].abs()? + 0.5)?.pow(&x[1])),
        both!("broadcast_div", [&[3, 4], &[4]], |x| x[0].broadcast_div(&(x[1].abs()? + 0.5)?)),
    ]
}

fn views() -> Vec<Case> {
    vec![
        both!("reshape", ONE, |x| x[0].reshape((2, 6))?.sqr()),
        both!("reshape that copies", ONE, |x| x[0].t()?.reshape((2, 6))?.sqr()),
        both!("transpose", ONE, |x| x[0].t()?.sqr()),
        both!("permute", [&[2, 3, 4]], |x| x[0].permute((2, 0, 1))?.exp()),
        both!("narrow", ONE, |x| x[0].narrow(1, 1, 2)?.sqr()),
        both!("narrow of the first dimension", ONE, |x| x[0].i(1)?.sqr()),
        both!("chunks", ONE, |x| {
            let parts = x[0].chunk(2, 1)?;
            &parts[0] * &parts[1]
        }),
        both!("broadcast_as", [&[3, 1]], |x| x[0].broadcast_as((2, 3, 4))?.contiguous()?.exp()),
        both!("broadcast_left", ONE, |x| x[0].broadcast_left(2)?.contiguous()?.exp()),
        both!("squeeze and unsqueeze", ONE, |x| x[0].unsqueeze(1)?.sqr()?.squeeze(1)),
        both!("copy", ONE, |x| x[0].t()?.contiguous()?.sqr()),
        ours!("unfold", [&[3, 5]], |x| x[0].unfold(1, 3, 1)?.contiguous()?.sqr()),
        both!("cat", PAIR, |x| T::cat(&[&x[0], &x[1].sqr()?, &x[0]], 1)?.exp()),
        both!("stack", PAIR, |x| T::stack(&[&x[0], &x[1].sqr()?], 0)?.exp()),
        both!("pad_with_zeros", ONE, |x| x[0].pad_with_zeros(1, 2, 1)?.exp()),
        both!("pad_with_same", ONE, |x| x[0].pad_with_same(1, 2, 1)?.exp()),
        both!("repeat", ONE, |x| x[0].repeat((2, 2))?.exp()),
        both!("flip and roll", ONE, |x| x[0].flip(&[1])?.roll(1, 0)?.exp()),
        both!("slice_scatter", [&[3, 4], &[1, 4]], |x| x[0].slice_scatter(&x[1], 0, 1)?.exp()),
        both!("slice_assign", [&[3, 4], &[2, 2]], |x| x[0].slice_assign(&[1..3, 1..3], &x[1])?.exp()),
    ]
}

fn reductions_and_products() -> Vec<Case> {
    vec![
        both!("sum", ONE, |x| x[0].exp()?.sum(0)?.sqr()),
        both!("sum over all", ONE, |x| x[0].exp()?.sum_all()?.sqr()),
        both!("mean", ONE, |x| x[0].exp()?.mean(1)?.sqr()),
        both!("var", ONE, |x| x[0].var(1)),
        both!("max", ONE, |x| x[0].max(1)?.sqr()),
        both!("min", ONE, |x| x[0].min_keepdim(0)?.sqr()),
        both!("log_sum_exp", ONE, |x| x[0].log_sum_exp(1)),
        both!("matmul", [&[3, 4], &[4, 5]], |x| x[0].matmul(&x[1])),
        both!("matmul of batches", [&[2, 3, 4], &[2, 4, 5]], |x| x[0].matmul(&x[1])),
        both!("matmul of views", [&[4, 3], &[5, 4]], |x| x[0].t()?.matmul(&x[1].t()?)),
        both!("broadcast_matmul", [&[2, 3, 4], &[4, 5]], |x| x[0].broadcast_matmul(&x[1])),
        both!("norm", ONE, |x| x[0].norm()),
        // candle's product refuses the layout of other dimensions.
        both!("cumsum", ONE, |x| x[0].exp()?.cumsum(1)),
        both!("to_dtype", ONE, |x| x[0].sqr()?.to_dtype(candle_core::DType::F32)?.exp()?.to_dtype(x[0].dtype())),
    ]
}

fn indexing() -> Vec<Case> {
    vec![
        both!("index_select", ONE, |x| x[0].index_select(&T::new(&[2u32, 0, 0, 3], x[0].device())?, 1)?.exp()),
        both!("embedding", ONE, |x| x[0].embedding(&T::new(&[2u32, 0, 0], x[0].device())?)?.exp()),
        ours!("ops::embedding", ONE, |x| { ops::embedding(&x[0], &Tensor::new(&[2u32, 0, 0], x[0].device())?)?.exp() }),
        both!("gather", ONE, |x| {
            x[0].gather(&T::new(&[[2u32, 0, 0], [1, 1, 3], [0, 2, 3]], x[0].device())?, 1)?.exp()
        }),
        ours!("gather of a part", ONE, |x| {
            x[0].gather(&Tensor::new(&[[2u32, 0, 0], [1, 1, 3]], x[0].device())?, 1)?.exp()
        }),
        both!("index_add", [&[3, 4], &[2, 4]], |x| {
            x[0].index_add(&T::new(&[2u32, 2], x[0].device())?, &x[1], 0)?.exp()
        }),
        // candle's gradients of these two leave the written places in (scatter) or out (scatter_add) of the wrong one.
        ours!("scatter", [&[3, 4], &[3, 2]], |x| {
            x[0].scatter(&Tensor::new(&[[2u32, 0], [1, 3], [0, 2]], x[0].device())?, &x[1], 1)?.exp()
        }),
        ours!("scatter_add", [&[3, 4], &[3, 2]], |x| {
            x[0].scatter_add(&Tensor::new(&[[2u32, 2], [1, 3], [0, 2]], x[0].device())?, &x[1], 1)?.exp()
        }),
        both!("sort_last_dim", ONE, |x| x[0].sort_last_dim(true)?.0.narrow(1, 0, 2)?.exp()),
    ]
}

fn cross_entropy(x: &[Tensor], how: ops::CrossEntropy) -> Result<Tensor> {
    let targets = Tensor::new(&[4i64, -100, 0, 2, 2], x[0].device())?;
    ops::linear_cross_entropy(&x[0], &x[1], &targets, how)?.sqr()
}

fn tables(x: &Tensor, width: usize) -> Result<(Tensor, Tensor)> {
    let angles: Vec<f64> = (0..3).flat_map(|p| (0..width).map(move |i| (p * (i % 4 + 1)) as f64 * 0.3)).collect();
    let angles = Tensor::from_vec(angles, (3, width), &candle_ascend::Device::Cpu)?;
    let on = |t: Tensor| t.to_dtype(x.dtype())?.to_device(x.device());
    Ok((on(angles.cos()?)?, on(angles.sin()?)?))
}

const QKV: [&[usize]; 3] = [&[2, 4, 3, 16], &[2, 2, 3, 16], &[2, 2, 3, 16]];

fn fused() -> Vec<Case> {
    vec![
        ours!("softmax_last_dim", [&[2, 3, 5]], |x| ops::softmax_last_dim(&x[0])),
        ours!("add_columns", [&[3, 9], &[3, 2], &[3, 3]], |x| {
            ops::add_columns(&x[0], &[(1, x[1].clone()), (5, x[2].clone())])
        }),
        ours!("add_columns of all", [&[2, 1, 4], &[2, 1, 4]], |x| ops::add_columns(&x[0], &[(0, x[1].clone())])),
        ours!("swiglu", [&[3, 8]], |x| ops::swiglu(&x[0])),
        ours!("rms_norm", [&[2, 3, 8], &[8]], |x| ops::rms_norm(&x[0], &x[1], 1e-3)),
        ours!("rms_norm of a view", [&[2, 8, 3], &[8]], |x| ops::rms_norm(&x[0].transpose(1, 2)?, &x[1], 1e-3)),
        ours!("add_rms_norm", [&[3, 8], &[3, 8], &[8]], |x| {
            let (normed, sum) = ops::add_rms_norm(&x[0], &x[1], &x[2], 1e-3)?;
            normed + sum.exp()?
        }),
        ours!("linear", [&[2, 3, 4], &[5, 4]], |x| ops::linear(&x[0], &x[1], None)),
        ours!("linear with bias", [&[2, 3, 4], &[5, 4], &[5]], |x| ops::linear(&x[0], &x[1], Some(&x[2]))),
        ours!("linear of a view", [&[4, 3], &[5, 4], &[5]], |x| ops::linear(&x[0].t()?, &x[1], Some(&x[2]))),
        ours!("linear over nf4", [&[2, 3, 32]], |x| four_bits(&x[0])?.linear(&x[0], None)),
        ours!("linear with bias over nf4", [&[3, 32], &[4]], |x| four_bits(&x[0])?.linear(&x[0], Some(&x[1]))),
        // An NPU draws another mask; `fused.rs` holds its gradient against its own.
        Case { npu: false, ..ours!("dropout", [&[3, 5]], |x| ops::dropout(&x[0], 0.4, 7)) },
        ours!("rotary", [&[2, 4, 3, 8], &[2, 2, 3, 8]], |x| {
            let (cos, sin) = tables(&x[0], 8)?;
            let (q, k) = ops::rotary(&x[0], &x[1], &cos, &sin)?;
            Tensor::cat(&[q, k], 1)?.exp()
        }),
        ours!("rotary with half tables", [&[2, 4, 3, 8], &[2, 2, 3, 8]], |x| {
            let (cos, sin) = tables(&x[0], 4)?;
            let (q, k) = ops::rotary(&x[0], &x[1], &cos, &sin)?;
            Tensor::cat(&[q, k], 1)?.exp()
        }),
        ours!("rotary with learned tables", [&[1, 2, 3, 8], &[1, 1, 3, 8], &[3, 4], &[3, 4]], |x| {
            let (q, k) = ops::rotary(&x[0], &x[1], &x[2], &x[3])?;
            Tensor::cat(&[q, k], 1)
        }),
        ours!("linear_cross_entropy", [&[5, 4], &[6, 4]], |x| {
            cross_entropy(x, ops::CrossEntropy { chunk: 2, ..Default::default() })
        }),
        ours!("linear_cross_entropy as a sum", [&[5, 4], &[6, 4]], |x| {
            cross_entropy(x, ops::CrossEntropy { mean: false, ..Default::default() })
        }),
        ours!("linear_loss", [&[5, 4], &[6, 4]], |x| {
            // A sum over rows that is not the same in each, so that a chunk that takes another's rows is seen.
            let weights = (Tensor::arange(1f32, 6., x[0].device())? * 0.5)?.to_dtype(x[0].dtype())?.unsqueeze(1)?;
            ops::linear_loss(&x[0], &x[1], 2, &mut |logits, rows| {
                let weights = weights.narrow(0, rows.start, rows.len())?;
                let spread = logits.exp()?.sum_keepdim(1)?.log()?;
                (spread.broadcast_sub(logits)?.sqr()?.broadcast_mul(&weights))?.sum_all()
            })
        }),
        ours!("attention", QKV, |x| ops::attention(&x[0], &x[1], &x[2], 0.3, AttentionMask::None)),
        ours!("causal attention", QKV, |x| {
            ops::attention(&x[0], &x[1], &x[2], 0.3, AttentionMask::Causal { offset: 0 })
        }),
        ours!("packed attention", [&[1, 4, 9, 16], &[1, 2, 9, 16], &[1, 2, 9, 16]], |x| {
            ops::attention_packed(&x[0], &x[1], &x[2], 0.3, &[4, 2, 2, 1])
        }),
        ours!("packed attention with as many key heads", [&[1, 2, 5, 16], &[1, 2, 5, 16], &[1, 2, 5, 16]], |x| {
            ops::attention_packed(&x[0], &x[1], &x[2], 0.3, &[2, 2, 1])
        }),
        ours!("attention with a learned mask", [QKV[0], QKV[1], QKV[2], &[3, 3]], |x| {
            ops::attention(&x[0], &x[1], &x[2], 0.3, Some(&x[3]))
        }),
        ours!("attention of transposed heads", [&[2, 3, 4, 16], &[2, 3, 2, 16], &[2, 3, 2, 16]], |x| {
            let heads = |x: &Tensor| x.transpose(1, 2);
            let mask = AttentionMask::Causal { offset: 0 };
            ops::attention(&heads(&x[0])?, &heads(&x[1])?, &heads(&x[2])?, 0.3, mask)?.sum(D::Minus1)
        }),
    ]
}

/// A matrix `[4, 32]` for products with `x`.
fn four_bits(x: &Tensor) -> Result<Weight> {
    let mut packer = Nf4Packer::new(32);
    let values = Tensor::from_iter((0..128).map(|i| (i as f32 * 0.7).sin()), &packer.host())?;
    packer.push(&values.reshape((4, 32))?)?;
    Ok(Weight::Nf4(Arc::new(packer.finish(x.dtype(), x.device())?)))
}
