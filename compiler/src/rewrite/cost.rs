//! What an operation costs, in sixteenths of a cycle, from the target alone.
//!
//! An operation is busy for as long as its units are, and its latency lies on somebody's path: the sum of both is what
//! extraction makes small. What the sum cannot see (which operations overlap) is the same before and after a rewrite.

use super::analysis::Graph;
use super::lang::{Node, NodeOp};
use crate::partition::cost::extents;
use crate::tir::{Op, Type};
use egg::Id;
use lockstep_isa::{AluOp, Target};

/// Sixteenths in a cycle: the unit of all costs, so that shares of a cycle stay integers.
pub const CYCLE: u64 = 16;

/// Constants of at most this many elements may be computed anew: less than a row.
const SMALL: usize = 64;

/// Costs on a target.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The target.
    pub target: &'a Target,
}

impl Model<'_> {
    /// Cost of a node of a class.
    pub fn node(&self, graph: &Graph, class: Id, node: &Node) -> u64 {
        let data = &graph[class].data;
        match &node.op {
            NodeOp::Leaf(_) | NodeOp::Imm(..) => 0,
            // Computed at compile time. One unit, so that of equal programs the one with fewer constants is taken; a changed copy
            // of a constant that stays in use costs the reads of its vectors, which stand for its SRAM.
            _ if data.constant => {
                let copied = data.ty.elements() > SMALL && node.args.iter().any(|&a| graph[a].data.shared);
                1 + if copied { self.vectors(&data.ty) * CYCLE } else { 0 }
            }
            NodeOp::Alu(op) => self.alu(*op, &data.ty),
            NodeOp::Cvt(_) => self.alu(AluOp::Cvt, &data.ty),
            NodeOp::Prim(op, ty) => {
                let operands: Vec<&Type> = node.args.iter().map(|&a| &graph[a].data.ty).collect();
                self.op(op, &operands, ty)
            }
        }
    }

    /// Vectors of a tensor; as many whole rows to a vector as fit.
    fn vectors(&self, ty: &Type) -> u64 {
        let lanes = usize::from(self.target.lanes).max(1);
        let last = ty.shape.last().copied().unwrap_or(1).max(1);
        let rows = ty.elements() / last;
        (rows.div_ceil((lanes / last).max(1)) * last.div_ceil(lanes)) as u64
    }

    /// An elementwise operation: its ALUs of all that the VXM has, once per vector, and its latency.
    fn alu(&self, op: AluOp, ty: &Type) -> u64 {
        let alus = u64::from(self.target.vxm.alus).max(1);
        self.vectors(ty) * u64::from(op.cost()) * CYCLE / alus
            + u64::from(self.target.alu_latency(op.latency_key())) * CYCLE
    }

    /// A way through SRAM: the operands are read and the result is written, two banks at a time.
    pub fn trip(&self, operands: &[&Type], ty: &Type) -> u64 {
        let l = &self.target.latency;
        let vectors: u64 = operands.iter().map(|t| self.vectors(t)).max().unwrap_or(0) + self.vectors(ty);
        (vectors / 2 + u64::from(l.read + l.write)) * CYCLE
    }

    /// A primitive.
    pub fn op(&self, op: &Op, operands: &[&Type], ty: &Type) -> u64 {
        let l = &self.target.latency;
        // What goes through SRAM is read and written once.
        let trip = u64::from(l.read + l.write);
        let all: u64 = operands.iter().map(|t| self.vectors(t)).sum();
        let cycles = match (op, operands) {
            (Op::Input | Op::Const(_) | Op::State(_), _) => 0,
            // One lane move per vector, one unit in each hemisphere.
            (Op::Move { .. }, _) => self.vectors(ty) / 2 + trip + u64::from(l.permute),
            (Op::Map { nodes }, _) => return nodes.iter().map(|n| self.alu(n.op, ty)).sum(),
            // One ALU per vector that is folded, then the lanes.
            (Op::Reduce { .. }, _) => all / 2 + u64::from(l.fold + l.reduce),
            (Op::Contract { batch, contracted, .. }, [a, b]) => {
                let x = extents(batch, contracted, a, b);
                let lanes = u64::from(self.target.lanes).max(1);
                let pack = (lanes / x.depth.max(x.columns).max(1)).max(1);
                let passes = x.batch.div_ceil(pack) * x.rows * x.depth.div_ceil(lanes) * x.columns.div_ceil(lanes);
                // Without a matrix unit of the dtype, products are made on the VXM.
                let busy = match self.target.mxm_rate(a.dtype) {
                    Some(rate) => {
                        passes * u64::from(rate.cycles_per_vector)
                            / (2 * u64::from(self.target.mxm_units(a.dtype)).max(1))
                    }
                    None => x.batch * x.rows * x.columns * x.depth / lanes,
                };
                busy + trip + u64::from(l.load + l.mul)
            }
            // Read, moved and written once per vector.
            _ => all + self.vectors(ty) + trip,
        };
        cycles * CYCLE
    }
}
