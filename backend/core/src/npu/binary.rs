//! Operators of two and three tensors, element by element.

use super::dtype::{NUMBERS, bits_type, require};
use super::storage::NpuStorage;
use crate::acl::{Context, Error, Scalar, TensorDesc, View, launch};
use acl_sys::loader::op;
use acl_sys::{ACL_INT32, ACL_INT64};
use candle_core::op::CmpOp;
use candle_core::{DType, Layout, Result};

type Launch = fn(&Context, &TensorDesc<'_>, &TensorDesc<'_>, &TensorDesc<'_>) -> std::result::Result<(), Error>;

macro_rules! launcher {
    ($op:ident) => {
        |context, a, b, out| launch::<op::$op, _>(context, (a, b, out))
    };
}

/// DivMod's rounding of integer quotients toward zero.
const TRUNCATE: i32 = 1;

/// Undoes the broadcasts that another operand makes again, so that the device does not copy repeated elements.
fn share_broadcasts<const N: usize>(mut views: [View<'_>; N]) -> [View<'_>; N] {
    for dim in 0..views[0].dims().len() {
        if !views.iter().all(|view| view.repeats(dim)) {
            views = views.map(|view| if view.repeats(dim) { view.once(dim) } else { view });
        }
    }
    views
}

impl NpuStorage {
    /// Applies candle's operator `name` to two tensors of one shape and type.
    pub(super) fn binary(&self, name: &'static str, rhs: &Self, layout: &Layout, rhs_layout: &Layout) -> Result<Self> {
        require(name, self.element(), NUMBERS)?;
        let (integer, unsigned) = (!self.element().is_float(), self.element() == DType::U32);
        let launch: Launch = match name {
            "add" => {
                |context, a, b, out| launch::<op::Add, _>(context, (a, b, &Scalar::int(context, ACL_INT64, 1)?, out))
            }
            "sub" => {
                |context, a, b, out| launch::<op::Sub, _>(context, (a, b, &Scalar::int(context, ACL_INT64, 1)?, out))
            }
            "mul" => launcher!(Mul),
            "div" | "minimum" | "maximum" if unsigned => return self.binary_through_i64(name, rhs, layout, rhs_layout),
            "div" if integer => |context, a, b, out| launch::<op::DivMod, _>(context, (a, b, TRUNCATE, out)),
            "div" => launcher!(Div),
            "minimum" => launcher!(Minimum),
            "maximum" => launcher!(Maximum),
            _ => return Err(Error::Unavailable { op: name, why: "no aclnn operator is known for it".into() }.into()),
        };
        let out = self.npu().uninit(self.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            let [a, b] = share_broadcasts([self.bits(layout)?, rhs.bits(rhs_layout)?]);
            launch(self.context(), &a.desc()?, &b.desc()?, &out.shaped_bits(layout.dims())?.desc()?)?;
        }
        Ok(out)
    }

    fn binary_through_i64(&self, name: &'static str, rhs: &Self, layout: &Layout, rhs_layout: &Layout) -> Result<Self> {
        self.through_i64(layout, |lhs, layout| {
            lhs.binary(name, &rhs.cast(rhs_layout, DType::I64)?, layout, &Layout::contiguous(rhs_layout.shape()))
        })
    }

    /// Compares two tensors of one shape and type; u8, 1 where true.
    pub(super) fn compare(&self, comparison: CmpOp, rhs: &Self, layout: &Layout, rhs_layout: &Layout) -> Result<Self> {
        require("cmp", self.element(), NUMBERS)?;
        let equality = matches!(comparison, CmpOp::Eq | CmpOp::Ne);
        if self.element() == DType::U32 && !equality {
            let (lhs, rhs) = (self.cast(layout, DType::I64)?, rhs.cast(rhs_layout, DType::I64)?);
            let flat = Layout::contiguous(layout.shape());
            return lhs.compare(comparison, &rhs, &flat, &flat);
        }
        let launch: Launch = match comparison {
            CmpOp::Eq => launcher!(EqTensor),
            CmpOp::Ne => launcher!(NeTensor),
            CmpOp::Lt => launcher!(LtTensor),
            CmpOp::Le => launcher!(LeTensor),
            CmpOp::Gt => launcher!(GtTensor),
            CmpOp::Ge => launcher!(GeTensor),
        };
        let out = self.npu().uninit(DType::U8, layout.shape().elem_count())?;
        if !out.is_empty() {
            let [a, b] = share_broadcasts([self.bits(layout)?, rhs.bits(rhs_layout)?]);
            launch(self.context(), &a.desc()?, &b.desc()?, &out.truth(layout.dims())?.desc()?)?;
        }
        Ok(out)
    }

    /// Where `self` is not 0 the element of `on_true`, else that of `on_false`; all of one shape.
    pub(super) fn select(
        &self,
        layout: &Layout,
        on_true: (&Self, &Layout),
        on_false: (&Self, &Layout),
    ) -> Result<Self> {
        require("where", self.element(), super::dtype::INDEXES)?;
        if self.element() != DType::U8 {
            let truth = self.is_nonzero(layout)?;
            return truth.select(&Layout::contiguous(layout.shape()), on_true, on_false);
        }
        let (t, f) = (on_true.0, on_false.0);
        let out = self.npu().uninit(t.element(), layout.shape().elem_count())?;
        if !out.is_empty() {
            let views = [self.view(layout)?, t.bits(on_true.1)?, f.bits(on_false.1)?];
            let [condition, t, f] = share_broadcasts(views);
            let arguments = (&condition.desc()?, &t.desc()?, &f.desc()?, &out.shaped_bits(layout.dims())?.desc()?);
            launch::<op::SWhere, _>(self.context(), arguments)?;
        }
        Ok(out)
    }

    /// u8, 1 where the integer is not 0.
    fn is_nonzero(&self, layout: &Layout) -> Result<Self> {
        let out = self.npu().uninit(DType::U8, layout.shape().elem_count())?;
        if !out.is_empty() {
            let zero = Scalar::int(self.context(), bits_type(self.element())?, 0)?;
            let (x, y) = (self.bits(layout)?.desc()?, out.truth(layout.dims())?.desc()?);
            launch::<op::NeScalar, _>(self.context(), (&x, &zero, &y))?;
        }
        Ok(out)
    }

    /// u8, 1 where the integer is `value`.
    pub(super) fn is_value(&self, layout: &Layout, value: i64) -> Result<Self> {
        let out = self.npu().uninit(DType::U8, layout.shape().elem_count())?;
        if !out.is_empty() {
            let dtype = bits_type(self.element())?;
            let value = Scalar::int(self.context(), if dtype == ACL_INT32 { ACL_INT32 } else { ACL_INT64 }, value)?;
            let (x, y) = (self.bits(layout)?.desc()?, out.truth(layout.dims())?.desc()?);
            launch::<op::EqScalar, _>(self.context(), (&x, &value, &y))?;
        }
        Ok(out)
    }
}
