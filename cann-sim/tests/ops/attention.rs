use crate::arguments::*;
use crate::support::*;

/// One head's queries, keys and values and what its queries may see: `softmax(scale·q·kᵀ)·v`, and the logarithm of the
/// sum of exponentials; zero and infinity for a query that sees no key.
fn head(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    dim: usize,
    scale: f64,
    sees: impl Fn(usize, usize) -> bool,
) -> (Vec<f64>, Vec<f64>) {
    let keys = k.len() / dim;
    let (mut out, mut lse) = (Vec::new(), Vec::new());
    for (i, q) in q.chunks(dim).enumerate() {
        let score = |j: usize| scale * (0..dim).map(|x| q[x] * k[j * dim + x]).sum::<f64>();
        let seen: Vec<usize> = (0..keys).filter(|&j| sees(i, j)).collect();
        let sum: f64 = seen.iter().map(|&j| score(j).exp()).sum();
        lse.push(if seen.is_empty() { f64::INFINITY } else { sum.ln() });
        out.extend((0..dim).map(|x| seen.iter().map(|&j| score(j).exp() / sum * v[j * dim + x]).sum::<f64>()));
    }
    (out, lse)
}

/// Sizes of a dense case, everything in layout BNSD.
#[derive(Clone, Copy)]
struct Case {
    batch: usize,
    heads: usize,
    key_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
}

impl Case {
    fn scale(&self) -> f64 {
        1.0 / (self.dim as f64).sqrt()
    }

    /// All heads, from BNSD values; `sees(batch, query, key)`.
    fn wanted(
        &self,
        q: &[f64],
        k: &[f64],
        v: &[f64],
        sees: impl Fn(usize, usize, usize) -> bool,
    ) -> (Vec<f64>, Vec<f64>) {
        let (qs, ks) = (self.queries * self.dim, self.keys * self.dim);
        let one = |i: usize| {
            let (batch, query_head) = (i / self.heads, i % self.heads);
            let key = (batch * self.key_heads + query_head / (self.heads / self.key_heads)) * ks;
            head(&q[i * qs..][..qs], &k[key..][..ks], &v[key..][..ks], self.dim, self.scale(), |a, b| sees(batch, a, b))
        };
        let (out, lse): (Vec<_>, Vec<_>) = (0..self.batch * self.heads).map(one).unzip();
        (out.concat(), lse.concat())
    }

    /// BNSD values of the queries (or outputs) in another layout.
    fn laid_out(&self, values: &[f64], layout: &str, heads: usize, tokens: usize) -> (Vec<usize>, Vec<f64>) {
        let (b, d) = (self.batch, self.dim);
        let at = |batch: usize, head: usize, token: usize, x: usize| {
            values[((batch * heads + head) * tokens + token) * d + x]
        };
        let bsnd = (0..b * tokens * heads * d)
            .map(|i| at(i / d / heads / tokens, i / d % heads, i / d / heads % tokens, i % d));
        let sbnd = (0..b * tokens * heads * d).map(|i| at(i / d / heads % b, i / d % heads, i / d / heads / b, i % d));
        match layout {
            "BNSD" => (vec![b, heads, tokens, d], values.to_vec()),
            "BSND" => (vec![b, tokens, heads, d], bsnd.collect()),
            "BSH" => (vec![b, tokens, heads * d], bsnd.collect()),
            "SBH" => (vec![tokens, b, heads * d], sbnd.collect()),
            other => panic!("{other}"),
        }
    }
}

/// One rounding of the result; the scores and weights stay in f32.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        F16 => 6e-4,
        BF16 => 4.5e-3,
        _ => 3e-6,
    }
}

const CASE: Case = Case { batch: 2, heads: 4, key_heads: 2, queries: 5, keys: 7, dim: 16 };

fn stored(dtype: DType, values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|value| rounded(dtype, value)).collect()
}

/// Values of a case as its type holds them.
fn operands(case: Case, dtype: DType) -> [Vec<f64>; 3] {
    let (q, k) =
        (case.batch * case.heads * case.queries * case.dim, case.batch * case.key_heads * case.keys * case.dim);
    [stored(dtype, noise(11, q)), stored(dtype, noise(12, k)), stored(dtype, noise(13, k))]
}

