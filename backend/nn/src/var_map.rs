//! Trainable variables by name.

use crate::Init;
use candle_ascend::safetensors::MmapedSafetensors;
use candle_ascend::{DType, Device, Result, Shape, Tensor, Var, bail};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Variables by name, shared by clones.
#[derive(Clone, Default)]
pub struct VarMap {
    data: Arc<Mutex<HashMap<String, Var>>>,
}

impl VarMap {
    pub fn new() -> Self {
        Self::default()
    }

    /// Locked, even if a thread panicked with the lock: each change leaves the map whole.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Var>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every variable, in no order.
    pub fn all_vars(&self) -> Vec<Var> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// Writes every variable to a safetensors file.
    pub fn save<P: AsRef<Path>>(&self, path: P) -> Result<()> {
        let tensors: HashMap<String, Tensor> =
            self.lock().iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        candle_ascend::safetensors::save(&tensors, path)
    }

    /// Sets every variable from a safetensors file, which must hold each of them.
    pub fn load<P: AsRef<Path>>(&mut self, path: P) -> Result<()> {
        let path = path.as_ref();
        let file = MmapedSafetensors::new(path)?;
        for (name, var) in self.lock().iter() {
            let data = file.load(name, var.device())?;
            if let Err(error) = var.set(&data) {
                bail!("error setting {name} using data from {path:?}: {error}")
            }
        }
        Ok(())
    }

    /// Sets the variable `name`.
    pub fn set_one<K: AsRef<str>, V: AsRef<Tensor>>(&mut self, name: K, value: V) -> Result<()> {
        self.set(std::iter::once((name, value)))
    }

    /// Sets variables by name.
    pub fn set<I: Iterator<Item = (K, V)>, K: AsRef<str>, V: AsRef<Tensor>>(&mut self, values: I) -> Result<()> {
        let held = self.lock();
        for (name, value) in values {
            let name = name.as_ref();
            let Some(var) = held.get(name) else { bail!("cannot find {name} in VarMap") };
            if let Err(error) = var.set(value.as_ref()) {
                bail!("error setting {name}: {error}")
            }
        }
        Ok(())
    }

    /// The variable `path`, made by `init` if it is not there.
    pub fn get<S: Into<Shape>>(
        &self,
        shape: S,
        path: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let shape = shape.into();
        let mut held = self.lock();
        if let Some(var) = held.get(path) {
            if var.shape() != &shape {
                bail!("shape mismatch on {path}: {shape:?} <> {:?}", var.shape())
            }
            return Ok(var.as_tensor().clone());
        }
        let var = init.var(shape, dtype, device)?;
        let tensor = var.as_tensor().clone();
        held.insert(path.to_string(), var);
        Ok(tensor)
    }

    pub fn data(&self) -> &Mutex<HashMap<String, Var>> {
        &self.data
    }
}
