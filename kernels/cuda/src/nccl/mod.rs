//! Collectives over several GPUs by NCCL, which is found when the first communicator is made.
//!
//! NCCL has no time-outs, and a collective whose peer is gone never ends: a thread of each [`Ring`] asks for asynchronous
//! errors and for calls that take too long, notes them, and aborts the communicator, so that whoever waits goes on and is told.

mod calls;
mod error;
mod ring;

pub use calls::{Element, Fold, UniqueId};
pub use error::Error;
pub use ring::{Mark, Ring};
