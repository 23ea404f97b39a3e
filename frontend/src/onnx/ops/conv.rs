//! Convolutions and the window arithmetic that pools share.

use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::{Op, op};

/// Attributes of a sliding window, one entry per spatial dim.
pub(super) struct Window {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub pads: Vec<(usize, usize)>,
}

/// A list of positive numbers, `default` for each spatial dim if absent.
pub(super) fn sizes(cx: &Cx<'_, '_>, name: &str, rank: usize, default: usize) -> Result<Vec<usize>, Fail> {
    let Some(ints) = cx.ints(name).filter(|ints| !ints.is_empty()) else {
        return Ok(vec![default; rank]);
    };
    if ints.len() != rank {
        return malformed(format!("{name} has {} entries, expected {rank}", ints.len()));
    }
    let size = |v: i64| {
        usize::try_from(v)
            .ok()
            .filter(|&v| v <= 1 << 31)
            .map_or_else(|| malformed(format!("{name} holds {v}")), Ok)
    };
    ints.into_iter().map(size).collect()
}

/// Elements that a dilated kernel spans.
pub(super) fn extent(kernel: usize, dilation: usize) -> usize {
    kernel.saturating_sub(1).saturating_mul(dilation).saturating_add(1)
}

/// The window over spatial dims `dims`; `auto_pad` is resolved.
pub(super) fn window(cx: &Cx<'_, '_>, dims: &[usize], kernel: Vec<usize>) -> Result<Window, Fail> {
    let rank = dims.len();
    let strides = sizes(cx, "strides", rank, 1)?;
    let dilations = sizes(cx, "dilations", rank, 1)?;
    if kernel.contains(&0) || strides.contains(&0) || dilations.contains(&0) {
        return malformed("a kernel size, stride or dilation is 0");
    }
    let same = |lower: bool| {
        let pad = |at: usize| {
            let windows = dims[at].div_ceil(strides[at]);
            let needed = windows
                .saturating_sub(1)
                .saturating_mul(strides[at])
                .saturating_add(extent(kernel[at], dilations[at]));
            let total = needed.saturating_sub(dims[at]);
            if lower {
                (total.div_ceil(2), total / 2)
            } else {
                (total / 2, total.div_ceil(2))
            }
        };
        (0..rank).map(pad).collect()
    };
    let pads = match cx.string("auto_pad", "NOTSET").as_str() {
        "SAME_UPPER" => same(false),
        "SAME_LOWER" => same(true),
        "VALID" => vec![(0, 0); rank],
        "NOTSET" | "" => explicit_pads(cx, rank)?,
        other => {
            return malformed(format!(
                "auto_pad is \"{}\", allowed: NOTSET, SAME_UPPER, SAME_LOWER, VALID",
                other.escape_debug()
            ));
        }
    };
    Ok(Window {
        kernel,
        strides,
        dilations,
        pads,
    })
}

fn explicit_pads(cx: &Cx<'_, '_>, rank: usize) -> Result<Vec<(usize, usize)>, Fail> {
    if cx.ints("pads").is_some_and(|pads| pads.iter().any(|&pad| pad < 0)) {
        return unsupported("negative pads are not supported");
    }
    let flat = sizes(cx, "pads", 2 * rank, 0)?;
    Ok((0..rank).map(|at| (flat[at], flat[rank + at])).collect())
}

/// Spatial dims of an input.
pub(super) fn spatial(cx: &Cx<'_, '_>, x: lockstep_graph::ValueId) -> Result<Vec<usize>, Fail> {
    let shape = cx.shape(x);
    match shape.rank() {
        3..=5 => Ok(shape[2..].to_vec()),
        rank if rank > 5 => unsupported(format!(
            "{} spatial dimensions are not supported, allowed: 1 to 3",
            rank - 2
        )),
        rank => malformed(format!("the input has rank {rank}, allowed: 3 to 5")),
    }
}

