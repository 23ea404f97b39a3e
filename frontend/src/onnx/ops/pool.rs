//! Pools over windows and over whole maps.

use super::conv::{Window, extent, sizes, spatial, window};
use super::elementwise::with;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use crate::tensor::Tensor;
use lockstep_graph::op::{Binary, PadMode, Pool, PoolKind, Range, Reduce, Scalar, Unary};
use lockstep_graph::{DType, Op, ValueId};

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
    if cx.n_outputs() > 1 {
        return max_with_positions(cx, x, &attrs);
    }
    Ok(vec![cx.b().op(Op::Pool(attrs), &[x])?])
}

/// The largest element of each window and its position in the flattened input, tap by tap: the first of equal ones wins.
fn max_with_positions(cx: &mut Cx<'_, '_>, x: ValueId, attrs: &Pool) -> Imported {
    let (shape, dtype) = (cx.shape(x), cx.dtype(x));
    let rank = attrs.kernel.len();
    let column_major = cx.flag("storage_order", false);
    let n = shape.n_elements();
    if n > 1 << 24 {
        return unsupported(format!("positions in an input of {n} elements are not supported"));
    }
    let mut pads = vec![(0, 0); 2];
    let mut out = Vec::new();
    for at in 0..rank {
        pads.push((attrs.pads[at].0, attrs.pads[at].1 + attrs.ceil_extra[at]));
        let padded = shape[2 + at] + attrs.pads[at].0 + attrs.pads[at].1 + attrs.ceil_extra[at];
        let span = extent(attrs.kernel[at], attrs.dilations[at]);
        if padded < span {
            return malformed("a window is larger than the padded input");
        }
        out.push((padded - span) / attrs.strides[at] + 1);
    }
    // The position of an element counts its spatial coordinates in either order.
    let plane: usize = shape[2..].iter().product();
    let strides: Vec<usize> = (0..rank)
        .map(|at| {
            if column_major {
                shape[2..2 + at].iter().product()
            } else {
                shape[3 + at..].iter().product()
            }
        })
        .collect();
    let position = |flat: usize| {
        let (lead, mut rest) = (flat / plane, flat % plane);
        let mut place = lead * plane;
        for at in (0..rank).rev() {
            place += rest % shape[2 + at] * strides[at];
            rest /= shape[2 + at];
        }
        place as i128
    };
    let positions = Tensor::ints(DType::I64, shape.clone(), (0..n).map(position).collect());
    let positions = cx.constant(&positions)?;
    let lowest = match dtype.int_range() {
        Some((low, _)) => Scalar::Int(low),
        None => Scalar::Float(f64::NEG_INFINITY),
    };
    let pad = |mode: Scalar| Op::Pad {
        pads: pads.clone(),
        mode: PadMode::Constant(mode),
    };
    let values = cx.b().op(pad(lowest), &[x])?;
    let places = cx.b().op(pad(Scalar::Int(0)), &[positions])?;
    let taps: usize = attrs.kernel.iter().product();
    let mut best: Option<(ValueId, ValueId)> = None;
    for tap in 0..taps {
        let mut rest = tap;
        let mut ranges: Vec<Range> = shape[..2].iter().map(|&dim| Range::all(dim)).collect();
        let mut offsets = vec![0; rank];
        for at in (0..rank).rev() {
            offsets[at] = rest % attrs.kernel[at] * attrs.dilations[at];
            rest /= attrs.kernel[at];
        }
        ranges.extend((0..rank).map(|at| Range {
            start: offsets[at],
            step: attrs.strides[at] as isize,
            len: out[at],
        }));
        let value = cx.b().op(Op::Narrow { ranges: ranges.clone() }, &[values])?;
        let place = cx.b().op(Op::Narrow { ranges }, &[places])?;
        best = Some(match best {
            Some((most, at)) => {
                let more = cx.b().binary(Binary::Gt, value, most)?;
                (
                    cx.b().binary(Binary::Max, value, most)?,
                    cx.b().select(more, place, at)?,
                )
            }
            None => (value, place),
        });
    }
    match best {
        Some((value, place)) => Ok(vec![value, place]),
        None => malformed("the kernel is empty"),
    }
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
