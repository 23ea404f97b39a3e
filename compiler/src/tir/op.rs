//! The primitives, and the type that each one gives.

use super::{ConstId, MapId, StateId};
use lockstep_isa::{AluOp, DType};

/// Associative operator of a reduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReduceOp {
    /// Sum.
    Add,
    /// Product.
    Mul,
    /// Minimum (propagates NaN, -0 < +0).
    Min,
    /// Maximum (propagates NaN, -0 < +0).
    Max,
}

/// How scatter combines an update with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Combiner {
    /// The update replaces it; with equal indices the last update wins.
    Replace,
    /// Combined by the operator, in ascending order of updates.
    Reduce(ReduceOp),
}

/// Argument of a node of a map expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arg {
    /// Operand `i` of the map, widened to f32 or i32.
    Operand(u32),
    /// Result of an earlier node.
    Node(u32),
    /// An immediate, as the bits of an f32 or i32.
    Imm(u32),
}

/// One node of a map expression: an ALU operation on its arguments.
///
/// `iota` takes no argument and gives the coordinate along `axis` as i32. `cvt` converts from the dtype of its argument
/// to `dtype`; every other operation computes in f32 or i32, and comparisons give i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapNode {
    /// The operation.
    pub op: AluOp,
    /// Type of the result.
    pub dtype: DType,
    /// Arguments; only the first `op.arity()` count.
    pub args: [Arg; 3],
    /// Axis of an iota; 0 otherwise.
    pub axis: u8,
}

/// A primitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// Argument of the entry.
    Input,
    /// A weight or other constant.
    Const(ConstId),
    /// The contents of a state before the run.
    State(StateId),
    /// Static re-arrangement of n operands of one dtype. Operand `i` has index map `parts[i]`; an output element comes
    /// from the first part whose map is defined there, else it is `fill` (bits of an element).
    Move {
        /// One map per operand, all with the output's shape.
        parts: Vec<MapId>,
        /// Bits of the fill element, in the low bytes.
        fill: u32,
    },
    /// Elementwise expression; the last node is the result. Operands have the output's rank and, per axis, its extent
    /// or 1.
    Map {
        /// Nodes in order.
        nodes: Vec<MapNode>,
    },
    /// Reduction over `axes`, which stay with extent 1. Computed in f32 or i32 and rounded once to the result dtype.
    Reduce {
        /// Operator.
        op: ReduceOp,
        /// Axes, ascending.
        axes: Vec<u8>,
    },
    /// Batched matrix product. Output axes: the batch axes in order, then the free axes of the left operand in order,
    /// then the free axes of the right. Each output is one chain of fused multiply-adds over the contracted axes in the
    /// listed order, first listed slowest, from zero. Operands have equal dtype; the result has `acc`, f32 for floats and i32 for
    /// integers.
    Contract {
        /// Batch axes: (axis of left, axis of right).
        batch: Vec<(u8, u8)>,
        /// Contracted axes: (axis of left, axis of right), slowest first.
        contracted: Vec<(u8, u8)>,
        /// Dtype of accumulation and result.
        acc: DType,
    },
    /// Rows of a table by run-time indices: operands table `[n, rest..]` and i32 indices `[idx..]`, result
    /// `[idx.., rest..]`; an index is clamped as min(idx as u32, n - 1).
    Gather,
    /// Rows of a tensor replaced or combined: operands tensor `[n, rest..]`, i32 indices `[idx..]`, updates
    /// `[idx.., rest..]`; result of the tensor's type; indices clamped as in gather.
    Scatter {
        /// How updates combine.
        combiner: Combiner,
    },
    /// Operands key and payload of one shape: the payload in the order that sorts the keys along `axis`, by a fixed
    /// comparison network that is stable.
    Sort {
        /// The sorted axis.
        axis: u8,
        /// Largest first.
        descending: bool,
    },
    /// The operand, on another chip. Legal only in a partitioned program.
    Transfer,
}

impl Op {
    /// Keyword in the text format.
    pub const fn name(&self) -> &'static str {
        match self {
            Op::Input => "input",
            Op::Const(_) => "const",
            Op::State(_) => "state",
            Op::Move { .. } => "move",
            Op::Map { .. } => "map",
            Op::Reduce { .. } => "reduce",
            Op::Contract { .. } => "contract",
            Op::Gather => "gather",
            Op::Scatter { .. } => "scatter",
            Op::Sort { .. } => "sort",
            Op::Transfer => "transfer",
        }
    }
}
