//! The tensor IR: a closed set of primitives over statically shaped tensors.
//!
//! Every operation has one result, so an operation *is* its [`ValueId`]. Values are in topological order. Tensors are
//! dense and row-major; where they lie on chips is no concern of this IR.
//!
//! Dtypes are those that chips compute (`isa::DType` without `U16`); truth values are i32 0 or 1. What a model holds in
//! i64, f64 or bool is converted by `lower/`; the host dtype survives in [`Port`].

pub mod build;
mod compose;
pub mod consteval;
pub mod eval;
pub mod expr;
pub mod map;
pub mod op;
pub mod parse;
pub mod print;
mod split;
pub mod verify;

pub use build::TirBuilder;
pub use compose::{compose, compose_simply};
pub use map::{IndexMap, MapId, View, Windows, row_major};
pub use op::{Arg, Combiner, MapNode, Op, ReduceOp};
pub use verify::Phase;

use lockstep_graph::{IdVec, Origin, OriginId, entity_id};
use lockstep_isa::DType;
use lockstep_isa::artifact::HostDType;

entity_id!(
    /// A value and the operation that computes it.
    pub ValueId, "v"
);
entity_id!(
    /// A constant tensor.
    pub ConstId, "k"
);
entity_id!(
    /// A tensor that persists between runs.
    pub StateId, "state"
);

/// Shape and element type of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Extents; rank 0 is a scalar; extents of 0 are allowed only before `legalize`.
    pub shape: Vec<usize>,
}

impl Type {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: &[usize]) -> Type {
        Type {
            dtype,
            shape: shape.to_vec(),
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }
}

/// One operation and its result.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueData {
    /// Type of the result; equals what [`op::infer`] says.
    pub ty: Type,
    /// What computes it.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<ValueId>,
    /// Model nodes it came from (fused operations keep all), ascending, no duplicates.
    pub origins: Vec<OriginId>,
}

/// A constant tensor: elements of `ty` in row-major order, in the weights buffer of the model or made by the compiler.
#[derive(Clone, Debug)]
pub struct ConstData {
    /// Name in the model, or a name given by the pass that made it.
    pub name: String,
    /// Type of the elements as the IR sees them.
    pub ty: Type,
    /// How they are stored. i64, f64, bool, f16 weights used as f32 are converted when read, not copied at import.
    pub stored: HostDType,
    /// The stored bytes, little-endian, possibly unaligned.
    pub bytes: lockstep_graph::Weights,
}

/// A tensor that persists between runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateData {
    /// Name of the model input it replaces.
    pub name: String,
    /// Type.
    pub ty: Type,
    /// Name of the model output that feeds it.
    pub from: String,
    /// The value that becomes its contents after the run.
    pub next: ValueId,
}

/// An input or output of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in the model.
    pub name: String,
    /// Dtype at the host.
    pub host: HostDType,
    /// Shape at the host; the value's shape has the same number of elements.
    pub shape: Vec<usize>,
    /// The value.
    pub value: ValueId,
}

/// A whole program.
#[derive(Clone, Debug, Default)]
pub struct TensorIr {
    /// Name of the model.
    pub name: String,
    /// Operations in topological order.
    pub values: IdVec<ValueId, ValueData>,
    /// Constants.
    pub consts: IdVec<ConstId, ConstData>,
    /// States.
    pub states: IdVec<StateId, StateData>,
    /// Interned index maps of moves.
    pub maps: map::MapTable,
    /// Inputs in model order; each names an `input` operation.
    pub inputs: Vec<Port>,
    /// Outputs in model order.
    pub outputs: Vec<Port>,
    /// Model nodes, by the origins that operations carry.
    pub origins: IdVec<OriginId, Origin>,
}

impl TensorIr {
    /// Whether a value is an output, or what a state holds after a run.
    pub fn is_observed(&self, v: ValueId) -> bool {
        self.outputs.iter().any(|p| p.value == v) || self.states.values().any(|s| s.next == v)
    }
}
