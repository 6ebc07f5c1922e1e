//! Categories as vectors.

use candle_ascend::{DType, Result, Tensor, WithDType, bail};

/// `[…, depth]` for indexes `[…]` (U8, U32 or I64): `on_value` at the index, `off_value` elsewhere, and everywhere for
/// the index −1.
pub fn one_hot<D: WithDType>(indices: Tensor, depth: usize, on_value: D, off_value: D) -> Result<Tensor> {
    let flat = indices.flatten_all()?;
    let values: Vec<i64> = match indices.dtype() {
        DType::U8 => flat.to_vec1::<u8>()?.into_iter().map(i64::from).collect(),
        DType::U32 => flat.to_vec1::<u32>()?.into_iter().map(i64::from).collect(),
        DType::I64 => flat.to_vec1::<i64>()?,
        dtype => bail!("one_hot: unsupported data type {dtype:?}, expected U8, U32, or I64"),
    };
    let mut out = vec![off_value; depth * values.len()];
    for (row, value) in values.into_iter().enumerate() {
        match usize::try_from(value) {
            Ok(index) if index < depth => out[row * depth + index] = on_value,
            Ok(_) => bail!("one_hot: index value {value} exceeds depth {depth}"),
            Err(_) if value == -1 => {}
            Err(_) => {
                bail!("one_hot: invalid negative index value {value}, expected a positive index value or -1")
            }
        }
    }
    Tensor::from_vec(out, [indices.dims(), &[depth]].concat(), indices.device())
}
