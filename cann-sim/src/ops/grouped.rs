//! Products of groups of rows with a weight each, as experts take them.

use super::gemm::{Matrix, Stored, product_of};
use super::types::FLOATS;
use crate::aclnn::{Call, Kernel, Launch, Tensor, TensorList};
use crate::dtype::DType::{BF16, F16, F32, I64};
use crate::runtime::cost::Cost;
use crate::status::{Result, Status};
use acl_sys::error::ACL_ERROR_RT_AICORE_EXCEPTION;
use half::{bf16, f16};

/// Rows of one tensor, split at `group_list`, each part times its expert's matrix.
struct Grouped {
    x: Tensor,
    /// One tensor of experts × K × N, or a K × N tensor an expert.
    weights: Vec<Tensor>,
    bias: Option<Vec<Tensor>>,
    group_list: Tensor,
    /// Whether the list holds the groups' sizes instead of their ends.
    sizes: bool,
    out: Tensor,
}

impl Grouped {
    fn expert(&self, index: usize) -> Tensor {
        if self.weights.len() == 1 && self.weights[0].rank() == 3 {
            return self.weights[0].selected_view(0, index);
        }
        self.weights[index].clone()
    }

    fn bias(&self, launch: &Launch, index: usize) -> Result<Option<Vec<f32>>> {
        let Some(bias) = &self.bias else { return Ok(None) };
        let row =
            if bias.len() == 1 && bias[0].rank() == 2 { bias[0].selected_view(0, index) } else { bias[index].clone() };
        row.load_f32(launch).map(Some)
    }

    /// The groups' ends, which must not fall nor pass the rows.
    fn ends(&self, launch: &Launch) -> Result<Vec<usize>> {
        let (rows, mut end) = (self.x.shape[0], 0i64);
        let mut ends = Vec::new();
        for value in self.group_list.load_i64(launch)? {
            let next = if self.sizes { end.saturating_add(value) } else { value };
            if next < end || next > rows as i64 {
                let text = format!("{}: groupList ends a group at {next} after {end}, x has {rows} rows", launch.op);
                return Err(Status::new(ACL_ERROR_RT_AICORE_EXCEPTION, text));
            }
            end = next;
            ends.push(end as usize);
        }
        Ok(ends)
    }

    fn run<T: Stored>(&self, launch: &Launch) -> Result<()> {
        let (k, n) = (self.x.shape[1], self.out.shape[1]);
        let (x, start, view) = self.x.in_place::<T>(launch)?;
        let (row, col) = (view.strides[0] as isize, view.strides[1] as isize);
        let mut out = vec![0f32; self.out.count()];
        let mut first = 0;
        for (index, end) in self.ends(launch)?.into_iter().enumerate() {
            let count = end - first;
            if count > 0 && k > 0 {
                let a = Matrix::new(&x, (start as isize + first as isize * row) as usize, (count, k), (row, col));
                let (weight, at, view) = self.expert(index).in_place::<T>(launch)?;
                let b = Matrix::new(&weight, at, (k, n), (view.strides[0] as isize, view.strides[1] as isize));
                product_of(a, b, &mut out[first * n..end * n], true);
            }
            if let Some(bias) = self.bias(launch, index)? {
                for row in out[first * n..end * n].chunks_exact_mut(n.max(1)) {
                    row.iter_mut().zip(&bias).for_each(|(to, bias)| *to += bias);
                }
            }
            first = end;
        }
        self.out.store_f32(launch, &out)
    }
}

