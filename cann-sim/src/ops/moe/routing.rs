//! Rows of tokens brought into the order of the experts that they go to, and counted.

use super::{choices, device_fault, tiling};
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType::{F32, I32, I64};
use crate::ops::types::{FLOATS, INDICES};
use crate::status::{Result, Status};
use acl_sys::error::ACLNN_ERR_INNER_NULLPTR;
use std::ops::Range;

/// The places of `experts` from the lowest expert to the highest; those of one expert keep their order.
fn sorted(experts: &[i64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..experts.len()).collect();
    order.sort_by_key(|&place| experts[place]);
    order
}

/// How many of `experts` each of `range` is.
fn histogram(experts: &[i64], range: Range<i64>) -> Vec<i64> {
    let mut counts = vec![0; (range.end - range.start).max(0) as usize];
    for expert in experts.iter().filter(|expert| range.contains(*expert)) {
        counts[(expert - range.start) as usize] += 1;
    }
    counts
}

fn cumulated(counts: Vec<i64>) -> Vec<i64> {
    let mut sum = 0;
    counts
        .into_iter()
        .map(|count| {
            sum += count;
            sum
        })
        .collect()
}

/// Row `i` of `out` is row `from(i)` of `x`, for the first `count` rows; the others keep what they hold.
fn gather(launch: &Launch, x: &Tensor, out: &Tensor, count: usize, from: impl Fn(usize) -> usize) -> Result<()> {
    let (values, width) = (x.load_f32(launch)?, x.shape[1]);
    let rows: Vec<f32> = (0..count).flat_map(|i| values[from(i) * width..][..width].iter().copied()).collect();
    out.sliced_view(0, 0, count, 1).store_f32(launch, &rows)
}

/// Checks tokens `[T, H]` and their experts `[T, K]`: T, H and K.
fn tokens_and_choices(call: &Call, x: &Tensor, experts: &Tensor) -> Result<(usize, usize, usize)> {
    match (&x.shape[..], &experts.shape[..]) {
        (&[rows, width], &[tokens, k]) if rows == tokens => Ok((rows, width, k)),
        _ => {
            let text = format!("x {:?} and expertIdx {:?}, wanted [T, H] and [T, K]", x.shape, experts.shape);
            Err(Status::new(ACLNN_ERR_INNER_NULLPTR, format!("{}: {text}", call.op)))
        }
    }
}

/// Repeats the rows of `x` for their experts, sorted by expert. `row_idx` says which place of the unsorted list, column by
/// column, each choice has.
#[allow(clippy::too_many_arguments)]
pub fn moe_init_routing(
    call: &mut Call,
    x: Tensor,
    row_idx: Tensor,
    expert_idx: Tensor,
    active_num: i64,
    expanded_x_out: Tensor,
    expanded_row_idx_out: Tensor,
    expanded_expert_idx_out: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&x, FLOATS)?;
    call.same_dtype(&expanded_x_out, &x)?;
    for tensor in [&row_idx, &expert_idx, &expanded_row_idx_out, &expanded_expert_idx_out] {
        call.dtype_in(tensor, &[I32])?;
    }
    let (&[rows, width], &[tokens, k]) = (&x.shape[..], &expert_idx.shape[..]) else {
        return tiling(call, format!("x {:?} and expertIdx {:?}, wanted two dimensions", x.shape, expert_idx.shape));
    };
    let active = usize::try_from(active_num).ok().map(|active| active.min(rows));
    let copies = rows * k;
    let shapes =
        [(&row_idx, vec![rows, k]), (&expanded_row_idx_out, vec![copies]), (&expanded_expert_idx_out, vec![copies])];
    let wrong = shapes.iter().find(|(tensor, shape)| tensor.shape != *shape);
    let (Some(active), None, true) = (active, wrong, rows == tokens) else {
        let text = wrong.map(|(tensor, shape)| format!("{} is {:?}, wanted {shape:?}; ", tensor.name, tensor.shape));
        return tiling(
            call,
            format!("{}{rows} rows of x, {tokens} of expertIdx, activeNum {active_num}", text.unwrap_or_default()),
        );
    };
    if expanded_x_out.shape != [active * k, width] {
        return tiling(call, format!("expandedXOut is {:?}, wanted [{}, {width}]", expanded_x_out.shape, active * k));
    }
    Ok(Box::new(move |launch| {
        // The device sorts in F32, which holds no larger integers.
        let experts = choices(launch, &expert_idx, 1 - (1 << 24)..(1 << 24) + 1)?;
        let places = choices(launch, &row_idx, 0..copies as i64)?;
        let order = sorted(&experts);
        let mut back = vec![0i64; copies];
        order.iter().enumerate().for_each(|(i, &at)| back[places[at] as usize] = i as i64);
        expanded_row_idx_out.store_i64(launch, &back)?;
        expanded_expert_idx_out.store_i64(launch, &order.iter().map(|&at| experts[at]).collect::<Vec<_>>())?;
        gather(launch, &x, &expanded_x_out, active * k, |i| places[order[i]] as usize % rows)
    }))
}

