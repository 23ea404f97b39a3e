//! Products of quantised operands as integer products on the matrix unit.
//!
//! An operand that is `(q - zero) * scale` with 8-bit q (a DequantizeLinear, or a cast and a subtraction of integers) is multiplied as q:
//!
//! ```text
//! sum (a - za)(b - zb) = sum a b - za sum b - zb (sum a - k za)
//! ```
//!
//! Unsigned bytes are stored 128 less, which only changes their zero point. Sums of constants are constants; the scales multiply the
//! finished i32 sum. What follows, up to the next QuantizeLinear, is elementwise and becomes the epilogue of the product.

use super::{GDType, GOp, Lowering, Res, Site, dtype};
use crate::tir::expr::Ex;
use crate::tir::{ReduceOp, ValueId, Windows, consteval};
use lockstep_graph::op::{Binary, Conv};
use lockstep_graph::{ValueDef, ValueId as GValueId};
use lockstep_isa::DType;

/// An operand `(q - zero) * scale`.
#[derive(Clone, Copy)]
pub(super) struct Quantised {
    /// The bytes, i8.
    pub q: ValueId,
    /// i32, of q's rank, extents those of q or 1; `None` is zero.
    pub zero: Option<ValueId>,
    /// f32, of q's rank, extents those of q or 1; `None` where the product is an integer.
    pub scale: Option<ValueId>,
}

