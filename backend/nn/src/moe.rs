//! Products of tokens with the matrices of the experts that they were sent to.

use candle_ascend::quantized::{QMatMul, QStorage, QTensor};
use candle_ascend::{DType, Module, Result, Tensor, bail};
use std::borrow::Cow;
use std::ops::Range;

/// For each of the `T · topk` assignments, its token times its expert's matrix: `[T · topk, N]`.
///
/// `weights` is `[experts, N, K]`. `experts_ids` (U32) are the experts of all assignments in ascending order and
/// `sorted_token_ids` (U32) which assignment each is; assignment `a` is of token `a / topk`. `input` is `[T, K]`, or, with
/// `topk_weights` (one an assignment, by which the result is scaled), `[T · topk, K]`: a row an assignment. The host
/// reads the assignments.
pub fn moe_gemm(
    input: &Tensor,
    weights: &Tensor,
    topk_weights: &Option<Tensor>,
    sorted_token_ids: &Tensor,
    experts_ids: &Tensor,
    topk: usize,
    _is_prefill: bool,
) -> Result<Tensor> {
    let (experts, _, width) = weights.dims3()?;
    let routed = Routed::new(input, (experts, width), topk_weights, sorted_token_ids, experts_ids, topk)?;
    routed.apply(|expert, rows| rows.matmul(&weights.get(expert)?.t()?))
}

/// As [`moe_gemm`] for blocks; `input` is F32 and the result of type `dtype`.
#[allow(clippy::too_many_arguments)]
pub fn moe_gemm_gguf(
    input: &Tensor,
    weights: &QTensor,
    topk_weights: &Option<Tensor>,
    sorted_token_ids: &Tensor,
    experts_ids: &Tensor,
    topk: usize,
    _is_prefill: bool,
    dtype: DType,
) -> Result<Tensor> {
    let (experts, outputs, width) = weights.shape().dims3()?;
    let routed = Routed::new(input, (experts, width), topk_weights, sorted_token_ids, experts_ids, topk)?;
    let data = weights.data()?;
    let bytes = data.len() / experts.max(1);
    let multiply = |expert: usize, rows: &Tensor| {
        let blocks = Cow::Borrowed(&data[expert * bytes..(expert + 1) * bytes]);
        let storage = QStorage::from_data(blocks, &weights.device(), weights.dtype())?;
        QMatMul::from_qtensor(QTensor::new(storage, (outputs, width))?)?.forward(rows)
    };
    routed.apply(multiply)?.to_dtype(dtype)
}

/// Rows in the order of their experts.
struct Routed {
    rows: Tensor,
    /// Each expert that has rows, and which.
    runs: Vec<(usize, Range<usize>)>,
    /// Where the result of each assignment lies among the rows.
    places: Tensor,
    scale: Option<Tensor>,
}

impl Routed {
    fn new(
        input: &Tensor,
        (experts, width): (usize, usize),
        topk_weights: &Option<Tensor>,
        sorted_token_ids: &Tensor,
        experts_ids: &Tensor,
        topk: usize,
    ) -> Result<Self> {
        let assignments = sorted_token_ids.flatten_all()?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        let chosen = experts_ids.flatten_all()?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        let count = assignments.len();
        let (tokens, input_width) = input.dims2()?;
        let wanted = if topk_weights.is_some() { count } else { count / topk.max(1) };
        if topk == 0 || chosen.len() != count || tokens != wanted || input_width != width {
            bail!(
                "moe_gemm: input {:?}, {count} assignments, {} experts' indexes, top {topk} and matrices of {width} \
                 columns do not fit",
                input.shape(),
                chosen.len()
            )
        }
        let mut places = vec![u32::MAX; count];
        for (place, &assignment) in assignments.iter().enumerate() {
            match places.get_mut(assignment as usize) {
                Some(free) if *free == u32::MAX => *free = place as u32,
                _ => bail!("moe_gemm: assignment {assignment} of {count} is out of range or there twice"),
            }
        }
        let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
        for (place, expert) in chosen.into_iter().map(|expert| expert as usize).enumerate() {
            match runs.last_mut() {
                Some((last, run)) if *last == expert => run.end = place + 1,
                Some((last, _)) if *last > expert => bail!("moe_gemm: the experts' indexes are not in ascending order"),
                _ if expert >= experts => bail!("moe_gemm: expert {expert} of {experts} is out of range"),
                _ => runs.push((expert, place..place + 1)),
            }
        }
        let sources = if topk_weights.is_some() { 1 } else { topk as u32 };
        let sources: Vec<u32> = assignments.iter().map(|assignment| assignment / sources).collect();
        let rows = input.index_select(&Tensor::new(sources, input.device())?, 0)?;
        let places = Tensor::new(places, input.device())?;
        let scale = topk_weights.as_ref().map(|weights| weights.reshape((count, 1))).transpose()?;
        Ok(Self { rows, runs, places, scale })
    }

    /// The product of each run, put back in the order of the assignments.
    fn apply(&self, multiply: impl Fn(usize, &Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let products = self
            .runs
            .iter()
            .map(|(expert, run)| multiply(*expert, &self.rows.narrow(0, run.start, run.len())?))
            .collect::<Result<Vec<_>>>()?;
        let product = Tensor::cat(&products, 0)?.index_select(&self.places, 0)?;
        match &self.scale {
            Some(scale) => product.broadcast_mul(&scale.to_dtype(product.dtype())?),
            None => Ok(product),
        }
    }
}
