//! The vector units that kernels are written for.

mod ahead;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod panel;
mod plain;
mod rowwise;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use ahead::Ahead;
pub use rowwise::Decayed;

use crate::{Matrix, Rows};
use half::{bf16, f16};
use std::sync::LazyLock;

/// A way to run the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Safe Rust, which defines what the others compute.
    Plain,
    /// 128-bit vectors of every 64-bit ARM.
    Neon,
    /// 256-bit vectors: AVX2, FMA and F16C.
    Avx2,
    /// 512-bit vectors: AVX-512 F, BW, VL and DQ.
    Avx512,
    /// The same with the dot product of BF16 pairs.
    Avx512Bf16,
}

impl Form {
    /// The forms that this machine can run, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut forms = vec![Self::Plain];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if avx2 && is_x86_feature_detected!("f16c") {
                forms.push(Self::Avx2);
                if avx512 {
                    forms.push(Self::Avx512);
                    if is_x86_feature_detected!("avx512bf16") {
                        forms.push(Self::Avx512Bf16);
                    }
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        forms.push(Self::Neon);
        forms
    }

    /// The fastest form of this machine.
    pub fn fastest() -> Self {
        static FASTEST: LazyLock<Form> = LazyLock::new(|| Form::available().pop().unwrap_or(Form::Plain));
        *FASTEST
    }
}

/// Receives the sums of some columns: the first column, how many, and the sums row by row.
pub(crate) type Sink<'a> = dyn FnMut(usize, usize, &[f32]) + 'a;

/// Columns of one call of a [`Sink`] at most.
pub(crate) const COLUMNS: usize = 6;

/// A kernel for sums over products of every row of the first operand with every row of the second.
pub(crate) type Dots<X, W> = fn(Rows<X>, Rows<W>, &mut Sink);

/// Rows that lie side by side: element `(i, k)` is at `k * height + i`. The height is a multiple of [`SIDE`].
#[derive(Clone, Copy)]
pub(crate) struct Panel<'a> {
    pub data: &'a [f32],
    pub height: usize,
}

/// A multiple of every form's register.
pub(crate) const SIDE: usize = 16;

/// A kernel that adds `panel · w` to sums: for each column of `w` one a row of the panel, one column after the other. What is to come
/// is asked for meanwhile.
pub(crate) type Sums = fn(Panel, Matrix, &mut [f32], &mut Ahead);

/// A kernel that adds `p · v` to `out` (row-major, without gaps): `p` `[R, T]`, `v` `[T, E]`.
pub(crate) type Mix<W> = fn(Rows<f32>, Rows<W>, &mut [f32]);

macro_rules! choose {
    ($form:ident, $plain:path, $neon:ident, $avx2:ident, $avx512:ident) => {
        match $form {
            #[cfg(target_arch = "x86_64")]
            Form::Avx2 => x86::$avx2,
            #[cfg(target_arch = "x86_64")]
            Form::Avx512 | Form::Avx512Bf16 => x86::$avx512,
            #[cfg(target_arch = "aarch64")]
            Form::Neon => neon::$neon,
            _ => $plain,
        }
    };
}

/// The kernel for panels.
pub(crate) fn sums(form: Form) -> Sums {
    choose!(form, plain::sums, sums, sums_avx2, sums_avx512)
}

/// What a type of second operand has in each form.
pub(crate) trait Kernels: crate::Float {
    fn dots(form: Form) -> Dots<f32, Self>;
    fn mix(form: Form) -> Mix<Self>;
}

impl Kernels for f32 {
    fn dots(form: Form) -> Dots<f32, Self> {
        choose!(form, plain::dots, dots_f32, dots_f32_avx2, dots_f32_avx512)
    }

    fn mix(form: Form) -> Mix<Self> {
        choose!(form, plain::mix, mix_f32, mix_f32_avx2, mix_f32_avx512)
    }
}

impl Kernels for bf16 {
    fn dots(form: Form) -> Dots<f32, Self> {
        choose!(form, plain::dots, dots_bf16, dots_bf16_avx2, dots_bf16_avx512)
    }

    fn mix(form: Form) -> Mix<Self> {
        choose!(form, plain::mix, mix_bf16, mix_bf16_avx2, mix_bf16_avx512)
    }
}

impl Kernels for f16 {
    fn dots(form: Form) -> Dots<f32, Self> {
        choose!(form, plain::dots, dots_f16, dots_f16_avx2, dots_f16_avx512)
    }

    fn mix(form: Form) -> Mix<Self> {
        choose!(form, plain::mix, mix_f16, mix_f16_avx2, mix_f16_avx512)
    }
}

/// The kernel that multiplies BF16 by BF16 without widening either, where the form has one.
pub(crate) fn dots_of_bf16(form: Form) -> Option<Dots<bf16, bf16>> {
    match form {
        #[cfg(target_arch = "x86_64")]
        Form::Avx512Bf16 => Some(x86::dots_pairs),
        _ => None,
    }
}
