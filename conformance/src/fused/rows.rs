//! The norm of a sum, and what stands between a projection and attention: heads normed and turned, keys and values cached.

use super::{Case, Operator, uniform, whole};
use crate::array::{Array, DType};
use crate::case::{Fill, Spec};
use candle_ascend::Tensor;
use candle_ascend::ops::{self, Turn};

static NORM: Operator = Operator { name: "add_rms_norm", aclnn: &["AddRmsNorm"], ours: &["add_rms_norm"] };
static TURN: Operator = Operator { name: "turn_and_write_at", aclnn: &[], ours: &["rotary_cache"] };

const EPS: f64 = 1e-6;

pub fn cases(dtype: DType) -> Vec<Case> {
    let shapes: [&[usize]; 5] = [&[1, 16], &[100, 128], &[43, 72], &[3, 2000], &[2, 3, 17]];
    let mut all: Vec<Case> = shapes.into_iter().map(|shape| add_rms_norm(dtype, shape)).collect();
    for heads in HEADS {
        all.extend([true, false].map(|normed| heads.case(dtype, normed)));
    }
    all
}

/// `row` by the reciprocal root of its mean square and by `weight`.
fn normed(row: &[f64], weight: &[f64]) -> Vec<f64> {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    row.iter().zip(weight).map(|(x, weight)| x / (mean + EPS).sqrt() * weight).collect()
}

fn add_rms_norm(dtype: DType, shape: &[usize]) -> Case {
    let width = shape[shape.len() - 1];
    let inputs = vec![uniform(dtype, shape, 3.0), uniform(dtype, shape, 3.0), uniform(dtype, &[width], 2.0)];
    let call = |x: &[Tensor]| {
        let (y, sum) = ops::add_rms_norm(&x[0], &x[1], &x[2], EPS)?;
        Ok(vec![y, sum])
    };
    let loops = move |x: &[Array]| {
        // The stream is what later layers see: rounded before it is normed.
        let sum = x[0].zip(&x[1], |a, b| a + b).rounded();
        let y = sum.data.chunks(width).flat_map(|row| normed(row, &x[2].data)).collect();
        vec![Array::new(dtype, sum.shape.clone(), y), sum]
    };
    let label = format!("{shape:?}");
    // Of the norm: an operator may see the sum before its rounding, and round before the weight multiplies. Sums are those
    // of F32, rounded.
    Case::new((&NORM, dtype), label, inputs, call, loops).within(&[(4.0, 0.5), (1.0, 1e-3)])
}

/// Sizes of a step: tokens of each sequence, heads of queries and of keys, and a head's width.
#[derive(Clone, Copy, Debug)]
struct Heads {
    batch: usize,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    width: usize,
}

const HEADS: [Heads; 3] = [
    Heads { batch: 1, tokens: 1, heads: 8, kv_heads: 2, width: 128 },
    Heads { batch: 2, tokens: 3, heads: 2, kv_heads: 1, width: 64 },
    Heads { batch: 3, tokens: 1, heads: 5, kv_heads: 5, width: 48 },
];

const CAPACITY: usize = 16;

impl Heads {
    fn positions(&self) -> Vec<usize> {
        (0..self.batch).map(|b| 4 * b + 3).collect()
    }

    fn cache(&self) -> [usize; 5] {
        [2, self.batch, self.kv_heads, CAPACITY, self.width]
    }

    /// The second half of a table is like the first, as rotary tables are.
    fn table(&self, dtype: DType, of_angle: fn(f64) -> f64) -> Spec {
        let half = self.width / 2;
        let angle = |at: usize| (3 + at / self.width) as f64 * 10f64.powf(-4.0 * (at % half) as f64 / half as f64);
        let values = (0..self.tokens * self.width).map(|at| of_angle(angle(at))).collect();
        Spec::new(dtype, [self.tokens, self.width]).fill(Fill::Values(values))
    }

    fn case(self, dtype: DType, with_norms: bool) -> Case {
        let Self { batch, tokens, heads, kv_heads, width } = self;
        let inputs = vec![
            uniform(dtype, &[batch, tokens, heads + 2 * kv_heads, width], 2.0),
            self.table(dtype, f64::cos),
            self.table(dtype, f64::sin),
            uniform(dtype, &[width], 2.0),
            uniform(dtype, &[width], 2.0),
            whole(DType::I64, &[batch], self.positions()),
            uniform(dtype, &self.cache(), 1.0),
        ];
        let call = move |x: &[Tensor]| {
            let merged = x[0].transpose(1, 2)?;
            let part = |first, count| merged.narrow(1, first, count);
            let parts = [part(0, heads)?, part(heads, kv_heads)?, part(heads + kv_heads, kv_heads)?];
            let norms = with_norms.then_some((&x[3], &x[4], EPS));
            let turn = Turn { norms, cos: &x[1], sin: &x[2] };
            // Without copies of what is written, which would be launches too.
            let queries = ops::turn_and_write_at(parts, turn, &x[6], &x[5])?;
            Ok(vec![queries, x[6].clone()])
        };
        let norms = if with_norms { "normed" } else { "not normed" };
        let label = format!("{batch} of {tokens}, {heads} heads over {kv_heads} of {width}, {norms}");
        let case = Case::new((&TURN, dtype), label, inputs, call, move |x| self.turned(x, with_norms));
        // A head that is normed may be rounded before it is turned, and so may both products; they lie below 8.
        case.within(&[(4.0, 4.0), (4.0, 4.0)])
    }

    /// The queries `[B, H, T, D]`, and the caches `[2, B, N, S, D]` with keys and values at their positions.
    fn turned(self, x: &[Array], with_norms: bool) -> Vec<Array> {
        let Self { batch, tokens, heads, kv_heads, width } = self;
        let (all, positions) = (heads + 2 * kv_heads, self.positions());
        let mut queries = vec![0.0; batch * heads * tokens * width];
        // What was there before stays where nothing is written.
        let mut caches = x[6].data.clone();
        for (row, head) in x[0].data.chunks(width).enumerate() {
            let (b, t, n) = (row / all / tokens, row / all % tokens, row % all);
            let turn = |weight: &Array| {
                let head = if with_norms { normed(head, &weight.data) } else { head.to_vec() };
                let half = width / 2;
                let (cos, sin) = (&x[1].data[t * width..][..half], &x[2].data[t * width..][..half]);
                let pair = |i: usize| (head[i], head[i + half]);
                let first = (0..half).map(|i| pair(i).0 * cos[i] - pair(i).1 * sin[i]);
                first.chain((0..half).map(|i| pair(i).1 * cos[i] + pair(i).0 * sin[i])).collect::<Vec<_>>()
            };
            let place =
                |which: usize, n: usize| (((which * batch + b) * kv_heads + n) * CAPACITY + positions[b] + t) * width;
            if n < heads {
                queries[((b * heads + n) * tokens + t) * width..][..width].copy_from_slice(&turn(&x[3]));
            } else if n < heads + kv_heads {
                caches[place(0, n - heads)..][..width].copy_from_slice(&turn(&x[4]));
            } else {
                caches[place(1, n - heads - kv_heads)..][..width].copy_from_slice(head);
            }
        }
        let dtype = x[0].dtype;
        vec![Array::new(dtype, [batch, heads, tokens, width], queries), Array::new(dtype, self.cache(), caches)]
    }
}
