//! Divides the work of a plan over threads, once, when it is loaded.

use crate::cpu::plan::Plan;

/// Divides a plan over `threads`.
pub fn split(plan: &mut Plan, threads: usize) {
    for chain in &mut plan.chains {
        chain.owner %= threads.max(1);
    }
}
