//! candle's storage trait, method by method.

use super::device::NpuDevice;
use super::storage::NpuStorage;
use crate::acl::{self, Error};
use candle_core::backend::BackendStorage;
use candle_core::conv::{ParamsConv1D, ParamsConv2D, ParamsConvTranspose1D, ParamsConvTranspose2D};
use candle_core::op::{BinaryOpT, CmpOp, ReduceOp, UnaryOpT};
use candle_core::{CpuStorage, DType, Layout, Result, scalar};

/// The error of what the language models do not need and nobody has written.
fn unavailable<T>(op: &'static str) -> Result<T> {
    Err(Error::Unavailable {
        op,
        why: "convolution, pooling and resampling are not implemented; move the tensor to the cpu".into(),
    }
    .into())
}

impl BackendStorage for NpuStorage {
    type Device = NpuDevice;

    fn try_clone(&self, _: &Layout) -> Result<Self> {
        self.compact(&Layout::contiguous(self.len()))
    }

    fn dtype(&self) -> DType {
        self.element()
    }

    fn device(&self) -> &NpuDevice {
        self.npu()
    }

    fn to_cpu_storage(&self) -> Result<CpuStorage> {
        let (buffer, count) = (self.buffer(), self.len());
        Ok(match self.element() {
            DType::U8 => CpuStorage::U8(acl::read_elements(buffer, count)?),
            DType::U32 => CpuStorage::U32(acl::read_elements(buffer, count)?),
            DType::I16 => CpuStorage::I16(acl::read_elements(buffer, count)?),
            DType::I32 => CpuStorage::I32(acl::read_elements(buffer, count)?),
            DType::I64 => CpuStorage::I64(acl::read_elements(buffer, count)?),
            DType::BF16 => CpuStorage::BF16(acl::read_elements(buffer, count)?),
            DType::F16 => CpuStorage::F16(acl::read_elements(buffer, count)?),
            DType::F32 => CpuStorage::F32(acl::read_elements(buffer, count)?),
            DType::F64 => CpuStorage::F64(acl::read_elements(buffer, count)?),
            DType::F8E4M3 => CpuStorage::F8E4M3(acl::read_elements(buffer, count)?),
            got => return Err(Error::DType { op: "to_cpu_storage", got, has: super::dtype::NUMBERS }.into()),
        })
    }

    fn affine(&self, layout: &Layout, mul: f64, add: f64) -> Result<Self> {
        self.affine_impl(layout, mul, add)
    }

    fn powf(&self, layout: &Layout, exponent: f64) -> Result<Self> {
        self.powf_impl(layout, exponent)
    }

    fn elu(&self, layout: &Layout, alpha: f64) -> Result<Self> {
        self.elu_impl(layout, alpha)
    }

    fn reduce_op(&self, reduction: ReduceOp, layout: &Layout, dims: &[usize]) -> Result<Self> {
        self.reduce(reduction, layout, dims)
    }

    fn cmp(&self, comparison: CmpOp, rhs: &Self, layout: &Layout, rhs_layout: &Layout) -> Result<Self> {
        self.compare(comparison, rhs, layout, rhs_layout)
    }

    fn to_dtype(&self, layout: &Layout, dtype: DType) -> Result<Self> {
        self.cast(layout, dtype)
    }

    fn unary_impl<B: UnaryOpT>(&self, layout: &Layout) -> Result<Self> {
        self.unary(B::NAME, layout)
    }

    fn binary_impl<B: BinaryOpT>(&self, rhs: &Self, layout: &Layout, rhs_layout: &Layout) -> Result<Self> {
        self.binary(B::NAME, rhs, layout, rhs_layout)
    }

    fn where_cond(&self, layout: &Layout, t: &Self, t_layout: &Layout, f: &Self, f_layout: &Layout) -> Result<Self> {
        self.select(layout, (t, t_layout), (f, f_layout))
    }

    fn gather(&self, layout: &Layout, ids: &Self, ids_layout: &Layout, dim: usize) -> Result<Self> {
        self.gather_impl(layout, ids, ids_layout, dim)
    }

