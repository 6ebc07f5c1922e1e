//! Closures as layers.

use candle_ascend::{Module, ModuleT, Result, Tensor};
use std::fmt;
use std::sync::Arc;

type Forward<'a> = dyn 'a + Fn(&Tensor) -> Result<Tensor> + Send + Sync;
type ForwardT<'a> = dyn 'a + Fn(&Tensor, bool) -> Result<Tensor> + Send + Sync;

/// A layer made of a closure.
#[derive(Clone)]
pub struct Func<'a>(Arc<Forward<'a>>);

impl fmt::Debug for Func<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("func")
    }
}

/// The closure `f` as a layer.
pub fn func<'a, F: 'a + Fn(&Tensor) -> Result<Tensor> + Send + Sync>(f: F) -> Func<'a> {
    Func(Arc::new(f))
}

impl<'a> Func<'a> {
    pub fn new<F: 'a + Fn(&Tensor) -> Result<Tensor> + Send + Sync>(f: F) -> Self {
        func(f)
    }
}

impl Module for Func<'_> {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        (self.0)(xs)
    }
}

/// A layer made of a closure that knows whether it is training.
#[derive(Clone)]
pub struct FuncT<'a>(Arc<ForwardT<'a>>);

impl fmt::Debug for FuncT<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("func")
    }
}

/// The closure `f` as a layer.
pub fn func_t<'a, F: 'a + Fn(&Tensor, bool) -> Result<Tensor> + Send + Sync>(f: F) -> FuncT<'a> {
    FuncT(Arc::new(f))
}

impl<'a> FuncT<'a> {
    pub fn new<F: 'a + Fn(&Tensor, bool) -> Result<Tensor> + Send + Sync>(f: F) -> Self {
        func_t(f)
    }
}

impl ModuleT for FuncT<'_> {
    fn forward_t(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        (self.0)(xs, train)
    }
}
