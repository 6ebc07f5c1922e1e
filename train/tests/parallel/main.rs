//! Several ranks that train together, each a thread with a simulated NPU of its own.

#[path = "../common/mod.rs"]
mod common;
mod failures;
mod objectives;
mod steps;
mod support;
mod wire;
mod zero;
