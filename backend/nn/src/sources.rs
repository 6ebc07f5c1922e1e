//! Sources of tensors: zeros, tensors by name, variables, safetensors files.

use crate::var_builder::SimpleBackend;
use crate::{Init, VarMap};
use candle_ascend::safetensors::{BufferedSafetensors, Load, MmapedSafetensors};
use candle_ascend::{DType, Device, Error, Result, Shape, Tensor, bail};
use safetensors::tensor::TensorView;
use std::collections::HashMap;

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
