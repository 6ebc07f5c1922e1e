use crate::arguments::*;
use crate::support::*;

/// The tensors of a call of two tokens and one head, zeros all of them, with the sizes that the page fixes.
struct Call {
    hidden: usize,
    heads: usize,
    down_query: Array,
    index: Vec<f64>,
    cache_block: usize,
    mode: &'static str,
}

fn zeros(shape: &[usize]) -> Array {
    array(BF16, shape, &vec![0.0; shape.iter().product()])
}

impl Call {
    /// Weights that are too small, so that what is refused before them is cheap to ask for.
    fn small() -> Self {
        Self {
            hidden: 7168,
            heads: 1,
            down_query: zeros(&[16, 16]),
            index: vec![0.0, 1.0],
            cache_block: 16,
            mode: "PA_BSND",
        }
    }

    fn run(&self) -> Result<(), (i32, String)> {
        let whole = self.down_query.told_shape().len() == 4;
        let weight = |k: usize, n: usize| if whole { blocks(BF16, k, n) } else { zeros(&[16, 16]) };
        run!(MlaProlog(
            &zeros(&[2, self.hidden]),
            &self.down_query,
            &weight(1536, self.heads * 192),
            &zeros(&[self.heads, 128, 512]),
            &weight(self.hidden, 576),
            &zeros(&[1536]),
            &zeros(&[512]),
            &zeros(&[2, 64]),
            &zeros(&[2, 64]),
            &array(I64, &[2], &self.index),
            &zeros(&[2, self.cache_block, 1, 512]),
            &zeros(&[2, self.cache_block, 1, 64]),
            Nothing,
            Nothing,
            Nothing,
            Nothing,
            Nothing,
            Nothing,
            Nothing,
            1e-6,
            1e-6,
            &text(self.mode),
            &output(BF16, &[2, self.heads, 512]),
            &output(BF16, &[2, self.heads, 64])
        ))
    }
}

#[test]
fn sizes_formats_and_modes_are_those_of_the_page() {
    refused(Call { hidden: 64, ..Call::small() }.run(), 161002, &["He is 64", "7168, 7680"]);
    refused(Call { heads: 3, ..Call::small() }.run(), 161002, &["N is 3"]);
    refused(Call { cache_block: 32, ..Call::small() }.run(), 161002, &["BlockSize is 32", "16, 128"]);
    refused(Call { mode: "PA_NZ", ..Call::small() }.run(), 161002, &["PA_NZ", "PA_BSND"]);
    refused(Call::small().run(), 161002, &["weight_dq", "format 2", "FRACTAL_NZ"]);
    let down_query = blocks(BF16, 1536, 7168);
    refused(
        Call { down_query, ..Call::small() }.run(),
        561002,
        &["weight_dq is a matrix [1536, 7168]", "[7168, 1536]"],
    );
}

#[test]
fn a_place_that_there_is_not_fails_the_stream() {
    let down_query = blocks(BF16, 7168, 1536);
    let mut call = Call { down_query, ..Call::small() };
    call.run().unwrap();
    call.index = vec![3.0, 32.0];
    refused(call.run(), 507015, &["cacheIndex of token 1 is 32", "32 places"]);
    call.index = vec![-1.0, 0.0];
    refused(call.run(), 507015, &["cacheIndex of token 0 is -1"]);
}

/// Version 3 of attention with rotated parts: two sequences of one query and 16 keys.
fn attention(
    heads: usize,
    (query_rope, key_rope): (Option<&Array>, Option<&Array>),
    mask: Option<&Array>,
    sparse_mode: i64,
) -> Result<(), (i32, String)> {
    let (query, out) = (zeros(&[2, heads, 1, 512]), output(BF16, &[2, heads, 1, 512]));
    let (keys, values) = (zeros(&[2, 1, 16, 512]), zeros(&[2, 1, 16, 512]));
    let raw = |array: Option<&Array>| Raw(array.map_or(std::ptr::null(), |array| array.handle.cast_const()));
    run!(FusedInferAttentionScoreV3(
        &query,
        &list(&[&keys]),
        &list(&[&values]),
        Nothing,
        raw(mask),
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
        raw(query_rope),
        raw(key_rope),
        Nothing,
        heads as i64,
        0.1,
        2147483647i64,
        2147483647i64,
        &text("BNSD"),
        1i64,
        sparse_mode,
        0i64,
        0i64,
        0i64,
        false,
        0i64,
        0i64,
        &out,
        Nothing
    ))
}

#[test]
fn rotated_parts_come_together_and_before_version_5_without_a_mask_of_keys() {
    let (query, key) = (zeros(&[2, 4, 1, 64]), zeros(&[2, 1, 16, 64]));
    attention(4, (Some(&query), Some(&key)), None, 0).unwrap();
    refused(attention(4, (Some(&query), None), None, 0), 161002, &["queryRope", "keyRope", "null"]);
    let mask = array(Bool, &[2, 1, 1, 16], &[0.0; 32]);
    refused(attention(4, (Some(&query), Some(&key)), Some(&mask), 0), 161002, &["sparseMode is 0 with attenMask"]);
    refused(attention(3, (Some(&query), Some(&key)), None, 0), 161002, &["numHeads 3", "power of two"]);
    let wide = zeros(&[2, 4, 1, 128]);
    refused(attention(4, (Some(&wide), Some(&key)), None, 0), 161002, &["query_rope", "[2, 4, 1, 128]"]);
}
