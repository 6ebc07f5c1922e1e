//! Matrix products.

use super::dtype::{FLOATS, require};
use super::storage::NpuStorage;
use crate::acl::{Error, Scalar, TensorList, launch};
use acl_sys::loader::op;
use candle_core::{Layout, Result, Shape};

/// `cubeMathType`: compute in the type of the operands, whatever it costs.
const KEEP_PRECISION: i8 = 0;

/// The last two dimensions of a layout and its batch dimensions folded into one, where the strides allow.
struct Matrices {
    batch: usize,
    batch_stride: usize,
    rows: (usize, usize),
    columns: (usize, usize),
    offset: usize,
}

impl Matrices {
    /// `None` when the batch dimensions do not lie at one distance.
    fn of(layout: &Layout) -> Option<Self> {
        let (dims, strides) = (layout.dims(), layout.stride());
        let split = dims.len().checked_sub(2)?;
        let (mut batch, mut batch_stride) = (1, 0);
        for i in (0..split).rev().filter(|&i| dims[i] != 1) {
            if batch == 1 {
                batch_stride = strides[i];
            } else if strides[i] != batch * batch_stride {
                return None;
            }
            batch *= dims[i];
        }
        let (rows, columns) = ((dims[split], strides[split]), (dims[split + 1], strides[split + 1]));
        Some(Self { batch, batch_stride, rows, columns, offset: layout.start_offset() })
    }

    /// Whether the rows of all matrices lie at one distance, so that they are one tall matrix.
    fn is_tall(&self) -> bool {
        self.batch == 1 || self.batch_stride == self.rows.0 * self.rows.1
    }
}

impl NpuStorage {
    /// `[b, m, k] x [b, k, n]` with any strides; batch dimensions are equal, as candle's tensors make them.
    pub(super) fn matmul_impl(
        &self,
        rhs: &Self,
        (b, m, n, k): (usize, usize, usize, usize),
        layout: &Layout,
        rhs_layout: &Layout,
    ) -> Result<Self> {
        require("matmul", self.element(), FLOATS)?;
        if rhs.element() != self.element() {
            let (lhs, rhs) = (self.element(), rhs.element());
            return Err(candle_core::Error::DTypeMismatchBinaryOp { lhs, rhs, op: "matmul" }.bt());
        }
        if b * m * n == 0 || k == 0 {
            use candle_core::backend::BackendDevice;
            return self.npu().zeros_impl(&Shape::from((b, m, n)), self.element());
        }
        let (lhs_copy, rhs_copy);
        let (lhs, left) = match Matrices::of(layout) {
            Some(left) => (self, left),
            None => {
                lhs_copy = self.compact(layout)?;
                (&lhs_copy, contiguous((b, m, k)))
            }
        };
        let (rhs, right) = match Matrices::of(rhs_layout) {
            Some(right) => (rhs, right),
            None => {
                rhs_copy = rhs.compact(rhs_layout)?;
                (&rhs_copy, contiguous((b, k, n)))
            }
        };
        if left.batch != b || right.batch != b || left.columns.0 != k || right.rows.0 != k {
            let why =
                format!("shapes {:?} and {:?} for b, m, n, k of {:?}", layout.dims(), rhs_layout.dims(), (b, m, n, k));
            return Err(Error::Arguments { op: "matmul", why }.into());
        }
        let out = self.npu().uninit(self.element(), b * m * n)?;
        // A weight that every matrix of the batch is multiplied with makes one tall product.
        let shared = b == 1 || right.batch_stride == 0;
        if shared && left.is_tall() {
            let x = lhs.strided(&[b * m, k], &[left.rows.1, left.columns.1], left.offset)?.desc()?;
            let y = rhs.strided(&[k, n], &[right.rows.1, right.columns.1], right.offset)?.desc()?;
            launch::<op::Mm, _>(self.context(), (&x, &y, &out.shaped(&[b * m, n])?.desc()?, KEEP_PRECISION))?;
        } else {
            let x = lhs.strided(&[b, m, k], &[left.batch_stride, left.rows.1, left.columns.1], left.offset)?.desc()?;
            let y =
                rhs.strided(&[b, k, n], &[right.batch_stride, right.rows.1, right.columns.1], right.offset)?.desc()?;
            launch::<op::BatchMatMul, _>(self.context(), (&x, &y, &out.shaped(&[b, m, n])?.desc()?, KEEP_PRECISION))?;
        }
        Ok(out)
    }

