//! Pools over windows and over whole maps.

use super::conv::{Window, extent, sizes, spatial, window};
use super::elementwise::with;
use crate::onnx::cx::{Cx, Fail, Imported, malformed};
use lockstep_graph::op::{Binary, PadMode, Pool, PoolKind, Reduce, Scalar, Unary};
use lockstep_graph::{Op, ValueId};

/// The pool of an input, rounding the number of windows up if `ceil_mode` says so.
fn attrs(cx: &Cx<'_, '_>, x: ValueId, kind: PoolKind) -> Result<Pool, Fail> {
    let dims = spatial(cx, x)?;
    if cx.attr("kernel_shape").is_none() {
        return malformed("the attribute kernel_shape is missing");
    }
    let kernel = sizes(cx, "kernel_shape", dims.len(), 1)?;
    let Window {
        kernel,
        strides,
        dilations,
        pads,
    } = window(cx, &dims, kernel)?;
    let mut ceil_extra = vec![0; dims.len()];
    if cx.flag("ceil_mode", false) {
        for at in 0..dims.len() {
            let span = extent(kernel[at], dilations[at]);
            let padded = dims[at].saturating_add(pads[at].0).saturating_add(pads[at].1);
            let mut windows = padded.saturating_sub(span).div_ceil(strides[at]) + 1;
            // The last window must start inside the input or the padding before it.
            if (windows - 1) * strides[at] >= dims[at] + pads[at].0 {
                windows -= 1;
            }
            ceil_extra[at] = (windows.saturating_sub(1) * strides[at] + span).saturating_sub(padded);
        }
    }
    Ok(Pool {
        kind,
        kernel,
        strides,
        dilations,
        pads,
        ceil_extra,
    })
}

pub(super) fn max(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let attrs = attrs(cx, x, PoolKind::Max)?;
    Ok(vec![cx.b().op(Op::Pool(attrs), &[x])?])
}

pub(super) fn average(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let count_pads = cx.flag("count_include_pad", false);
    let attrs = attrs(cx, x, PoolKind::Avg { count_pads })?;
    Ok(vec![cx.b().op(Op::Pool(attrs), &[x])?])
}

/// |x|^p.
fn abs_power(cx: &mut Cx<'_, '_>, x: ValueId, p: i64) -> Result<ValueId, Fail> {
    let abs = cx.b().unary(Unary::Abs, x)?;
    match p {
        1 => Ok(abs),
        2 => Ok(cx.b().binary(Binary::Mul, x, x)?),
        _ => with(cx, Binary::Pow, abs, p as f64),
    }
}

fn root(cx: &mut Cx<'_, '_>, x: ValueId, p: i64) -> Result<ValueId, Fail> {
    match p {
        1 => Ok(x),
        2 => Ok(cx.b().unary(Unary::Sqrt, x)?),
        _ => with(cx, Binary::Pow, x, 1.0 / p as f64),
    }
}

/// The p-norm of each window: zeros are padded on, so that every window averages over the whole kernel.
pub(super) fn lp(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let p = cx.int("p", 2);
    let mut attrs = attrs(cx, x, PoolKind::Avg { count_pads: true })?;
    let mut pads = vec![(0, 0); 2];
    for at in 0..attrs.kernel.len() {
        pads.push((attrs.pads[at].0, attrs.pads[at].1 + attrs.ceil_extra[at]));
        attrs.pads[at] = (0, 0);
        attrs.ceil_extra[at] = 0;
    }
    let power = abs_power(cx, x, p)?;
    let padded = cx.b().op(
        Op::Pad {
            pads,
            mode: PadMode::Constant(Scalar::Float(0.0)),
        },
        &[power],
    )?;
    let count: usize = attrs.kernel.iter().product();
    let mean = cx.b().op(Op::Pool(attrs), &[padded])?;
    let sum = with(cx, Binary::Mul, mean, count as f64)?;
    Ok(vec![root(cx, sum, p)?])
}

pub(super) fn global(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let rank = cx.rank(x);
    if rank < 3 {
        return malformed(format!("the input has rank {rank}, allowed: 3 or more"));
    }
    let axes: Vec<usize> = (2..rank).collect();
    let result = match cx.op_type() {
        "GlobalAveragePool" => cx.b().reduce(Reduce::Mean, x, &axes, true)?,
        "GlobalMaxPool" => cx.b().reduce(Reduce::Max, x, &axes, true)?,
        _ => {
            let p = cx.int("p", 2);
            let power = abs_power(cx, x, p)?;
            let sum = cx.b().reduce(Reduce::Sum, power, &axes, true)?;
            root(cx, sum, p)?
        }
    };
    Ok(vec![result])
}
