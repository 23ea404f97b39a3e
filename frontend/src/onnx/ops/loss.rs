//! Losses: gathers along the class axis with ignored targets masked out.

use crate::onnx::cx::{Cx, Fail, Imported, malformed};
use lockstep_graph::op::{Binary, Reduce, Unary};
use lockstep_graph::{DType, Op, ValueId};

/// The loss of log-probabilities [n, c, d..] at targets [n, d..], reduced as the node says.
fn pick(cx: &mut Cx<'_, '_>, log_probs: ValueId, target: ValueId, weight: Option<ValueId>) -> Result<ValueId, Fail> {
    let (shape, target_shape) = (cx.shape(log_probs), cx.shape(target));
    if shape.rank() < 2 || target_shape.rank() + 1 != shape.rank() {
        return malformed(format!("input {shape} and target {target_shape} do not fit"));
    }
    let dtype = cx.dtype(log_probs);
    let mut columns = target_shape.0.clone();
    columns.insert(1, 1);
    let ignored = match cx.opt_int("ignore_index") {
        Some(index) => Some(cx.b().binary_scalar(Binary::Eq, target, index as f64)?),
        None => None,
    };
    let zero_index = cx.b().scalar_like(target, 0.0);
    let safe = match ignored {
        Some(ignored) => cx.b().select(ignored, zero_index, target)?,
        None => target,
    };
    let indices = cx.b().reshape(safe, columns)?;
    let picked = cx.b().op(Op::GatherElements { axis: 1 }, &[log_probs, indices])?;
    let picked = cx.b().reshape(picked, target_shape.clone())?;
    let mut loss = cx.b().unary(Unary::Neg, picked)?;
    let mut weights = match weight {
        Some(weight) => Some(cx.b().op(Op::Gather { axis: 0 }, &[weight, safe])?),
        None => None,
    };
    if let Some(ignored) = ignored {
        let one = match weights {
            Some(weights) => weights,
            None => cx.filled(dtype, target_shape, 1.0)?,
        };
        let zero = cx.b().scalar_like(loss, 0.0);
        weights = Some(cx.b().select(ignored, zero, one)?);
    }
    if let Some(weights) = weights {
        loss = cx.b().binary(Binary::Mul, loss, weights)?;
    }
    let axes: Vec<usize> = (0..cx.rank(loss)).collect();
    match cx.string("reduction", "mean").as_str() {
        "none" => Ok(loss),
        "sum" => Ok(cx.b().reduce(Reduce::Sum, loss, &axes, false)?),
        "mean" => match weights {
            None => Ok(cx.b().reduce(Reduce::Mean, loss, &axes, false)?),
            Some(weights) => {
                let (sum, total) = (
                    cx.b().reduce(Reduce::Sum, loss, &axes, false)?,
                    cx.b().reduce(Reduce::Sum, weights, &axes, false)?,
                );
                Ok(cx.b().binary(Binary::Div, sum, total)?)
            }
        },
        other => malformed(format!(
            "reduction is \"{}\", allowed: none, sum, mean",
            other.escape_debug()
        )),
    }
}

fn index_dtype(cx: &mut Cx<'_, '_>, target: ValueId) -> Result<ValueId, Fail> {
    let to = if cx.dtype(target) == DType::I32 {
        DType::I32
    } else {
        DType::I64
    };
    Ok(cx.b().cast(target, to)?)
}

pub(super) fn nll(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, target) = (cx.x(0)?, cx.x(1)?);
    let (target, weight) = (index_dtype(cx, target)?, cx.opt(2));
    Ok(vec![pick(cx, x, target, weight)?])
}

pub(super) fn softmax_cross_entropy(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, target) = (cx.x(0)?, cx.x(1)?);
    let (target, weight) = (index_dtype(cx, target)?, cx.opt(2));
    let log_probs = cx.b().op(Op::Softmax { axis: 1, log: true }, &[x])?;
    Ok(vec![pick(cx, log_probs, target, weight)?, log_probs])
}
