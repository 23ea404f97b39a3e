//! `absorb-shuffles`: a permutation of the elements along one axis of a product with weights becomes one of the weights' columns, which
//! costs nothing, where only maps of one operand and transpositions come between.
//!
//! ```text
//! v2: f32[1,9,8]   = contract v0, v1 over(2:0)            v6: f32[6,8]     = move v1{..}
//! v3: f32[1,9,8]   = map max(v2, 0)                  =>   v7: f32[1,9,8]   = contract v0, v6 over(2:0)
//! v4: f32[1,9,2,4] = move v3{[1,9,2,4]:(0,8,1,2)+0}       v8: f32[1,9,8]   = map max(v7, 0)
//!                                                         v4: f32[1,9,2,4] = move v8{reshape}
//! ```

use super::rebuild::{keep, rebuild, users};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::op::free_axes;
use crate::tir::{IndexMap, Op, TensorIr, TirBuilder, ValueId, View};
use lockstep_graph::{EntityId, IdVec};
use lockstep_isa::AluOp;

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    let shuffles = ir.values.values().any(|value| match (&value.op, &value.inputs[..]) {
        (Op::Move { parts, .. }, &[x]) => Shuffle::of(ir.maps.get(parts[0]), &ir.values[x].ty.shape).is_some(),
        _ => false,
    });
    if !shuffles {
        return Ok(Changed(false));
    }
    let users = users(ir);
    // Old value of each new one, to know how many users it has.
    let mut of_new: IdVec<ValueId, Option<ValueId>> = IdVec::default();
    rebuild(ir, |b, old, id, inputs| {
        let replaced = match (&old.values[id].op, inputs) {
            (Op::Move { parts, .. }, &[x]) if !b.is_const(x) => {
                let shuffle = Shuffle::of(b.ir().maps.get(parts[0]), b.shape(x));
                let alone = |v: ValueId| of_new.get(v).copied().flatten().is_some_and(|v| users[v.index()] == 1);
                match shuffle {
                    Some(shuffle) if shuffle.reaches(b, x, shuffle.axis, &alone) => Some((x, shuffle)),
                    _ => None,
                }
            }
            _ => None,
        };
        let v = match replaced {
            Some((x, shuffle)) => {
                let x = shuffle.push(b, x, shuffle.axis)?;
                b.reshape(x, &old.values[id].ty.shape)?
            }
            None => keep(b, old, id, inputs)?,
        };
        while of_new.next_id().index() < b.ir().values.len() {
            of_new.push(None);
        }
        // A value that stands for several old ones has the users of all.
        let slot = &mut of_new[v];
        *slot = match slot {
            None => Some(id),
            Some(_) => None,
        };
        Ok(v)
    })
}

/// A permutation of the elements along one axis.
struct Shuffle {
    axis: usize,
    /// The axis split into factors, and the step of each along it, in the new order.
    factors: Vec<(usize, usize)>,
}

impl Shuffle {
    /// The permutation that a map of a tensor of this shape is, besides a reshape.
    fn of(map: &IndexMap, shape: &[usize]) -> Option<Shuffle> {
        let [view] = map.views.as_slice() else { return None };
        let elements: usize = shape.iter().product();
        if !view.is_total() || view.offset != 0 || view.shape.iter().product::<usize>() != elements {
            return None;
        }
        let steps = view.shape.iter().zip(&view.strides);
        let digits: Vec<(usize, usize)> = steps
            .filter(|d| *d.0 > 1)
            .map(|(&n, &s)| Some((n, usize::try_from(s).ok()?)))
            .collect::<Option<_>>()?;
        for axis in 0..shape.len() {
            let inner: usize = shape[axis + 1..].iter().product();
            let n = shape[axis];
            // Digits of the axes before and behind stay in their order.
            let before = digits.iter().take_while(|d| d.1 >= n * inner).count();
            let behind = digits.iter().rev().take_while(|d| d.1 < inner).count();
            if before + behind >= digits.len() {
                continue;
            }
            let (outer, rest) = digits.split_at(before);
            let (middle, trailing) = rest.split_at(rest.len() - behind);
            let whole = |digits: &[(usize, usize)], from: usize, to: usize| {
                digits
                    .iter()
                    .rev()
                    .try_fold(from, |at, d| (d.1 == at).then_some(at * d.0))
                    == Some(to)
            };
            let mut sorted = middle.to_vec();
            sorted.sort_unstable_by_key(|d| std::cmp::Reverse(d.1));
            if whole(outer, n * inner, elements)
                && whole(trailing, 1, inner)
                && whole(&sorted, inner, n * inner)
                && sorted != middle
            {
                let factors = middle.iter().map(|d| (d.0, d.1 / inner)).collect();
                return Some(Shuffle { axis, factors });
            }
        }
        None
    }

