//! Latent attention: what stands before it in one operator, and attention to rows that are keys and values at once.

use super::reference::Layout;
use crate::array::{Array, DType};
use crate::case::{Arg, Case, Fill, Spec, View};
use DType::*;

/// The widths that the pages fix: Hcq, Hckv, D, Dr; and the edge of a block of a weight.
const QUERY_LATENT: usize = 1536;
const LATENT: usize = 512;
const HEAD: usize = 128;
const ROTATED: usize = 64;
const EDGE: usize = 16;
/// Blocks of the cache and places of a block.
const CACHE: [usize; 2] = [3, 16];
const PLACES: [usize; 2] = [37, 4];
const EPS: [f64; 2] = [1e-5, 1e-6];

pub fn cases() -> Vec<Case> {
    let mut all = vec![
        Prolog { row: "MlaProlog", hidden: 7168, heads: 2, by_sequence: false, scales: [1.0; 2] }.case(),
        Prolog { row: "MlaPrologV2WeightNz", hidden: 7168, heads: 1, by_sequence: true, scales: [1.0; 2] }.case(),
        Prolog { row: "MlaPrologV3WeightNz", hidden: 6144, heads: 2, by_sequence: true, scales: [1.5, 0.75] }.case(),
    ];
    for (row, later, zeros) in [
        ("FusedInferAttentionScoreV3", 1, 2),
        ("FusedInferAttentionScoreV4", 3, 3),
        ("FusedInferAttentionScoreV5", 5, 4),
    ] {
        let newest = zeros == 4;
        for (layout, masked) in [
            (Layout::Bsnd, false),
            (Layout::Bnsd, false),
            (Layout::Bsh, false),
            (Layout::Bsnd, true),
            (Layout::Bsh, true),
        ] {
            if !masked || newest {
                all.push(Scores { row, later, zeros, layout, masked }.case());
            }
        }
    }
    all
}

/// A call with two tokens, one of each of two sequences or both of one batch of tokens.
#[derive(Clone, Copy)]
struct Prolog {
    row: &'static str,
    hidden: usize,
    heads: usize,
    by_sequence: bool,
    scales: [f64; 2],
}

fn numbers(shape: impl Into<Vec<usize>>, limit: f64) -> Spec {
    Spec::new(BF16, shape).fill(Fill::Uniform(-limit, limit))
}

/// A weight `[k, n]` in blocks, whose products with numbers of variance 1 have about that as well.
fn blocks(k: usize, n: usize) -> Arg {
    Arg::In(numbers([n / EDGE, k / EDGE, EDGE, EDGE], (3.0 / k as f64).sqrt()).view(View::Fractal))
}

/// A row times the weight whose blocks are `weight`.
fn times(row: &[f64], weight: &Array) -> Vec<f64> {
    let deep = row.len() / EDGE;
    let mut out = vec![0.0; weight.shape[0] * EDGE];
    for (at, block) in weight.data.chunks_exact(EDGE * EDGE).enumerate() {
        let (n, k) = (at / deep * EDGE, at % deep * EDGE);
        for (i, x) in row[k..][..EDGE].iter().enumerate() {
            for j in 0..EDGE {
                out[n + j] += x * block[i * EDGE + j];
            }
        }
    }
    out
}

fn normed(row: &[f64], gamma: &Array, eps: f64, scale: f64) -> Vec<f64> {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    row.iter().zip(&gamma.data).map(|(x, gamma)| scale * gamma * x / (mean + eps).sqrt()).collect()
}

/// Pairs of neighbours turned; the first of each pair come first.
fn turned(row: &[f64], sin: &[f64], cos: &[f64]) -> Vec<f64> {
    let half = row.len() / 2;
    let first = (0..half).map(|i| row[2 * i] * cos[i] - row[2 * i + 1] * sin[i]);
    let second = (0..half).map(|i| row[2 * i + 1] * cos[half + i] + row[2 * i] * sin[half + i]);
    first.chain(second).collect()
}

