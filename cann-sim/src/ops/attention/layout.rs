//! Layouts of queries, keys and values, the sequences in them, and which key each query may see.

use crate::aclnn::{Call, Launch, Tensor};
use crate::dtype::DType::{Bool, I8, U8};
use crate::status::Result;

/// Order of batch (B), tokens (S, or T where the sequences lie one after the other), heads (N) and elements (D); H is N·D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Bsh,
    Sbh,
    Bsnd,
    Bnsd,
    Tnd,
}

impl Layout {
    /// Reads a layout that is one of `allowed`.
    pub(super) fn parse(call: &Call, text: &str, allowed: &[(&str, Layout)]) -> Result<Layout> {
        match allowed.iter().find(|(name, _)| *name == text) {
            Some((_, layout)) => Ok(*layout),
            None => {
                let names: Vec<_> = allowed.iter().map(|(name, _)| *name).collect();
                call.invalid(format!("inputLayout is {text:?}, wanted one of {}", names.join(", ")))
            }
        }
    }
}

/// A tensor of heads: its sizes, and the strides that reach a batch row, a head, a token and an element.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub tensor: Tensor,
    pub batch: usize,
    pub heads: usize,
    pub tokens: usize,
    pub dim: usize,
    layout: Layout,
    strides: [i64; 4],
}

/// Strides of batch, head, token and element of a tensor with strides `s`, whose heads have `dim` elements.
fn strides(layout: Layout, s: &[i64], dim: usize) -> [i64; 4] {
    let head = dim as i64 * s[s.len() - 1];
    match layout {
        Layout::Bsh => [s[0], head, s[1], s[2]],
        Layout::Sbh => [s[1], head, s[0], s[2]],
        Layout::Bsnd => [s[0], s[2], s[1], s[3]],
        Layout::Bnsd => [s[0], s[1], s[2], s[3]],
        Layout::Tnd => [0, s[1], s[0], s[2]],
    }
}

impl Grid {
    /// Reads `tensor` as `heads` heads in `layout`.
    pub(super) fn new(call: &Call, tensor: &Tensor, layout: Layout, heads: usize) -> Result<Self> {
        call.rank_in(tensor, if matches!(layout, Layout::Bsnd | Layout::Bnsd) { 4..=4 } else { 3..=3 })?;
        let shape = &tensor.shape;
        let width = shape[shape.len() - 1];
        let split = width.checked_div(heads).unwrap_or(0);
        let (merged, [batch, found, tokens, dim]) = match layout {
            Layout::Bsh => (true, [shape[0], heads, shape[1], split]),
            Layout::Sbh => (true, [shape[1], heads, shape[0], split]),
            Layout::Bsnd => (false, [shape[0], shape[2], shape[1], width]),
            Layout::Bnsd => (false, [shape[0], shape[1], shape[2], width]),
            Layout::Tnd => (false, [1, shape[1], shape[0], width]),
        };
        if found != heads || (merged && split * heads != width) {
            return call.invalid(format!("{} {shape:?} in layout {layout:?} does not hold {heads} heads", tensor.name));
        }
        let strides = strides(layout, &tensor.strides, dim);
        Ok(Self { tensor: tensor.clone(), batch, heads, tokens, dim, layout, strides })
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The same sizes over a row-major copy of the tensor.
    pub(super) fn row_major(&self) -> Self {
        let tensor = self.tensor.packed_view();
        let strides = strides(self.layout, &tensor.strides, self.dim);
        Self { tensor, strides, ..self.clone() }
    }

    /// Offset of a batch row's head's token from the first element.
    pub(super) fn offset(&self, batch: usize, head: usize, token: usize) -> usize {
        let [b, h, s, _] = self.strides;
        (batch as i64 * b + head as i64 * h + token as i64 * s) as usize
    }

    /// Strides between tokens and between elements.
    pub(super) fn matrix_strides(&self) -> (isize, isize) {
        (self.strides[2] as isize, self.strides[3] as isize)
    }
}

/// A run of tokens of one batch row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub batch: usize,
    pub first: usize,
    pub len: usize,
}

/// One span a batch row, of the lengths given (one for all, or at least one each), each of which must fit the row's own
/// number of `tokens`.
pub(super) fn spans(call: &Call, lengths: Option<&[i64]>, tokens: &[usize], name: &str) -> Result<Vec<Span>> {
    let rows = tokens.iter().copied().enumerate();
    let Some(lengths) = lengths.filter(|lengths| !lengths.is_empty()) else {
        return Ok(rows.map(|(batch, len)| Span { batch, first: 0, len }).collect());
    };
    if lengths.len() != 1 && lengths.len() < tokens.len() {
        return call.invalid(format!("{name} has {} lengths, wanted 1 or at least {}", lengths.len(), tokens.len()));
    }
    rows.map(|(batch, tokens)| {
        let len = lengths[if lengths.len() == 1 { 0 } else { batch }];
        match usize::try_from(len) {
            Ok(len) if len <= tokens => Ok(Span { batch, first: 0, len }),
            _ => call.invalid(format!("{name}[{batch}] is {len}, wanted 0 to {tokens}")),
        }
    })
    .collect()
}

