//! The simulated operators through their C interface, against expected values that are written by hand or computed by
//! plain loops in `f64`.

mod activation;
mod arguments;
mod attention;
mod binary;
mod compare;
mod elementwise;
mod experts;
mod index;
mod latent;
mod loss;
mod matmul;
mod norm;
mod optim;
mod random;
mod reduce;
mod refusals;
mod rope;
mod shape;
mod sort;
mod support;
