//! What stands before latent attention, in one launch: from a token's hidden state to its queries in the latent space and
//! their rotated part, and to the latent row and the rotated key in their caches.
//!
//! Sizes by the pages' letters: T tokens (B sequences of S), He the hidden width, Hcq and Hckv the latents', N heads of D
//! elements and Dr rotated ones. What the cube cores give is rounded to the element type, and so is each norm.

use super::gemm::{Matrix, product};
use super::norm::rms_rows;
use crate::aclnn::{Call, Kernel, Launch, Tensor};
use crate::dtype::DType::{BF16, F32, I64};
use crate::runtime::cost::Cost;
use crate::status::{Result, Status};
use acl_sys::enums::ACL_FORMAT_FRACTAL_NZ;
use acl_sys::error::{ACL_ERROR_RT_AICORE_EXCEPTION, ACLNN_ERR_INNER_TILING_ERROR};
use half::bf16;
use npu_cpu_kernels::share_chunks;

/// Hidden widths that the pages of versions 1 and 2 list, and that of version 3. Later pages add smaller ones.
const HIDDEN: &[usize] = &[7168, 7680];
const HIDDEN_OF_3: &[usize] = &[6144, 7168, 7680];
/// Hcq, Hckv, D and Dr.
const QUERY_LATENT: usize = 1536;
const LATENT: usize = 512;
const HEAD: usize = 128;
const ROTATED: usize = 64;
const BLOCKS: &[usize] = &[16, 128];
/// B, S and T.
const MOST: [usize; 3] = [65536, 16, 1 << 20];
/// Rows and columns of a block of the format FRACTAL_NZ.
const EDGE: usize = 16;

/// The tensors of a call, which is not quantised.
struct Prolog {
    /// `[T, He]` or `[B, S, He]`, as which all tensors of tokens begin.
    x: Tensor,
    /// `[He, Hcq]`, `[Hcq, N · (D + Dr)]` and `[He, Hckv + Dr]` in FRACTAL_NZ.
    down_query: Tensor,
    up_query: Tensor,
    down_key: Tensor,
    /// `[N, D, Hckv]`
    up_key: Tensor,
    gammas: [Tensor; 2],
    sin: Tensor,
    cos: Tensor,
    index: Tensor,
    /// `[blocks, block size, 1, Hckv]` and `[…, Dr]`.
    cache: Tensor,
    rotated_cache: Tensor,
    epsilons: [f64; 2],
    /// What normed rows are multiplied by, the queries' and the keys'.
    scales: [f64; 2],
    query: Tensor,
    rotated_query: Tensor,
}

fn tiling<T>(call: &Call, text: String) -> Result<T> {
    Err(Status::new(ACLNN_ERR_INNER_TILING_ERROR, format!("{}: {text}", call.op)))
}

/// Refuses `tensor` unless it has the shape that follows from the others'.
fn fits(call: &Call, tensor: &Tensor, shape: &[usize]) -> Result<()> {
    match tensor.shape == shape {
        true => Ok(()),
        false => tiling(call, format!("{} has shape {:?}, wanted {shape:?}", tensor.name, tensor.shape)),
    }
}

/// Rows and columns of a weight that is stored in blocks of 16 × 16, a column of blocks after the other. Its shape is that of the
/// matrix or that of the storage.
fn matrix_of_blocks(call: &Call, weight: &Tensor) -> Result<[usize; 2]> {
    if weight.format != ACL_FORMAT_FRACTAL_NZ {
        return call.invalid(format!("{} has format {}, wanted FRACTAL_NZ", weight.name, weight.format));
    }
    match weight.storage_shape[..] {
        [columns, rows, EDGE, EDGE]
            if weight.shape == weight.storage_shape || weight.shape == [rows * EDGE, columns * EDGE] =>
        {
            Ok([rows * EDGE, columns * EDGE])
        }
        _ => {
            let (name, shape, stored) = (weight.name, &weight.shape, &weight.storage_shape);
            call.invalid(format!("{name} is {shape:?} stored as {stored:?}, wanted [n/16, k/16, 16, 16] of [k, n]"))
        }
    }
}

