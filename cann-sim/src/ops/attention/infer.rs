//! Attention of inference: FusedInferAttentionScore and the prompt and incremental operators before it.

use super::engine::{Attention, Block, KeySpan, Pages};
use super::layout::{Band, Grid, Layout, Mask, Span, check_compressed, packed_spans, spans};
use crate::aclnn::{Call, Kernel, Launch, Tensor, TensorList};
use crate::dtype::DType::{BF16, F16, F32, I32};
use crate::status::Result;
use half::{bf16, f16};

pub(super) const DENSE: &[(&str, Layout)] =
    &[("BSH", Layout::Bsh), ("BSND", Layout::Bsnd), ("BNSD", Layout::Bnsd), ("BNSD_BSND", Layout::Bnsd)];
pub(super) const WITH_TND: &[(&str, Layout)] = &[
    ("BSH", Layout::Bsh),
    ("BSND", Layout::Bsnd),
    ("BNSD", Layout::Bnsd),
    ("BNSD_BSND", Layout::Bnsd),
    ("TND", Layout::Tnd),
];

/// The arguments that the operators share.
pub(super) struct Inference {
    pub query: Tensor,
    pub key: TensorList,
    pub value: TensorList,
    pub mask: Option<Tensor>,
    pub query_lengths: Option<Vec<i64>>,
    pub key_lengths: Option<Vec<i64>>,
    pub block_table: Option<Tensor>,
    pub heads: i64,
    pub key_heads: i64,
    pub scale: f64,
    pub before: i64,
    pub after: i64,
    pub layout: String,
    pub layouts: &'static [(&'static str, Layout)],
    pub sparse_mode: i64,
    pub inner_precise: i64,
    pub block_size: i64,
    pub out: Tensor,
    /// Where the logarithm of the sum of exponentials goes, if it is asked for.
    pub lse: Option<Tensor>,
    pub rope: Option<Rope>,
}

/// The rotated part of queries and keys where it lies apart from the latent one, which is keys and values at once.
pub(super) struct Rope {
    query: Tensor,
    key: Tensor,
    /// Whether the page of version 5 holds, which takes a mask of single keys, and pages of more sizes.
    newest: bool,
}

/// Elements of a latent head, and of its rotated part.
const LATENT: usize = 512;
const ROTATED: usize = 64;
/// Layouts of theirs that are computed here; the pages have more.
const LATENT_LAYOUTS: &[&str] = &["BSH", "BSND", "BNSD"];

impl Rope {
    /// The rotated parts, both or none.
    pub(super) fn of(call: &Call, query: Option<Tensor>, key: Option<Tensor>, newest: bool) -> Result<Option<Self>> {
        match (query, key) {
            (Some(query), Some(key)) => Ok(Some(Self { query, key, newest })),
            (None, None) => Ok(None),
            _ => call.invalid("of queryRope and keyRope one is null and the other is not"),
        }
    }
}

/// Refuses arguments of features that the simulator does not have: quantisation, shared prefixes, position biases, padding.
pub(super) fn refuse_features(call: &Call, given: &[(&str, bool)]) -> Result<()> {
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            call.invalid(format!("{name} is given; the simulated CANN computes this operator only with it null"))
        }
        None => Ok(()),
    }
}

