//! Quantisation as maps.
//!
//! A conversion to bytes saturates, so what is quantised is rounded and moved by the zero point, no more. Unsigned bytes are made of
//! signed ones, 128 less, which is how products take them (`integer.rs`).

use super::{GDType, Lowering, Res, Site, dtype};
use crate::tir::ValueId;
use crate::tir::expr::Ex;
use lockstep_isa::DType;

impl<'a> Lowering<'a> {
    /// saturate(round(x / scale) + zero point).
    pub(super) fn quantize(&mut self, s: &Site<'a>, to: GDType) -> Res<ValueId> {
        if let Some(q) = self.unchanged(s, to)? {
            return Ok(q);
        }
        let (lo, hi) = to.int_range().unwrap_or((-128, 127));
        let (stored, less) = match dtype(to) {
            DType::U8 => (DType::I8, 128),
            other => (other, 0),
        };
        let own = self.b.shape(s.x[2]).to_vec();
        let zero = self
            .b
            .map_to(&own, &[s.x[2]], |e, x| e.cvt(e.sub(x[0], Ex::i32(less)), DType::F32))?;
        let q = self.elementwise(stored, s.out_shape(), &[s.x[0], s.x[1], zero], |e, x| {
            let steps = e.add(e.round(e.div(x[0], x[1])), x[2]);
            match stored {
                DType::I8 => steps,
                _ => e.max(e.min(steps, Ex::f32(hi as f32)), Ex::f32(lo as f32)),
            }
        })?;
        self.as_stored(q, to)
    }

    /// Signed bytes as the bytes of `to`.
    fn as_stored(&mut self, q: ValueId, to: GDType) -> Res<ValueId> {
        if dtype(to) != DType::U8 {
            return Ok(q);
        }
        let shape = self.b.shape(q).to_vec();
        let unsigned = self
            .b
            .map_to(&shape, &[q], |e, x| e.cvt(e.add(x[0], Ex::i32(128)), DType::U8))?;
        self.signed.insert(unsigned, q);
        Ok(unsigned)
    }

    /// The bytes that are quantised again with the scale and the zero point that they have, one for all.
    fn unchanged(&mut self, s: &Site<'a>, to: GDType) -> Res<Option<ValueId>> {
        let less = match dtype(to) {
            DType::U8 => 128,
            DType::I8 => 0,
            _ => return Ok(None),
        };
        let (scale, zero) = (self.immediate(s.x[1]), self.immediate(s.x[2]));
        let (Some(scale), Some(zero), Some(bytes)) = (scale, zero, self.quantised(s.node.inputs[0])?) else {
            return Ok(None);
        };
        let own_zero = match bytes.zero {
            Some(zero) => self.immediate(zero),
            None => Some(0),
        };
        let own_scale = bytes.scale.and_then(|v| self.immediate(v));
        let same = own_scale == Some(scale) && own_zero == Some((zero as i32 - less) as u32);
        match same && f32::from_bits(scale) > 0.0 {
            true => self.as_stored(bytes.q, to).map(Some),
            false => Ok(None),
        }
    }

    /// (x - zero point) * scale.
    pub(super) fn dequantize(&mut self, s: &Site<'a>) -> Res<ValueId> {
        self.elementwise(dtype(s.out_dtype()), s.out_shape(), &s.x, |e, x| {
            e.mul(e.cvt(e.sub(x[0], x[2]), DType::F32), x[1])
        })
    }
}
