//! Matrix products: Matmul, Mm, BatchMatMul, the sums with a bias matrix, Mv and Dot.

use super::gemm::{Matrix, product_of};
use super::types::FLOATS;
use crate::aclnn::{Call, Kernel, Launch, Scalar, Tensor};
use crate::dtype::DType::{self, *};
use crate::runtime::config;
use crate::runtime::cost::Cost;
use crate::status::Result;
use acl_sys::enums::ACL_FORMAT_FRACTAL_NZ;
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;

/// What the cube core does to `f32` operands before it multiplies them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// As stored.
    Keep,
    /// Rounded to `HFLOAT32`: `f32` with 11 bits of fraction.
    Hf32,
    /// Rounded to `FLOAT16`.
    Half,
}

impl Precision {
    fn round(self, value: f32) -> f32 {
        match self {
            Precision::Keep => value,
            // To nearest, ties to even, on the 12 bits that go; infinities and NaN have none that matter.
            Precision::Hf32 if value.is_finite() => {
                let bits = value.to_bits();
                f32::from_bits((bits + 0x7ff + ((bits >> 12) & 1)) & !0xfff)
            }
            Precision::Hf32 => value,
            Precision::Half => f16::from_f32(value).to_f32(),
        }
    }
}

/// Which values of `cubeMathType` an operator's page allows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Matmul, Mm, Addmm: 0 to 4, and 2 not with `BFLOAT16`, 3 only with `FLOAT`.
    Strict,
    /// Mv: as `Strict` without 4.
    StrictTo3,
    /// Baddbmm: 0 to 4, without effect on types that they are not made for.
    Lenient,
    /// BatchMatMul: as `Lenient` without 4.
    LenientTo3,
}

/// The type that the operands of a product promote to, and what `cubeMathType` makes of it.
fn computing(call: &Call, operands: &[&Tensor], cube_math_type: i8, rule: Rule) -> Result<(DType, Precision)> {
    for tensor in operands {
        call.dtype_in(tensor, FLOATS)?;
        if tensor.format == ACL_FORMAT_FRACTAL_NZ {
            return call.invalid(format!("{} has format FRACTAL_NZ, wanted ND", tensor.name));
        }
    }
    let bf16s = operands.iter().filter(|tensor| tensor.dtype == BF16).count();
    if bf16s != 0 && bf16s != operands.len() {
        let types: Vec<_> = operands.iter().map(|tensor| format!("{} {}", tensor.name, tensor.dtype)).collect();
        return call.invalid(format!("BFLOAT16 combines with no other type here, got {}", types.join(", ")));
    }
    let dtype = if operands.iter().any(|tensor| tensor.dtype == F32) { F32 } else { operands[0].dtype };
    let strict = matches!(rule, Rule::Strict | Rule::StrictTo3);
    let precision = match cube_math_type {
        0 => Precision::Keep,
        1 | 3 if dtype == F32 => Precision::Hf32,
        2 if dtype == F32 => Precision::Half,
        1 => Precision::Keep,
        2 if !strict || dtype == F16 => Precision::Keep,
        3 if !strict => Precision::Keep,
        4 if matches!(rule, Rule::Strict | Rule::Lenient) => Precision::Keep,
        other => return call.invalid(format!("cubeMathType {other} is not allowed with {dtype}")),
    };
    Ok((dtype, precision))
}