/// Runs version 2 on a case.
#[allow(clippy::too_many_arguments)]
fn infer(
    case: Case,
    dtype: DType,
    layout: &str,
    mask: Option<&Array>,
    lengths: (Option<&[i64]>, Option<&[i64]>),
    sparse: i64,
    bounds: (i64, i64),
) -> Result<(Vec<f64>, Vec<f64>), (i32, String)> {
    let [q, k, v] = operands(case, dtype);
    let place = |values: &[f64], heads, tokens| {
        let (shape, values) = case.laid_out(values, layout, heads, tokens);
        array(dtype, &shape, &values)
    };
    let (query, key, value) = (
        place(&q, case.heads, case.queries),
        place(&k, case.key_heads, case.keys),
        place(&v, case.key_heads, case.keys),
    );
    let (out, lse) = (
        output(dtype, &case.laid_out(&q, layout, case.heads, case.queries).0),
        output(F32, &[case.batch, case.heads, case.queries, 1]),
    );
    let (key, value, name) = (list(&[&key]), list(&[&value]), text(layout));
    let (ql, kl) = (lengths.0.map(ints), lengths.1.map(ints));
    let or_null =
        |array: &Option<Ints>| array.as_ref().map_or(std::ptr::null(), Arg::<*const acl_sys::aclIntArray>::arg);
    let mask = mask.map_or(std::ptr::null(), |mask| mask.handle.cast_const());
    run!(FusedInferAttentionScoreV2(
        &query,
        &key,
        &value,
        Nothing,
        Raw(mask),
        Raw(or_null(&ql)),
        Raw(or_null(&kl)),
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        case.heads as i64,
        case.scale(),
        bounds.0,
        bounds.1,
        &name,
        case.key_heads as i64,
        sparse,
        0i64,
        0i64,
        0i64,
        true,
        0i64,
        0i64,
        &out,
        &lse
    ))?;
    Ok((out.values(), lse.values()))
}

const FAR: (i64, i64) = (2147483647, 2147483647);

#[test]
fn layouts_types_and_groups() {
    for dtype in [F16, BF16] {
        for key_heads in [1, 2, 4] {
            let case = Case { key_heads, ..CASE };
            let [q, k, v] = operands(case, dtype);
            let (out, lse) = case.wanted(&q, &k, &v, |_, _, _| true);
            for layout in ["BSH", "BSND", "BNSD"] {
                let got = infer(case, dtype, layout, None, (None, None), 0, FAR).unwrap();
                close(&got.0, &case.laid_out(&out, layout, 4, 5).1, tolerance(dtype));
                close(&got.1, &lse, 1e-5);
            }
        }
    }
}

fn causal_mask() -> Array {
    array(Bool, &[2048, 2048], &(0..2048 * 2048).map(|i| (i % 2048 > i / 2048) as u8 as f64).collect::<Vec<_>>())
}

#[test]
fn causal_modes_align_left_or_right() {
    let mask = causal_mask();
    for (queries, keys) in [(5, 7), (7, 5), (70, 90)] {
        let case = Case { queries, keys, ..CASE };
        let [q, k, v] = operands(case, F16);
        let shift = keys as i64 - queries as i64;
        let sees = |mode: i64, i: i64, j: i64| match mode {
            2 => j <= i,
            3 => j <= i + shift,
            _ => j >= i + shift - 2 && j <= i + shift + 1,
        };
        for mode in 2..=4 {
            let (out, lse) = case.wanted(&q, &k, &v, |_, i, j| sees(mode, i as i64, j as i64));
            let got = infer(case, F16, "BNSD", Some(&mask), (None, None), mode, (2, 1)).unwrap();
            close(&got.0, &out, tolerance(F16));
            close(&got.1, &lse, 1e-5);
        }
    }
    refused(infer(CASE, F16, "BNSD", None, (None, None), 3, FAR).map(|_| ()), 161002, &["sparseMode 3", "attenMask"]);
    let small = array(Bool, &[5, 7], &[0.0; 35]);
    refused(infer(CASE, F16, "BNSD", Some(&small), (None, None), 2, FAR).map(|_| ()), 161002, &["[2048, 2048]"]);
}

