//! `cancel-shifts`: sums of integers and numbers that meet become one, and conversions to integers that hold the value anyway go.
//!
//! Bytes that are stored 128 less are made unsigned and signed again on the way from a QuantizeLinear to a product:
//!
//! ```text
//! v1: u8 = map cvt.u8(add(v0, 128))        (v0: i8)
//! v2: f32 = map cvt.f32(sub(v1, 3))    =>    v2: f32 = map cvt.f32(add(v0, 125))
//! ```

use super::rebuild::{keep, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::expr::prune;
use crate::tir::op::arg_dtype;
use crate::tir::{Arg, MapNode, Op, TensorIr};
use lockstep_isa::{AluOp, DType};

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    rebuild(ir, |b, old, id, inputs| {
        let value = &old.values[id];
        let Op::Map { nodes } = &value.op else {
            return keep(b, old, id, inputs);
        };
        let dtypes: Vec<DType> = inputs.iter().map(|&v| b.dtype(v)).collect();
        let left = settled(nodes, &dtypes);
        let nodes = match left.len() < nodes.len() || left.len() == 1 {
            true => left,
            false => return keep(b, old, id, inputs),
        };
        if let [only] = nodes[..]
            && let (AluOp::Copy | AluOp::Cvt, Arg::Operand(i)) = (only.op, only.args[0])
            && b.dtype(inputs[i as usize]) == value.ty.dtype
            && b.shape(inputs[i as usize]) == value.ty.shape
        {
            return Ok(inputs[i as usize]);
        }
        b.map_nodes(&value.ty.shape, inputs, nodes)
    })
}

/// The expression without what cancels.
fn settled(nodes: &[MapNode], operands: &[DType]) -> Vec<MapNode> {
    let mut out: Vec<MapNode> = Vec::with_capacity(nodes.len());
    // What stands for each node, and between what its value lies, where it is an integer.
    let mut stands: Vec<Arg> = Vec::with_capacity(nodes.len());
    let mut ranges: Vec<(i64, i64)> = Vec::with_capacity(nodes.len());
    for (at, node) in nodes.iter().enumerate() {
        let mut node = *node;
        for arg in &mut node.args[..node.op.arity()] {
            if let Arg::Node(i) = arg {
                *arg = stands[*i as usize];
            }
        }
        let range = |arg: Arg| match arg {
            Arg::Imm(bits) => (i64::from(bits as i32), i64::from(bits as i32)),
            Arg::Node(i) => ranges[i as usize],
            Arg::Operand(i) => bounds(operands[i as usize]),
        };
        let mut instead = None;
        if let (AluOp::Sub, DType::I32, Arg::Imm(bits)) = (node.op, node.dtype, node.args[1]) {
            (node.op, node.args[1]) = (AluOp::Add, Arg::Imm((bits as i32).wrapping_neg() as u32));
        }
        if let (AluOp::Add, DType::I32, Arg::Imm(bits)) = (node.op, node.dtype, node.args[1]) {
            let inner = match node.args[0] {
                Arg::Node(i) => out.get(i as usize).copied(),
                _ => None,
            };
            let mut sum = bits;
            if let Some(MapNode {
                op: AluOp::Add,
                dtype: DType::I32,
                args: [x, Arg::Imm(first), _],
                ..
            }) = inner
            {
                sum = first.wrapping_add(bits);
                node.args = [x, Arg::Imm(sum), node.args[2]];
            }
            if sum == 0 {
                instead = Some(node.args[0]);
            }
        }
        let from = arg_dtype(node.args[0], &out, operands);
        let [a, b, _] = node.args.map(range);
        let value = match (node.op, node.dtype) {
            (AluOp::Add, DType::I32) => (a.0 + b.0, a.1 + b.1),
            (AluOp::Min, DType::I32) => (a.0.min(b.0), a.1.min(b.1)),
            (AluOp::Max, DType::I32) => (a.0.max(b.0), a.1.max(b.1)),
            (AluOp::Cvt, to) => bounds(to),
            _ => bounds(DType::I32),
        };
        let value = if bounds(DType::I32).0 <= value.0 && value.1 <= bounds(DType::I32).1 {
            value
        } else {
            bounds(DType::I32)
        };
        if node.op == AluOp::Cvt
            && from == Some(DType::I32)
            && value.0 <= a.0
            && a.1 <= value.1
            && is_integer(node.dtype)
        {
            instead = Some(node.args[0]);
        }
        match instead {
            // The result keeps its type.
            Some(arg) if at + 1 < nodes.len() => {
                stands.push(arg);
                continue;
            }
            Some(arg) if node.op == AluOp::Add => {
                node = MapNode {
                    op: AluOp::Copy,
                    args: [arg, Arg::Imm(0), Arg::Imm(0)],
                    ..node
                };
            }
            _ => {}
        }
        stands.push(Arg::Node(out.len() as u32));
        ranges.push(value);
        out.push(node);
    }
    prune(&out)
}

fn is_integer(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8 | DType::U16 | DType::I32)
}

/// The least and the greatest integer of a dtype; of floats those of i32, since only sums of i32 are looked at.
fn bounds(dtype: DType) -> (i64, i64) {
    match dtype {
        DType::I8 => (-128, 127),
        DType::U8 => (0, 255),
        DType::U16 => (0, 65_535),
        _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::expr::{Ex, Expr};

    /// Nodes left of an expression of one operand.
    fn left(dtype: DType, build: impl Fn(&Expr, Ex) -> Ex) -> Vec<AluOp> {
        let e = Expr::new(&[dtype]);
        let result = build(&e, e.operand(0));
        settled(&e.finish(result), &[dtype]).iter().map(|n| n.op).collect()
    }

    #[test]
    fn shifts_of_bytes_cancel() {
        let unsigned = |e: &Expr, x| e.cvt(e.add(x, Ex::i32(128)), DType::U8);
        let again = |e: &Expr, x| e.cvt(e.sub(unsigned(e, x), Ex::i32(128)), DType::I8);
        assert_eq!(left(DType::I8, again), [AluOp::Cvt]);
        let number = |e: &Expr, x| e.cvt(e.sub(unsigned(e, x), Ex::i32(3)), DType::F32);
        assert_eq!(left(DType::I8, number), [AluOp::Add, AluOp::Cvt]);
        // A conversion that may saturate stays, and so does one of a float.
        let narrow = |e: &Expr, x| e.cvt(e.add(e.cvt(x, DType::I8), Ex::i32(1)), DType::F32);
        assert_eq!(left(DType::I32, narrow), [AluOp::Cvt, AluOp::Add, AluOp::Cvt]);
        assert_eq!(left(DType::F32, narrow), [AluOp::Cvt, AluOp::Add, AluOp::Cvt]);
        let wraps = |e: &Expr, x| e.cvt(e.add(e.add(x, Ex::i32(i32::MAX)), Ex::i32(1)), DType::U8);
        assert_eq!(left(DType::U8, wraps), [AluOp::Add, AluOp::Cvt]);
    }
}
