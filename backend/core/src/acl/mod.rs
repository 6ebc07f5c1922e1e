//! Safe wrapper of the ACL runtime and of aclnn: the only module of this crate that contains `unsafe`.
//!
//! Handles are owned types. Nothing here panics in `Drop`: a failure is recorded, and the next call on the same
//! [`Context`] returns it. Streams are asynchronous; only [`Context::synchronize`], [`Event::synchronize`] and
//! [`Context::download`] wait for the device.

mod api;
mod blocks;
mod comm;
mod context;
mod dynamic;
mod error;
mod event;
mod graph;
mod hccl;
mod info;
mod kernel;
mod launch;
mod mapped;
mod memory;
mod pool;
mod source;
mod staging;
mod tensor;
mod watch;

pub use comm::RootInfo;
pub(crate) use comm::{Group, Marks, Span};
pub use context::{Context, Counters};
pub use dynamic::{BoolArray, FloatArray, ScalarList, Value, launch_row};
pub use error::{Error, OutOfMemory};
pub use event::Event;
pub use graph::Graph;
pub use hccl::HcclStatus;
pub use info::{LibraryStatus, MemoryInfo};
pub use kernel::launch_kernel;
pub use launch::{Arg, FirstPhase, launch};
pub use mapped::MappedFile;
pub use memory::Buffer;
pub(crate) use memory::{bytes_of, candle_alloc_uninit, read_elements};
pub use source::register_simulator;
pub(crate) use source::{installed, simulated};
pub use tensor::{IntArray, MAX_RANK, Scalar, TensorDesc, TensorList, View};
pub use watch::launched;
