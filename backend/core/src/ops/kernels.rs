//! Which implementation of the fused operators runs: the device's own, ours, or none.

use crate::{Error, Result, Tensor, bail};
use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// Who computes a fused operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// The device's own fused operators: aclnn's on an NPU, the fused kernels of a GPU or of the CPU elsewhere.
    #[default]
    Aclnn,
    /// Our Ascend C kernels, on an NPU, where there is one; other operators are those of [`Kernels::Aclnn`]. Attention that the
    /// kernels do not take (F32, for the cube transposes 16 bits at a time; a mask that hides other keys than the last) is computed
    /// as its definition.
    Ours,
    /// The decomposition into primitives, which is the definition.
    Plain,
}

const NAMES: [(&str, Kernels); 3] = [("aclnn", Kernels::Aclnn), ("ours", Kernels::Ours), ("plain", Kernels::Plain)];

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(NAMES[*self as usize].0)
    }
}

impl FromStr for Kernels {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match NAMES.iter().find(|(name, _)| *name == text) {
            Some((_, kernels)) => Ok(*kernels),
            None => bail!("{text:?} are no kernels; use aclnn, ours or plain"),
        }
    }
}

/// What all threads use that were told nothing else.
static OF_PROCESS: AtomicU8 = AtomicU8::new(Kernels::Aclnn as u8);

thread_local! {
    static OF_THREAD: Cell<Option<Kernels>> = const { Cell::new(None) };
}

/// Which kernels fused operators use on this thread.
pub fn kernels() -> Kernels {
    OF_THREAD.get().unwrap_or_else(|| NAMES[OF_PROCESS.load(Ordering::Relaxed) as usize].1)
}

/// Makes all threads use `kernels`, except within [`with_kernels`].
pub fn set_kernels(kernels: Kernels) {
    OF_PROCESS.store(kernels as u8, Ordering::Relaxed);
}

/// Runs `f` with the fused operators of this thread computed by `kernels`.
pub fn with_kernels<R>(kernels: Kernels, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Kernels>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OF_THREAD.set(self.0);
        }
    }
    let _restore = Restore(OF_THREAD.replace(Some(kernels)));
    f()
}

/// Runs `f` with every fused operator on this thread decomposed; the way to compare an override with its definition.
pub fn decomposed<R>(f: impl FnOnce() -> R) -> R {
    with_kernels(Kernels::Plain, f)
}

/// Whether overrides are to be used.
pub(super) fn overrides() -> bool {
    kernels() != Kernels::Plain
}

/// Whether an operator on `x` is to be one of our Ascend C kernels.
pub(super) fn ours(x: &Tensor) -> bool {
    kernels() == Kernels::Ours && x.device().is_npu()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_scopes() {
        for (index, (name, kernels)) in NAMES.into_iter().enumerate() {
            assert_eq!((index, name.parse::<Kernels>().unwrap()), (kernels as usize, kernels));
            assert_eq!(format!("{kernels:>6}"), format!("{name:>6}"));
        }
        let error = "cuda".parse::<Kernels>().unwrap_err().to_string();
        assert!(error.contains("aclnn, ours or plain"), "{error}");
        let inside = with_kernels(Kernels::Ours, || (kernels(), decomposed(overrides), kernels()));
        assert_eq!(inside, (Kernels::Ours, false, Kernels::Ours));
        assert!(overrides());
    }
}
