//! Optimizers.

use candle_ascend::backprop::GradStore;
use candle_ascend::{Result, Tensor, Var, no_grad, ops};

/// Changes variables by their gradients.
pub trait Optimizer: Sized {
    type Config: Sized;

    /// For the variables among `vars` that have a floating type.
    fn new(vars: Vec<Var>, config: Self::Config) -> Result<Self>;

    /// One step for every variable that has a gradient.
    fn step(&mut self, grads: &GradStore) -> Result<()>;

    fn learning_rate(&self) -> f64;

    fn set_learning_rate(&mut self, lr: f64);

    fn empty(config: Self::Config) -> Result<Self> {
        Self::new(vec![], config)
    }

    /// Backward of `loss` and one step.
    fn backward_step(&mut self, loss: &Tensor) -> Result<()> {
        self.step(&loss.backward()?)
    }

    fn from_slice(vars: &[&Var], config: Self::Config) -> Result<Self> {
        Self::new(vars.iter().map(|&var| var.clone()).collect(), config)
    }
}

fn floating(vars: Vec<Var>) -> impl Iterator<Item = Var> {
    vars.into_iter().filter(|var| var.dtype().is_float())
}

/// Gradient descent: `x - lr * gradient`, without momentum.
#[derive(Debug)]
pub struct SGD {
    vars: Vec<Var>,
    learning_rate: f64,
}

impl Optimizer for SGD {
    type Config = f64;

    fn new(vars: Vec<Var>, learning_rate: f64) -> Result<Self> {
        Ok(Self { vars: floating(vars).collect(), learning_rate })
    }

    fn step(&mut self, grads: &GradStore) -> Result<()> {
        no_grad(|| {
            let with_grad = self.vars.iter().filter_map(|var| Some((var, grads.get(var)?)));
            for (var, grad) in with_grad {
                var.set(&var.sub(&(grad * self.learning_rate)?)?)?;
            }
            Ok(())
        })
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.learning_rate = lr;
    }
}

impl SGD {
    pub fn into_inner(self) -> Vec<Var> {
        self.vars
    }

    pub fn push(&mut self, var: &Var) {
        self.vars.push(var.clone());
    }
}

/// Parameters of [`AdamW`].
#[derive(Clone, Debug)]
pub struct ParamsAdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
}

impl Default for ParamsAdamW {
    fn default() -> Self {
        Self { lr: 0.001, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// A variable and the running means of its gradient and of that squared.
#[derive(Debug)]
struct Moments {
    var: Var,
    first: Var,
    second: Var,
}

/// Adam with decoupled weight decay (Loshchilov and Hutter, 2019). The moments have the type of the variable; on an NPU a
/// step is one launch a variable.
#[derive(Debug)]
pub struct AdamW {
    vars: Vec<Moments>,
    step_t: usize,
    params: ParamsAdamW,
}

impl Optimizer for AdamW {
    type Config = ParamsAdamW;

    fn new(vars: Vec<Var>, params: ParamsAdamW) -> Result<Self> {
        let zeros = |var: &Var| Var::zeros(var.shape(), var.dtype(), var.device());
        let vars = floating(vars)
            .map(|var| Ok(Moments { first: zeros(&var)?, second: zeros(&var)?, var }))
            .collect::<Result<_>>()?;
        Ok(Self { vars, params, step_t: 0 })
    }

    fn step(&mut self, grads: &GradStore) -> Result<()> {
        self.step_t += 1;
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = self.params;
        let at = ops::AdamWStep { step: self.step_t, lr, beta1, beta2, eps, weight_decay, grad_scale: 1. };
        for Moments { var, first, second } in &self.vars {
            if let Some(grad) = grads.get(var) {
                ops::adamw_step(var, first, second, grad, at)?;
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.params.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.params.lr = lr;
    }
}

impl AdamW {
    /// With the other parameters' defaults.
    pub fn new_lr(vars: Vec<Var>, learning_rate: f64) -> Result<Self> {
        Self::new(vars, ParamsAdamW { lr: learning_rate, ..ParamsAdamW::default() })
    }

    pub fn params(&self) -> &ParamsAdamW {
        &self.params
    }

    pub fn set_params(&mut self, params: ParamsAdamW) {
        self.params = params;
    }
}
