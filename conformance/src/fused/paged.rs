//! Attention of one query a sequence over keys that lie in blocks of a pool.

use super::attention::{attend, rounded_weights};
use super::{Case, Operator, uniform, whole};
use crate::array::{Array, DType};
use candle_ascend::ops;

static PAGED: Operator = Operator { name: "attention, paged", aclnn: &[], ours: &["paged_decode", "mla_decode"] };

/// Sizes of a pool and of the sequences in it.
#[derive(Clone, Copy, Debug)]
struct Pool {
    heads: usize,
    key_heads: usize,
    width: usize,
    value_width: usize,
    block: usize,
    lengths: &'static [usize],
}

/// Blocks and a rest, no token, one full block; one token; many blocks, which several cores share; keys wider than values.
const POOLS: [Pool; 6] = [
    Pool { heads: 4, key_heads: 2, width: 64, value_width: 64, block: 16, lengths: &[37, 0, 16] },
    Pool { heads: 8, key_heads: 1, width: 128, value_width: 128, block: 32, lengths: &[1, 100] },
    Pool { heads: 2, key_heads: 2, width: 256, value_width: 256, block: 48, lengths: &[130] },
    Pool { heads: 6, key_heads: 2, width: 128, value_width: 128, block: 128, lengths: &[128, 129, 5, 300] },
    Pool { heads: 2, key_heads: 1, width: 64, value_width: 64, block: 128, lengths: &[1900] },
    Pool { heads: 5, key_heads: 1, width: 576, value_width: 512, block: 64, lengths: &[70, 9] },
];

pub fn cases(dtype: DType) -> Vec<Case> {
    POOLS.iter().map(|pool| pool.case(dtype)).collect()
}

impl Pool {
    fn blocks(&self) -> usize {
        self.lengths.iter().map(|length| length.div_ceil(self.block)).sum::<usize>() + 2
    }

    fn entries(&self) -> usize {
        self.lengths.iter().map(|length| length.div_ceil(self.block)).max().unwrap_or_default() + 1
    }

    /// The blocks of each sequence, from the last of the pool down by turns; behind those in use an entry points nowhere.
    fn table(&self) -> Vec<usize> {
        let (blocks, mut next) = (self.blocks(), 0);
        let mut table = Vec::new();
        for length in self.lengths {
            let used = length.div_ceil(self.block);
            // Odd steps through the pool keep blocks apart that follow each other.
            let mut of_sequence: Vec<usize> = (0..used).map(|i| blocks - 1 - (next + i)).collect();
            of_sequence.rotate_left(used / 2);
            next += used;
            of_sequence.resize(self.entries(), u32::MAX as usize);
            table.extend(of_sequence);
        }
        table
    }

    fn case(self, dtype: DType) -> Case {
        let Self { heads, key_heads, width, value_width, block, lengths } = self;
        let (blocks, entries, batch) = (self.blocks(), self.entries(), lengths.len());
        let scale = (width as f64).powf(-0.5);
        let inputs = vec![
            uniform(dtype, &[batch, heads, width], 2.0),
            uniform(dtype, &[blocks, key_heads, block, width], 2.0),
            uniform(dtype, &[blocks, key_heads, block, value_width], 2.0),
            whole(DType::U32, &[batch, entries], self.table()),
            whole(DType::U32, &[batch], lengths.iter().copied()),
        ];
        let label = format!("{lengths:?} in blocks of {block}, {heads} heads over {key_heads}, {width}/{value_width}");
        let call = move |x: &[candle_ascend::Tensor]| {
            Ok(vec![ops::paged_attention(&x[0], &x[1], &x[2], &x[3], &x[4], scale)?])
        };
        let loops = move |x: &[Array]| {
            let one = |at: usize| {
                let (b, group) = (at / heads, at % heads / (heads / key_heads));
                let place = |token: usize| {
                    let of_pool = x[3].data[b * entries + token / block] as usize;
                    (of_pool * key_heads + group) * block + token % block
                };
                if lengths[b] == 0 {
                    return vec![0.0; value_width];
                }
                let keys: Vec<&[f64]> =
                    (0..lengths[b]).map(|token| &x[1].data[place(token) * width..][..width]).collect();
                let value = |token: usize| &x[2].data[place(token) * value_width..][..value_width];
                let values: Vec<&[f64]> = (0..lengths[b]).map(value).collect();
                attend(&x[0].data[at * width..][..width], &keys, &values, scale)
            };
            vec![Array::new(dtype, [batch, heads, value_width], (0..batch * heads).flat_map(one).collect())]
        };
        rounded_weights(Case::new((&PAGED, dtype), label, inputs, call, loops))
    }
}
