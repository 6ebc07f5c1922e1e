//! Losses, each the mean over what it is given.

use crate::ops::{log_softmax, sigmoid};
use candle_ascend::{Result, Tensor, bail};

/// Negative log likelihood of `target` `[N]` under the log probabilities `inp` `[N, C]`.
pub fn nll(inp: &Tensor, target: &Tensor) -> Result<Tensor> {
    let (rows, _) = match *inp.dims() {
        [rows, classes] => (rows, classes),
        ref dims => bail!("the input tensor should have two dimensions ({dims:?})"),
    };
    let [targets] = *target.dims() else {
        bail!("the target tensor should have a single dimension ({:?})", target.dims())
    };
    if rows != targets {
        bail!("batch size mismatch between inp ({rows}) and target ({targets})")
    }
    inp.gather(&target.unsqueeze(1)?, 1)?.sum_all()? * (-1. / rows as f64)
}

/// Cross entropy of `target` `[N]` under the logits `inp` `[N, C]`.
pub fn cross_entropy(inp: &Tensor, target: &Tensor) -> Result<Tensor> {
    if inp.rank() != 2 {
        bail!("cross_entropy expects an input tensor of rank 2")
    }
    nll(&log_softmax(inp, 1)?, target)
}

/// Mean squared difference.
pub fn mse(inp: &Tensor, target: &Tensor) -> Result<Tensor> {
    (inp - target)?.sqr()?.mean_all()
}

/// Cross entropy of probabilities `target` under the logits `inp` of independent events.
pub fn binary_cross_entropy_with_logit(inp: &Tensor, target: &Tensor) -> Result<Tensor> {
    let probability = sigmoid(inp)?;
    let happened = (target * probability.log()?)?;
    let did_not = ((1. - target)? * (1. - probability)?.log()?)?;
    (happened + did_not)?.neg()?.mean_all()
}

/// Squared below `delta`, linear above.
pub fn huber(inp: &Tensor, target: &Tensor, delta: f64) -> Result<Tensor> {
    if inp.dims() != target.dims() {
        bail!("input and target must have the same shape, got inp: {:?}, target: {:?}", inp.dims(), target.dims())
    }
    let distance = (inp - target)?.abs()?;
    let near = (distance.sqr()? * 0.5)?;
    let far = ((&distance * delta)? - 0.5 * delta.powi(2))?;
    distance.le(delta)?.where_cond(&near, &far)?.mean_all()
}

/// Distillation (Hinton et al., arXiv 1503.02531) of `teacher` into `student`, logits `[N, C]` both, `target` `[N]` (I64):
/// `alpha T² KL(teacher ‖ student) + (1 - alpha) cross entropy`, where KL is of the distributions at `temperature` T and both
/// are means over the rows whose target is not `ignore_index`.
pub fn distillation(
    student: &Tensor,
    teacher: &Tensor,
    target: &Tensor,
    temperature: f64,
    alpha: f64,
    ignore_index: i64,
) -> Result<Tensor> {
    if student.rank() != 2 || student.dims() != teacher.dims() || target.dims() != [student.dims()[0]] {
        bail!(
            "distillation: student {:?}, teacher {:?} and target {:?} do not fit, wanted [N, C], [N, C] and [N]",
            student.shape(),
            teacher.shape(),
            target.shape()
        )
    }
    let keep = target.ne(ignore_index)?;
    let safe = keep.where_cond(target, &target.zeros_like()?)?.unsqueeze(1)?;
    let keep = keep.to_dtype(student.dtype())?;
    let rows = keep.sum_all()?;
    let mean = |per_row: Tensor| (per_row * &keep)?.sum_all()? / &rows;
    let hard = mean(log_softmax(student, 1)?.gather(&safe, 1)?.squeeze(1)?.neg()?)?;
    let teacher = log_softmax(&(teacher.detach() / temperature)?, 1)?;
    let off = (&teacher - log_softmax(&(student / temperature)?, 1)?)?;
    let soft = mean((teacher.exp()? * off)?.sum(1)?)?;
    (soft * (alpha * temperature * temperature))? + (hard * (1. - alpha))?
}
