//! Operators of one tensor, element by element.

use super::dtype::{FLOATS, FLOATS_AND_DOUBLE, NUMBERS, require};
use super::storage::NpuStorage;
use crate::acl::{Context, Error, Scalar, TensorDesc, View, launch};
use acl_sys::ACL_INT32;
use acl_sys::loader::op;
use candle_core::{DType, Layout, Result};

const SIGNED: &[DType] = &[DType::F32, DType::F16, DType::BF16, DType::F64, DType::I64, DType::I32, DType::I16];

/// A launch with one input and one output.
type Launch = fn(&Context, &TensorDesc<'_>, &TensorDesc<'_>) -> std::result::Result<(), Error>;

/// The [`Launch`] of operator `O`.
macro_rules! launcher {
    ($op:ident) => {
        |context, x, y| launch::<op::$op, _>(context, (x, y))
    };
}

impl NpuStorage {
    /// Applies candle's operator `name`.
    pub(super) fn unary(&self, name: &'static str, layout: &Layout) -> Result<Self> {
        match name {
            "exp" => self.map(name, layout, FLOATS_AND_DOUBLE, launcher!(Exp)),
            "log" => self.map(name, layout, FLOATS_AND_DOUBLE, launcher!(Log)),
            "sin" => self.map(name, layout, FLOATS_AND_DOUBLE, launcher!(Sin)),
            "cos" => self.map(name, layout, FLOATS_AND_DOUBLE, launcher!(Cos)),
            "sqrt" => self.map(name, layout, FLOATS_AND_DOUBLE, launcher!(Sqrt)),
            "recip" => self.map(name, layout, FLOATS_AND_DOUBLE, launcher!(Reciprocal)),
            "tanh" => self.map(name, layout, FLOATS, launcher!(Tanh)),
            "silu" => self.map(name, layout, FLOATS, launcher!(Silu)),
            "gelu" => self.map(name, layout, FLOATS, |context, x, y| launch::<op::GeluV2, _>(context, (x, 1i64, y))),
            "gelu_erf" => {
                self.map(name, layout, FLOATS, |context, x, y| launch::<op::GeluV2, _>(context, (x, 0i64, y)))
            }
            "erf" => self.erf(layout),
            "sqr" => self.map(name, layout, NUMBERS, |context, x, y| launch::<op::Mul, _>(context, (x, x, y))),
            "neg" => self.map_or_widen(name, layout, SIGNED, DType::I16, launcher!(Neg)),
            "abs" if self.is_unsigned() => self.compact(layout),
            "abs" => self.map(name, layout, SIGNED, launcher!(Abs)),
            "relu" if self.is_unsigned() => self.compact(layout),
            "relu" => match self.element() {
                DType::F64 | DType::I16 => self.clamp_min_zero(layout),
                _ => self.map(name, layout, NUMBERS, launcher!(Relu)),
            },
            "sign" => self.sign(layout),
            "floor" | "ceil" | "round" if !self.element().is_float() => self.compact(layout),
            "floor" => self.map(name, layout, FLOATS_AND_DOUBLE, launcher!(Floor)),
            "ceil" => self.map(name, layout, FLOATS_AND_DOUBLE, launcher!(Ceil)),
            "round" => self.round(layout),
            _ => Err(Error::Unavailable { op: name, why: "no aclnn operator is known for it".into() }.into()),
        }
    }

    fn is_unsigned(&self) -> bool {
        matches!(self.element(), DType::U8 | DType::U32)
    }