enum Values<'a> {
    F32(Cow<'a, [f32]>),
    F16(Cow<'a, [f16]>),
    BF16(Cow<'a, [bf16]>),
}

/// A stack of matrices as it lies in memory: the last two dimensions are the matrix, the others the batch.
struct Operand<'a> {
    values: Values<'a>,
    start: usize,
    view: Tensor,
}

impl<'a> Operand<'a> {
    fn load(tensor: &Tensor, launch: &'a Launch, precision: Precision) -> Result<Self> {
        let made = |(values, start, view)| Self { values, start, view };
        if tensor.dtype == F32 && precision != Precision::Keep {
            let values = tensor.load_f32(launch)?.into_iter().map(|value| precision.round(value)).collect();
            return Ok(made((Values::F32(Cow::Owned(values)), 0, tensor.packed_view())));
        }
        Ok(match tensor.dtype {
            F16 => tensor.in_place::<f16>(launch).map(|(v, s, t)| made((Values::F16(v), s, t)))?,
            BF16 => tensor.in_place::<bf16>(launch).map(|(v, s, t)| made((Values::BF16(v), s, t)))?,
            _ => tensor.in_place::<f32>(launch).map(|(v, s, t)| made((Values::F32(v), s, t)))?,
        })
    }

    /// Where matrix `index` of the batch starts, its shape and its strides.
    fn place(&self, mut index: usize) -> (usize, (usize, usize), (isize, isize)) {
        let rank = self.view.rank();
        let mut start = self.start as i64;
        for dim in (0..rank - 2).rev() {
            start += (index % self.view.shape[dim]) as i64 * self.view.strides[dim];
            index /= self.view.shape[dim];
        }
        let (shape, strides) = (&self.view.shape[rank - 2..], &self.view.strides[rank - 2..]);
        (start as usize, (shape[0], shape[1]), (strides[0] as isize, strides[1] as isize))
    }
}

fn multiply(a: &Operand, b: &Operand, index: usize, out: &mut [f32], threads: bool) {
    let (at, bt) = (a.place(index), b.place(index));
    macro_rules! arms {
        ($($left:ident $right:ident),*) => {
            match (&a.values, &b.values) {$(
                (Values::$left(x), Values::$right(y)) => {
                    product_of(Matrix::new(x, at.0, at.1, at.2), Matrix::new(y, bt.0, bt.1, bt.2), out, threads)
                }
            )*}
        };
    }
    arms!(F32 F32, F32 F16, F32 BF16, F16 F32, F16 F16, F16 BF16, BF16 F32, BF16 F16, BF16 BF16);
}

/// A batched product of two checked operands.
struct Product {
    /// `batch × m × k`, broadcast to the batch by strides of zero.
    a: Tensor,
    /// `batch × k × n`.
    b: Tensor,
    batch: usize,
    m: usize,
    n: usize,
    precision: Precision,
}

impl Product {
    /// The product of tensors of at least two dimensions, and the shape of its result.
    fn new(call: &Call, a: &Tensor, b: &Tensor, precision: Precision) -> Result<(Self, Vec<usize>)> {
        let (ra, rb) = (a.rank() - 2, b.rank() - 2);
        let (m, k, n) = (a.shape[ra], a.shape[ra + 1], b.shape[rb + 1]);
        if b.shape[rb] != k {
            let text = format!("{} {:?} and {} {:?} differ in the reduced dimension", a.name, a.shape, b.name, b.shape);
            return call.invalid(text);
        }
        let batch = call.broadcast(&a.shape[..ra], &b.shape[..rb])?;
        let stacked = |last: [usize; 2]| [&batch[..], &last[..]].concat();
        let product = Self {
            a: a.broadcast_view(&stacked([m, k])),
            b: b.broadcast_view(&stacked([k, n])),
            batch: batch.iter().product(),
            m,
            n,
            precision,
        };
        Ok((product.merged(), stacked([m, n])))
    }

    /// One tall product instead of many, where the right operand is the same for the whole batch and the left one's
    /// rows lie evenly: the usual activation times weight.
    fn merged(self) -> Self {
        let rank = self.a.rank();
        let shared =
            self.b.strides[..rank - 2].iter().zip(&self.b.shape).all(|(&stride, &size)| stride == 0 || size == 1);
        let even = (0..rank - 2).all(|i| {
            let step: i64 = self.a.shape[i + 1..rank - 1].iter().product::<usize>() as i64 * self.a.strides[rank - 2];
            self.a.shape[i] == 1 || self.a.strides[i] == step
        });
        if rank == 2 || self.batch == 0 || !shared || !even {
            return self;
        }
        let rows = self.batch * self.m;
        let last = |t: &Tensor, rows: usize| {
            t.reviewed(vec![rows, t.shape[rank - 1]], t.strides[rank - 2..].to_vec(), t.offset)
        };
        let k = self.a.shape[rank - 1];
        Self { a: last(&self.a, rows), b: last(&self.b, k), batch: 1, m: rows, ..self }
    }

    /// What the cube cores do; `HFLOAT32` and `FLOAT16` take one pass.
    fn cost(&self) -> Cost {
        let dtype = match (self.precision, self.a.dtype, self.b.dtype) {
            (Precision::Half, ..) => F16,
            (_, F32, _) | (_, _, F32) => F32,
            (_, dtype, _) => dtype,
        };
        let k = self.a.shape[self.a.rank() - 1];
        Cost::products(self.batch, (self.m, k, self.n), dtype, self.precision != Precision::Keep)
    }

    /// The result, row-major.
    fn run(&self, launch: &Launch) -> Result<Vec<f32>> {
        let size = self.m * self.n;
        let mut out = vec![0f32; self.batch * size];
        if out.is_empty() || self.a.count() == 0 {
            return Ok(out);
        }
        let a = Operand::load(&self.a, launch, self.precision)?;
        let b = Operand::load(&self.b, launch, self.precision)?;
        if self.batch >= rayon::current_num_threads() && !config::exact() {
            out.par_chunks_mut(size).enumerate().for_each(|(i, part)| multiply(&a, &b, i, part, false));
        } else {
            out.chunks_mut(size).enumerate().for_each(|(i, part)| multiply(&a, &b, i, part, true));
        }
        Ok(out)
    }
}

/// Bytes of workspace of a product: what the device keeps for the exchange between its cube and vector cores.
const WORKSPACE: usize = 4096;

fn plain(
    call: &mut Call,
    a: &Tensor,
    b: &Tensor,
    out: Tensor,
    wanted: Option<Vec<usize>>,
    precision: Precision,
) -> Result<Kernel> {
    let (product, shape) = Product::new(call, a, b, precision)?;
    call.shape_is(&out, &wanted.unwrap_or(shape))?;
    call.needs_workspace(WORKSPACE);
    call.works(product.cost());
    Ok(Box::new(move |launch| out.store_f32(launch, &product.run(launch)?)))
}

/// `out = self @ mat2` for one to six dimensions with NumPy's rules.
pub fn matmul(call: &mut Call, self_: Tensor, mat2: Tensor, out: Tensor, cube_math_type: i8) -> Result<Kernel> {
    call.rank_in(&self_, 1..=6)?;
    call.rank_in(&mat2, 1..=6)?;
    call.dtype_in(&out, FLOATS)?;
    // The page lets two vectors pass whatever the precision asked for.
    let vectors = self_.rank() == 1 && mat2.rank() == 1;
    let (_, precision) = computing(call, &[&self_, &mat2], if vectors { 0 } else { cube_math_type }, Rule::Strict)?;
    let a = if self_.rank() == 1 { self_.unsqueezed_view(0) } else { self_.clone() };
    let b = if mat2.rank() == 1 { mat2.unsqueezed_view(1) } else { mat2.clone() };
    let (_, mut shape) = Product::new(call, &a, &b, precision)?;
    if mat2.rank() == 1 {
        shape.pop();
    }
    if self_.rank() == 1 {
        shape.remove(shape.len() - if mat2.rank() == 1 { 1 } else { 2 });
    }
    plain(call, &a, &b, out, Some(shape), precision)
}

/// `out = self @ mat2` for two matrices.
pub fn mm(call: &mut Call, self_: Tensor, mat2: Tensor, out: Tensor, cube_math_type: i8) -> Result<Kernel> {
    call.rank_in(&self_, 2..=2)?;
    call.rank_in(&mat2, 2..=2)?;
    let (dtype, precision) = computing(call, &[&self_, &mat2], cube_math_type, Rule::Strict)?;
    call.dtype_in(&out, &[dtype])?;
    plain(call, &self_, &mat2, out, None, precision)
}

/// `out = self @ mat2` for two stacks of matrices, one of which may have a batch of 1.
pub fn batch_mat_mul(call: &mut Call, self_: Tensor, mat2: Tensor, out: Tensor, cube_math_type: i8) -> Result<Kernel> {
    call.rank_in(&self_, 3..=3)?;
    call.rank_in(&mat2, 3..=3)?;
    call.dtype_in(&out, FLOATS)?;
    let (_, precision) = computing(call, &[&self_, &mat2], cube_math_type, Rule::LenientTo3)?;
    plain(call, &self_, &mat2, out, None, precision)
}

/// `beta·bias + alpha·product`, the bias not being read where beta is zero.
fn biased(
    call: &mut Call,
    product: Product,
    shape: &[usize],
    bias: &Tensor,
    out: Tensor,
    beta: Scalar,
    alpha: Scalar,
) -> Result<Kernel> {
    if call.broadcast(&bias.shape, shape)? != shape {
        return call.invalid(format!("{} {:?} does not broadcast to the product's {shape:?}", bias.name, bias.shape));
    }
    call.shape_is(&out, shape)?;
    call.needs_workspace(WORKSPACE);
    call.works(product.cost());
    let bias = bias.broadcast_view(shape);
    let (beta, alpha) = (beta.float as f32, alpha.float as f32);
    Ok(Box::new(move |launch| {
        let mut values = product.run(launch)?;
        values.iter_mut().for_each(|value| *value *= alpha);
        if beta != 0.0 {
            values.iter_mut().zip(bias.load_f32(launch)?).for_each(|(value, bias)| *value += beta * bias);
        }
        out.store_f32(launch, &values)
    }))
}

/// `out = beta·self + alpha·(mat1 @ mat2)`.
#[allow(clippy::too_many_arguments)]
pub fn addmm(
    call: &mut Call,
    self_: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    beta: Scalar,
    alpha: Scalar,
    out: Tensor,
    cube_math_type: i8,
) -> Result<Kernel> {
    call.rank_in(&self_, 1..=2)?;
    call.rank_in(&mat1, 2..=2)?;
    call.rank_in(&mat2, 2..=2)?;
    let (dtype, precision) = computing(call, &[&self_, &mat1, &mat2], cube_math_type, Rule::Strict)?;
    // With cubeMathType 4 the page leaves the type to `out`.
    call.dtype_in(&out, if cube_math_type == 4 { FLOATS } else { std::slice::from_ref(&dtype) })?;
    let (product, shape) = Product::new(call, &mat1, &mat2, precision)?;
    biased(call, product, &shape, &self_, out, beta, alpha)
}

/// `self = beta·self + alpha·(mat1 @ mat2)`.
pub fn inplace_addmm(
    call: &mut Call,
    self_ref: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    beta: Scalar,
    alpha: Scalar,
    cube_math_type: i8,
) -> Result<Kernel> {
    for tensor in [&self_ref, &mat1, &mat2] {
        call.rank_in(tensor, 2..=2)?;
    }
    let (_, precision) = computing(call, &[&self_ref, &mat1, &mat2], cube_math_type, Rule::Strict)?;
    let (product, shape) = Product::new(call, &mat1, &mat2, precision)?;
    call.shape_is(&self_ref, &shape)?;
    biased(call, product, &shape, &self_ref.clone(), self_ref, beta, alpha)
}

/// `out = beta·self + alpha·(batch1 @ batch2)` for stacks of matrices.
#[allow(clippy::too_many_arguments)]
pub fn baddbmm(
    call: &mut Call,
    self_: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    beta: Scalar,
    alpha: Scalar,
    out: Tensor,
    cube_math_type: i8,
) -> Result<Kernel> {
    call.rank_in(&self_, 1..=3)?;
    call.rank_in(&batch1, 3..=3)?;
    call.rank_in(&batch2, 3..=3)?;
    call.same_dtype(&out, &self_)?;
    let (_, precision) = computing(call, &[&self_, &batch1, &batch2], cube_math_type, Rule::Lenient)?;
    let (product, shape) = Product::new(call, &batch1, &batch2, precision)?;
    biased(call, product, &shape, &self_, out, beta, alpha)
}

/// `out = self @ vec` for a matrix and a vector.
pub fn mv(call: &mut Call, self_: Tensor, vec: Tensor, out: Tensor, cube_math_type: i8) -> Result<Kernel> {
    call.rank_in(&self_, 2..=2)?;
    call.rank_in(&vec, 1..=1)?;
    call.same_dtype(&vec, &self_)?;
    call.same_dtype(&out, &self_)?;
    let (_, precision) = computing(call, &[&self_, &vec], cube_math_type, Rule::StrictTo3)?;
    let rows = self_.shape[0];
    plain(call, &self_, &vec.unsqueezed_view(1), out, Some(vec![rows]), precision)
}

/// The sum of the products of two vectors' elements, a scalar; integers wrap around in their own type.
pub fn dot(call: &mut Call, self_: Tensor, tensor: Tensor, out: Tensor) -> Result<Kernel> {
    call.dtype_in(&self_, &[BF16, F16, F32, I8, I32, U8])?;
    call.rank_in(&self_, 1..=1)?;
    call.same_dtype(&tensor, &self_)?;
    call.shape_is(&tensor, &self_.shape)?;
    call.same_dtype(&out, &self_)?;
    call.rank_in(&out, 0..=0)?;
    Ok(Box::new(move |launch| {
        if self_.dtype.is_float() {
            // Products of two f32 are exact in f64, so the sum is rounded once for every type.
            let pairs = self_.load_f64(launch)?.into_iter().zip(tensor.load_f64(launch)?);
            return out.store_f64(launch, &[pairs.map(|(x, y)| x * y).sum()]);
        }
        let pairs = self_.load_i64(launch)?.into_iter().zip(tensor.load_i64(launch)?);
        out.store_i64(launch, &[pairs.fold(0i64, |sum, (x, y)| sum.wrapping_add(x.wrapping_mul(y)))])
    }))
}

/// `out = alpha·op(a) @ op(b) + beta·c`, where `op` transposes if its flag is not 0.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    call: &mut Call,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    alpha: f32,
    beta: f32,
    trans_a: i64,
    trans_b: i64,
    out: Tensor,
    cube_math_type: i8,
) -> Result<Kernel> {
    call.rank_in(&a, 2..=2)?;
    call.rank_in(&b, 2..=2)?;
    call.rank_in(&c, 1..=2)?;
    let (dtype, precision) = computing(call, &[&a, &b, &c], cube_math_type, Rule::StrictTo3)?;
    call.dtype_in(&out, &[dtype])?;
    let turned = |t: &Tensor, flag: i64| if flag != 0 { t.permuted_view(&[1, 0]) } else { t.clone() };
    let (product, shape) = Product::new(call, &turned(&a, trans_a), &turned(&b, trans_b), precision)?;
    let scalar = |value: f32| Scalar { dtype: F32, float: value as f64, int: value as i64 };
    biased(call, product, &shape, &c, out, scalar(beta), scalar(alpha))
}
