//! Reductions, running sums, extremes and sorting.

use crate::onnx::cx::{Cx, Fail, Imported, malformed};
use lockstep_graph::op::{Binary, PadMode, Range, Reduce, Scalar, Unary};
use lockstep_graph::{DType, Op, ValueId};

pub(super) fn reduce(cx: &mut Cx<'_, '_>) -> Imported {
    let mut x = cx.x(0)?;
    let rank = cx.rank(x);
    let keepdims = cx.flag("keepdims", true);
    let axes = match cx.ints_attr_or_input("axes", 1)? {
        Some(axes) if !axes.is_empty() => cx.axes(&axes, rank)?,
        _ if cx.flag("noop_with_empty_axes", false) => Vec::new(),
        _ => (0..rank).collect(),
    };
    let kind = cx.op_type().to_string();
    let dtype = cx.dtype(x);
    // Bool extremes are taken over bytes, roots and logarithms of integers over floats.
    let through = match (dtype, kind.as_str()) {
        (DType::Bool, _) => DType::U8,
        (dtype, "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp") if !dtype.is_float() => DType::F32,
        (dtype, _) => dtype,
    };
    x = cx.b().cast(x, through)?;
    let b = cx.b();
    let result = match kind.as_str() {
        "ReduceSum" => b.reduce(Reduce::Sum, x, &axes, keepdims)?,
        "ReduceMean" => b.reduce(Reduce::Mean, x, &axes, keepdims)?,
        "ReduceProd" => b.reduce(Reduce::Prod, x, &axes, keepdims)?,
        "ReduceMax" => b.reduce(Reduce::Max, x, &axes, keepdims)?,
        "ReduceMin" => b.reduce(Reduce::Min, x, &axes, keepdims)?,
        "ReduceL1" => {
            let abs = if through.is_float() || through.is_signed_int() {
                b.unary(Unary::Abs, x)?
            } else {
                x
            };
            b.reduce(Reduce::Sum, abs, &axes, keepdims)?
        }
        "ReduceL2" | "ReduceSumSquare" => {
            let square = b.binary(Binary::Mul, x, x)?;
            let sum = b.reduce(Reduce::Sum, square, &axes, keepdims)?;
            if kind == "ReduceL2" {
                b.unary(Unary::Sqrt, sum)?
            } else {
                sum
            }
        }
        "ReduceLogSum" => {
            let sum = b.reduce(Reduce::Sum, x, &axes, keepdims)?;
            b.unary(Unary::Log, sum)?
        }
        "ReduceLogSumExp" => {
            // The finite maximum is taken out, so that exp does not overflow.
            let max = b.reduce(Reduce::Max, x, &axes, true)?;
            let infinite = b.unary(Unary::IsInf, max)?;
            let zero = b.scalar_like(max, 0.0);
            let max = b.select(infinite, zero, max)?;
            let less = b.binary(Binary::Sub, x, max)?;
            let exp = b.unary(Unary::Exp, less)?;
            let sum = b.reduce(Reduce::Sum, exp, &axes, true)?;
            let log = b.unary(Unary::Log, sum)?;
            let result = b.binary(Binary::Add, log, max)?;
            b.reduce(Reduce::Max, result, &axes, keepdims)?
        }
        other => return malformed(format!("{other} is no reduction")),
    };
    Ok(vec![b.cast(result, dtype)?])
}

pub(super) fn arg(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let axis = cx.axis(cx.int("axis", 0), cx.rank(x))?;
    let op = Op::Arg {
        max: cx.op_type() == "ArgMax",
        axis,
        keepdims: cx.flag("keepdims", true),
        last: cx.flag("select_last_index", false),
    };
    Ok(vec![cx.b().op(op, &[x])?])
}

pub(super) fn cum_sum(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let axis = cx.axis(cx.need_int(1, "axis")?, cx.rank(x))?;
    let op = Op::CumSum {
        axis,
        exclusive: cx.flag("exclusive", false),
        reverse: cx.flag("reverse", false),
    };
    Ok(vec![cx.b().op(op, &[x])?])
}

pub(super) fn top_k(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let axis = cx.axis(cx.int("axis", -1), cx.rank(x))?;
    let k = match cx.opt_int("k") {
        Some(k) => k,
        None => cx.need_int(1, "k")?,
    };
    let Ok(k) = usize::try_from(k) else {
        return malformed(format!("k is {k}"));
    };
    let largest = cx.flag("largest", true);
    Ok(cx.b().ops(Op::TopK { k, axis, largest }, &[x])?)
}

/// A running product in a logarithmic number of steps: each multiplies by the result so far, shifted by twice as much as the step before.
pub(super) fn cum_prod(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let shape = cx.shape(x);
    let axis = cx.axis(cx.need_int(1, "axis")?, shape.rank())?;
    let (exclusive, reverse) = (cx.flag("exclusive", false), cx.flag("reverse", false));
    let dim = shape[axis];
    let one = if cx.dtype(x).is_float() {
        Scalar::Float(1.0)
    } else {
        Scalar::Int(1)
    };
    let shifted = |cx: &mut Cx<'_, '_>, value: ValueId, by: usize| -> Result<ValueId, Fail> {
        let by = by.min(dim);
        let (kept, pad) = if reverse {
            (Range::of(by, dim), (0, by))
        } else {
            (Range::of(0, dim - by), (by, 0))
        };
        let kept = cx.b().narrow(value, axis, kept)?;
        let mut pads = vec![(0, 0); shape.rank()];
        pads[axis] = pad;
        Ok(cx.b().op(
            Op::Pad {
                pads,
                mode: PadMode::Constant(one),
            },
            &[kept],
        )?)
    };
    let mut product = if exclusive { shifted(cx, x, 1)? } else { x };
    let mut by = 1;
    while by < dim {
        let earlier = shifted(cx, product, by)?;
        product = cx.b().binary(Binary::Mul, product, earlier)?;
        by *= 2;
    }
    Ok(vec![product])
}