    /// `[m, k] x [k, n] + bias` in one launch, with any strides; `bias` `[n]` is of the same type.
    pub fn addmm(&self, layout: &Layout, rhs: (&Self, &Layout), bias: (&Self, &Layout)) -> Result<Self> {
        require("addmm", self.element(), FLOATS)?;
        let (&[m, k], &[inner, n], &[width]) = (layout.dims(), rhs.1.dims(), bias.1.dims()) else {
            let shapes = (layout.dims(), rhs.1.dims(), bias.1.dims());
            let why = format!("shapes {shapes:?}, wanted [m, k], [k, n] and [n]");
            return Err(Error::Arguments { op: "addmm", why }.into());
        };
        if k != inner || n != width || k == 0 {
            let why = format!("[{m}, {k}] x [{inner}, {n}] + [{width}] do not fit");
            return Err(Error::Arguments { op: "addmm", why }.into());
        }
        let out = self.npu().uninit(self.element(), m * n)?;
        if !out.is_empty() {
            let (x, y) = (self.view(layout)?.desc()?, rhs.0.view(rhs.1)?.desc()?);
            let (bias, sum) = (bias.0.view(bias.1)?.desc()?, out.shaped(&[m, n])?.desc()?);
            let one = Scalar::like(self.context(), acl_sys::ACL_FLOAT, 1.0)?;
            launch::<op::Addmm, _>(self.context(), (&bias, &x, &y, &one, &one, &sum, KEEP_PRECISION))?;
        }
        Ok(out)
    }

    /// Groups of rows of `self` `[R, I]`, each times its matrix of `weights` `[E, I, O]` (any strides); `ends` `[E]` in I64
    /// says where the groups end. `None` when the loaded CANN has no such product.
    pub fn grouped_matmul(
        &self,
        layout: &Layout,
        weights: (&Self, &Layout),
        ends: (&Self, &Layout),
    ) -> Result<Option<Self>> {
        require("grouped_matmul", self.element(), FLOATS)?;
        let context = self.context();
        if !context.has::<op::GroupedMatmulV4>() {
            return Ok(None);
        }
        let (&[rows, inner], &[experts, depth, columns], &[groups]) = (layout.dims(), weights.1.dims(), ends.1.dims())
        else {
            let shapes = (layout.dims(), weights.1.dims(), ends.1.dims());
            let why = format!("shapes {shapes:?}, wanted [R, I], [E, I, O] and [E]");
            return Err(Error::Arguments { op: "grouped_matmul", why }.into());
        };
        if inner != depth || groups != experts {
            let why = format!("[{rows}, {inner}] x [{experts}, {depth}, {columns}] with {groups} groups do not fit");
            return Err(Error::Arguments { op: "grouped_matmul", why }.into());
        }
        let out = self.npu().uninit(self.element(), rows * columns)?;
        if out.is_empty() {
            return Ok(Some(out));
        }
        const NONE: Option<&TensorList<'static>> = None;
        // One input, one output, rows grouped, the list holding ends.
        const ONE_OUTPUT: i64 = 3;
        const BY_ROWS: i64 = 0;
        const ENDS: i64 = 0;
        const NO_ACTIVATION: i64 = 0;
        let x = TensorList::new(context, vec![self.view(layout)?.desc()?])?;
        let weight = TensorList::new(context, vec![weights.0.view(weights.1)?.desc()?])?;
        let list = ends.0.view(ends.1)?.desc()?;
        let y = TensorList::new(context, vec![out.shaped(&[rows, columns])?.desc()?])?;
        #[rustfmt::skip]
        let launched = launch::<op::GroupedMatmulV4, _>(context, (
            &x, &weight, NONE, NONE, NONE, NONE, NONE, NONE, Some(&list), NONE, NONE, NONE,
            ONE_OUTPUT, BY_ROWS, ENDS, NO_ACTIVATION, &y, NONE, NONE,
        ));
        drop(y);
        launched?;
        Ok(Some(out))
    }
}

fn contiguous((batch, rows, columns): (usize, usize, usize)) -> Matrices {
    Matrices { batch, batch_stride: rows * columns, rows: (rows, columns), columns: (columns, 1), offset: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_dimensions_fold_when_they_lie_at_one_distance() {
        let whole = Layout::contiguous((2, 3, 4, 5));
        let folded = Matrices::of(&whole).expect("contiguous");
        assert_eq!((folded.batch, folded.batch_stride, folded.is_tall()), (6, 20, true));
        let transposed = whole.transpose(2, 3).expect("rank 4");
        let folded = Matrices::of(&transposed).expect("rows and columns do not matter");
        assert_eq!((folded.rows, folded.columns, folded.is_tall()), ((5, 1), (4, 5), false));
        assert!(Matrices::of(&whole.transpose(0, 2).expect("rank 4")).is_none());
        let weight = Layout::contiguous((4, 5)).broadcast_as((2, 3, 4, 5)).expect("broadcast");
        assert_eq!(Matrices::of(&weight).map(|m| (m.batch, m.batch_stride)), Some((6, 0)));
    }
}
