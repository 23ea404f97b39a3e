//! `--precision f16|bf16`: products take operands of 16 bits, and values between operations are stored in 16 bits; maps and reductions
//! compute in f32 and products accumulate in f32. Inputs, outputs and states keep their dtype.
//!
//! ```text
//! v2: f32[1,4] = contract v0, v1 over(1:0)        v2: f16 = map cvt.f16(v0)
//!                                           =>    v3: f16 = map cvt.f16(v1)   ; constant
//!                                                 v4: f32 = contract v2, v3 over(1:0)
//! ```

use super::Changed;
use super::rebuild::{keep, rebuild};
use crate::error::CompileError;
use crate::tir::{Op, TensorIr, TirBuilder, ValueId};
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
            Op::Scatter { .. } => {
                let mut operands = inputs.to_vec();
                operands[0] = convert(b, inputs[0], value.ty.dtype)?;
                operands[2] = convert(b, inputs[2], value.ty.dtype)?;
                keep(b, old, id, &operands)?
            }
            Op::Gather if value.ty.dtype == DType::F32 && b.is_const(inputs[0]) => {
                let table = convert(b, inputs[0], to)?;
                keep(b, old, id, &[table, inputs[1]])?
            }
            Op::Map { .. } => {
                let v = keep(b, old, id, inputs)?;
                let inner = value.ty.dtype == DType::F32 && !b.is_const(v) && !ends.contains(&id);
                if inner { convert(b, v, to)? } else { v }
            }
            _ => keep(b, old, id, inputs)?,
        };
        if ends.contains(&id) {
            convert(b, v, value.ty.dtype)
        } else {
            Ok(v)
        }
    })
}

/// The value in a float dtype; integers stay.
fn convert(b: &mut TirBuilder, v: ValueId, to: DType) -> Result<ValueId, CompileError> {
    if !b.dtype(v).is_float() || b.dtype(v) == to {
        return Ok(v);
    }
    let shape = b.shape(v).to_vec();
    b.map_to(&shape, &[v], |e, x| e.cvt(x[0], to))
}
