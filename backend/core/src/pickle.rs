//! PyTorch's files (`.pt`, `.pth`), read by candle's code, which runs nothing that a file contains.

use crate::{Result, Tensor};
use candle_core::pickle as theirs;
use std::collections::HashMap;
use std::path::Path;

pub use theirs::{Object, Stack, TensorInfo, read_pth_tensor_info};

/// The tensors of a file, each read when it is asked for.
pub struct PthTensors(theirs::PthTensors);

impl PthTensors {
    /// Reads the file's directory; `key` names the state that holds the tensors, where they are not at the top.
    pub fn new<P: AsRef<Path>>(path: P, key: Option<&str>) -> Result<Self> {
        theirs::PthTensors::new(path, key).map(Self)
    }

    pub fn tensor_infos(&self) -> &HashMap<String, TensorInfo> {
        self.0.tensor_infos()
    }

    /// The tensor `name` on the CPU; none if the file has no such tensor.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        self.0.get(name)?.as_ref().map(Tensor::from_candle).transpose()
    }
}

/// Every tensor of a file on the CPU.
pub fn read_all<P: AsRef<Path>>(path: P) -> Result<Vec<(String, Tensor)>> {
    read_all_with_key(path, None)
}

/// Every tensor of the state `key` of a file, on the CPU.
pub fn read_all_with_key<P: AsRef<Path>>(path: P, key: Option<&str>) -> Result<Vec<(String, Tensor)>> {
    let tensors = theirs::read_all_with_key(path, key)?;
    tensors.iter().map(|(name, tensor)| Ok((name.clone(), Tensor::from_candle(tensor)?))).collect()
}
