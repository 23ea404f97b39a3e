//! Test support: model builders, random programs, comparisons.
//!
//! Feature `tir` adds what needs the compiler: `program`, `random` and `differ`.

pub mod asm;
pub mod asm_claims;
#[cfg(feature = "tir")]
pub mod differ;
pub mod fault;
pub mod onnx;
pub mod onnx_cases;
#[cfg(feature = "tir")]
pub mod program;
#[cfg(feature = "tir")]
pub mod random;
