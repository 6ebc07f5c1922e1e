//! What can go wrong between ranks.

use crate::acl;
use std::fmt;

/// A failed collective, communicator or rendezvous.
#[derive(Clone, Debug)]
pub struct Error {
    /// This process's place.
    pub rank: usize,
    pub size: usize,
    /// What was asked for, such as `all_reduce`.
    pub operation: &'static str,
    /// The code of HCCL or ACL, where one of them answered.
    pub code: Option<i32>,
    /// What happened, in the words of whoever found out.
    pub why: String,
    /// What to do next.
    pub advice: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed on rank {} of {}: {}", self.operation, self.rank, self.size, self.why)?;
        match self.advice.is_empty() {
            true => Ok(()),
            false => write!(f, "\n  try: {}", self.advice),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The error of a call below, with the place and the operation. A code that has advice carries it in its own text.
    pub(super) fn below(rank: usize, size: usize, operation: &'static str, error: acl::Error) -> Self {
        Self { rank, size, operation, code: error.code(), why: error.to_string(), advice: String::new() }
    }

    /// The error of ranks inside a candle error, however deep its context.
    pub fn of(error: &candle_core::Error) -> Option<&Self> {
        use candle_core::Error as E;
        match error {
            E::Cuda(inner) => inner.downcast_ref(),
            E::Context { inner, .. } | E::WithPath { inner, .. } | E::WithBacktrace { inner, .. } => Self::of(inner),
            E::WrappedContext { wrapped, .. } => wrapped.downcast_ref(),
            _ => None,
        }
    }
}

/// As [`acl::Error`], it travels in candle's one variant for the errors of a device's runtime.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::Cuda(Box::new(error)).bt()
    }
}
