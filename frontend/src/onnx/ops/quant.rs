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

/// The operands `index..index + 3` (bytes, scale, zero point) as floats; parameters of n elements lie along `axis`.
fn real(cx: &mut Cx<'_, '_>, index: usize, axis: usize) -> Result<ValueId, Fail> {
    let (x, scale) = (cx.x(index)?, cx.x(index + 1)?);
    let dtype = cx.dtype(x);
    let zero = zero_point(cx, index + 2, dtype)?;
    let (scale, zero) = (along(cx, scale, x, axis)?, along(cx, zero, x, axis)?);
    Ok(cx.b().op(Op::Dequantize, &[x, scale, zero])?)
}

/// Floats to bytes by the scale and zero point at `index` and `index + 1`.
fn byte(cx: &mut Cx<'_, '_>, x: ValueId, index: usize) -> Result<ValueId, Fail> {
    let (scale, dtype) = (cx.x(index)?, cx.dtype(x));
    let zero = zero_point(cx, index + 1, DType::U8)?;
    let (scale, zero) = (
        cx.b().reshape(scale, Shape::scalar())?,
        cx.b().reshape(zero, Shape::scalar())?,
    );
    let scale = cx.b().cast(scale, dtype)?;
    let to = cx.dtype(zero);
    Ok(cx.b().op(Op::Quantize { to }, &[x, scale, zero])?)
}

pub(super) fn qlinear_matmul(cx: &mut Cx<'_, '_>) -> Imported {
    let (a, b) = (cx.x(0)?, cx.x(3)?);
    if !cx.dtype(a).is_int8() || !cx.dtype(b).is_int8() {
        return unsupported(format!("{} operands are not supported", cx.dtype(a)));
    }
    let (rows, columns) = (cx.rank(a).saturating_sub(2), cx.rank(b).saturating_sub(1));
    let (a, b) = (real(cx, 0, rows)?, real(cx, 3, columns)?);
    let product = cx.b().matmul(a, b)?;
    Ok(vec![byte(cx, product, 6)?])
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
    let (x, w) = (real(cx, 0, 1)?, real(cx, 3, 0)?);
    let attrs = conv_attrs(cx, x, w)?;
    let mut y = cx.b().op(Op::Conv(attrs), &[x, w])?;
    if let Some(bias) = cx.opt(8) {
        // The bias counts in steps of both scales.
        let (x_scale, w_scale) = (cx.x(1)?, cx.x(4)?);
        let (x_scale, w_scale) = (along(cx, x_scale, y, 1)?, along(cx, w_scale, y, 1)?);
        let step = cx.b().binary(Binary::Mul, x_scale, w_scale)?;
        let bias = along(cx, bias, y, 1)?;
        let dtype = cx.dtype(y);
        let bias = cx.b().cast(bias, dtype)?;
        let bias = cx.b().binary(Binary::Mul, bias, step)?;
        y = cx.b().binary(Binary::Add, y, bias)?;
    }
    Ok(vec![byte(cx, y, 6)?])
}

/// Elementwise operators of bytes with a scale and zero point per operand: computed on floats.
pub(super) fn qlinear_binary(cx: &mut Cx<'_, '_>) -> Imported {
    let kind = if cx.op_type() == "QLinearMul" {
        Binary::Mul
    } else {
        Binary::Add
    };
    let (a, b) = (real(cx, 0, 0)?, real(cx, 3, 0)?);
    let y = cx.b().binary(kind, a, b)?;
    Ok(vec![byte(cx, y, 6)?])
}

pub(super) fn qlinear_unary(cx: &mut Cx<'_, '_>) -> Imported {
    let x = real(cx, 0, 0)?;
    let y = match cx.op_type() {
        "QLinearSigmoid" => cx.b().unary(Unary::Sigmoid, x)?,
        "QLinearLeakyRelu" => {
            let alpha = f64::from(cx.float("alpha", 0.01));
            let small = cx.b().binary_scalar(Binary::Mul, x, alpha)?;
            let below = cx.b().binary_scalar(Binary::Lt, x, 0.0)?;
            cx.b().select(below, small, x)?
        }
        "QLinearSoftmax" => {
            let axis = cx.axis(cx.int("axis", -1), cx.rank(x))?;
            cx.b().op(Op::Softmax { axis, log: false }, &[x])?
        }
        _ => {
            // Channels last or first, all else is averaged.
            let rank = cx.rank(x);
            if rank < 3 {
                return malformed(format!("the input has rank {rank}, allowed: 3 or more"));
            }
            let axes: Vec<usize> = if cx.flag("channels_last", false) {
                (1..rank - 1).collect()
            } else {
                (2..rank).collect()
            };
            cx.b().reduce(Reduce::Mean, x, &axes, true)?
        }
    };
    Ok(vec![byte(cx, y, 3)?])
}

