//! Quantisation: QDQ pairs, dynamic quantisation and integer products.

use super::conv::conv_attrs;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::{Binary, Reduce, Unary};
use lockstep_graph::{DType, Op, Shape, ValueId};

/// A scale or zero point in a shape that broadcasts to x: scalar, per element of an axis, or per block of an axis.
fn spread(cx: &mut Cx<'_, '_>, param: ValueId, x: ValueId, axis: i64) -> Result<ValueId, Fail> {
    let (shape, own) = (cx.shape(x), cx.shape(param));
    if own.n_elements() == 1 {
        return Ok(cx.b().reshape(param, Shape::scalar())?);
    }
    let axis = cx.axis(axis, shape.rank())?;
    if own.rank() == 1 {
        let mut dims = vec![1; shape.rank()];
        dims[axis] = own[0];
        return Ok(cx.b().reshape(param, dims)?);
    }
    let block = cx.int("block_size", 0);
    let (Ok(block), true) = (usize::try_from(block), own.rank() == shape.rank()) else {
        return malformed(format!("parameter {own} does not fit {shape} with block_size {block}"));
    };
    if block == 0 || own[axis].saturating_mul(block) < shape[axis] {
        return malformed(format!("parameter {own} does not fit {shape} with block_size {block}"));
    }
    let mut apart = own.0.clone();
    apart.insert(axis + 1, 1);
    let mut wide = apart.clone();
    wide[axis + 1] = block;
    let mut joined = own.0.clone();
    joined[axis] = joined[axis].saturating_mul(block);
    let b = cx.b();
    let apart = b.reshape(param, apart)?;
    let wide = b.expand(apart, wide)?;
    let joined = b.reshape(wide, joined)?;
    Ok(b.narrow(joined, axis, lockstep_graph::op::Range::of(0, shape[axis]))?)
}

/// The zero point of operand `index`, zero if absent.
fn zero_point(cx: &mut Cx<'_, '_>, index: usize, dtype: DType) -> Result<ValueId, Fail> {
    match cx.opt(index) {
        Some(value) => Ok(value),
        None => cx.filled(dtype, Shape::scalar(), 0.0),
    }
}

pub(super) fn quantize(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, scale) = (cx.x(0)?, cx.x(1)?);
    let to = match (cx.opt(2), cx.dtype_attr("output_dtype")?) {
        (Some(zero), _) => cx.dtype(zero),
        (None, Some(to)) => to,
        (None, None) => DType::U8,
    };
    if !matches!(to, DType::I8 | DType::U8 | DType::I16 | DType::U16) {
        return unsupported(format!("quantisation to {to} is not supported"));
    }
    let axis = cx.int("axis", 1);
    let zero = zero_point(cx, 2, to)?;
    let (scale, zero) = (spread(cx, scale, x, axis)?, spread(cx, zero, x, axis)?);
    // Integers are quantised as floats of the scale's dtype.
    let dtype = cx.dtype(scale);
    let x = cx.b().cast(x, dtype)?;
    let result = cx.b().op(Op::Quantize { to }, &[x, scale, zero])?;
    let bits = cx
        .opt(2)
        .and_then(|zero| cx.packed_bits(zero))
        .or_else(|| cx.packed_bits_attr("output_dtype"));
    let Some(bits) = bits else {
        return Ok(vec![result]);
    };
    // Saturation to fewer bits after saturation to 8 is saturation to the fewer.
    let (low, high) = if to == DType::I8 {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    };
    let result = cx.b().binary_scalar(Binary::Max, result, f64::from(low))?;
    let result = cx.b().binary_scalar(Binary::Min, result, f64::from(high))?;
    cx.set_packed_bits(result, Some(bits));
    Ok(vec![result])
}

pub(super) fn dequantize(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, scale) = (cx.x(0)?, cx.x(1)?);
    let axis = cx.int("axis", 1);
    let dtype = cx.dtype(x);
    let zero = zero_point(cx, 2, dtype)?;
    let (scale, zero) = (spread(cx, scale, x, axis)?, spread(cx, zero, x, axis)?);
    let result = cx.b().op(Op::Dequantize, &[x, scale, zero])?;
    match cx.dtype_attr("output_dtype")? {
        Some(to) => Ok(vec![cx.b().cast(result, to)?]),
        None => Ok(vec![result]),
    }
}

/// u8 with the scale and zero point that cover 0 and all of x.
pub(super) fn dynamic_quantize(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let axes: Vec<usize> = (0..cx.rank(x)).collect();
    let b = cx.b();
    let high = b.reduce(Reduce::Max, x, &axes, false)?;
    let high = b.binary_scalar(Binary::Max, high, 0.0)?;
    let low = b.reduce(Reduce::Min, x, &axes, false)?;
    let low = b.binary_scalar(Binary::Min, low, 0.0)?;
    let span = b.binary(Binary::Sub, high, low)?;
    let scale = b.binary_scalar(Binary::Div, span, 255.0)?;
    let steps = b.binary(Binary::Div, low, scale)?;
    let zero = b.unary(Unary::Neg, steps)?;
    let zero = b.unary(Unary::Round, zero)?;
    let zero = b.binary_scalar(Binary::Max, zero, 0.0)?;
    let zero = b.binary_scalar(Binary::Min, zero, 255.0)?;
    let zero = b.cast(zero, DType::U8)?;
    let y = b.op(Op::Quantize { to: DType::U8 }, &[x, scale, zero])?;
    Ok(vec![y, scale, zero])
}

/// Whether every element is known to be zero.
fn is_zero(cx: &Cx<'_, '_>, value: Option<ValueId>) -> bool {
    value.is_none_or(|value| {
        cx.known_value(value)
            .is_some_and(|tensor| tensor.to_floats().iter().all(|v| *v == 0.0))
    })
}