impl Prolog {
    fn check(&self, call: &Call, hidden: &[usize], cache_mode: Option<&str>) -> Result<()> {
        match cache_mode {
            Some("PA_BSND") => {}
            mode => return call.invalid(format!("cacheMode is {mode:?}; the simulated CANN computes PA_BSND")),
        }
        let [cq, ckv] = &self.gammas;
        let weights = [&self.down_query, &self.up_query, &self.down_key, &self.up_key, cq, ckv];
        let caches = [&self.cache, &self.rotated_cache];
        let others = [&self.x, &self.sin, &self.cos, &self.query, &self.rotated_query];
        for tensor in weights.into_iter().chain(caches).chain(others) {
            call.dtype_in(tensor, &[BF16])?;
        }
        call.dtype_in(&self.index, &[I64])?;
        for tensor in weights.into_iter().chain(others).chain([&self.index]).chain(caches) {
            // Blocks of a cache may lie apart; what is in them may not.
            let dense = match caches.iter().any(|cache| cache.slot == tensor.slot) && tensor.rank() > 1 {
                true => tensor.count() == 0 || tensor.selected_view(0, 0).is_contiguous(),
                false => tensor.is_contiguous(),
            };
            if !dense {
                return call.invalid(format!("{} is not contiguous, strides {:?}", tensor.name, tensor.strides));
            }
        }
        call.rank_in(&self.x, 2..=3)?;
        for (tensor, rank) in [(&self.up_key, 3), (cq, 1), (ckv, 1), (caches[0], 4), (caches[1], 4)] {
            call.rank_in(tensor, rank..=rank)?;
        }
        self.check_sizes(call, hidden)?;
        self.check_shapes(call)
    }

    /// The sizes that the page lists.
    fn check_sizes(&self, call: &Call, hidden: &[usize]) -> Result<()> {
        let (tokens, width) = self.x.shape.split_at(self.x.rank() - 1);
        let [heads, head, _] = self.up_key.shape[..] else { unreachable!("checked to have three dimensions") };
        let [_, block, key_heads, _] = self.cache.shape[..] else { unreachable!("checked to have four dimensions") };
        let one = |name: &str, got: usize, wanted: &[usize]| match wanted.contains(&got) {
            true => Ok(()),
            false => call.invalid(format!("{name} is {got}, wanted one of {wanted:?}")),
        };
        one("He", width[0], hidden)?;
        one("Hcq", self.gammas[0].count(), &[QUERY_LATENT])?;
        one("Hckv", self.gammas[1].count(), &[LATENT])?;
        one("D", head, &[HEAD])?;
        one("N", heads, &[1, 2, 4, 8, 16, 32, 64, 128])?;
        one("Dr", self.rotated_cache.shape[3], &[ROTATED])?;
        one("Nkv", key_heads, &[1])?;
        one("BlockSize", block, BLOCKS)?;
        let fits = match tokens {
            [b, s] => *b <= MOST[0] && *s <= MOST[1],
            tokens => tokens[0] <= MOST[2],
        };
        match fits {
            true => Ok(()),
            false => call.invalid(format!("tokenX is {:?}; wanted B, S and T of at most {MOST:?}", self.x.shape)),
        }
    }

