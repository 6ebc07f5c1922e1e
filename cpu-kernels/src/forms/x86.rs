//! AVX2 and AVX-512.

use super::vector::{self, Step, Vector, Widen, Widening};
use super::{Ahead, Panel, Sink, panel};
use crate::{Matrix, Rows};
use half::{bf16, f16};
use std::arch::x86_64::*;

macro_rules! unit {
    (
        $vector:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $add_product:ident, $add:ident, $total:path,
        $bf16:expr, $f16:expr
    ) => {
        impl Vector for $vector {
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the trait's demand, here and below: the machine has the instruction, the pointer is good.
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above.
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            unsafe fn add_product(self, a: Self, b: Self) -> Self {
                // SAFETY: as above.
                unsafe { $add_product(a, b, self) }
            }

            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $add(self, other) }
            }

            #[inline(always)]
            unsafe fn total(self) -> f32 {
                // SAFETY: as above.
                unsafe { $total(self) }
            }
        }

        impl Widen<f32> for $vector {
            #[inline(always)]
            unsafe fn widen(from: *const f32) -> Self {
                // SAFETY: the trait's demand.
                unsafe { $load(from) }
            }
        }

        impl Widen<bf16> for $vector {
            #[inline(always)]
            unsafe fn widen(from: *const bf16) -> Self {
                // SAFETY: the trait's demand.
                unsafe { $bf16(from) }
            }
        }

        impl Widen<f16> for $vector {
            #[inline(always)]
            unsafe fn widen(from: *const f16) -> Self {
                // SAFETY: the trait's demand.
                unsafe { $f16(from) }
            }
        }
    };
}

unit!(
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_reduce_add_ps,
    |from: *const bf16| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(
        from.cast()
    )))),
    |from: *const f16| _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
);

unit!(
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    total_of_8,
    |from: *const bf16| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(
        from.cast()
    )))),
    |from: *const f16| _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))
);

#[inline]
#[target_feature(enable = "avx2,fma")]
fn total_of_8(sums: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Products of pairs of BF16, summed in `f32`. The instruction takes a subnormal BF16 for zero and flushes subnormal sums:
/// an error below 2⁻¹²⁶ in absolute size.
struct Pairs;

impl Step for Pairs {
    type X = bf16;
    type W = bf16;
    type Xs = __m512bh;
    type Ws = __m512bh;
    type Sums = __m512;
    const LENGTH: usize = 32;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: the trait's demand, here and below: the machine has the instruction, the pointer is good.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn x(from: *const bf16) -> __m512bh {
        // SAFETY: as above; the register is named by another type.
        unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn w(from: *const bf16) -> __m512bh {
        // SAFETY: as above.
        unsafe { Self::x(from) }
    }

    #[inline(always)]
    unsafe fn add(sums: __m512, x: __m512bh, w: __m512bh) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_dpbf16_ps(sums, x, w) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m512) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_add_ps(sums) }
    }
}

macro_rules! kernels {
    ($features:literal, $vector:ty, $rows:literal x $columns:literal, mix $m_rows:literal x $m_columns:literal,
     $sums:ident $s_rows:literal x $s_columns:literal,
     $($ty:ty: $dots:ident, $mix:ident;)*) => { $(
        pub(super) fn $dots(x: Rows<f32>, w: Rows<$ty>, sink: &mut Sink) {
            #[target_feature(enable = $features)]
            fn on_unit(x: Rows<f32>, w: Rows<$ty>, sink: &mut Sink) {
                // SAFETY: the instructions are enabled here.
                unsafe { vector::dots::<Widening<$vector, $ty>, $rows, $columns>(x, w, sink) }
            }
            // SAFETY: `Form` names this kernel only where the machine has the features.
            unsafe { on_unit(x, w, sink) }
        }

        pub(super) fn $mix(p: Rows<f32>, v: Rows<$ty>, out: &mut [f32]) {
            #[target_feature(enable = $features)]
            fn on_unit(p: Rows<f32>, v: Rows<$ty>, out: &mut [f32]) {
                // SAFETY: the instructions are enabled here.
                unsafe { vector::mix::<$vector, $ty, $m_rows, $m_columns>(p, v, out) }
            }
            // SAFETY: `Form` names this kernel only where the machine has the features.
            unsafe { on_unit(p, v, out) }
        }
    )*
        pub(super) fn $sums(rows: Panel, w: Matrix, to: &mut [f32], ahead: &mut Ahead) {
            #[target_feature(enable = $features)]
            fn on_unit(rows: Panel, w: Matrix, to: &mut [f32], ahead: &mut Ahead) {
                // SAFETY: the instructions are enabled here.
                unsafe { panel::sums::<$vector, $s_rows, $s_columns>(rows, w, to, ahead) }
            }
            // SAFETY: `Form` names this kernel only where the machine has the features.
            unsafe { on_unit(rows, w, to, ahead) }
        }
    };
}

// Tiles fill the registers: 32 of 512 bits, 16 of 256.
kernels! { "avx512f,avx512bw,avx512vl,avx512dq", __m512, 4 x 6, mix 4 x 4, sums_avx512 4 x 6,
    f32: dots_f32_avx512, mix_f32_avx512;
    bf16: dots_bf16_avx512, mix_bf16_avx512;
    f16: dots_f16_avx512, mix_f16_avx512;
}
kernels! { "avx2,fma,f16c", __m256, 2 x 4, mix 2 x 4, sums_avx2 2 x 6,
    f32: dots_f32_avx2, mix_f32_avx2;
    bf16: dots_bf16_avx2, mix_bf16_avx2;
    f16: dots_f16_avx2, mix_f16_avx2;
}

pub(super) fn dots_pairs(x: Rows<bf16>, w: Rows<bf16>, sink: &mut Sink) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    fn on_unit(x: Rows<bf16>, w: Rows<bf16>, sink: &mut Sink) {
        // SAFETY: the instructions are enabled here.
        unsafe { vector::dots::<Pairs, 4, 6>(x, w, sink) }
    }
    // SAFETY: `Form` names this kernel only where the machine has the features.
    unsafe { on_unit(x, w, sink) }
}
