//! Host side of paged_decode.

use crate::Launch;
use crate::flash;
use crate::paged::{self, PagedShape};
use crate::plan::Float;

const NAME: &str = "paged_decode";

/// The launch for a shape on `cores` cube cores, or why the kernel does not take it.
pub fn launch(shape: &PagedShape, float: Float, cores: usize) -> Result<Launch, String> {
    let kernel = flash::entry(NAME, float, ["paged_decode_f16", "paged_decode_bf16"])?;
    flash::check(NAME, (shape.heads, shape.key_heads), (shape.width, shape.value_width), shape.scale)?;
    Ok(paged::plan(NAME, shape, cores)?.launch(kernel, |tiling| tiling.bytes()))
}
