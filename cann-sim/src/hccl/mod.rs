//! HCCL: communicators and collectives between the threads of a process, between processes and between hosts.
//!
//! Ranks talk TCP, also inside one process: there is one path, and it is the one that a cluster takes.
//! A communicator begins with a `rendezvous` at the address in the root info or in the rank table, which gives every
//! rank the addresses of the others; then each pair of ranks holds one connection, the `mesh`.
//!
//! A collective is a task of its stream, like an operator. It begins by telling all ranks what was called (`round`):
//! a rank that called something else, or nothing in time, is named at once, where a card would only time out.
//! Data then goes around a `ring` in a fixed order, so that results are the same on every rank and in every run.

mod collective;
pub mod comm;
pub mod exports;
mod interfaces;
mod mesh;
mod point;
mod ranktable;
mod reduce;
mod rendezvous;
mod ring;
mod round;
mod settings;
mod types;
mod wire;

pub use mesh::Traffic;

/// What a communicator has sent and received so far; `None` when the handle names none.
pub fn traffic(handle: hccl_sys::HcclComm) -> Option<Traffic> {
    comm::find(handle).ok().map(|comm| comm.mesh.traffic())
}