    /// The shapes that follow from these sizes.
    fn check_shapes(&self, call: &Call) -> Result<()> {
        let (tokens, width) = self.x.shape.split_at(self.x.rank() - 1);
        let heads = self.up_key.shape[0];
        let of_weights = [
            (&self.down_query, [width[0], QUERY_LATENT]),
            (&self.up_query, [QUERY_LATENT, heads * (HEAD + ROTATED)]),
            (&self.down_key, [width[0], LATENT + ROTATED]),
        ];
        for (weight, wanted) in of_weights {
            let matrix = matrix_of_blocks(call, weight)?;
            if matrix != wanted {
                return tiling(call, format!("{} is a matrix {matrix:?}, wanted {wanted:?}", weight.name));
            }
        }
        fits(call, &self.up_key, &[heads, HEAD, LATENT])?;
        let blocks = &self.cache.shape[..3];
        fits(call, &self.cache, &[blocks, &[LATENT]].concat())?;
        fits(call, &self.rotated_cache, &[blocks, &[ROTATED]].concat())?;
        fits(call, &self.index, tokens)?;
        fits(call, &self.sin, &[tokens, &[ROTATED]].concat())?;
        fits(call, &self.cos, &[tokens, &[ROTATED]].concat())?;
        fits(call, &self.query, &[tokens, &[heads, LATENT]].concat())?;
        fits(call, &self.rotated_query, &[tokens, &[heads, ROTATED]].concat())
    }

    fn plan(self, call: &mut Call, hidden: &[usize], cache_mode: Option<&str>) -> Result<Kernel> {
        self.check(call, hidden, cache_mode)?;
        let (tokens, heads, width) = (self.index.count(), self.up_key.shape[0], self.x.shape[self.x.rank() - 1]);
        call.needs_workspace(tokens * (QUERY_LATENT + LATENT + ROTATED + heads * (HEAD + ROTATED)) * 2);
        for (batch, size) in [
            (1, (tokens, width, QUERY_LATENT)),
            (1, (tokens, width, LATENT + ROTATED)),
            (1, (tokens, QUERY_LATENT, heads * (HEAD + ROTATED))),
            (heads, (tokens, HEAD, LATENT)),
        ] {
            call.works(Cost::products(batch, size, BF16, false));
        }
        call.works(Cost::vector(tokens * (QUERY_LATENT + LATENT), 4, F32));
        call.works(Cost::vector(tokens * (heads + 1) * ROTATED, 4, F32));
        call.touches(&self.cache, tokens * LATENT);
        call.touches(&self.rotated_cache, tokens * ROTATED);
        Ok(Box::new(move |launch| self.run(launch)))
    }

    fn run(&self, launch: &Launch) -> Result<()> {
        let (tokens, heads) = (self.index.count(), self.up_key.shape[0]);
        if tokens == 0 {
            return Ok(());
        }
        let x = self.x.load_f32(launch)?;
        let latent = times_blocks(launch, &x, &self.down_query, tokens)?;
        let latent = self.normed(launch, &latent, 0)?;
        let queries = times_blocks(launch, &latent, &self.up_query, tokens)?;
        let key = times_blocks(launch, &x, &self.down_key, tokens)?;
        let turn = Turn { sin: self.sin.load_f32(launch)?, cos: self.cos.load_f32(launch)? };

        let (mut turned, mut absorbed) = (Vec::new(), vec![0f32; tokens * heads * LATENT]);
        for (at, head) in queries.chunks_exact(HEAD + ROTATED).enumerate() {
            turned.extend(turn.apply(&head[HEAD..], at / heads));
        }
        let up_key = self.up_key.read::<bf16>(launch)?;
        for (n, up) in up_key.chunks_exact(HEAD * LATENT).enumerate() {
            let own = |t: usize| &queries[(t * heads + n) * (HEAD + ROTATED)..][..HEAD];
            let rows: Vec<f32> = (0..tokens).flat_map(own).copied().collect();
            let mut part = vec![0f32; tokens * LATENT];
            product(Matrix::row_major(&rows, tokens, HEAD), Matrix::row_major(up, HEAD, LATENT), &mut part, false);
            for (t, row) in part.chunks_exact(LATENT).enumerate() {
                absorbed[(t * heads + n) * LATENT..][..LATENT].copy_from_slice(row);
            }
        }
        self.query.store_f32(launch, &absorbed)?;
        self.rotated_query.store_f32(launch, &turned)?;

        let rows: Vec<f32> = key.chunks_exact(LATENT + ROTATED).flat_map(|row| &row[..LATENT]).copied().collect();
        let rows = self.normed(launch, &rows, 1)?;
        let turned = key.chunks_exact(LATENT + ROTATED).enumerate().flat_map(|(t, row)| turn.apply(&row[LATENT..], t));
        self.store_keys(launch, &rows, &turned.collect::<Vec<_>>())
    }

