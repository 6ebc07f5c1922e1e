//! Attention by its definition, in `f64`: for each query of each head the scores of all keys, their softmax, and the
//! values that it weights. Layouts are index functions, so that every layout shares the loops.

use crate::array::{Array, DType};
use crate::case::{Fill, Spec};

/// Order of batch (B), tokens (S, or T where the sequences lie one after the other), heads (N) and elements (D).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Bsh,
    Sbh,
    Bsnd,
    Bnsd,
    Tnd,
}

impl Layout {
    /// The operators' name of it.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Bsh => "BSH",
            Layout::Sbh => "SBH",
            Layout::Bsnd => "BSND",
            Layout::Bnsd => "BNSD",
            Layout::Tnd => "TND",
        }
    }

    /// Shape of a tensor of these sizes; packed sequences have a batch of 1.
    pub fn shape(self, b: usize, n: usize, s: usize, d: usize) -> Vec<usize> {
        match self {
            Layout::Bsh => vec![b, s, n * d],
            Layout::Sbh => vec![s, b, n * d],
            Layout::Bsnd => vec![b, s, n, d],
            Layout::Bnsd => vec![b, n, s, d],
            Layout::Tnd => vec![s, n, d],
        }
    }

    /// Flat place of an element of a tensor with `heads` heads, given its batch row, head, token and element.
    pub fn place(self, shape: &[usize], heads: usize, [b, h, t, e]: [usize; 4]) -> usize {
        match self {
            Layout::Bsh => (b * shape[1] + t) * shape[2] + h * (shape[2] / heads) + e,
            Layout::Sbh => (t * shape[1] + b) * shape[2] + h * (shape[2] / heads) + e,
            Layout::Bsnd => ((b * shape[1] + t) * heads + h) * shape[3] + e,
            Layout::Bnsd => ((b * heads + h) * shape[2] + t) * shape[3] + e,
            Layout::Tnd => (t * heads + h) * shape[2] + e,
        }
    }
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    All,
    /// Those that a mask of the call's own leaves, `[B, 1, S, T]`.
    Masked,
    /// Those up to its own place, counted from the first query and the first key.
    Causal,
    /// Those up to its own place, counted from the last query and the last key.
    CausalFromEnd,
    /// Those at most so many before and after its own place, counted from the last query and the last key.
    Band(i64, i64),
}

/// One attention call: what is computed, whatever the operator's version.
#[derive(Clone, Debug)]
pub struct Problem {
    pub dtype: DType,
    pub layout: Layout,
    pub heads: usize,
    pub key_heads: usize,
    pub dim: usize,
    /// Queries and keys of each sequence. All have as many queries, except in TND.
    pub lengths: Vec<(usize, usize)>,
    /// Keys that a batch row has room for, of which the first are in use.
    pub room: usize,
    pub sees: Sees,
}

/// Weighted values, and of each query's scores the largest and the sum of exponentials, `[B, N, S]` or `[T, N]`.
pub struct Forward {
    pub out: Array,
    pub max: Array,
    pub sum: Array,
}

impl Problem {
    pub fn scale(&self) -> f64 {
        1.0 / (self.dim as f64).sqrt()
    }

    pub fn packed(&self) -> bool {
        self.layout == Layout::Tnd
    }

    /// Batch rows and queries of the query tensor.
    fn batch_and_queries(&self) -> (usize, usize) {
        match self.packed() {
            true => (1, self.lengths.iter().map(|l| l.0).sum()),
            false => (self.lengths.len(), self.lengths[0].0),
        }
    }

    pub fn query_shape(&self) -> Vec<usize> {
        let (batch, queries) = self.batch_and_queries();
        self.layout.shape(batch, self.heads, queries, self.dim)
    }

    pub fn key_shape(&self) -> Vec<usize> {
        let keys = if self.packed() { self.lengths.iter().map(|l| l.1).sum() } else { self.room };
        self.layout.shape(self.batch_and_queries().0, self.key_heads, keys, self.dim)
    }

