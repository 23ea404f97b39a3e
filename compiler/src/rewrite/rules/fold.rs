//! Factors and summands that are constant along some axes pass through a contract, into its weights where those are constant.
//!
//! ```text
//! y = mul(contract(x, W), g)            =>    y = contract(x, mul(W, g))            ; g along free or batch axes of W
//! y = contract(mul(x, g), W)            =>    y = contract(x, mul(W, g))            ; g along contracted or batch axes
//! y = contract(add(x, b), W)            =>    y = add(contract(x, W), contract(b, W))
//! ```
//!
//! Constant expressions cost nothing at run time. Bias and batch normalisation reach the contract by the rules of `algebra`.

use super::super::analysis::{Data, Graph, add_alu, add_move};
use super::super::lang::{Node, NodeOp};
use super::Kind::Reassoc;
use super::{Action, Root, Rule};
use crate::error::CompileError;
use crate::tir::expr::Ex;
use crate::tir::op::free_axes;
use crate::tir::{IndexMap, Op, TirBuilder, Type, ValueId, View};
use egg::Id;
use lockstep_isa::{AluOp, DType};

/// The table.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "scale-into-weights",   kind: Reassoc, action: Action::Function(Root::Alu(AluOp::Mul), scale_into, sample_scale_into) },
    Rule { name: "scale-past-weights",   kind: Reassoc, action: Action::Function(Root::Contract, scale_past, sample_scale_past) },
    Rule { name: "bias-past-weights",    kind: Reassoc, action: Action::Function(Root::Contract, bias_past, sample_bias_past) },
];

/// A contract in a class.
#[derive(Clone, Debug)]
pub(super) struct Contract {
    pub op: Op,
    pub batch: Vec<(u8, u8)>,
    pub contracted: Vec<(u8, u8)>,
    pub args: [Id; 2],
    /// Shapes of the operands.
    pub shapes: [Vec<usize>; 2],
    pub ty: Type,
}

impl Contract {
    /// The same product of other operands of the same types.
    pub fn add(&self, graph: &mut Graph, args: [Id; 2]) -> Id {
        graph.add(Node::new(NodeOp::Prim(self.op.clone(), self.ty.clone()), &args))
    }

    /// The axis of the result for every axis of an operand; `None` for contracted ones.
    fn output_axes(&self, side: usize) -> Vec<Option<usize>> {
        let rank = |side: usize| self.shapes[side].len();
        let free = |side: usize| free_axes(rank(side), &self.batch, &self.contracted, side == 0);
        let first = self.batch.len() + if side == 0 { 0 } else { free(0).len() };
        let free = free(side);
        let axis_of = |a: usize| {
            let batch = self
                .batch
                .iter()
                .position(|p| usize::from(if side == 0 { p.0 } else { p.1 }) == a);
            batch.or_else(|| free.iter().position(|&f| f == a).map(|n| first + n))
        };
        (0..rank(side)).map(axis_of).collect()
    }

    /// The axis of the other operand that every axis of an operand is paired with; `None` for free ones.
    fn paired_axes(&self, side: usize) -> Vec<Option<usize>> {
        let pairs = || self.batch.iter().chain(&self.contracted);
        let mine = |p: &(u8, u8)| usize::from(if side == 0 { p.0 } else { p.1 });
        let other = |p: &(u8, u8)| usize::from(if side == 0 { p.1 } else { p.0 });
        (0..self.shapes[side].len())
            .map(|a| pairs().find(|p| mine(p) == a).map(other))
            .collect()
    }
}

/// The contracts of a class.
pub(super) fn contracts(graph: &Graph, class: Id) -> Vec<Contract> {
    let of = |node: &Node| match (&node.op, node.args.as_slice()) {
        (NodeOp::Prim(op @ Op::Contract { batch, contracted, .. }, ty), &[a, b]) => Some(Contract {
            op: op.clone(),
            batch: batch.clone(),
            contracted: contracted.clone(),
            args: [a, b],
            shapes: [graph[a].data.ty.shape.clone(), graph[b].data.ty.shape.clone()],
            ty: ty.clone(),
        }),
        _ => None,
    };
    graph[class].nodes.iter().filter_map(of).collect()
}

