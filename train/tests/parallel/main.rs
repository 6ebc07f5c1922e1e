//! Several ranks that train together, each a thread with a simulated NPU of its own.

mod failures;
mod steps;
mod support;
mod wire;
mod zero;
