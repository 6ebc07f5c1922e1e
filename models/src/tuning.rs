//! Training: which weights are variables, adapted or in four bits, and the pass whose gradients are wanted.

use crate::adapter::{Adapter, Passes};
use crate::cache::Cache;
use crate::decoder::{Decoder, Layer, Pass};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::autograd::{self, Checkpoint};
use candle_ascend::{Tensor, Var};
use std::cell::RefCell;
use std::sync::Arc;

/// Gives a projection (`….q_proj`, with its outputs and inputs) an adapter, or none.
pub type AdapterOf<'a> = dyn Fn(&str, usize, usize) -> Result<Option<Adapter>> + 'a;

/// Says, as a checkpoint loads, what is to be trained; collects it.
pub struct Tuning<'a> {
    train: &'a dyn Fn(&str) -> bool,
    adapter: &'a AdapterOf<'a>,
    held: Held,
    parameters: RefCell<Vec<Parameter>>,
}

/// How the projections of layers are held that are not trained themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Held {
    /// As numbers of the model's type, whatever the checkpoint has.
    #[default]
    Wide,
    /// As the checkpoint has them; blocks have no gradients.
    Stored,
    /// In four bits (see [`candle_ascend::ops::Nf4`]), quantised as they are read.
    Nf4,
}

/// A trained tensor of the checkpoint, or several that the model holds as one, one below the other.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Names in the checkpoint, each with its rows.
    pub parts: Vec<(String, usize)>,
    pub var: Var,
}

impl Parameter {
    /// The value of each part, under its name.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut start = 0;
        let part = |(name, rows): &(String, usize)| -> Result<(String, Tensor)> {
            let rows_of = self.var.as_detached_tensor().narrow(0, start, *rows)?;
            start += rows;
            Ok((name.clone(), rows_of))
        };
        self.parts.iter().map(part).collect()
    }
}

impl<'a> Tuning<'a> {
    /// `train` says whether the tensor of a name becomes a variable.
    pub fn new(train: &'a dyn Fn(&str) -> bool, adapter: &'a AdapterOf<'a>) -> Self {
        Self { train, adapter, held: Held::default(), parameters: RefCell::default() }
    }

    /// This, with projections held as `held`.
    pub fn holding(self, held: Held) -> Self {
        Self { held, ..self }
    }

    pub(crate) fn held(&self) -> Held {
        self.held
    }

    /// `tensor` as a variable if `parts` are to be trained, all or none of them.
    pub(crate) fn variable(&self, parts: Vec<(String, usize)>, tensor: Tensor) -> Result<Tensor> {
        let trained = parts.iter().filter(|(name, _)| (self.train)(name)).count();
        if trained == 0 {
            return Ok(tensor);
        }
        if trained < parts.len() {
            let names: Vec<_> = parts.iter().map(|(name, _)| name.as_str()).collect();
            bail!("{} are one tensor of the model: train all of them or none", names.join(", "))
        }
        let var = Var::from_tensor(&tensor)?;
        let weight = var.as_tensor().clone();
        self.parameters.borrow_mut().push(Parameter { parts, var });
        Ok(weight)
    }

    /// The adapter of the projection `name`.
    pub(crate) fn adapter(&self, name: &str, outputs: usize, inputs: usize) -> Result<Option<Adapter>> {
        let Some(adapter) = (self.adapter)(name, outputs, inputs)? else { return Ok(None) };
        let (rank, width) = adapter.a.dims2().with_context(|| format!("lora_A of {name}"))?;
        ensure!(
            width == inputs && adapter.b.dims() == [outputs, rank],
            "the adapter of {name} has A {:?} and B {:?}; the projection has {outputs} outputs and {inputs} inputs",
            adapter.a.shape(),
            adapter.b.shape()
        );
        Ok(Some(adapter))
    }

    /// What was made a variable, in the order of loading.
    pub fn into_parameters(self) -> Vec<Parameter> {
        self.parameters.into_inner()
    }
}

impl Decoder {
    /// The layers over the embedded tokens `x` `[B, T, H]`, positions from 0, without a cache.
    pub(crate) fn train_layers(&self, x: Tensor, pass: Pass, keep: Option<Checkpoint>) -> Result<Tensor> {
        let pass = Arc::new(pass);
        let passes = Passes::current();
        let mut stream = x;
        for layer in self.layers() {
            stream = match keep {
                None => layer.forward_alone(&stream, &pass)?,
                Some(how) => {
                    let (layer, pass) = (layer.clone(), pass.clone());
                    let block = move |x: &[Tensor]| {
                        let result = passes.run(|| layer.forward_alone(&x[0], &pass));
                        result.map_err(|e| candle_ascend::Error::Msg(format!("{e:#}")))
                    };
                    autograd::checkpoint(how, &[&stream], block)?
                }
            };
        }
        Ok(stream)
    }
}

impl Layer {
    /// The residual stream after this layer.
    fn forward_alone(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let attended = self.mixer.forward(&self.input_norm.forward(x)?, pass, Cache::passing().layer(0))?;
        let (normed, sum) = self.post_attention_norm.add_forward(&attended, x)?;
        Ok((sum + self.feed_forward.forward(&normed)?)?)
    }
}