/// The `kernel_shape` attribute, which must agree with the weight, or the weight's own.
fn kernel(cx: &Cx<'_, '_>, weight: &[usize], rank: usize) -> Result<Vec<usize>, Fail> {
    if weight.len() != rank + 2 {
        return malformed(format!("the weight has rank {}, expected {}", weight.len(), rank + 2));
    }
    let own = weight[2..].to_vec();
    if cx.ints("kernel_shape").is_some_and(|given| !given.is_empty()) && sizes(cx, "kernel_shape", rank, 1)? != own {
        return malformed(format!("kernel_shape does not agree with the weight's {own:?}"));
    }
    Ok(own)
}

fn groups(cx: &Cx<'_, '_>) -> Result<usize, Fail> {
    usize::try_from(cx.int("group", 1)).or_else(|_| malformed("group is negative"))
}

/// The attributes of a convolution of `x` by a weight of this shape.
pub(super) fn conv_attrs(
    cx: &Cx<'_, '_>,
    x: lockstep_graph::ValueId,
    weight: lockstep_graph::ValueId,
) -> Result<op::Conv, Fail> {
    let dims = spatial(cx, x)?;
    let kernel = kernel(cx, &cx.shape(weight), dims.len())?;
    let Window {
        strides,
        dilations,
        pads,
        ..
    } = window(cx, &dims, kernel)?;
    Ok(op::Conv {
        strides,
        dilations,
        pads,
        groups: groups(cx)?,
    })
}

pub(super) fn conv(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, weight) = (cx.x(0)?, cx.x(1)?);
    let attrs = conv_attrs(cx, x, weight)?;
    let inputs: Vec<_> = [x, weight].into_iter().chain(cx.opt(2)).collect();
    Ok(vec![cx.b().op(Op::Conv(attrs), &inputs)?])
}

pub(super) fn conv_transpose(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, weight) = (cx.x(0)?, cx.x(1)?);
    let dims = spatial(cx, x)?;
    let rank = dims.len();
    let kernel = kernel(cx, &cx.shape(weight), rank)?;
    let strides = sizes(cx, "strides", rank, 1)?;
    let dilations = sizes(cx, "dilations", rank, 1)?;
    let output_padding = sizes(cx, "output_padding", rank, 0)?;
    let auto_pad = cx.string("auto_pad", "NOTSET");
    let full = |at: usize| {
        dims[at]
            .saturating_sub(1)
            .saturating_mul(strides[at])
            .saturating_add(extent(kernel[at], dilations[at]))
            .saturating_add(output_padding[at])
    };
    let wanted = match (cx.ints("output_shape"), auto_pad.as_str()) {
        (Some(shape), _) if shape.len() == rank + 2 => Some(shape[2..].iter().map(|&v| v.max(0) as usize).collect()),
        (Some(_), _) => Some(sizes(cx, "output_shape", rank, 0)?),
        (None, "SAME_UPPER" | "SAME_LOWER") => Some(
            (0..rank)
                .map(|at| dims[at].saturating_mul(strides[at]))
                .collect::<Vec<_>>(),
        ),
        _ => None,
    };
    let pads: Vec<(usize, isize)> = match wanted {
        Some(wanted) => {
            let pad = |at: usize| {
                let total = full(at) as isize - wanted[at] as isize;
                let half = usize::try_from(total).unwrap_or(0);
                // What is missing is added at the end.
                if total < 0 {
                    (0, total)
                } else if auto_pad == "SAME_UPPER" {
                    (half / 2, half.div_ceil(2) as isize)
                } else {
                    (half.div_ceil(2), (half / 2) as isize)
                }
            };
            (0..rank).map(pad).collect()
        }
        None if auto_pad == "VALID" => vec![(0, 0); rank],
        None => explicit_pads(cx, rank)?
            .into_iter()
            .map(|(before, after)| (before, after as isize))
            .collect(),
    };
    let attrs = op::ConvTranspose {
        strides,
        dilations,
        pads,
        output_padding,
        groups: groups(cx)?,
    };
    let inputs: Vec<_> = [x, weight].into_iter().chain(cx.opt(2)).collect();
    Ok(vec![cx.b().op(Op::ConvTranspose(attrs), &inputs)?])
}