impl Inference {
    pub(super) fn plan(self, call: &mut Call) -> Result<Kernel> {
        let layout = Layout::parse(call, &self.layout, self.layouts)?;
        let (heads, key_heads) = self.head_counts(call)?;
        self.check_dtypes(call)?;
        let query = Grid::new(call, &self.query, layout, heads)?;
        let single = layout != Layout::Tnd && query.tokens == 1;
        let keys = self.key_grids(call, layout, key_heads, &query)?;
        self.check_sizes(call, layout, &query, &keys, single)?;
        let sequences = self.sequences(call, layout, &query, &keys, single)?;
        let rope = self.rope.as_ref().map(|rope| self.latent(call, rope, layout, &query, &keys[0].0)).transpose()?;
        let (band, mask) = self.visibility(call, &query, &sequences, single)?;
        let out = self.output(call, layout, &query, keys[0].1.dim)?;
        let lse = self.lse_grid(call, layout, &query)?;
        let pages = self.block_table.map(|table| Pages { table, block_size: self.block_size as usize });
        call.needs_workspace(query.tensor.count() * 4);
        let dtype = self.query.dtype;
        let attention = Attention { query, keys, sequences, pages, scale: self.scale as f32, band, mask, rope };
        attention.note_cost(call, [1, 1], self.mask.as_ref());
        Ok(Box::new(move |launch| {
            let blocks = if dtype == F16 { attention.run::<f16>(launch)? } else { attention.run::<bf16>(launch)? };
            store(launch, &attention, &blocks, &out)?;
            lse.as_ref().map_or(Ok(()), |lse| store_lse(launch, &attention, &blocks, lse))
        }))
    }

    fn head_counts(&self, call: &Call) -> Result<(usize, usize)> {
        let (heads, key_heads) = (self.heads, if self.key_heads == 0 { self.heads } else { self.key_heads });
        if self.rope.is_some() {
            return match (heads.count_ones(), heads, key_heads) {
                (1, 1..=128, 1) => Ok((heads as usize, 1)),
                _ => call.invalid(format!(
                    "numHeads {heads} and numKeyValueHeads {key_heads}: with queryRope wanted a power of two up to 128, and 1"
                )),
            };
        }
        if !(1..=256).contains(&heads) || key_heads < 1 || heads % key_heads != 0 || heads / key_heads > 64 {
            return call.invalid(format!(
                "numHeads {heads} and numKeyValueHeads {key_heads}: wanted 1 to 256, a multiple of at most 64"
            ));
        }
        Ok((heads as usize, key_heads as usize))
    }

    fn check_dtypes(&self, call: &Call) -> Result<()> {
        call.dtype_in(&self.query, &[F16, BF16])?;
        for tensor in self.key.iter().chain(&self.value).chain([&self.out]) {
            call.same_dtype(tensor, &self.query)?;
        }
        if self.key.is_empty() || self.key.len() != self.value.len() {
            return call.invalid(format!("key has {} tensors and value {}", self.key.len(), self.value.len()));
        }
        for tensor in self.key.iter().chain(&self.value).chain([&self.query]) {
            if !tensor.is_contiguous() {
                return call.invalid(format!("{} is not contiguous, strides {:?}", tensor.name, tensor.strides));
            }
        }
        match self.inner_precise {
            0..=3 => Ok(()),
            other => call.invalid(format!("innerPrecise is {other}, wanted 0 to 3")),
        }
    }

    fn key_grids(&self, call: &Call, layout: Layout, heads: usize, query: &Grid) -> Result<Vec<(Grid, Grid)>> {
        let layout = match (&self.block_table, self.key[0].rank()) {
            (None, _) => layout,
            (Some(_), 4) if matches!(layout, Layout::Bnsd | Layout::Tnd) => Layout::Bnsd,
            (Some(_), 3) => Layout::Bsh,
            (Some(_), rank) => {
                return call.invalid(format!("a key cache of {rank} dimensions does not go with {}", self.layout));
            }
        };
        let list = self.key.len() > 1;
        if list && (self.block_table.is_some() || layout == Layout::Tnd || self.key.len() != query.batch) {
            return call.invalid(format!(
                "key is a list of {} tensors, wanted 1, or one a batch row without pages",
                self.key.len()
            ));
        }
        let pairs = self.key.iter().zip(&self.value).map(|(key, value)| {
            let (k, v) = (Grid::new(call, key, layout, heads)?, Grid::new(call, value, layout, heads)?);
            let expected = if list { 1 } else { query.batch };
            if self.block_table.is_none() && k.batch != expected {
                return call.invalid(format!("key {:?} has batch {}, wanted {expected}", key.shape, k.batch));
            }
            if k.dim != query.dim
                || (k.batch, k.tokens) != (v.batch, v.tokens)
                || (layout != Layout::Tnd && v.dim != k.dim)
            {
                let text = format!(
                    "query {:?}, key {:?} and value {:?} do not go together",
                    self.query.shape, key.shape, value.shape
                );
                return call.invalid(text);
            }
            // Latent keys are the values as well, whatever is passed for these.
            Ok(if self.rope.is_some() { (k.clone(), k) } else { (k, v) })
        });
        pairs.collect()
    }

