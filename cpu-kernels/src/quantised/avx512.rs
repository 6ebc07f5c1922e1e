//! Sixteen rows a register, with the byte products of AVX512-VNNI.

use super::activations::{Activations, Group};
use super::format::{Format, Scaling};
use super::plain::Layout;
use super::tiles::{Line, Part, ROWS, record, small_at};
use std::arch::x86_64::*;

const LANES: usize = 16;
type I32 = __m512i;
type F32 = __m512;

super::vector::tile_form!("avx512f,avx512bw,avx512vnni");

/// The vector operations that the form is written in.
macro_rules! operations {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty { $body:expr })*) => { $(
        $(#[$doc])*
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn $name($($arg: $ty),*) -> $out {
            $body
        }
    )* };
}

operations! {
    fn load(line: &Line, _side: usize) -> I32 {
        // SAFETY: a line is 64 aligned bytes.
        unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
    }
    fn low(x: I32) -> I32 { _mm512_and_si512(x, _mm512_set1_epi8(15)) }
    fn high(x: I32) -> I32 { _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15)) }
    fn or(a: I32, b: I32) -> I32 { _mm512_or_si512(a, b) }
    /// Bit `j` of each byte, as its bit 4.
    fn fifth(x: I32, j: usize) -> I32 {
        _mm512_and_si512(
            if j < 4 { _mm512_sll_epi16(x, count(4 - j)) } else { _mm512_srl_epi16(x, count(j - 4)) },
            _mm512_set1_epi8(16),
        )
    }
    /// Bits `2j` and `2j + 1` of each byte, as its bits 4 and 5.
    fn upper(x: I32, j: usize) -> I32 {
        _mm512_and_si512(
            if j < 2 { _mm512_sll_epi16(x, count(4 - 2 * j)) } else { _mm512_srl_epi16(x, count(2 * j - 4)) },
            _mm512_set1_epi8(48),
        )
    }
    fn count(bits: usize) -> __m128i { _mm_cvtsi32_si128(bits as i32) }
    /// Adds to each row the products of its four bytes, unsigned with signed.
    fn dot(_format: Format, sum: I32, weights: I32, x: I32) -> I32 { _mm512_dpbusd_epi32(sum, weights, x) }
    fn add(a: I32, b: I32) -> I32 { _mm512_add_epi32(a, b) }
    fn splat(x: i32) -> I32 { _mm512_set1_epi32(x) }
    fn splat_f32(x: f32) -> F32 { _mm512_set1_ps(x) }
    fn to_f32(x: I32) -> F32 { _mm512_cvtepi32_ps(x) }
    fn mul(a: F32, b: F32) -> F32 { _mm512_mul_ps(a, b) }
    fn fma(a: F32, b: F32, c: F32) -> F32 { _mm512_fmadd_ps(a, b, c) }
    fn halves(bytes: &[u8]) -> F32 {
        // SAFETY: the slice has two bytes a lane.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes[..2 * LANES].as_ptr().cast()) })
    }
    fn unsigned(bytes: &[u8]) -> F32 {
        // SAFETY: the slice has a byte a lane.
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes[..LANES].as_ptr().cast()) }))
    }
    fn signed(bytes: &[u8]) -> F32 {
        // SAFETY: the slice has a byte a lane.
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(bytes[..LANES].as_ptr().cast()) }))
    }
    fn store(x: F32, out: &mut [f32]) -> () {
        // SAFETY: the slice has a number a lane.
        unsafe { _mm512_storeu_ps(out[..LANES].as_mut_ptr(), x) }
    }
    fn zero_of(format: Format) -> i32 { format.zero() }
}
