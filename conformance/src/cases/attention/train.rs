//! Attention of training: FlashAttentionScore and its gradient, dense and packed.

use super::reference::{Layout, Problem, Sees};
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;

/// A version of the operator: what it adds to the argument list.
#[derive(Clone, Copy)]
struct Version {
    row: &'static str,
    /// A sink, which stays null.
    sink: bool,
    /// Start indices, which stay null, and the kind of a position bias.
    starts: bool,
    packed: bool,
}

const fn version(row: &'static str, sink: bool, starts: bool, packed: bool) -> Version {
    Version { row, sink, starts, packed }
}

const FORWARD: [Version; 5] = [
    version("FlashAttentionScore", false, false, false),
    version("FlashAttentionScoreV2", false, true, false),
    version("FlashAttentionScoreV3", true, true, false),
    version("FlashAttentionVarLenScore", false, false, true),
    version("FlashAttentionVarLenScoreV2", false, true, true),
];

const BACKWARD: [Version; 4] = [
    version("FlashAttentionScoreGrad", false, false, false),
    version("FlashAttentionScoreGradV2", false, true, false),
    version("FlashAttentionUnpaddingScoreGrad", false, false, true),
    version("FlashAttentionUnpaddingScoreGradV2", false, true, true),
];

fn mask(problem: &Problem) -> Arg {
    problem.mask().map_or(Arg::Null, Arg::In)
}

/// What both directions share from `prefix` to the attributes' end.
fn attributes(version: Version, problem: &Problem) -> Vec<Arg> {
    let mut args = vec![Arg::Null];
    if version.packed {
        let (queries, keys) = problem.ends();
        args.extend([Arg::Ints(queries), Arg::Ints(keys)]);
    }
    if version.starts {
        args.extend([Arg::Null, Arg::Null]);
    }
    let (before, after) = problem.tokens();
    args.extend([
        Arg::Float(problem.scale()),
        Arg::Float(1.0),
        Arg::Int(before),
        Arg::Int(after),
        Arg::Int(problem.heads as i64),
    ]);
    args.extend([Arg::Str(problem.layout.name()), Arg::Int(0), Arg::Int(problem.mode())]);
    // Kind 1 is the default.
    args.extend(version.starts.then_some(Arg::Int(1)));
    args
}

/// Numbers below 1 keep the scores small, so that `f32` statistics are good to a few of their own units.
fn spec(dtype: DType, shape: Vec<usize>) -> Spec {
    Spec::new(dtype, shape).fill(Fill::Uniform(-1.0, 1.0))
}

/// Values are larger, so that one key too many or too few shows in the result.
fn values(dtype: DType, shape: Vec<usize>) -> Spec {
    Spec::new(dtype, shape).fill(Fill::Uniform(-4.0, 4.0))
}

/// Each number eight times, which is how the operators keep statistics.
fn eightfold(statistic: &Array) -> Array {
    let last = statistic.rank() - 1;
    statistic.map_lanes(last, |lane| vec![lane[0]; 8])
}

/// Adds the layout and visibility to a case's label.
fn labelled(case: Case, problem: &Problem) -> Case {
    let label = format!("{} {:?} {}", problem.layout.name(), problem.sees, case.label);
    Case { label, ..case }
}

fn forward(version: Version, problem: Problem) -> Case {
    let dtype = problem.dtype;
    let (query, key) = (problem.query_shape(), problem.key_shape());
    let mut args =
        vec![Arg::In(spec(dtype, query.clone())), Arg::In(spec(dtype, key.clone())), Arg::In(values(dtype, key))];
    args.extend([Arg::Null, Arg::Null, Arg::Null, mask(&problem)]);
    args.extend(version.sink.then_some(Arg::Null));
    args.extend(attributes(version, &problem));
    let statistic = || Arg::Out(F32, problem.statistic_shape(8));
    args.extend([statistic(), statistic(), Arg::Null, Arg::Out(dtype, query)]);
    let this = problem.clone();
    let case = Case::new(version.row, args, move |x| {
        let mask = (this.sees != Sees::All).then(|| &x[3]);
        let forward = this.forward(&x[0], &this.reader(&x[1]), &this.reader(&x[2]), mask);
        vec![eightfold(&forward.max), eightfold(&forward.sum), forward.out]
    });
    // The weights are rounded to the operands' type before they multiply the values; in `f32`, and for the statistics,
    // it is the error of sums of 16 products that an exponential passes on.
    labelled(case.within(4.0, 1.0), &problem)
}