    fn check_sizes(
        &self,
        call: &Call,
        layout: Layout,
        query: &Grid,
        keys: &[(Grid, Grid)],
        single: bool,
    ) -> Result<()> {
        if !(1..=512).contains(&query.dim) || (!single && !query.dim.is_multiple_of(16)) {
            return call.invalid(format!(
                "heads have {} elements, wanted at most 512, a multiple of 16 for several queries",
                query.dim
            ));
        }
        if layout == Layout::Tnd {
            let dims = (query.dim, keys[0].1.dim);
            if !matches!(dims, (128, 128) | (192, 128) | (192, 192)) || self.query.dtype != BF16 {
                return call.invalid(format!(
                    "TND takes BFLOAT16 heads of 128, or 192 with values of 128 or 192, got {} {dims:?}",
                    self.query.dtype
                ));
            }
        }
        let Some(table) = &self.block_table else { return Ok(()) };
        call.dtype_in(table, &[I32])?;
        call.rank_in(table, 2..=2)?;
        let size = self.block_size;
        let allowed = match (layout, single) {
            (Layout::Tnd, _) => matches!(size, 128 | 512 | 1024),
            _ if self.rope.as_ref().is_some_and(|rope| rope.newest) => (16..=1024).contains(&size) && size % 16 == 0,
            (_, true) => (16..=512).contains(&size) && size % 16 == 0,
            (_, false) => (128..=512).contains(&size) && size % 128 == 0,
        };
        if !allowed || keys[0].0.tokens != size as usize {
            let text = format!("blockSize is {size} and key {:?}", self.key[0].shape);
            return call.invalid(format!(
                "{text}; wanted the cache's own, up to 512, a multiple of 16 (of 128 for several queries)"
            ));
        }
        match keys[0].0.heads * keys[0].0.dim > 65535 && self.key[0].rank() == 3 {
            true => call.invalid(format!("a cache {:?} has rows of more than 65535 elements", self.key[0].shape)),
            false => Ok(()),
        }
    }

    fn sequences(
        &self,
        call: &Call,
        layout: Layout,
        query: &Grid,
        keys: &[(Grid, Grid)],
        single: bool,
    ) -> Result<Vec<(Span, KeySpan)>> {
        let lengths = self.query_lengths.as_deref().filter(|_| !single);
        let queries = match layout {
            Layout::Tnd => packed_spans(call, lengths, query.tokens, "actualSeqLengths")?,
            _ => spans(call, lengths, &vec![query.tokens; query.batch], "actualSeqLengths")?,
        };
        let batch = queries.len();
        let list = keys.len() > 1;
        let lengths = self.key_lengths.as_deref();
        let found = match &self.block_table {
            Some(table) => {
                if table.shape[0] != batch || lengths.is_none_or(<[i64]>::is_empty) {
                    let text = format!(
                        "blockTable is {:?}, wanted {batch} rows, and pages need actualSeqLengthsKv",
                        table.shape
                    );
                    return call.invalid(text);
                }
                let room = table.shape[1] * self.block_size as usize;
                spans(call, lengths, &vec![room; batch], "actualSeqLengthsKv")?
            }
            None if layout == Layout::Tnd => packed_spans(call, lengths, keys[0].0.tokens, "actualSeqLengthsKv")?,
            // A list has a tensor a sequence, each of its own length.
            None if list => {
                let rooms: Vec<usize> = keys.iter().map(|(key, _)| key.tokens).collect();
                spans(call, lengths, &rooms, "actualSeqLengthsKv")?
            }
            None => spans(call, lengths, &vec![keys[0].0.tokens; batch], "actualSeqLengthsKv")?,
        };
        if found.len() != batch {
            return call.invalid(format!("{batch} sequences of queries, {} of keys", found.len()));
        }
        let place = |(i, span): (usize, Span)| match list {
            true => KeySpan { source: i, span: Span { batch: 0, ..span } },
            false => KeySpan { source: 0, span },
        };
        Ok(queries.into_iter().zip(found.into_iter().enumerate().map(place)).collect())
    }

