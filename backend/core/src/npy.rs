//! NumPy's files (`.npy`, `.npz`), read and written by candle's code.

use crate::{DType, Result, Shape, Tensor};
use candle_core::npy as theirs;
use std::path::Path;

impl Tensor {
    /// The array of a `.npy` file, on the CPU.
    pub fn read_npy<P: AsRef<Path>>(path: P) -> Result<Self> {
        Self::from_candle(&candle_core::Tensor::read_npy(path)?)
    }

    /// The arrays of a `.npz` file with their names, on the CPU.
    pub fn read_npz<P: AsRef<Path>>(path: P) -> Result<Vec<(String, Self)>> {
        let arrays = candle_core::Tensor::read_npz(path)?;
        arrays.iter().map(|(name, array)| Ok((name.clone(), Self::from_candle(array)?))).collect()
    }

    /// The arrays of a `.npz` file that `names` name, on the CPU.
    pub fn read_npz_by_name<P: AsRef<Path>>(path: P, names: &[&str]) -> Result<Vec<Self>> {
        candle_core::Tensor::read_npz_by_name(path, names)?.iter().map(Self::from_candle).collect()
    }

    /// Writes this tensor as a `.npy` file.
    pub fn write_npy<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        self.to_candle()?.write_npy(path)
    }

    /// Writes tensors with their names as a `.npz` file.
    pub fn write_npz<S: AsRef<str>, T: AsRef<Tensor>, P: AsRef<Path>>(ts: &[(S, T)], path: P) -> Result<()> {
        let arrays = ts.iter().map(|(name, tensor)| Ok((name.as_ref(), tensor.as_ref().to_candle()?)));
        candle_core::Tensor::write_npz(&arrays.collect::<Result<Vec<_>>>()?, path)
    }
}

/// The arrays of a `.npz` file, each read when it is asked for.
pub struct NpzTensors(theirs::NpzTensors);

impl NpzTensors {
    /// Reads the file's directory.
    pub fn new<P: AsRef<Path>>(path: P) -> Result<Self> {
        theirs::NpzTensors::new(path).map(Self)
    }

    pub fn names(&self) -> Vec<&String> {
        self.0.names()
    }

    /// Shape and type of the array `name`; its elements are not read.
    pub fn get_shape_and_dtype(&self, name: &str) -> Result<(Shape, DType)> {
        self.0.get_shape_and_dtype(name)
    }

    /// The array `name` on the CPU; none if the file has no such array.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        self.0.get(name)?.as_ref().map(Tensor::from_candle).transpose()
    }
}
