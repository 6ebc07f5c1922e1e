//! The file format before GGUF, read by candle's code.

use super::{GgmlDType, QTensor, block_device, candle};
use crate::{Device, Result, bail};
use candle::ggml_file as theirs;
use std::collections::HashMap;
use std::io::{Read, Seek};

pub use theirs::{HParams, VersionedMagic, Vocab};

/// The tensor whose blocks are `raw_data`.
pub fn qtensor_from_ggml(ggml_dtype: GgmlDType, raw_data: &[u8], dims: Vec<usize>, device: &Device) -> Result<QTensor> {
    QTensor::made(theirs::qtensor_from_ggml(ggml_dtype, raw_data, dims, &block_device(device)), device)
}

/// A whole file.
pub struct Content {
    pub magic: VersionedMagic,
    pub hparams: HParams,
    pub vocab: Vocab,
    pub tensors: HashMap<String, QTensor>,
    pub device: Device,
}

impl Content {
    /// Reads everything, the tensors for `device`.
    pub fn read<R: Seek + Read>(reader: &mut R, device: &Device) -> Result<Self> {
        let theirs::Content { magic, hparams, vocab, tensors, .. } =
            theirs::Content::read(reader, &block_device(device))?;
        let tensors = tensors.into_iter().map(|(name, blocks)| Ok((name, QTensor::made(Ok(blocks), device)?)));
        Ok(Self { magic, hparams, vocab, tensors: tensors.collect::<Result<_>>()?, device: device.clone() })
    }

    /// Takes the tensor `name` out.
    pub fn remove(&mut self, name: &str) -> Result<QTensor> {
        match self.tensors.remove(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("cannot find tensor with name '{name}'"),
        }
    }
}
