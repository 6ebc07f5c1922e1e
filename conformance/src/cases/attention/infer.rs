//! Attention of inference: FusedInferAttentionScore and the prompt and incremental operators before it.

use super::reference::{Layout, Problem, Sees};
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec};
use DType::*;
use candle_ascend::ops::{AttentionMask, attention};
use candle_ascend::{Result, Tensor};

/// Versions of FusedInferAttentionScore: the arguments that each adds, null tensors and zero integers.
const FUSED: [(&str, usize, usize); 5] = [
    ("FusedInferAttentionScore", 0, 0),
    ("FusedInferAttentionScoreV2", 7, 2),
    ("FusedInferAttentionScoreV3", 10, 2),
    ("FusedInferAttentionScoreV4", 12, 3),
    ("FusedInferAttentionScoreV5", 14, 4),
];

/// Keys in blocks: blocks of the cache, keys of a block, and the blocks of each sequence.
#[derive(Clone, Copy)]
struct Pages {
    blocks: usize,
    size: usize,
    table: [[usize; 2]; 2],
}

const PAGES: Pages = Pages { blocks: 5, size: 16, table: [[3, 0], [4, 1]] };

/// A call: the problem, whether it asks for the logarithm of the sum, and whether keys lie in pages.
#[derive(Clone)]
struct Call {
    problem: Problem,
    lse: bool,
    pages: Option<Pages>,
}

fn nulls(count: usize) -> Vec<Arg> {
    vec![Arg::Null; count]
}

fn ints(lengths: impl IntoIterator<Item = usize>) -> Arg {
    Arg::Ints(lengths.into_iter().map(|n| n as i64).collect())
}

impl Call {
    fn new(problem: Problem) -> Self {
        Self { problem, lse: false, pages: None }
    }

    /// Scores of numbers below 1 stay small, so that `f32` statistics are good to a few of their own units.
    fn query(&self) -> Arg {
        Arg::In(Spec::new(self.problem.dtype, self.problem.query_shape()).fill(Fill::Uniform(-1.0, 1.0)))
    }

    fn keys(&self) -> Spec {
        let shape = match self.pages {
            None => self.problem.key_shape(),
            Some(pages) => vec![pages.blocks, pages.size, self.problem.key_heads * self.problem.dim],
        };
        Spec::new(self.problem.dtype, shape).fill(Fill::Uniform(-1.0, 1.0))
    }

    /// Values are larger, so that one key too many or too few shows in the result.
    fn values(&self) -> Spec {
        self.keys().fill(Fill::Uniform(-4.0, 4.0))
    }

    fn mask(&self) -> Arg {
        self.problem.mask().map_or(Arg::Null, Arg::In)
    }

    fn table(&self) -> Arg {
        let values = |pages: Pages| pages.table.iter().flatten().map(|&block| block as f64).collect();
        self.pages.map_or(Arg::Null, |pages| Arg::In(Spec::new(I32, [2, 2]).fill(Fill::Values(values(pages)))))
    }

    /// Lengths of the queries (only of packed sequences) and of the keys.
    fn lengths(&self) -> (Arg, Arg) {
        if self.problem.packed() {
            let (queries, keys) = self.problem.ends();
            return (Arg::Ints(queries), Arg::Ints(keys));
        }
        (Arg::Null, ints(self.problem.lengths.iter().map(|l| l.1)))
    }

    fn heads(&self) -> Vec<Arg> {
        vec![Arg::Int(self.problem.heads as i64), Arg::Float(self.problem.scale())]
    }

    fn tokens(&self) -> Vec<Arg> {
        let (before, after) = self.problem.tokens();
        vec![Arg::Int(before), Arg::Int(after)]
    }

    fn layout(&self) -> Vec<Arg> {
        vec![Arg::Str(self.problem.layout.name()), Arg::Int(self.problem.key_heads as i64)]
    }

    fn out(&self) -> Arg {
        Arg::Out(self.problem.dtype, self.problem.query_shape())
    }