/// A map of a tensor of shape `from` whose axis `from_axis[a]` becomes axis a (`None`: extent 1); `None` if an axis with more than one
/// element is lost.
fn reaxis(from: &[usize], from_axis: &[Option<usize>]) -> Option<IndexMap> {
    let kept = |axis: usize| from_axis.contains(&Some(axis));
    let known = from_axis.iter().flatten().all(|&axis| axis < from.len());
    if !known || from.iter().enumerate().any(|(axis, &n)| n > 1 && !kept(axis)) {
        return None;
    }
    let strides = View::contiguous(from).strides;
    let shape = from_axis.iter().map(|a| a.map_or(1, |a| from[a])).collect();
    let steps = from_axis.iter().map(|a| a.map_or(0, |a| strides[a])).collect();
    Some(IndexMap::of(View::strided(shape, steps, 0)))
}

/// Brings a factor of an operand to the axes of the result; `None` if it varies along a contracted axis.
pub(super) fn to_output(c: &Contract, side: usize, factor: &[usize]) -> Option<IndexMap> {
    let axes = c.output_axes(side);
    let from: Vec<Option<usize>> = (0..c.ty.rank())
        .map(|o| axes.iter().position(|&a| a == Some(o)))
        .collect();
    (factor.len() == axes.len()).then(|| reaxis(factor, &from)).flatten()
}

/// The move that brings a factor to an operand's axes, none of it for an immediate; `None` if there is no such move.
fn factor_map(factor: &Data, axes: &[Option<usize>]) -> Option<Option<IndexMap>> {
    match factor.imm {
        Some(_) => Some(None),
        None => reaxis(&factor.ty.shape, axes).map(Some),
    }
}

/// `factor` times the operand of a contract, at the operand's dtype.
fn scaled(graph: &mut Graph, operand: Id, factor: Id, map: Option<IndexMap>) -> Id {
    let moved = match map {
        Some(map) => add_move(graph, factor, map),
        None => factor,
    };
    let product = add_alu(graph, AluOp::Mul, &[operand, moved]);
    let dtype = graph[operand].data.ty.dtype;
    if dtype == DType::F32 {
        product
    } else {
        graph.add(Node::new(NodeOp::Cvt(dtype), &[product]))
    }
}

/// A constant factor of a product goes to an operand that is constant, an immediate to either.
fn scale_into(graph: &mut Graph, class: Id) -> Vec<Id> {
    let nodes: Vec<Node> = graph[class].nodes.clone();
    let mut out = Vec::new();
    for node in nodes.iter().filter(|n| n.op == NodeOp::Alu(AluOp::Mul)) {
        let factor = graph[node.args[1]].data.clone();
        if !factor.constant || factor.ty.dtype != DType::F32 {
            continue;
        }
        for c in contracts(graph, node.args[0])
            .into_iter()
            .filter(|c| c.ty.dtype == DType::F32)
        {
            for side in 0..2 {
                let operand = &graph[c.args[side]].data;
                let wide = operand.ty.dtype == DType::F32;
                let map = factor_map(&factor, &c.output_axes(side));
                let Some(map) = map.filter(|m| operand.constant || (wide && m.is_none())) else {
                    continue;
                };
                graph.analysis.current.extend(graph[node.args[0]].data.origins.clone());
                let mut args = c.args;
                args[side] = scaled(graph, c.args[side], node.args[1], map);
                out.push(c.add(graph, args));
            }
        }
    }
    out
}