    fn visibility(
        &self,
        call: &Call,
        query: &Grid,
        sequences: &[(Span, KeySpan)],
        single: bool,
    ) -> Result<(Band, Option<Mask>)> {
        let queries = sequences.iter().map(|(span, _)| span.len).max().unwrap_or(0);
        let keys = sequences.iter().map(|(_, keys)| keys.span.len).max().unwrap_or(0);
        let given = |call: &Call| {
            self.mask
                .as_ref()
                .map(|mask| Mask::new(call, mask, sequences.len(), query.heads, queries, keys))
                .transpose()
        };
        if let Some(rope) = &self.rope {
            match (self.sparse_mode, &self.mask) {
                (0, None) if rope.newest || single => {}
                // A mask of two dimensions could be one of queries or of batch rows.
                (0, Some(mask)) if rope.newest => call.rank_in(mask, 3..=4)?,
                (3, Some(_)) if rope.newest || !single => {}
                (4, Some(_)) => {}
                (mode, mask) => {
                    let mask = if mask.is_some() { "with" } else { "without" };
                    let newest = if rope.newest {
                        "0, or 3 or 4 with"
                    } else {
                        "0 without for one query, 3 for several or 4 with"
                    };
                    return call
                        .invalid(format!("sparseMode is {mode} {mask} attenMask; with queryRope wanted {newest}"));
                }
            }
        }
        // For a single query the page ignores the mode and its bounds.
        if single && !(self.rope.is_some() && self.sparse_mode != 0) {
            return Ok((Band::ALL, given(call)?));
        }
        let compressed = |band| check_compressed(call, self.mask.as_ref(), self.sparse_mode).map(|()| (band, None));
        match self.sparse_mode {
            0 if self.mask.is_none() => Ok((Band::ALL, None)),
            0 => Ok((Band { before: self.before, after: self.after, from_end: false }, given(call)?)),
            1 if self.mask.is_some() => Ok((Band::ALL, given(call)?)),
            1 => call.invalid("sparseMode 1 needs attenMask, which is null"),
            2 => compressed(Band { before: i64::MAX, after: 0, from_end: false }),
            3 => compressed(Band { before: i64::MAX, after: 0, from_end: true }),
            4 => compressed(Band { before: self.before, after: self.after, from_end: true }),
            other => call.invalid(format!("sparseMode is {other}, wanted 0 to 4")),
        }
    }

