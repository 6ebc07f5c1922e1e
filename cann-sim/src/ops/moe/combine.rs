//! What experts answered, added up for the tokens that had chosen them.

use super::{choices, device_fault, tiling};
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType::{BF16, F32, I32};
use crate::ops::types::FLOATS;
use crate::status::{Result, Status};
use acl_sys::error::ACLNN_ERR_INNER_NULLPTR;

/// The sum of each token's rows.
struct Combine {
    /// `[R, H]`, or `[E, C, H]`.
    rows: Tensor,
    /// Which row each choice has, `[T · K]`.
    places: Tensor,
    /// Whether `places` holds the first choices of all tokens, then the second ones …
    by_choice: bool,
    /// Whether choices may have been dropped, whose place is -1.
    drops: bool,
    /// Whether a row may be asked for once only.
    once: bool,
    k: usize,
    /// Weight of each choice, `[T, K]`.
    weights: Option<Tensor>,
    /// Added to the sum, `[T, H]` each.
    shared: Vec<Tensor>,
    /// `[E, H]`, and the expert of each choice, `[T, K]`.
    bias: Option<(Tensor, Tensor)>,
    out: Tensor,
}

impl Combine {
    /// Row of each choice, token by token; none for one that was dropped.
    fn places(&self, launch: &Launch) -> Result<Vec<Option<usize>>> {
        let (tokens, k) = (self.out.shape[0], self.k);
        let rows = self.rows.shape[..self.rows.rank() - 1].iter().product::<usize>() as i64;
        let places = choices(launch, &self.places, if self.drops { -1 } else { 0 }..rows)?;
        if self.once {
            check_once(launch, &self.places, &places, rows as usize)?;
        }
        let at = |i: usize| if self.by_choice { i % k * tokens + i / k } else { i };
        Ok((0..tokens * k).map(|i| usize::try_from(places[at(i)]).ok()).collect())
    }

    fn run(&self, launch: &Launch) -> Result<()> {
        let &[tokens, width] = &self.out.shape[..] else { unreachable!("checked to have two dimensions") };
        let (rows, places) = (self.rows.load_f32(launch)?, self.places(launch)?);
        let weights = self.weights.as_ref().map(|weights| weights.load_f32(launch)).transpose()?;
        let bias = match &self.bias {
            Some((bias, experts)) => Some((bias.load_f32(launch)?, choices(launch, experts, 0..bias.shape[0] as i64)?)),
            None => None,
        };
        let mut out = vec![0f32; tokens * width];
        for shared in &self.shared {
            shared.load_f32(launch)?.iter().zip(&mut out).for_each(|(x, to)| *to += x);
        }
        for (i, place) in places.into_iter().enumerate() {
            let weight = weights.as_ref().map_or(1.0, |weights| weights[i]);
            let row = place.map(|place| &rows[place * width..][..width]);
            let bias = bias.as_ref().map(|(bias, experts)| &bias[experts[i] as usize * width..][..width]);
            for (column, to) in out[i / self.k * width..][..width].iter_mut().enumerate() {
                *to += weight * (row.map_or(0.0, |row| row[column]) + bias.map_or(0.0, |bias| bias[column]));
            }
        }
        self.out.store_f32(launch, &out)
    }
}

/// Refuses a list of `places` in which one occurs twice.
fn check_once(launch: &Launch, list: &Tensor, places: &[i64], rows: usize) -> Result<()> {
    let mut seen = vec![false; rows];
    match places.iter().find(|&&place| place >= 0 && std::mem::replace(&mut seen[place as usize], true)) {
        Some(place) => device_fault(launch, format!("{} names row {place} twice", list.name)),
        None => Ok(()),
    }
}

/// The sum of each token's rows, weighted, with a bias an expert, and one or two tensors added.
#[allow(clippy::too_many_arguments)]
pub fn moe_finalize_routing(
    call: &mut Call,
    expanded_x: Tensor,
    x1: Tensor,
    x2: Option<Tensor>,
    bias: Tensor,
    scales: Tensor,
    expanded_row_idx: Tensor,
    expanded_expert_idx: Tensor,
    out: Tensor,
) -> Result<Kernel> {
    call.same_dtype(&scales, &expanded_x)?;
    let bias = Some((bias, expanded_expert_idx));
    finalize(call, expanded_x, expanded_row_idx, Some(x1), x2, bias, Some(scales), 0, out, |call, text| {
        call.invalid(text)
    })
}