impl Prolog {
    fn case(self) -> Case {
        let tokens: Vec<usize> = if self.by_sequence { vec![2, 1] } else { vec![2] };
        let of_tokens = |last: &[usize]| [&tokens[..], last].concat();
        let table = || Arg::In(numbers(of_tokens(&[ROTATED]), 1.0));
        let gamma = |width: usize| Arg::In(Spec::new(BF16, [width]).fill(Fill::Uniform(0.5, 1.5)));
        let cache = |width: usize| Arg::Ref(numbers([CACHE[0], CACHE[1], 1, width], 2.0));
        let places = PLACES.map(|place| place as f64).to_vec();
        let index = Arg::In(Spec::new(I64, tokens.clone()).fill(Fill::Values(places)));
        let mut args = vec![
            Arg::In(numbers(of_tokens(&[self.hidden]), 1.7)),
            blocks(self.hidden, QUERY_LATENT),
            blocks(QUERY_LATENT, self.heads * (HEAD + ROTATED)),
            Arg::In(numbers([self.heads, HEAD, LATENT], (3.0 / HEAD as f64).sqrt())),
            blocks(self.hidden, LATENT + ROTATED),
            gamma(QUERY_LATENT),
            gamma(LATENT),
            table(),
            table(),
        ];
        let third = self.row == "MlaPrologV3WeightNz";
        let (caches, nulls) = ([cache(LATENT), cache(ROTATED)], if third { 9 } else { 7 });
        if third {
            args.extend(caches.into_iter().chain([index]));
        } else {
            args.extend([index].into_iter().chain(caches));
        }
        args.extend(vec![Arg::Null; nulls]);
        args.extend([Arg::Float(EPS[0]), Arg::Float(EPS[1]), Arg::Str("PA_BSND")]);
        if third {
            args.extend([0, 0, 0, 0, 0, 128].map(Arg::Int));
            args.extend(self.scales.map(Arg::Float));
        }
        args.extend([LATENT, ROTATED].map(|width| Arg::Out(BF16, of_tokens(&[self.heads, width]))));
        match self.row {
            "MlaProlog" => {}
            // Has to be there, and is not written.
            "MlaPrologV2WeightNz" => args.push(Arg::Ref(Spec::new(F32, [1]))),
            _ => args.extend(vec![Arg::Null; 3]),
        }
        let case = Case::new(self.row, args, move |x| self.answer(x));
        // The products and norms in between are rounded to the type: half a unit of one number in 256, of each of some hundreds
        // that are added up to about 1, which is at most two units of the sum's eight bits.
        Case { label: format!("{} heads, {} tokens", self.heads, if self.by_sequence { "2x1" } else { "2" }), ..case }
            .within(2.5, 1.0)
    }

    fn answer(self, x: &[Array]) -> Vec<Array> {
        let [tokens, down_query, up_query, up_key, down_key, cq, ckv, sin, cos, ..] = x else { panic!("nine inputs") };
        let (first, second) = if self.row == "MlaPrologV3WeightNz" { (9, 10) } else { (10, 11) };
        let (mut cache, mut rotated_cache) = (x[first].clone(), x[second].clone());
        let (mut queries, mut rotated) = (Vec::new(), Vec::new());
        for (t, row) in tokens.data.chunks(self.hidden).enumerate() {
            let table = |table: &Array| table.data[t * ROTATED..][..ROTATED].to_vec();
            let (sin, cos) = (table(sin), table(cos));
            let latent = normed(&times(row, down_query), cq, EPS[0], self.scales[0]);
            for (n, head) in times(&latent, up_query).chunks(HEAD + ROTATED).enumerate() {
                let up = &up_key.data[n * HEAD * LATENT..][..HEAD * LATENT];
                queries.extend((0..LATENT).map(|l| (0..HEAD).map(|d| head[d] * up[d * LATENT + l]).sum::<f64>()));
                rotated.extend(turned(&head[HEAD..], &sin, &cos));
            }
            let key = times(row, down_key);
            let row = normed(&key[..LATENT], ckv, EPS[1], self.scales[1]);
            cache.data[PLACES[t] * LATENT..][..LATENT].copy_from_slice(&row);
            let key = turned(&key[LATENT..], &sin, &cos);
            rotated_cache.data[PLACES[t] * ROTATED..][..ROTATED].copy_from_slice(&key);
        }
        let shape = |width| [&tokens.shape[..tokens.shape.len() - 1], &[self.heads, width]].concat();
        let (queries, rotated) = (Array::new(BF16, shape(LATENT), queries), Array::new(BF16, shape(ROTATED), rotated));
        let mut outs = vec![cache, rotated_cache, queries, rotated];
        if self.row == "MlaPrologV2WeightNz" {
            outs.extend(x.last().cloned());
        }
        outs
    }
}