    fn scatter_set(
        &mut self,
        layout: &Layout,
        ids: &Self,
        ids_layout: &Layout,
        src: &Self,
        src_layout: &Layout,
        dim: usize,
    ) -> Result<()> {
        self.scatter_impl(layout, (ids, ids_layout), (src, src_layout), dim)
    }

    fn scatter_add_set(
        &mut self,
        layout: &Layout,
        ids: &Self,
        ids_layout: &Layout,
        src: &Self,
        src_layout: &Layout,
        dim: usize,
    ) -> Result<()> {
        self.scatter_add_impl(layout, (ids, ids_layout), (src, src_layout), dim)
    }

    fn index_select(&self, ids: &Self, layout: &Layout, ids_layout: &Layout, dim: usize) -> Result<Self> {
        self.index_select_impl(ids, layout, ids_layout, dim)
    }

    fn index_add(
        &self,
        layout: &Layout,
        ids: &Self,
        ids_layout: &Layout,
        src: &Self,
        src_layout: &Layout,
        dim: usize,
    ) -> Result<Self> {
        self.index_add_impl(layout, (ids, ids_layout), (src, src_layout), dim)
    }

    fn matmul(
        &self,
        rhs: &Self,
        bmnk: (usize, usize, usize, usize),
        layout: &Layout,
        rhs_layout: &Layout,
    ) -> Result<Self> {
        self.matmul_impl(rhs, bmnk, layout, rhs_layout)
    }

    fn copy_strided_src(&self, dst: &mut Self, offset: usize, layout: &Layout) -> Result<()> {
        self.copy_into(dst, offset, layout)
    }

    fn copy2d(
        &self,
        dst: &mut Self,
        rows: usize,
        columns: usize,
        src_stride: usize,
        dst_stride: usize,
        src_offset: usize,
        dst_offset: usize,
    ) -> Result<()> {
        if rows * columns == 0 {
            return Ok(());
        }
        let from = self.strided(&[rows, columns], &[src_stride, 1], src_offset)?;
        self.copy_rows(from, dst.strided(&[rows, columns], &[dst_stride, 1], dst_offset)?)
    }

    fn const_set(&mut self, value: scalar::Scalar, layout: &Layout) -> Result<()> {
        if value.dtype() != self.element() {
            let (expected, got) = (self.element(), value.dtype());
            return Err(candle_core::Error::UnexpectedDType { msg: "const-set", expected, got }.bt());
        }
        if layout.shape().elem_count() == 0 {
            return Ok(());
        }
        let value = self.fill_scalar(self.context(), value)?;
        self.fill(self.bits(layout)?, &value)
    }

    fn conv1d(&self, _: &Layout, _: &Self, _: &Layout, _: &ParamsConv1D) -> Result<Self> {
        unavailable("conv1d")
    }

    fn conv_transpose1d(&self, _: &Layout, _: &Self, _: &Layout, _: &ParamsConvTranspose1D) -> Result<Self> {
        unavailable("conv_transpose1d")
    }

    fn conv2d(&self, _: &Layout, _: &Self, _: &Layout, _: &ParamsConv2D) -> Result<Self> {
        unavailable("conv2d")
    }

    fn conv_transpose2d(&self, _: &Layout, _: &Self, _: &Layout, _: &ParamsConvTranspose2D) -> Result<Self> {
        unavailable("conv_transpose2d")
    }

    fn avg_pool2d(&self, _: &Layout, _: (usize, usize), _: (usize, usize)) -> Result<Self> {
        unavailable("avg_pool2d")
    }

    fn max_pool2d(&self, _: &Layout, _: (usize, usize), _: (usize, usize)) -> Result<Self> {
        unavailable("max_pool2d")
    }

    fn upsample_nearest1d(&self, _: &Layout, _: usize) -> Result<Self> {
        unavailable("upsample_nearest1d")
    }

    fn upsample_nearest2d(&self, _: &Layout, _: usize, _: usize) -> Result<Self> {
        unavailable("upsample_nearest2d")
    }

    fn upsample_bilinear2d(
        &self,
        _: &Layout,
        _: usize,
        _: usize,
        _: bool,
        _: Option<f64>,
        _: Option<f64>,
    ) -> Result<Self> {
        unavailable("upsample_bilinear2d")
    }
}
