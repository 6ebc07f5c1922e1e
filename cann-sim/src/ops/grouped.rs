//! Products of groups of rows with a weight each, as experts take them.

use super::gemm::{Matrix, Stored, product_of};
use super::types::FLOATS;
use crate::aclnn::{Call, Kernel, Launch, Tensor, TensorList};
use crate::dtype::DType::{self, BF16, F16, F32, I64};
use crate::runtime::cost::Cost;
use crate::status::{Result, Status};
use acl_sys::error::ACL_ERROR_RT_AICORE_EXCEPTION;
use half::{bf16, f16};

/// Most tensors of a list.
const LONGEST_LIST: usize = 128;
/// The last dimension of operands is below this.
const WIDEST: usize = 65536;

/// Where groups end.
enum Ends {
    /// Known before the launch.
    Known(Vec<usize>),
    /// In a tensor: the ends, or with `sizes` the sizes.
    Listed { list: Tensor, sizes: bool },
}

/// Groups of rows (of columns, where the inner dimension is grouped), each times its matrix.
struct Grouped {
    /// All groups, or a tensor each.
    x: Vec<Tensor>,
    /// One tensor of experts × K × N, or a K × N tensor each; where columns are grouped, all of them one below the other.
    weights: Vec<Tensor>,
    bias: Vec<Tensor>,
    ends: Ends,
    /// All groups, or a tensor each.
    out: Vec<Tensor>,
    /// Whether the groups divide the inner dimension.
    inner: bool,
}

/// The matrix, or the row of a bias, of group `index`: of a stack or of a list.
fn of_group(tensors: &[Tensor], index: usize, rank: usize) -> Tensor {
    match tensors {
        [stack] if stack.rank() > rank => stack.selected_view(0, index),
        list => list[index].clone(),
    }
}

impl Grouped {
    /// The groups' ends, which must not fall nor pass `limit`.
    fn ends(&self, launch: &Launch) -> Result<Vec<usize>> {
        let limit = self.x[0].shape[usize::from(self.inner)];
        let (list, sizes) = match &self.ends {
            Ends::Known(ends) => return Ok(ends.clone()),
            Ends::Listed { list, sizes } => (list, *sizes),
        };
        let (mut end, mut ends) = (0i64, Vec::new());
        for value in list.load_i64(launch)? {
            let next = if sizes { end.saturating_add(value) } else { value };
            if next < end || next > limit as i64 {
                let unit = if self.inner { "columns" } else { "rows" };
                let text = format!("{}: groupList ends a group at {next} after {end}, x has {limit} {unit}", launch.op);
                return Err(Status::new(ACL_ERROR_RT_AICORE_EXCEPTION, text));
            }
            end = next;
            ends.push(end as usize);
        }
        Ok(ends)
    }

    /// The operands of a group and where its product goes.
    fn group(&self, index: usize, first: usize, count: usize) -> (Tensor, Tensor, Tensor) {
        let part = |list: &[Tensor], dim: usize| match list {
            [all] => all.sliced_view(dim, first, count, 1),
            list => list[index].clone(),
        };
        if self.inner {
            return (part(&self.x, 1), part(&self.weights, 0), of_group(&self.out, index, 2));
        }
        (part(&self.x, 0), of_group(&self.weights, index, 2), part(&self.out, 0))
    }

    fn run<T: Stored>(&self, launch: &Launch) -> Result<()> {
        let mut first = 0;
        for (index, end) in self.ends(launch)?.into_iter().enumerate() {
            let (x, weight, out) = self.group(index, first, end - first);
            first = end;
            if out.count() == 0 {
                continue;
            }
            let (m, k, n) = (x.shape[0], x.shape[1], out.shape[1]);
            let mut sums = vec![0f32; m * n];
            if k > 0 {
                let (data, at, view) = x.in_place::<T>(launch)?;
                let a = Matrix::new(&data, at, (m, k), (view.strides[0] as isize, view.strides[1] as isize));
                let (data, at, view) = weight.in_place::<T>(launch)?;
                let b = Matrix::new(&data, at, (k, n), (view.strides[0] as isize, view.strides[1] as isize));
                product_of(a, b, &mut sums, true);
            }
            if !self.bias.is_empty() {
                let bias = of_group(&self.bias, index, 1).load_f32(launch)?;
                sums.chunks_exact_mut(n).for_each(|row| row.iter_mut().zip(&bias).for_each(|(to, b)| *to += b));
            }
            out.store_f32(launch, &sums)?;
        }
        Ok(())
    }

