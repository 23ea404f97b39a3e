//! What a user may choose about a compile.

use lockstep_isa::DType;

pub use crate::partition::Chips;
pub use crate::throughput::Objective;

/// Options of [`crate::compile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How many chips.
    pub chips: Chips,
    /// What partitions are chosen by.
    pub optimize: Objective,
    /// Dtype of activations; as in the model where absent.
    pub precision: Option<DType>,
    /// Only rewrites and partitions that keep every rounding.
    pub exact: bool,
    /// Check the IR after every pass, not only at stage boundaries.
    pub verify_passes: bool,
    /// Check the artifact at the end.
    pub verify: bool,
    /// Dump the program after this pass or stage (see [`crate::Observer::dump`]); `all` for every one.
    pub dump_after: Option<String>,
    /// Stop after this pass or stage.
    pub stop_after: Option<String>,
    /// Stop the rewrites after so many applications of rules, to find the one that is wrong.
    pub stop_after_rewrite: Option<usize>,
    /// Place every chain after the one before it.
    pub serial: bool,
    /// Schedule the most promising partition alone, and once: for plans of models that are compiled in parts.
    pub draft: bool,
    /// What turns text into tokens and back, stored in the artifact as it is (see [`lockstep_isa::Artifact::tokenizer`]).
    pub tokenizer: String,
}
