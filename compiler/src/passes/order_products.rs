//! `order-products`: of the products of one value with constants, those come first on whose result most is still to be done.
//!
//! ```text
//! v1 = contract v0, keys                   v1 = contract v0, keys
//! v2 = contract v0, values           =>    v3 = contract v0, queries
//! v3 = contract v0, queries                v2 = contract v0, values
//! v4 = contract v3, v1                     v4 = contract v3, v1
//! v5 = contract v4, v2                     v5 = contract v4, v2
//! ```
//!
//! The matrix units take the tiles of such products one after the other, in program order.

use super::rebuild::{keep, live, rebuild_in};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::consteval::const_values;
use crate::tir::{Op, TensorIr, ValueId};
use lockstep_graph::EntityId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    let after = after(ir);
    if after.is_empty() {
        return Ok(Changed(false));
    }
    let order = order(ir, &after);
    rebuild_in(ir, order, keep)
}

/// Products that are to come after another one, which does not need them.
fn after(ir: &TensorIr) -> BTreeMap<ValueId, ValueId> {
    let (consts, live, heights) = (const_values(ir), live(ir), heights(ir));
    let mut of: BTreeMap<ValueId, Vec<ValueId>> = BTreeMap::new();
    for (v, data) in ir.values.iter().filter(|(v, _)| live.contains(*v)) {
        if let (Op::Contract { .. }, [x, w]) = (&data.op, &data.inputs[..])
            && consts.contains(*w)
            && !consts.contains(*x)
        {
            of.entry(*x).or_default().push(v);
        }
    }
    let mut after = BTreeMap::new();
    for mut products in of.into_values() {
        products.sort_by_key(|v| (Reverse(heights[v.index()]), *v));
        for pair in products.windows(2).filter(|p| p[1] < p[0]) {
            after.insert(pair[1], pair[0]);
        }
    }
    after
}

/// Operations on the longest way from each value to an end, those that go through memory or a matrix unit for more.
fn heights(ir: &TensorIr) -> Vec<u32> {
    let mut heights = vec![0; ir.values.len()];
    for (v, data) in ir.values.iter().rev() {
        let own = match data.op {
            Op::Move { .. } => 0,
            Op::Map { .. } => 1,
            Op::Contract { .. } => 3,
            _ => 2,
        };
        let height = heights[v.index()] + own;
        for u in &data.inputs {
            heights[u.index()] = heights[u.index()].max(height);
        }
    }
    heights
}

/// The old order, but for what must come `after` something else.
fn order(ir: &TensorIr, after: &BTreeMap<ValueId, ValueId>) -> Vec<ValueId> {
    let mut users: Vec<Vec<ValueId>> = vec![Vec::new(); ir.values.len()];
    let mut missing = vec![0usize; ir.values.len()];
    for (v, data) in ir.values.iter() {
        for u in data.inputs.iter().chain(after.get(&v)) {
            users[u.index()].push(v);
            missing[v.index()] += 1;
        }
    }
    let ready = ir.values.ids().filter(|v| missing[v.index()] == 0).map(Reverse);
    let mut ready: BinaryHeap<Reverse<ValueId>> = ready.collect();
    let mut order = Vec::with_capacity(ir.values.len());
    while let Some(Reverse(v)) = ready.pop() {
        order.push(v);
        for &u in &users[v.index()] {
            missing[u.index()] -= 1;
            if missing[u.index()] == 0 {
                ready.push(Reverse(u));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::eval::{Tensor, eval};
    use crate::tir::{TirBuilder, Type};
    use lockstep_isa::DType;
    use lockstep_isa::artifact::HostDType;

    #[test]
    fn what_is_needed_later_is_multiplied_later() {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[2, 4], Type::new(DType::F32, &[2, 4]));
        let w = |b: &mut TirBuilder, name: &str, k: usize| {
            let values: Vec<f32> = (0..16).map(|i| (i * k % 7) as f32 - 2.0).collect();
            b.const_f32(name, &[4, 4], &values).unwrap()
        };
        let [v, k, q] = [("v", 3), ("k", 5), ("q", 2)].map(|(name, n)| {
            let w = w(&mut b, name, n);
            b.contract(x, w, &[], &[(1, 0)]).unwrap()
        });
        let scores = b.contract(q, k, &[], &[(1, 1)]).unwrap();
        let y = b.contract(scores, v, &[], &[(1, 0)]).unwrap();
        b.output("y", HostDType::F32, &[2, 4], y);
        let before = b.finish();
        let mut ir = before.clone();
        assert_eq!(run(&mut ir, &PassCx::default()).unwrap(), Changed(true));
        let names = |ir: &TensorIr| -> Vec<String> {
            let products = ir.values.values().filter(|d| matches!(d.op, Op::Contract { .. }));
            let weights = products.filter_map(|d| match &ir.values[d.inputs[1]].op {
                Op::Const(c) => Some(ir.consts[*c].name.clone()),
                _ => None,
            });
            weights.collect()
        };
        assert_eq!(
            (names(&before), names(&ir)),
            (
                vec!["v".into(), "k".into(), "q".into()],
                vec!["k".into(), "q".into(), "v".into()]
            )
        );
        let input = [Tensor::f32(&[2, 4], (0..8).map(|i| i as f32 * 0.5).collect())];
        assert_eq!(
            eval(&before, &input, &mut []).unwrap(),
            eval(&ir, &input, &mut []).unwrap()
        );
        assert_eq!(run(&mut ir, &PassCx::default()).unwrap(), Changed(false));
    }
}
