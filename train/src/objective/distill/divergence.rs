//! How far a student's distributions are from a teacher's.

use crate::objective::logits::shifted;
use candle_ascend::{D, Result, Tensor, no_grad};

/// What stands in for a probability of zero before its logarithm is taken.
const LEAST: f64 = 1e-37;

/// What a teacher says of some rows.
pub enum TeacherRows {
    /// Logits `[n, V]`.
    Logits(Tensor),
    /// Its likeliest tokens `[n, K]` (U32), and their log-probabilities, F32; the others count as impossible.
    Top { indices: Tensor, log_probs: Tensor },
}

/// How a student is held to teacher and labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// The share of the teacher; the rest is that of the labels.
    pub alpha: f64,
    /// Of both distributions where they are compared. The divergence counts by its square, which keeps the gradient's size.
    pub temperature: f64,
    /// 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher), and between them stands the generalised Jensen-Shannon
    /// divergence (arXiv 2306.13649): `beta KL(teacher ‖ m) + (1 - beta) KL(student ‖ m)` with `m` the mixture of `beta` parts
    /// of the teacher's and the rest of the student's distribution.
    pub beta: f64,
}

/// Sums over rows, rank 0 each.
pub struct Sums {
    pub loss: Tensor,
    /// The divergence before it is weighted; no gradient.
    pub soft: Tensor,
    /// The cross entropy of the labels; no gradient. None where it does not count.
    pub hard: Option<Tensor>,
}

impl Distillation {
    /// Of the student's `logits` `[n, V]` against those of the teacher and the labels `targets` `[n, 1]`.
    pub fn of_logits(&self, logits: &Tensor, teacher: &TeacherRows, targets: &Tensor) -> Result<Sums> {
        let soft = self.divergence(logits, teacher)?.sum_all()?;
        let weighted = (&soft * (self.alpha * self.temperature * self.temperature))?;
        if self.alpha == 1. {
            return Ok(Sums { loss: weighted, soft: soft.detach(), hard: None });
        }
        let (own, log_sum) = shifted(logits, 1.)?;
        let hard = (log_sum - own.gather(targets, 1)?)?.sum_all()?;
        let loss = (weighted + (&hard * (1. - self.alpha))?)?;
        Ok(Sums { loss, soft: soft.detach(), hard: Some(hard.detach()) })
    }

    /// Of each row, `[n, 1]`.
    fn divergence(&self, logits: &Tensor, teacher: &TeacherRows) -> Result<Tensor> {
        match teacher {
            TeacherRows::Logits(teacher) => {
                // Checkpoints of one tokenizer pad their vocabularies to different sizes; what is common is the tokenizer's.
                let common = logits.dim(1)?.min(teacher.dim(1)?);
                let (student, log_sum) = shifted(&logits.narrow(1, 0, common)?, self.temperature)?;
                let teacher = no_grad(|| log_softmax(&teacher.narrow(1, 0, common)?, self.temperature))?;
                self.of_log_probs(&student.broadcast_sub(&log_sum)?, &teacher)
            }
            TeacherRows::Top { indices, log_probs } => {
                let (student, log_sum) = shifted(logits, self.temperature)?;
                let student = student.gather(indices, 1)?.broadcast_sub(&log_sum)?;
                kl(&no_grad(|| log_softmax(log_probs, self.temperature))?, &student)
            }
        }
    }

    fn of_log_probs(&self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        if self.beta == 0. {
            return kl(teacher, student);
        }
        if self.beta == 1. {
            return kl(student, teacher);
        }
        let mixture = ((student.exp()? * (1. - self.beta))? + (teacher.exp()? * self.beta)?)?;
        let mixture = mixture.maximum(LEAST)?.log()?;
        (kl(teacher, &mixture)? * self.beta)? + (kl(student, &mixture)? * (1. - self.beta))?
    }
}

/// `sum(p (log p - log q))` of each row.
fn kl(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    (p.exp()? * (p - q)?)?.sum_keepdim(D::Minus1)
}

fn log_softmax(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let (shifted, log_sum) = shifted(logits, temperature)?;
    shifted.broadcast_sub(&log_sum)
}
