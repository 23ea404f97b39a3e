//! Activation functions as compositions of elementwise operators.

use super::elementwise::with;
use crate::onnx::cx::{Cx, Fail, Imported, malformed};
use lockstep_graph::ValueId;
use lockstep_graph::op::{Binary, Unary};

/// `below` where x < limit, else `above`.
fn split_at(cx: &mut Cx<'_, '_>, x: ValueId, limit: f64, below: ValueId, above: ValueId) -> Result<ValueId, Fail> {
    let under = with(cx, Binary::Lt, x, limit)?;
    Ok(cx.b().select(under, below, above)?)
}

pub(super) fn leaky_relu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let alpha = cx.float("alpha", 0.01);
    let scaled = with(cx, Binary::Mul, x, f64::from(alpha))?;
    Ok(vec![split_at(cx, x, 0.0, scaled, x)?])
}

pub(super) fn prelu(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, mut slope) = (cx.x(0)?, cx.x(1)?);
    let (shape, own) = (cx.shape(x), cx.shape(slope));
    if cx.opset < 7 && own.rank() == 1 && own[0] > 1 && shape.rank() > 1 {
        // Old slopes lie along the channels.
        let mut dims = own.0;
        dims.resize(shape.rank() - 1, 1);
        slope = cx.b().reshape(slope, dims)?;
    }
    let scaled = cx.b().binary(Binary::Mul, x, slope)?;
    Ok(vec![split_at(cx, x, 0.0, scaled, x)?])
}

/// alpha · (exp(x) − 1).
fn exp_less_one(cx: &mut Cx<'_, '_>, x: ValueId, alpha: f64) -> Result<ValueId, Fail> {
    let exp = cx.b().unary(Unary::Exp, x)?;
    let less = with(cx, Binary::Sub, exp, 1.0)?;
    if alpha == 1.0 {
        Ok(less)
    } else {
        with(cx, Binary::Mul, less, alpha)
    }
}

pub(super) fn elu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let alpha = cx.float("alpha", 1.0);
    let below = exp_less_one(cx, x, f64::from(alpha))?;
    Ok(vec![split_at(cx, x, 0.0, below, x)?])
}

pub(super) fn selu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (alpha, gamma) = (cx.float("alpha", 1.673_263_2), cx.float("gamma", 1.050_701));
    let below = exp_less_one(cx, x, f64::from(alpha))?;
    let joined = split_at(cx, x, 0.0, below, x)?;
    Ok(vec![with(cx, Binary::Mul, joined, f64::from(gamma))?])
}

pub(super) fn celu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let alpha = f64::from(cx.float("alpha", 1.0));
    let scaled = with(cx, Binary::Div, x, alpha)?;
    let below = exp_less_one(cx, scaled, alpha)?;
    Ok(vec![split_at(cx, x, 0.0, below, x)?])
}

pub(super) fn thresholded_relu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let alpha = cx.float("alpha", 1.0);
    let above = with(cx, Binary::Gt, x, f64::from(alpha))?;
    let zero = cx.b().scalar_like(x, 0.0);
    Ok(vec![cx.b().select(above, x, zero)?])
}

/// min(max(alpha·x + beta, 0), 1).
fn hard_gate(cx: &mut Cx<'_, '_>, x: ValueId, alpha: f64, beta: f64) -> Result<ValueId, Fail> {
    let scaled = with(cx, Binary::Mul, x, alpha)?;
    let shifted = with(cx, Binary::Add, scaled, beta)?;
    let low = with(cx, Binary::Max, shifted, 0.0)?;
    with(cx, Binary::Min, low, 1.0)
}

pub(super) fn hard_sigmoid(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (alpha, beta) = (cx.float("alpha", 0.2), cx.float("beta", 0.5));
    Ok(vec![hard_gate(cx, x, f64::from(alpha), f64::from(beta))?])
}

pub(super) fn hard_swish(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let gate = hard_gate(cx, x, 1.0 / 6.0, 0.5)?;
    Ok(vec![cx.b().binary(Binary::Mul, x, gate)?])
}

/// max(x, 0) + log(1 + exp(−|x|)), which does not overflow.
fn soft_plus(cx: &mut Cx<'_, '_>, x: ValueId) -> Result<ValueId, Fail> {
    let abs = cx.b().unary(Unary::Abs, x)?;
    let neg = cx.b().unary(Unary::Neg, abs)?;
    let exp = cx.b().unary(Unary::Exp, neg)?;
    let more = with(cx, Binary::Add, exp, 1.0)?;
    let log = cx.b().unary(Unary::Log, more)?;
    let relu = cx.b().unary(Unary::Relu, x)?;
    Ok(cx.b().binary(Binary::Add, relu, log)?)
}

pub(super) fn softplus(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    Ok(vec![soft_plus(cx, x)?])
}

pub(super) fn softsign(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let abs = cx.b().unary(Unary::Abs, x)?;
    let more = with(cx, Binary::Add, abs, 1.0)?;
    Ok(vec![cx.b().binary(Binary::Div, x, more)?])
}

pub(super) fn mish(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let soft = soft_plus(cx, x)?;
    let tanh = cx.b().unary(Unary::Tanh, soft)?;
    Ok(vec![cx.b().binary(Binary::Mul, x, tanh)?])
}

pub(super) fn swish(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let alpha = cx.float("alpha", 1.0);
    let scaled = if alpha == 1.0 {
        x
    } else {
        with(cx, Binary::Mul, x, f64::from(alpha))?
    };
    let gate = cx.b().unary(Unary::Sigmoid, scaled)?;
    Ok(vec![cx.b().binary(Binary::Mul, x, gate)?])
}

pub(super) fn gelu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let tanh = match cx.string("approximate", "none").as_str() {
        "none" => false,
        "tanh" => true,
        other => {
            return malformed(format!(
                "approximate is \"{}\", allowed: none, tanh",
                other.escape_debug()
            ));
        }
    };
    Ok(vec![crate::compose::gelu(cx.b(), x, tanh)?])
}

pub(super) fn shrink(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (lambd, bias) = (f64::from(cx.float("lambd", 0.5)), f64::from(cx.float("bias", 0.0)));
    let zero = cx.b().scalar_like(x, 0.0);
    let less = with(cx, Binary::Sub, x, bias)?;
    let above = with(cx, Binary::Gt, x, lambd)?;
    let upper = cx.b().select(above, less, zero)?;
    let more = with(cx, Binary::Add, x, bias)?;
    let result = split_at(cx, x, -lambd, more, upper)?;
    Ok(vec![result])
}
