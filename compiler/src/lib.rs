//! The compiler: Graph to Artifact.
//!
//! Stages: lower (Graph to TensorIr), passes and rewrites on it, partition, layout and chains, schedule, emit.

pub mod bound;
pub mod chain;
pub mod emit;
pub mod error;
pub mod layout;
pub mod lower;
pub mod partition;
pub mod schedule;
pub mod tir;

pub use error::{CompileError, CompileErrorKind};