    fn fused(self, (row, optional, zeros): (&'static str, usize, usize)) -> Case {
        let (queries, keys) = self.lengths();
        let mut args = vec![
            self.query(),
            Arg::InList(vec![self.keys()]),
            Arg::InList(vec![self.values()]),
            Arg::Null,
            self.mask(),
            queries,
            keys,
        ];
        args.extend(nulls(7));
        args.push(self.table());
        args.extend(nulls(2 + optional));
        args.extend([self.heads(), self.tokens(), self.layout()].concat());
        let block_size = self.pages.map_or(0, |pages| pages.size as i64);
        // innerPrecise 1 is the default, high performance.
        args.extend([self.problem.mode(), 1, block_size, 0].map(Arg::Int));
        args.push(Arg::Bool(self.lse));
        args.extend(vec![Arg::Int(0); zeros]);
        args.push(self.out());
        args.push(if self.lse { Arg::Out(F32, self.problem.statistic_shape(1)) } else { Arg::Null });
        self.case(row, args)
    }

    fn prompt(self, row: &'static str, version: usize) -> Case {
        let (queries, keys) = self.lengths();
        let mut args =
            vec![self.query(), Arg::In(self.keys()), Arg::In(self.values()), Arg::Null, self.mask(), queries];
        if version == 3 {
            args.push(keys);
            args.extend(nulls(5));
        }
        args.extend([self.heads(), self.tokens(), self.layout()].concat());
        if version == 3 {
            args.extend([self.problem.mode(), 1].map(Arg::Int));
        }
        args.push(self.out());
        self.case(row, args)
    }

    fn incremental(self, row: &'static str, version: usize) -> Case {
        let mut args = vec![
            self.query(),
            Arg::InList(vec![self.keys()]),
            Arg::InList(vec![self.values()]),
            Arg::Null,
            self.mask(),
            self.lengths().1,
        ];
        if version == 4 {
            args.extend(nulls(7));
            args.extend([self.table(), Arg::Null]);
        }
        args.extend([self.heads(), self.layout()].concat());
        if version == 4 {
            args.extend([self.pages.map_or(0, |pages| pages.size as i64), 1].map(Arg::Int));
        }
        args.push(self.out());
        self.case(row, args)
    }

    /// Within four units: the device rounds the weights, whose sum is 1, to the operands' type before they multiply the
    /// values, half a unit of numbers of 2 on average, and rounds the result. The logarithm is good to as many of its own.
    fn case(self, row: &'static str, args: Vec<Arg>) -> Case {
        let this = self.clone();
        let case = Case::new(row, args, move |x| this.answer(x)).within(4.0, 1.0);
        let label = format!("{} {:?} {}", self.problem.layout.name(), self.problem.sees, case.label);
        let case = Case { label, ..case };
        let full = self.problem.lengths.iter().all(|l| l.1 == self.problem.room);
        let tensors = self.problem.layout == Layout::Bnsd && self.pages.is_none() && full;
        if tensors && matches!(self.problem.sees, Sees::All | Sees::Masked) {
            case.tensors(through(self.problem))
        } else {
            case
        }
    }

    fn answer(&self, x: &[Array]) -> Vec<Array> {
        let problem = &self.problem;
        let mask = problem.mask().is_some().then(|| &x[3]);
        let forward = match self.pages {
            None => problem.forward(&x[0], &problem.reader(&x[1]), &problem.reader(&x[2]), mask),
            Some(pages) => {
                let group = problem.heads / problem.key_heads;
                let paged = |cache: &Array, (b, h, j, e): (usize, usize, usize, usize)| {
                    let block = pages.table[b][j / pages.size];
                    cache.at(&[block, j % pages.size, h / group * problem.dim + e])
                };
                problem.forward(
                    &x[0],
                    &|b, h, j, e| paged(&x[1], (b, h, j, e)),
                    &|b, h, j, e| paged(&x[2], (b, h, j, e)),
                    mask,
                )
            }
        };
        let mut outs = vec![forward.out];
        if self.lse {
            outs.push(forward.max.zip(&forward.sum, |max, sum| max + sum.ln()));
        }
        outs
    }
}

/// The same through the tensor interface, a mask as a term that hides by a very small number.
fn through(problem: Problem) -> impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static {
    move |x| {
        let scale = problem.scale();
        if problem.sees == Sees::All {
            return Ok(vec![attention(&x[0], &x[1], &x[2], scale, AttentionMask::None)?]);
        }
        let term = (x[3].to_dtype(candle_ascend::DType::F32)? * -1e9)?;
        Ok(vec![attention(&x[0], &x[1], &x[2], scale, AttentionMask::Additive(&term))?])
    }
}

pub fn cases() -> Vec<Case> {
    let base = Problem {
        dtype: F16,
        layout: Layout::Bnsd,
        heads: 6,
        key_heads: 2,
        dim: 16,
        lengths: vec![(5, 13), (5, 13)],
        room: 13,
        sees: Sees::All,
    };
    let bf16 = |problem: &Problem| Problem { dtype: BF16, ..problem.clone() };
    let masked = Problem { sees: Sees::Masked, ..base.clone() };
    let ragged = Problem { layout: Layout::Bsnd, lengths: vec![(5, 13), (5, 9)], ..base.clone() };
    let merged = Problem { layout: Layout::Bsh, ..base.clone() };
    // A single query, as when decoding: 21 and 30 keys of a room for 32.
    let decode = Problem { layout: Layout::Bsh, lengths: vec![(1, 21), (1, 30)], room: 32, ..base.clone() };
    // Packed sequences take BFLOAT16 heads of 128.
    let packed = Problem {
        dtype: BF16,
        layout: Layout::Tnd,
        dim: 128,
        lengths: vec![(3, 7), (5, 5), (1, 9)],
        room: 0,
        ..base.clone()
    };
    let mut all = Vec::new();
    for (i, version) in FUSED.into_iter().enumerate() {
        for problem in [base.clone(), bf16(&base), masked.clone(), bf16(&ragged), merged.clone(), decode.clone()] {
            all.push(Call::new(problem).fused(version));
        }
        all.push(Call { lse: true, ..Call::new(base.clone()) }.fused(version));
        all.push(Call { pages: Some(PAGES), ..Call::new(bf16(&decode)) }.fused(version));
        if i >= 2 {
            all.push(Call::new(packed.clone()).fused(version));
        }
    }
    // The compressed masks are 4 MiB each: one operator tries them.
    for sees in [Sees::Causal, Sees::CausalFromEnd, Sees::Band(3, 1)] {
        all.push(Call::new(Problem { sees, ..base.clone() }).fused(FUSED[1]));
    }
    for problem in [base.clone(), masked.clone(), bf16(&merged)] {
        all.push(Call::new(problem.clone()).prompt("PromptFlashAttention", 1));
        all.push(Call::new(problem).prompt("PromptFlashAttentionV3", 3));
    }
    all.push(Call::new(ragged).prompt("PromptFlashAttentionV3", 3));
    for problem in [decode.clone(), bf16(&decode), Problem { layout: Layout::Bnsd, ..decode.clone() }] {
        all.push(Call::new(problem.clone()).incremental("IncreFlashAttention", 1));
        all.push(Call::new(problem).incremental("IncreFlashAttentionV4", 4));
    }
    all.push(Call { pages: Some(PAGES), ..Call::new(decode) }.incremental("IncreFlashAttentionV4", 4));
    all
}
