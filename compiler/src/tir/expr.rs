//! Builds the expression of a map node by node; immediates alone are folded.
//!
//! ```
//! use lockstep_compiler::tir::expr::{Ex, Expr};
//! use lockstep_isa::DType;
//! let e = Expr::new(&[DType::F32]);
//! let x = e.operand(0);
//! let nodes = e.finish(e.max(x, Ex::f32(0.0)));
//! assert_eq!(nodes.len(), 1);
//! ```

use super::eval::alu;
use super::op::{Arg, MapNode};
use lockstep_isa::{AluOp, DType};
use std::cell::RefCell;

/// A part of an expression: an operand, a node or an immediate, with its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ex {
    /// What it is.
    pub arg: Arg,
    /// f32 or i32 (of a converted node, what it was converted to).
    pub dtype: DType,
}

impl Ex {
    /// An f32 immediate.
    pub fn f32(value: f32) -> Ex {
        Ex {
            arg: Arg::Imm(value.to_bits()),
            dtype: DType::F32,
        }
    }

    /// An i32 immediate.
    pub fn i32(value: i32) -> Ex {
        Ex {
            arg: Arg::Imm(value as u32),
            dtype: DType::I32,
        }
    }

    /// An immediate of the type of `like` (f32 or i32); fractions of integers are cut.
    pub fn like(like: Ex, value: f64) -> Ex {
        if like.dtype.is_float() {
            Ex::f32(value as f32)
        } else {
            Ex::i32(value as i32)
        }
    }

    /// Whether it is computed on floats.
    pub fn is_float(self) -> bool {
        self.dtype.is_float()
    }
}

/// An expression under construction.
#[derive(Debug)]
pub struct Expr {
    operands: Vec<DType>,
    nodes: RefCell<Vec<MapNode>>,
}

