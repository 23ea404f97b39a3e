//! The primitives, and the type that each one gives.

use super::map::MapTable;
use super::{ConstId, MapId, StateId, Type};
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
    /// listed order, first listed slowest, from zero. Operands have equal dtype, or the right one has a dtype whose values the
    /// left one's all has (weights as they are stored); the result has `acc`, f32 for floats and i32 for integers.
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

impl ReduceOp {
    /// All operators.
    pub const ALL: [ReduceOp; 4] = [ReduceOp::Add, ReduceOp::Mul, ReduceOp::Min, ReduceOp::Max];

    /// Keyword in the text format.
    pub const fn name(self) -> &'static str {
        match self {
            ReduceOp::Add => "add",
            ReduceOp::Mul => "mul",
            ReduceOp::Min => "min",
            ReduceOp::Max => "max",
        }
    }

    /// The ALU operation that combines two elements.
    pub const fn alu(self) -> AluOp {
        match self {
            ReduceOp::Add => AluOp::Add,
            ReduceOp::Mul => AluOp::Mul,
            ReduceOp::Min => AluOp::Min,
            ReduceOp::Max => AluOp::Max,
        }
    }
}

/// Axes of an operand of rank `rank` that a contract neither batches nor contracts, ascending; `left` picks the side.
pub fn free_axes(rank: usize, batch: &[(u8, u8)], contracted: &[(u8, u8)], left: bool) -> Vec<usize> {
    let used = |axis: usize| {
        batch
            .iter()
            .chain(contracted)
            .any(|&(l, r)| usize::from(if left { l } else { r }) == axis)
    };
    (0..rank).filter(|&axis| !used(axis)).collect()
}

/// What an argument of a map expression holds: a float, an integer, or (an immediate) either.
pub fn arg_dtype(arg: Arg, nodes: &[MapNode], operands: &[DType]) -> Option<DType> {
    match arg {
        Arg::Operand(i) => operands.get(i as usize).map(|d| d.widened()),
        Arg::Node(i) => nodes.get(i as usize).map(|n| n.dtype.widened()),
        Arg::Imm(_) => None,
    }
}

/// In what type (f32 or i32) node `at` computes: the type of its arguments, for an operation on immediates alone i32.
pub fn compute_dtype(nodes: &[MapNode], at: usize, operands: &[DType]) -> DType {
    let node = &nodes[at];
    match node.op {
        AluOp::Iota => DType::I32,
        AluOp::Select => node.dtype.widened(),
        AluOp::Eq | AluOp::Ne | AluOp::Lt | AluOp::Le | AluOp::Gt | AluOp::Ge | AluOp::Cvt => node.args
            [..node.op.arity()]
            .iter()
            .find_map(|&arg| arg_dtype(arg, nodes, operands))
            .unwrap_or(DType::I32),
        _ => node.dtype.widened(),
    }
}

/// The type that an operation gives.
///
/// `stored` is the type on record: input, const, state and transfer have it from elsewhere, a map takes its shape from it (operands
/// may all be smaller), a reduce whether the result is narrowed.
///
/// # Errors
/// One line saying what was found and what is allowed.
pub fn infer(op: &Op, inputs: &[&Type], stored: &Type, maps: &MapTable) -> Result<Type, String> {
    let arity = |n: usize| {
        if inputs.len() == n {
            Ok(())
        } else {
            Err(format!("has {} operands, allowed: {n}", inputs.len()))
        }
    };
    match op {
        Op::Input | Op::Const(_) | Op::State(_) => {
            arity(0)?;
            Ok(stored.clone())
        }
        Op::Transfer => {
            arity(1)?;
            Ok(inputs[0].clone())
        }
        Op::Move { parts, .. } => infer_move(parts, inputs, maps),
        Op::Map { nodes } => infer_map(nodes, inputs, stored),
        Op::Reduce { axes, .. } => {
            arity(1)?;
            let mut ty = inputs[0].clone();
            if axes.windows(2).any(|w| w[0] >= w[1]) || axes.iter().any(|&a| usize::from(a) >= ty.rank()) {
                return Err(format!("axes {axes:?} are not ascending axes of rank {}", ty.rank()));
            }
            axes.iter().for_each(|&a| ty.shape[usize::from(a)] = 1);
            if stored.dtype == ty.dtype.widened() {
                ty.dtype = stored.dtype;
            }
            Ok(ty)
        }
        Op::Contract { batch, contracted, acc } => {
            arity(2)?;
            infer_contract(batch, contracted, *acc, inputs[0], inputs[1])
        }
        Op::Gather => {
            arity(2)?;
            let (table, indices) = (inputs[0], inputs[1]);
            if table.rank() == 0 || indices.dtype != DType::I32 {
                return Err("operands must be a table of rank 1 or more and i32 indices".into());
            }
            let shape = [&indices.shape[..], &table.shape[1..]].concat();
            Ok(Type {
                dtype: table.dtype,
                shape,
            })
        }
        Op::Scatter { .. } => {
            arity(3)?;
            let (table, indices, updates) = (inputs[0], inputs[1], inputs[2]);
            if table.rank() == 0 || indices.dtype != DType::I32 || updates.dtype != table.dtype {
                return Err(
                    "operands must be a tensor of rank 1 or more, i32 indices and updates of the tensor's dtype".into(),
                );
            }
            let shape = [&indices.shape[..], &table.shape[1..]].concat();
            if updates.shape != shape {
                return Err(format!("updates have shape {:?}, expected {shape:?}", updates.shape));
            }
            Ok(table.clone())
        }
        Op::Sort { axis, .. } => {
            arity(2)?;
            if inputs[0].shape != inputs[1].shape || usize::from(*axis) >= inputs[0].rank() {
                return Err("key and payload must have one shape with the sorted axis".into());
            }
            Ok(inputs[1].clone())
        }
    }
}

