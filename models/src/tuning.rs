//! Training: which weights are variables, low-rank adapters, and the pass whose gradients are wanted.

use crate::cache::Cache;
use crate::decoder::{Decoder, Layer, Pass};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::autograd::{self, Checkpoint};
use candle_ascend::{Tensor, Var, ops};
use std::cell::RefCell;
use std::sync::Arc;

/// Gives a projection (`….q_proj`, with its outputs and inputs) an adapter, or none.
pub type AdapterOf<'a> = dyn Fn(&str, usize, usize) -> Result<Option<Adapter>> + 'a;

/// Says, as a checkpoint loads, what is to be trained; collects it.
pub struct Tuning<'a> {
    train: &'a dyn Fn(&str) -> bool,
    adapter: &'a AdapterOf<'a>,
    parameters: RefCell<Vec<Parameter>>,
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
        Self { train, adapter, parameters: RefCell::default() }
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

/// A low-rank addition to a projection: `scale · B A x` (Hu et al., arXiv 2106.09685).
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[rank, inputs]`
    pub a: Tensor,
    /// `[outputs, rank]`
    pub b: Tensor,
    pub scale: f64,
}

impl Adapter {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok((ops::linear(&ops::linear(x, &self.a, None)?, &self.b, None)? * self.scale)?)
    }
}

/// The adapters of projections that are merged into one, with the outputs of each.
pub(crate) struct Adapters(pub Vec<(usize, Option<Adapter>)>);

impl Adapters {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, adapter)| adapter.is_none())
    }

    /// `y` and what the adapters make of `x`.
    pub fn add(&self, y: Tensor, x: &Tensor) -> Result<Tensor> {
        if self.is_empty() {
            return Ok(y);
        }
        let parts = self.0.iter().map(|(outputs, adapter)| match adapter {
            Some(adapter) => adapter.forward(x),
            None => {
                let dims = [&x.dims()[..x.rank() - 1], &[*outputs]].concat();
                Ok(Tensor::zeros(dims, x.dtype(), x.device())?)
            }
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok((y + Tensor::cat(&parts, x.rank() - 1)?)?)
    }
}

impl Decoder {
    /// The layers over the embedded tokens `x` `[B, T, H]`, positions from 0, without a cache.
    pub(crate) fn train_layers(&self, x: Tensor, pass: Pass, keep: Option<Checkpoint>) -> Result<Tensor> {
        let pass = Arc::new(pass);
        let mut stream = x;
        for layer in self.layers() {
            stream = match keep {
                None => layer.forward_alone(&stream, &pass)?,
                Some(how) => {
                    let (layer, pass) = (layer.clone(), pass.clone());
                    let block = move |x: &[Tensor]| {
                        layer.forward_alone(&x[0], &pass).map_err(|e| candle_ascend::Error::Msg(format!("{e:#}")))
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
