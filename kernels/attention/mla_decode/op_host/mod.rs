//! Host side of mla_decode.

use crate::Launch;
use crate::cube::SIDE;
use crate::flash::{self, Strides, WIDEST, WIDEST_VALUE};
use crate::paged::{self, PagedShape};
use crate::plan::Float;

const NAME: &str = "mla_decode";

/// q `[batch, heads, width]` over a cache `[blocks, block_size, width]` whose first `latent` columns are the values; the result is
/// `[batch, heads, latent]`. Tensors have no gaps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlaShape {
    pub batch: usize,
    pub heads: usize,
    pub width: usize,
    pub latent: usize,
    pub blocks: usize,
    pub block_size: usize,
    pub table_width: usize,
    pub longest: usize,
    pub scale: f32,
}

/// The launch for a shape on `cores` cube cores, or why the kernel does not take it.
pub fn launch(shape: &MlaShape, float: Float, cores: usize) -> Result<Launch, String> {
    let kernel = flash::entry(NAME, float, ["mla_decode_f16", "mla_decode_bf16"])?;
    let MlaShape { heads, width, latent, .. } = *shape;
    let fits = width.is_multiple_of(SIDE) && latent.is_multiple_of(SIDE);
    if heads == 0 || !fits || latent == 0 || latent > width || width > WIDEST || latent > WIDEST_VALUE {
        return Err(format!(
            "{NAME}: {heads} heads, {latent} of {width} columns; it takes multiples of {SIDE} up to {WIDEST_VALUE} of {WIDEST}"
        ));
    }
    flash::check_scale(NAME, shape.scale)?;
    Ok(paged::plan(NAME, &paged(shape), cores)?.launch(kernel, |tiling| tiling.bytes()))
}

/// The shape as one of paged keys and values with a single head.
pub fn paged(shape: &MlaShape) -> PagedShape {
    let MlaShape { batch, heads, width, latent, blocks, block_size, table_width, longest, scale } = *shape;
    let rows = Strides::of([1, block_size, width]);
    PagedShape {
        batch,
        heads,
        key_heads: 1,
        width,
        value_width: latent,
        blocks,
        block_size,
        table_width,
        longest,
        q: [heads * width, width],
        y: [heads * latent, latent],
        k: rows,
        v: rows,
        scale,
    }
}