/// The one case that is simulated: rows grouped, one input tensor, one output tensor, nothing quantised, no activation.
#[allow(clippy::too_many_arguments)]
fn plan(
    call: &mut Call,
    x: TensorList,
    weight: TensorList,
    bias: Option<TensorList>,
    group_list: Option<Tensor>,
    split_item: i64,
    group_type: i64,
    group_list_type: i64,
    act_type: i64,
    out: TensorList,
) -> Result<Kernel> {
    for (name, value, wanted) in [
        ("groupType", group_type, 0..=0),
        ("actType", act_type, 0..=0),
        ("groupListType", group_list_type, 0..=1),
        ("splitItem", split_item, 2..=3),
    ] {
        if !wanted.contains(&value) {
            return call.invalid(format!(
                "{name} is {value}; the simulated CANN computes {} to {}",
                wanted.start(),
                wanted.end()
            ));
        }
    }
    let ([x], [out], Some(group_list)) = (&x[..], &out[..], group_list) else {
        return call.invalid("the simulated CANN computes one x and one out with a groupList");
    };
    call.dtype_in(x, FLOATS)?;
    call.rank_in(x, 2..=2)?;
    call.dtype_in(&group_list, &[I64])?;
    call.rank_in(&group_list, 1..=1)?;
    let experts = group_list.shape[0];
    let Some(last) = weight.first().and_then(|weight| weight.shape.last()) else {
        return call.invalid("weight is an empty list");
    };
    let (k, n) = (x.shape[1], *last);
    let stacked = weight.len() == 1 && weight[0].rank() == 3;
    // A stack has the experts in front, a list has a tensor each.
    let each = |shape: &[usize]| if stacked { [&[experts], shape].concat() } else { shape.to_vec() };
    for tensor in &weight {
        call.same_dtype(tensor, x)?;
        call.shape_is(tensor, &each(&[k, n]))?;
    }
    if !stacked && weight.len() != experts {
        return call.invalid(format!("weight has {} tensors for {experts} groups", weight.len()));
    }
    for tensor in bias.iter().flatten() {
        call.dtype_in(tensor, if x.dtype == F16 { &[F16] } else { &[F32] })?;
        call.shape_is(tensor, &each(&[n]))?;
    }
    if bias.as_ref().is_some_and(|bias| bias.len() != weight.len()) {
        return call.invalid(format!("bias has not as many tensors as weight, {}", weight.len()));
    }
    call.same_dtype(out, x)?;
    call.shape_is(out, &[x.shape[0], n])?;
    call.needs_workspace(4096);
    // Which experts get rows is only known later; not more than there are rows, and evenly at best.
    let busy = experts.min(x.shape[0]).max(1);
    call.works(Cost::products(busy, (x.shape[0].div_ceil(busy), k, n), x.dtype, false));
    if stacked {
        call.touches(&weight[0], busy * k * n);
    }
    let grouped =
        Grouped { x: x.clone(), weights: weight, bias, group_list, sizes: group_list_type == 1, out: out.clone() };
    let dtype = grouped.x.dtype;
    Ok(Box::new(move |launch| match dtype {
        F16 => grouped.run::<f16>(launch),
        BF16 => grouped.run::<bf16>(launch),
        _ => grouped.run::<f32>(launch),
    }))
}

/// Refuses what quantised products and fused activations need.
fn refuse_features(call: &Call, given: &[(&str, &Option<TensorList>)]) -> Result<()> {
    match given.iter().find(|(_, list)| list.as_ref().is_some_and(|list| !list.is_empty())) {
        Some((name, _)) => {
            call.invalid(format!("{name} is given; the simulated CANN computes grouped products only with it null"))
        }
        None => Ok(()),
    }
}

/// Rows of `x` grouped by `group_list` (ends, or sizes with `group_list_type` 1), each group times its expert's weight.
#[allow(clippy::too_many_arguments)]
pub fn grouped_matmul_v4(
    call: &mut Call,
    x: TensorList,
    weight: TensorList,
    bias: Option<TensorList>,
    scale: Option<TensorList>,
    offset: Option<TensorList>,
    antiquant_scale: Option<TensorList>,
    antiquant_offset: Option<TensorList>,
    per_token_scale: Option<TensorList>,
    group_list: Option<Tensor>,
    activation_input: Option<TensorList>,
    activation_quant_scale: Option<TensorList>,
    activation_quant_offset: Option<TensorList>,
    split_item: i64,
    group_type: i64,
    group_list_type: i64,
    act_type: i64,
    out: TensorList,
    activation_feature_out: Option<TensorList>,
    dyn_quant_scale_out: Option<TensorList>,
) -> Result<Kernel> {
    refuse_features(
        call,
        &[
            ("scale", &scale),
            ("offset", &offset),
            ("antiquantScale", &antiquant_scale),
            ("antiquantOffset", &antiquant_offset),
            ("perTokenScale", &per_token_scale),
            ("activationInput", &activation_input),
            ("activationQuantScale", &activation_quant_scale),
            ("activationQuantOffset", &activation_quant_offset),
            ("activationFeatureOut", &activation_feature_out),
            ("dynQuantScaleOut", &dyn_quant_scale_out),
        ],
    )?;
    plan(call, x, weight, bias, group_list, split_item, group_type, group_list_type, act_type, out)
}
