//! Where a model's tensors come from, and the path within it.

mod sources;

use crate::{Init, VarMap};
use candle_ascend::npy::NpzTensors;
use candle_ascend::pickle::PthTensors;
use candle_ascend::safetensors::{BufferedSafetensors, MmapedSafetensors, SliceSafetensors};
use candle_ascend::{DType, Device, Result, Shape, Tensor};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub use sources::{Rename, Renamer, Shard, ShardedSafeTensors, ShardedVarBuilder};

/// A source of tensors that takes hints of its own kind.
pub trait Backend: Send + Sync {
    type Hints: Default;

    /// The tensor `name`, which must have the shape `s`.
    fn get(&self, s: Shape, name: &str, h: Self::Hints, dtype: DType, dev: &Device) -> Result<Tensor>;

    /// The tensor `name` in whatever shape it has.
    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> Result<Tensor>;

    fn contains_tensor(&self, name: &str) -> bool;
}

/// A source of tensors whose hint is how to make one that is missing.
pub trait SimpleBackend: Send + Sync {
    /// The tensor `name`, which must have the shape `s`.
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor>;

    /// The tensor `name` in whatever shape it has.
    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> Result<Tensor>;

    fn contains_tensor(&self, name: &str) -> bool;
}

impl Backend for Box<dyn SimpleBackend + '_> {
    type Hints = Init;

    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        self.as_ref().get(s, name, h, dtype, dev)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> Result<Tensor> {
        self.as_ref().get_unchecked(name, dtype, dev)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.as_ref().contains_tensor(name)
    }
}

/// A place in a source of tensors: names are looked up under its path.
pub struct VarBuilderArgs<'a, B: Backend> {
    data: Arc<Source<B>>,
    path: Vec<String>,
    pub dtype: DType,
    _lifetime: std::marker::PhantomData<&'a ()>,
}

/// What all places of one builder share. `dtype` is what is read where no type and no shape are asked for.
struct Source<B> {
    backend: Arc<B>,
    device: Device,
    dtype: DType,
}

/// A place in a [`SimpleBackend`].
pub type VarBuilder<'a> = VarBuilderArgs<'a, Box<dyn SimpleBackend + 'a>>;

impl<B: Backend> Clone for VarBuilderArgs<'_, B> {
    fn clone(&self) -> Self {
        self.at(self.path.clone(), self.dtype)
    }
}

impl<B: Backend> VarBuilderArgs<'_, B> {
    pub fn new_with_args(backend: B, dtype: DType, dev: &Device) -> Self {
        let data = Arc::new(Source { backend: Arc::new(backend), device: dev.clone(), dtype });
        Self { data, path: Vec::new(), dtype, _lifetime: std::marker::PhantomData }
    }

    fn at(&self, path: Vec<String>, dtype: DType) -> Self {
        Self { data: self.data.clone(), path, dtype, _lifetime: std::marker::PhantomData }
    }

    /// The path, joined by dots.
    pub fn prefix(&self) -> String {
        self.path.join(".")
    }

    /// The same source without a path.
    pub fn root(&self) -> Self {
        self.at(Vec::new(), self.dtype)
    }

    /// The same source at another path.
    pub fn set_prefix(&self, prefix: impl ToString) -> Self {
        self.at(vec![prefix.to_string()], self.dtype)
    }

    /// One step further down.
    pub fn push_prefix<S: ToString>(&self, s: S) -> Self {
        let mut path = self.path.clone();
        path.push(s.to_string());
        self.at(path, self.dtype)
    }

    /// As [`VarBuilderArgs::push_prefix`].
    pub fn pp<S: ToString>(&self, s: S) -> Self {
        self.push_prefix(s)
    }

    pub fn device(&self) -> &Device {
        &self.data.device
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The same place; tensors will be of type `dtype`.
    pub fn to_dtype(&self, dtype: DType) -> Self {
        self.at(self.path.clone(), dtype)
    }

    fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix()) }
    }

    pub fn contains_tensor(&self, name: &str) -> bool {
        self.data.backend.contains_tensor(&self.path(name))
    }

    /// The tensor `name` under this path, with a hint how to make it.
    pub fn get_with_hints<S: Into<Shape>>(&self, s: S, name: &str, hints: B::Hints) -> Result<Tensor> {
        self.get_with_hints_dtype(s, name, hints, self.dtype)
    }

    /// The tensor `name` under this path.
    pub fn get<S: Into<Shape>>(&self, s: S, name: &str) -> Result<Tensor> {
        self.get_with_hints(s, name, Default::default())
    }

    /// The tensor `name` under this path, in whatever shape it has and in the type that the builder was made with.
    pub fn get_unchecked(&self, name: &str) -> Result<Tensor> {
        self.get_unchecked_dtype(name, self.data.dtype)
    }

    /// As [`VarBuilderArgs::get_unchecked`], in the type `dtype`.
    pub fn get_unchecked_dtype(&self, name: &str, dtype: DType) -> Result<Tensor> {
        self.data.backend.get_unchecked(&self.path(name), dtype, &self.data.device)
    }

    /// As [`VarBuilderArgs::get_with_hints`], in the type `dtype`.
    pub fn get_with_hints_dtype<S: Into<Shape>>(
        &self,
        s: S,
        name: &str,
        hints: B::Hints,
        dtype: DType,
    ) -> Result<Tensor> {
        self.data.backend.get(s.into(), &self.path(name), hints, dtype, &self.data.device)
    }

    /// The same place; tensors will be on `device`.
    pub fn set_device(self, device: Device) -> Self {
        let data = Arc::new(Source { backend: self.data.backend.clone(), device, dtype: self.data.dtype });
        Self { data, ..self }
    }

    /// As [`VarBuilderArgs::to_dtype`], also for tensors that are asked for without a shape.
    pub fn set_dtype(self, dtype: DType) -> Self {
        let data = Arc::new(Source { backend: self.data.backend.clone(), device: self.data.device.clone(), dtype });
        Self { data, dtype, ..self }
    }
}