/// The gradient's inputs fit together: the kept output and statistics are the forward pass's.
fn backward(version: Version, problem: Problem) -> Case {
    let dtype = problem.dtype;
    let made = |shape: Vec<usize>, seed: u64| spec(dtype, shape).make(seed);
    let (q, dy) = (made(problem.query_shape(), 1), made(problem.query_shape(), 2));
    let (k, v) = (made(problem.key_shape(), 3), values(dtype, problem.key_shape()).make(4));
    let kept_mask = problem.mask().map(|mask| mask.make(0));
    let kept = problem.forward(&q, &problem.reader(&k), &problem.reader(&v), kept_mask.as_ref());
    let given = |x: &Array| Arg::In(Spec::new(x.dtype, x.shape.clone()).fill(Fill::Values(x.data.clone())));
    let mut args = vec![given(&q), given(&k), given(&v), given(&dy), Arg::Null, Arg::Null, Arg::Null, mask(&problem)];
    args.extend([given(&eightfold(&kept.max)), given(&eightfold(&kept.sum)), Arg::Null, given(&kept.out)]);
    args.extend(attributes(version, &problem));
    args.extend([&q, &k, &v].map(|x| Arg::Out(dtype, x.shape.clone())));
    args.push(Arg::Null);
    let this = problem.clone();
    let case = Case::new(version.row, args, move |x| {
        let mask = (this.sees != Sees::All).then(|| &x[4]);
        this.backward(&x[0], &x[1], &x[2], &x[3], mask).into()
    });
    // The kept output is rounded, and a device rounds weights and slopes to the operands' type before it multiplies
    // them. In `f32` it is the error of sums of 16 products, which an exponential and further sums pass on.
    labelled(if dtype == F32 { case.within(16.0, 0.5) } else { case.within(3.0, 0.5) }, &problem)
}

/// Problems for a version: every layout and type, grouped heads, and each mode once.
fn problems(version: Version) -> Vec<Problem> {
    let base = Problem {
        dtype: F32,
        layout: Layout::Bnsd,
        heads: 4,
        key_heads: 2,
        dim: 16,
        lengths: vec![(5, 9), (5, 9)],
        room: 9,
        sees: Sees::All,
    };
    if version.packed {
        let packed = Problem { layout: Layout::Tnd, lengths: vec![(3, 7), (5, 5), (1, 9)], room: 0, ..base };
        return [F32, F16, BF16].map(|dtype| Problem { dtype, ..packed.clone() }).into();
    }
    let with = |layout, dtype| Problem { layout, dtype, ..base.clone() };
    let mut all =
        vec![with(Layout::Bnsd, F32), with(Layout::Bsh, F16), with(Layout::Sbh, BF16), with(Layout::Bsnd, BF16)];
    all.push(Problem { sees: Sees::Masked, dtype: F16, ..base.clone() });
    // The compressed masks are 4 MiB each: the newest version of either direction tries them.
    if version.sink || version.row == "FlashAttentionScoreGradV2" {
        all.extend([Sees::Causal, Sees::CausalFromEnd, Sees::Band(3, 1)].map(|sees| Problem { sees, ..base.clone() }));
    }
    all
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for version in FORWARD {
        all.extend(problems(version).into_iter().map(|problem| forward(version, problem)));
    }
    for version in BACKWARD {
        all.extend(problems(version).into_iter().map(|problem| backward(version, problem)));
    }
    all
}
