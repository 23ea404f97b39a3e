//! `--precision f16|bf16`: products take operands of 16 bits, and values between operations are stored in 16 bits; maps and reductions
//! compute in f32 and products accumulate in f32. Inputs and outputs keep their dtype; so do states that are outputs too, all others
//! are stored in 16 bits. What reductions alone read, and what is made of reductions alone, stays in f32: the square of an element
//! above 256 is beyond what binary16 holds, and so may be the mean of such squares.
//!
//! ```text
//! v2: f32[1,4] = contract v0, v1 over(1:0)        v2: f16 = map cvt.f16(v0)
//!                                           =>    v3: f16 = map cvt.f16(v1)   ; constant
//!                                                 v4: f32 = contract v2, v3 over(1:0)
//! ```

use super::Changed;
use super::keep_stored::as_stored;
use super::rebuild::{keep, readers, rebuild};
use crate::error::CompileError;
use crate::tir::consteval::const_values;
use crate::tir::{Op, StateData, TensorIr, TirBuilder, Type, ValueId};
use lockstep_graph::{EntityId, IdSet};
use lockstep_isa::DType;
use lockstep_isa::scalar::narrow_f32;

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
    let wide = statistics(ir);
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
                    narrow_f32(f32::from_bits(*fill), to)
                } else {
                    *fill
                };
                let ty = Type::new(b.dtype(parts[0]), &value.ty.shape);
                let parts_of = maps.clone();
                b.push(Op::Move { parts: parts_of, fill }, &parts, &ty)?
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
                let narrow = value.ty.dtype == DType::F32 && !b.is_const(v) && !ends.contains(&id);
                if narrow && !wide.contains(id) {
                    convert(b, v, to)?
                } else {
                    v
                }
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

/// The maps that only reductions read, moved or not, and those of reductions alone.
fn statistics(ir: &TensorIr) -> IdSet<ValueId> {
    let (readers, consts) = (readers(ir), const_values(ir));
    let mut summed: IdSet<ValueId> = IdSet::new();
    for (id, value) in ir.values.iter().rev() {
        let read = &readers[id.index()];
        let inside = |&r: &ValueId| match ir.values[r].op {
            Op::Reduce { .. } => true,
            Op::Move { .. } => summed.contains(r),
            _ => false,
        };
        let passed_on = matches!(value.op, Op::Map { .. } | Op::Move { .. });
        if passed_on && !read.is_empty() && !ir.is_observed(id) && read.iter().all(inside) {
            summed.insert(id);
        }
    }
    let mut reduced: IdSet<ValueId> = IdSet::new();
    for (id, value) in ir.values.iter() {
        let known = match &value.op {
            Op::Reduce { .. } => true,
            Op::Map { .. } | Op::Move { .. } => {
                let of = |u: &ValueId| reduced.contains(*u) || consts.contains(*u);
                value.inputs.iter().any(|u| reduced.contains(*u)) && value.inputs.iter().all(of)
            }
            _ => false,
        };
        if known {
            reduced.insert(id);
        }
    }
    ir.values
        .ids()
        .filter(|&v| summed.contains(v) || reduced.contains(v))
        .collect()
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
    // What a move reads several times is converted before it.
    let data = b.ir().values[v].clone();
    if let (Op::Move { parts, fill }, &[of], DType::F32, false) =
        (&data.op, &data.inputs[..], data.ty.dtype, b.is_const(v))
        && b.ty(of).elements() < data.ty.elements()
    {
        let (parts, fill) = (parts.clone(), narrow_f32(f32::from_bits(*fill), to));
        let of = convert(b, of, to)?;
        return b.push(Op::Move { parts, fill }, &[of], &Type::new(to, &data.ty.shape));
    }
    let shape = b.shape(from).to_vec();
    b.map_to(&shape, &[from], |e, x| e.cvt(x[0], to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::eval::{Tensor, eval};
    use crate::tir::expr::Ex;
    use crate::tir::{IndexMap, ReduceOp, ValueData, Windows};
    use lockstep_isa::artifact::HostDType;

    /// The windows of a convolution over an input.
    #[test]
    fn windows_are_made_of_what_is_converted() {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[8, 4], Type::new(DType::F32, &[8, 4]));
        let windows = Windows {
            kernel: vec![3],
            strides: vec![1],
            dilations: vec![1],
            pads: vec![(1, 1)],
        };
        let x = b.reshape(x, &[1, 8, 4]).unwrap();
        let taps = b.move_one(x, IndexMap::im2col(&[1, 8, 4], &windows), 0).unwrap();
        let w = b.input("w", HostDType::F32, &[3, 4, 5], Type::new(DType::F32, &[3, 4, 5]));
        let y = b.contract(taps, w, &[], &[(2, 0), (3, 1)]).unwrap();
        b.output("y", HostDType::F32, &[1, 8, 5], y);
        let mut ir = b.finish();
        run(&mut ir, DType::F16).unwrap();
        let converted = |v: &&ValueData| matches!(v.op, Op::Map { .. }) && v.ty.dtype == DType::F16;
        let sizes: Vec<usize> = ir.values.values().filter(converted).map(|v| v.ty.elements()).collect();
        assert_eq!(sizes, [32, 60], "{ir}");
    }

    /// A normalisation of rows in two groups, of elements whose squares and their mean binary16 does not hold.
    #[test]
    fn squares_that_are_summed_stay_wide() {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[2, 8], Type::new(DType::F32, &[2, 8]));
        let x2 = b.map(&[x], |e, a| e.add(a[0], a[0])).unwrap();
        let squares = b.map(&[x2], |e, a| e.mul(a[0], a[0])).unwrap();
        let groups = b.reshape(squares, &[4, 4]).unwrap();
        let sum = b.reduce(ReduceOp::Add, groups, &[1]).unwrap();
        let mean = b.map(&[sum], |e, a| e.mul(a[0], Ex::f32(0.25))).unwrap();
        let parts = b.reshape(x2, &[4, 4]).unwrap();
        let y = b.map(&[parts, mean], |e, a| e.mul(a[0], e.rsqrt(a[1]))).unwrap();
        let y = b.map(&[y], |e, a| e.sub(a[0], Ex::f32(0.5))).unwrap();
        b.output("y", HostDType::F32, &[4, 4], y);
        let before = b.finish();
        let mut after = before.clone();
        assert_eq!(run(&mut after, DType::F16).unwrap(), Changed(true));
        let dtypes: Vec<DType> = after.values.values().map(|v| v.ty.dtype).collect();
        assert!(dtypes.contains(&DType::F16), "{after}");
        let values: Vec<f32> = (1..17).map(|i| 100.0 * i as f32).collect();
        let results = |ir: &TensorIr| eval(ir, &[Tensor::f32(&[2, 8], values.clone())], &mut []).unwrap()[0].to_f32();
        for (a, b) in results(&before).iter().zip(results(&after)) {
            assert!((a - b).abs() < 2e-3, "{a} {b}\n{after}");
        }
    }
}
