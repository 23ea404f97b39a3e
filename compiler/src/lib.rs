//! The compiler: Graph to Artifact.
//!
//! | stage | module | result |
//! |---|---|---|
//! | lower | [`lower`] | [`tir::TensorIr`] |
//! | optimize | [`passes`], [`rewrite`] | the same, smaller |
//! | partition | [`partition`] | [`partition::Partitioned`] |
//! | layout, chains | [`layout`], [`chain`] | [`chain::ChainProgram`] |
//! | schedule | [`schedule`] | [`schedule::Schedule`] |
//! | emit | [`emit`] | [`lockstep_isa::Artifact`] |
//!
//! [`compile`] runs them all ([`compile_entries`] for several entries over the same weights and states); see `pipeline.rs`, which reads like this table.

pub mod bound;
pub mod chain;
pub mod emit;
pub mod error;
mod evaluate;
pub mod layout;
pub mod lower;
pub mod options;
pub mod partition;
pub mod passes;
pub mod pipeline;
pub mod report;
pub mod rewrite;
pub mod schedule;
#[cfg(test)]
mod testing;
pub mod text;
pub mod throughput;
pub mod tir;

pub use error::{CompileError, CompileErrorKind};
pub use evaluate::evaluate;
pub use options::{Chips, Objective, Options};
pub use pipeline::{Compiled, Observer, Silent, compile, compile_entries, report_boundary, report_entries};
pub use report::{EntryReport, Report};
pub use schedule::SramUse;
pub use throughput::{Throughput, users_that_fit};
