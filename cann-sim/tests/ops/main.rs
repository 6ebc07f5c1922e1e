//! The simulated operators through their C interface, against expected values that are written by hand or computed by
//! plain loops in `f64`.

mod activation;
mod arguments;
mod attention;
mod loss;
mod experts;
mod matmul;
mod norm;
mod rope;
mod binary;
mod compare;
mod elementwise;
mod index;
mod optim;
mod random;
mod reduce;
mod refusals;
mod shape;
mod sort;
mod support;
