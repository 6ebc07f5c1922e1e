//! Writing keys and values into a paged cache, and strided slices with masks.

use super::types::*;
use super::views::{copy, with_bits};
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType;
use crate::dtype::DType::*;
use crate::fail;
use crate::status::{Result, Status};
use acl_sys::error::{ACL_ERROR_RT_AICORE_EXCEPTION, ACLNN_ERR_INNER_NULLPTR};

/// How a paged cache lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    /// `[blocks, block size, heads, width]`.
    Rows,
    /// `[blocks, heads · width / c0, block size, c0]`, `c0` filling 32 bytes.
    Fractal,
}

/// Checks one side, keys or values: `[tokens, heads, width]` into its cache. Returns the cache's block size.
fn check_side(call: &Call, tokens: &Tensor, cache: &Tensor, pages: Pages) -> Result<usize> {
    call.rank_in(tokens, 3..=3)?;
    call.rank_in(cache, 4..=4)?;
    call.dtype_in(tokens, &[F32, F16, BF16, I8, U8, I16, U16, I32, U32])?;
    call.same_dtype(cache, tokens)?;
    let [blocks, heads, width] = [cache.shape[0], tokens.shape[1], tokens.shape[2]];
    let c0 = 32 / tokens.dtype.size();
    let size = cache.shape[if pages == Pages::Rows { 1 } else { 2 }];
    let wanted = match pages {
        Pages::Rows => [blocks, size, heads, width],
        Pages::Fractal => [blocks, (heads * width).div_ceil(c0), size, c0],
    };
    call.shape_is(cache, &wanted)?;
    Ok(size)
}

/// Writes token `i` to slot `slots[i]` of a cache; a negative slot is a token to leave out.
fn write_side(launch: &Launch, tokens: &Tensor, cache: &Tensor, slots: &[i64], pages: Pages) -> Result<()> {
    let size = cache.shape[if pages == Pages::Rows { 1 } else { 2 }];
    let limit = (cache.shape[0] * size) as i64;
    for (token, &slot) in slots.iter().enumerate().filter(|(_, slot)| **slot >= 0) {
        if slot >= limit {
            fail!(ACL_ERROR_RT_AICORE_EXCEPTION, "slot_mapping holds {slot}, {} has {limit} slots", cache.name);
        }
        let (block, place) = (slot as usize / size, slot as usize % size);
        let (from, page) = (tokens.selected_view(0, token), cache.selected_view(0, block));
        match pages {
            Pages::Rows => copy(launch, &from, &page.selected_view(0, place))?,
            Pages::Fractal => {
                let target = page.selected_view(1, place);
                with_bits!(from.dtype, T => {
                    let mut values = from.bits().read::<T>(launch)?;
                    values.resize(target.count(), 0);
                    target.bits().write(launch, &values)?;
                });
            }
        }
    }
    Ok(())
}

/// Writes each token's key and value to its slot of the paged caches.
#[allow(clippy::too_many_arguments)]
pub fn scatter_pa_kv_cache(
    call: &mut Call,
    key: Tensor,
    key_cache_ref: Tensor,
    slot_mapping: Tensor,
    value: Tensor,
    value_cache_ref: Tensor,
    compress_lens: Option<Tensor>,
    compress_seq_offset: Option<Tensor>,
    seq_lens: Option<Tensor>,
    cache_mode: Option<String>,
    scatter_mode: Option<String>,
    strides: Option<Vec<i64>>,
    offsets: Option<Vec<i64>>,
) -> Result<Kernel> {
    let extras = [&compress_lens, &compress_seq_offset, &seq_lens].iter().any(|extra| extra.is_some());
    let odd = |numbers: &Option<Vec<i64>>, usual| numbers.iter().flatten().any(|&number| number != usual);
    if extras || !matches!(scatter_mode.as_deref(), None | Some("" | "None")) || odd(&strides, 1) || odd(&offsets, 0) {
        let text = format!("{}: the simulated CANN writes whole tokens only (scatter_mode None)", call.op);
        return Err(Status::new(ACLNN_ERR_INNER_NULLPTR, text));
    }
    let pages = match cache_mode.as_deref() {
        None | Some("" | "Norm") => Pages::Rows,
        Some("PA_NZ") => Pages::Fractal,
        Some(other) => return call.invalid(format!("cache_mode is {other:?}, wanted Norm or PA_NZ")),
    };
    check_side(call, &key, &key_cache_ref, pages)?;
    check_side(call, &value, &value_cache_ref, pages)?;
    call.dtype_in(&slot_mapping, INDICES)?;
    call.shape_is(&slot_mapping, &key.shape[..1])?;
    if value.shape[0] != key.shape[0] {
        return call.invalid(format!("key has {} tokens and value {}", key.shape[0], value.shape[0]));
    }
    call.touches(&key_cache_ref, key.count());
    call.touches(&value_cache_ref, value.count());
    Ok(Box::new(move |launch| {
        let slots = slot_mapping.load_i64(launch)?;
        write_side(launch, &key, &key_cache_ref, &slots, pages)?;
        write_side(launch, &value, &value_cache_ref, &slots, pages)
    }))
}

