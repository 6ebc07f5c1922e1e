//! Eight rows a register: AVX2 alone, and with the byte products of AVX-VNNI.

/// A form for `$features`, with its product of bytes, and the integer that means zero in that product.
macro_rules! form {
    ($name:ident, $features:literal, $dot:expr, $zero:expr) => {
        pub mod $name {
            use crate::quantised::activations::{Activations, Group};
            use crate::quantised::format::{Format, Scaling};
            use crate::quantised::plain::Layout;
            use crate::quantised::tiles::{Line, Part, ROWS, record, small_at};
            use std::arch::x86_64::*;

            const LANES: usize = 8;
            type I32 = __m256i;
            type F32 = __m256;

            crate::quantised::vector::tile_form!($features);

            operations! { $features;
                fn load(line: &Line, side: usize) -> I32 {
                    // SAFETY: a line is 64 aligned bytes, of which side 0 and 1 are the halves.
                    unsafe { _mm256_load_si256(line.0[side * LANES..][..LANES].as_ptr().cast()) }
                }
                fn low(x: I32) -> I32 { _mm256_and_si256(x, _mm256_set1_epi8(15)) }
                fn high(x: I32) -> I32 { _mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15)) }
                fn or(a: I32, b: I32) -> I32 { _mm256_or_si256(a, b) }
                fn fifth(x: I32, j: usize) -> I32 {
                    _mm256_and_si256(
                        if j < 4 { _mm256_sll_epi16(x, count(4 - j)) } else { _mm256_srl_epi16(x, count(j - 4)) },
                        _mm256_set1_epi8(16),
                    )
                }
                fn upper(x: I32, j: usize) -> I32 {
                    _mm256_and_si256(
                        if j < 2 { _mm256_sll_epi16(x, count(4 - 2 * j)) } else { _mm256_srl_epi16(x, count(2 * j - 4)) },
                        _mm256_set1_epi8(48),
                    )
                }
                fn count(bits: usize) -> __m128i { _mm_cvtsi32_si128(bits as i32) }
                fn dot(format: Format, sum: I32, weights: I32, x: I32) -> I32 { $dot(format, sum, weights, x) }
                fn add(a: I32, b: I32) -> I32 { _mm256_add_epi32(a, b) }
                fn splat(x: i32) -> I32 { _mm256_set1_epi32(x) }
                fn splat_f32(x: f32) -> F32 { _mm256_set1_ps(x) }
                fn to_f32(x: I32) -> F32 { _mm256_cvtepi32_ps(x) }
                fn mul(a: F32, b: F32) -> F32 { _mm256_mul_ps(a, b) }
                fn fma(a: F32, b: F32, c: F32) -> F32 { _mm256_fmadd_ps(a, b, c) }
                fn halves(bytes: &[u8]) -> F32 {
                    // SAFETY: the slice has two bytes a lane.
                    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes[..2 * LANES].as_ptr().cast()) })
                }
                fn unsigned(bytes: &[u8]) -> F32 {
                    // SAFETY: the slice has a byte a lane.
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(bytes[..LANES].as_ptr().cast()) }))
                }
                fn signed(bytes: &[u8]) -> F32 {
                    // SAFETY: the slice has a byte a lane.
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(bytes[..LANES].as_ptr().cast()) }))
                }
                fn store(x: F32, out: &mut [f32]) -> () {
                    // SAFETY: the slice has a number a lane.
                    unsafe { _mm256_storeu_ps(out[..LANES].as_mut_ptr(), x) }
                }
                fn zero_of(format: Format) -> i32 { $zero(format) }
            }
        }
    };
}

macro_rules! operations {
    ($features:literal; $(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty { $body:expr })*) => { $(
        #[inline]
        #[target_feature(enable = $features)]
        fn $name($($arg: $ty),*) -> $out {
            $body
        }
    )* };
}

form!(
    avx2,
    "avx2,fma,f16c",
    |format: Format, sum, weights, x| {
        // Pairs of products are added in 16 bits, which two of 255·127 do not fit: bytes of eight bits go in as their size,
        // with their sign on the other side. Fewer bits fit as they are.
        let pairs = if format.bits() == 8 {
            let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights))
        } else {
            _mm256_maddubs_epi16(weights, x)
        };
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    },
    |format: Format| if format.bits() == 8 { 0 } else { format.zero() }
);

form!(
    avx_vnni,
    "avx2,fma,f16c,avxvnni",
    |_: Format, sum, weights, x| _mm256_dpbusd_avx_epi32(sum, weights, x),
    |format: Format| format.zero()
);