    /// Whether the permutation of an axis of `v` ends in constants; `alone` says that nothing else uses a value.
    fn reaches(&self, b: &TirBuilder, v: ValueId, axis: usize, alone: &dyn Fn(ValueId) -> bool) -> bool {
        if b.is_const(v) || b.shape(v)[axis] == 1 {
            return true;
        }
        let data = &b.ir().values[v];
        alone(v)
            && match &data.op {
                Op::Map { nodes } => {
                    let iota = nodes.iter().any(|n| n.op == AluOp::Iota && usize::from(n.axis) == axis);
                    let products = data.inputs.iter().filter(|&&u| !b.is_const(u) && b.shape(u)[axis] > 1);
                    !iota && products.count() == 1 && data.inputs.iter().all(|&u| self.reaches(b, u, axis, alone))
                }
                Op::Move { parts, .. } => {
                    let x = data.inputs[0];
                    let perm = b.ir().maps.get(parts[0]).as_transpose(b.shape(x));
                    data.inputs.len() == 1 && perm.is_some_and(|perm| self.reaches(b, x, perm[axis], alone))
                }
                Op::Contract { .. } => self.column(b, v, axis).is_some(),
                _ => false,
            }
    }

    /// The axis of the weights of a product that is this axis of the result.
    fn column(&self, b: &TirBuilder, v: ValueId, axis: usize) -> Option<usize> {
        let data = &b.ir().values[v];
        let (Op::Contract { batch, contracted, .. }, &[x, w]) = (&data.op, &data.inputs[..]) else {
            return None;
        };
        let rows = free_axes(b.shape(x).len(), batch, contracted, true);
        let columns = free_axes(b.shape(w).len(), batch, contracted, false);
        let at = axis.checked_sub(batch.len() + rows.len())?;
        columns.get(at).copied().filter(|_| b.is_const(w))
    }

    /// `v` with the elements along an axis permuted.
    fn push(&self, b: &mut TirBuilder, v: ValueId, axis: usize) -> Result<ValueId, CompileError> {
        let shape = b.shape(v).to_vec();
        if shape[axis] == 1 {
            return Ok(v);
        }
        if b.is_const(v) {
            return self.carry_out(b, v, axis);
        }
        let data = b.ir().values[v].clone();
        match &data.op {
            Op::Map { nodes } => {
                let mut operands = Vec::with_capacity(data.inputs.len());
                for &u in &data.inputs {
                    operands.push(self.push(b, u, axis)?);
                }
                b.map_nodes(&shape, &operands, nodes.clone())
            }
            Op::Move { parts, .. } => {
                let map = b.ir().maps.get(parts[0]).clone();
                let Some(perm) = map.as_transpose(b.shape(data.inputs[0])) else {
                    return self.carry_out(b, v, axis);
                };
                let x = self.push(b, data.inputs[0], perm[axis])?;
                b.move_one(x, map, 0)
            }
            Op::Contract { .. } => match self.column(b, v, axis) {
                Some(column) => {
                    let w = self.carry_out(b, data.inputs[1], column)?;
                    b.push(data.op.clone(), &[data.inputs[0], w], &data.ty)
                }
                None => self.carry_out(b, v, axis),
            },
            _ => self.carry_out(b, v, axis),
        }
    }

