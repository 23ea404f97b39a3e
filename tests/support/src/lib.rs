//! Test support: model builders, random programs, comparisons.

pub mod asm;
pub mod asm_claims;
pub mod fault;