    /// The rotated parts beside latent heads `query` and `key`.
    fn latent(&self, call: &Call, rope: &Rope, layout: Layout, query: &Grid, key: &Grid) -> Result<(Grid, Grid)> {
        if query.dim != LATENT || !LATENT_LAYOUTS.contains(&self.layout.as_str()) || self.lse.is_some() {
            return call.invalid(format!(
                "queryRope beside heads of {} in {}, softmaxLseFlag {}; the simulated CANN computes heads of {LATENT} in {}, false",
                query.dim,
                self.layout,
                self.lse.is_some(),
                LATENT_LAYOUTS.join(", ")
            ));
        }
        if self.key.len() != 1 || (!rope.newest && query.tokens > 16) {
            let text = format!("a list of {} keys, and {} queries a sequence", self.key.len(), query.tokens);
            return call.invalid(format!("{text}; with queryRope wanted one tensor, and before version 5 at most 16"));
        }
        for tensor in [&rope.query, &rope.key] {
            call.same_dtype(tensor, &self.query)?;
            if !tensor.is_contiguous() {
                return call.invalid(format!("{} is not contiguous, strides {:?}", tensor.name, tensor.strides));
            }
        }
        let part = |tensor: &Tensor, of: &Tensor, heads: usize, layout: Layout| {
            let mut shape = of.shape.clone();
            let merged = if layout == Layout::Bsh { heads } else { 1 };
            if let Some(width) = shape.last_mut() {
                *width = merged * ROTATED;
            }
            call.shape_is(tensor, &shape)?;
            Grid::new(call, tensor, layout, heads)
        };
        Ok((part(&rope.query, &self.query, query.heads, layout)?, part(&rope.key, &self.key[0], 1, key.layout())?))
    }

    fn output(&self, call: &Call, layout: Layout, query: &Grid, dim: usize) -> Result<Grid> {
        let layout = if self.layout == "BNSD_BSND" { Layout::Bsnd } else { layout };
        let (b, n, s) = (query.batch, query.heads, query.tokens);
        let shape = match layout {
            Layout::Bsh => vec![b, s, n * dim],
            Layout::Bsnd => vec![b, s, n, dim],
            Layout::Tnd => vec![s, n, dim],
            _ => vec![b, n, s, dim],
        };
        call.shape_is(&self.out, &shape)?;
        Grid::new(call, &self.out, layout, n)
    }

    fn lse_grid(&self, call: &Call, layout: Layout, query: &Grid) -> Result<Option<Grid>> {
        let Some(lse) = &self.lse else { return Ok(None) };
        call.dtype_in(lse, &[F32])?;
        let (layout, shape) = match layout {
            Layout::Tnd => (Layout::Tnd, vec![query.tokens, query.heads, 1]),
            _ => (Layout::Bnsd, vec![query.batch, query.heads, query.tokens, 1]),
        };
        call.shape_is(lse, &shape)?;
        Grid::new(call, lse, layout, query.heads).map(Some)
    }
}

/// Fills one row a query and head of a row-major copy of `grid`'s tensor, `default` elsewhere, and stores it.
pub(super) fn scatter(
    launch: &Launch,
    attention: &Attention,
    blocks: &[Block],
    grid: &Grid,
    default: f32,
    fill: impl Fn(&Block, usize, &mut [f32]),
) -> Result<()> {
    let mut values = vec![default; grid.tensor.count()];
    let packed = grid.row_major();
    for block in blocks {
        let span = attention.sequences[block.sequence].0;
        for at in 0..block.max.len() {
            let offset =
                packed.offset(span.batch, block.head + at / block.count, span.first + block.first + at % block.count);
            fill(block, at, &mut values[offset..][..grid.dim]);
        }
    }
    grid.tensor.store_f32(launch, &values)
}

/// Stores the outputs; queries past a sequence's length answer zero.
pub(super) fn store(launch: &Launch, attention: &Attention, blocks: &[Block], out: &Grid) -> Result<()> {
    scatter(launch, attention, blocks, out, 0.0, |block, at, to| {
        to.copy_from_slice(&block.output[at * out.dim..][..out.dim])
    })
}

/// Stores the logarithm of the sum of exponentials, infinity for queries that see no key.
fn store_lse(launch: &Launch, attention: &Attention, blocks: &[Block], lse: &Grid) -> Result<()> {
    scatter(launch, attention, blocks, lse, f32::INFINITY, |block, at, to| {
        to.fill(if block.sum[at] == 0.0 { f32::INFINITY } else { block.max[at] + block.sum[at].ln() });
    })
}
