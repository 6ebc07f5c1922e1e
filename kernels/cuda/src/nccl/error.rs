//! What can go wrong between GPUs.

use std::fmt;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// NCCL is not there, or a call of the driver failed.
    #[error(transparent)]
    Cuda(#[from] crate::Error),
    #[error(
        "libnccl.so.2 is NCCL {found}, wanted {wanted} or newer\n  put a newer one first: PyPI's nvidia-nccl-cu13, or its \
         folder in NCCL_HOME or LD_LIBRARY_PATH"
    )]
    TooOld { found: Version, wanted: Version },
    /// NCCL answered with a code; `said` is what else it says, on a line of its own.
    #[error("{call} failed with {code} {}{said}", Code(*code))]
    Code { call: &'static str, code: i32, said: String },
    #[error(
        "call {number}, {call}, was not over after {seconds} s and was given up\n  a rank did not come to it, or hangs in its \
         own work: see what the other ranks say, and NCCL_DEBUG=INFO"
    )]
    Late { number: u64, call: &'static str, seconds: u64 },
}

impl Error {
    /// NCCL's or the driver's code, where one of them answered.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Code { code, .. } | Self::Cuda(crate::Error::Driver { code, .. }) => Some(*code),
            _ => None,
        }
    }
}

/// A release of NCCL by its own number: 22907 is 2.29.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Before 2.9 the major release counted thousands.
        let major = if self.0 < 10_000 { self.0 / 1000 } else { self.0 / 10_000 };
        let minor = if self.0 < 10_000 { self.0 % 1000 / 100 } else { self.0 % 10_000 / 100 };
        write!(f, "{major}.{minor}.{}", self.0 % 100)
    }
}

/// NCCL's codes: number, name, meaning, advice.
const CODES: [(i32, &str, &str, &str); 8] = [
    (1, "ncclUnhandledCudaError", "a CUDA call within NCCL failed", "look for an earlier failure on this GPU"),
    (
        2,
        "ncclSystemError",
        "a call of the system failed",
        "check shared memory (/dev/shm) and sockets; NCCL_DEBUG=WARN",
    ),
    (3, "ncclInternalError", "NCCL failed within", "run with NCCL_DEBUG=WARN; all ranks need the same NCCL"),
    (4, "ncclInvalidArgument", "an argument is out of its range", "please report it"),
    (5, "ncclInvalidUsage", "the ranks' calls do not fit", "each rank needs a GPU of its own; NCCL_DEBUG=WARN"),
    (6, "ncclRemoteError", "another rank is lost", "see what that rank said last, and the launcher"),
    (7, "ncclInProgress", "the call is not over", "please report it"),
    (8, "ncclTimeout", "the call took too long", "see what the other ranks say"),
];

struct Code(i32);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODES.iter().find(|row| row.0 == self.0) {
            Some((_, name, meaning, advice)) => write!(f, "{name}: {meaning}\n  try: {advice}"),
            None => f.write_str("(a code that is not known here; see ncclResult_t in NCCL's documentation)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_and_codes_in_words() {
        assert_eq!([2708, 21304, 22907].map(|n| Version(n).to_string()), ["2.7.8", "2.13.4", "2.29.7"]);
        let text = Error::Code { call: "ncclAllReduce", code: 6, said: String::new() }.to_string();
        assert!(text.starts_with("ncclAllReduce failed with 6 ncclRemoteError: another rank is lost"), "{text}");
        let text = Error::Code { call: "ncclAllReduce", code: 99, said: "\n  NCCL says: x".into() }.to_string();
        assert!(text.contains("99 (a code that is not known here") && text.ends_with("says: x"), "{text}");
    }
}
