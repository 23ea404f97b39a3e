//! Softmax and the normalisations: reductions and maps.

use super::{Lowering, Res, Site, dtype};
use crate::tir::expr::Ex;
use crate::tir::{ReduceOp, ValueId};
use lockstep_isa::DType;

impl<'a> Lowering<'a> {
    pub(super) fn softmax(&mut self, s: &Site<'a>, axis: usize, log: bool) -> Res<ValueId> {
        let (x, shape, to) = (s.x[0], s.out_shape(), dtype(s.out_dtype()));
        let max = self.b.reduce(ReduceOp::Max, x, &[axis])?;
        let powers = self.elementwise(DType::F32, shape, &[x, max], |e, x| e.exp(e.sub(x[0], x[1])))?;
        let sum = self.b.reduce(ReduceOp::Add, powers, &[axis])?;
        if log {
            return self.elementwise(to, shape, &[x, max, sum], |e, x| e.sub(e.sub(x[0], x[1]), e.log(x[2])));
        }
        self.elementwise(to, shape, &[powers, sum], |e, x| e.div(x[0], x[1]))
    }

    pub(super) fn layer_norm(&mut self, s: &Site<'a>, axis: usize, eps: f32) -> Res<ValueId> {
        let (x, shape) = (s.x[0], s.out_shape());
        let axes: Vec<usize> = (axis..shape.len()).collect();
        let share = 1.0 / shape[axis..].iter().product::<usize>() as f32;
        let sum = self.b.reduce(ReduceOp::Add, x, &axes)?;
        let centred = self.elementwise(DType::F32, shape, &[x, sum], |e, x| {
            e.sub(x[0], e.mul(x[1], Ex::f32(share)))
        })?;
        let squares = self.elementwise(DType::F32, shape, &[centred], |e, x| e.mul(x[0], x[0]))?;
        let squares = self.b.reduce(ReduceOp::Add, squares, &axes)?;
        let mut operands = vec![centred, squares];
        operands.extend(&s.x[1..]);
        self.elementwise(dtype(s.out_dtype()), shape, &operands, |e, x| {
            let y = e.mul(x[0], e.rsqrt(e.fma(x[1], Ex::f32(share), Ex::f32(eps))));
            match *x {
                [_, _, scale, bias] => e.fma(y, scale, bias),
                [_, _, scale] => e.mul(y, scale),
                _ => y,
            }
        })
    }

    pub(super) fn rms_norm(&mut self, s: &Site<'a>, axis: usize, eps: f32) -> Res<ValueId> {
        let (x, shape) = (s.x[0], s.out_shape());
        let axes: Vec<usize> = (axis..shape.len()).collect();
        let share = 1.0 / shape[axis..].iter().product::<usize>() as f32;
        let squares = self.elementwise(DType::F32, shape, &[x], |e, x| e.mul(x[0], x[0]))?;
        let squares = self.b.reduce(ReduceOp::Add, squares, &axes)?;
        let mut operands = vec![x, squares];
        operands.extend(&s.x[1..]);
        self.elementwise(dtype(s.out_dtype()), shape, &operands, |e, x| {
            let y = e.mul(x[0], e.rsqrt(e.fma(x[1], Ex::f32(share), Ex::f32(eps))));
            x.get(2).map_or(y, |&scale| e.mul(y, scale))
        })
    }

    /// One scale and one shift per channel, which are constant expressions where the parameters are constant.
    pub(super) fn batch_norm(&mut self, s: &Site<'a>, eps: f32) -> Res<ValueId> {
        let channels = [s.shape(1)[0]];
        let (scale, bias, mean, var) = (s.x[1], s.x[2], s.x[3], s.x[4]);
        let scale = self.elementwise(DType::F32, &channels, &[scale, var], |e, x| {
            e.div(x[0], e.sqrt(e.add(x[1], Ex::f32(eps))))
        })?;
        let shift = self.elementwise(DType::F32, &channels, &[bias, mean, scale], |e, x| {
            e.fma(e.neg(x[1]), x[2], x[0])
        })?;
        let mut along = vec![1; s.out_shape().len()];
        along[1] = channels[0];
        let (scale, shift) = (self.b.reshape(scale, &along)?, self.b.reshape(shift, &along)?);
        self.elementwise(dtype(s.out_dtype()), s.out_shape(), &[s.x[0], scale, shift], |e, x| {
            e.fma(x[0], x[1], x[2])
        })
    }
}
