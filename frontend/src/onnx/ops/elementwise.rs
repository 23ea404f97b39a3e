//! Elementwise functions, conversions and selections.

use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::{Binary, Scalar, Unary};
use lockstep_graph::{DType, ValueId};

pub(super) fn unary(cx: &mut Cx<'_, '_>) -> Imported {
    let kind = match cx.op_type() {
        "Abs" => Unary::Abs,
        "Acos" => Unary::Acos,
        "Acosh" => Unary::Acosh,
        "Asin" => Unary::Asin,
        "Asinh" => Unary::Asinh,
        "Atan" => Unary::Atan,
        "Atanh" => Unary::Atanh,
        "BitwiseNot" | "Not" => Unary::Not,
        "Ceil" => Unary::Ceil,
        "Cos" => Unary::Cos,
        "Cosh" => Unary::Cosh,
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Floor" => Unary::Floor,
        "IsNaN" => Unary::IsNan,
        "Log" => Unary::Log,
        "Neg" => Unary::Neg,
        "Reciprocal" => Unary::Recip,
        "Relu" => Unary::Relu,
        "Round" => Unary::Round,
        "Sigmoid" => Unary::Sigmoid,
        "Sign" => Unary::Sign,
        "Sin" => Unary::Sin,
        "Sinh" => Unary::Sinh,
        "Sqrt" => Unary::Sqrt,
        "Tan" => Unary::Tan,
        "Tanh" => Unary::Tanh,
        other => return unsupported(format!("{other} is no elementwise function")),
    };
    let x = cx.x(0)?;
    Ok(vec![cx.b().unary(kind, x)?])
}

pub(super) fn binary(cx: &mut Cx<'_, '_>) -> Imported {
    let kind = match cx.op_type() {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        "Equal" => Binary::Eq,
        "Greater" => Binary::Gt,
        "GreaterOrEqual" => Binary::Ge,
        "Less" => Binary::Lt,
        "LessOrEqual" => Binary::Le,
        "And" | "BitwiseAnd" => Binary::And,
        "Or" | "BitwiseOr" => Binary::Or,
        "Xor" | "BitwiseXor" => Binary::Xor,
        other => return unsupported(format!("{other} is no elementwise function")),
    };
    let (a, b) = (cx.x(0)?, cx.x(1)?);
    let b = if cx.opset < 7 { old_broadcast(cx, a, b)? } else { b };
    Ok(vec![cx.b().binary(kind, a, b)?])
}

/// The second operand of opsets before 7, whose axes begin at the attribute `axis` of the first (by default they end with it).
fn old_broadcast(cx: &mut Cx<'_, '_>, a: ValueId, b: ValueId) -> Result<ValueId, Fail> {
    let (rank, shape) = (cx.rank(a), cx.shape(b));
    let Some(axis) = cx.opt_int("axis") else {
        return Ok(b);
    };
    let axis = cx.axis(axis, rank.max(1))?;
    if axis + shape.rank() > rank {
        return malformed(format!("axis {axis} of rank {rank} has no room for {shape}"));
    }
    let mut dims = shape.0;
    dims.resize(rank - axis, 1);
    Ok(cx.b().reshape(b, dims)?)
}

pub(super) fn variadic(cx: &mut Cx<'_, '_>) -> Imported {
    let kind = match cx.op_type() {
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        _ => Binary::Add,
    };
    let all = cx.all()?;
    let mut result = all[0];
    for &next in &all[1..] {
        result = cx.b().binary(kind, result, next)?;
    }
    if cx.op_type() == "Mean" {
        result = cx.b().binary_scalar(Binary::Div, result, all.len() as f64)?;
    }
    Ok(vec![result])
}

pub(super) fn modulo(cx: &mut Cx<'_, '_>) -> Imported {
    let (a, b) = (cx.x(0)?, cx.x(1)?);
    let kind = if cx.flag("fmod", false) {
        Binary::Rem
    } else {
        Binary::Mod
    };
    Ok(vec![cx.b().binary(kind, a, b)?])
}

pub(super) fn bit_shift(cx: &mut Cx<'_, '_>) -> Imported {
    let kind = match cx.string("direction", "").as_str() {
        "LEFT" => Binary::Shl,
        "RIGHT" => Binary::Shr,
        other => {
            return malformed(format!(
                "direction is \"{}\", allowed: LEFT, RIGHT",
                other.escape_debug()
            ));
        }
    };
    let (a, b) = (cx.x(0)?, cx.x(1)?);
    Ok(vec![cx.b().binary(kind, a, b)?])
}