macro_rules! unary {
    ($($name:ident $op:ident;)*) => { $(#[doc = stringify!($op)] pub fn $name(&self, x: Ex) -> Ex { self.node(AluOp::$op, x.dtype.widened(), &[x]) })* };
}
macro_rules! binary {
    ($($name:ident $op:ident;)*) => { $(#[doc = stringify!($op)] pub fn $name(&self, a: Ex, b: Ex) -> Ex { self.node(AluOp::$op, a.dtype.widened(), &[a, b]) })* };
}
macro_rules! compare {
    ($($name:ident $op:ident;)*) => { $(#[doc = stringify!($op)] pub fn $name(&self, a: Ex, b: Ex) -> Ex { self.node(AluOp::$op, DType::I32, &[a, b]) })* };
}

#[allow(clippy::should_implement_trait)]
impl Expr {
    /// An expression over operands of these dtypes.
    pub fn new(operands: &[DType]) -> Expr {
        Expr {
            operands: operands.to_vec(),
            nodes: RefCell::new(Vec::new()),
        }
    }

    /// Operand `i`, widened; the caller names an operand that exists.
    pub fn operand(&self, i: usize) -> Ex {
        Ex {
            arg: Arg::Operand(i as u32),
            dtype: self.operands[i].widened(),
        }
    }

    /// A node; equal nodes are shared and operations on immediates folded.
    pub fn node(&self, op: AluOp, dtype: DType, args: &[Ex]) -> Ex {
        self.node_on(op, dtype, args, 0)
    }

    fn node_on(&self, op: AluOp, dtype: DType, args: &[Ex], axis: u8) -> Ex {
        let imm: Option<Vec<u32>> = args
            .iter()
            .map(|ex| if let Arg::Imm(bits) = ex.arg { Some(bits) } else { None })
            .collect();
        if let Some(bits) = imm
            && op != AluOp::Iota
        {
            let compute = if op == AluOp::Select { dtype } else { args[0].dtype };
            let value = alu(
                op,
                compute.widened(),
                dtype,
                [bits[0], *bits.get(1).unwrap_or(&0), *bits.get(2).unwrap_or(&0)],
            );
            return Ex {
                arg: Arg::Imm(value),
                dtype: dtype.widened(),
            };
        }
        let mut slots = [Arg::Imm(0); 3];
        slots.iter_mut().zip(args).for_each(|(slot, ex)| *slot = ex.arg);
        let node = MapNode {
            op,
            dtype,
            args: slots,
            axis,
        };
        let mut nodes = self.nodes.borrow_mut();
        let at = nodes.iter().position(|n| *n == node).unwrap_or_else(|| {
            nodes.push(node);
            nodes.len() - 1
        });
        Ex {
            arg: Arg::Node(at as u32),
            dtype,
        }
    }

    unary! { abs Abs; neg Neg; floor Floor; ceil Ceil; round Round; trunc Trunc; sqrt Sqrt; rsqrt Rsqrt; exp Exp; log Log;
    tanh Tanh; erf Erf; sin Sin; cos Cos; }
    binary! { add Add; sub Sub; mul Mul; div Div; min Min; max Max; and And; or Or; xor Xor; shl Shl; shr Shr; shra Shra; }
    compare! { eq Eq; ne Ne; lt Lt; le Le; gt Gt; ge Ge; }

    /// a * b + c with one rounding.
    pub fn fma(&self, a: Ex, b: Ex, c: Ex) -> Ex {
        self.node(AluOp::Fma, a.dtype.widened(), &[a, b, c])
    }

    /// `cond != 0 ? a : b`.
    pub fn select(&self, cond: Ex, a: Ex, b: Ex) -> Ex {
        self.node(AluOp::Select, a.dtype.widened(), &[cond, a, b])
    }

    /// Conversion to any dtype; nothing if it computes in this dtype already.
    pub fn cvt(&self, x: Ex, to: DType) -> Ex {
        if x.dtype == to {
            x
        } else {
            self.node(AluOp::Cvt, to, &[x])
        }
    }

    /// The coordinate along an axis, as i32.
    pub fn iota(&self, axis: usize) -> Ex {
        self.node_on(AluOp::Iota, DType::I32, &[], axis as u8)
    }

    /// `1 - x` for truth values.
    pub fn not(&self, x: Ex) -> Ex {
        self.eq(x, Ex::i32(0))
    }

    /// The nodes that `result` needs, with `result` last.
    pub fn finish(&self, result: Ex) -> Vec<MapNode> {
        let mut nodes = self.nodes.borrow().clone();
        match result.arg {
            Arg::Node(at) => nodes.truncate(at as usize + 1),
            arg => {
                let args = [arg, Arg::Imm(0), Arg::Imm(0)];
                nodes.push(MapNode {
                    op: AluOp::Copy,
                    dtype: result.dtype.widened(),
                    args,
                    axis: 0,
                });
            }
        }
        prune(&nodes)
    }
}

/// The nodes that the last one needs, in order.
pub fn prune(nodes: &[MapNode]) -> Vec<MapNode> {
    let mut used = vec![false; nodes.len()];
    if let Some(last) = used.last_mut() {
        *last = true;
    }
    for at in (0..nodes.len()).rev() {
        if used[at] {
            for arg in &nodes[at].args[..nodes[at].op.arity()] {
                if let Arg::Node(i) = arg {
                    used[*i as usize] = true;
                }
            }
        }
    }
    let mut new_index = vec![0u32; nodes.len()];
    let mut out: Vec<MapNode> = Vec::new();
    for (at, node) in nodes.iter().enumerate().filter(|(at, _)| used[*at]) {
        let mut node = *node;
        node.args[..node.op.arity()].iter_mut().for_each(|arg| {
            if let Arg::Node(i) = arg {
                *arg = Arg::Node(new_index[*i as usize]);
            }
        });
        new_index[at] = out.len() as u32;
        out.push(node);
    }
    out
}
