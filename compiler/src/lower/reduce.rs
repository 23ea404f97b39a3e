//! Reductions, arg-extremes, running sums and top-k.

use super::{Lowering, Res, Site, div_by, dtype};
use crate::tir::expr::Ex;
use crate::tir::{ReduceOp, ValueId};
use lockstep_graph::op::Reduce;
use lockstep_isa::DType;

/// Longest axis whose running sum is a product with a triangular matrix.
const MAX_TRIANGLE: usize = 2048;

impl<'a> Lowering<'a> {
    pub(super) fn reduce(&mut self, s: &Site<'a>, kind: Reduce, axes: &[usize]) -> Res<ValueId> {
        let op = match kind {
            Reduce::Sum | Reduce::Mean => ReduceOp::Add,
            Reduce::Prod => ReduceOp::Mul,
            Reduce::Max => ReduceOp::Max,
            Reduce::Min => ReduceOp::Min,
        };
        let n: usize = axes.iter().map(|&a| s.shape(0)[a]).product();
        let reduced = self.b.reduce(op, s.x[0], axes)?;
        let shape = self.b.shape(reduced).to_vec();
        let result = self.elementwise(dtype(s.out_dtype()), &shape, &[reduced], |e, x| match kind {
            Reduce::Mean if x[0].is_float() => div_by(e, x[0], n as f32),
            Reduce::Mean => e.div(x[0], Ex::i32(n as i32)),
            _ => x[0],
        })?;
        Ok(self.b.reshape(result, s.out_shape())?)
    }

    pub(super) fn arg(&mut self, s: &Site<'a>, max: bool, axis: usize, last: bool) -> Res<ValueId> {
        let at = self.arg_keep(s.x[0], max, axis, last)?;
        Ok(self.b.reshape(at, s.out_shape())?)
    }

    /// Position of the extreme along an axis, which stays with extent 1.
    fn arg_keep(&mut self, x: ValueId, max: bool, axis: usize, last: bool) -> Res<ValueId> {
        let shape = self.b.shape(x).to_vec();
        let n = shape[axis] as i32;
        let best = self
            .b
            .reduce(if max { ReduceOp::Max } else { ReduceOp::Min }, x, &[axis])?;
        let candidates = self.elementwise(DType::I32, &shape, &[x, best], |e, x| {
            let none = if last { 0 } else { n - 1 };
            e.select(e.eq(x[0], x[1]), e.iota(axis), Ex::i32(none))
        })?;
        Ok(self
            .b
            .reduce(if last { ReduceOp::Max } else { ReduceOp::Min }, candidates, &[axis])?)
    }

    pub(super) fn cum_sum(&mut self, s: &Site<'a>, axis: usize, exclusive: bool, reverse: bool) -> Res<ValueId> {
        let shape = s.out_shape();
        let (n, rank) = (shape[axis], shape.len());
        let to = dtype(s.out_dtype());
        if self.b.dtype(s.x[0]).is_float() && n <= MAX_TRIANGLE {
            let takes = |i: usize, j: usize| {
                let (i, j) = if reverse { (j, i) } else { (i, j) };
                i < j || (i == j && !exclusive)
            };
            let triangle: Vec<f32> = (0..n * n)
                .map(|at| f32::from(u8::from(takes(at / n, at % n))))
                .collect();
            let mut x = s.x[0];
            if self.b.dtype(x) != DType::F32 {
                x = self.elementwise(DType::F32, shape, &[x], |_, x| x[0])?;
            }
            let triangle = self.b.const_f32("triangle", &[n, n], &triangle)?;
            let sums = self.b.contract(x, triangle, &[], &[(axis, 0)])?;
            let perm: Vec<usize> = (0..rank)
                .map(|d| {
                    if d < axis {
                        d
                    } else if d == axis {
                        rank - 1
                    } else {
                        d - 1
                    }
                })
                .collect();
            let sums = self.b.transpose(sums, &perm)?;
            return self.elementwise(to, shape, &[sums], |_, x| x[0]);
        }
        // Integers and long axes: add the value shifted by 1, 2, 4, ..
        let mut sums = s.x[0];
        if exclusive {
            sums = self.shifted(sums, axis, 1, reverse)?;
        }
        let mut step = 1;
        while step < n {
            let moved = self.shifted(sums, axis, step, reverse)?;
            sums = self.elementwise(to, shape, &[sums, moved], |e, x| e.add(x[0], x[1]))?;
            step *= 2;
        }
        Ok(sums)
    }

    /// The value moved by `step` along an axis, zeros shifted in.
    fn shifted(&mut self, x: ValueId, axis: usize, step: usize, reverse: bool) -> Res<ValueId> {
        let n = self.b.shape(x)[axis];
        let kept = self.b.narrow_axis(x, axis, if reverse { step } else { 0 }, n - step)?;
        let mut pads = vec![(0, 0); self.b.shape(x).len()];
        pads[axis] = if reverse { (0, step) } else { (step, 0) };
        Ok(self.b.pad(kept, &pads, 0)?)
    }

    pub(super) fn top_k(&mut self, s: &Site<'a>, k: usize, axis: usize, largest: bool) -> Res<Vec<ValueId>> {
        let x = s.x[0];
        if k == 1 {
            let op = if largest { ReduceOp::Max } else { ReduceOp::Min };
            let best = self.b.reduce(op, x, &[axis])?;
            let best = self.elementwise(dtype(s.dtype(0)), s.out_shape(), &[best], |_, x| x[0])?;
            return Ok(vec![best, self.arg_keep(x, largest, axis, false)?]);
        }
        let shape = s.shape(0).to_vec();
        let places = self.b.map_to(&shape, &[], |e, _| e.iota(axis))?;
        let values = self.b.sort(axis, largest, x, x)?;
        let places = self.b.sort(axis, largest, x, places)?;
        Ok(vec![
            self.b.narrow_axis(values, axis, 0, k)?,
            self.b.narrow_axis(places, axis, 0, k)?,
        ])
    }
}