/// As [`moe_init_routing`] without its list of places, and row by row: `expanded_row_idx_out` says where each choice went. With
/// `drop_pad_mode` 1 every expert has room for `expert_capacity` rows: what is more is dropped, what is left is zero.
#[allow(clippy::too_many_arguments)]
pub fn moe_init_routing_v2(
    call: &mut Call,
    x: Tensor,
    expert_idx: Tensor,
    active_num: i64,
    expert_capacity: i64,
    expert_num: i64,
    drop_pad_mode: i64,
    expert_tokens_count_or_cumsum_flag: i64,
    expert_tokens_before_capacity_flag: bool,
    expanded_x_out: Tensor,
    expanded_row_idx_out: Tensor,
    expert_tokens_count_or_cumsum_out: Option<Tensor>,
    expert_tokens_before_capacity_out: Option<Tensor>,
) -> Result<Kernel> {
    call.dtype_in(&x, FLOATS)?;
    call.same_dtype(&expanded_x_out, &x)?;
    call.dtype_in(&expert_idx, &[I32])?;
    call.dtype_in(&expanded_row_idx_out, &[I32])?;
    let op = call.op;
    let refused = |text: String| Err(Status::new(ACLNN_ERR_INNER_NULLPTR, format!("{op}: {text}")));
    let (rows, width, k) = tokens_and_choices(call, &x, &expert_idx)?;
    let (copies, drops, counting) = (rows * k, drop_pad_mode == 1, expert_tokens_count_or_cumsum_flag);
    if active_num < 0 || expert_capacity < 0 || expert_num < 0 {
        return refused(format!("activeNum {active_num}, expertCapacity {expert_capacity}, expertNum {expert_num}"));
    }
    if !(0..=1).contains(&drop_pad_mode) || !(0..=2).contains(&counting) {
        let text = format!("dropPadMode {drop_pad_mode}, expertTokensCountOrCumsumFlag {counting}");
        return refused(format!("{text}; wanted 0 or 1, and 0 to 2"));
    }
    let counted = counting > 0 && !drops;
    if (drops && (expert_num == 0 || !(1..=rows as i64).contains(&expert_capacity))) || (counted && expert_num == 0) {
        let text = format!("expertNum {expert_num} and expertCapacity {expert_capacity}");
        return refused(format!("{text}; wanted experts, and with dropPadMode 1 a capacity of 1 to {rows}"));
    }
    let active = if active_num == 0 { copies } else { copies.min(active_num as usize) };
    let (experts, capacity) = (expert_num as usize, expert_capacity as usize);
    call.shape_is(&expanded_x_out, &if drops { vec![experts, capacity, width] } else { vec![active, width] })?;
    call.shape_is(&expanded_row_idx_out, &[copies])?;
    let asked = |out: Option<Tensor>, wanted: bool, name: &str| -> Result<Option<Tensor>> {
        match out.filter(|_| wanted) {
            None if wanted => call.invalid(format!("{name} is null although its flag asks for it")),
            Some(out) => {
                call.dtype_in(&out, &[I32])?;
                call.shape_is(&out, &[experts])?;
                Ok(Some(out))
            }
            None => Ok(None),
        }
    };
    let counts = asked(expert_tokens_count_or_cumsum_out, counted, "expertTokensCountOrCumsumOut")?;
    let before = expert_tokens_before_capacity_flag && drops;
    let before = asked(expert_tokens_before_capacity_out, before, "expertTokensBeforeCapacityOut")?;
    // Only what is counted by expert is bounded.
    let bound = if drops || counted { expert_num } else { i64::MAX };
    Ok(Box::new(move |launch| {
        let chosen = choices(launch, &expert_idx, 0..bound)?;
        let order = sorted(&chosen);
        let histogram = if drops || counted { histogram(&chosen, 0..expert_num) } else { Vec::new() };
        if let Some(counts) = &counts {
            let values = if counting == 1 { cumulated(histogram.clone()) } else { histogram.clone() };
            counts.store_i64(launch, &values)?;
        }
        if let Some(before) = &before {
            before.store_i64(launch, &histogram)?;
        }
        let mut back = vec![-1i64; copies];
        if !drops {
            order.iter().enumerate().for_each(|(i, &at)| back[at] = i as i64);
            expanded_row_idx_out.store_i64(launch, &back)?;
            return gather(launch, &x, &expanded_x_out, active, |i| order[i] / k);
        }
        let (values, mut out) = (x.load_f32(launch)?, vec![0f32; experts * capacity * width]);
        let mut taken = vec![0usize; experts];
        for &at in &order {
            let expert = chosen[at] as usize;
            let place = expert * capacity + taken[expert];
            if taken[expert] < capacity {
                taken[expert] += 1;
                back[at] = place as i64;
                out[place * width..][..width].copy_from_slice(&values[at / k * width..][..width]);
            }
        }
        expanded_row_idx_out.store_i64(launch, &back)?;
        expanded_x_out.store_f32(launch, &out)
    }))
}