/// Sums the blocks [n, c·k, l] back into the image: each tap of the block is spread over the image by the stride and added at its place.
pub(super) fn col2im(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let shape = cx.shape(x);
    let list = |cx: &Cx<'_, '_>, index: usize, what: &str| -> Result<Vec<usize>, Fail> {
        let size = |v: i64| usize::try_from(v).ok().filter(|n| (1..=1 << 16).contains(n));
        let ints = cx.need_ints(index, what)?;
        let sizes: Option<Vec<usize>> = ints.iter().map(|&v| size(v)).collect();
        sizes.map_or_else(|| malformed(format!("{what} is {ints:?}")), Ok)
    };
    let (image, block) = (list(cx, 1, "the image shape")?, list(cx, 2, "the block shape")?);
    let rank = image.len();
    let taps: usize = block.iter().product();
    if shape.rank() != 3 || block.len() != rank || !shape[1].is_multiple_of(taps) {
        return malformed(format!("input {shape} does not hold blocks {block:?}"));
    }
    let Window {
        strides,
        dilations,
        pads,
        ..
    } = window(cx, &image, block.clone())?;
    let mut counts = Vec::new();
    for at in 0..rank {
        let (padded, span) = (image[at] + pads[at].0 + pads[at].1, extent(block[at], dilations[at]));
        if padded < span {
            return malformed("a block is larger than the padded image");
        }
        counts.push((padded - span) / strides[at] + 1);
    }
    if counts.iter().product::<usize>() != shape[2] {
        return malformed(format!("input {shape} does not hold {counts:?} blocks"));
    }
    let channels = shape[1] / taps;
    let apart = cx.b().reshape(x, [shape[0], channels, taps, shape[2]])?;
    let zero = op::PadMode::Constant(if cx.dtype(x).is_float() {
        op::Scalar::Float(0.0)
    } else {
        op::Scalar::Int(0)
    });
    let mut total = None;
    for tap in 0..taps {
        let part = cx.b().narrow(apart, 2, op::Range::of(tap, tap + 1))?;
        // Each element is followed by stride - 1 zeros along every axis.
        let dims: Vec<usize> = counts.iter().flat_map(|&n| [n, 1]).collect();
        let part = cx.b().reshape(part, [&shape[..1], &[channels], &dims].concat())?;
        let spread = [(0, 0); 2]
            .into_iter()
            .chain(strides.iter().flat_map(|&s| [(0, 0), (0, s - 1)]));
        let mode = zero;
        let pads_of = |pads: Vec<(usize, usize)>| Op::Pad { pads, mode };
        let part = cx.b().op(pads_of(spread.collect()), &[part])?;
        let dims: Vec<usize> = (0..rank).map(|at| counts[at] * strides[at]).collect();
        let part = cx.b().reshape(part, [&shape[..1], &[channels], &dims].concat())?;
        let (mut rest, mut offsets) = (tap, vec![0; rank]);
        for at in (0..rank).rev() {
            offsets[at] = rest % block[at] * dilations[at];
            rest /= block[at];
        }
        // Padded wide enough for any offset, then cut to the image.
        let place = (0..rank).map(|at| (offsets[at], image[at] + pads[at].0));
        let part = cx
            .b()
            .op(pads_of([(0, 0); 2].into_iter().chain(place).collect()), &[part])?;
        let ranges = [op::Range::all(shape[0]), op::Range::all(channels)]
            .into_iter()
            .chain((0..rank).map(|at| op::Range::of(pads[at].0, pads[at].0 + image[at])));
        let part = cx.b().op(
            Op::Narrow {
                ranges: ranges.collect(),
            },
            &[part],
        )?;
        total = Some(match total {
            Some(sum) => cx.b().binary(op::Binary::Add, sum, part)?,
            None => part,
        });
    }
    total.map_or_else(|| malformed("the block is empty"), |sum| Ok(vec![sum]))
}