    fn kernel(self) -> Kernel {
        match self.x[0].dtype {
            F16 => Box::new(move |launch| self.run::<f16>(launch)),
            BF16 => Box::new(move |launch| self.run::<bf16>(launch)),
            _ => Box::new(move |launch| self.run::<f32>(launch)),
        }
    }
}

/// The type of a bias that goes with an input.
fn bias_type(x: DType) -> DType {
    if x == F16 { F16 } else { F32 }
}

/// What all forms ask of types, numbers of tensors and widths.
fn check_lists(
    call: &Call,
    types: &[DType],
    x: &[Tensor],
    weight: &[Tensor],
    bias: &[Tensor],
    out: &[Tensor],
) -> Result<()> {
    let (Some(first), Some(_), Some(_)) = (x.first(), weight.first(), out.first()) else {
        return call.invalid(format!("x, weight and out have {}, {} and {} tensors", x.len(), weight.len(), out.len()));
    };
    call.dtype_in(first, types)?;
    for list in [x, weight, out] {
        if list.len() > LONGEST_LIST {
            return call.invalid(format!("{} has {} tensors, wanted at most {LONGEST_LIST}", list[0].name, list.len()));
        }
        list.iter().try_for_each(|tensor| call.same_dtype(tensor, first))?;
    }
    for tensor in x.iter().chain(weight) {
        if tensor.shape.last().is_some_and(|&width| width >= WIDEST) {
            return call
                .invalid(format!("{} is {:?}, wanted a last dimension below {WIDEST}", tensor.name, tensor.shape));
        }
    }
    bias.iter().try_for_each(|bias| call.dtype_in(bias, &[bias_type(first.dtype)]))?;
    if !bias.is_empty() && bias.len() != weight.len() {
        return call.invalid(format!("bias has not as many tensors as weight, {}", weight.len()));
    }
    Ok(())
}

/// A matrix a group, with rows of one tensor or a tensor each: `ends` says where groups of one `x` or `out` end.
fn plan_lists(
    call: &mut Call,
    x: TensorList,
    weights: TensorList,
    bias: TensorList,
    ends: Option<Vec<usize>>,
    out: TensorList,
) -> Result<Kernel> {
    let groups = weights.len();
    x.iter().chain(&weights).chain(&out).try_for_each(|tensor| call.rank_in(tensor, 2..=2))?;
    // A single tensor of a single group is both.
    let together = |list: &[Tensor]| list.len() == 1 && groups > 1;
    let heights = |list: &[Tensor]| -> Vec<usize> { list.iter().map(|tensor| tensor.shape[0]).collect() };
    let ends = match (ends, together(&x)) {
        (Some(ends), _) => ends,
        (None, false) => heights(&x)
            .iter()
            .scan(0, |sum, rows| {
                *sum += rows;
                Some(*sum)
            })
            .collect(),
        (None, true) => return call.invalid("groupList is null; wanted one for the groups of a single x"),
    };
    if ends.len() != groups || ends.windows(2).any(|pair| pair[0] > pair[1]) {
        return call.invalid(format!("groupList is {ends:?}, wanted {groups} ends that do not fall"));
    }
    let rows: Vec<usize> = (0..groups).map(|i| ends[i] - i.checked_sub(1).map_or(0, |i| ends[i])).collect();
    for list in [&x, &out] {
        let fits = match together(list) {
            true => list[0].shape[0] == ends[groups - 1],
            false => heights(list) == rows,
        };
        if !fits {
            return call.invalid(format!("{} has rows {:?}, and the groups {rows:?}", list[0].name, heights(list)));
        }
    }
    for (i, weight) in weights.iter().enumerate() {
        let of = |list: &[Tensor]| list[if together(list) { 0 } else { i }].shape[1];
        call.shape_is(weight, &[of(&x), of(&out)])?;
        bias.get(i).map_or(Ok(()), |bias| call.shape_is(bias, &[of(&out)]))?;
        call.works(Cost::products(1, (rows[i], of(&x), of(&out)), weight.dtype, false));
    }
    call.needs_workspace(4096);
    Ok(Grouped { x, weights, bias, ends: Ends::Known(ends), out, inner: false }.kernel())
}

