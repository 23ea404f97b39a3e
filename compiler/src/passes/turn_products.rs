//! `turn-products`: a move of a scaled product becomes the scaled move of the product, if a map takes both.
//!
//! ```text
//! v1 = contract v0, k0                     v1 = contract v0, k0
//! v2 = map mul(v1, v9)                     v3' = move v1{..}
//! v3 = move v2{..}                   =>    v4' = map fma(mul(v1, v9), k1, mul(mul(v3', v9), k2))
//! v4 = map fma(v2, k1, mul(v3, k2))
//! ```
//!
//! The move can then begin as the product leaves the matrix unit, in the same chain (`chain/build/epilogue.rs`). Every element is
//! computed as before. It is done where all that the product is scaled with is constant or a single element, and the product is a few
//! vectors.

use super::rebuild::{keep, readers, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::consteval::const_values;
use crate::tir::{Arg, MapNode, Op, TensorIr, ValueId};
use lockstep_graph::EntityId;
use lockstep_isa::AluOp;
use std::collections::BTreeMap;

/// Most vectors of a product.
const MOST_VECTORS: usize = 16;

/// Most operations by which a product is scaled: they are done twice.
const MOST_NODES: usize = 2;

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    let Some(lanes) = cx.lanes else {
        return Ok(Changed(false));
    };
    let moves = find(ir, lanes);
    if moves.is_empty() {
        return Ok(Changed(false));
    }
    // Operands of maps in the new program.
    let mut operands: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
    rebuild(ir, |b, old, id, inputs| {
        let value = &old.values[id];
        if matches!(value.op, Op::Map { .. }) {
            operands.insert(id, inputs.to_vec());
        }
        let (Some(scaled), Op::Move { parts, fill }) = (moves.get(&id), &value.op) else {
            return keep(b, old, id, inputs);
        };
        let Some(mut operands) = operands.get(&value.inputs[0]).cloned() else {
            return keep(b, old, id, inputs);
        };
        for operand in operands.iter_mut() {
            if b.ty(*operand).elements() > 1 {
                let whole = b.expand(*operand, &value.ty.shape)?;
                let parts: Vec<_> = parts.iter().map(|&m| (whole, b.ir().maps.get(m).clone())).collect();
                *operand = b.moves(&parts, *fill)?;
            }
        }
        b.map_nodes(&value.ty.shape, &operands, scaled.clone())
    })
}