/// As [`moe_init_routing_v2`] for the experts of a range: choices of others, and -1, are left out. Counts are I64, as grouped
/// products take them.
#[allow(clippy::too_many_arguments)]
pub fn moe_init_routing_v3(
    call: &mut Call,
    x: Tensor,
    expert_idx: Tensor,
    scale: Option<Tensor>,
    offset: Option<Tensor>,
    active_num: i64,
    _expert_capacity: i64,
    expert_num: i64,
    drop_pad_mode: i64,
    expert_tokens_num_type: i64,
    expert_tokens_num_flag: bool,
    quant_mode: i64,
    active_expert_range: Option<Vec<i64>>,
    row_idx_type: i64,
    expanded_x_out: Tensor,
    expanded_row_idx_out: Tensor,
    expert_tokens_count_or_cumsum_out: Tensor,
    expanded_scale_out: Option<Tensor>,
) -> Result<Kernel> {
    call.dtype_in(&x, FLOATS)?;
    call.same_dtype(&expanded_x_out, &x)?;
    call.dtype_in(&expert_idx, &[I32])?;
    call.dtype_in(&expanded_row_idx_out, &[I32])?;
    call.dtype_in(&expert_tokens_count_or_cumsum_out, &[I64])?;
    for (name, value, wanted) in [("quantMode", quant_mode, -1), ("dropPadMode", drop_pad_mode, 0)] {
        if value != wanted {
            return call.invalid(format!("{name} is {value}; the simulated CANN computes {wanted}"));
        }
    }
    let (&[rows, width], &[tokens, k]) = (&x.shape[..], &expert_idx.shape[..]) else {
        return tiling(call, format!("x {:?} and expertIdx {:?}, wanted two dimensions", x.shape, expert_idx.shape));
    };
    let copies = rows * k;
    let most = if expert_tokens_num_type == 2 { 5120 } else { 10240 };
    let range = active_expert_range.unwrap_or_else(|| vec![0, expert_num]);
    let (&[first, end], true) = (&range[..], rows == tokens && (1..=most).contains(&expert_num)) else {
        let text =
            format!("{rows} rows of x, {tokens} of expertIdx, expertNum {expert_num}, activeExpertRange {range:?}");
        return tiling(call, format!("{text}; wanted as many rows, 1 to {most} experts, and a range of two"));
    };
    let whole = active_num == copies as i64 || matches!(active_num, -1 | 0);
    if !whole || first < 0 || end <= first || end > expert_num || !(0..=1).contains(&row_idx_type) {
        let text = format!("activeNum {active_num} of {copies}, activeExpertRange {range:?} of {expert_num}");
        return tiling(call, format!("{text}, rowIdxType {row_idx_type}"));
    }
    if !expert_tokens_num_flag || !(0..=2).contains(&expert_tokens_num_type) {
        let text =
            format!("expertTokensNumFlag {expert_tokens_num_flag}, expertTokensNumType {expert_tokens_num_type}");
        return tiling(call, format!("{text}; wanted true, and 0 to 2"));
    }
    let pairs = expert_tokens_num_type == 2;
    let counts = expert_tokens_count_or_cumsum_out;
    let shape = if pairs { vec![expert_num as usize, 2] } else { vec![(end - first) as usize] };
    for (tensor, shape) in
        [(&expanded_x_out, &[copies, width][..]), (&expanded_row_idx_out, &[copies]), (&counts, &shape)]
    {
        if tensor.shape != shape {
            return tiling(call, format!("{} is {:?}, wanted {shape:?}", tensor.name, tensor.shape));
        }
    }
    let scales = match (scale, expanded_scale_out) {
        (None, _) => None,
        (Some(scale), Some(out)) if scale.shape == [rows] && out.shape == [copies] => {
            call.dtype_in(&scale, &[F32])?;
            call.dtype_in(&out, &[F32])?;
            Some((scale, out))
        }
        (Some(scale), _) => {
            return tiling(call, format!("scale is {:?}, wanted [{rows}] with expandedScaleOut", scale.shape));
        }
    };
    if offset.is_some() {
        return tiling(call, "offset is given without static quantisation".into());
    }
    Ok(Box::new(move |launch| {
        let chosen = choices(launch, &expert_idx, -1..expert_num)?;
        let histogram = histogram(&chosen, first..end);
        let available: i64 = histogram.iter().sum();
        let order: Vec<usize> = sorted(&chosen).into_iter().filter(|&at| (first..end).contains(&chosen[at])).collect();
        match expert_tokens_num_type {
            0 => counts.store_i64(launch, &cumulated(histogram))?,
            1 => counts.store_i64(launch, &histogram)?,
            _ => {
                let busy = histogram.iter().enumerate().filter(|(_, count)| **count > 0);
                let mut pairs: Vec<i64> = busy.flat_map(|(i, &count)| [first + i as i64, count]).collect();
                pairs.resize(2 * expert_num as usize, 0);
                counts.store_i64(launch, &pairs)?
            }
        }
        let available = available as usize;
        if row_idx_type == 1 {
            let places: Vec<i64> = order.iter().map(|&at| at as i64).collect();
            expanded_row_idx_out.sliced_view(0, 0, available, 1).store_i64(launch, &places)?;
        } else {
            let mut back = vec![-1i64; copies];
            order.iter().enumerate().for_each(|(i, &at)| back[at] = i as i64);
            expanded_row_idx_out.store_i64(launch, &back)?;
        }
        if let Some((scale, out)) = &scales {
            let values = scale.load_f32(launch)?;
            let rows: Vec<f32> = order.iter().map(|&at| values[at / k]).collect();
            out.sliced_view(0, 0, available, 1).store_f32(launch, &rows)?;
        }
        gather(launch, &x, &expanded_x_out, available, |i| order[i] / k)
    }))
}