/// A constant factor of an operand goes to the other one, if that is constant.
fn scale_past(graph: &mut Graph, class: Id) -> Vec<Id> {
    let mut out = Vec::new();
    for c in contracts(graph, class).into_iter().filter(|c| c.ty.dtype == DType::F32) {
        for side in 0..2 {
            let other = 1 - side;
            if !graph[c.args[other]].data.constant || graph[c.args[side]].data.constant {
                continue;
            }
            let operand: Vec<Node> = graph[c.args[side]].nodes.clone();
            for node in operand.iter().filter(|n| n.op == NodeOp::Alu(AluOp::Mul)) {
                let factor = graph[node.args[1]].data.clone();
                let fits = graph[node.args[0]].data.ty == graph[c.args[side]].data.ty;
                if !factor.constant || !fits {
                    continue;
                }
                let Some(map) = factor_map(&factor, &c.paired_axes(other)) else {
                    continue;
                };
                let mut args = c.args;
                args[side] = node.args[0];
                args[other] = scaled(graph, c.args[other], node.args[1], map);
                out.push(c.add(graph, args));
            }
        }
    }
    out
}

/// A constant summand of an operand becomes a constant summand of the product, if the other operand is constant.
fn bias_past(graph: &mut Graph, class: Id) -> Vec<Id> {
    let mut out = Vec::new();
    for c in contracts(graph, class).into_iter().filter(|c| c.ty.dtype == DType::F32) {
        for side in 0..2 {
            let other = 1 - side;
            if !graph[c.args[other]].data.constant || graph[c.args[side]].data.constant {
                continue;
            }
            let operand: Vec<Node> = graph[c.args[side]].nodes.clone();
            for node in operand.iter().filter(|n| n.op == NodeOp::Alu(AluOp::Add)) {
                let bias = graph[node.args[1]].data.clone();
                let inner = graph[node.args[0]].data.ty.clone();
                let paired = c.paired_axes(side);
                let full = bias.ty.rank() == inner.rank()
                    && paired
                        .iter()
                        .enumerate()
                        .all(|(a, p)| p.is_none() || bias.ty.shape[a] == inner.shape[a]);
                if !bias.constant || !full || inner != graph[c.args[side]].data.ty || bias.ty.dtype != inner.dtype {
                    continue;
                }
                let mut args = c.args;
                args[side] = node.args[0];
                let product = c.add(graph, args);
                args[side] = node.args[1];
                let mut ty = c.ty.clone();
                for (a, o) in c.output_axes(side).into_iter().enumerate() {
                    if let Some(o) = o {
                        ty.shape[o] = bias.ty.shape[a];
                    }
                }
                let constant = Contract { ty, ..c.clone() }.add(graph, args);
                out.push(add_alu(graph, AluOp::Add, &[product, constant]));
            }
        }
    }
    out
}

fn sample_scale_into(b: &mut TirBuilder) -> Result<ValueId, CompileError> {
    let x = super::sample_input(b, "x", &[3, 2, 5]);
    let w = super::sample_const(b, "w", &[4, 2, 5])?;
    let g = super::sample_const(b, "g", &[2, 1, 4])?;
    let y = b.contract(x, w, &[(1, 1)], &[(2, 2)])?;
    b.map(&[y, g], |e, x| e.mul(x[0], x[1]))
}

fn sample_scale_past(b: &mut TirBuilder) -> Result<ValueId, CompileError> {
    let x = super::sample_input(b, "x", &[3, 5]);
    let w = super::sample_const(b, "w", &[4, 5])?;
    let g = super::sample_const(b, "g", &[1, 5])?;
    let y = b.map(&[x, g], |e, x| e.mul(x[0], x[1]))?;
    let y = b.map(&[y], |e, y| e.mul(y[0], Ex::f32(3.0)))?;
    b.contract(y, w, &[], &[(1, 1)])
}

fn sample_bias_past(b: &mut TirBuilder) -> Result<ValueId, CompileError> {
    let x = super::sample_input(b, "x", &[3, 5]);
    let w = super::sample_const(b, "w", &[5, 4])?;
    let g = super::sample_const(b, "g", &[1, 5])?;
    let y = b.map(&[x, g], |e, x| e.add(x[0], x[1]))?;
    b.contract(y, w, &[], &[(1, 0)])
}