    /// One launch from the elements that `layout` selects to new storage of the same type.
    pub(super) fn map(&self, op: &'static str, layout: &Layout, has: &'static [DType], launch: Launch) -> Result<Self> {
        require(op, self.element(), has)?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            // UINT32 has no arithmetic; every operator that is listed for it here gives the bits of INT32.
            launch(self.context(), &self.bits(layout)?.desc()?, &out.shaped_bits(layout.dims())?.desc()?)?;
        }
        Ok(out)
    }

    /// As [`Self::map`], by way of I64 for the one type that the operator lacks.
    fn map_or_widen(
        &self,
        op: &'static str,
        layout: &Layout,
        has: &'static [DType],
        lacks: DType,
        launch: Launch,
    ) -> Result<Self> {
        if self.element() != lacks {
            return self.map(op, layout, has, launch);
        }
        self.through_i64(layout, |wide, layout| wide.map(op, layout, has, launch))
    }

    /// Converts to I64, computes, and converts back.
    pub(super) fn through_i64(
        &self,
        layout: &Layout,
        compute: impl FnOnce(&Self, &Layout) -> Result<Self>,
    ) -> Result<Self> {
        let wide = self.cast(layout, DType::I64)?;
        let result = compute(&wide, &Layout::contiguous(layout.shape()))?;
        result.cast(&Layout::contiguous(result.len()), self.element())
    }

    /// aclnn has erf for BF16 on some chips only; float holds every BF16 exactly.
    fn erf(&self, layout: &Layout) -> Result<Self> {
        if self.element() != DType::BF16 {
            return self.map("erf", layout, FLOATS_AND_DOUBLE, launcher!(Erf));
        }
        let wide = self.cast(layout, DType::F32)?.erf(&Layout::contiguous(layout.shape()))?;
        wide.cast(&Layout::contiguous(layout.shape()), DType::BF16)
    }

    fn sign(&self, layout: &Layout) -> Result<Self> {
        match self.element() {
            DType::U8 | DType::U32 | DType::I16 => self.through_i64(layout, |wide, layout| wide.sign(layout)),
            _ => self.map("sign", layout, SIGNED, launcher!(Sign)),
        }
    }

    fn clamp_min_zero(&self, layout: &Layout) -> Result<Self> {
        self.map("relu", layout, NUMBERS, |context, x, y| {
            launch::<op::ClampMin, _>(context, (x, &Scalar::int(context, ACL_INT32, 0)?, y))
        })
    }

    /// Halves away from zero, as candle rounds; aclnnRound takes them to the even neighbour. The doubled fraction is
    /// exact, and its integral part says whether to step.
    fn round(&self, layout: &Layout) -> Result<Self> {
        let whole = self.trunc(layout)?;
        let (shape, flat) = (Layout::contiguous(layout.shape()), Layout::contiguous(whole.len()));
        let fraction = self.binary("sub", &whole, layout, &shape)?;
        let step = fraction.affine_impl(&flat, 2.0, 0.0)?.trunc(&flat)?;
        whole.binary("add", &step, &flat, &flat)
    }

    /// The part before the point. aclnnTrunc has no double, of which it is put together.
    fn trunc(&self, layout: &Layout) -> Result<Self> {
        if self.element() != DType::F64 {
            return self.map("round", layout, FLOATS, launcher!(Trunc));
        }
        let shape = Layout::contiguous(layout.shape());
        let size = self.unary("abs", layout)?.unary("floor", &shape)?;
        self.unary("sign", layout)?.binary("mul", &size, &shape, &shape)
    }

    /// `x * mul + add`, each step rounded to the element type as candle does; integers take the truncated factors.
    pub(super) fn affine_impl(&self, layout: &Layout, mul: f64, add: f64) -> Result<Self> {
        require("affine", self.element(), NUMBERS)?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            self.affine_into(&out.shaped_bits(layout.dims())?.desc()?, layout, mul, add)?;
        }
        Ok(out)
    }

    fn affine_into(&self, out: &TensorDesc<'_>, layout: &Layout, mul: f64, add: f64) -> Result<()> {
        let context = self.context();
        let x = self.bits(layout)?.desc()?;
        let dtype = super::dtype::bits_type(self.element())?;
        // A u32 factor keeps its bits; negative ones are 0, as a conversion from float to u32 gives.
        let scalar = |value: f64| match self.element() {
            DType::U32 => Scalar::int(context, dtype, i64::from(value as u32 as i32)),
            DType::U8 => Scalar::int(context, dtype, i64::from(value as u8)),
            _ => Scalar::like(context, dtype, value),
        };
        let one = Scalar::like(context, dtype, 1.0)?;
        match (mul == 1.0, add == 0.0) {
            (true, false) => launch::<op::Adds, _>(context, (&x, &scalar(add)?, &one, out))?,
            (_, true) => launch::<op::Muls, _>(context, (&x, &scalar(mul)?, out))?,
            (false, false) => {
                launch::<op::Muls, _>(context, (&x, &scalar(mul)?, out))?;
                launch::<op::InplaceAdds, _>(context, (out, &scalar(add)?, &one))?;
            }
        }
        Ok(())
    }

    pub(super) fn powf_impl(&self, layout: &Layout, exponent: f64) -> Result<Self> {
        self.with_scalar("powf", layout, FLOATS_AND_DOUBLE, exponent, |context, x, exponent, y| {
            launch::<op::PowTensorScalar, _>(context, (x, exponent, y))
        })
    }

    pub(super) fn elu_impl(&self, layout: &Layout, alpha: f64) -> Result<Self> {
        self.with_scalar("elu", layout, FLOATS, alpha, |context, x, alpha, y| {
            let one = Scalar::like(context, acl_sys::ACL_FLOAT, 1.0)?;
            launch::<op::Elu, _>(context, (x, alpha, &one, &one, y))
        })
    }

    fn with_scalar(
        &self,
        op: &'static str,
        layout: &Layout,
        has: &'static [DType],
        value: f64,
        launch: impl FnOnce(&Context, &TensorDesc<'_>, &Scalar<'_>, &TensorDesc<'_>) -> std::result::Result<(), Error>,
    ) -> Result<Self> {
        require(op, self.element(), has)?;
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            let scalar = Scalar::like(self.context(), super::dtype::acl_type(self.element())?, value)?;
            launch(self.context(), &self.view(layout)?.desc()?, &scalar, &out.shaped(layout.dims())?.desc()?)?;
        }
        Ok(out)
    }

    /// Sets the elements of `view` to an integral or floating-point value.
    pub(super) fn fill(&self, view: View<'_>, value: &Scalar<'_>) -> Result<()> {
        Ok(launch::<op::InplaceFillScalar, _>(self.context(), (&view.desc()?, value))?)
    }
}
