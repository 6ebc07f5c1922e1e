//! The element types that matrices are stored in.

use crate::Form;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::any::{Any, TypeId};
use std::borrow::Cow;

/// A stored type; arithmetic is in `f32`, which holds every value of each of them.
pub trait Float: Copy + Default + Send + Sync + 'static {
    fn widen(self) -> f32;

    /// The nearest value of the type, the even one of two.
    fn round(value: f32) -> Self;

    /// The elements themselves, where they are `f32`.
    fn as_wide(_: &[Self]) -> Option<&[f32]> {
        None
    }

    /// As [`as_wide`](Self::as_wide), for writing.
    fn as_wide_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    /// `from` in `f32`, one to one.
    fn widen_slice(from: &[Self], to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
    }

    /// `from` rounded, one to one.
    fn round_slice(from: &[f32], to: &mut [Self]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = Self::round(*from));
    }
}

impl Float for f32 {
    fn widen(self) -> f32 {
        self
    }

    fn round(value: f32) -> Self {
        value
    }

    fn as_wide(elements: &[Self]) -> Option<&[f32]> {
        Some(elements)
    }

    fn as_wide_mut(elements: &mut [Self]) -> Option<&mut [f32]> {
        Some(elements)
    }

    fn widen_slice(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn round_slice(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        // A BF16 is the upper half of the F32 of the same value.
        f32::from_bits((self.to_bits() as u32) << 16)
    }

    #[inline(always)]
    fn round(value: f32) -> Self {
        // Written without a branch, so that a compiler makes vectors of it.
        let bits = value.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        // A NaN keeps its upper bits and becomes quiet; rounding could carry it into an infinity.
        let quiet = (bits >> 16) as u16 | 0x40;
        bf16::from_bits(if value.is_nan() { quiet } else { rounded })
    }

    fn widen_slice(from: &[Self], to: &mut [f32]) {
        Form::fastest().widen_bf16(from, to);
    }

    fn round_slice(from: &[f32], to: &mut [Self]) {
        Form::fastest().round_bf16(from, to);
    }
}

impl Float for f16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }

    fn round(value: f32) -> Self {
        f16::from_f32(value)
    }

    fn widen_slice(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(&mut to[..from.len()]);
    }

    fn round_slice(from: &[f32], to: &mut [Self]) {
        to.convert_from_f32_slice(from);
    }
}

/// `from` as a slice of the type that `T` is; none where `T` is another.
pub(crate) fn same<T: Float, U: Float>(from: &[T]) -> Option<&[U]> {
    // SAFETY: the types are the same one.
    (TypeId::of::<T>() == TypeId::of::<U>())
        .then(|| unsafe { std::slice::from_raw_parts(from.as_ptr().cast(), from.len()) })
}

/// As [`same`], for writing.
pub(crate) fn same_mut<T: Float, U: Float>(from: &mut [T]) -> Option<&mut [U]> {
    let equal = TypeId::of::<T>() == TypeId::of::<U>();
    // SAFETY: the types are the same one.
    equal.then(|| unsafe { std::slice::from_raw_parts_mut(from.as_mut_ptr().cast(), from.len()) })
}

/// As [`same`], with what owns the elements.
pub(crate) fn same_vec<T: Float, U: Float>(from: Vec<T>) -> Option<Vec<U>> {
    let from: Box<dyn Any> = Box::new(from);
    from.downcast().ok().map(|same| *same)
}

/// `from` in `f32`, itself where it is.
pub(crate) fn widened<T: Float>(from: &[T]) -> Cow<'_, [f32]> {
    if let Some(from) = same(from) {
        return Cow::Borrowed(from);
    }
    let mut wide = vec![0f32; from.len()];
    T::widen_slice(from, &mut wide);
    Cow::Owned(wide)
}