/// As [`moe_finalize_routing`], where only the rows and their places must be given. `drop_pad_mode` says how they lie: 0
/// the first choices of all tokens, then the second ones; 2 token by token; 1 and 3 the same with room for some rows an
/// expert, `[E, C, H]`, and -1 for a dropped choice.
#[allow(clippy::too_many_arguments)]
pub fn moe_finalize_routing_v2(
    call: &mut Call,
    expanded_x: Tensor,
    expanded_row_idx: Tensor,
    x1: Option<Tensor>,
    x2: Option<Tensor>,
    bias: Option<Tensor>,
    scales: Option<Tensor>,
    expert_idx: Option<Tensor>,
    drop_pad_mode: i64,
    out: Tensor,
) -> Result<Kernel> {
    let refused = |call: &Call, text: String| -> Result<Kernel> {
        Err(Status::new(ACLNN_ERR_INNER_NULLPTR, format!("{}: {text}", call.op)))
    };
    if !(0..=3).contains(&drop_pad_mode) {
        return refused(call, format!("dropPadMode is {drop_pad_mode}, wanted 0 to 3"));
    }
    if x1.is_none() && x2.is_some() {
        return refused(call, "x2 is given without x1".into());
    }
    let bias = match (bias, expert_idx) {
        (Some(bias), Some(experts)) => Some((bias, experts)),
        (Some(_), None) => return refused(call, "bias is given without expertIdx".into()),
        (None, _) => None,
    };
    finalize(call, expanded_x, expanded_row_idx, x1, x2, bias, scales, drop_pad_mode, out, refused)
}

#[allow(clippy::too_many_arguments)]
fn finalize(
    call: &mut Call,
    rows: Tensor,
    places: Tensor,
    x1: Option<Tensor>,
    x2: Option<Tensor>,
    bias: Option<(Tensor, Tensor)>,
    weights: Option<Tensor>,
    mode: i64,
    out: Tensor,
    refused: impl Fn(&Call, String) -> Result<Kernel>,
) -> Result<Kernel> {
    call.dtype_in(&rows, FLOATS)?;
    let shared: Vec<Tensor> = x1.into_iter().chain(x2).collect();
    let floats = shared.iter().chain(bias.as_ref().map(|(bias, _)| bias)).chain([&out]);
    floats.into_iter().try_for_each(|tensor| call.same_dtype(tensor, &rows))?;
    if let Some(weights) = weights.as_ref().filter(|weights| (rows.dtype, weights.dtype) != (BF16, F32)) {
        call.same_dtype(weights, &rows)?;
    }
    call.dtype_in(&places, &[I32])?;
    let drops = mode % 2 == 1;
    let (&[tokens, width], &[copies]) = (&out.shape[..], &places.shape[..]) else {
        return refused(
            call,
            format!("out {:?} and expandedRowIdx {:?}, wanted [T, H] and [T · K]", out.shape, places.shape),
        );
    };
    let k = weights.as_ref().map_or(1, |weights| weights.shape.last().copied().unwrap_or(0));
    let wanted = if drops { rows.rank() == 3 && rows.shape[2] == width } else { rows.shape == [copies, width] };
    if !wanted || copies != tokens * k || copies == 0 || width == 0 {
        let text =
            format!("expandedX {:?}, expandedRowIdx [{copies}], out [{tokens}, {width}], {k} choices", rows.shape);
        return refused(call, format!("{text}; wanted a row for each choice of each token, and none of them empty"));
    }
    let shapes = shared.iter().map(|tensor| (tensor, vec![tokens, width]));
    let shapes = shapes.chain(weights.as_ref().map(|weights| (weights, vec![tokens, k])));
    let shapes = shapes.chain(bias.iter().flat_map(|(bias, experts)| {
        [(bias, vec![bias.shape.first().copied().unwrap_or(0), width]), (experts, vec![tokens, k])]
    }));
    for (tensor, shape) in shapes {
        if tensor.shape != shape {
            return refused(call, format!("{} is {:?}, wanted {shape:?}", tensor.name, tensor.shape));
        }
    }
    if let Some((bias, experts)) = &bias {
        call.dtype_in(experts, &[I32])?;
        if bias.shape[0] < k {
            return refused(call, format!("bias has {} experts for {k} choices of a token", bias.shape[0]));
        }
    }
    let combine = Combine { rows, places, by_choice: mode < 2, drops, once: false, k, weights, shared, bias, out };
    Ok(Box::new(move |launch| combine.run(launch)))
}

/// Checks what the operators on permuted rows have in common: rows `[T · K, H]`, their places, and K.
fn check_permuted(call: &Call, rows: &Tensor, places: &Tensor, tokens: &Tensor, k: usize, padded: bool) -> Result<()> {
    call.dtype_in(rows, FLOATS)?;
    call.same_dtype(tokens, rows)?;
    call.dtype_in(places, &[I32])?;
    let copies = places.shape.first().copied().unwrap_or(0);
    let fits = match (&rows.shape[..], &tokens.shape[..]) {
        (&[r, h], &[t, width]) => r == copies && h == width && t.checked_mul(k) == Some(copies),
        _ => false,
    };
    if !fits || places.rank() != 1 || !(1..=512).contains(&k) || padded {
        let shapes = [rows, tokens, places].map(|tensor| format!("{} {:?}", tensor.name, tensor.shape)).join(", ");
        let text = format!("{shapes}, {k} choices, paddedMode {padded}");
        return tiling(call, format!("{text}; wanted [T · K, H], [T, H], [T · K], 1 to 512, and false"));
    }
    Ok(())
}

fn choices_of(probs: Option<&Tensor>) -> usize {
    probs.map_or(1, |probs| probs.shape.get(1).copied().unwrap_or(0))
}