impl<'a> VarBuilder<'a> {
    /// Over any source.
    pub fn from_backend(backend: Box<dyn SimpleBackend + 'a>, dtype: DType, device: Device) -> Self {
        Self::new_with_args(backend, dtype, &device)
    }

    /// Every tensor is zeros.
    pub fn zeros(dtype: DType, dev: &Device) -> Self {
        Self::from_backend(Box::new(sources::Zeros), dtype, dev.clone())
    }

    /// Over tensors by name.
    pub fn from_tensors(ts: HashMap<String, Tensor>, dtype: DType, dev: &Device) -> Self {
        Self::from_backend(Box::new(ts), dtype, dev.clone())
    }

    /// Over trainable variables, made as they are asked for.
    pub fn from_varmap(varmap: &VarMap, dtype: DType, dev: &Device) -> Self {
        Self::from_backend(Box::new(varmap.clone()), dtype, dev.clone())
    }

    /// Over mapped safetensors files. Each tensor goes from the file to the device when it is asked for.
    pub fn from_mmaped_safetensors<P: AsRef<Path>>(paths: &[P], dtype: DType, dev: &Device) -> Result<Self> {
        Ok(Self::from_backend(Box::new(MmapedSafetensors::multi(paths)?), dtype, dev.clone()))
    }

    /// Over the content of a safetensors file.
    pub fn from_buffered_safetensors(data: Vec<u8>, dtype: DType, dev: &Device) -> Result<Self> {
        Ok(Self::from_backend(Box::new(BufferedSafetensors::new(data)?), dtype, dev.clone()))
    }

    /// Over the content of a safetensors file that is borrowed.
    pub fn from_slice_safetensors(data: &'a [u8], dtype: DType, dev: &Device) -> Result<Self> {
        Ok(Self::from_backend(Box::new(SliceSafetensors::new(data)?), dtype, dev.clone()))
    }

    /// Over a NumPy archive.
    pub fn from_npz<P: AsRef<Path>>(p: P, dtype: DType, dev: &Device) -> Result<Self> {
        Ok(Self::from_backend(Box::new(NpzTensors::new(p)?), dtype, dev.clone()))
    }

    /// Over a file of PyTorch.
    pub fn from_pth<P: AsRef<Path>>(p: P, dtype: DType, dev: &Device) -> Result<Self> {
        Ok(Self::from_backend(Box::new(PthTensors::new(p, None)?), dtype, dev.clone()))
    }

    /// Over the state `state_key` of a file of PyTorch.
    pub fn from_pth_with_state<P: AsRef<Path>>(p: P, dtype: DType, state_key: &str, dev: &Device) -> Result<Self> {
        Ok(Self::from_backend(Box::new(PthTensors::new(p, Some(state_key))?), dtype, dev.clone()))
    }

    /// The same place in a builder whose source is asked for `f` of each whole name.
    pub fn rename_f<F: Fn(&str) -> String + Sync + Send + 'static>(self, f: F) -> Self {
        let f: Box<dyn Fn(&str) -> String + Sync + Send> = Box::new(f);
        self.rename(f)
    }

    /// As [`VarBuilder::rename_f`].
    pub fn rename<R: Renamer + Send + Sync + 'a>(self, renamer: R) -> Self {
        let (dtype, device, path) = (self.dtype, self.device().clone(), self.path.clone());
        Self { path, ..Self::from_backend(Box::new(Rename::new(self, renamer)), dtype, device) }
    }
}