#[test]
fn given_masks_and_fully_hidden_rows() {
    for shape in [&[5, 7][..], &[2, 5, 7], &[1, 1, 5, 7], &[2, 1, 5, 7]] {
        let count: usize = shape.iter().product();
        // Query 2 sees nothing: it answers zero, with an infinite lse.
        let hidden: Vec<f64> = (0..count).map(|i| (i / 7 % 5 == 2 || i * 7 % 3 == 1) as u8 as f64).collect();
        let mask = array(U8, shape, &hidden);
        let [q, k, v] = operands(CASE, F16);
        let at = |b: usize, i: usize, j: usize| hidden[(b * 35 + i * 7 + j) % count] == 0.0;
        let (out, lse) = CASE.wanted(&q, &k, &v, at);
        let got = infer(CASE, F16, "BNSD", Some(&mask), (None, None), 1, FAR).unwrap();
        close(&got.0, &out, tolerance(F16));
        close(&got.1, &lse, 1e-5);
        // Mode 0 adds the bounds to the mask.
        let (out, _) = CASE.wanted(&q, &k, &v, |b, i, j| at(b, i, j) && j + 1 >= i && j <= i + 2);
        close(&infer(CASE, F16, "BNSD", Some(&mask), (None, None), 0, (1, 2)).unwrap().0, &out, tolerance(F16));
    }
}

#[test]
fn lengths_cut_queries_and_keys() {
    let [q, k, v] = operands(CASE, BF16);
    let (queries, keys) = ([3, 5], [6, 2]);
    let (mut out, lse) = CASE.wanted(&q, &k, &v, |b, _, j| j < keys[b] as usize);
    out.iter_mut().enumerate().for_each(|(i, v)| {
        if i / 16 % 5 >= queries[i / 16 / 5 / 4] as usize {
            *v = 0.0;
        }
    });
    let got = infer(CASE, BF16, "BSND", None, (Some(&queries), Some(&keys)), 0, FAR).unwrap();
    close(&got.0, &CASE.laid_out(&out, "BSND", 4, 5).1, tolerance(BF16));
    assert_eq!(got.1[3], f64::INFINITY, "a query past the length");
    close(&got.1[..3], &lse[..3], 1e-5);
    refused(
        infer(CASE, BF16, "BSND", None, (None, Some(&[8, 2])), 0, FAR).map(|_| ()),
        161002,
        &["actualSeqLengthsKv[0] is 8", "7"],
    );
    refused(infer(CASE, BF16, "SBH", None, (None, None), 0, FAR).map(|_| ()), 161002, &["SBH", "BSND"]);
    refused(infer(CASE, F32, "BNSD", None, (None, None), 0, FAR).map(|_| ()), 161002, &["query is FLOAT"]);
    refused(
        infer(Case { dim: 12, ..CASE }, F16, "BNSD", None, (None, None), 0, FAR).map(|_| ()),
        161002,
        &["12", "multiple of 16"],
    );
    refused(
        infer(Case { heads: 3, ..CASE }, F16, "BNSD", None, (None, None), 0, FAR).map(|_| ()),
        161002,
        &["numHeads 3"],
    );
}

