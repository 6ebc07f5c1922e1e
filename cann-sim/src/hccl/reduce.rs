//! The arithmetic of reductions.
//!
//! Two operands at a time, as they meet in the ring: integers wrap around, float16 and bfp16 are added in float32 and
//! rounded back after every step, because each step goes over the wire in the type itself. A NaN stays a NaN in max and
//! min.

use super::types::Reduction;
use crate::dtype::DType;
use half::{bf16, f16};

trait Number: Copy {
    fn sum(self, other: Self) -> Self;
    fn prod(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            fn sum(self, other: Self) -> Self { self.wrapping_add(other) }
            fn prod(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn max(self, other: Self) -> Self { Ord::max(self, other) }
            fn min(self, other: Self) -> Self { Ord::min(self, other) }
        }
    )*};
}
integers!(i8, i16, i32, i64, u64);

macro_rules! floats {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            fn sum(self, other: Self) -> Self { self + other }
            fn prod(self, other: Self) -> Self { self * other }
            fn max(self, other: Self) -> Self { if self > other || self.is_nan() { self } else { other } }
            fn min(self, other: Self) -> Self { if self < other || self.is_nan() { self } else { other } }
        }
    )*};
}
floats!(f32, f64);

macro_rules! halves {
    ($($ty:ty),*) => {$(
        impl Number for $ty {
            fn sum(self, other: Self) -> Self { Self::from_f32(self.to_f32() + other.to_f32()) }
            fn prod(self, other: Self) -> Self { Self::from_f32(self.to_f32() * other.to_f32()) }
            fn max(self, other: Self) -> Self { if self > other || self.is_nan() { self } else { other } }
            fn min(self, other: Self) -> Self { if self < other || self.is_nan() { self } else { other } }
        }
    )*};
}
halves!(f16, bf16);

/// `own[i] = incoming[i] ⊕ own[i]`, over bytes that hold elements of type `dtype`.
pub fn reduce(own: &mut [u8], incoming: &[u8], dtype: DType, reduction: Reduction) {
    match dtype {
        DType::I8 => with::<i8>(own, incoming, reduction),
        DType::I16 => with::<i16>(own, incoming, reduction),
        DType::I32 => with::<i32>(own, incoming, reduction),
        DType::I64 => with::<i64>(own, incoming, reduction),
        DType::U64 => with::<u64>(own, incoming, reduction),
        DType::F16 => with::<f16>(own, incoming, reduction),
        DType::BF16 => with::<bf16>(own, incoming, reduction),
        DType::F32 => with::<f32>(own, incoming, reduction),
        DType::F64 => with::<f64>(own, incoming, reduction),
        other => unreachable!("the types' table lets no reduction of {other} through"),
    }
}

fn with<T: Number>(own: &mut [u8], incoming: &[u8], reduction: Reduction) {
    match reduction {
        Reduction::Sum => each(own, incoming, T::sum),
        Reduction::Prod => each(own, incoming, T::prod),
        Reduction::Max => each(own, incoming, T::max),
        Reduction::Min => each(own, incoming, T::min),
    }
}

fn each<T: Number>(own: &mut [u8], incoming: &[u8], meet: impl Fn(T, T) -> T) {
    let count = own.len().min(incoming.len()) / size_of::<T>();
    let (own, incoming) = (own.as_mut_ptr().cast::<T>(), incoming.as_ptr().cast::<T>());
    for i in 0..count {
        // SAFETY: both slices hold `count` elements, every pattern of bits is a number, and nothing is assumed of the
        // alignment of what came over the wire.
        unsafe { own.add(i).write_unaligned(meet(incoming.add(i).read_unaligned(), own.add(i).read_unaligned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_survives_on_either_side() {
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            for reduction in [Reduction::Max, Reduction::Min, Reduction::Sum] {
                let mut own = a.to_ne_bytes();
                reduce(&mut own, &b.to_ne_bytes(), DType::F32, reduction);
                assert!(f32::from_ne_bytes(own).is_nan(), "{a} {reduction:?} {b}");
            }
        }
    }

    #[test]
    fn half_precision_rounds_at_every_step() {
        // 2048 + 1 is a tie in float16 and rounds to even, so ones added singly are lost.
        let mut own = f16::ONE.to_ne_bytes();
        reduce(&mut own, &f16::from_f32(2048.0).to_ne_bytes(), DType::F16, Reduction::Sum);
        assert_eq!(f16::from_ne_bytes(own).to_f32(), 2048.0);
    }
}