    /// Rows normed by the `which`-th weight, scaled, and rounded.
    fn normed(&self, launch: &Launch, rows: &[f32], which: usize) -> Result<Vec<f32>> {
        let (normed, _) = rms_rows(rows, &self.gammas[which].load_f32(launch)?, self.epsilons[which]);
        let scale = self.scales[which] as f32;
        Ok(normed.into_iter().map(|value| rounded(value * scale)).collect())
    }

    /// Writes each token's rows to its place in the caches; a cache without blocks takes none.
    fn store_keys(&self, launch: &Launch, rows: &[f32], turned: &[f32]) -> Result<()> {
        let [blocks, size, ..] = self.cache.shape[..] else { unreachable!("checked to have four dimensions") };
        if blocks == 0 {
            return Ok(());
        }
        let places = self.index.load_i64(launch)?;
        for (token, &place) in places.iter().enumerate() {
            let Some(place) = usize::try_from(place).ok().filter(|&place| place < blocks * size) else {
                let text = format!("cacheIndex of token {token} is {place}, the cache has {} places", blocks * size);
                return Err(Status::new(ACL_ERROR_RT_AICORE_EXCEPTION, format!("{}: {text}", launch.op)));
            };
            for (cache, rows, width) in [(&self.cache, rows, LATENT), (&self.rotated_cache, turned, ROTATED)] {
                let row = cache.selected_view(0, place / size).selected_view(0, place % size);
                row.store_f32(launch, &rows[token * width..][..width])?;
            }
        }
        Ok(())
    }
}

fn rounded(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

/// `rows` `[T, k]` times a weight `[k, n]` in FRACTAL_NZ, rounded.
fn times_blocks(launch: &Launch, rows: &[f32], weight: &Tensor, tokens: usize) -> Result<Vec<f32>> {
    let inner = rows.len() / tokens;
    let outputs = weight.count() / inner;
    let blocks = weight.reviewed(vec![weight.count()], vec![1], weight.offset);
    let blocks = match blocks.contiguous::<bf16>(launch)? {
        Some(blocks) => std::borrow::Cow::Borrowed(blocks),
        None => std::borrow::Cow::Owned(blocks.read::<bf16>(launch)?),
    };
    // One row an output, so that what is summed over lies together.
    let mut columns = vec![bf16::ZERO; weight.count()];
    share_chunks(&mut columns, EDGE * inner, |n, columns| {
        let blocks = blocks[n * EDGE * inner..][..EDGE * inner].chunks_exact(EDGE * EDGE);
        for (k, block) in blocks.enumerate() {
            for (column, to) in columns.chunks_exact_mut(inner).enumerate() {
                let to = &mut to[k * EDGE..][..EDGE];
                to.iter_mut().zip(block[column..].iter().step_by(EDGE)).for_each(|(to, value)| *to = *value);
            }
        }
    });
    let mut out = vec![0f32; tokens * outputs];
    let columns = Matrix::row_major(&columns, outputs, inner).t();
    product(Matrix::row_major(rows, tokens, inner), columns, &mut out, true);
    out.iter_mut().for_each(|value| *value = rounded(*value));
    Ok(out)
}

/// Sines and cosines `[T, Dr]`.
struct Turn {
    sin: Vec<f32>,
    cos: Vec<f32>,
}

impl Turn {
    /// Neighbours are pairs; what comes out has the first of each pair in its first half.
    fn apply(&self, row: &[f32], token: usize) -> Vec<f32> {
        let half = ROTATED / 2;
        let (sin, cos) = (&self.sin[token * ROTATED..][..ROTATED], &self.cos[token * ROTATED..][..ROTATED]);
        let one = |i: usize| match i < half {
            true => row[2 * i] * cos[i] - row[2 * i + 1] * sin[i],
            false => row[2 * (i - half) + 1] * cos[i] + row[2 * (i - half)] * sin[i],
        };
        (0..ROTATED).map(one).collect()
    }
}

/// Refuses what quantised weights and caches would want, by the names of the arguments.
fn refuse(call: &Call, given: &[(&str, bool)]) -> Result<()> {
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            call.invalid(format!("{name} is given; the simulated CANN computes BFLOAT16 weights and caches"))
        }
        None => Ok(()),
    }
}

