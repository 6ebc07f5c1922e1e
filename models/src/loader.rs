//! From a source of tensors to the tensors of a model: on the device, in the dtype asked for, merged where the model merges.

use crate::adapter::Adapter;
use crate::tuning::{Held, Tuning};
use anyhow::{Context, Result};
use candle_ascend::ops::{Nf4Packer, Weight};
use candle_ascend::{DType, Device, Tensor};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Where a model's tensors come from: files, or values made up.
pub trait Source {
    /// Names of all tensors, in an order of their own.
    fn names(&self) -> Vec<String>;

    /// Bytes of all tensors as the source holds them.
    fn stored_bytes(&self) -> u64;

    /// The tensor `name`, which must have `shape`, in `dtype` on `device`, and the bytes that the source holds of it.
    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<(Tensor, u64)>;

    /// The matrices `names` one below the other, `rows[i]` rows of `columns` columns each, as blocks of quantised numbers, and the
    /// bytes that the source holds of them; none where the source holds numbers.
    fn blocks(
        &self,
        names: &[String],
        rows: &[usize],
        columns: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Option<(Weight, u64)>> {
        let _ = (names, rows, columns, dtype, device);
        Ok(None)
    }

    /// Room for a tensor that [`Source::place`] fills part by part.
    fn room(&self, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        Ok(Tensor::zeros(shape, dtype, device)?)
    }

    /// Puts the tensor `name` into `room` from row `offset` on; answers as [`Source::tensor`] the bytes held of it.
    fn place(&self, name: &str, shape: &[usize], room: &Tensor, offset: usize) -> Result<u64> {
        put(self, name, shape, room, offset)
    }

    /// What a user should know of tensors that are held in `dtype`, or in less room than any type takes, a line each.
    fn notes(&self, dtype: Option<DType>) -> Vec<String> {
        let _ = dtype;
        Vec::new()
    }
}

/// [`Source::place`] by a copy of the tensor.
pub(crate) fn put(
    source: &(impl Source + ?Sized),
    name: &str,
    shape: &[usize],
    room: &Tensor,
    offset: usize,
) -> Result<u64> {
    let (part, bytes) = source.tensor(name, shape, room.dtype(), room.device())?;
    room.slice_set(&part, 0, offset).with_context(|| format!("merging {name}"))?;
    Ok(bytes)
}

/// Brings tensors to a device, and remembers which were asked for.
pub struct Loader<'a> {
    source: &'a dyn Source,
    dtype: DType,
    device: Device,
    used: RefCell<BTreeSet<String>>,
    progress: &'a dyn Fn(u64, u64),
    done: Cell<u64>,
    total: u64,
    tuning: Option<&'a Tuning<'a>>,
}

impl<'a> Loader<'a> {
    /// A loader of tensors in `dtype` on `device`; `progress` hears the bytes read so far and their total.
    pub fn new(source: &'a dyn Source, dtype: DType, device: &Device, progress: &'a dyn Fn(u64, u64)) -> Self {
        let (done, total) = (Cell::new(0), source.stored_bytes());
        Self { source, dtype, device: device.clone(), used: RefCell::default(), progress, done, total, tuning: None }
    }

    /// This loader, which makes variables and adapters as `tuning` says.
    pub fn tuned(mut self, tuning: &'a Tuning<'a>) -> Self {
        self.tuning = Some(tuning);
        self
    }

    /// Whether something may be trained, or stand beside a projection, so that each has to stay a tensor of its own.
    pub fn is_tuned(&self) -> bool {
        self.tuning.is_some()
    }

    /// The adapter of the projection `name`, if it is to have one.
    pub fn adapter(&self, name: &str, outputs: usize, inputs: usize) -> Result<Option<Adapter>> {
        self.tuning.map_or(Ok(None), |tuning| tuning.adapter(name, outputs, inputs))
    }

    /// `tensor`, which holds `parts` one below the other, as a variable if they are to be trained.
    fn tuned_value(&self, parts: impl FnOnce() -> Vec<(String, usize)>, tensor: Tensor) -> Result<Tensor> {
        match self.tuning {
            Some(tuning) => tuning.variable(parts(), tensor),
            None => Ok(tensor),
        }
    }