fn infer_move(parts: &[MapId], inputs: &[&Type], maps: &MapTable) -> Result<Type, String> {
    if parts.is_empty() || parts.len() != inputs.len() {
        return Err(format!(
            "has {} operands and {} maps, allowed: one map per operand, at least one",
            inputs.len(),
            parts.len()
        ));
    }
    let shape = maps.get(parts[0]).shape().to_vec();
    for (&part, ty) in parts.iter().zip(inputs) {
        let map = maps.get(part);
        if map.shape() != shape || ty.dtype != inputs[0].dtype {
            return Err("parts differ in dtype or shape".into());
        }
        if map.views.is_empty() || map.views.len() > super::map::MAX_VIEWS {
            return Err(format!(
                "a map has {} views, allowed: 1 to {}",
                map.views.len(),
                super::map::MAX_VIEWS
            ));
        }
        let mut limit = ty.elements() as i64;
        for view in &map.views {
            if view.span().is_some_and(|(min, max)| min < 0 || max >= limit) {
                return Err("a map leaves its operand".into());
            }
            limit = view.shape.iter().product::<usize>() as i64;
        }
    }
    Ok(Type {
        dtype: inputs[0].dtype,
        shape,
    })
}

fn infer_map(nodes: &[MapNode], inputs: &[&Type], stored: &Type) -> Result<Type, String> {
    let Some(last) = nodes.last() else {
        return Err("the expression is empty".into());
    };
    for ty in inputs {
        let fits = ty.rank() == stored.rank() && ty.shape.iter().zip(&stored.shape).all(|(&a, &b)| a == b || a == 1);
        if !fits {
            return Err(format!(
                "operand of shape {:?} does not broadcast to {:?}",
                ty.shape, stored.shape
            ));
        }
    }
    let operands: Vec<DType> = inputs.iter().map(|t| t.dtype).collect();
    for (at, node) in nodes.iter().enumerate() {
        let compute = compute_dtype(nodes, at, &operands);
        for (n, &arg) in node.args[..node.op.arity()].iter().enumerate() {
            let known = match arg {
                Arg::Operand(i) => (i as usize) < inputs.len(),
                Arg::Node(i) => (i as usize) < at,
                Arg::Imm(_) => true,
            };
            if !known {
                return Err(format!(
                    "node {at} ({}) has an argument that is not defined",
                    node.op.name()
                ));
            }
            let expected = if node.op == AluOp::Select && n == 0 {
                DType::I32
            } else {
                compute
            };
            if let Some(found) = arg_dtype(arg, nodes, &operands)
                && found != expected
            {
                return Err(format!(
                    "argument {n} of node {at} ({}) is {found}, expected {expected}",
                    node.op.name()
                ));
            }
        }
        if !lockstep_isa::scalar::is_defined(node.op, compute) {
            return Err(format!("node {at}: {} is not defined on {compute}", node.op.name()));
        }
        let result = match node.op {
            AluOp::Cvt => node.dtype,
            AluOp::Eq | AluOp::Ne | AluOp::Lt | AluOp::Le | AluOp::Gt | AluOp::Ge | AluOp::Iota => DType::I32,
            _ => compute,
        };
        if node.dtype != result {
            return Err(format!(
                "node {at} ({}) has type {}, expected {result}",
                node.op.name(),
                node.dtype
            ));
        }
        if node.op == AluOp::Iota && usize::from(node.axis) >= stored.rank() {
            return Err(format!("iota over axis {} of rank {}", node.axis, stored.rank()));
        }
    }
    Ok(Type {
        dtype: last.dtype,
        shape: stored.shape.clone(),
    })
}

fn infer_contract(batch: &[(u8, u8)], contracted: &[(u8, u8)], acc: DType, a: &Type, b: &Type) -> Result<Type, String> {
    let fits = a.dtype == b.dtype || (a.dtype.is_float() && a.dtype.holds(b.dtype));
    if !fits || acc != a.dtype.widened() {
        return Err(format!(
            "operands {} and {} with accumulation in {acc} are not allowed",
            a.dtype, b.dtype
        ));
    }
    for (side, ty) in [(true, a), (false, b)] {
        let mut axes: Vec<u8> = batch
            .iter()
            .chain(contracted)
            .map(|&(l, r)| if side { l } else { r })
            .collect();
        axes.sort_unstable();
        if axes.windows(2).any(|w| w[0] == w[1]) || axes.last().is_some_and(|&axis| usize::from(axis) >= ty.rank()) {
            return Err(format!("axis pairs name an axis twice or beyond rank {}", ty.rank()));
        }
    }
    for &(l, r) in batch.iter().chain(contracted) {
        if a.shape[usize::from(l)] != b.shape[usize::from(r)] {
            return Err(format!(
                "paired axes {l} and {r} have extents {} and {}",
                a.shape[usize::from(l)],
                b.shape[usize::from(r)]
            ));
        }
    }
    let mut shape: Vec<usize> = batch.iter().map(|&(l, _)| a.shape[usize::from(l)]).collect();
    shape.extend(
        free_axes(a.rank(), batch, contracted, true)
            .iter()
            .map(|&axis| a.shape[axis]),
    );
    shape.extend(
        free_axes(b.rank(), batch, contracted, false)
            .iter()
            .map(|&axis| b.shape[axis]),
    );
    Ok(Type { dtype: acc, shape })
}
