//! HCCL through its C interface: between threads, processes and network namespaces.

mod collectives;
mod communicators;
mod failures;
mod messages;
mod processes;
mod support;
mod tables;
mod wire;