/// Where the rows of each expert end in a sorted list of experts.
pub fn moe_compute_expert_tokens(
    call: &mut Call,
    sorted_experts: Tensor,
    num_experts: i64,
    out: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&sorted_experts, &[I32])?;
    call.same_dtype(&out, &sorted_experts)?;
    if sorted_experts.rank() != 1 || !(1..=2048).contains(&num_experts) || out.shape != [num_experts as usize] {
        let text = format!("sortedExperts {:?}, out {:?}, numExperts {num_experts}", sorted_experts.shape, out.shape);
        return tiling(call, format!("{text}; wanted one dimension, 1 to 2048 experts, and an element of out each"));
    }
    if sorted_experts.count() >= 1 << 24 {
        return tiling(call, format!("sortedExperts has {} elements, wanted fewer than 2^24", sorted_experts.count()));
    }
    Ok(Box::new(move |launch| {
        let experts = choices(launch, &sorted_experts, 0..num_experts)?;
        if let Some(at) = experts.windows(2).position(|pair| pair[0] > pair[1]) {
            return device_fault(
                launch,
                format!("sortedExperts falls from {} to {} at {}", experts[at], experts[at + 1], at + 1),
            );
        }
        out.store_i64(launch, &cumulated(histogram(&experts, 0..num_experts)))
    }))
}