    /// Shape of a number for each query and head, repeated `times`.
    pub fn statistic_shape(&self, times: usize) -> Vec<usize> {
        let (batch, queries) = self.batch_and_queries();
        if self.packed() { vec![queries, self.heads, times] } else { vec![batch, self.heads, queries, times] }
    }

    /// Where the operators are told the ends of packed sequences: (queries, keys).
    pub fn ends(&self) -> (Vec<i64>, Vec<i64>) {
        let running = |of: fn(&(usize, usize)) -> usize| {
            let mut end = 0;
            self.lengths
                .iter()
                .map(|l| {
                    end += of(l) as i64;
                    end
                })
                .collect()
        };
        (running(|l| l.0), running(|l| l.1))
    }

    /// Number of `sparseMode`.
    pub fn mode(&self) -> i64 {
        match self.sees {
            Sees::All | Sees::Masked => 0,
            Sees::Causal => 2,
            Sees::CausalFromEnd => 3,
            Sees::Band(..) => 4,
        }
    }

    /// `preTokens` and `nextTokens`; the largest `int32`, which is the interface's default, where they say nothing.
    pub fn tokens(&self) -> (i64, i64) {
        if let Sees::Band(before, after) = self.sees { (before, after) } else { (i32::MAX as i64, i32::MAX as i64) }
    }

    /// The mask that the call takes: its own, or the compressed one of the causal modes, 2048 × 2048.
    pub fn mask(&self) -> Option<Spec> {
        match self.sees {
            Sees::All => None,
            Sees::Masked => {
                let (b, s) = self.batch_and_queries();
                // The first key stays visible, so that every query sees something.
                let hidden = |i: usize| !i.is_multiple_of(self.room) && (i * 7 + i / self.room) % 5 < 2;
                let values = (0..b * s * self.room).map(|i| hidden(i) as u8 as f64).collect();
                Some(Spec::new(DType::U8, [b, 1, s, self.room]).fill(Fill::Values(values)))
            }
            _ => Some(Spec::new(DType::U8, [2048, 2048]).fill(Fill::AboveDiagonal)),
        }
    }

    fn visible(&self, mask: Option<&Array>, (b, i, j): (usize, usize, usize)) -> bool {
        let (queries, keys) = self.lengths[b];
        let (i, j) = (i as i64, j as i64);
        let from_end = i + keys as i64 - queries as i64;
        match self.sees {
            Sees::All => true,
            Sees::Masked => mask.is_some_and(|mask| mask.at(&[b, 0, i as usize, j as usize]) == 0.0),
            Sees::Causal => j <= i,
            Sees::CausalFromEnd => j <= from_end,
            Sees::Band(before, after) => from_end - before <= j && j <= from_end + after,
        }
    }

    /// Calls `visit` with each query's (sequence, head, index in its sequence, token in the tensor).
    pub fn each_query(&self, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let mut first = 0;
        for (b, &(queries, _)) in self.lengths.iter().enumerate() {
            for h in 0..self.heads {
                (0..queries).for_each(|i| visit(b, h, i, first + i));
            }
            first += if self.packed() { queries } else { 0 };
        }
    }

    /// Token in the key tensor of a sequence's first key.
    fn first_key(&self, b: usize) -> usize {
        if self.packed() { self.lengths[..b].iter().map(|l| l.1).sum() } else { 0 }
    }

    /// An element of the keys or values as (sequence, query head, key, element); dense tensors in the call's layout.
    pub fn reader<'a>(&'a self, keys: &'a Array) -> impl Fn(usize, usize, usize, usize) -> f64 + 'a {
        move |b, h, j, e| keys.data[self.key_place(&keys.shape, b, h, j, e)]
    }

    fn key_place(&self, shape: &[usize], b: usize, h: usize, j: usize, e: usize) -> usize {
        let head = h / (self.heads / self.key_heads);
        self.layout.place(shape, self.key_heads, [b, head, self.first_key(b) + j, e])
    }

