//! Attention: one naive reference, a table of argument lists for the versions of each operator.

mod infer;
mod latent;
mod reference;
mod train;

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    let mut all = infer::cases();
    all.extend(latent::cases());
    all.extend(train::cases());
    all
}
