//! The feed-forward part as a mixture of experts: a router, stacked expert weights, and experts that every token takes.
//!
//! Shapes: B sequences of T tokens, H hidden width, E experts of inner width I, K of them a token.

use crate::config::MoeConfig;
use crate::decoder::Mlp;
use crate::{Config, Loader};
use anyhow::{Context, Result, bail, ensure};
use candle_ascend::ops::moe::{self, Gating, Permuted};
use candle_ascend::{DType, Tensor, ops};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How the router turns logits into weights, as `config.json` says.
#[derive(Clone, Debug, PartialEq)]
pub enum Router {
    /// Softmax over all experts.
    Softmax { renormalise: bool },
    /// A sigmoid an expert, chosen within the best groups with a bias that the checkpoint brings.
    Sigmoid { groups: usize, kept_groups: usize, renormalise: bool, factor: f64 },
}

impl Router {
    /// A weight of the router in the type that its product has: DeepSeek's is F32 in every dtype, Qwen's the model's own. What is
    /// trained stays what it is, and is widened in each pass.
    fn widened(&self, weight: Tensor) -> Result<Tensor> {
        match self {
            Self::Sigmoid { .. } if !weight.is_variable() => Ok(weight.to_dtype(DType::F32)?),
            Self::Sigmoid { .. } | Self::Softmax { .. } => Ok(weight),
        }
    }
}

/// Routed experts, and the shared one beside them where the checkpoint has it.
pub struct Moe {
    router: Router,
    gate: Tensor,
    /// Decides the choice and not the weights, `[E]`.
    bias: Option<Tensor>,
    /// `[E, 2I, H]`: each expert's gate and up, one below the other.
    gate_up: Tensor,
    /// `[E, H, I]`
    down: Tensor,
    shared: Option<Shared>,
    experts: usize,
    per_token: usize,
    /// Where the groups of all passes ended, added up `[E]` in I64, while that is counted. The routing itself is not read.
    counted: Mutex<Option<Tensor>>,
    /// As in the checkpoint, for errors.
    name: String,
}

/// The expert that every token takes.
enum Shared {
    Beside(Mlp),
    /// The last one of the stack, which the router always chooses, with a weight of nothing: its products are groups of those of
    /// the others, and its rows, the last, are added as they are.
    Stacked {
        /// Added to the logits `[E]`.
        logits: Tensor,
        groups: usize,
        kept_groups: usize,
    },
}

/// A logit whose sigmoid is zero, so that it has no part in the sum that weights are divided by.
const NO_WEIGHT: f32 = -1e4;
/// Ranks above and below those that sigmoids and their biases have; the first outweighs the second in a group's sum.
const ALWAYS: f32 = 3e4;
const NEVER: f32 = -1e4;

impl Shared {
    /// The router's weight `[E, H]` and bias `[E]` with the shared expert behind the others. Where groups are left out, it is one
    /// of a group more, and the rest of that group is never chosen; so the choice among the others stays what it was.
    fn stack(router: &Router, gate: &Tensor, bias: &Tensor) -> Result<(Self, Tensor, Tensor)> {
        let Router::Sigmoid { groups, kept_groups, .. } = *router else {
            bail!("only a choice by sigmoids can be padded")
        };
        let ((experts, hidden), device) = (gate.dims2()?, gate.device());
        let (more, groups, kept_groups) =
            if groups == kept_groups { (1, 1, 1) } else { (experts / groups, groups + 1, kept_groups + 1) };
        let padded = |own: &Tensor, last: Vec<f32>| -> Result<Tensor> {
            let last = Tensor::from_vec(last, more, device)?.to_dtype(own.dtype())?;
            Ok(Tensor::cat(&[own, &last], 0)?)
        };
        let logits = padded(&Tensor::zeros(experts, gate.dtype(), device)?, vec![NO_WEIGHT; more])?;
        let ranks = std::iter::once(ALWAYS).chain(std::iter::repeat_n(NEVER, more - 1)).collect();
        let bias = padded(bias, ranks)?;
        let gate = Tensor::cat(&[gate, &Tensor::zeros((more, hidden), gate.dtype(), device)?], 0)?;
        Ok((Self::Stacked { logits, groups, kept_groups }, gate, bias))
    }
}

/// How many tokens each expert of a layer got.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertTokens {
    pub layer: usize,
    pub tokens: Vec<u64>,
}

impl ExpertTokens {
    /// The busiest expert's tokens over the mean: 1 is even. None before the first token.
    pub fn imbalance(&self) -> Option<f64> {
        let (most, sum) = (*self.tokens.iter().max()?, self.tokens.iter().sum::<u64>());
        (sum > 0).then(|| most as f64 * self.tokens.len() as f64 / sum as f64)
    }
}