/// Rows of `x` grouped by `group_list`, which the host reads: ends of groups. `split_item` 0 or 1 gives a tensor a group, 2 or 3
/// one for all.
#[allow(clippy::too_many_arguments)]
pub fn grouped_matmul(
    call: &mut Call,
    x: TensorList,
    weight: TensorList,
    bias: Option<TensorList>,
    scale: Option<TensorList>,
    offset: Option<TensorList>,
    antiquant_scale: Option<TensorList>,
    antiquant_offset: Option<TensorList>,
    group_list: Option<Vec<i64>>,
    split_item: i64,
    y: TensorList,
) -> Result<Kernel> {
    let quantised = [
        ("scale", &scale),
        ("offset", &offset),
        ("antiquantScale", &antiquant_scale),
        ("antiquantOffset", &antiquant_offset),
    ];
    refuse_features(call, &quantised)?;
    let bias = bias.unwrap_or_default();
    check_lists(call, &[F16, BF16], &x, &weight, &bias, &y)?;
    let (groups, apart) = (weight.len(), matches!(split_item, 0 | 1));
    let wanted = if apart { groups } else { 1 };
    if !(0..=3).contains(&split_item) || y.len() != wanted || (x.len() != 1 && x.len() != groups) {
        let text = format!("splitItem {split_item}, {} tensors of x, {groups} of weight, {} of y", x.len(), y.len());
        return call.invalid(format!("{text}; wanted 0 to 3, one or as many of x, and {wanted} of y"));
    }
    let ends = match group_list {
        None => None,
        Some(list) if list.len() == 1 => return call.invalid("groupList has one element, wanted none or several"),
        Some(list) => match list.iter().map(|&end| usize::try_from(end)).collect::<std::result::Result<Vec<_>, _>>() {
            Ok(ends) => Some(ends),
            Err(_) => return call.invalid(format!("groupList is {list:?}, wanted ends that are not negative")),
        },
    };
    plan_lists(call, x, weight, bias, ends, y)
}

/// Attributes of the newer interfaces.
struct Attributes {
    split_item: i64,
    group_type: i64,
    group_list_type: i64,
    act_type: i64,
}

/// The unquantised cases without an activation: rows grouped (type 0), columns grouped (2), a tensor each (-1).
#[allow(clippy::too_many_arguments)]
fn plan(
    call: &mut Call,
    x: TensorList,
    weight: TensorList,
    bias: Option<TensorList>,
    group_list: Option<Tensor>,
    attributes: Attributes,
    out: TensorList,
) -> Result<Kernel> {
    let Attributes { split_item, group_type, group_list_type, act_type } = attributes;
    let ways = if group_type == -1 { 0..=1 } else { 2..=3 };
    for (name, value, wanted) in
        [("actType", act_type, 0..=0), ("groupListType", group_list_type, 0..=1), ("splitItem", split_item, ways)]
    {
        if !wanted.contains(&value) {
            return call.invalid(format!(
                "{name} is {value}; the simulated CANN computes {} to {}",
                wanted.start(),
                wanted.end()
            ));
        }
    }
    let bias = bias.unwrap_or_default();
    check_lists(call, FLOATS, &x, &weight, &bias, &out)?;
    if group_type == -1 {
        let groups = weight.len();
        if group_list.is_some() || x.len() != groups || out.len() != groups {
            let text = format!("{} tensors of x, {groups} of weight, {} of out", x.len(), out.len());
            return call.invalid(format!("{text}; wanted as many, and no groupList with groupType -1"));
        }
        return plan_lists(call, x, weight, bias, None, out);
    }
    let ([_], [_], Some(list)) = (&x[..], &out[..], group_list) else {
        return call.invalid("the simulated CANN computes one x and one out with a groupList");
    };
    call.rank_in(&x[0], 2..=2)?;
    call.dtype_in(&list, &[I64])?;
    call.rank_in(&list, 1..=1)?;
    call.needs_workspace(4096);
    match group_type {
        0 => check_rows(call, &x[0], &weight, &bias, list.shape[0], &out[0])?,
        2 => check_columns(call, &x[0], &weight, &bias, list.shape[0], &out[0])?,
        other => return call.invalid(format!("groupType is {other}; the simulated CANN computes -1, 0 and 2")),
    }
    let ends = Ends::Listed { list, sizes: group_list_type == 1 };
    Ok(Grouped { x, weights: weight, bias, ends, out, inner: group_type == 2 }.kernel())
}