/// Rows of `tokens` repeated for their experts `[T, K]` or `[T]`, sorted by expert; the first `num_out_tokens` of them, or all
/// but as many where it is negative. `sorted_indices_out` says where each choice went.
pub fn moe_token_permute(
    call: &mut Call,
    tokens: Tensor,
    indices: Tensor,
    num_out_tokens: i64,
    padded_mode: bool,
    permute_tokens_out: Tensor,
    sorted_indices_out: Tensor,
) -> Result<Kernel> {
    call.dtype_in(&tokens, FLOATS)?;
    call.same_dtype(&permute_tokens_out, &tokens)?;
    call.dtype_in(&indices, INDICES)?;
    call.dtype_in(&sorted_indices_out, &[I32])?;
    let fits = tokens.rank() >= 2 && (1..=2).contains(&indices.rank()) && indices.shape[0] == tokens.shape[0];
    if !fits || padded_mode {
        let text = format!("tokens {:?}, indices {:?}, paddedMode {padded_mode}", tokens.shape, indices.shape);
        return tiling(call, format!("{text}; wanted [T, …], [T, K] or [T], and false"));
    }
    let (copies, k) = (indices.count(), indices.shape.get(1).copied().unwrap_or(1));
    let kept = match num_out_tokens {
        0 => copies,
        n if n < 0 => copies.saturating_sub(n.unsigned_abs() as usize),
        n => copies.min(n as usize),
    };
    let width: usize = tokens.shape[1..].iter().product();
    let shape_fits = permute_tokens_out.rank() >= 2
        && permute_tokens_out.shape[0] == kept
        && permute_tokens_out.shape[1..].iter().product::<usize>() == width;
    if !shape_fits || sorted_indices_out.shape != [copies] || copies >= 16_777_215 {
        let text =
            format!("permuteTokensOut {:?}, sortedIndicesOut {:?}", permute_tokens_out.shape, sorted_indices_out.shape);
        return tiling(call, format!("{text}; wanted [{kept}, …] of rows of {width}, and [{copies}] below 2^24 - 1"));
    }
    Ok(Box::new(move |launch| {
        let experts = choices(launch, &indices, 0..16_777_215)?;
        let order = sorted(&experts);
        let mut back = vec![0i64; copies];
        order.iter().enumerate().for_each(|(i, &at)| back[at] = i as i64);
        sorted_indices_out.store_i64(launch, &back)?;
        let values = tokens.load_f32(launch)?;
        let rows = order[..kept].iter().flat_map(|&at| values[at / k * width..][..width].iter().copied());
        permute_tokens_out.store_f32(launch, &rows.collect::<Vec<_>>())
    }))
}
