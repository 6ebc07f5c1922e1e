//! Distillation: a student learns a teacher's distributions, and the labels beside them.
//!
//! The teacher is another checkpoint, on the student's device or on another, or what such a one has written before. Logits of
//! neither exist for more than a chunk of rows.

mod cache;
mod divergence;
mod on_policy;

pub use cache::{TeacherLogits, key as sample_key, write as write_teacher_logits};
pub use divergence::{Distillation, TeacherRows};
pub use on_policy::OnPolicy;

use super::logits::rows_of_chunk;
use super::{Batches, Loss, Objective};
use crate::{Batch, Policy, Ranks};
use anyhow::{Result, ensure};
use candle_ascend::{DType, Device, Tensor, no_grad, ops};
use std::ops::Range;

/// Where the teacher's distributions come from.
pub enum Teacher {
    /// A model, of which nothing is trained.
    Model(Policy),
    /// A file of its likeliest tokens.
    Cached(TeacherLogits),
}

/// Distillation on the batches that `B` gives.
pub struct Distill<B> {
    batches: B,
    teacher: Teacher,
    how: Distillation,
    on_policy: Option<OnPolicy>,
}

/// What the teacher knows of the rows of a batch.
enum Known<'a> {
    /// Its hidden states and its projection.
    Hidden(Tensor, &'a Tensor),
    Top {
        indices: Tensor,
        log_probs: Tensor,
    },
}

impl<B: Batches> Distill<B> {
    /// With `on_policy` some batches are what the student itself says.
    pub fn new(batches: B, teacher: Teacher, how: Distillation, on_policy: Option<OnPolicy>) -> Result<Self> {
        let Distillation { alpha, temperature, beta } = how;
        ensure!((0.0..=1.0).contains(&alpha), "alpha is {alpha}, wanted a number from 0 to 1");
        ensure!((0.0..=1.0).contains(&beta), "beta is {beta}, wanted a number from 0 to 1");
        ensure!(temperature.is_finite() && temperature > 0., "temperature is {temperature}, wanted more than 0");
        if let Teacher::Cached(_) = &teacher {
            ensure!(
                beta == 0.,
                "beta is {beta}, and only KL(teacher ‖ student), beta 0, can be computed from a teacher's likeliest tokens"
            );
            ensure!(
                on_policy.is_none(),
                "the student's own samples are not in a file of a teacher's logits; give --teacher"
            );
        }
        Ok(Self { batches, teacher, how, on_policy })
    }

    fn known(&mut self, batch: &Batch, rows: &Tensor, device: &Device) -> Result<Known<'_>> {
        Ok(match &mut self.teacher {
            Teacher::Model(teacher) => {
                let rows = rows.to_device(&teacher.device)?;
                let hidden = no_grad(|| anyhow::Ok(teacher.hidden(batch)?.index_select(&rows, 0)?))?;
                Known::Hidden(hidden, teacher.head()?)
            }
            Teacher::Cached(file) => {
                let (indices, log_probs) = file.of_batch(batch)?;
                let shape = (indices.len() / file.top_k(), file.top_k());
                Known::Top {
                    indices: Tensor::from_vec(indices, shape, device)?,
                    log_probs: Tensor::from_vec(log_probs, shape, device)?,
                }
            }
        })
    }
}

impl Known<'_> {
    /// Of some rows, on the student's device.
    fn rows(&self, rows: &Range<usize>, device: &Device) -> candle_ascend::Result<TeacherRows> {
        let part = |x: &Tensor| x.narrow(0, rows.start, rows.len());
        Ok(match self {
            Self::Hidden(hidden, head) => {
                let logits = no_grad(|| ops::linear(&part(hidden)?, head, None))?;
                TeacherRows::Logits(logits.to_dtype(DType::F32)?.to_device(device)?)
            }
            Self::Top { indices, log_probs } => {
                TeacherRows::Top { indices: part(indices)?, log_probs: part(log_probs)? }
            }
        })
    }
}

impl<B: Batches> Objective for Distill<B> {
    type Batch = Batch;

    fn name(&self) -> &'static str {
        "distill"
    }

    fn batches(&mut self, step: usize, policy: &Policy, ranks: &Ranks) -> Result<Vec<Batch>> {
        let batches = self.batches.of_step(step, ranks)?;
        match &self.on_policy {
            Some(on_policy) => on_policy.batches(batches, step, policy, ranks),
            None => Ok(batches),
        }
    }

    fn weight(&self, batch: &Batch) -> f64 {
        batch.targets() as f64
    }

    fn tokens(&self, batch: &Batch) -> usize {
        batch.tokens()
    }

    fn loss(&mut self, policy: &Policy, batch: &Batch) -> Result<Loss> {
        let (how, device) = (self.how, &policy.device);
        let zero = || Tensor::zeros((), DType::F32, device);
        let (mut soft, mut hard) = (zero()?, zero()?);
        let mut sum = zero()?;
        if batch.targets() > 0 {
            let (rows, targets) = batch.predicted(device)?;
            let (known, targets) = (self.known(batch, &rows, device)?, targets.unsqueeze(1)?);
            let (hidden, head) = (policy.hidden(batch)?.index_select(&rows, 0)?, policy.head()?);
            sum = ops::linear_loss(&hidden, head, rows_of_chunk(head.dim(0)?), &mut |logits, rows| {
                let targets = targets.narrow(0, rows.start, rows.len())?;
                let sums = how.of_logits(logits, &known.rows(&rows, device)?, &targets)?;
                soft = (&soft + sums.soft)?;
                if let Some(of_chunk) = sums.hard {
                    hard = (&hard + of_chunk)?;
                }
                Ok(sums.loss)
            })?;
        }
        let labels = (how.alpha < 1.).then_some(("hard_loss", hard));
        Ok(Loss { sum, also: [("soft_loss", soft)].into_iter().chain(labels).collect() })
    }

    fn held_out(&mut self, _: &Policy, ranks: &Ranks) -> Result<Vec<Batch>> {
        self.batches.held_out(ranks)
    }

    fn data(&self) -> String {
        self.batches.data()
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        self.batches.epoch(step)
    }
}