/// x − zero point as i32, with a zero point of n elements along `axis`.
fn centred(cx: &mut Cx<'_, '_>, x: ValueId, zero: Option<ValueId>, axis: usize) -> Result<ValueId, Fail> {
    let wide = cx.b().cast(x, DType::I32)?;
    let Some(zero) = zero else { return Ok(wide) };
    let zero = cx.b().cast(zero, DType::I32)?;
    let zero = along(cx, zero, x, axis)?;
    Ok(cx.b().binary(Binary::Sub, wide, zero)?)
}

/// A parameter of one element, or of n elements along an axis of x.
fn along(cx: &mut Cx<'_, '_>, param: ValueId, x: ValueId, axis: usize) -> Result<ValueId, Fail> {
    let (own, rank) = (cx.shape(param), cx.rank(x));
    if own.n_elements() == 1 {
        return Ok(cx.b().reshape(param, Shape::scalar())?);
    }
    if own.rank() != 1 {
        return Ok(param);
    }
    let mut dims = vec![1; rank];
    match dims.get_mut(axis) {
        Some(dim) => *dim = own[0],
        None => return malformed(format!("parameter {own} has no axis to lie along")),
    }
    Ok(cx.b().reshape(param, dims)?)
}

/// i32 product of 8-bit matrices; without zero points on the bytes themselves.
fn integer_product(cx: &mut Cx<'_, '_>, a: ValueId, b: ValueId, zeros: [Option<ValueId>; 2]) -> Result<ValueId, Fail> {
    if is_zero(cx, zeros[0]) && is_zero(cx, zeros[1]) {
        return Ok(cx.b().matmul(a, b)?);
    }
    let (rows, columns) = (cx.rank(a).saturating_sub(2), cx.rank(b).saturating_sub(1));
    let (a, b) = (centred(cx, a, zeros[0], rows)?, centred(cx, b, zeros[1], columns)?);
    Ok(cx.b().matmul(a, b)?)
}

pub(super) fn matmul_integer(cx: &mut Cx<'_, '_>) -> Imported {
    let (a, b) = (cx.x(0)?, cx.x(1)?);
    let zeros = [cx.opt(2), cx.opt(3)];
    Ok(vec![integer_product(cx, a, b, zeros)?])
}

/// i32 sums to the result's scale: sums · scales, then quantised.
fn requantize(
    cx: &mut Cx<'_, '_>,
    sums: ValueId,
    scales: [ValueId; 2],
    to_scale: ValueId,
    to_zero: ValueId,
) -> Result<ValueId, Fail> {
    let dtype = cx.dtype(to_scale);
    let b = cx.b();
    let wide = b.cast(sums, dtype)?;
    let first = b.binary(Binary::Mul, wide, scales[0])?;
    let real = b.binary(Binary::Mul, first, scales[1])?;
    let (to_scale, to_zero) = (
        b.reshape(to_scale, Shape::scalar())?,
        b.reshape(to_zero, Shape::scalar())?,
    );
    let to = b.dtype(to_zero);
    Ok(b.op(Op::Quantize { to }, &[real, to_scale, to_zero])?)
}

pub(super) fn qlinear_matmul(cx: &mut Cx<'_, '_>) -> Imported {
    let (a, b) = (cx.x(0)?, cx.x(3)?);
    let (a_scale, b_scale) = (cx.x(1)?, cx.x(4)?);
    let (to_scale, to_zero) = (cx.x(6)?, cx.x(7)?);
    if !cx.dtype(a).is_int8() {
        return unsupported(format!("{} operands are not supported", cx.dtype(a)));
    }
    let zeros = [Some(cx.x(2)?), Some(cx.x(5)?)];
    let (rows, columns) = (cx.rank(a).saturating_sub(2), cx.rank(b).saturating_sub(1));
    let sums = integer_product(cx, a, b, zeros)?;
    let scales = [along(cx, a_scale, a, rows)?, along(cx, b_scale, b, columns)?];
    Ok(vec![requantize(cx, sums, scales, to_scale, to_zero)?])
}

/// i32 convolution of 8-bit operands; without zero points on the bytes themselves.
fn integer_conv(
    cx: &mut Cx<'_, '_>,
    x: ValueId,
    w: ValueId,
    zeros: [Option<ValueId>; 2],
    bias: Option<ValueId>,
) -> Result<ValueId, Fail> {
    let attrs = conv_attrs(cx, x, w)?;
    let (x, w) = if is_zero(cx, zeros[0]) && is_zero(cx, zeros[1]) {
        (x, w)
    } else {
        (centred(cx, x, zeros[0], 1)?, centred(cx, w, zeros[1], 0)?)
    };
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    Ok(cx.b().op(Op::Conv(attrs), &inputs)?)
}

pub(super) fn conv_integer(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, w) = (cx.x(0)?, cx.x(1)?);
    let zeros = [cx.opt(2), cx.opt(3)];
    Ok(vec![integer_conv(cx, x, w, zeros, None)?])
}

pub(super) fn qlinear_conv(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, w) = (cx.x(0)?, cx.x(3)?);
    let (x_scale, w_scale) = (cx.x(1)?, cx.x(4)?);
    let (to_scale, to_zero) = (cx.x(6)?, cx.x(7)?);
    let zeros = [Some(cx.x(2)?), Some(cx.x(5)?)];
    let bias = cx.opt(8);
    let sums = integer_conv(cx, x, w, zeros, bias)?;
    let scales = [along(cx, x_scale, sums, 1)?, along(cx, w_scale, sums, 1)?];
    Ok(vec![requantize(cx, sums, scales, to_scale, to_zero)?])
}