/// What strided slices take on A2 and A3.
const SLICED: &[DType] = &[I8, U8, I16, U16, I32, U32, I64, U64, F32, F16, BF16, Bool];

/// The masks of a strided slice, a bit for each entry of `begin`.
struct Masks {
    begin: i64,
    end: i64,
    ellipsis: i64,
    new_axis: i64,
    shrink: i64,
}

impl Masks {
    fn has(mask: i64, i: usize) -> bool {
        mask >> i & 1 == 1
    }

    /// The view that a strided slice names, as TensorFlow and ONNX define it.
    fn view(&self, call: &Call, x: &Tensor, begin: &[i64], end: &[i64], strides: &[i64]) -> Result<Tensor> {
        let (mut shape, mut steps, mut offset, mut dim) = (Vec::new(), Vec::new(), x.offset, 0);
        let takes = |i: usize| !Self::has(self.new_axis, i) && !Self::has(self.ellipsis, i);
        let named = (0..begin.len()).filter(|&i| takes(i)).count();
        let Some(unnamed) = x.rank().checked_sub(named) else {
            return call.invalid(format!("begin names {named} dimensions of {}", x.rank()));
        };
        let keep = |shape: &mut Vec<usize>, steps: &mut Vec<i64>, dim: &mut usize, count: usize| {
            shape.extend(&x.shape[*dim..*dim + count]);
            steps.extend(&x.strides[*dim..*dim + count]);
            *dim += count;
        };
        for i in 0..begin.len() {
            if Self::has(self.ellipsis, i) {
                keep(&mut shape, &mut steps, &mut dim, unnamed);
                continue;
            }
            if Self::has(self.new_axis, i) {
                shape.push(1);
                steps.push(0);
                continue;
            }
            let (size, stride) = (x.shape[dim] as i64, strides[i]);
            let wrapped = |place: i64| if place < 0 { place + size } else { place };
            if Self::has(self.shrink, i) {
                let place = wrapped(begin[i]);
                if stride <= 0 || place < 0 || place >= size {
                    return call
                        .invalid(format!("begin {} of dimension {dim} is outside its {size} elements", begin[i]));
                }
                offset += place * x.strides[dim];
            } else {
                let (low, high) = if stride > 0 { (0, size) } else { (-1, size - 1) };
                let first = if Self::has(self.begin, i) {
                    if stride > 0 { low } else { high }
                } else {
                    wrapped(begin[i]).clamp(low, high)
                };
                let last = if Self::has(self.end, i) {
                    if stride > 0 { high } else { low }
                } else {
                    wrapped(end[i]).clamp(low, high)
                };
                let count = if stride > 0 {
                    (last - first + stride - 1) / stride
                } else {
                    (first - last - stride - 1) / -stride
                };
                shape.push(count.max(0) as usize);
                steps.push(x.strides[dim] * stride);
                offset += if count > 0 { first * x.strides[dim] } else { 0 };
            }
            dim += 1;
        }
        let left = x.rank() - dim;
        keep(&mut shape, &mut steps, &mut dim, left);
        Ok(x.reviewed(shape, steps, offset))
    }
}

/// Slices with a begin, an end and a stride a dimension, and masks that say which of them to ignore.
#[allow(clippy::too_many_arguments)]
pub fn strided_slice(
    call: &mut Call,
    self_: Tensor,
    begin: Vec<i64>,
    end: Vec<i64>,
    strides: Vec<i64>,
    begin_mask: i64,
    end_mask: i64,
    ellipsis_mask: i64,
    new_axis_mask: i64,
    shrink_axis_mask: i64,
    out: Tensor,
) -> Result<Kernel> {
    at_most_8d(call, &[&self_, &out])?;
    call.dtype_in(&self_, SLICED)?;
    call.same_dtype(&out, &self_)?;
    if [end.len(), strides.len()] != [begin.len(); 2] || strides.contains(&0) {
        return call.invalid(format!("begin {begin:?}, end {end:?} and strides {strides:?} do not go together"));
    }
    if ellipsis_mask.count_ones() > 1 {
        return call.invalid(format!("ellipsis_mask {ellipsis_mask:#b} has more than one bit"));
    }
    let masks = Masks {
        begin: begin_mask,
        end: end_mask,
        ellipsis: ellipsis_mask,
        new_axis: new_axis_mask,
        shrink: shrink_axis_mask,
    };
    let view = masks.view(call, &self_, &begin, &end, &strides)?;
    call.shape_is(&out, &view.shape)?;
    call.touches(&self_, out.count());
    Ok(Box::new(move |launch| copy(launch, &view, &out)))
}
