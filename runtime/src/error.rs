//! What can go wrong when an artifact is loaded or run.

/// Error of an executor.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No executor has this name.
    #[error("executor {name:?} is unknown; known are {known}")]
    UnknownExecutor {
        /// The name asked for.
        name: String,
        /// The names that exist, comma-separated.
        known: String,
    },
    /// The executor exists but was left out of this build.
    #[error("executor {name:?} is not built in; build with feature {name:?}")]
    NotBuilt {
        /// The name asked for, which is also that of the feature.
        name: &'static str,
    },
    /// The artifact contradicts itself or the machine; found before anything runs.
    #[error("artifact {at}: {what}")]
    Artifact {
        /// Where in the artifact.
        at: String,
        /// What was found and what is allowed.
        what: String,
    },
    /// The rows that the artifact uses exceed the memory allowed or available.
    #[error("the artifact uses {needed} bytes of chip memory, {allowed} bytes are allowed")]
    Memory {
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed (or 0 where the allocation itself failed).
        allowed: u64,
    },
    /// An entry index out of range.
    #[error("entry {entry} does not exist; the artifact has {count} entries")]
    Entry {
        /// The index asked for.
        entry: usize,
        /// Entries of the artifact.
        count: usize,
    },
    /// A wrong number of inputs.
    #[error("entry {entry:?} takes {expected} inputs ({names}), got {found}")]
    InputCount {
        /// Name of the entry.
        entry: String,
        /// Inputs in its signature.
        expected: usize,
        /// Their names, comma-separated.
        names: String,
        /// Inputs given.
        found: usize,
    },
    /// An input of the wrong dtype, shape or byte length.
    #[error("input {name:?}: expected {expected}, got {found}")]
    Input {
        /// Name in the signature.
        name: String,
        /// What the signature says.
        expected: String,
        /// What was given.
        found: String,
    },
    /// No accelerator can be used.
    #[error("executor \"opencl\": {what}")]
    NoDevice {
        /// What is missing.
        what: String,
    },
    /// The memory of an accelerator is too small.
    #[error("device {device:?}: {what} needs {needed} bytes, the device has {available}")]
    DeviceMemory {
        /// Name of the device.
        device: String,
        /// What the bytes are for.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes that the device has, or allows for one buffer.
        available: u64,
    },
    /// A kernel that the driver of an accelerator does not build.
    #[error("device {device:?}: the kernel of {chain} does not build: {log}")]
    Kernel {
        /// Name of the device.
        device: String,
        /// The first chain that needs it.
        chain: String,
        /// What the driver says, in one line.
        log: String,
    },
    /// An accelerator that no longer answers as it should. The session cannot be used any more.
    #[error("device {device:?} is lost, and with it the session: {what}")]
    DeviceLost {
        /// Name of the device.
        device: String,
        /// The call that failed and its error.
        what: String,
    },
    /// The program broke a rule of the machine while it ran.
    #[error("{0}")]
    Hazard(Box<Hazard>),
}

impl ExecError {
    /// An [`ExecError::Artifact`].
    pub fn artifact(at: impl Into<String>, what: impl Into<String>) -> ExecError {
        ExecError::Artifact {
            at: at.into(),
            what: what.into(),
        }
    }
}

impl From<lockstep_isa::artifact::ArtifactError> for ExecError {
    fn from(e: lockstep_isa::artifact::ArtifactError) -> ExecError {
        let at = match e.at.0.as_str() {
            "" => "file",
            at => at,
        };
        ExecError::artifact(at, e.kind.to_string())
    }
}

/// A rule of the machine that an instruction broke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cycle {cycle}, {queue}, {instruction}{source_node}: {what}")]
pub struct Hazard {
    /// What kind of rule it is.
    pub kind: HazardKind,
    /// The cycle, counted from the start of the entry.
    pub cycle: u64,
    /// Chip and queue, as printed (`c0.mem3.b1`).
    pub queue: String,
    /// The instruction as text.
    pub instruction: String,
    /// ` of ` and the IR operation and model nodes it came from, or nothing.
    pub source_node: String,
    /// What was found and what is allowed.
    pub what: String,
}

/// Kinds of [`Hazard`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HazardKind {
    /// A queue, bank, plane or ALU was still busy.
    Busy,
    /// No vector passed by in the cycle of the issue.
    OperandAbsent,
    /// The vector that passed by has another width or type.
    WrongType,
    /// A lane that is used as live is undefined.
    Undefined,
    /// Two units put a vector onto the same belt slot, or a load took too many words in one cycle.
    PortTaken,
    /// An address outside the bank, misaligned, or of a row that no value covers.
    Address,
    /// A row was read before the write to it had landed.
    RowNotReady,
    /// An accumulator row that is out of range, not written, or not yet written.
    Accumulator,
    /// A tile was loaded, swapped in or multiplied by at the wrong time.
    Tile,
    /// A word on a link without its recv, or a recv without its word.
    Link,
    /// An output lane was never written.
    Output,
}
