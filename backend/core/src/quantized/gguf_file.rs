//! GGUF files, read and written by candle's code.

use super::{GgmlDType, QTensor, block_device, candle};
use crate::{Device, Result, Shape, bail};
use candle::gguf_file as theirs;
use std::collections::HashMap;
use std::io::{Read, Seek, Write};

pub use theirs::{DEFAULT_ALIGNMENT, Value, ValueType, VersionedMagic};

/// Where a tensor lies in a file, and as what.
#[derive(Debug)]
pub struct TensorInfo {
    pub ggml_dtype: GgmlDType,
    pub shape: Shape,
    /// In bytes from the start of the tensors' data.
    pub offset: u64,
}

impl TensorInfo {
    /// The tensor for `device`; an error when the file is too short for it.
    pub fn read<R: Seek + Read>(&self, reader: &mut R, tensor_data_offset: u64, device: &Device) -> Result<QTensor> {
        let info = theirs::TensorInfo { ggml_dtype: self.ggml_dtype, shape: self.shape.clone(), offset: self.offset };
        QTensor::made(info.read(reader, tensor_data_offset, &block_device(device)), device)
    }
}

/// The header of a file.
#[derive(Debug)]
pub struct Content {
    pub magic: VersionedMagic,
    pub metadata: HashMap<String, Value>,
    pub tensor_infos: HashMap<String, TensorInfo>,
    pub tensor_data_offset: u64,
}

impl Content {
    /// Reads the header; lengths that the file cannot hold are errors.
    pub fn read<R: Seek + Read>(reader: &mut R) -> Result<Self> {
        let theirs::Content { magic, metadata, tensor_infos, tensor_data_offset } = theirs::Content::read(reader)?;
        let tensor_infos = tensor_infos
            .into_iter()
            .map(|(name, theirs::TensorInfo { ggml_dtype, shape, offset })| {
                (name, TensorInfo { ggml_dtype, shape, offset })
            })
            .collect();
        Ok(Self { magic, metadata, tensor_infos, tensor_data_offset })
    }

    /// The tensor `name` for `device`.
    pub fn tensor<R: Seek + Read>(&self, reader: &mut R, name: &str, device: &Device) -> Result<QTensor> {
        match self.tensor_infos.get(name) {
            Some(info) => info.read(reader, self.tensor_data_offset, device),
            None => bail!("cannot find tensor info for {name}"),
        }
    }
}

/// Writes a file of version 2.
pub fn write<W: Seek + Write>(w: &mut W, metadata: &[(&str, &Value)], tensors: &[(&str, &QTensor)]) -> Result<()> {
    let blocks: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor.as_candle())).collect();
    theirs::write(w, metadata, &blocks)
}
