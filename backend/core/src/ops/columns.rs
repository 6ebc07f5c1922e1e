//! Additions to some columns of a tensor.

use super::cpu::{Real, elements, on_cpu};
use super::kernels::overrides;
use crate::autograd::{Recorded, no_grad, record_any, tracked};
use crate::{D, Result, Tensor, bail};
use npu_cpu_kernels::share_new;

/// Elements of the result that are worth a task of their own.
const TASK: usize = 1 << 15;

/// `y` `[…, N]` with each part `[…, W]` added to its columns from the one given with it on.
///
/// Parts are in the order of their columns and do not overlap. One pass over `y` on the CPU; elsewhere the parts are joined first.
pub fn add_columns(y: &Tensor, parts: &[(usize, Tensor)]) -> Result<Tensor> {
    let width = y.dim(D::Minus1)?;
    let mut end = 0;
    for (at, part) in parts {
        let fits = part.rank() == y.rank() && part.dims()[..part.rank() - 1] == y.dims()[..y.rank() - 1];
        if !fits || *at < end || at + part.dim(D::Minus1)? > width {
            bail!("add_columns: {:?} at column {at} (from {end} on) does not fit {:?}", part.shape(), y.shape())
        }
        y.same_dtype(part, "add_columns")?;
        end = at + part.dim(D::Minus1)?;
    }
    if overrides()
        && let Some(sum) = no_grad(|| on_cpu!(y, in_one_pass(y, parts)))?
    {
        let operands: Vec<Tensor> = std::iter::once(y).chain(parts.iter().map(|(_, part)| part)).cloned().collect();
        if !tracked(&operands.iter().collect::<Vec<_>>()) {
            return Ok(sum);
        }
        return Ok(record_any(sum, AddColumns { starts: parts.iter().map(|(at, _)| *at).collect() }, operands));
    }
    y + joined(y, parts)?
}

/// The parts in their columns, zeros elsewhere.
fn joined(y: &Tensor, parts: &[(usize, Tensor)]) -> Result<Tensor> {
    let zeros = |columns: usize| {
        let dims = [&y.dims()[..y.rank() - 1], &[columns]].concat();
        Tensor::zeros(dims, y.dtype(), y.device())
    };
    let (mut all, mut end) = (Vec::new(), 0);
    for (at, part) in parts {
        if *at > end {
            all.push(zeros(at - end)?);
        }
        all.push(part.clone());
        end = at + part.dim(D::Minus1)?;
    }
    let width = y.dim(D::Minus1)?;
    if width > end || all.is_empty() {
        all.push(zeros(width - end)?);
    }
    Tensor::cat(&all, D::Minus1)
}

fn in_one_pass<T: Real>(y: &Tensor, parts: &[(usize, Tensor)]) -> Result<Tensor> {
    let width = y.dim(D::Minus1)?.max(1);
    let y = y.contiguous()?;
    let parts = parts.iter().map(|(at, part)| Ok((*at, part.contiguous()?))).collect::<Result<Vec<_>>>()?;
    let guards: Vec<_> = parts.iter().map(|(_, part)| part.storage()).collect();
    let of_part = |((at, part), guard): (&(usize, Tensor), _)| -> Result<(usize, &[T])> {
        Ok((*at, &elements::<T>(guard, part.layout())?[..part.elem_count()]))
    };
    let added = parts.iter().zip(guards.iter().map(|guard| &**guard)).map(of_part).collect::<Result<Vec<_>>>()?;
    let (guard, rows) = (y.storage(), y.elem_count() / width);
    let values = &elements::<T>(&guard, y.layout())?[..y.elem_count()];
    let many = TASK.div_ceil(width);
    let out = share_new(values.len(), many * width, |task, out| {
        for (index, out) in out.chunks_exact_mut(width).enumerate() {
            let row = task * many + index;
            out.copy_from_slice(&values[row * width..][..width]);
            for (at, part) in &added {
                let columns = part.len() / rows;
                let part = &part[row * columns..][..columns];
                for (out, part) in out[*at..*at + columns].iter_mut().zip(part) {
                    *out = T::round(out.widen() + part.widen());
                }
            }
        }
    });
    drop(guard);
    Tensor::from_vec(out, y.shape(), y.device())
}

struct AddColumns {
    starts: Vec<usize>,
}

impl Recorded for AddColumns {
    fn name(&self) -> &'static str {
        "add_columns"
    }

    fn reads_result(&self) -> bool {
        false
    }

    fn backward(&self, operands: &[Tensor], _: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let of_part = |(part, at): (&Tensor, &usize)| Ok(Some(grad.narrow(D::Minus1, *at, part.dim(D::Minus1)?)?));
        let parts = operands[1..].iter().zip(&self.starts).map(of_part);
        std::iter::once(Ok(Some(grad.clone()))).chain(parts).collect()
    }
}
