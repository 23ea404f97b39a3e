//! `scale-weights`: a product with integer weights whose columns are scaled becomes a product with scaled weights, which the matrix unit
//! makes when it loads a tile. What follows the product is then what follows one with floats.
//!
//! ```text
//! v2: f32[4,8] = map cvt.f32(v1)            ; i8[4,8]      v2: f32[4,8] = map cvt.f32(v1)
//! v3: f32[1,8] = contract v0, v2 over(1:0)            =>   v4: f32[4,8] = map mul(v2, scale)
//! v5: f32[1,8] = map mul(v3, scale)                        v5: f32[1,8] = contract v0, v4 over(1:0)
//! ```
//!
//! Products of 16-bit operands stay: their weights would be stored in 16 bits. Changes rounding.

use super::rebuild::{keep, readers, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::consteval::const_values;
use crate::tir::op::free_axes;
use crate::tir::{Arg, IndexMap, Op, TensorIr, ValueId, View};
use lockstep_graph::{EntityId, IdSet};
use lockstep_isa::{AluOp, DType};

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    if cx.exact {
        return Ok(Changed(false));
    }
    let (consts, readers) = (const_values(ir), readers(ir));
    rebuild(ir, |b, old, id, inputs| {
        let Some((at, product, map)) = scaled_product(old, id, &consts, &readers) else {
            return keep(b, old, id, inputs);
        };
        let data = &old.values[product];
        let &[left, right] = &b.ir().values[inputs[at]].inputs[..] else {
            return keep(b, old, id, inputs);
        };
        let scale = b.move_one(inputs[1 - at], map, 0)?;
        let weights = b.map(&[right, scale], |e, x| e.mul(x[0], x[1]))?;
        b.push(data.op.clone(), &[left, weights], &data.ty)
    })
}

/// The operand of map `id` that is a product with integer weights, the product, and the move that brings the other operand, its scales, to
/// the axes of the weights.
fn scaled_product(
    ir: &TensorIr,
    id: ValueId,
    consts: &IdSet<ValueId>,
    readers: &[Vec<ValueId>],
) -> Option<(usize, ValueId, IndexMap)> {
    let data = &ir.values[id];
    let (Op::Map { nodes }, &[a, b]) = (&data.op, &data.inputs[..]) else {
        return None;
    };
    let [node] = &nodes[..] else { return None };
    let both = matches!(node.args[..2], [Arg::Operand(x), Arg::Operand(y)] if x != y);
    let (at, product, scale) = match (consts.contains(a), consts.contains(b)) {
        (false, true) => (0, a, b),
        (true, false) => (1, b, a),
        _ => return None,
    };
    let value = &ir.values[product];
    let (Op::Contract { batch, contracted, .. }, &[left, right]) = (&value.op, &value.inputs[..]) else {
        return None;
    };
    let alone = readers[product.index()].len() == 1 && !ir.is_observed(product);
    let float = ir.values[left].ty.dtype == DType::F32 && data.ty == value.ty;
    if !(both && node.op == AluOp::Mul && alone && float && consts.contains(right) && is_integers(ir, right)) {
        return None;
    }
    let weights = &ir.values[right].ty.shape;
    let free = free_axes(weights.len(), batch, contracted, false);
    let first = value.ty.rank() - free.len();
    let of_weights = |axis: usize| {
        let shared = batch.iter().position(|p| usize::from(p.1) == axis);
        shared.or_else(|| free.iter().position(|&f| f == axis).map(|n| first + n))
    };
    let axes: Vec<Option<usize>> = (0..weights.len()).map(of_weights).collect();
    let from = &ir.values[scale].ty.shape;
    let lost = (0..from.len()).any(|axis| from[axis] > 1 && !axes.contains(&Some(axis)));
    if lost || from.len() != value.ty.rank() {
        return None;
    }
    let strides = View::contiguous(from).strides;
    let shape = axes.iter().map(|a| a.map_or(1, |a| from[a])).collect();
    let steps = axes.iter().map(|a| a.map_or(0, |a| strides[a])).collect();
    Some((at, product, IndexMap::of(View::strided(shape, steps, 0))))
}

/// Whether a constant is integers of one byte as floats, behind moves.
fn is_integers(ir: &TensorIr, v: ValueId) -> bool {
    let data = &ir.values[v];
    match &data.op {
        Op::Move { .. } => data.inputs.iter().all(|&u| is_integers(ir, u)),
        Op::Map { nodes } => {
            let of = |u: &ValueId| ir.values[*u].ty.dtype == DType::I8;
            nodes.len() == 1 && nodes[0].op == AluOp::Cvt && data.inputs.iter().all(of)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::eval::{Tensor, eval};
    use crate::tir::{TirBuilder, Type};
    use lockstep_isa::artifact::HostDType;

    /// A product of rows [2,1,6] with integers i8[5,6], turned, whose columns are scaled.
    fn program(exact: bool) -> (TensorIr, TensorIr) {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[2, 1, 6], Type::new(DType::F32, &[2, 1, 6]));
        let q: Vec<u8> = (0..30).map(|i: i32| (i * 17 % 29 - 14) as i8 as u8).collect();
        let q = b
            .constant("q", Type::new(DType::I8, &[5, 6]), HostDType::I8, q.into())
            .unwrap();
        let w = b.map(&[q], |e, x| e.cvt(x[0], DType::F32)).unwrap();
        let w = b.transpose(w, &[1, 0]).unwrap();
        let scale = b.const_f32("s", &[1, 1, 5], &[0.5, 2.0, 0.25, 3.0, 0.1]).unwrap();
        let y = b.contract(x, w, &[], &[(2, 0)]).unwrap();
        let y = b.map(&[y, scale], |e, x| e.mul(x[0], x[1])).unwrap();
        b.output("y", HostDType::F32, &[2, 1, 5], y);
        let before = b.finish();
        let mut after = before.clone();
        let cx = PassCx {
            exact,
            ..PassCx::default()
        };
        assert_eq!(run(&mut after, &cx).unwrap(), Changed(!exact));
        (before, after)
    }

    #[test]
    fn columns_are_scaled_before_they_are_multiplied() {
        let (before, after) = program(false);
        let end = &after.values[after.outputs[0].value];
        assert!(matches!(end.op, Op::Contract { .. }), "{after}");
        assert_eq!(after.values[end.inputs[1]].ty.shape, [6, 5], "{after}");
        let input = Tensor::f32(&[2, 1, 6], (0..12).map(|i| (i * 5 % 7) as f32 - 2.5).collect());
        let values = |ir: &TensorIr| eval(ir, std::slice::from_ref(&input), &mut []).unwrap()[0].to_f32();
        for (a, b) in values(&before).iter().zip(values(&after)) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        let (before, after) = program(true);
        assert_eq!(before.to_string(), after.to_string());
    }
}
