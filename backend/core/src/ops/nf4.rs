//! Weights in four bits that a frozen base of fine-tuning is kept in (QLoRA, arXiv 2305.14314): `npu_cpu_kernels::nf4` says what
//! the numbers are.
//!
//! A product widens the whole matrix first, which is freed after it; backward widens it again. On the CPU that is one loop. On
//! other devices it is composed of nine launches: a table of all pairs of levels is looked up with each byte, so that a byte is
//! one row, and the rows are multiplied with the blocks' scales. aclnn has no operator for these codes. One kernel would read
//! half a byte and write the number once, where the launches read and write some ten bytes a number in BF16.

use super::cpu::{Real, elements, on_cpu};
use super::fused::expect_float;
use super::kernels::overrides;
use super::linear::Linear;
use super::{as_one, embedding};
use crate::autograd::{Gradient, no_grad};
use crate::{DType, Device, Error, Result, Storage, Tensor, WithDType, bail};
use npu_cpu_kernels::nf4::{self, BLOCK, CENTRE, GROUP, LEVELS, STEPS, Scales};
use std::fmt;
use std::sync::Arc;

/// A matrix `[N, K]` in four bits, on any device.
pub struct Nf4 {
    rows: usize,
    columns: usize,
    /// What it is widened to.
    dtype: DType,
    /// Two codes a byte, `[N K / 2]`.
    codes: Tensor,
    /// `[groups, 256]`, one byte a block.
    scales: Tensor,
    /// `[groups, 1]`, F32
    distances: Tensor,
    mean: f32,
    /// The levels of each byte's two codes, `[256, 2]`; the CPU has its own.
    pairs: Option<Tensor>,
}

impl fmt::Debug for Nf4 {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Nf4[{}, {}; {:?}]", self.rows, self.columns, self.dtype)
    }
}

/// Quantises a matrix part by part, so that no more than a part is on the host in full width.
pub struct Nf4Packer {
    columns: usize,
    codes: Vec<u8>,
    magnitudes: Vec<f32>,
}

impl Nf4Packer {
    /// For rows of `columns` columns.
    pub fn new(columns: usize) -> Self {
        Self { columns, codes: Vec::new(), magnitudes: Vec::new() }
    }

    /// Where parts are wanted.
    pub fn host(&self) -> Device {
        Device::Cpu
    }

    /// Adds the rows `part` `[n, columns]`, whose elements must be whole blocks of 64.
    pub fn push(&mut self, part: &Tensor) -> Result<()> {
        let (rows, columns) = part.dims2()?;
        if columns != self.columns || !(rows * columns).is_multiple_of(BLOCK) || rows == 0 {
            bail!(
                "nf4: a part of {:?} among rows of {} columns is not made of blocks of {BLOCK} numbers",
                part.shape(),
                self.columns
            )
        }
        let (codes, magnitudes) = nf4::encode(&part.to_dtype(DType::F32)?.host_values()?);
        if let Some(bad) = magnitudes.iter().find(|magnitude| !magnitude.is_finite()) {
            bail!("nf4: a part of {:?} holds {bad}", part.shape())
        }
        self.codes.extend(codes);
        self.magnitudes.extend(magnitudes);
        Ok(())
    }

    /// The parts one below the other on `device`, to be widened to `dtype`.
    pub fn finish(self, dtype: DType, device: &Device) -> Result<Nf4> {
        let Self { columns, codes, magnitudes } = self;
        let Scales { codes: scales, distances, mean } = Scales::of(&magnitudes);
        let (rows, groups) = (codes.len() * 2 / columns.max(1), distances.len());
        Ok(Nf4 {
            rows,
            columns,
            dtype,
            codes: Tensor::from_vec(codes, rows * columns / 2, device)?,
            scales: Tensor::from_vec(scales, (groups, GROUP), device)?,
            distances: Tensor::from_vec(distances, (groups, 1), device)?,
            mean,
            pairs: if device.is_cpu() { None } else { Some(pairs(dtype, device)?) },
        })
    }
}

/// The levels of the upper and the lower half of each byte.
fn pairs(dtype: DType, device: &Device) -> Result<Tensor> {
    let levels = (0..=u8::MAX).flat_map(|byte| [LEVELS[usize::from(byte >> 4)], LEVELS[usize::from(byte & 15)]]);
    Tensor::from_iter(levels, device)?.reshape((256, 2))?.to_dtype(dtype)
}

