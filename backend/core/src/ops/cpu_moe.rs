//! Mixtures of experts on the CPU: rows are counted and copied once, and all experts' products are one job for the team of threads.

use super::cpu::{Real, elements, on_cpu};
use super::moe::{Permuted, groups};
use crate::autograd::tracked;
use crate::{DType, Result, Tensor, bail};
use npu_cpu_kernels::{Rows, grouped_product, share_new};

/// Rows that are copied or added up by a task.
const ROWS: usize = 16;

/// [`super::moe::permute`]; none where the CPU has no override, or gradients are recorded.
pub(super) fn permute(x: &Tensor, chosen: &Tensor, experts: usize) -> Result<Option<Permuted>> {
    if tracked(&[x]) || chosen.dtype() != DType::U32 || !chosen.device().is_cpu() {
        return Ok(None);
    }
    on_cpu!(x, permute_of(x, chosen, experts))
}

fn permute_of<T: Real>(x: &Tensor, chosen: &Tensor, experts: usize) -> Result<Permuted> {
    let ((_, width), (_, k)) = (x.dims2()?, chosen.dims2()?);
    let chosen: Vec<u32> = chosen.flatten_all()?.to_vec1()?;
    // Counting keeps the order of the tokens of an expert.
    let mut ends = vec![0i64; experts];
    for (place, &expert) in chosen.iter().enumerate() {
        let Some(count) = ends.get_mut(expert as usize) else {
            bail!("permute: choice {} of row {} is expert {expert}, and there are {experts}", place % k, place / k)
        };
        *count += 1;
    }
    let mut total = 0;
    for count in &mut ends {
        total += *count;
        *count = total;
    }
    let (mut order, mut places) = (vec![0u32; chosen.len()], vec![0u32; chosen.len()]);
    let mut next = ends.clone();
    for (place, &expert) in chosen.iter().enumerate().rev() {
        let next = &mut next[expert as usize];
        *next -= 1;
        order[*next as usize] = place as u32;
        places[place] = *next as u32;
    }
    let x = x.contiguous()?;
    let rows = {
        let guard = x.storage();
        let from = elements::<T>(&guard, x.layout())?;
        share_new::<T>(chosen.len() * width, (ROWS * width).max(1), |task, rows| {
            for (row, place) in rows.chunks_exact_mut(width).zip(&order[task * ROWS..]) {
                row.copy_from_slice(&from[*place as usize / k * width..][..width]);
            }
        })
    };
    let device = x.device();
    let count = chosen.len();
    Ok(Permuted {
        rows: Tensor::from_vec(rows, (count, width), device)?,
        places: Tensor::from_vec(places, count, device)?,
        ends: Tensor::from_vec(ends, experts, device)?,
    })
}

/// [`super::moe::grouped_linear`]; none where the CPU has no override, or gradients are recorded.
pub(super) fn grouped_linear(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Option<Tensor>> {
    if tracked(&[x, weight]) || !weight.device().is_cpu() {
        return Ok(None);
    }
    on_cpu!(x, grouped_linear_of(x, weight, ends))
}

fn grouped_linear_of<T: Real>(x: &Tensor, weight: &Tensor, ends: &Tensor) -> Result<Tensor> {
    let ((rows, inner), (experts, outputs, _)) = (x.dims2()?, weight.dims3()?);
    let ends: Vec<usize> = groups(ends, rows)?.into_iter().map(|group| group.end).collect();
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let mut y = share_new::<T>(rows * outputs, (ROWS * outputs).max(1), |_, _| {});
    {
        let (of_x, of_weight) = (x.storage(), weight.storage());
        grouped_product(
            Rows::new(elements::<T>(&of_x, x.layout())?, rows, inner),
            Rows::new(elements::<T>(&of_weight, weight.layout())?, experts * outputs, inner),
            &ends,
            &mut y,
        );
    }
    Tensor::from_vec(y, (rows, outputs), x.device())
}

/// [`super::moe::unpermute`]; none where the CPU has no override, or gradients are recorded.
pub(super) fn unpermute(y: &Tensor, places: &Tensor, weights: &Tensor) -> Result<Option<Tensor>> {
    let wanted = weights.dtype() == DType::F32 && places.dtype() == DType::U32;
    if !wanted || tracked(&[y, weights]) || !weights.device().is_cpu() {
        return Ok(None);
    }
    on_cpu!(y, unpermute_of(y, places, weights))
}

fn unpermute_of<T: Real>(y: &Tensor, places: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let ((rows, width), (tokens, k)) = (y.dims2()?, weights.dims2()?);
    let row_of: Vec<u32> = places.to_vec1()?;
    if let Some(at) = row_of.iter().position(|&row| row as usize >= rows) {
        bail!("unpermute: choice {} of token {} is in row {}, of {rows}", at % k, at / k, row_of[at])
    }
    let weights: Vec<f32> = weights.flatten_all()?.to_vec1()?;
    let y = y.contiguous()?;
    let sums = {
        let guard = y.storage();
        let from = elements::<T>(&guard, y.layout())?;
        share_new::<T>(tokens * width, (ROWS * width).max(1), |task, sums| {
            let (mut sum, mut wide) = (vec![0f32; width], vec![0f32; width]);
            for (token, to) in (task * ROWS..).zip(sums.chunks_exact_mut(width)) {
                sum.fill(0.0);
                for (row, weight) in row_of[token * k..][..k].iter().zip(&weights[token * k..]) {
                    T::widen_slice(&from[*row as usize * width..][..width], &mut wide);
                    sum.iter_mut().zip(&wide).for_each(|(sum, value)| *sum += value * weight);
                }
                T::round_slice(&sum, to);
            }
        })
    };
    Tensor::from_vec(sums, (tokens, width), y.device())
}