fn check_rows(
    call: &mut Call,
    x: &Tensor,
    weight: &[Tensor],
    bias: &[Tensor],
    experts: usize,
    out: &Tensor,
) -> Result<()> {
    let (rows, k, n) = (x.shape[0], x.shape[1], weight[0].shape.last().copied().unwrap_or(0));
    let stacked = weight.len() == 1 && weight[0].rank() == 3;
    // A stack has the experts in front, a list has a tensor each.
    let each = |shape: &[usize]| if stacked { [&[experts], shape].concat() } else { shape.to_vec() };
    weight.iter().try_for_each(|tensor| call.shape_is(tensor, &each(&[k, n])))?;
    if !stacked && weight.len() != experts {
        return call.invalid(format!("weight has {} tensors for {experts} groups", weight.len()));
    }
    bias.iter().try_for_each(|tensor| call.shape_is(tensor, &each(&[n])))?;
    call.shape_is(out, &[rows, n])?;
    // Which experts get rows is only known later; not more than there are rows, and evenly at best.
    let busy = experts.min(rows).max(1);
    call.works(Cost::products(busy, (rows.div_ceil(busy), k, n), x.dtype, false));
    if stacked {
        call.touches(&weight[0], busy * k * n);
    }
    Ok(())
}

fn check_columns(
    call: &mut Call,
    x: &Tensor,
    weight: &[Tensor],
    bias: &[Tensor],
    experts: usize,
    out: &Tensor,
) -> Result<()> {
    let (m, k) = (x.shape[0], x.shape[1]);
    if weight.len() != 1 || !bias.is_empty() || (x.strides[0] != 1 && m > 1 && k > 1) {
        let text = format!("x has strides {:?}, weight {} tensors, bias {}", x.strides, weight.len(), bias.len());
        return call.invalid(format!("{text}; groupType 2 wants a transposed x, one weight and no bias"));
    }
    call.rank_in(&weight[0], 2..=2)?;
    let n = weight[0].shape[1];
    call.shape_is(&weight[0], &[k, n])?;
    call.shape_is(out, &[experts, m, n])?;
    call.works(Cost::products(experts, (m, k.div_ceil(experts.max(1)), n), x.dtype, false));
    Ok(())
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

/// A version of the interface with groups in a tensor: `extra` are the arguments that it adds before `out`.
macro_rules! grouped_matmul_of_tensors {
    ($(#[$doc:meta])* $name:ident, extra ($($extra:ident: $type:ty),*), check |$call:ident, $x:ident| $check:expr) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name(
            $call: &mut Call, $x: TensorList, weight: TensorList, bias: Option<TensorList>, scale: Option<TensorList>,
            offset: Option<TensorList>, antiquant_scale: Option<TensorList>, antiquant_offset: Option<TensorList>,
            per_token_scale: Option<TensorList>, group_list: Option<Tensor>, activation_input: Option<TensorList>,
            activation_quant_scale: Option<TensorList>, activation_quant_offset: Option<TensorList>, split_item: i64,
            group_type: i64, group_list_type: i64, act_type: i64, $($extra: $type,)* out: TensorList,
            activation_feature_out: Option<TensorList>, dyn_quant_scale_out: Option<TensorList>,
        ) -> Result<Kernel> {
            refuse_features($call, &[
                ("scale", &scale), ("offset", &offset), ("antiquantScale", &antiquant_scale),
                ("antiquantOffset", &antiquant_offset), ("perTokenScale", &per_token_scale),
                ("activationInput", &activation_input), ("activationQuantScale", &activation_quant_scale),
                ("activationQuantOffset", &activation_quant_offset), ("activationFeatureOut", &activation_feature_out),
                ("dynQuantScaleOut", &dyn_quant_scale_out),
            ])?;
            $check?;
            plan($call, $x, weight, bias, group_list, Attributes { split_item, group_type, group_list_type, act_type }, out)
        }
    };
}

grouped_matmul_of_tensors! {
    /// Rows of `x` grouped by `group_list` (ends, or sizes with `group_list_type` 1), each group times its expert's weight.
    grouped_matmul_v4, extra (), check |call, x| Ok(())
}
grouped_matmul_of_tensors! {
    /// As [`grouped_matmul_v4`], with hints for the tiling, which change no number.
    grouped_matmul_v5, extra (tuning_config: Option<Vec<i64>>), check |call, x| check_tuning(call, &x, tuning_config.as_deref())
}

/// The first hint is how many rows an expert is likely to get.
fn check_tuning(call: &Call, x: &[Tensor], hints: Option<&[i64]>) -> Result<()> {
    let rows = x.first().and_then(|x| x.shape.first()).copied().unwrap_or(0) as i64;
    match hints.unwrap_or_default() {
        [expected, ..] if !(0..=rows).contains(expected) => {
            call.invalid(format!("tuningConfig expects {expected} rows an expert, wanted 0 to the {rows} of x"))
        }
        hints if hints.len() > 3 => call.invalid(format!("tuningConfig has {} numbers, wanted at most 3", hints.len())),
        _ => Ok(()),
    }
}