/// Versions 1 and 2, of which the second has one output more.
macro_rules! mla_prolog {
    ($(#[$doc:meta])* $name:ident $(, $more:ident)?) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        pub fn $name(
            call: &mut Call, token_x: Tensor, weight_dq: Tensor, weight_uq_qr: Tensor, weight_uk: Tensor, weight_dkv_kr: Tensor,
            rmsnorm_gamma_cq: Tensor, rmsnorm_gamma_ckv: Tensor, rope_sin: Tensor, rope_cos: Tensor, cache_index: Tensor,
            kv_cache_ref: Tensor, kr_cache_ref: Tensor, dequant_scale_x: Option<Tensor>, dequant_scale_w_dq: Option<Tensor>,
            dequant_scale_w_uq_qr: Option<Tensor>, dequant_scale_w_dkv_kr: Option<Tensor>, quant_scale_ckv: Option<Tensor>,
            quant_scale_ckr: Option<Tensor>, smooth_scales_cq: Option<Tensor>, rmsnorm_epsilon_cq: f64,
            rmsnorm_epsilon_ckv: f64, cache_mode: Option<String>, query_out: Tensor, query_rope_out: Tensor,
            $($more: Option<Tensor>,)?
        ) -> Result<Kernel> {
            refuse(call, &[
                ("dequantScaleX", dequant_scale_x.is_some()), ("dequantScaleWDq", dequant_scale_w_dq.is_some()),
                ("dequantScaleWUqQr", dequant_scale_w_uq_qr.is_some()), ("dequantScaleWDkvKr", dequant_scale_w_dkv_kr.is_some()),
                ("quantScaleCkv", quant_scale_ckv.is_some()), ("quantScaleCkr", quant_scale_ckr.is_some()),
                ("smoothScalesCq", smooth_scales_cq.is_some()),
            ])?;
            // Not written without quantisation, but a tensor of one number has to be there.
            $(if $more.is_none() {
                return call.invalid("dequantScaleQNopeOut is null");
            })?
            let prolog = Prolog {
                x: token_x, down_query: weight_dq, up_query: weight_uq_qr, down_key: weight_dkv_kr, up_key: weight_uk,
                gammas: [rmsnorm_gamma_cq, rmsnorm_gamma_ckv], sin: rope_sin, cos: rope_cos, index: cache_index,
                cache: kv_cache_ref, rotated_cache: kr_cache_ref, epsilons: [rmsnorm_epsilon_cq, rmsnorm_epsilon_ckv],
                scales: [1.0; 2], query: query_out, rotated_query: query_rope_out,
            };
            prolog.plan(call, HIDDEN, cache_mode.as_deref())
        }
    };
}

mla_prolog! {
    /// Queries in the latent space and their rotated part, and each token's latent row and rotated key into paged caches.
    mla_prolog
}
mla_prolog! {
    /// As [`mla_prolog`].
    mla_prolog_v2_weight_nz, dequant_scale_q_nope_out
}

