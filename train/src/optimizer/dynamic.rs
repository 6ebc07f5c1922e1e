//! Eight bits an element by a dynamic map, one scale a block (Dettmers et al., arXiv 2110.02861, sections 2.1 and 2.2).
//!
//! A code has leading zeros that count powers of ten, a one, and a linear fraction in what bits are left: small numbers keep
//! their order of magnitude, large ones their digits. Everything is composed of operators that each device has: the code of a
//! number is found by bisection among the middles between neighbouring values, eight rounds of a gather, a comparison and a
//! choice.

use anyhow::Result;
use candle_ascend::{D, DType, Device, Shape, Tensor};

/// Elements that share a scale, the largest magnitude among them.
const BLOCK: usize = 256;
/// Blocks that are coded at a time: what is held beside them takes forty bytes an element.
const PART: usize = 4096;

/// The values of the codes, and what lies between them.
pub(super) struct Table {
    /// `[256]`, ascending.
    values: Tensor,
    /// `[255]`: code `i` ends and code `i + 1` begins here.
    bounds: Tensor,
}

pub(super) struct Tables {
    pub signed: Table,
    pub unsigned: Table,
}

/// The positive values with `bits` bits for zeros, the one and the fraction: the middles of `2^fraction` equal parts of
/// `[0.1, 1]`, times a power of ten.
fn magnitudes(bits: u32) -> Vec<f64> {
    let of = |zeros: u32| {
        let parts = 1u32 << (bits - 1 - zeros);
        (0..parts).map(move |i| (0.1 + 0.9 * (f64::from(i) + 0.5) / f64::from(parts)) * 10f64.powi(-(zeros as i32)))
    };
    (0..7).flat_map(of).collect()
}

/// All values of a map, ascending: zero and one are among them.
fn values(signed: bool) -> Vec<f64> {
    let magnitudes = magnitudes(if signed { 7 } else { 8 });
    let negative = magnitudes.iter().filter(|_| signed).map(|value| -value);
    let mut values: Vec<f64> = negative.chain(magnitudes.iter().copied()).chain([0., 1.]).collect();
    values.sort_by(f64::total_cmp);
    values
}

impl Table {
    fn new(signed: bool, device: &Device) -> Result<Self> {
        let values = values(signed);
        let mut bounds: Vec<f64> = values.windows(2).map(|pair| (pair[0] + pair[1]) / 2.).collect();
        if !signed {
            // The mean of squares is a divisor: only zero is coded as zero.
            bounds[0] = 0.;
        }
        let tensor = |numbers: Vec<f64>| Tensor::from_iter(numbers.into_iter().map(|number| number as f32), device);
        Ok(Self { values: tensor(values)?, bounds: tensor(bounds)? })
    }

    /// The codes (U8) of `x`, which lies in `[-1, 1]`.
    fn codes(&self, x: &Tensor) -> Result<Tensor> {
        let mut code = x.zeros_like()?.to_dtype(DType::I64)?;
        for bit in (0..8).rev() {
            let higher = (&code + f64::from(1 << bit))?;
            let bound = self.bounds.index_select(&(&higher - 1.)?.flatten_all()?, 0)?.reshape(x.shape())?;
            code = x.gt(&bound)?.where_cond(&higher, &code)?;
        }
        Ok(code.to_dtype(DType::U8)?)
    }
}

impl Tables {
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self { signed: Table::new(true, device)?, unsigned: Table::new(false, device)? })
    }
}

/// A tensor in eight bits an element.
pub(super) struct Quantised {
    shape: Shape,
    /// `[blocks, 256]`, U8. The last block is filled up with zeros.
    pub codes: Tensor,
    /// `[blocks]`, F32
    pub scales: Tensor,
}

impl Quantised {
    /// Zeros of the shape of `like`. A scale of zero makes every code zero.
    pub fn zeros(like: &Tensor) -> Result<Self> {
        let blocks = like.elem_count().div_ceil(BLOCK);
        let codes = Tensor::zeros((blocks, BLOCK), DType::U8, like.device())?;
        Ok(Self { shape: like.shape().clone(), codes, scales: Tensor::zeros(blocks, DType::F32, like.device())? })
    }

    /// `x` (F32) in codes of `table`, each the nearest.
    pub fn of(x: &Tensor, table: &Table) -> Result<Self> {
        let blocks = x.elem_count().div_ceil(BLOCK);
        let flat = x.flatten_all()?.pad_with_zeros(0, 0, blocks * BLOCK - x.elem_count())?.reshape((blocks, BLOCK))?;
        let scales = flat.abs()?.max(D::Minus1)?;
        // Where all are zero, zero divided by something.
        let divisor = scales.maximum(f64::from(f32::MIN_POSITIVE))?.unsqueeze(1)?;
        let part = |start: usize| {
            let count = PART.min(blocks - start);
            table.codes(&flat.narrow(0, start, count)?.broadcast_div(&divisor.narrow(0, start, count)?)?)
        };
        let parts = (0..blocks).step_by(PART).map(part).collect::<Result<Vec<_>>>()?;
        Ok(Self { shape: x.shape().clone(), codes: Tensor::cat(&parts, 0)?, scales })
    }

    /// The values in F32.
    pub fn wide(&self, table: &Table) -> Result<Tensor> {
        let blocks = self.scales.dim(0)?;
        let part = |start: usize| -> Result<Tensor> {
            let count = PART.min(blocks - start);
            let codes = self.codes.narrow(0, start, count)?.flatten_all()?.to_dtype(DType::I64)?;
            let values = table.values.index_select(&codes, 0)?.reshape((count, BLOCK))?;
            Ok(values.broadcast_mul(&self.scales.narrow(0, start, count)?.unsqueeze(1)?)?)
        };
        let parts = (0..blocks).step_by(PART).map(part).collect::<Result<Vec<_>>>()?;
        let flat = Tensor::cat(&parts, 0)?.flatten_all()?;
        Ok(flat.narrow(0, 0, self.shape.elem_count())?.reshape(&self.shape)?)
    }
}
