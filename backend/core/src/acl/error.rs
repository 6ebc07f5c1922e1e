//! What can go wrong below the tensor: a call of the C interface, a missing symbol, no memory, a refused element type.

use acl_sys::MissingSymbol;
use candle_core::DType;
use std::fmt;
use std::path::PathBuf;

/// An error of the ACL layer. Converted to candle's error it travels as the device variant, from which
/// [`Error::of`] finds it again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A call of the C interface answered with an error code.
    #[error("{call} failed with {code} {name}: {meaning}{detail}{advice}")]
    Acl {
        /// The C function.
        call: &'static str,
        code: i32,
        /// The code's name in the interface.
        name: &'static str,
        meaning: &'static str,
        /// What to do next, empty when nothing is known; begins with a line break otherwise.
        advice: String,
        /// The runtime's own message, empty when it has none; begins with a line break otherwise.
        detail: String,
    },
    /// The loaded CANN lacks a function.
    #[error(transparent)]
    Missing(#[from] MissingSymbol),
    /// The device, or the limit set on it, has no room.
    #[error(transparent)]
    OutOfMemory(Box<OutOfMemory>),
    /// An operator of the device does not take this element type.
    #[error("{op} on npu does not take {got:?}; it takes {has:?}: convert with to_dtype first")]
    DType { op: &'static str, got: DType, has: &'static [DType] },
    /// The device has no operator for this.
    #[error("{op} is not available on npu: {why}")]
    Unavailable { op: &'static str, why: String },
    /// Arguments that contradict each other, found before the device saw them.
    #[error("{op}: {why}")]
    Arguments { op: &'static str, why: String },
    /// No such device.
    #[error("npu {index} does not exist: {source_name} has {count} device(s), counted from 0")]
    NoDevice { index: usize, count: usize, source_name: String },
    /// No installed CANN was found, or it could not be loaded.
    #[error("{0}")]
    NotInstalled(String),
    /// A simulated device was asked for in a program that did not bring the simulator.
    #[error(
        "a simulated npu was asked for, but this program registered no simulator (candle_ascend::register_simulator)"
    )]
    NoSimulator,
    /// The registered simulator cannot simulate what was asked for.
    #[error("{0}")]
    Simulator(String),
    /// A folder given as the place of CANN that is not one.
    #[error("{} is not a folder; the CANN folder is the one that holds lib64, for instance /usr/local/Ascend/ascend-toolkit/latest", .0.display())]
    NoFolder(PathBuf),
}

/// The facts of a failed allocation, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutOfMemory {
    pub device: usize,
    pub requested: usize,
    /// Free and total memory of the device, as it reports them.
    pub free: usize,
    pub total: usize,
    /// The limit set on the pool.
    pub limit: Option<usize>,
    /// What the pool holds, of it in use by tensors and workspaces, and the largest free block.
    pub reserved: usize,
    pub in_use: usize,
    pub largest_free: usize,
    /// Number of blocks in use, and the sizes of the largest of them.
    pub blocks: usize,
    pub largest_in_use: Vec<usize>,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest: Vec<_> = self.largest_in_use.iter().map(|&size| Bytes(size).to_string()).collect();
        write!(
            f,
            "out of memory on npu {}: {} requested; the device has {} free of {}; the pool holds {}, of which {} are in use \
             by {} blocks (largest: {}), largest free block {}",
            self.device,
            Bytes(self.requested),
            Bytes(self.free),
            Bytes(self.total),
            Bytes(self.reserved),
            Bytes(self.in_use),
            self.blocks,
            if largest.is_empty() { "none".to_owned() } else { largest.join(", ") },
            Bytes(self.largest_free),
        )?;
        match self.limit {
            Some(limit) => write!(f, "; the limit set on this device is {}", Bytes(limit)),
            None => write!(f, "; use a smaller batch, context or element type"),
        }
    }
}

impl std::error::Error for OutOfMemory {}

/// A number of bytes for people.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 => write!(f, "{:.2} GiB", n as f64 / (1u64 << 30) as f64),
            n if n >= 1 << 20 => write!(f, "{:.1} MiB", n as f64 / (1u64 << 20) as f64),
            n if n >= 1 << 10 => write!(f, "{:.1} KiB", n as f64 / 1024.0),
            n => write!(f, "{n} B"),
        }
    }
}

impl Error {
    /// An error code of the C interface, with what is known of it.
    pub(super) fn acl(call: &'static str, code: i32, message: Option<String>) -> Self {
        Self::known(call, code, acl_sys::error::lookup(code), message)
    }

    /// The same, with the row of the table that the code is in.
    pub(super) fn known(
        call: &'static str,
        code: i32,
        known: Option<&acl_sys::error::Code>,
        message: Option<String>,
    ) -> Self {
        let line = |prefix: &str, text: &str| match text.trim() {
            "" => String::new(),
            text => format!("\n  {prefix}{text}"),
        };
        Self::Acl {
            call,
            code,
            name: known.map_or("(unknown code)", |known| known.name),
            meaning: known.map_or("", |known| known.meaning),
            advice: line("try: ", known.map_or("", |known| known.advice)),
            detail: line("", &message.unwrap_or_default()),
        }
    }

    /// The ACL error inside a candle error, however deep its context.
    pub fn of(error: &candle_core::Error) -> Option<&Self> {
        use candle_core::Error as E;
        match error {
            E::Cuda(inner) => inner.downcast_ref(),
            E::Context { inner, .. } | E::WithPath { inner, .. } | E::WithBacktrace { inner, .. } => Self::of(inner),
            E::WrappedContext { wrapped, .. } => wrapped.downcast_ref(),
            _ => None,
        }
    }

    /// The code of the C interface, when this is one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Acl { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// candle has one variant for the errors of a device's runtime; its name says Cuda, its content is any error.
impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::Cuda(Box::new(error)).bt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candle_error_gives_the_acl_error_back() {
        let error: candle_core::Error =
            Error::acl("aclrtMalloc", acl_sys::error::ACL_ERROR_RT_MEMORY_ALLOCATION, None).into();
        let error = error.context("while loading");
        assert_eq!(Error::of(&error).and_then(Error::code), Some(207001));
        assert!(error.to_string().contains("ACL_ERROR_RT_MEMORY_ALLOCATION"), "{error}");
        assert!(Error::of(&candle_core::Error::Msg("x".into())).is_none());
    }

    #[test]
    fn out_of_memory_says_who_holds_what() {
        let error = OutOfMemory {
            requested: 3 << 30,
            limit: Some(4 << 30),
            in_use: 2048,
            largest_in_use: vec![1024],
            ..Default::default()
        };
        let text = error.to_string();
        for part in ["3.00 GiB requested", "4.00 GiB", "2.0 KiB are in use", "largest: 1.0 KiB"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}