impl<'a> Lowering<'a> {
    /// The node that computes a value.
    fn producer(&self, v: GValueId) -> Option<&'a lockstep_graph::Node> {
        match self.graph.values[v].def {
            ValueDef::Node(node, _) => Some(&self.graph.nodes[node]),
            _ => None,
        }
    }

    /// A value as a quantised operand, if it is one.
    pub(super) fn quantised(&mut self, v: GValueId) -> Res<Option<Quantised>> {
        if let Some(&known) = self.bytes.get(&v) {
            return Ok(Some(known));
        }
        let data = &self.graph.values[v];
        if data.dtype == GDType::I32 && self.graph.const_data(v).is_some() {
            return self.small_constant(v);
        }
        if data.dtype.is_int8() {
            return self.bytes(v, None, None).map(Some);
        }
        let Some(node) = self.producer(v) else {
            return Ok(None);
        };
        let byte = |v: GValueId| self.graph.values[v].dtype.is_int8();
        match &node.op {
            GOp::Dequantize if byte(node.inputs[0]) => {
                let (scale, zero) = (self.value(node.inputs[1])?, self.value(node.inputs[2])?);
                self.bytes(node.inputs[0], Some(zero), Some(scale)).map(Some)
            }
            GOp::Cast { to: GDType::I32 } if byte(node.inputs[0]) => self.bytes(node.inputs[0], None, None).map(Some),
            GOp::Binary(Binary::Sub) => {
                let (lhs, rhs) = (node.inputs[0], node.inputs[1]);
                let Some(inner) = self.producer(lhs) else {
                    return Ok(None);
                };
                if inner.op != (GOp::Cast { to: GDType::I32 }) || !byte(inner.inputs[0]) {
                    return Ok(None);
                }
                if self.graph.values[lhs].shape != data.shape {
                    return Ok(None);
                }
                let zero = self.value(rhs)?;
                self.bytes(inner.inputs[0], Some(zero), None).map(Some)
            }
            GOp::Transpose { perm } => {
                let Some(inner) = self.quantised(node.inputs[0])? else {
                    return Ok(None);
                };
                let mut turn = |v: ValueId| self.b.transpose(v, perm);
                Ok(Some(Quantised {
                    q: turn(inner.q)?,
                    zero: inner.zero.map(&mut turn).transpose()?,
                    scale: inner.scale.map(&mut turn).transpose()?,
                }))
            }
            _ => Ok(None),
        }
    }

    /// An i32 constant whose elements span less than 256 numbers: bytes, and what they are off.
    fn small_constant(&mut self, v: GValueId) -> Res<Option<Quantised>> {
        let value = self.value(v)?;
        let bits = consteval::tensor(self.b.ir(), value)?.bits();
        let elements = bits.iter().map(|&bits| bits as i32);
        let (Some(least), Some(most)) = (elements.clone().min(), elements.max()) else {
            return Ok(None);
        };
        let bytes = i32::from(i8::MIN)..=i32::from(i8::MAX);
        let zero = match least.checked_add(255) {
            _ if bytes.contains(&least) && bytes.contains(&most) => 0,
            Some(top) if most <= top && least >= i32::MIN / 2 => i32::from(i8::MIN) - least,
            _ => return Ok(None),
        };
        let shape = self.b.shape(value).to_vec();
        let q = self
            .b
            .map_to(&shape, &[value], |e, x| e.cvt(e.add(x[0], Ex::i32(zero)), DType::I8))?;
        let zero = match zero {
            0 => None,
            _ => Some(self.constant_like(DType::I32, &vec![1; shape.len()], zero as u32)?),
        };
        Ok(Some(Quantised { q, zero, scale: None }))
    }

    /// Bytes with their parameters, which broadcast to them.
    fn bytes(&mut self, v: GValueId, zero: Option<ValueId>, scale: Option<ValueId>) -> Res<Quantised> {
        let value = self.value(v)?;
        let rank = self.b.shape(value).len();
        let (q, shifted) = self.signed(value)?;
        let shift = if shifted { 128 } else { 0 };
        let zero = match zero {
            Some(zero) => {
                let zero = self.align(zero, rank)?;
                let shape = self.b.shape(zero).to_vec();
                let less = self
                    .b
                    .map_to(&shape, &[zero], |e, x| e.sub(e.cvt(x[0], DType::I32), Ex::i32(shift)))?;
                Some(less)
            }
            None if shifted => Some(self.constant_like(DType::I32, &vec![1; rank], (-shift) as u32)?),
            None => None,
        };
        let zero = match zero {
            Some(zero) if self.all_zero(zero)? => None,
            other => other,
        };
        let scale = scale.map(|scale| self.align(scale, rank)).transpose()?;
        Ok(Quantised { q, zero, scale })
    }

    /// Whether a value is a constant of zeros.
    fn all_zero(&self, v: ValueId) -> Res<bool> {
        if !self.b.is_const(v) {
            return Ok(false);
        }
        let tensor = consteval::tensor(self.b.ir(), v)?;
        Ok(tensor.bits().iter().all(|&bits| bits == 0))
    }

    /// A vector as a row or a column; a matrix as it is.
    fn matrix(&mut self, x: Quantised, row: bool) -> Res<Quantised> {
        if self.b.shape(x.q).len() != 1 {
            return Ok(x);
        }
        let mut turn = |v: ValueId| {
            let n = self.b.shape(v)[0];
            self.b.reshape(v, &if row { [1, n] } else { [n, 1] })
        };
        Ok(Quantised {
            q: turn(x.q)?,
            zero: x.zero.map(&mut turn).transpose()?,
            scale: x.scale.map(&mut turn).transpose()?,
        })
    }

    /// The value as i8, and whether it is 128 less than the unsigned original.
    fn signed(&mut self, v: ValueId) -> Res<(ValueId, bool)> {
        if self.b.dtype(v) != DType::U8 {
            return Ok((v, false));
        }
        if let Some(&signed) = self.signed.get(&v) {
            return Ok((signed, true));
        }
        let shape = self.b.shape(v).to_vec();
        let shifted = self
            .b
            .map_to(&shape, &[v], |e, x| e.cvt(e.sub(x[0], Ex::i32(128)), DType::I8))?;
        Ok((shifted, true))
    }

    /// The product of two quantised matrices, `None` if one is none: f32 if both have scales, else i32.
    pub(super) fn quantised_matmul(&mut self, s: &Site<'a>) -> Res<Option<ValueId>> {
        let (Some(a), Some(b)) = (self.quantised(s.node.inputs[0])?, self.quantised(s.node.inputs[1])?) else {
            return Ok(None);
        };
        let (a, b) = (self.matrix(a, true)?, self.matrix(b, false)?);
        let (ra, rb) = (self.b.shape(a.q).len(), self.b.shape(b.q).len());
        // Parameters must not vary along the summed axis.
        let varies = |this: &Self, p: Option<ValueId>, axis: usize| p.is_some_and(|p| this.b.shape(p)[axis] != 1);
        if a.scale.is_some() != b.scale.is_some()
            || varies(self, a.zero, ra - 1)
            || varies(self, a.scale, ra - 1)
            || varies(self, b.zero, rb - 2)
            || varies(self, b.scale, rb - 2)
        {
            return Ok(None);
        }
        let k = self.b.shape(a.q)[ra - 1] as i32;
        let mut product = self.batched(a.q, b.q)?;
        let shape = self.b.shape(product).to_vec();
        let rank = shape.len();
        if let Some(za) = a.zero {
            let sum = self.b.reduce(ReduceOp::Add, b.q, &[rb - 2])?;
            let (za, sum) = (self.align(za, rank)?, self.align(sum, rank)?);
            product = self.elementwise(DType::I32, &shape, &[product, za, sum], |e, x| {
                e.sub(x[0], e.mul(x[1], x[2]))
            })?;
        }
        if let Some(zb) = b.zero {
            let mut sum = self.b.reduce(ReduceOp::Add, a.q, &[ra - 1])?;
            if let Some(za) = a.zero {
                let own = self.b.shape(sum).to_vec();
                sum = self.elementwise(DType::I32, &own, &[sum, za], |e, x| {
                    e.sub(x[0], e.mul(x[1], Ex::i32(k)))
                })?;
            }
            let (zb, sum) = (self.align(zb, rank)?, self.align(sum, rank)?);
            product = self.elementwise(DType::I32, &shape, &[product, zb, sum], |e, x| {
                e.sub(x[0], e.mul(x[1], x[2]))
            })?;
        }
        self.scaled(product, a.scale, b.scale).map(Some)
    }

    /// i32 sums times both scales, as f32; the sums themselves without scales.
    fn scaled(&mut self, product: ValueId, a: Option<ValueId>, b: Option<ValueId>) -> Res<ValueId> {
        let (Some(a), Some(b)) = (a, b) else {
            return Ok(product);
        };
        let shape = self.b.shape(product).to_vec();
        let (a, b) = (self.align(a, shape.len())?, self.align(b, shape.len())?);
        self.elementwise(DType::F32, &shape, &[product, a, b], |e, x| {
            e.mul(e.cvt(x[0], DType::F32), e.mul(x[1], x[2]))
        })
    }

    /// The convolution of a quantised input, one zero point and scale for all of it, with a quantised weight, one zero point and scale per output
    /// channel; `None` if they are not that.
    pub(super) fn quantised_conv(&mut self, s: &Site<'a>, windows: &Windows, attr: &Conv) -> Res<Option<ValueId>> {
        let (Some(x), Some(w)) = (self.quantised(s.node.inputs[0])?, self.quantised(s.node.inputs[1])?) else {
            return Ok(None);
        };
        let single = |this: &Self, p: Option<ValueId>| p.is_none_or(|p| this.b.ty(p).elements() == 1);
        let per_output =
            |this: &Self, p: Option<ValueId>| p.is_none_or(|p| this.b.shape(p)[1..].iter().all(|&n| n == 1));
        let mut w = w;
        if let Some(q) = w.zero.map(|zero| self.recentred(w.q, zero)).transpose()?.flatten() {
            w = Quantised { q, zero: None, ..w };
        }
        if x.scale.is_some() != w.scale.is_some()
            || !single(self, x.zero)
            || !single(self, x.scale)
            || !per_output(self, w.zero)
            || !per_output(self, w.scale)
        {
            return Ok(None);
        }
        // Padded on is the zero point where it is a byte that is known; else nothing, and the sums are those of the taps inside.
        let known = x.zero.and_then(|zero| self.immediate(zero)).map(|bits| bits as i32);
        let fill = match (x.zero, known.map(i8::try_from)) {
            (None, _) => Some(0),
            (_, Some(Ok(zero))) => Some(zero),
            _ => attr.pads.iter().all(|&p| p == (0, 0)).then_some(0),
        };
        let padding = u32::from(fill.unwrap_or(0) as u8);
        let input = self.channels_last(x.q)?;
        let mut product = self.windowed(input, w.q, windows, attr.groups, padding)?;
        let shape = s.out_shape().to_vec();
        let ones = if fill.is_none() {
            let extents = self.b.shape(input).to_vec();
            Some(self.constant_like(DType::I8, &extents, 1)?)
        } else {
            None
        };
        let zero_of_input = x.zero.map(|zero| self.per_channel(zero, shape.len())).transpose()?;
        if let Some(zero) = zero_of_input {
            let sum = self.tap_sums(ones, w.q, windows, attr.groups, &shape)?;
            product = self.less(product, zero, sum)?;
        }
        if let Some(zero) = w.zero {
            let mut kernel = self.b.shape(w.q).to_vec();
            kernel[0] = attr.groups;
            let kernel = self.constant_like(DType::I8, &kernel, 1)?;
            let mut sum = self.windowed(input, kernel, windows, attr.groups, padding)?;
            if let Some(zero) = zero_of_input {
                let own = self.b.shape(sum).to_vec();
                let taps = self.tap_sums(ones, kernel, windows, attr.groups, &own)?;
                sum = self.less(sum, zero, taps)?;
            }
            let sum = self.per_group(sum, attr.groups, shape[1])?;
            let zero = self.per_channel(zero, shape.len())?;
            product = self.less(product, zero, sum)?;
        }
        let a = x.scale.map(|scale| self.per_channel(scale, shape.len())).transpose()?;
        let b = w.scale.map(|scale| self.per_channel(scale, shape.len())).transpose()?;
        let product = self.scaled(product, a, b)?;
        debug_assert!(self.b.dtype(product) == dtype(s.out_dtype()));
        Ok(Some(product))
    }

    /// `x - a b`, i32, the operands broadcast to x.
    fn less(&mut self, x: ValueId, a: ValueId, b: ValueId) -> Res<ValueId> {
        let shape = self.b.shape(x).to_vec();
        self.elementwise(DType::I32, &shape, &[x, a, b], |e, x| e.sub(x[0], e.mul(x[1], x[2])))
    }

    /// The sum of a weight's taps per output channel, `[1, M, 1..]`; with `ones` of the input's shape those that meet the input, per pixel.
    fn tap_sums(
        &mut self,
        ones: Option<ValueId>,
        w: ValueId,
        windows: &Windows,
        groups: usize,
        shape: &[usize],
    ) -> Res<ValueId> {
        if let Some(ones) = ones {
            return self.windowed(ones, w, windows, groups, 0);
        }
        let axes: Vec<usize> = (1..self.b.shape(w).len()).collect();
        let sum = self.b.reduce(ReduceOp::Add, w, &axes)?;
        self.per_channel(sum, shape.len())
    }

    /// One value or one per channel, as `[1, M, 1..]`.
    fn per_channel(&mut self, v: ValueId, rank: usize) -> Res<ValueId> {
        let mut dims = vec![1; rank];
        dims[1] = self.b.ty(v).elements();
        Ok(self.b.reshape(v, &dims)?)
    }

    /// `[N, groups, ..]` as `[N, channels, ..]`: each group's value for all its channels.
    fn per_group(&mut self, v: ValueId, groups: usize, channels: usize) -> Res<ValueId> {
        if groups == 1 || groups == channels {
            return Ok(v);
        }
        let shape = self.b.shape(v).to_vec();
        let mut dims = shape.clone();
        dims.insert(2, 1);
        let apart = self.b.reshape(v, &dims)?;
        dims[2] = channels / groups;
        let all = self.b.expand(apart, &dims)?;
        let mut dims = shape;
        dims[1] = channels;
        Ok(self.b.reshape(all, &dims)?)
    }

    /// Constant bytes less a constant zero point, if the differences are bytes.
    fn recentred(&mut self, q: ValueId, zero: ValueId) -> Res<Option<ValueId>> {
        if !self.b.is_const(q) || !self.b.is_const(zero) {
            return Ok(None);
        }
        let shape = self.b.shape(q).to_vec();
        let wide = self.elementwise(DType::I32, &shape, &[q, zero], |e, x| e.sub(x[0], x[1]))?;
        let tensor = consteval::tensor(self.b.ir(), wide)?;
        if !tensor.bits().iter().all(|&bits| i8::try_from(bits as i32).is_ok()) {
            return Ok(None);
        }
        Ok(Some(self.b.map_to(&shape, &[wide], |e, x| e.cvt(x[0], DType::I8))?))
    }
}

#[cfg(test)]
mod tests;