    /// Bytes of all tensors as the source holds them.
    pub fn stored_bytes(&self) -> u64 {
        self.total
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The tensor `name`, which must have `shape`, converted to the loader's dtype on the device.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let (tensor, bytes) = self.source.tensor(name, shape, self.dtype, &self.device)?;
        self.note(name, bytes);
        self.tuned_value(|| vec![(name.to_owned(), shape.first().copied().unwrap_or(1))], tensor)
    }

    /// The tensors `names` one below the other: `rows[i]` rows each, and `columns` columns, or vectors without.
    ///
    /// Each part is copied into its place on the device, so that the host never holds the merged matrix.
    pub fn merged(&self, names: &[String], rows: &[usize], columns: Option<usize>) -> Result<Tensor> {
        let shape = |rows: usize| -> Vec<usize> { [rows].into_iter().chain(columns).collect() };
        let room = self.source.room(&shape(rows.iter().sum()), self.dtype, &self.device)?;
        let mut offset = 0;
        for (name, rows) in names.iter().zip(rows) {
            self.note(name, self.source.place(name, &shape(*rows), &room, offset)?);
            offset += rows;
        }
        self.tuned_value(|| names.iter().cloned().zip(rows.iter().copied()).collect(), room)
    }

    /// The matrices `names` one below the other, `rows[i]` rows of `columns` columns each: as blocks where the source holds
    /// blocks and the device computes with them, else as a tensor; where tuning says so, otherwise.
    pub fn weight(&self, names: &[String], rows: &[usize], columns: usize) -> Result<Weight> {
        let blocks = match self.tuning.map_or(Held::Stored, Tuning::held) {
            Held::Stored => self.source.blocks(names, rows, columns, self.dtype, &self.device)?,
            Held::Nf4 if names.iter().all(|name| in_layer(name)) => return self.nf4(names, rows, columns),
            Held::Wide | Held::Nf4 => None,
        };
        if let Some((weight, bytes)) = blocks {
            names.iter().enumerate().for_each(|(i, name)| self.note(name, if i == 0 { bytes } else { 0 }));
            return Ok(weight);
        }
        self.stacked(names, rows, Some(columns)).map(Weight::Dense)
    }

    /// The matrices `names` one below the other in four bits, one after another through the host.
    fn nf4(&self, names: &[String], rows: &[usize], columns: usize) -> Result<Weight> {
        let mut packer = Nf4Packer::new(columns);
        for (name, rows) in names.iter().zip(rows) {
            let (part, bytes) = self.source.tensor(name, &[*rows, columns], DType::F32, &packer.host())?;
            packer.push(&part).with_context(|| format!("quantising {name}"))?;
            self.note(name, bytes);
        }
        Ok(Weight::Nf4(Arc::new(packer.finish(self.dtype, &self.device)?)))
    }

    /// As [`Loader::merged`]; one tensor is taken as it is.
    pub fn stacked(&self, names: &[String], rows: &[usize], columns: Option<usize>) -> Result<Tensor> {
        match (names, rows) {
            ([name], [rows]) => self.tensor(name, &[*rows].into_iter().chain(columns).collect::<Vec<_>>()),
            _ => self.merged(names, rows, columns),
        }
    }

    /// What a user should know of how the tensors are held, a line each.
    pub fn notes(&self) -> Vec<String> {
        let packed = self.tuning.is_some_and(|tuning| tuning.held() == Held::Nf4);
        self.source.notes((!packed).then_some(self.dtype))
    }

    fn note(&self, name: &str, bytes: u64) {
        self.used.borrow_mut().insert(name.to_owned());
        self.done.set(self.done.get() + bytes);
        (self.progress)(self.done.get(), self.total);
    }

    /// Tensors of the source that nothing asked for. The tables of rotary frequencies that old checkpoints store are left
    /// out, as they are computed, and so are the divisors in GGUF files, which the configuration has taken.
    pub fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let mut names = self.source.names();
        let elsewhere = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == "rope_freqs.weight";
        names.retain(|name| !used.contains(name) && !elsewhere(name));
        names
    }
}

/// Whether the tensor `name` belongs to a layer, and not to the embedding or the projection to the vocabulary.
fn in_layer(name: &str) -> bool {
    name.starts_with("model.layers.")
}