    fn query_place(&self, shape: &[usize], b: usize, h: usize, token: usize, e: usize) -> usize {
        self.layout.place(shape, self.heads, [b, h, token, e])
    }

    /// Scaled scores of one query; none where the key is hidden.
    fn scores(
        &self,
        q: &Array,
        key: &dyn Fn(usize, usize, usize, usize) -> f64,
        mask: Option<&Array>,
        (b, h, i, token): (usize, usize, usize, usize),
    ) -> Vec<Option<f64>> {
        let score = |j: usize| {
            let dot: f64 =
                (0..self.dim).map(|e| q.data[self.query_place(&q.shape, b, h, token, e)] * key(b, h, j, e)).sum();
            self.visible(mask, (b, i, j)).then_some(dot * self.scale())
        };
        (0..self.lengths[b].1).map(score).collect()
    }

    /// The weighted values, with what the training operators keep.
    pub fn forward(
        &self,
        q: &Array,
        key: &dyn Fn(usize, usize, usize, usize) -> f64,
        value: &dyn Fn(usize, usize, usize, usize) -> f64,
        mask: Option<&Array>,
    ) -> Forward {
        let statistic = self.statistic_shape(1);
        let count = statistic.iter().product();
        let mut out = q.map(|_| 0.0);
        let (mut max, mut sum) = (vec![0.0; count], vec![0.0; count]);
        self.each_query(|b, h, i, token| {
            let (weights, top, total) = softmax(&self.scores(q, key, mask, (b, h, i, token)));
            for e in 0..self.dim {
                let at = self.query_place(&q.shape, b, h, token, e);
                out.data[at] = weights.iter().enumerate().map(|(j, w)| w * value(b, h, j, e)).sum();
            }
            let at = if self.packed() { token * self.heads + h } else { (b * self.heads + h) * self.lengths[0].0 + i };
            (max[at], sum[at]) = (top, total);
        });
        let f32s = |data| Array::new(DType::F32, statistic.clone(), data);
        Forward { out, max: f32s(max), sum: f32s(sum) }
    }

    /// Gradients of query, key and value for the gradient `dy` of the output.
    pub fn backward(&self, q: &Array, k: &Array, v: &Array, dy: &Array, mask: Option<&Array>) -> [Array; 3] {
        let (key, value) = (self.reader(k), self.reader(v));
        let (mut dq, mut dk, mut dv) = (q.map(|_| 0.0), k.map(|_| 0.0), v.map(|_| 0.0));
        self.each_query(|b, h, i, token| {
            let (weights, _, _) = softmax(&self.scores(q, &key, mask, (b, h, i, token)));
            let at = |e| self.query_place(&q.shape, b, h, token, e);
            let slope = |j| (0..self.dim).map(|e| dy.data[at(e)] * value(b, h, j, e)).sum::<f64>();
            let slopes: Vec<f64> = (0..weights.len()).map(slope).collect();
            let mean: f64 = weights.iter().zip(&slopes).map(|(w, s)| w * s).sum();
            for (j, weight) in weights.iter().enumerate() {
                let ds = weight * (slopes[j] - mean) * self.scale();
                for e in 0..self.dim {
                    let to = self.key_place(&k.shape, b, h, j, e);
                    dq.data[at(e)] += ds * key(b, h, j, e);
                    dk.data[to] += ds * q.data[at(e)];
                    dv.data[to] += weight * dy.data[at(e)];
                }
            }
        });
        [dq, dk, dv]
    }
}

/// Weights of the scores, the largest of them and the sum of exponentials; hidden keys weigh nothing.
fn softmax(scores: &[Option<f64>]) -> (Vec<f64>, f64, f64) {
    let top = scores.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = scores.iter().map(|s| s.map_or(0.0, |s| (s - top).exp())).collect();
    let total: f64 = e.iter().sum();
    (e.iter().map(|x| x / total).collect(), top, total)
}
