//! Normalisations: divide once per row, and after the product.
//!
//! ```text
//! p = div(e, l);  y = contract(p, v)    =>    y = mul(contract(e, v), div(1, l))
//! ```
//!
//! where l has extent 1 on the contracted axes. The product then waits for no sum, and fewer elements are scaled.

use super::super::analysis::{Graph, add_alu, add_move};
use super::super::lang::{Node, NodeOp};
use super::Kind::Reassoc;
use super::fold::{contracts, to_output};
use super::{Action, Root, Rule};
use crate::error::CompileError;
use crate::tir::{ReduceOp, TirBuilder, ValueId};
use egg::Id;
use lockstep_isa::{AluOp, DType};

/// The table.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { name: "div-by-row",     kind: Reassoc, action: Action::Function(Root::Alu(AluOp::Div), div_by_row, sample_div) },
    Rule { name: "scale-after",    kind: Reassoc, action: Action::Function(Root::Contract, scale_after, sample_attention) },
];

/// `x / l` is `x * (1 / l)`, worth it where l is smaller than x.
fn div_by_row(graph: &mut Graph, class: Id) -> Vec<Id> {
    let nodes: Vec<Node> = graph[class].nodes.clone();
    let mut out = Vec::new();
    for node in nodes.iter().filter(|n| n.op == NodeOp::Alu(AluOp::Div)) {
        let (x, l) = (&graph[node.args[0]].data, &graph[node.args[1]].data);
        if l.constant || l.ty.dtype != DType::F32 || l.ty.elements() * 4 > x.ty.elements() {
            continue;
        }
        let one = graph.add(Node::f32(1.0));
        let inverse = add_alu(graph, AluOp::Div, &[one, node.args[1]]);
        out.push(add_alu(graph, AluOp::Mul, &[node.args[0], inverse]));
    }
    out
}

/// A factor or divisor of an operand that is the same along the contracted axes is applied to the product.
fn scale_after(graph: &mut Graph, class: Id) -> Vec<Id> {
    let mut out = Vec::new();
    for c in contracts(graph, class).into_iter().filter(|c| c.ty.dtype == DType::F32) {
        for side in 0..2 {
            let operand: Vec<Node> = graph[c.args[side]].nodes.clone();
            for node in operand {
                let NodeOp::Alu(op @ (AluOp::Mul | AluOp::Div)) = node.op else {
                    continue;
                };
                let factor = graph[node.args[1]].data.clone();
                let inner = &graph[node.args[0]].data;
                let same = inner.ty == graph[c.args[side]].data.ty;
                if factor.constant || !same || factor.ty.dtype != DType::F32 {
                    continue;
                }
                let Some(map) = to_output(&c, side, &factor.ty.shape) else {
                    continue;
                };
                let mut args = c.args;
                args[side] = node.args[0];
                let product = c.add(graph, args);
                let moved = add_move(graph, node.args[1], map);
                out.push(add_alu(graph, op, &[product, moved]));
            }
        }
    }
    out
}

fn sample_div(b: &mut TirBuilder) -> Result<ValueId, CompileError> {
    let x = super::sample_input(b, "x", &[3, 5]);
    let l = super::sample_input(b, "l", &[3, 1]);
    b.map(&[x, l], |e, x| e.div(x[0], x[1]))
}

fn sample_attention(b: &mut TirBuilder) -> Result<ValueId, CompileError> {
    let x = super::sample_input(b, "x", &[3, 2, 5]);
    let v = super::sample_input(b, "v", &[5, 2, 4]);
    let e = b.map(&[x], |e, x| e.exp(x[0]))?;
    let l = b.reduce(ReduceOp::Add, e, &[2])?;
    let p = b.map(&[e, l], |e, x| e.div(x[0], x[1]))?;
    b.contract(p, v, &[(1, 1)], &[(2, 0)])
}