impl Moe {
    /// Loads the experts below `name`, such as `model.layers.3.mlp`, stacked.
    pub fn load(loader: &Loader, config: &Config, moe: &MoeConfig, name: &str) -> Result<Self> {
        let (hidden, inner, experts) = (config.hidden_size, moe.intermediate_size, moe.experts);
        // Where nothing is trained, a shared expert that is one of the others' width is stacked with them.
        let stacked = moe.shared == 1 && matches!(moe.router, Router::Sigmoid { .. }) && !loader.is_tuned();
        let beside = format!("{name}.shared_experts");
        let of = |expert: usize, which: &str| match expert < experts {
            true => format!("{name}.experts.{expert}.{which}_proj.weight"),
            false => format!("{beside}.{which}_proj.weight"),
        };
        let all = experts + usize::from(stacked);
        let names: Vec<_> = (0..all).flat_map(|expert| ["gate", "up"].map(|which| of(expert, which))).collect();
        let gate_up = loader.merged(&names, &vec![inner; 2 * all], Some(hidden))?;
        let names: Vec<_> = (0..all).map(|expert| of(expert, "down")).collect();
        let down = loader.merged(&names, &vec![hidden; all], Some(inner))?;
        let bias = match moe.router {
            Router::Sigmoid { .. } => Some(loader.tensor(&format!("{name}.gate.e_score_correction_bias"), &[experts])?),
            Router::Softmax { .. } => None,
        };
        let gate = moe.router.widened(loader.tensor(&format!("{name}.gate.weight"), &[experts, hidden])?)?;
        let bias = bias.map(|bias| moe.router.widened(bias)).transpose()?;
        let (shared, gate, bias) = match (moe.shared, &bias) {
            (0, _) => (None, gate, bias),
            (1, Some(bias)) if stacked => {
                let (shared, gate, bias) = Shared::stack(&moe.router, &gate, bias)?;
                (Some(shared), gate, Some(bias))
            }
            (shared, _) => {
                let mlp = Mlp::of_width(loader, hidden, shared * inner, &beside, false)?;
                (Some(Shared::Beside(mlp)), gate, bias)
            }
        };
        Ok(Self {
            router: moe.router.clone(),
            gate,
            bias,
            gate_up: gate_up.reshape((all, 2 * inner, hidden))?,
            down: down.reshape((all, hidden, inner))?,
            shared,
            experts,
            per_token: moe.per_token,
            counted: Mutex::new(None),
            name: name.to_owned(),
        })
    }

    /// Counts from zero.
    pub(crate) fn count_tokens(&self) -> Result<()> {
        let zeros = Tensor::zeros(self.gate_up.dim(0)?, DType::I64, self.gate.device())?;
        *self.counted() = Some(zeros);
        Ok(())
    }

    /// Tokens of each expert since counting began.
    pub(crate) fn tokens(&self) -> Result<Vec<u64>> {
        let Some(counted) = self.counted().clone() else { return Ok(vec![0; self.experts]) };
        let mut ends: Vec<i64> = counted.to_vec1()?;
        ends.truncate(self.experts);
        let starts = [0].into_iter().chain(ends.iter().copied());
        Ok(ends.iter().zip(starts).map(|(end, start)| (end - start) as u64).collect())
    }

    fn counted(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the router computes in F32 whatever the type of the model.
    pub(crate) fn routes_wide(&self) -> bool {
        matches!(self.router, Router::Sigmoid { .. })
    }

    /// `x` [B, T, H] → [B, T, H].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = if self.routes_wide() { x.to_dtype(DType::F32)? } else { x.clone() };
        self.forward_routed_by(x, &wide)
    }

    /// As [`Moe::forward`], where `wide` is `x` in the type that the router computes in.
    pub(crate) fn forward_routed_by(&self, x: &Tensor, wide: &Tensor) -> Result<Tensor> {
        let (batch, tokens, hidden) = x.dims3()?;
        let shape = (batch * tokens, hidden);
        let sum = self.routed(&x.reshape(shape)?, &wide.reshape(shape)?);
        let sum = sum.with_context(|| format!("the experts of {}", self.name))?;
        Ok(sum.reshape((batch, tokens, hidden))?)
    }

    /// What the chosen experts make of `rows` [T, H], added to what the shared one makes of them.
    fn routed(&self, rows: &Tensor, wide: &Tensor) -> Result<Tensor> {
        let tokens = rows.dim(0)?;
        let beside = match &self.shared {
            Some(Shared::Beside(shared)) => Some(shared.forward(rows)?),
            Some(Shared::Stacked { .. }) | None => None,
        };
        let (weights, chosen) = self.route(wide)?;
        let Permuted { rows, places, ends } = moe::permute(rows, &chosen, self.gate_up.dim(0)?)?;
        if let Some(counted) = &*self.counted() {
            counted.slice_set(&(counted + &ends)?, 0, 0)?;
        }
        let inner = moe::grouped_swiglu(&rows, &self.gate_up, &ends)?;
        let outputs = moe::grouped_linear(&inner, &self.down, &ends)?;
        let shared = match &self.shared {
            // The last expert's rows are the last, in the order of the tokens, each of which has taken it once.
            Some(Shared::Stacked { .. }) => Some(outputs.narrow(0, outputs.dim(0)? - tokens, tokens)?),
            Some(Shared::Beside(_)) | None => beside,
        };
        Ok(match shared {
            Some(shared) => moe::unpermute_onto(&shared, &outputs, &places, &weights)?,
            None => moe::unpermute(&outputs, &places, &weights)?,
        })
    }

