//! The running means of a slot's gradient and of its square.

use super::dynamic::{Quantised, Table, Tables};
use anyhow::{Context, Result};
use candle_ascend::{Tensor, Var};

const FIRST: &str = "exp_avg";
const SECOND: &str = "exp_avg_sq";
const CODES: &str = "codes";
const SCALES: &str = "absmax";
/// Norms, biases and other small tensors stay in F32, as in bitsandbytes: they are few bytes, and each element counts.
const SMALLEST: usize = 4096;

pub(super) enum Moments {
    Wide { first: Var, second: Var },
    Eight { first: Quantised, second: Quantised },
}

impl Moments {
    pub fn zeros(like: &Tensor, eight_bits: bool) -> Result<Self> {
        if eight_bits && like.elem_count() >= SMALLEST {
            let zeros = || Quantised::zeros(like);
            return Ok(Self::Eight { first: zeros()?, second: zeros()? });
        }
        let zeros = || Var::zeros(like.shape(), like.dtype(), like.device());
        Ok(Self::Wide { first: zeros()?, second: zeros()? })
    }

    /// Lets `step` change both means, in F32.
    pub fn update(&mut self, tables: Option<&Tables>, step: impl FnOnce(&Var, &Var) -> Result<()>) -> Result<()> {
        match self {
            Self::Wide { first, second } => step(first, second),
            Self::Eight { first, second } => {
                let Tables { signed, unsigned } =
                    tables.context("moments in eight bits without the tables of their codes")?;
                let wide =
                    |moment: &Quantised, table: &Table| Ok::<_, anyhow::Error>(Var::from_tensor(&moment.wide(table)?)?);
                let (m, v) = (wide(first, signed)?, wide(second, unsigned)?);
                step(&m, &v)?;
                *first = Quantised::of(&m.as_detached_tensor(), signed)?;
                *second = Quantised::of(&v.as_detached_tensor(), unsigned)?;
                Ok(())
            }
        }
    }

    pub fn bytes(&self) -> usize {
        self.tensors().iter().map(|(_, tensor)| tensor.elem_count() * tensor.dtype().size_in_bytes()).sum()
    }

    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        match self {
            Self::Wide { first, second } => {
                vec![(FIRST.into(), first.as_detached_tensor()), (SECOND.into(), second.as_detached_tensor())]
            }
            Self::Eight { first, second } => {
                let parts = |name: &str, moment: &Quantised| {
                    let part = |what: &str, tensor: &Tensor| (format!("{name}.{what}"), tensor.clone());
                    [part(CODES, &moment.codes), part(SCALES, &moment.scales)]
                };
                parts(FIRST, first).into_iter().chain(parts(SECOND, second)).collect()
            }
        }
    }

    /// Replaces each tensor by what `get` has under its name; the tensor itself says the shape and type.
    pub fn restore(&mut self, get: impl Fn(&str, &Tensor) -> Result<Tensor>) -> Result<()> {
        match self {
            Self::Wide { first, second } => {
                first.set(&get(FIRST, first)?)?;
                second.set(&get(SECOND, second)?)?;
            }
            Self::Eight { first, second } => {
                for (name, moment) in [(FIRST, first), (SECOND, second)] {
                    moment.codes = get(&format!("{name}.{CODES}"), &moment.codes)?;
                    moment.scales = get(&format!("{name}.{SCALES}"), &moment.scales)?;
                }
            }
        }
        Ok(())
    }
}
