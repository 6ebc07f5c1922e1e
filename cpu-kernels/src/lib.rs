//! Matrix products on the CPU that candle and the `gemm` library are slow at: 16-bit weights with few rows of input, and
//! quantised weights. The CPU device and the simulated NPU share them.
//!
//! Each kernel has a plain form in safe Rust, which is its definition, and forms for vector units that the machine is asked
//! for at run time.

mod attention;
mod attention_grad;
mod float;
mod forms;
mod matrix;
pub mod memory;
pub mod nf4;
mod packed;
mod product;
pub mod quantised;
mod rows;
mod team;
mod wide;

pub use attention::{Heads, Sight, attention, attention_by};
pub use attention_grad::{Attended, AttentionGrads, attention_grads};
pub use float::Float;
pub use forms::{Decayed, Form};
pub use matrix::Matrix;
pub use packed::multiply;
pub use product::{
    grouped_product, grouped_product_by, multiply_halves, product, product_by, product_of, weighted_sums,
    weighted_sums_by,
};
pub use rows::Rows;
pub use team::{share, share_chunks, share_new};
pub use wide::multiply_wide;