    /// Weights and experts of each row.
    fn route(&self, rows: &Tensor) -> Result<(Tensor, Tensor)> {
        let stacked = match &self.shared {
            Some(Shared::Stacked { logits, groups, kept_groups }) => Some((logits, *groups, *kept_groups)),
            Some(Shared::Beside(_)) | None => None,
        };
        let gating = match &self.router {
            Router::Softmax { renormalise } => Gating::Softmax { renormalise: *renormalise },
            Router::Sigmoid { groups, kept_groups, renormalise, factor } => Gating::Sigmoid {
                bias: self.bias.as_ref(),
                groups: stacked.map_or(*groups, |(_, groups, _)| groups),
                kept_groups: stacked.map_or(*kept_groups, |(_, _, kept_groups)| kept_groups),
                renormalise: *renormalise,
                factor: *factor,
            },
        };
        let gate = self.gate.to_dtype(rows.dtype())?;
        let logits = ops::linear(rows, &gate, stacked.map(|(logits, ..)| logits))?;
        Ok(moe::route(&logits, self.per_token + usize::from(stacked.is_some()), gating)?)
    }
}

impl MoeConfig {
    /// Whether layer `index` has experts rather than one dense part.
    pub fn is_sparse(&self, index: usize) -> bool {
        index >= self.first_dense
            && !self.dense_layers.contains(&index)
            && (index + self.offset).is_multiple_of(self.every)
    }

    pub(crate) fn check(&self) -> Result<()> {
        ensure!(
            self.per_token <= self.experts,
            "num_experts_per_tok {} exceeds the number of experts {}",
            self.per_token,
            self.experts
        );
        if let Router::Sigmoid { groups, kept_groups, .. } = self.router {
            ensure!(
                self.experts.is_multiple_of(groups) && kept_groups <= groups,
                "n_group {groups} and topk_group {kept_groups} do not fit {} experts",
                self.experts
            );
            let open = self.experts / groups * kept_groups;
            ensure!(
                self.per_token <= open,
                "num_experts_per_tok {} exceeds the {open} that the groups leave",
                self.per_token
            );
        }
        Ok(())
    }
}

/// Reads what Qwen3-MoE's configuration says of its experts.
pub(crate) fn qwen3_moe(fields: &mut crate::Fields) -> Result<MoeConfig> {
    let experts = match (fields.size("num_experts", 1 << 14)?, fields.size("num_local_experts", 1 << 14)?) {
        (Some(a), Some(b)) if a != b => anyhow::bail!("num_experts is {a} and num_local_experts is {b}"),
        (a, b) => a.or(b).context("num_experts is missing, wanted the number of experts")?,
    };
    let every = fields.size("decoder_sparse_step", 1 << 12)?.unwrap_or(1);
    let dense_layers = match fields.take("mlp_only_layers") {
        None => Vec::new(),
        Some(value) => serde_json::from_value(value).context("mlp_only_layers, wanted a list of layers")?,
    };
    Ok(MoeConfig {
        experts,
        per_token: fields.want_size("num_experts_per_tok", experts)?,
        intermediate_size: fields.want_size("moe_intermediate_size", 1 << 22)?,
        shared: 0,
        first_dense: 0,
        every,
        // Layers count from one in this rule.
        offset: 1,
        dense_layers,
        router: Router::Softmax { renormalise: fields.flag("norm_topk_prob")?.unwrap_or(false) },
    })
}

/// Reads what DeepSeek-V3's configuration says of its experts.
pub(crate) fn deepseek_v3(fields: &mut crate::Fields) -> Result<MoeConfig> {
    let experts = fields.want_size("n_routed_experts", 1 << 14)?;
    for (key, wanted) in [("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")] {
        let got = fields.text(key)?.unwrap_or_else(|| wanted.into());
        ensure!(got == wanted, "{key} is {got:?}; only {wanted:?} is supported");
    }
    Ok(MoeConfig {
        experts,
        per_token: fields.want_size("num_experts_per_tok", experts)?,
        intermediate_size: fields.want_size("moe_intermediate_size", 1 << 22)?,
        shared: fields.size_or_zero("n_shared_experts")?.unwrap_or(0),
        first_dense: fields.size_or_zero("first_k_dense_replace")?.unwrap_or(0),
        every: fields.size("moe_layer_freq", 1 << 12)?.unwrap_or(1),
        offset: 0,
        dense_layers: Vec::new(),
        router: Router::Sigmoid {
            groups: fields.size("n_group", experts)?.unwrap_or(1),
            kept_groups: fields.size("topk_group", experts)?.unwrap_or(1),
            renormalise: fields.flag("norm_topk_prob")?.unwrap_or(true),
            factor: fields.number("routed_scaling_factor")?.unwrap_or(1.0),
        },
    })
}
