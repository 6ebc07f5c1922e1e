//! Sources of tensors: zeros, tensors by name, variables, files, parts of files, and names that are changed on the way.

use super::{Backend, SimpleBackend, VarBuilder, VarBuilderArgs};
use crate::{Init, VarMap};
use candle_ascend::npy::NpzTensors;
use candle_ascend::pickle::PthTensors;
use candle_ascend::safetensors::{BufferedSafetensors, Load, MmapedSafetensors, SliceSafetensors};
use candle_ascend::{DType, Device, Error, Result, Shape, Tensor, bail};
use safetensors::tensor::TensorView;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

/// The tensor if it has the shape that was asked for.
fn checked(tensor: Tensor, expected: Shape, name: &str) -> Result<Tensor> {
    if tensor.shape() == &expected {
        return Ok(tensor);
    }
    Err(Error::UnexpectedShape { msg: format!("shape mismatch for {name}"), expected, got: tensor.shape().clone() }
        .bt())
}

/// Zeros under every name.
pub(crate) struct Zeros;

impl SimpleBackend for Zeros {
    fn get(&self, s: Shape, _: &str, _: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        Tensor::zeros(s, dtype, dev)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("a builder of zeros needs the shape of {name}, use `get` instead of `get_unchecked`")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

impl SimpleBackend for HashMap<String, Tensor> {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        checked(self.get_unchecked(name, dtype, dev)?, s, name)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> Result<Tensor> {
        match HashMap::get(self, name) {
            Some(tensor) => tensor.to_device(dev)?.to_dtype(dtype),
            None => Err(Error::CannotFindTensor { path: name.to_string() }.bt()),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.contains_key(name)
    }
}

impl SimpleBackend for VarMap {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        VarMap::get(self, s, name, h, dtype, dev)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("a builder of variables needs the shape of {name}, use `get` instead of `get_unchecked`")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.contains(name)
    }
}

/// A tensor of a file on the device, converted there.
fn load(view: &TensorView<'_>, dtype: DType, dev: &Device) -> Result<Tensor> {
    view.load(dev)?.to_dtype(dtype)
}

/// Refuses a wrong shape before anything is copied.
fn load_checked(view: &TensorView<'_>, s: Shape, name: &str, dtype: DType, dev: &Device) -> Result<Tensor> {
    if view.shape() != s.dims() {
        let (msg, got) = (format!("shape mismatch for {name}"), Shape::from(view.shape()));
        return Err(Error::UnexpectedShape { msg, expected: s, got }.bt());
    }
    load(view, dtype, dev)
}

macro_rules! safetensors_source {
    ($source:ty) => {
        impl SimpleBackend for $source {
            fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
                load_checked(&self.get(name)?, s, name, dtype, dev)
            }

            fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> Result<Tensor> {
                load(&self.get(name)?, dtype, dev)
            }

            fn contains_tensor(&self, name: &str) -> bool {
                self.contains(name)
            }
        }
    };
}
safetensors_source!(MmapedSafetensors);
safetensors_source!(BufferedSafetensors);
safetensors_source!(SliceSafetensors<'_>);

/// Files whose tensors come to the CPU first.
macro_rules! host_source {
    ($source:ty) => {
        impl SimpleBackend for $source {
            fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
                checked(self.get_unchecked(name, dtype, dev)?, s, name)
            }

            fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> Result<Tensor> {
                match self.get(name)? {
                    Some(tensor) => tensor.to_device(dev)?.to_dtype(dtype),
                    None => Err(Error::CannotFindTensor { path: name.to_string() }.bt()),
                }
            }

            fn contains_tensor(&self, name: &str) -> bool {
                self.get(name).is_ok_and(|tensor| tensor.is_some())
            }
        }
    };
}
host_source!(NpzTensors);
host_source!(PthTensors);

/// Which part of a tensor a rank of a tensor-parallel group reads.
#[derive(Debug, Clone, Copy, Eq, PartialEq)]
pub struct Shard {
    pub dim: usize,
    pub rank: usize,
    pub world_size: usize,
}

/// The whole tensor.
impl Default for Shard {
    fn default() -> Self {
        Self { dim: 0, rank: 0, world_size: 1 }
    }
}

/// Mapped safetensors files of which a part of each tensor is read.
pub struct ShardedSafeTensors(MmapedSafetensors);

/// A place in [`ShardedSafeTensors`]; the hint of a tensor is its [`Shard`].
pub type ShardedVarBuilder<'a> = VarBuilderArgs<'a, ShardedSafeTensors>;

impl ShardedSafeTensors {
    /// A builder over mapped files.
    pub fn var_builder<P: AsRef<Path>>(paths: &[P], dtype: DType, dev: &Device) -> Result<ShardedVarBuilder<'static>> {
        Ok(VarBuilderArgs::new_with_args(Self(MmapedSafetensors::multi(paths)?), dtype, dev))
    }
}

impl Backend for ShardedSafeTensors {
    type Hints = Shard;

    /// The shape is checked when the tensor is read whole only, as candle does.
    fn get(&self, s: Shape, name: &str, h: Shard, dtype: DType, dev: &Device) -> Result<Tensor> {
        let Shard { dim, rank, world_size } = h;
        if world_size == 1 {
            return SimpleBackend::get(&self.0, s, name, Init::default(), dtype, dev);
        }
        let view = self.0.get(name)?;
        let mut dims = view.shape().to_vec();
        let Some(&size) = dims.get(dim) else { bail!("{name} of shape {dims:?} has no dimension {dim} to be split") };
        if world_size == 0 || size % world_size != 0 {
            return Err(Error::ShapeMismatchSplit { shape: dims.into(), dim, n_parts: world_size });
        }
        if rank >= world_size {
            bail!("rank {rank} of {world_size} has no part of {name}")
        }
        // Rows of the part lie one part's length apart; only they are read.
        let outer: usize = dims[..dim].iter().product();
        let row = view.data().len() / outer.max(1);
        let part = row / world_size;
        let bytes: Vec<u8> = (0..outer).flat_map(|i| &view.data()[i * row + rank * part..][..part]).copied().collect();
        dims[dim] = size / world_size;
        TensorView::new(view.dtype(), dims, &bytes)?.load(dev)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("sharded files need the shape of {name}, use `get` instead of `get_unchecked`")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// Says what a tensor is called in the source.
pub trait Renamer {
    fn rename(&self, v: &str) -> Cow<'_, str>;
}

impl Renamer for Box<dyn Fn(&str) -> String + Sync + Send> {
    fn rename(&self, v: &str) -> Cow<'_, str> {
        Cow::Owned(self(v))
    }
}

/// A builder asked by other names.
pub struct Rename<'a, R: Renamer> {
    inner: VarBuilder<'a>,
    renamer: R,
}

impl<'a, R: Renamer> Rename<'a, R> {
    pub fn new(inner: VarBuilder<'a>, renamer: R) -> Self {
        Self { inner, renamer }
    }
}

impl<R: Renamer + Sync + Send> SimpleBackend for Rename<'_, R> {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        self.inner.get_with_hints_dtype(s, &self.renamer.rename(name), h, dtype)?.to_device(dev)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> Result<Tensor> {
        self.inner.get_unchecked_dtype(&self.renamer.rename(name), dtype)?.to_device(dev)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.inner.contains_tensor(&self.renamer.rename(name))
    }
}
