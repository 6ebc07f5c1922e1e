//! Layers over sequences that arrive in pieces.

use crate::{D, Module, Result, Shape, Tensor, bail};
use std::fmt;

/// A dimension that can be named again and again.
pub trait Dim: crate::shape::Dim + Copy {}
impl<T: crate::shape::Dim + Copy> Dim for T {}

/// A piece of a sequence, which may be empty.
#[derive(Clone)]
pub struct StreamTensor(Option<Tensor>);

impl fmt::Debug for StreamTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(tensor) => tensor.shape().fmt(f),
            None => f.write_str("Empty"),
        }
    }
}

impl From<Option<Tensor>> for StreamTensor {
    fn from(piece: Option<Tensor>) -> Self {
        Self(piece)
    }
}

impl From<Tensor> for StreamTensor {
    fn from(piece: Tensor) -> Self {
        Self(Some(piece))
    }
}

impl From<()> for StreamTensor {
    fn from(_: ()) -> Self {
        Self(None)
    }
}

impl StreamTensor {
    pub fn empty() -> Self {
        Self(None)
    }

    pub fn from_tensor(tensor: Tensor) -> Self {
        Self(Some(tensor))
    }

    pub fn shape(&self) -> Option<&Shape> {
        self.0.as_ref().map(Tensor::shape)
    }

    /// This piece, then `rhs`.
    pub fn cat2<D: Dim>(&self, rhs: &Self, dim: D) -> Result<Self> {
        match (&self.0, &rhs.0) {
            (Some(first), Some(second)) => Tensor::cat(&[first, second], dim).map(Self::from),
            (piece, None) | (None, piece) => Ok(Self(piece.clone())),
        }
    }

    /// Elements along `dim`.
    pub fn seq_len<D: Dim>(&self, dim: D) -> Result<usize> {
        self.0.as_ref().map_or(Ok(0), |tensor| tensor.dim(dim))
    }

    pub fn reset(&mut self) {
        self.0 = None;
    }

    /// At most `len` elements from `offset` on; empty where there are none.
    pub fn narrow<D: Dim>(&self, dim: D, offset: usize, len: usize) -> Result<Self> {
        let left = self.seq_len(dim)?.saturating_sub(offset);
        match &self.0 {
            Some(tensor) if left > 0 => tensor.narrow(dim, offset, len.min(left)).map(Self::from),
            _ => Ok(Self(None)),
        }
    }

    /// The first `lhs_len` elements (or all) and the rest.
    pub fn split<D: Dim>(&self, dim: D, lhs_len: usize) -> Result<(Self, Self)> {
        let first = if lhs_len == 0 { Self(None) } else { self.narrow(dim, 0, lhs_len)? };
        Ok((first, self.narrow(dim, lhs_len, usize::MAX)?))
    }

    pub fn as_option(&self) -> Option<&Tensor> {
        self.0.as_ref()
    }

    /// This piece through a layer.
    pub fn apply<M: Module>(&self, m: &M) -> Result<Self> {
        Ok(Self(self.0.as_ref().map(|tensor| tensor.apply(m)).transpose()?))
    }
}

/// A layer that takes pieces as they come, and may hold some back until it has enough.
pub trait StreamingModule {
    fn step(&mut self, xs: &StreamTensor) -> Result<StreamTensor>;

    /// Forgets what is held back.
    fn reset_state(&mut self);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinOp {
    Add,
    Mul,
    Sub,
    Div,
}

/// An operator of two streams, whose pieces need not have the same lengths.
#[derive(Debug, Clone)]
pub struct StreamingBinOp {
    prev_lhs: StreamTensor,
    prev_rhs: StreamTensor,
    pub op: BinOp,
    pub dim: D,
}

impl StreamingBinOp {
    pub fn new(op: BinOp, dim: D) -> Self {
        Self { prev_lhs: StreamTensor(None), prev_rhs: StreamTensor(None), op, dim }
    }

    pub fn reset_state(&mut self) {
        self.prev_lhs.reset();
        self.prev_rhs.reset();
    }

    /// The operator of two whole tensors.
    pub fn forward(&self, lhs: &Tensor, rhs: &Tensor) -> Result<Tensor> {
        match self.op {
            BinOp::Add => lhs.add(rhs),
            BinOp::Mul => lhs.mul(rhs),
            BinOp::Sub => lhs.sub(rhs),
            BinOp::Div => lhs.div(rhs),
        }
    }

    /// The operator of as much as both sides have; the rest waits.
    pub fn step(&mut self, lhs: &StreamTensor, rhs: &StreamTensor) -> Result<StreamTensor> {
        let (lhs, rhs) = (self.prev_lhs.cat2(lhs, self.dim)?, self.prev_rhs.cat2(rhs, self.dim)?);
        let common = lhs.seq_len(self.dim)?.min(rhs.seq_len(self.dim)?);
        let (lhs, lhs_rest) = lhs.split(self.dim, common)?;
        let (rhs, rhs_rest) = rhs.split(self.dim, common)?;
        (self.prev_lhs, self.prev_rhs) = (lhs_rest, rhs_rest);
        match (lhs.0, rhs.0) {
            (Some(lhs), Some(rhs)) => self.forward(&lhs, &rhs).map(StreamTensor::from),
            (None, None) => Ok(StreamTensor(None)),
            (lhs, rhs) => bail!("one side of a streamed operator is empty: {lhs:?}, {rhs:?}"),
        }
    }
}

/// A layer that needs no more than the piece at hand.
pub struct Map<T: Module>(T);

impl<T: Module> StreamingModule for Map<T> {
    fn step(&mut self, xs: &StreamTensor) -> Result<StreamTensor> {
        xs.apply(&self.0)
    }

    fn reset_state(&mut self) {}
}
