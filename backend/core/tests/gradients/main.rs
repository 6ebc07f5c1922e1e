//! Gradients of every operator: against central finite differences, against candle's own, fused against decomposed; and what
//! the tape does besides.

mod adjoint;
mod table;
mod tape;

#[path = "../operands/mod.rs"]
mod operands;
