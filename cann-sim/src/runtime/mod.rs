//! The runtime under the operators: devices, memory, streams, events, graphs, and the C functions that reach them.

pub mod binary;
pub mod capture;
pub mod clock;
pub mod config;
pub mod cost;
pub mod device;
pub mod event;
pub mod exports;
pub mod faults;
pub mod handles;
pub mod hostmem;
pub mod launch;
pub mod mapping;
pub mod memory;
pub mod settings;
pub mod soc;
pub mod stats;
pub mod stream;
pub mod timeline;
pub mod track;
pub mod twin;
pub mod vmm;

pub use stats::stats;