impl Nf4 {
    pub fn dims2(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    pub fn device(&self) -> &Device {
        self.codes.device()
    }

    /// Bytes that the matrix takes in memory.
    pub fn bytes(&self) -> usize {
        let held = [Some(&self.codes), Some(&self.scales), Some(&self.distances), self.pairs.as_ref()];
        held.into_iter().flatten().map(|tensor| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }

    /// The matrix `[N, K]`. The CPU computes each number in F32 and rounds once; other devices compute in the type that they
    /// widen to, so that in BF16 a number may be three roundings away.
    pub fn widen(&self) -> Result<Tensor> {
        no_grad(|| {
            if overrides()
                && let Some(wide) = on_cpu!(Typed(self.dtype, self.device()), widen_on_host(self))?
            {
                return Ok(wide);
            }
            let (device, numbers) = (self.device(), self.rows * self.columns);
            let own;
            let pairs = match &self.pairs {
                Some(pairs) => pairs,
                None => {
                    own = pairs(self.dtype, device)?;
                    &own
                }
            };
            let levels = embedding(pairs, &self.codes.to_dtype(DType::U32)?)?.reshape((numbers / BLOCK, BLOCK))?;
            levels.broadcast_mul(&self.block_scales()?)?.reshape((self.rows, self.columns))
        })
    }

    /// `[blocks, 1]`
    fn block_scales(&self) -> Result<Tensor> {
        let step = 1.0 / f64::from(STEPS);
        let steps = self.scales.to_dtype(DType::F32)?.affine(step, -f64::from(CENTRE) * step)?;
        let scales = steps.broadcast_mul(&self.distances)?.affine(1.0, f64::from(self.mean))?;
        let blocks = self.rows * self.columns / BLOCK;
        scales.reshape((scales.elem_count(), 1))?.narrow(0, 0, blocks)?.to_dtype(self.dtype)
    }
}

fn widen_on_host<T: Real>(matrix: &Nf4) -> Result<Tensor> {
    let (codes, scales, distances) = (matrix.codes.storage(), matrix.scales.storage(), matrix.distances.storage());
    let (Storage::Cpu(codes), Storage::Cpu(scales)) = (&*codes, &*scales) else {
        bail!("a tensor on the CPU has storage elsewhere")
    };
    let mut out = vec![T::zero(); matrix.rows * matrix.columns];
    nf4::decode(
        u8::cpu_storage_as_slice(codes)?,
        u8::cpu_storage_as_slice(scales)?,
        elements(&distances, matrix.distances.layout())?,
        matrix.mean,
        &mut out,
    );
    Tensor::from_vec(out, (matrix.rows, matrix.columns), matrix.device())
}

/// What `on_cpu` asks of a tensor, for one that is still to be made.
struct Typed<'a>(DType, &'a Device);

impl Typed<'_> {
    fn dtype(&self) -> DType {
        self.0
    }

    fn device(&self) -> &Device {
        self.1
    }
}

/// `x·Wᵀ + bias`; the gradient of `x` is as if the matrix were wide.
pub(super) fn linear(x: &Tensor, matrix: &Arc<Nf4>, bias: Option<&Tensor>) -> Result<Tensor> {
    expect_float(x, "linear")?;
    if x.dtype() != matrix.dtype {
        return Err(Error::DTypeMismatchBinaryOp { lhs: x.dtype(), rhs: matrix.dtype, op: "linear" }.bt());
    }
    let gradient = Nf4Linear(matrix.clone());
    let project = || super::linear(x, &matrix.widen()?, bias);
    match bias {
        Some(bias) => as_one(&gradient, [x, bias], project),
        None => as_one(&gradient, [x], project),
    }
}

#[derive(Clone)]
struct Nf4Linear(Arc<Nf4>);

impl Gradient<1> for Nf4Linear {
    fn name(&self) -> &'static str {
        "linear over nf4"
    }

    fn backward(&self, [x]: [&Tensor; 1], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let [of_x, _] = Linear.backward([x, &self.0.widen()?], y, grad)?;
        Ok([of_x])
    }
}

impl Gradient<2> for Nf4Linear {
    fn name(&self) -> &'static str {
        "linear with bias over nf4"
    }

    fn backward(&self, [x, bias]: [&Tensor; 2], y: &Tensor, grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let [of_x, _, of_bias] = Linear.backward([x, &self.0.widen()?, bias], y, grad)?;
        Ok([of_x, of_bias])
    }
}
