//! Low-rank adapters beside projections, and how a thread's passes use them.

use anyhow::Result;
use candle_ascend::{Tensor, ops};
use std::cell::Cell;

/// A low-rank addition to a projection: `scale · B A x` (Hu et al., arXiv 2106.09685).
///
/// A and B may be wider than the model's type, as trained ones are; products are in the model's.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `[rank, inputs]`
    pub a: Tensor,
    /// `[outputs, rank]`
    pub b: Tensor,
    pub scale: f64,
    pub dropout: Option<Dropout>,
}

/// Dropout of what goes into an adapter, where passes have masks ([`Passes::with_masks`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub probability: f64,
    /// Tells the masks of this adapter from those of others.
    pub salt: u64,
}

impl Adapter {
    fn forward(&self, x: &Tensor, passes: Passes) -> Result<Tensor> {
        let (a, b) = (self.a.to_dtype(x.dtype())?, self.b.to_dtype(x.dtype())?);
        let narrow = match (self.dropout, passes.masks) {
            (Some(dropout), Some(masks)) => {
                let key = masks.rotate_left(32) ^ dropout.salt;
                ops::linear(&ops::dropout(x, dropout.probability, key)?, &a, None)?
            }
            _ => ops::linear(x, &a, None)?,
        };
        // Scaled where it is narrowest.
        Ok(ops::linear(&(narrow * self.scale)?, &b, None)?)
    }
}

/// How this thread's passes use adapters.
///
/// It belongs to the thread and not to the model, so that one thread can ask for the base while another, with the same
/// model, does not. What is computed again in backward is computed as it was the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes {
    adapters: bool,
    masks: Option<u64>,
}

thread_local! {
    static PASSES: Cell<Passes> = const { Cell::new(Passes { adapters: true, masks: None }) };
}

impl Passes {
    /// Of this thread, now.
    pub fn current() -> Self {
        PASSES.get()
    }

    /// Without adapters: the base alone.
    pub fn without_adapters(self) -> Self {
        Self { adapters: false, ..self }
    }

    /// With dropout where adapters have it. The same number gives the same masks.
    pub fn with_masks(self, masks: u64) -> Self {
        Self { masks: Some(masks), ..self }
    }

    /// Runs `f` with passes like this, and sets them back even if it panics.
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        struct Restore(Passes);
        impl Drop for Restore {
            fn drop(&mut self) {
                PASSES.set(self.0);
            }
        }
        let _restore = Restore(PASSES.replace(self));
        f()
    }
}

/// The adapters of projections that are merged into one.
#[derive(Default)]
pub(crate) struct Adapters {
    /// Each with its outputs.
    parts: Vec<(usize, Option<Adapter>)>,
    /// Where the projection's outputs are among those of the parts, if it has them in another order.
    order: Option<Tensor>,
}

impl Adapters {
    pub fn new(parts: Vec<(usize, Option<Adapter>)>) -> Self {
        Self { parts, order: None }
    }

    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|(_, adapter)| adapter.is_none())
    }

    /// The same for a projection whose output `i` is what was output `order[i]`.
    pub fn reordered(self, order: Tensor) -> Self {
        Self { order: Some(order), ..self }
    }

    /// `y` and what the adapters make of `x`.
    pub fn add(&self, y: Tensor, x: &Tensor) -> Result<Tensor> {
        let passes = Passes::current();
        if self.is_empty() || !passes.adapters {
            return Ok(y);
        }
        let mut parts = Vec::new();
        let mut start = 0;
        for (outputs, adapter) in &self.parts {
            if let Some(adapter) = adapter {
                parts.push((start, adapter.forward(x, passes)?));
            }
            start += outputs;
        }
        match &self.order {
            Some(order) => {
                let added = ops::add_columns(&y.zeros_like()?, &parts)?;
                Ok((y + added.index_select(order, x.rank() - 1)?)?)
            }
            None => Ok(ops::add_columns(&y, &parts)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_belong_to_their_thread_and_end_with_their_scope() {
        let start = Passes::current();
        start.without_adapters().with_masks(7).run(|| {
            assert_eq!(Passes::current(), Passes { adapters: false, masks: Some(7) });
            let other = std::thread::spawn(Passes::current).join().expect("it only looks");
            assert_eq!(other, start);
        });
        let panicked = std::panic::catch_unwind(|| start.without_adapters().run(|| panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(Passes::current(), start);
    }
}
