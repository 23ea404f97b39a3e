//! `keep-stored`: weights of contracts stay as they are stored; the matrix unit widens them when it loads a tile.
//!
//! ```text
//! v1: bf16[4,8] = const @w                        v1: bf16[4,8] = const @w
//! v2: f32[4,8] = map cvt.f32(v1)            =>    v4: f32[1,8] = contract v0, v1 over(1:0)
//! v4: f32[1,8] = contract v0, v2 over(1:0)
//! ```

use super::rebuild::{keep, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::{Arg, Op, TensorIr, TirBuilder, ValueId};
use lockstep_isa::AluOp;

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    rebuild(ir, |b, old, id, inputs| {
        let data = &old.values[id];
        if let (Op::Contract { .. }, &[left, right]) = (&data.op, inputs)
            && b.is_const(right)
            && b.dtype(left).is_float()
            && let Some(stored) = as_stored(b, right)?
            && b.dtype(left).holds(b.dtype(stored))
        {
            return b.push(data.op.clone(), &[left, stored], &data.ty);
        }
        keep(b, old, id, inputs)
    })
}

/// The same elements before they were widened, behind moves; `None` where something else is done to them.
pub(super) fn as_stored(b: &mut TirBuilder, v: ValueId) -> Result<Option<ValueId>, CompileError> {
    let data = b.ir().values[v].clone();
    match &data.op {
        Op::Map { nodes } => {
            let ([node], &[operand]) = (&nodes[..], &data.inputs[..]) else {
                return Ok(None);
            };
            let widens = matches!(node.op, AluOp::Cvt | AluOp::Copy) && node.args[0] == Arg::Operand(0);
            let narrow = b.dtype(operand);
            let same = b.shape(operand) == data.ty.shape && narrow != data.ty.dtype && data.ty.dtype.holds(narrow);
            Ok((widens && same).then_some(operand))
        }
        Op::Move { parts, fill: 0 } => {
            let mut stored = Vec::with_capacity(data.inputs.len());
            for &u in &data.inputs {
                match as_stored(b, u)? {
                    Some(u) => stored.push(u),
                    None => return Ok(None),
                }
            }
            let Some(ty) = stored.first().map(|&u| b.ty(u).clone()) else {
                return Ok(None);
            };
            if stored.iter().any(|&u| b.dtype(u) != ty.dtype) {
                return Ok(None);
            }
            let op = Op::Move {
                parts: parts.clone(),
                fill: 0,
            };
            b.push(op, &stored, &ty).map(Some)
        }
        _ => Ok(None),
    }
}
