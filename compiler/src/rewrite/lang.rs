//! The language of the e-graph: single operations on shaped tensors.
//!
//! An elementwise operation has one ALU operation and broadcasts its arguments; immediates take any shape. Everything
//! else is a primitive of the tensor IR, with its attributes and the type of its result.

use crate::tir::{Op, Type};
use egg::{FromOp, Id, Language};
use lockstep_isa::{AluOp, DType};

/// What a node does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeOp {
    /// A value from outside the block, by its number in the block's list.
    Leaf(u32),
    /// An immediate: the bits of an f32 or i32.
    Imm(u32, DType),
    /// An elementwise operation; arguments of narrow dtypes are widened.
    Alu(AluOp),
    /// An elementwise conversion.
    Cvt(DType),
    /// A primitive of the IR and the type it gives.
    Prim(Op, Type),
}

/// An operation on e-classes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// What it does.
    pub op: NodeOp,
    /// Its operands.
    pub args: Vec<Id>,
}

impl Node {
    /// A node from its parts.
    pub fn new(op: NodeOp, args: &[Id]) -> Node {
        Node {
            op,
            args: args.to_vec(),
        }
    }

    /// An elementwise operation.
    pub fn alu(op: AluOp, args: &[Id]) -> Node {
        Node::new(NodeOp::Alu(op), args)
    }

    /// An f32 immediate.
    pub fn f32(value: f32) -> Node {
        Node::new(NodeOp::Imm(value.to_bits(), DType::F32), &[])
    }
}

impl Language for Node {
    type Discriminant = NodeOp;

    fn discriminant(&self) -> NodeOp {
        self.op.clone()
    }

    fn matches(&self, other: &Node) -> bool {
        self.op == other.op && self.args.len() == other.args.len()
    }

    fn children(&self) -> &[Id] {
        &self.args
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}

/// An operation of a pattern that is no ALU operation and no f32 number.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0} with {1} operands is no elementwise operation and no number")]
pub struct NotAnOperation(String, usize);

impl FromOp for Node {
    type Error = NotAnOperation;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Node, NotAnOperation> {
        if children.is_empty()
            && let Ok(value) = op.parse::<f32>()
        {
            return Ok(Node::f32(value));
        }
        let alu = AluOp::ALL
            .iter()
            .find(|a| a.name() == op && a.arity() == children.len() && **a != AluOp::Cvt);
        match alu {
            Some(&alu) if !children.is_empty() => Ok(Node {
                op: NodeOp::Alu(alu),
                args: children,
            }),
            _ => Err(NotAnOperation(op.to_string(), children.len())),
        }
    }
}