/// As [`mla_prolog`], the normed latents multiplied by `qc_qr_scale` and `kc_scale`.
#[allow(clippy::too_many_arguments)]
pub fn mla_prolog_v3_weight_nz(
    call: &mut Call,
    token_x: Tensor,
    weight_dq: Tensor,
    weight_uq_qr: Tensor,
    weight_uk: Tensor,
    weight_dkv_kr: Tensor,
    rmsnorm_gamma_cq: Tensor,
    rmsnorm_gamma_ckv: Tensor,
    rope_sin: Tensor,
    rope_cos: Tensor,
    kv_cache_ref: Tensor,
    kr_cache_ref: Tensor,
    cache_index: Option<Tensor>,
    dequant_scale_x: Option<Tensor>,
    dequant_scale_w_dq: Option<Tensor>,
    dequant_scale_w_uq_qr: Option<Tensor>,
    dequant_scale_w_dkv_kr: Option<Tensor>,
    quant_scale_ckv: Option<Tensor>,
    quant_scale_ckr: Option<Tensor>,
    smooth_scales_cq: Option<Tensor>,
    actual_seq_len: Option<Tensor>,
    k_nope_clip_alpha: Option<Tensor>,
    rmsnorm_epsilon_cq: f64,
    rmsnorm_epsilon_ckv: f64,
    cache_mode: Option<String>,
    weight_quant_mode: i64,
    kv_cache_quant_mode: i64,
    query_quant_mode: i64,
    ckvkr_repo_mode: i64,
    quant_scale_repo_mode: i64,
    _tile_size: i64,
    qc_qr_scale: f64,
    kc_scale: f64,
    query_out: Tensor,
    query_rope_out: Tensor,
    dequant_scale_q_nope_out: Option<Tensor>,
    query_norm_out: Option<Tensor>,
    dequant_scale_q_norm_out: Option<Tensor>,
) -> Result<Kernel> {
    refuse(
        call,
        &[
            ("dequantScaleX", dequant_scale_x.is_some()),
            ("dequantScaleWDq", dequant_scale_w_dq.is_some()),
            ("dequantScaleWUqQr", dequant_scale_w_uq_qr.is_some()),
            ("dequantScaleWDkvKr", dequant_scale_w_dkv_kr.is_some()),
            ("quantScaleCkv", quant_scale_ckv.is_some()),
            ("quantScaleCkr", quant_scale_ckr.is_some()),
            ("smoothScalesCq", smooth_scales_cq.is_some()),
            ("actualSeqLen", actual_seq_len.is_some()),
            ("kNopeClipAlpha", k_nope_clip_alpha.is_some()),
            ("weightQuantMode", weight_quant_mode != 0),
            ("kvCacheQuantMode", kv_cache_quant_mode != 0),
            ("queryQuantMode", query_quant_mode != 0),
            ("ckvkrRepoMode", ckvkr_repo_mode != 0),
            ("quantScaleRepoMode", quant_scale_repo_mode != 0),
            ("dequantScaleQNopeOut", dequant_scale_q_nope_out.is_some()),
            ("queryNormOut", query_norm_out.is_some()),
            ("dequantScaleQNormOut", dequant_scale_q_norm_out.is_some()),
        ],
    )?;
    let Some(index) = cache_index else { return call.invalid("cacheIndex is null, which PA_BSND needs") };
    let prolog = Prolog {
        x: token_x,
        down_query: weight_dq,
        up_query: weight_uq_qr,
        down_key: weight_dkv_kr,
        up_key: weight_uk,
        gammas: [rmsnorm_gamma_cq, rmsnorm_gamma_ckv],
        sin: rope_sin,
        cos: rope_cos,
        index,
        cache: kv_cache_ref,
        rotated_cache: kr_cache_ref,
        epsilons: [rmsnorm_epsilon_cq, rmsnorm_epsilon_ckv],
        scales: [qc_qr_scale, kc_scale],
        query: query_out,
        rotated_query: query_rope_out,
    };
    prolog.plan(call, HIDDEN_OF_3, cache_mode.as_deref())
}
