//! Mixtures of experts: the choice of experts, the routing of rows to them, products of groups of rows, and what comes back.

mod gating;
mod grouped;
mod routing;

use crate::case::Case;

pub fn cases() -> Vec<Case> {
    let mut all = gating::cases();
    all.extend(grouped::cases());
    all.extend(routing::cases());
    all
}