    /// A move that permutes the elements along an axis.
    fn carry_out(&self, b: &mut TirBuilder, v: ValueId, axis: usize) -> Result<ValueId, CompileError> {
        let shape = b.shape(v).to_vec();
        let whole = View::contiguous(&shape);
        let (mut split, mut strides) = (shape[..axis].to_vec(), whole.strides[..axis].to_vec());
        for &(n, step) in &self.factors {
            split.push(n);
            strides.push(step as i64 * whole.strides[axis]);
        }
        split.extend(&shape[axis + 1..]);
        strides.extend(&whole.strides[axis + 1..]);
        let moved = b.move_one(v, IndexMap::of(View::strided(split, strides, 0).normalised()), 0)?;
        b.reshape(moved, &shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;
    use crate::tir::eval::{Tensor, eval};
    use crate::tir::{Type, consteval};
    use lockstep_isa::DType;
    use lockstep_isa::artifact::HostDType;

    #[test]
    fn a_shuffle_becomes_one_of_the_weights_and_nothing_else_changes() {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[1, 3, 5], Type::new(DType::F32, &[1, 3, 5]));
        let w = b.const_f32("w", &[5, 6], &noise(30, 1)).unwrap();
        let bias = b.const_f32("bias", &[1, 6, 1], &noise(6, 2)).unwrap();
        let product = b.contract(x, w, &[], &[(2, 0)]).unwrap();
        let first = b.transpose(product, &[0, 2, 1]).unwrap();
        let sum = b.map(&[first, bias], |e, x| e.add(x[0], x[1])).unwrap();
        let split = b.reshape(sum, &[1, 2, 3, 3]).unwrap();
        let shuffled = b.transpose(split, &[0, 2, 1, 3]).unwrap();
        let y = b.map(&[shuffled], |e, x| e.neg(x[0])).unwrap();
        b.output("y", HostDType::F32, &[1, 3, 2, 3], y);
        let before = b.finish();
        let mut after = before.clone();
        assert_eq!(run(&mut after, &PassCx::default()).unwrap(), Changed(true));
        let constant = consteval::const_values(&after);
        for value in after.values.values() {
            if let (Op::Move { parts, .. }, &[x]) = (&value.op, &value.inputs[..])
                && !constant.contains(x)
            {
                assert!(Shuffle::of(after.maps.get(parts[0]), &after.values[x].ty.shape).is_none());
            }
        }
        let input = [Tensor::f32(&[1, 3, 5], noise(15, 3))];
        let values = |ir: &TensorIr| eval(ir, &input, &mut []).unwrap()[0].to_f32();
        assert_eq!(values(&before), values(&after));
    }

    #[test]
    fn a_shuffle_permutes_one_axis_and_nothing_else() {
        let of = |shape: Vec<usize>, strides: Vec<i64>, from: &[usize]| {
            Shuffle::of(&IndexMap::of(View::strided(shape, strides, 0).normalised()), from).map(|s| (s.axis, s.factors))
        };
        // Groups of channels [n, 3 * 4, h, w] to [n, 4, 3, h, w].
        assert_eq!(
            of(vec![1, 4, 3, 5, 7], vec![0, 35, 140, 7, 1], &[1, 12, 5, 7]),
            Some((1, vec![(4, 1), (3, 4)]))
        );
        // A transposition of axes, a reshape, and heads: none of them.
        assert_eq!(of(vec![5, 12], vec![1, 5], &[12, 5]), None);
        assert_eq!(of(vec![3, 4, 5], vec![20, 5, 1], &[12, 5]), None);
        assert_eq!(of(vec![4, 6, 8], vec![8, 32, 1], &[6, 32]), None);
    }
}
