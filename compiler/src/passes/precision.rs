//! `--precision f16|bf16`: products take operands of 16 bits, and values between operations are stored in 16 bits; maps and reductions
//! compute in f32 and products accumulate in f32. Inputs and outputs keep their dtype; so do states that are outputs too, all others
//! are stored in 16 bits.
//!
//! ```text
//! v2: f32[1,4] = contract v0, v1 over(1:0)        v2: f16 = map cvt.f16(v0)
//!                                           =>    v3: f16 = map cvt.f16(v1)   ; constant
//!                                                 v4: f32 = contract v2, v3 over(1:0)
//! ```

use super::Changed;
use super::keep_stored::as_stored;
use super::rebuild::{keep, rebuild};
use crate::error::CompileError;
use crate::tir::{Op, StateData, TensorIr, TirBuilder, Type, ValueId};
use lockstep_isa::DType;

/// Converts a program; `to` is f16 or bf16.
///
/// # Errors
/// If `to` is another dtype.
pub fn run(ir: &mut TensorIr, to: DType) -> Result<Changed, CompileError> {
    if !matches!(to, DType::F16 | DType::BF16) {
        return Err(CompileError::options(format!(
            "precision {to} is not supported, allowed: f16, bf16"
        )));
    }
    let ends: Vec<ValueId> = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next))
        .collect();
    let shown: Vec<ValueId> = ends
        .iter()
        .copied()
        .filter(|&v| ir.outputs.iter().any(|p| p.value == v))
        .collect();
    let hidden = |s: &StateData| s.ty.dtype == DType::F32 && !shown.contains(&s.next);
    // What two states become is of one dtype.
    let kept: Vec<ValueId> = ir.states.values().filter(|s| !hidden(s)).map(|s| s.next).collect();
    let narrowed = |s: &StateData| hidden(s) && !kept.contains(&s.next);
    let narrow_ends: Vec<ValueId> = ir.states.values().filter(|s| narrowed(s)).map(|s| s.next).collect();
    rebuild(ir, |b, old, id, inputs| {
        let value = &old.values[id];
        let v = match &value.op {
            Op::Contract { batch, contracted, .. } if value.ty.dtype == DType::F32 => {
                let pairs = |p: &[(u8, u8)]| {
                    p.iter()
                        .map(|&(l, r)| (usize::from(l), usize::from(r)))
                        .collect::<Vec<_>>()
                };
                let (x, y) = (convert(b, inputs[0], to)?, convert(b, inputs[1], to)?);
                b.contract(x, y, &pairs(batch), &pairs(contracted))?
            }
            Op::Move { .. } if value.ty.dtype.is_float() => {
                // Parts of one dtype: the narrower one, if any part was narrowed.
                let narrow = inputs.iter().any(|&v| b.dtype(v) == to);
                let mut parts = Vec::new();
                for &v in inputs {
                    parts.push(if narrow { convert(b, v, to)? } else { v });
                }
                let Op::Move { parts: maps, fill } = &value.op else {
                    return keep(b, old, id, inputs);
                };
                let fill = if narrow && value.ty.dtype == DType::F32 {
                    lockstep_isa::scalar::narrow_f32(f32::from_bits(*fill), to)
                } else {
                    *fill
                };
                let ty = b.ty(parts[0]).clone();
                b.push(
                    Op::Move {
                        parts: maps.clone(),
                        fill,
                    },
                    &parts,
                    &ty,
                )?
            }
            Op::State(state) if old.states.get(*state).is_some_and(narrowed) => {
                let ty = Type::new(to, &value.ty.shape);
                b.set_state_type(*state, ty.clone());
                b.push(value.op.clone(), &[], &ty)?
            }
            Op::Scatter { .. } => {
                let ty = Type::new(
                    if b.dtype(inputs[0]) == to { to } else { value.ty.dtype },
                    &value.ty.shape,
                );
                let mut operands = inputs.to_vec();
                operands[2] = convert(b, inputs[2], ty.dtype)?;
                b.push(value.op.clone(), &operands, &ty)?
            }
            Op::Gather if value.ty.dtype == DType::F32 => {
                let table = if b.is_const(inputs[0]) {
                    convert(b, inputs[0], to)?
                } else {
                    inputs[0]
                };
                let ty = Type::new(b.dtype(table), &value.ty.shape);
                b.push(value.op.clone(), &[table, inputs[1]], &ty)?
            }
            Op::Map { .. } => {
                let v = keep(b, old, id, inputs)?;
                let inner = value.ty.dtype == DType::F32 && !b.is_const(v) && !ends.contains(&id);
                if inner { convert(b, v, to)? } else { v }
            }
            _ => keep(b, old, id, inputs)?,
        };
        if narrow_ends.contains(&id) {
            convert(b, v, to)
        } else if ends.contains(&id) {
            convert(b, v, value.ty.dtype)
        } else {
            Ok(v)
        }
    })
}

/// The value in a float dtype; integers stay. Weights that are stored in what `to` holds are converted from that.
fn convert(b: &mut TirBuilder, v: ValueId, to: DType) -> Result<ValueId, CompileError> {
    if !b.dtype(v).is_float() || b.dtype(v) == to {
        return Ok(v);
    }
    let mut from = v;
    if b.is_const(v)
        && let Some(stored) = as_stored(b, v)?
        && to.holds(b.dtype(stored))
    {
        from = stored;
    }
    if b.dtype(from) == to {
        return Ok(from);
    }
    let shape = b.shape(from).to_vec();
    b.map_to(&shape, &[from], |e, x| e.cvt(x[0], to))
}