/// Queries of two sequences, one each, with 20 and 13 keys of a room for 24.
#[derive(Clone, Copy)]
struct Scores {
    row: &'static str,
    later: usize,
    zeros: usize,
    layout: Layout,
    masked: bool,
}

const HEADS: usize = 4;
const ROOM: usize = 24;
const KEYS: [usize; 2] = [20, 13];
const SCALE: f64 = 0.05;

/// Whether a mask of the call's own hides a key, which no length does.
fn hidden(sequence: usize, key: usize) -> bool {
    key % 7 == 3 + sequence || key >= KEYS[sequence]
}

impl Scores {
    fn case(self) -> Case {
        let query = |width| Arg::In(numbers(self.layout.shape(2, HEADS, 1, width), 1.0));
        let keys = |width, limit| numbers(self.layout.shape(2, 1, ROOM, width), limit);
        let mask = (0..2 * ROOM).map(|i| hidden(i / ROOM, i % ROOM) as u8 as f64).collect();
        let mask = Arg::In(Spec::new(U8, [2, 1, 1, ROOM]).fill(Fill::Values(mask)));
        let lengths = Arg::Ints(KEYS.map(|keys| keys as i64).to_vec());
        let (mask, lengths) = if self.masked { (mask, Arg::Null) } else { (Arg::Null, lengths) };
        // The latent keys are the values: what is passed for these has the shape and is not read.
        let (keys, values, turned) = (keys(LATENT, 2.0), keys(LATENT, 9.0), keys(ROTATED, 2.0));
        let mut args = vec![
            query(LATENT),
            Arg::InList(vec![keys]),
            Arg::InList(vec![values]),
            Arg::Null,
            mask,
            Arg::Null,
            lengths,
        ];
        args.extend(vec![Arg::Null; 17]);
        args.extend([query(ROTATED), Arg::In(turned)]);
        args.extend(vec![Arg::Null; self.later]);
        let all = i32::MAX as i64;
        args.extend([
            Arg::Int(HEADS as i64),
            Arg::Float(SCALE),
            Arg::Int(all),
            Arg::Int(all),
            Arg::Str(self.layout.name()),
        ]);
        args.extend([1, 0, 0, 0, 0].map(Arg::Int));
        args.push(Arg::Bool(false));
        args.extend(vec![Arg::Int(0); self.zeros]);
        args.extend([Arg::Out(BF16, self.layout.shape(2, HEADS, 1, LATENT)), Arg::Null]);
        let case = Case::new(self.row, args, move |x| vec![self.answer(x)]);
        let label = format!("latent {}, {}", self.layout.name(), if self.masked { "masked" } else { "by lengths" });
        // The weights, whose sum is 1, are rounded to the type before they multiply numbers below 2, and so is the result.
        Case { label, ..case }.within(2.0, 1.0)
    }

    fn answer(self, x: &[Array]) -> Array {
        let (query, rows) = (&x[0], &x[1]);
        let [.., turned_query, turned] = x else { panic!("rotated parts come last") };
        let shape = self.layout.shape(2, HEADS, 1, LATENT);
        let mut out = vec![0.0; shape.iter().product()];
        let at = |tensor: &Array, heads, place| tensor.data[self.layout.place(&tensor.shape, heads, place)];
        for b in 0..2 {
            let seen: Vec<usize> =
                (0..ROOM).filter(|&key| if self.masked { !hidden(b, key) } else { key < KEYS[b] }).collect();
            for h in 0..HEADS {
                let score = |key: usize| {
                    let own = (0..LATENT).map(|e| at(query, HEADS, [b, h, 0, e]) * at(rows, 1, [b, 0, key, e]));
                    let part = |e| at(turned_query, HEADS, [b, h, 0, e]) * at(turned, 1, [b, 0, key, e]);
                    SCALE * (own.sum::<f64>() + (0..ROTATED).map(part).sum::<f64>())
                };
                let weights: Vec<f64> = seen.iter().map(|&key| score(key).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for e in 0..LATENT {
                    let mixed = seen.iter().zip(&weights).map(|(&key, w)| w / sum * at(rows, 1, [b, 0, key, e]));
                    out[self.layout.place(&shape, HEADS, [b, h, 0, e])] = mixed.sum();
                }
            }
        }
        Array::new(BF16, shape, out)
    }
}
