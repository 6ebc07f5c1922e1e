//! The conformance suite: cases as data, run on every device that is there.
//!
//! Each case calls one row of the operator table ([`acl_sys::aclnn`]) and knows its answer from plain loops in `f64`
//! that share no code with the simulator or with candle. `npu-run smoke` and `cargo test` run the same cases; where a
//! case also says how the tensor interface reaches the same arithmetic, it runs on the CPU and on CUDA as well.
//! [`fused`] holds the operators that several ways compute, aclnn's, our Ascend C kernels and the decomposition, to loops.

pub mod array;
pub mod case;
pub mod cases;
pub mod compare;
pub mod fused;
pub mod run;

pub use array::{Array, DType};
pub use case::{Answer, Arg, Case, Fill, Spec, Tolerance, View};
pub use compare::{Difference, compare};
pub use run::{Outcome, run_row, run_tensors};