/// The moves of scaled products, each with the map that scales.
fn find(ir: &TensorIr, lanes: usize) -> BTreeMap<ValueId, Vec<MapNode>> {
    let mut users = readers(ir);
    users.iter_mut().for_each(Vec::dedup);
    let consts = const_values(ir);
    let is_map = |v: ValueId| matches!(ir.values[v].op, Op::Map { .. });
    let mut found = BTreeMap::new();
    for (v, data) in ir.values.iter() {
        let (Op::Move { parts, .. }, [u]) = (&data.op, &users[v.index()][..]) else {
            continue;
        };
        let x = data.inputs[0];
        let (Op::Map { nodes }, true) = (&ir.values[x].op, data.inputs.iter().all(|&i| i == x)) else {
            continue;
        };
        let whole = super::compose_moves::covers(&parts.iter().map(|&m| (x, ir.maps.get(m))).collect::<Vec<_>>());
        let mut both = users[x.index()].clone();
        both.sort();
        let mut wanted = [v, *u];
        wanted.sort();
        let ty = &ir.values[x].ty;
        if !whole
            || both != wanted
            || !is_map(*u)
            || ir.is_observed(x)
            || ir.is_observed(v)
            || [v, *u].iter().any(|&y| ir.values[y].ty.shape != ty.shape)
            || ty.elements() > MOST_VECTORS * lanes
            || nodes.len() > MOST_NODES
            || nodes.iter().any(|n| n.op == AluOp::Iota)
        {
            continue;
        }
        let inputs = &ir.values[x].inputs;
        let is_product =
            |&i: &ValueId| matches!(ir.values[i].op, Op::Contract { .. }) && ir.values[i].ty.shape == ty.shape;
        let Some(product) = inputs.iter().position(is_product) else {
            continue;
        };
        let alone = users[inputs[product].index()] == [x] && !ir.is_observed(inputs[product]);
        let single =
            |(n, i): (usize, &ValueId)| n == product || ir.values[*i].ty.elements() == 1 || consts.contains(*i);
        let reads = nodes
            .iter()
            .any(|n| n.args[..n.op.arity()].contains(&Arg::Operand(product as u32)));
        if alone && reads && inputs.iter().enumerate().all(single) {
            found.insert(v, nodes.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::eval::{Tensor, eval};
    use crate::tir::{TirBuilder, Type};
    use lockstep_isa::DType;
    use lockstep_isa::artifact::HostDType;

    /// Two heads of four lanes, rotated: `scale` is that of the product.
    fn rotated(scale: &[usize], constant: bool) -> TensorIr {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[8], Type::new(DType::F32, &[8]));
        let values = |n: usize, k: usize| -> Vec<f32> { (0..n).map(|i| (i * k % 11) as f32 * 0.25 - 1.0).collect() };
        let w = b.const_f32("w", &[8, 2, 4], &values(64, 3)).unwrap();
        let (cos, sin) = (values(4, 5), values(4, 7));
        let cos = b.const_f32("cos", &[1, 4], &cos).unwrap();
        let sin = b.const_f32("sin", &[1, 4], &sin).unwrap();
        let n = scale.iter().product();
        let scale = match constant {
            true => b.const_f32("scale", scale, &values(n, 2)).unwrap(),
            false => b.input("scale", HostDType::F32, scale, Type::new(DType::F32, scale)),
        };
        let product = b.contract(x, w, &[], &[(0, 0)]).unwrap();
        let scaled = b.map(&[product, scale], |e, a| e.mul(a[0], a[1])).unwrap();
        let half = |b: &mut TirBuilder, at: usize| b.narrow_axis(scaled, 1, at, 2).unwrap();
        let (upper, lower) = (half(&mut b, 2), half(&mut b, 0));
        let turned = b.concat(&[upper, lower], 1).unwrap();
        let y = b
            .map(&[scaled, turned, cos, sin], |e, a| e.fma(a[0], a[2], e.mul(a[1], a[3])))
            .unwrap();
        b.output("y", HostDType::F32, &[2, 4], y);
        b.finish()
    }

    fn turned(before: &TensorIr) -> Option<TensorIr> {
        let mut after = before.clone();
        let cx = PassCx {
            lanes: Some(32),
            ..PassCx::default()
        };
        super::super::compose_moves::run(&mut after, &cx).unwrap();
        let changed = run(&mut after, &cx).unwrap();
        changed.0.then_some(after)
    }

    #[test]
    fn a_scaled_product_is_moved_before_it_is_scaled() {
        for (scale, constant) in [(&[1, 1][..], false), (&[2, 4], true), (&[1, 4], true)] {
            let before = rotated(scale, constant);
            let after = turned(&before).expect("it moves the product");
            let of_product = after.values.values().any(|d| {
                matches!(d.op, Op::Move { .. }) && matches!(after.values[d.inputs[0]].op, Op::Contract { .. })
            });
            assert!(of_product, "{after}");
            let n = scale.iter().product();
            let scale = Tensor::f32(scale, (0..n).map(|i| i as f32 - 0.5).collect());
            let mut inputs = vec![Tensor::f32(&[8], (0..8).map(|i| i as f32 * 0.5 - 1.0).collect())];
            inputs.extend((!constant).then_some(scale));
            let values = |ir: &TensorIr| eval(ir, &inputs, &mut []).unwrap();
            assert_eq!(values(&before), values(&after));
        }
    }

    #[test]
    fn scales_that_differ_and_are_computed_stay_where_they_are() {
        assert!(turned(&rotated(&[2, 1], false)).is_none());
    }
}
