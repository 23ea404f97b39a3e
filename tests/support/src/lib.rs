//! Test support: model builders, random programs, comparisons.

pub mod asm;
pub mod asm_claims;
pub mod fault;
pub mod onnx;
pub mod onnx_cases;
