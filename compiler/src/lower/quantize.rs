//! Quantisation as maps.

use super::{GDType, Lowering, Res, Site, dtype};
use crate::tir::ValueId;
use crate::tir::expr::Ex;
use lockstep_isa::DType;

impl<'a> Lowering<'a> {
    /// saturate(round(x / scale) + zero point).
    pub(super) fn quantize(&mut self, s: &Site<'a>, to: GDType) -> Res<ValueId> {
        let (lo, hi) = to.int_range().unwrap_or((-128, 127));
        self.elementwise(dtype(to), s.out_shape(), &s.x, |e, x| {
            let steps = e.cvt(e.round(e.div(x[0], x[1])), DType::I32);
            // Steps saturate in i32, so that adding the zero point could wrap: clamp with room for it first.
            let room = Ex::i32(1 << 20);
            let steps = e.max(e.min(steps, room), e.neg(room));
            e.max(e.min(e.add(steps, x[2]), Ex::i32(hi as i32)), Ex::i32(lo as i32))
        })
    }

    /// (x - zero point) * scale.
    pub(super) fn dequantize(&mut self, s: &Site<'a>) -> Res<ValueId> {
        self.elementwise(dtype(s.out_dtype()), s.out_shape(), &s.x, |e, x| {
            e.mul(e.cvt(e.sub(x[0], x[2]), DType::F32), x[1])
        })
    }
}