/// Powers with a small known exponent become products and roots.
pub(super) fn pow(cx: &mut Cx<'_, '_>) -> Imported {
    let (base, exponent) = (cx.x(0)?, cx.x(1)?);
    let dtype = cx.dtype(base);
    let exponent_shape = cx.shape(exponent);
    let single = exponent_shape.n_elements() == 1 && exponent_shape.rank() <= cx.rank(base);
    let known = if single { cx.known(1) } else { None };
    let known = known.and_then(|tensor| tensor.to_floats().first().copied());
    let b = cx.b();
    if dtype.is_float() {
        match known {
            Some(1.0) => return Ok(vec![base]),
            Some(2.0) => return Ok(vec![b.binary(Binary::Mul, base, base)?]),
            Some(3.0) => {
                let square = b.binary(Binary::Mul, base, base)?;
                return Ok(vec![b.binary(Binary::Mul, square, base)?]);
            }
            Some(0.5) => return Ok(vec![b.unary(Unary::Sqrt, base)?]),
            Some(-0.5) => return Ok(vec![b.unary(Unary::Rsqrt, base)?]),
            Some(-1.0) => return Ok(vec![b.unary(Unary::Recip, base)?]),
            _ => {}
        }
    }
    let exponent = if cx.opset < 7 {
        old_broadcast(cx, base, exponent)?
    } else {
        exponent
    };
    let b = cx.b();
    let exponent_dtype = b.dtype(exponent);
    if !dtype.is_float() && exponent_dtype.is_float() {
        let wide = b.cast(base, exponent_dtype)?;
        let power = b.binary(Binary::Pow, wide, exponent)?;
        return Ok(vec![b.cast(power, dtype)?]);
    }
    let exponent = b.cast(exponent, dtype)?;
    Ok(vec![b.binary(Binary::Pow, base, exponent)?])
}

pub(super) fn clip(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (mut low, mut high) = (cx.opt(1), cx.opt(2));
    if let Some(min) = cx.attr("min").map(|attr| attr.f) {
        low = Some(cx.b().scalar_like(x, f64::from(min)));
    }
    if let Some(max) = cx.attr("max").map(|attr| attr.f) {
        high = Some(cx.b().scalar_like(x, f64::from(max)));
    }
    let mut result = x;
    if let Some(low) = low {
        result = cx.b().binary(Binary::Max, result, low)?;
    }
    if let Some(high) = high {
        result = cx.b().binary(Binary::Min, result, high)?;
    }
    Ok(vec![result])
}

pub(super) fn select(cx: &mut Cx<'_, '_>) -> Imported {
    let (cond, a, b) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    Ok(vec![cx.b().select(cond, a, b)?])
}

/// Whether an optional value is there: known at import.
pub(super) fn has_element(cx: &mut Cx<'_, '_>) -> Imported {
    let there = cx.opt(0).is_some();
    Ok(vec![cx.b().scalar(DType::Bool, Scalar::Int(i128::from(there)))])
}

pub(super) fn identity(cx: &mut Cx<'_, '_>) -> Imported {
    Ok(vec![cx.x(0)?])
}

pub(super) fn cast(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    if cx.opset < 6 {
        return old_cast(cx, x);
    }
    let Some(to) = cx.dtype_attr("to")? else {
        return malformed("the attribute to is missing");
    };
    let bits = cx.packed_bits_attr("to");
    Ok(vec![narrow_cast(cx, x, to, bits)?])
}

/// A cast of opsets before 6, which spell the type.
fn old_cast(cx: &mut Cx<'_, '_>, x: ValueId) -> Imported {
    let to = match cx.string("to", "").as_str() {
        "FLOAT" => DType::F32,
        "FLOAT16" => DType::F16,
        "DOUBLE" => DType::F64,
        "INT8" => DType::I8,
        "INT16" => DType::I16,
        "INT32" => DType::I32,
        "INT64" => DType::I64,
        "UINT8" => DType::U8,
        "UINT16" => DType::U16,
        "UINT32" => DType::U32,
        "UINT64" => DType::U64,
        "BOOL" => DType::Bool,
        other => return unsupported(format!("a cast to {} is not supported", other.escape_debug())),
    };
    Ok(vec![cx.b().cast(x, to)?])
}

