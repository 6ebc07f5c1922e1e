//! The simulated runtime through its C interface.

mod capture;
mod cost;
mod handles;
mod launch;
mod memory;
mod model;
mod races;
mod streams;
mod support;
mod symbols;
