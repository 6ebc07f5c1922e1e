//! Distillation and GRPO against what PyTorch computed, against their formulas in `f64`, and from data to a trained model.

#[path = "../common/mod.rs"]
mod common;
mod distill;
mod golden;
mod grpo;
mod reward_model;
