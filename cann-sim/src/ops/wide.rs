//! The types that operators compute in, and the element-by-element engine built on them.

use crate::aclnn::{Kernel, Launch, Scalar, Tensor};
use crate::dtype::DType;
use crate::status::Result;
use half::{bf16, f16};
use rayon::prelude::*;
use std::cmp::Ordering;

/// Elements from which a loop is worth sharing among threads.
const PARALLEL: usize = 1 << 16;

/// Which of the three computing types stands for an element type: narrow floats compute in `f32` and are rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    F32,
    F64,
    I64,
}

impl Class {
    pub(crate) fn of(dtype: DType) -> Self {
        match dtype {
            DType::F64 => Class::F64,
            _ if dtype.is_float() => Class::F32,
            _ => Class::I64,
        }
    }
}

/// A computing type.
pub(crate) trait Wide: Copy + PartialOrd + Send + Sync + std::fmt::Debug + 'static {
    fn of(scalar: &Scalar) -> Self;
    fn truth(value: bool) -> Self;
    fn load(tensor: &Tensor, launch: &Launch) -> Result<Vec<Self>>;
    fn store(tensor: &Tensor, launch: &Launch, values: &[Self]) -> Result<()>;
    /// The nearest value of `dtype`, as the device has it after a conversion.
    fn rounded(self, dtype: DType) -> Self;
    fn to_f64(self) -> f64;
    fn from_f64(value: f64) -> Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// Whether the value is not a number.
    fn nan(self) -> bool;

    /// Total order with NaN above everything, as sorting has it.
    fn order(&self, other: &Self) -> Ordering {
        self.partial_cmp(other).unwrap_or_else(|| self.nan().cmp(&other.nan()))
    }

    /// The larger, or NaN where either is.
    fn larger(self, other: Self) -> Self {
        if self.nan() || self > other { self } else { other }
    }

    /// The smaller, or NaN where either is.
    fn smaller(self, other: Self) -> Self {
        if self.nan() || self < other { self } else { other }
    }
}

