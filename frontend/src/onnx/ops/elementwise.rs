//! Elementwise functions, conversions and selections.

use crate::onnx::cx::{Cx, Imported, malformed, unsupported};
use lockstep_graph::op::{Binary, Unary};
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
    Ok(vec![cx.b().binary(kind, a, b)?])
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

pub(super) fn identity(cx: &mut Cx<'_, '_>) -> Imported {
    Ok(vec![cx.x(0)?])
}

pub(super) fn cast(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let Some(to) = cx.dtype_attr("to")? else {
        return malformed("the attribute to is missing");
    };
    Ok(vec![cx.b().cast(x, to)?])
}

pub(super) fn cast_like(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, like) = (cx.x(0)?, cx.x(1)?);
    let to = cx.dtype(like);
    Ok(vec![cx.b().cast(x, to)?])
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
            return unsupported("dropout in training mode is random");
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
