//! Latent attention of one token a sequence, where the device does what stands before it in one launch and attention in another.

use super::AttentionMask;
use super::kernels::overrides;
use super::npu::{on_npu, tensor};
use crate::npu;
use crate::{DType, Result, Storage, Tensor, bail};

/// A layer's weights up to its attention; shapes by the letters H hidden width, C the queries' latent width, L the keys', N heads
/// of D elements without position and R rotated ones. Rotated rows of the weights pair neighbours.
#[derive(Clone, Copy, Debug)]
pub struct LatentWeights<'a> {
    /// `[C, H]`
    pub down_query: &'a Tensor,
    /// `[N · (D + R), C]`, each head's rotated rows last.
    pub up_query: &'a Tensor,
    /// `[L + R, H]`
    pub down_key: &'a Tensor,
    /// `[N, D, L]`
    pub up_key: &'a Tensor,
    /// `[C]`
    pub query_norm: &'a Tensor,
    /// `[L]`
    pub key_norm: &'a Tensor,
    pub eps: f64,
}

/// Where the tokens of a step stand.
#[derive(Clone, Copy, Debug)]
pub struct LatentPlaces<'a> {
    /// Their rows of the cache, counted over all sequences, `[B, 1]` in I64.
    pub places: &'a Tensor,
    /// `[B, 1, R]`, both halves of a row alike.
    pub cos: &'a Tensor,
    pub sin: &'a Tensor,
    /// Which rows a sequence does not see.
    pub mask: AttentionMask<'a>,
}

/// A layer's weights as the device's operators want them: a second copy of the projections, in blocks.
pub struct LatentStep {
    shape: npu::LatentShape,
    down_query: Tensor,
    up_query: Tensor,
    down_key: Tensor,
    up_key: Tensor,
    query_norm: Tensor,
    key_norm: Tensor,
    eps: f64,
}

impl LatentStep {
    /// None where the device, the release of its software, or the operators' pages do not take these weights.
    pub fn new(weights: LatentWeights<'_>) -> Result<Option<Self>> {
        let LatentWeights { down_query, up_query, down_key, up_key, query_norm, key_norm, eps } = weights;
        let ((query_latent, hidden), (heads, nope, latent)) = (down_query.dims2()?, up_key.dims3()?);
        let rope = down_key.dim(0)?.saturating_sub(latent);
        let shape = npu::LatentShape { hidden, query_latent, latent, heads, nope, rope };
        let all = [down_query, up_query, down_key, up_key, query_norm, key_norm];
        let fits = shape.fits() && all.iter().all(|tensor| tensor.dtype() == DType::BF16);
        let here = fits && on_npu([down_query], |[(storage, _)]| Ok(storage.has_latent_step()))? == Some(true);
        if !here {
            return Ok(None);
        }
        if up_query.dims() != [heads * (nope + rope), query_latent] || down_key.dims() != [latent + rope, hidden] {
            bail!("latent-step: weights {:?} and {:?} do not fit {shape:?}", up_query.shape(), down_key.shape())
        }
        Ok(Some(Self {
            shape,
            down_query: in_blocks(down_query)?,
            up_query: in_blocks(up_query)?,
            down_key: in_blocks(down_key)?,
            up_key: up_key.contiguous()?,
            query_norm: query_norm.contiguous()?,
            key_norm: key_norm.contiguous()?,
            eps,
        }))
    }

    /// Attention of tokens `x` `[B, 1, H]` over the latent rows `[B, 1, S, L]` and the rotated keys `[B, 1, S, R]` of their
    /// sequences, to which their own are written first: `[B, 1, N, L]`. Two launches. None where operators are to be decomposed, or
    /// not of these tensors; nothing is written then.
    pub fn attend(
        &self,
        x: &Tensor,
        at: LatentPlaces<'_>,
        (rows, turned): (&Tensor, &Tensor),
        scale: f64,
    ) -> Result<Option<Tensor>> {
        let ((batch, tokens, hidden), (rows_of, one, capacity, latent)) = (x.dims3()?, rows.dims4()?);
        let AttentionMask::Hidden(hidden_keys) = at.mask else { return Ok(None) };
        let cached = (rows_of, one, latent) == (batch, 1, self.shape.latent)
            && turned.dims() == [batch, 1, capacity, self.shape.rope]
            && rows.is_contiguous()
            && turned.is_contiguous();
        let mask = hidden_keys.mask();
        if !overrides() || tokens != 1 || hidden != self.shape.hidden || !npu::LatentShape::fits_cache(capacity) {
            return Ok(None);
        }
        if !cached || at.places.dims() != [batch, 1] || mask.dims() != [batch, capacity] {
            bail!(
                "latent-step: caches {:?} and {:?}, places {:?} and a mask {:?} do not fit {batch} sequences",
                rows.shape(),
                turned.shape(),
                at.places.shape(),
                mask.shape()
            )
        }
        let (x, cos, sin, mask) = (x.contiguous()?, at.cos.contiguous()?, at.sin.contiguous()?, mask.contiguous()?);
        // The caches are written in place.
        let (rows_guard, turned_guard) = (rows.storage_mut(), turned.storage_mut());
        let (places_guard, mask_guard) = (at.places.storage(), mask.storage());
        let (Storage::Npu(rows_storage), Storage::Npu(turned_storage), Storage::Npu(places), Storage::Npu(hidden)) =
            (&*rows_guard, &*turned_guard, &*places_guard, &*mask_guard)
        else {
            return Ok(None);
        };
        let caches = ((rows_storage, rows.layout()), (turned_storage, turned.layout()));
        let operands = [
            &x,
            &cos,
            &sin,
            &self.down_query,
            &self.up_query,
            &self.down_key,
            &self.up_key,
            &self.query_norm,
            &self.key_norm,
        ];
        let launched =
            on_npu(operands, |[x, cos, sin, down_query, up_query, down_key, up_key, query_norm, key_norm]| {
                let step = npu::LatentStep {
                    shape: self.shape,
                    down_query: down_query.0,
                    up_query: up_query.0,
                    down_key: down_key.0,
                    up_key,
                    query_norm,
                    key_norm,
                    eps: self.eps,
                };
                let places = (places, at.places.layout());
                let (query, turned_query) = x.0.latent_queries(x.1, &step, [cos, sin], places, caches)?;
                query.latent_attention(&turned_query, self.shape, caches, (hidden, mask.layout()), scale)
            })?;
        Ok(launched.map(|out| tensor(out, &[batch, 1, self.shape.heads, self.shape.latent])))
    }
}

/// A weight `[n, k]` as the matrix `[k, n]` in blocks of 16 × 16, `[n/16, k/16, 16, 16]`, as the cube cores read it.
fn in_blocks(weight: &Tensor) -> Result<Tensor> {
    let (outputs, inner) = weight.dims2()?;
    weight.contiguous()?.reshape((outputs / 16, 16, inner / 16, 16))?.permute((0, 2, 3, 1))?.contiguous()
}