macro_rules! wide_float {
    ($ty:ty, $load:ident, $store:ident) => {
        impl Wide for $ty {
            fn of(scalar: &Scalar) -> Self {
                scalar.float as $ty
            }
            fn truth(value: bool) -> Self {
                value as u8 as $ty
            }
            fn load(tensor: &Tensor, launch: &Launch) -> Result<Vec<Self>> {
                tensor.$load(launch)
            }
            fn store(tensor: &Tensor, launch: &Launch, values: &[Self]) -> Result<()> {
                tensor.$store(launch, values)
            }
            fn rounded(self, dtype: DType) -> Self {
                match dtype {
                    DType::F16 => f16::from_f64(self as f64).to_f64() as $ty,
                    DType::BF16 => bf16::from_f64(self as f64).to_f64() as $ty,
                    DType::F32 => self as f32 as $ty,
                    DType::Bool => (self != 0.0) as u8 as $ty,
                    dtype if dtype.is_integer() => self.trunc(),
                    _ => self,
                }
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn from_f64(value: f64) -> Self {
                value as $ty
            }
            fn plus(self, other: Self) -> Self {
                self + other
            }
            fn times(self, other: Self) -> Self {
                self * other
            }
            fn nan(self) -> bool {
                self.is_nan()
            }
        }
    };
}
wide_float!(f32, load_f32, store_f32);
wide_float!(f64, load_f64, store_f64);

impl Wide for i64 {
    fn of(scalar: &Scalar) -> Self {
        scalar.int
    }
    fn truth(value: bool) -> Self {
        value as i64
    }
    fn load(tensor: &Tensor, launch: &Launch) -> Result<Vec<Self>> {
        tensor.load_i64(launch)
    }
    fn store(tensor: &Tensor, launch: &Launch, values: &[Self]) -> Result<()> {
        tensor.store_i64(launch, values)
    }
    fn rounded(self, dtype: DType) -> Self {
        match dtype {
            DType::I8 => self as i8 as i64,
            DType::I16 => self as i16 as i64,
            DType::I32 => self as i32 as i64,
            DType::U8 => self as u8 as i64,
            DType::U16 => self as u16 as i64,
            DType::U32 => self as u32 as i64,
            DType::Bool => (self != 0) as i64,
            _ => self,
        }
    }
    fn to_f64(self) -> f64 {
        self as f64
    }
    fn from_f64(value: f64) -> Self {
        value as i64
    }
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn times(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }
    fn nan(self) -> bool {
        false
    }
}

/// Loads a tensor as if it had been converted to `dtype` first.
pub(crate) fn load_as<W: Wide>(tensor: &Tensor, launch: &Launch, dtype: DType) -> Result<Vec<W>> {
    let mut values = W::load(tensor, launch)?;
    if tensor.dtype != dtype {
        values.iter_mut().for_each(|value| *value = value.rounded(dtype));
    }
    Ok(values)
}

/// [`load_as`] of several tensors.
fn load_all<W: Wide>(tensors: &[Tensor], launch: &Launch, dtype: DType) -> Result<Vec<Vec<W>>> {
    tensors.iter().map(|tensor| load_as(tensor, launch, dtype)).collect()
}

/// Stores results of type `dtype`: rounded to it, and then converted where the output has another type.
pub(crate) fn store_as<W: Wide>(tensor: &Tensor, launch: &Launch, dtype: DType, mut values: Vec<W>) -> Result<()> {
    if tensor.dtype != dtype {
        values.iter_mut().for_each(|value| *value = value.rounded(dtype));
    }
    W::store(tensor, launch, &values)
}

/// `count` values that `fill(first, slots)` writes piece by piece, on several threads where that pays. The function comes
/// as a pointer, so that each operator adds its inner loop to the program and not the machinery of threads around it.
pub(crate) fn tabulate<W: Wide>(count: usize, fill: &(dyn Fn(usize, &mut [W]) + Sync)) -> Vec<W> {
    const PIECE: usize = PARALLEL / 4;
    let mut values = vec![W::truth(false); count];
    if count >= PARALLEL {
        values.par_chunks_mut(PIECE).enumerate().for_each(|(i, slots)| fill(i * PIECE, slots));
    } else {
        fill(0, &mut values);
    }
    values
}

/// `f(0), f(1), …` of `count` rows that cost `work` elements each.
pub(crate) fn tabulate_rows<R: Send>(count: usize, work: usize, f: &(dyn Fn(usize) -> R + Sync)) -> Vec<R> {
    if count > 1 && count.saturating_mul(work) >= PARALLEL {
        (0..count).into_par_iter().map(f).collect()
    } else {
        (0..count).map(f).collect()
    }
}

/// The kernel that broadcasts `inputs` to `out`, computes `f` in `compute` and rounds to `result` on the way out.
pub(crate) fn zip_as<W: Wide, const N: usize>(
    inputs: [Tensor; N],
    out: Tensor,
    (compute, result): (DType, DType),
    f: impl Fn([W; N]) -> W + Send + Sync + 'static,
) -> Kernel {
    let inputs = inputs.map(|tensor| tensor.broadcast_view(&out.shape));
    Box::new(move |launch| {
        let columns = load_all::<W>(&inputs, launch, compute)?;
        let values = tabulate(out.count(), &|first, slots| {
            let columns: [&[W]; N] = std::array::from_fn(|column| &columns[column][first..first + slots.len()]);
            for (i, slot) in slots.iter_mut().enumerate() {
                *slot = f(std::array::from_fn(|column| columns[column][i]));
            }
        });
        store_as(&out, launch, result, values)
    })
}

/// A kernel of floating-point formulas: `zip_float!(inputs, out, compute => result, (scalars) |x| formula)`. Integers
/// and booleans compute in `f32`.
macro_rules! zip_float {
    ($inputs:expr, $out:expr, $compute:expr => $result:expr, ($($scalar:ident),*) |$($x:ident),+| $float:expr) => {{
        let (inputs, out, types) = ($inputs, $out, ($compute, $result));
        match $crate::ops::wide::Class::of(types.0) {
            $crate::ops::wide::Class::F64 => {
                $(let $scalar = <f64 as $crate::ops::wide::Wide>::of(&$scalar);)*
                $crate::ops::wide::zip_as(inputs, out, types, move |[$($x),+]: [f64; _]| -> f64 { $float })
            }
            _ => {
                $(let $scalar = <f32 as $crate::ops::wide::Wide>::of(&$scalar);)*
                $crate::ops::wide::zip_as(inputs, out, types, move |[$($x),+]: [f32; _]| -> f32 { $float })
            }
        }
    }};
}

/// As [`zip_float`] with a formula for integers too: `… |x| formula; int formula)`.
macro_rules! zip {
    ($inputs:expr, $out:expr, $compute:expr => $result:expr, ($($scalar:ident),*) |$($x:ident),+| $float:expr; int $int:expr) => {{
        let (inputs, out, types) = ($inputs, $out, ($compute, $result));
        match $crate::ops::wide::Class::of(types.0) {
            $crate::ops::wide::Class::I64 => {
                $(let $scalar = <i64 as $crate::ops::wide::Wide>::of(&$scalar);)*
                $crate::ops::wide::zip_as(inputs, out, types, move |[$($x),+]: [i64; _]| -> i64 { $int })
            }
            _ => $crate::ops::wide::zip_float!(inputs, out, types.0 => types.1, ($($scalar),*) |$($x),+| $float),
        }
    }};
}

/// Runs `$body` with `$W` bound to the computing type of `$dtype`.
macro_rules! with_wide {
    ($dtype:expr, $W:ident => $body:expr) => {
        match $crate::ops::wide::Class::of($dtype) {
            $crate::ops::wide::Class::F32 => {
                type $W = f32;
                $body
            }
            $crate::ops::wide::Class::F64 => {
                type $W = f64;
                $body
            }
            $crate::ops::wide::Class::I64 => {
                type $W = i64;
                $body
            }
        }
    };
}
pub(crate) use {with_wide, zip, zip_float};