pub(super) fn qlinear_concat(cx: &mut Cx<'_, '_>) -> Imported {
    let mut parts = Vec::new();
    let mut at = 2;
    while cx.opt(at).is_some() {
        parts.push(real(cx, at, 0)?);
        at += 3;
    }
    let Some(&first) = parts.first() else {
        return malformed("there is no operand to join");
    };
    let axis = cx.axis(cx.int("axis", 1), cx.rank(first))?;
    let y = cx.b().concat(&parts, axis)?;
    Ok(vec![byte(cx, y, 0)?])
}

/// alpha·A·B + C with bytes for A and B and steps of both scales for C; floats where the result has no scale.
pub(super) fn qgemm(cx: &mut Cx<'_, '_>) -> Imported {
    let (turn_a, turn_b) = (cx.flag("transA", false), cx.flag("transB", false));
    let (mut a, mut b) = (real(cx, 0, 0)?, real(cx, 3, usize::from(!turn_b))?);
    if cx.rank(a) != 2 || cx.rank(b) != 2 {
        return malformed(format!(
            "operands have ranks {} and {}, allowed: 2",
            cx.rank(a),
            cx.rank(b)
        ));
    }
    if turn_a {
        a = cx.b().transpose(a, &[1, 0])?;
    }
    if turn_b {
        b = cx.b().transpose(b, &[1, 0])?;
    }
    let alpha = f64::from(cx.float("alpha", 1.0));
    let mut y = cx.b().matmul(a, b)?;
    let dtype = cx.dtype(y);
    if let Some(bias) = cx.opt(6) {
        let (a_scale, b_scale) = (cx.x(1)?, cx.x(4)?);
        let (a_scale, b_scale) = (along(cx, a_scale, y, 1)?, along(cx, b_scale, y, 1)?);
        let step = cx.b().binary(Binary::Mul, a_scale, b_scale)?;
        let bias = cx.b().cast(bias, dtype)?;
        let bias = cx.b().binary(Binary::Mul, bias, step)?;
        y = cx.b().binary(Binary::Add, y, bias)?;
    }
    if alpha != 1.0 {
        y = cx.b().binary_scalar(Binary::Mul, y, alpha)?;
    }
    if cx.opt(7).is_none() {
        return Ok(vec![y]);
    }
    Ok(vec![byte(cx, y, 7)?])
}

/// A float times bytes: A is quantised on the fly, or (`MatMulIntegerToFloat`) given as bytes; the result is float.
pub(super) fn matmul_to_float(cx: &mut Cx<'_, '_>) -> Imported {
    let dynamic = cx.op_type() == "DynamicQuantizeMatMul";
    // A, B, b_scale, b_zero, bias; or A, B, a_scale, b_scale, a_zero, b_zero, bias.
    let [b_scale, b_zero, bias] = if dynamic { [2, 3, 4] } else { [3, 5, 6] };
    let b = cx.x(1)?;
    let columns = cx.rank(b).saturating_sub(1);
    let b = with_params(cx, b, b_scale, b_zero, columns)?;
    let a = if dynamic {
        let quantised = dynamic_quantize(cx)?;
        cx.b().op(Op::Dequantize, &[quantised[0], quantised[1], quantised[2]])?
    } else {
        let a = cx.x(0)?;
        with_params(cx, a, 2, 4, 0)?
    };
    let mut y = cx.b().matmul(a, b)?;
    if let Some(bias) = cx.opt(bias) {
        y = cx.b().binary(Binary::Add, y, bias)?;
    }
    Ok(vec![y])
}

/// Bytes as floats by the operands that hold their scale and zero point.
fn with_params(cx: &mut Cx<'_, '_>, x: ValueId, scale: usize, zero: usize, axis: usize) -> Result<ValueId, Fail> {
    let (scale, dtype) = (cx.x(scale)?, cx.dtype(x));
    let zero = zero_point(cx, zero, dtype)?;
    let (scale, zero) = (along(cx, scale, x, axis)?, along(cx, zero, x, axis)?);
    Ok(cx.b().op(Op::Dequantize, &[x, scale, zero])?)
}
