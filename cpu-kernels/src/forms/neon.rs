//! The 128-bit vectors that every 64-bit ARM has.

use super::vector::{self, Vector, Widen, Widening};
use super::{Ahead, Panel, Sink, panel};
use crate::{Matrix, Rows};
use half::{bf16, f16};
use std::arch::aarch64::*;

impl Vector for float32x4_t {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the trait's demand, here and below: the machine has the instruction, the pointer is good.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { vst1q_f32(to, self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { vfmaq_f32(self, a, b) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { vaddq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        // SAFETY: as above.
        unsafe { vaddvq_f32(self) }
    }
}

impl Widen<f32> for float32x4_t {
    #[inline(always)]
    unsafe fn widen(from: *const f32) -> Self {
        // SAFETY: the trait's demand.
        unsafe { vld1q_f32(from) }
    }
}

impl Widen<bf16> for float32x4_t {
    #[inline(always)]
    unsafe fn widen(from: *const bf16) -> Self {
        // SAFETY: the trait's demand.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }
}

impl Widen<f16> for float32x4_t {
    #[inline(always)]
    unsafe fn widen(from: *const f16) -> Self {
        // SAFETY: the trait's demand.
        let wide = unsafe { [*from, *from.add(1), *from.add(2), *from.add(3)] }.map(f16::to_f32);
        // SAFETY: as above.
        unsafe { vld1q_f32(wide.as_ptr()) }
    }
}

macro_rules! kernels {
    ($($ty:ty: $dots:ident, $mix:ident;)*) => { $(
        pub(super) fn $dots(x: Rows<f32>, w: Rows<$ty>, sink: &mut Sink) {
            // SAFETY: every 64-bit ARM has the instructions.
            unsafe { vector::dots::<Widening<float32x4_t, $ty>, 4, 4>(x, w, sink) }
        }

        pub(super) fn $mix(p: Rows<f32>, v: Rows<$ty>, out: &mut [f32]) {
            // SAFETY: as above.
            unsafe { vector::mix::<float32x4_t, $ty, 4, 4>(p, v, out) }
        }
    )* };
}

kernels! {
    f32: dots_f32, mix_f32;
    bf16: dots_bf16, mix_bf16;
    f16: dots_f16, mix_f16;
}

pub(super) fn sums(rows: Panel, w: Matrix, to: &mut [f32], ahead: &mut Ahead) {
    // SAFETY: as above.
    unsafe { panel::sums::<float32x4_t, 4, 6>(rows, w, to, ahead) }
}