#[test]
fn decoding_reads_pages() {
    let case = Case { batch: 2, heads: 4, key_heads: 2, queries: 1, keys: 40, dim: 16 };
    let [q, k, v] = operands(case, F16);
    let lengths = [40, 18];
    let (wanted, _) = case.wanted(&q, &k, &v, |b, _, j| j < lengths[b]);
    // Blocks of 16 tokens, scattered; block 0 belongs to nobody.
    let table = [[3, 1, 6], [5, 2, 0]];
    for heads_first in [true, false] {
        let page = |values: &[f64]| {
            let mut cache = vec![99.0; 7 * 16 * 2 * 16];
            for (b, blocks) in table.iter().enumerate() {
                for (token, head) in (0..lengths[b]).flat_map(|token| (0..2).map(move |head| (token, head))) {
                    let (block, at) = (blocks[token / 16], token % 16);
                    let to = if heads_first {
                        ((block * 2 + head) * 16 + at) * 16
                    } else {
                        ((block * 16 + at) * 2 + head) * 16
                    };
                    cache[to..][..16].copy_from_slice(&values[((b * 2 + head) * 40 + token) * 16..][..16]);
                }
            }
            array(F16, if heads_first { &[7, 2, 16, 16] } else { &[7, 16, 32] }, &cache)
        };
        let (key, value) = (page(&k), page(&v));
        let (key, value) = (list(&[&key]), list(&[&value]));
        let ids: Vec<f64> = table.concat().iter().map(|&id| id as f64).collect();
        let (query, out) = (array(F16, &[2, 4, 1, 16], &q), output(F16, &[2, 4, 1, 16]));
        let call = |ids: &[f64], block_size: i64, lengths: &Ints| {
            run!(IncreFlashAttentionV4(
                &query,
                &key,
                &value,
                Nothing,
                Nothing,
                lengths,
                Nothing,
                Nothing,
                Nothing,
                Nothing,
                Nothing,
                Nothing,
                Nothing,
                &array(I32, &[2, 3], ids),
                Nothing,
                4i64,
                case.scale(),
                &text("BNSD"),
                2i64,
                block_size,
                1i64,
                &out
            ))
        };
        call(&ids, 16, &ints(&[40, 18])).unwrap();
        close(&out.values(), &wanted, tolerance(F16));
        refused(call(&ids, 32, &ints(&[40, 18])), 161002, &["blockSize is 32"]);
        refused(call(&ids, 16, &ints(&[49, 18])), 161002, &["49"]);
        refused(call(&[9.0; 6], 16, &ints(&[40, 18])), 507015, &["block 9", "7"]);
    }
}

#[test]
fn packed_sequences_of_different_lengths() {
    // Layout TND of version 3: two sequences of 2 and 3 queries over 4 and 3 keys, causal to the right.
    let (heads, dim, queries, keys) = (2, 128, [0, 2, 5], [0, 4, 7]);
    let (q, k, v) =
        (stored(BF16, noise(1, 5 * heads * dim)), stored(BF16, noise(2, 7 * dim)), stored(BF16, noise(3, 7 * dim)));
    let (query, key, value) =
        (array(BF16, &[5, 2, 128], &q), array(BF16, &[7, 1, 128], &k), array(BF16, &[7, 1, 128], &v));
    let (out, lse) = (output(BF16, &[5, 2, 128]), output(F32, &[5, 2, 1]));
    run!(FusedInferAttentionScoreV3(
        &query,
        &list(&[&key]),
        &list(&[&value]),
        Nothing,
        &causal_mask(),
        &ints(&[2, 5]),
        &ints(&[4, 7]),
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        Nothing,
        2i64,
        0.1,
        FAR.0,
        FAR.1,
        &text("TND"),
        1i64,
        3i64,
        0i64,
        0i64,
        0i64,
        true,
        0i64,
        0i64,
        &out,
        &lse
    ))
    .unwrap();
    let (mut wanted, mut logs) = (vec![0.0; q.len()], vec![0.0; 10]);
    for s in 0..2 {
        let (tokens, count) = (queries[s]..queries[s + 1], keys[s + 1] - keys[s]);
        let shift = count as i64 - tokens.len() as i64;
        let span = keys[s] * dim..keys[s + 1] * dim;
        for h in 0..heads {
            let mine: Vec<f64> = tokens.clone().flat_map(|t| q[(t * heads + h) * dim..][..dim].to_vec()).collect();
            let (rows, lse) =
                head(&mine, &k[span.clone()], &v[span.clone()], dim, 0.1, |i, j| j as i64 <= i as i64 + shift);
            for (i, t) in tokens.clone().enumerate() {
                wanted[(t * heads + h) * dim..][..dim].copy_from_slice(&rows[i * dim..][..dim]);
                logs[t * heads + h] = lse[i];
            }
        }
    }
    close(&out.values(), &wanted, tolerance(BF16));
    close(&lse.values(), &logs, 1e-5);
}