/// The spans of sequences that lie one after the other, from the ends of each.
pub(super) fn packed_spans(call: &Call, ends: Option<&[i64]>, tokens: usize, name: &str) -> Result<Vec<Span>> {
    let Some(ends) = ends.filter(|ends| !ends.is_empty()) else {
        return call.invalid(format!("{name} is missing, which layout TND needs"));
    };
    let mut first = 0;
    let spans = ends.iter().map(|&end| match usize::try_from(end) {
        Ok(end) if end >= first && end <= tokens => {
            let span = Span { batch: 0, first, len: end - first };
            first = end;
            Ok(span)
        }
        _ => call.invalid(format!("{name} {ends:?} must not fall, nor pass {tokens}")),
    });
    let spans = spans.collect::<Result<Vec<_>>>()?;
    match first == tokens {
        true => Ok(spans),
        false => call.invalid(format!("{name} ends at {first}, wanted {tokens}, the number of tokens")),
    }
}

/// Which keys query `i` of `sq` sees among `skv`, before any mask tensor: those from `i + shift - before` to
/// `i + shift + after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Band {
    pub before: i64,
    pub after: i64,
    /// Whether the band starts at the last query and the last key instead of the first.
    pub from_end: bool,
}

impl Band {
    pub(super) const ALL: Band = Band { before: i64::MAX, after: i64::MAX, from_end: false };

    /// The half-open range of keys that query `i` sees.
    pub(super) fn range(&self, i: usize, sq: usize, skv: usize) -> (usize, usize) {
        let at = i as i64 + if self.from_end { skv as i64 - sq as i64 } else { 0 };
        let low = at.saturating_sub(self.before).clamp(0, skv as i64) as usize;
        let high = at.saturating_add(self.after).saturating_add(1).clamp(0, skv as i64) as usize;
        (low, high.max(low))
    }
}

/// A mask tensor as `[batch, heads, queries, keys]`, each of the first two 1 where it is shared; 1 hides a key.
#[derive(Clone, Debug)]
pub(super) struct Mask(Tensor);

impl Mask {
    /// Reads a mask of 2, 3 or 4 dimensions over `batch` rows of `queries` × `keys`; longer dimensions are padding.
    pub(super) fn new(
        call: &Call,
        tensor: &Tensor,
        batch: usize,
        heads: usize,
        queries: usize,
        keys: usize,
    ) -> Result<Self> {
        call.dtype_in(tensor, &[Bool, I8, U8])?;
        call.rank_in(tensor, 2..=4)?;
        let view = match tensor.rank() {
            // A decoding query's mask may leave out the dimension of the single query.
            2 if queries == 1 && tensor.shape[0] == batch => tensor.unsqueezed_view(1).unsqueezed_view(1),
            2 => tensor.unsqueezed_view(0).unsqueezed_view(0),
            3 => tensor.unsqueezed_view(1),
            _ => tensor.clone(),
        };
        let [b, n, s, t] = [view.shape[0], view.shape[1], view.shape[2], view.shape[3]];
        if (b != 1 && b != batch) || (n != 1 && n != heads) || s < queries || t < keys {
            let text = format!(
                "{} {:?} does not cover {batch} × {queries} queries and {keys} keys",
                tensor.name, tensor.shape
            );
            return call.invalid(text);
        }
        Ok(Self(view))
    }

    /// The mask's bytes, row-major, in a form that answers for single keys.
    pub(super) fn load(&self, launch: &Launch) -> Result<LoadedMask> {
        let bytes = self.0.load_i64(launch)?.into_iter().map(|value| value != 0).collect();
        Ok(LoadedMask { hidden: bytes, shape: [self.0.shape[0], self.0.shape[1], self.0.shape[2], self.0.shape[3]] })
    }
}

/// A mask on the host.
pub(super) struct LoadedMask {
    hidden: Vec<bool>,
    shape: [usize; 4],
}

impl LoadedMask {
    /// The keys of one query, `true` where hidden.
    pub(super) fn row(&self, batch: usize, head: usize, query: usize) -> &[bool] {
        let [b, n, s, t] = self.shape;
        let (batch, head) = (if b == 1 { 0 } else { batch }, if n == 1 { 0 } else { head });
        &self.hidden[((batch * n + head) * s + query) * t..][..t]
    }
}

/// The compressed mask of the causal and band modes: 2048 × 2048, its content given by the mode.
pub(super) fn check_compressed(call: &Call, mask: Option<&Tensor>, sparse_mode: i64) -> Result<()> {
    let Some(mask) = mask else {
        return call.invalid(format!("sparseMode {sparse_mode} needs attenMask, which is null"));
    };
    call.dtype_in(mask, &[Bool, I8, U8])?;
    let (last, rest) = mask.shape.split_at(mask.rank().saturating_sub(2));
    if rest != [2048, 2048] || last.iter().any(|&size| size != 1) || last.len() > 2 {
        return call
            .invalid(format!("attenMask is {:?}, wanted [2048, 2048] for sparseMode {sparse_mode}", mask.shape));
    }
    Ok(())
}
