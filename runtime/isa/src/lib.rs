//! Output contract of the compiler: the machine, its instructions, and the artifact.
//!
//! Everything that a compiled model *means* is defined here and nowhere else: the resolved [`Target`], the timing
//! rule ([`timing`]), the instruction table ([`op`]), the [`Run`] record, the [`claim`]s that a run makes about its
//! operands, the scalar definition of every operation ([`scalar`]), and the [`Artifact`] that carries them.
//!
//! # The timing rule
//! A chip is a row of units at integer positions. A result of an instruction issued in cycle `t` is on its belt at
//! the unit's own position in cycle `t + latency`; a belt moves one position per cycle; a consumer at position `q`
//! issues in exactly the cycle in which the operand passes `q`. A read sees a belt slot before a unit at the same
//! position and cycle replaces it. Nothing ever stalls.
//!
//! # The order of chains
//! Every run belongs to a chain. The chains of an entry have a total order over all chips; executing them whole, one
//! after another, is the same program as executing all runs by their cycles. No plane, accumulator or ALU state
//! crosses a chain, and a row is reused only after its last reader in that order.

pub mod artifact;
pub mod check;
pub mod claim;
pub mod decode;
pub mod disasm;
pub mod encode;
pub mod figures;
pub mod id;
#[cfg(feature = "toml")]
pub mod manual;
pub mod math;
pub mod op;
pub mod run;
pub mod scalar;
pub mod target;
#[cfg(feature = "toml")]
mod target_file;
pub mod timing;
pub mod topology;
pub mod verify;

pub use artifact::{Artifact, ArtifactError, WeightsBuilder};
pub use figures::{Figure, TargetError};
pub use id::{Cycle, Cycles, DType, Dir, Place, Stream};
pub use op::{AluOp, Opcode};
pub use run::{Dim, Operand, Queue, Run};
pub use target::Target;
