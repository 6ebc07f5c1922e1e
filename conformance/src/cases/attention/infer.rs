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

/// How keys and values are passed.
#[derive(Clone, Copy)]
enum Store {
    /// One tensor with room for all sequences alike.
    Whole,
    /// A tensor each sequence.
    List,
    Pages(Pages),
}

/// A call: the problem, whether it asks for the logarithm of the sum, and how its keys are passed.
#[derive(Clone)]
struct Call {
    problem: Problem,
    lse: bool,
    store: Store,
}

fn nulls(count: usize) -> Vec<Arg> {
    vec![Arg::Null; count]
}

fn ints(lengths: impl IntoIterator<Item = usize>) -> Arg {
    Arg::Ints(lengths.into_iter().map(|n| n as i64).collect())
}

impl Call {
    fn new(problem: Problem) -> Self {
        Self { problem, lse: false, store: Store::Whole }
    }

    /// Scores of numbers below 1 stay small, so that `f32` statistics are good to a few of their own units.
    fn query(&self) -> Arg {
        Arg::In(Spec::new(self.problem.dtype, self.problem.query_shape()).fill(Fill::Uniform(-1.0, 1.0)))
    }

    /// The tensors of the keys, or of the values, with numbers below `limit`.
    fn cache(&self, limit: f64) -> Vec<Spec> {
        let problem = &self.problem;
        let shapes = match self.store {
            Store::Whole => vec![problem.key_shape()],
            Store::List => {
                let shape = |&(_, keys): &(usize, usize)| problem.layout.shape(1, problem.key_heads, keys, problem.dim);
                problem.lengths.iter().map(shape).collect()
            }
            Store::Pages(pages) => vec![vec![pages.blocks, pages.size, problem.key_heads * problem.dim]],
        };
        let spec = |shape| Spec::new(problem.dtype, shape).fill(Fill::Uniform(-limit, limit));
        shapes.into_iter().map(spec).collect()
    }

    fn keys(&self) -> Vec<Spec> {
        self.cache(1.0)
    }

    /// Values are larger, so that one key too many or too few shows in the result.
    fn values(&self) -> Vec<Spec> {
        self.cache(4.0)
    }

    fn block_size(&self) -> i64 {
        if let Store::Pages(pages) = self.store { pages.size as i64 } else { 0 }
    }

    fn mask(&self) -> Arg {
        self.problem.mask().map_or(Arg::Null, Arg::In)
    }

    fn table(&self) -> Arg {
        let Store::Pages(pages) = self.store else { return Arg::Null };
        let ids = pages.table.iter().flatten().map(|&block| block as f64).collect();
        Arg::In(Spec::new(I32, [2, 2]).fill(Fill::Values(ids)))
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
            Arg::InList(self.keys()),
            Arg::InList(self.values()),
            Arg::Null,
            self.mask(),
            queries,
            keys,
        ];
        args.extend(nulls(7));
        args.push(self.table());
        args.extend(nulls(2 + optional));
        args.extend([self.heads(), self.tokens(), self.layout()].concat());
        // innerPrecise 1 is the default, high performance.
        args.extend([self.problem.mode(), 1, self.block_size(), 0].map(Arg::Int));
        args.push(Arg::Bool(self.lse));
        args.extend(vec![Arg::Int(0); zeros]);
        args.push(self.out());
        args.push(if self.lse { Arg::Out(F32, self.problem.statistic_shape(1)) } else { Arg::Null });
        self.case(row, args)
    }

    fn prompt(self, row: &'static str, version: usize) -> Case {
        let (queries, keys) = self.lengths();
        let mut args = vec![self.query()];
        args.extend(self.keys().into_iter().chain(self.values()).map(Arg::In));
        args.extend([Arg::Null, self.mask(), queries]);
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
            Arg::InList(self.keys()),
            Arg::InList(self.values()),
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
            args.extend([self.block_size(), 1].map(Arg::Int));
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
        let tensors = self.problem.layout == Layout::Bnsd && matches!(self.store, Store::Whole) && full;
        if tensors && matches!(self.problem.sees, Sees::All | Sees::Masked) {
            case.tensors(through(self.problem))
        } else {
            case
        }
    }

    fn answer(&self, x: &[Array]) -> Vec<Array> {
        let problem = &self.problem;
        let count = if let Store::List = self.store { problem.lengths.len() } else { 1 };
        let (keys, values) = (&x[1..1 + count], &x[1 + count..1 + 2 * count]);
        let mask = problem.mask().is_some().then(|| &x[1 + 2 * count]);
        let group = problem.heads / problem.key_heads;
        let read = |cache: &[Array], b: usize, h: usize, j: usize, e: usize| match self.store {
            Store::Whole => problem.reader(&cache[0])(b, h, j, e),
            Store::List => {
                cache[b].data[problem.layout.place(&cache[b].shape, problem.key_heads, [0, h / group, j, e])]
            }
            Store::Pages(pages) => {
                let block = pages.table[b][j / pages.size];
                cache[0].at(&[block, j % pages.size, h / group * problem.dim + e])
            }
        };
        let forward =
            problem.forward(&x[0], &|b, h, j, e| read(keys, b, h, j, e), &|b, h, j, e| read(values, b, h, j, e), mask);
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
        all.push(Call { store: Store::Pages(PAGES), ..Call::new(bf16(&decode)) }.fused(version));
        all.push(Call { store: Store::List, ..Call::new(decode.clone()) }.fused(version));
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
    all.push(Call { store: Store::List, ..Call::new(decode.clone()) }.incremental("IncreFlashAttention", 1));
    all.push(Call { store: Store::Pages(PAGES), ..Call::new(decode) }.incremental("IncreFlashAttentionV4", 4));
    all
}