#[test]
fn training_keeps_statistics_and_answers_slopes() {
    let case = Case { batch: 2, heads: 4, key_heads: 2, queries: 4, keys: 6, dim: 5 };
    let [q, k, v] = operands(case, F32);
    let dy = stored(F32, noise(14, q.len()));
    let mask = causal_mask();
    for layout in ["BSH", "SBH", "BSND", "BNSD"] {
        let sees = |_: usize, i: usize, j: usize| j <= i + 2;
        let place = |values: &[f64], heads, tokens| {
            let (shape, values) = case.laid_out(values, layout, heads, tokens);
            array(F32, &shape, &values)
        };
        let (query, key, value, grad) = (place(&q, 4, 4), place(&k, 2, 6), place(&v, 2, 6), place(&dy, 4, 4));
        let (out, max, sum) =
            (place(&vec![7.0; q.len()], 4, 4), output(F32, &[2, 4, 4, 8]), output(F32, &[2, 4, 4, 8]));
        run!(FlashAttentionScore(
            &query,
            &key,
            &value,
            Nothing,
            Nothing,
            Nothing,
            &mask,
            Nothing,
            case.scale(),
            1.0,
            65536i64,
            65536i64,
            4i64,
            &text(layout),
            0i64,
            3i64,
            &max,
            &sum,
            Nothing,
            &out
        ))
        .unwrap();
        let (wanted, lse) = case.wanted(&q, &k, &v, sees);
        close(&out.values(), &case.laid_out(&wanted, layout, 4, 4).1, 3e-6);
        let logs: Vec<f64> = max.values().iter().zip(sum.values()).map(|(max, sum)| max + sum.ln()).collect();
        close(&logs, &lse.iter().flat_map(|&v| [v; 8]).collect::<Vec<_>>(), 1e-6);

        let (dq, dk, dv) =
            (place(&vec![7.0; q.len()], 4, 4), place(&vec![7.0; k.len()], 2, 6), place(&vec![7.0; k.len()], 2, 6));
        run!(FlashAttentionScoreGrad(
            &query,
            &key,
            &value,
            &grad,
            Nothing,
            Nothing,
            Nothing,
            &mask,
            &max,
            &sum,
            Nothing,
            &out,
            Nothing,
            case.scale(),
            1.0,
            65536i64,
            65536i64,
            4i64,
            &text(layout),
            0i64,
            3i64,
            &dq,
            &dk,
            &dv,
            Nothing
        ))
        .unwrap();
        let loss = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
            case.wanted(q, k, v, sees).0.iter().zip(&dy).map(|(o, g)| o * g).sum()
        };
        let slopes = |which: usize| -> Vec<f64> {
            let operands = [&q, &k, &v];
            (0..operands[which].len())
                .map(|i| {
                    let at = |step: f64| {
                        let mut moved = [q.clone(), k.clone(), v.clone()];
                        moved[which][i] += step;
                        loss(&moved[0], &moved[1], &moved[2])
                    };
                    (at(1e-4) - at(-1e-4)) / 2e-4
                })
                .collect()
        };
        // Central differences of step 1e-4 are good to about 1e-7, f32 to some 1e-6 of sums of terms of size 4.
        close(&dq.values(), &case.laid_out(&slopes(0), layout, 4, 4).1, 1e-5);
        close(&dk.values(), &case.laid_out(&slopes(1), layout, 2, 6).1, 1e-5);
        close(&dv.values(), &case.laid_out(&slopes(2), layout, 2, 6).1, 1e-5);
    }
}

#[test]
fn features_that_are_not_simulated_are_refused_by_name() {
    let query = array(F16, &[1, 1, 2, 16], &noise(1, 32));
    let out = output(F16, &[1, 1, 2, 16]);
    let call = |scale: &Array| {
        run!(PromptFlashAttentionV3(
            &query,
            &query,
            &query,
            Nothing,
            Nothing,
            Nothing,
            Nothing,
            scale,
            Nothing,
            Nothing,
            Nothing,
            Nothing,
            1i64,
            1.0,
            FAR.0,
            FAR.1,
            &text("BNSD"),
            0i64,
            0i64,
            0i64,
            &out
        ))
    };
    refused(call(&array(F32, &[1], &[1.0])), 161002, &["deqScale1"]);
    run!(PromptFlashAttention(
        &query,
        &query,
        &query,
        Nothing,
        Nothing,
        Nothing,
        1i64,
        1.0,
        FAR.0,
        FAR.1,
        &text("BNSD"),
        0i64,
        &out
    ))
    .unwrap();
    let (q, scale) = (query.values(), 1.0);
    close(&out.values(), &head(&q, &q, &q, 16, scale, |_, _| true).0, tolerance(F16));
}
