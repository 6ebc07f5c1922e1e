//! Attention: one engine for the inference and the training operators, which differ in layouts, masks and outputs.

mod engine;
mod entries;
mod infer;
mod layout;
mod train;
mod train_grad;

pub use entries::*;
pub use train::*;
pub use train_grad::*;
