//! Matrix products on the CPU that candle and the `gemm` library are slow at: 16-bit weights with few rows of input, and
//! quantised weights. The CPU device and the simulated NPU share them.
//!
//! Each kernel has a plain form in safe Rust, which is its definition, and forms for vector units that the machine is asked
//! for at run time.