/// A cast; to a type of fewer than 8 bits, stored in a byte each, it keeps the lowest bits.
fn narrow_cast(cx: &mut Cx<'_, '_>, x: ValueId, to: DType, bits: Option<u32>) -> Result<ValueId, Fail> {
    let Some(bits) = bits else {
        return Ok(cx.b().cast(x, to)?);
    };
    let (mask, sign) = ((1i128 << bits) - 1, 1i128 << (bits - 1));
    let mut wide = cx.b().cast(x, DType::I32)?;
    let mask = cx.b().scalar(DType::I32, Scalar::Int(mask));
    wide = cx.b().binary(Binary::And, wide, mask)?;
    if to == DType::I8 {
        let sign = cx.b().scalar(DType::I32, Scalar::Int(sign));
        let flipped = cx.b().binary(Binary::Xor, wide, sign)?;
        wide = cx.b().binary(Binary::Sub, flipped, sign)?;
    }
    let result = cx.b().cast(wide, to)?;
    cx.set_packed_bits(result, Some(bits));
    Ok(result)
}

/// The same bits as another dtype of the same size; between integers, or where the elements are known.
pub(super) fn bit_cast(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (from, Some(to)) = (cx.dtype(x), cx.dtype_attr("to")?) else {
        return malformed("the attribute to is missing");
    };
    if from.size() != to.size() {
        return malformed(format!("{from} has {} bytes and {to} has {}", from.size(), to.size()));
    }
    if from == to {
        return Ok(vec![x]);
    }
    if let Some(known) = cx.known(0) {
        let shape = known.shape.clone();
        return Ok(vec![cx.b().constant("", to, shape, known.encode())?]);
    }
    match (from, to) {
        (DType::F32, DType::I32) => return Ok(vec![super::bits::of_float(cx, x)?]),
        (DType::I32, DType::F32) => return Ok(vec![super::bits::to_float(cx, x)?]),
        _ => {}
    }
    if from.is_float() || to.is_float() || to == DType::Bool {
        return unsupported(format!("the bits of {from} as {to} at run time are not supported"));
    }
    Ok(vec![cx.b().cast(x, to)?])
}

pub(super) fn cast_like(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, like) = (cx.x(0)?, cx.x(1)?);
    let (to, bits) = (cx.dtype(like), cx.packed_bits(like));
    Ok(vec![narrow_cast(cx, x, to, bits)?])
}

/// Inference: the input itself, and a mask of ones.
pub(super) fn dropout(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    if cx.opt(2).is_some() {
        let training = cx.need(2, "training_mode")?;
        let ratio = if cx.opt(1).is_some() {
            cx.need_float(1, "ratio")?
        } else {
            0.5
        };
        if training.to_floats().first() != Some(&0.0) && ratio != 0.0 {
            return super::random::training_dropout(cx, x, ratio);
        }
    }
    let mut results = vec![x];
    if cx.n_outputs() > 1 {
        let shape = cx.shape(x);
        let dtype = if cx.opset < 10 { cx.dtype(x) } else { DType::Bool };
        results.push(cx.filled(dtype, shape, 1.0)?);
    }
    Ok(results)
}

pub(super) fn is_inf(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (negative, positive) = (cx.flag("detect_negative", true), cx.flag("detect_positive", true));
    let is_inf = cx.b().unary(Unary::IsInf, x)?;
    let kind = match (negative, positive) {
        (true, true) => return Ok(vec![is_inf]),
        (true, false) => Binary::Lt,
        (false, _) => Binary::Gt,
    };
    let signed = cx.b().binary_scalar(kind, x, 0.0)?;
    let both = cx.b().binary(Binary::And, is_inf, signed)?;
    if negative || positive {
        return Ok(vec![both]);
    }
    let shape = cx.shape(x);
    Ok(vec![cx.filled(DType::Bool, shape, 0.0)?])
}

/// `x + 1`-like helper for compositions: `x` combined with a scalar of its dtype.
pub(super) fn with(
    cx: &mut Cx<'_, '_>,
    kind: Binary,
    x: ValueId,
    scalar: f64,
) -> Result<ValueId, crate::onnx::cx::Fail> {
    Ok(cx.b().binary_scalar(kind, x, scalar)?)
}
