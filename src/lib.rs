//! lockstep: a static-scheduling ML compiler and its runtime.
//!
//! This crate is the facade: it re-exports one function per stage and adds the two things that the layers below leave out,
//! files ([`files`]) and numpy arrays ([`tensors`]).
//!
//! ```text
//! import ──▶ Graph ──compile──▶ Artifact ──verify──▶ lookup("cpu")?.load(..) ──▶ Session ──run──▶ tensors
//! ```
//!
//! examples/mlp.rs goes through all of them in one page.

pub mod files;
#[cfg(feature = "generate")]
pub mod language;
#[cfg(feature = "compile")]
pub mod plan;
#[cfg(feature = "compile")]
pub mod quantisation;
pub mod tensors;

#[cfg(feature = "compile")]
pub use lockstep_compiler::{
    Chips, CompileError, CompileErrorKind, Compiled, EntryReport, Objective, Observer, Options, Report, Silent,
    SramUse, Throughput, compile, compile_entries, evaluate, report_boundary, report_entries, users_that_fit,
};
#[cfg(feature = "compile")]
pub use lockstep_frontend::{
    Checkpoint, ConstInput, Graph, ImportError, ImportOptions, LanguageModel, LanguageOptions, Outline, Source,
    StageSize, WeightFormat, import, language as language_model,
};
#[cfg(feature = "compile")]
pub use lockstep_graph as graph;
pub use lockstep_isa as isa;
pub use lockstep_isa::{Artifact, ArtifactError, Target, verify::verify};
pub use lockstep_runtime as runtime;
pub use lockstep_runtime::{ExecError, Executor, HostTensor, LoadOptions, Outputs, Session, Simd, TensorView, lookup};
