//! Divides the work of a plan over threads, once, when it is loaded.

use crate::cpu::plan::{ChainPlan, OpKind, Plan, Split, Step};
use lockstep_isa::AluOp;

/// Divides a plan over `threads`.
pub fn split(plan: &mut Plan, threads: usize) {
    if threads < 2 {
        return;
    }
    for chain in &mut plan.chains {
        chain.owner = 0;
    }
}