fn check_probs(call: &Call, probs: Option<&Tensor>, tokens: &Tensor, shape: Option<&Vec<i64>>) -> Result<()> {
    if shape.is_some() {
        return call.invalid("restoreShape is given; wanted null without paddedMode");
    }
    let Some(probs) = probs else { return Ok(()) };
    call.dtype_in(probs, FLOATS)?;
    match &probs.shape[..] {
        &[rows, _] if rows == tokens.shape[0] => Ok(()),
        shape => tiling(call, format!("probs is {shape:?}, wanted [{}, K]", tokens.shape.first().unwrap_or(&0))),
    }
}

/// The sum of each token's rows, weighted by `probs` `[T, K]`; without them each token has one row.
pub fn moe_token_unpermute(
    call: &mut Call,
    permuted_tokens: Tensor,
    sorted_indices: Tensor,
    probs: Option<Tensor>,
    padded_mode: bool,
    restore_shape: Option<Vec<i64>>,
    out: Tensor,
) -> Result<Kernel> {
    let k = choices_of(probs.as_ref());
    check_permuted(call, &permuted_tokens, &sorted_indices, &out, k, padded_mode)?;
    check_probs(call, probs.as_ref(), &out, restore_shape.as_ref())?;
    let (rows, places) = (permuted_tokens, sorted_indices);
    let once = true;
    let (by_choice, drops, shared, bias) = (false, false, Vec::new(), None);
    let combine = Combine { rows, places, by_choice, drops, once, k, weights: probs, shared, bias, out };
    Ok(Box::new(move |launch| combine.run(launch)))
}

/// The gradient of the tokens that [`super::moe_token_permute`] repeated.
pub fn moe_token_permute_grad(
    call: &mut Call,
    permuted_output_grad: Tensor,
    sorted_indices: Tensor,
    num_topk: i64,
    padded_mode: bool,
    out: Tensor,
) -> Result<Kernel> {
    let k = usize::try_from(num_topk).unwrap_or(0);
    check_permuted(call, &permuted_output_grad, &sorted_indices, &out, k, padded_mode)?;
    let (rows, places, once) = (permuted_output_grad, sorted_indices, true);
    let (by_choice, drops, weights, shared, bias) = (false, false, None, Vec::new(), None);
    let combine = Combine { rows, places, by_choice, drops, once, k, weights, shared, bias, out };
    Ok(Box::new(move |launch| combine.run(launch)))
}

/// The gradients of [`moe_token_unpermute`]: of its rows, and of the weights where it had some.
#[allow(clippy::too_many_arguments)]
pub fn moe_token_unpermute_grad(
    call: &mut Call,
    permuted_tokens: Tensor,
    unpermuted_tokens_grad: Tensor,
    sorted_indices: Tensor,
    probs: Option<Tensor>,
    padded_mode: bool,
    restore_shape: Option<Vec<i64>>,
    permuted_tokens_grad_out: Tensor,
    probs_grad_out: Option<Tensor>,
) -> Result<Kernel> {
    let (rows, grad, places) = (permuted_tokens, unpermuted_tokens_grad, sorted_indices);
    let k = choices_of(probs.as_ref());
    check_permuted(call, &rows, &places, &grad, k, padded_mode)?;
    check_probs(call, probs.as_ref(), &grad, restore_shape.as_ref())?;
    call.same_dtype(&permuted_tokens_grad_out, &rows)?;
    call.shape_is(&permuted_tokens_grad_out, &rows.shape)?;
    let weights = match (probs, probs_grad_out) {
        (None, _) => None,
        (Some(probs), Some(out)) => {
            call.same_dtype(&out, &probs)?;
            call.shape_is(&out, &probs.shape)?;
            Some((probs, out))
        }
        (Some(_), None) => return call.invalid("probsGradOut is null although there are probs"),
    };
    let width = rows.shape[1];
    Ok(Box::new(move |launch| {
        let at = choices(launch, &places, 0..rows.shape[0] as i64)?;
        check_once(launch, &places, &at, rows.shape[0])?;
        let (values, grads) = (rows.load_f32(launch)?, grad.load_f32(launch)?);
        let probs = weights.as_ref().map(|(probs, _)| probs.load_f32(launch)).transpose()?;
        let mut of_rows = vec![0f32; values.len()];
        let mut of_probs = vec![0f32; at.len()];
        for (i, &place) in at.iter().enumerate() {
            let span = place as usize * width..(place as usize + 1) * width;
            let (row, grad) = (&values[span.clone()], &grads[i / k * width..][..width]);
            let weight = probs.as_ref().map_or(1.0, |probs| probs[i]);
            of_rows[span].iter_mut().zip(grad).for_each(|(to, grad)| *to = grad * weight);
            of_probs[i] = row.iter().zip(grad).map(|(x, grad)| x * grad).sum();
        }
        permuted_tokens_grad_out.store_f32(launch, &of_rows)?;
        weights.as_ref().map_or(Ok(()), |(_, out)| out.store_f32(launch, &of_probs))
    }))
}
