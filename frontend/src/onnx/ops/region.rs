//! Pooling over regions and convolution at offsets known at run time, both by sampling at fractional positions.

use super::conv::{conv_attrs, extent};
use super::elementwise::with;
use super::grid::{Blend, Outside, sample};
use super::index::count_along;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use crate::tensor::Tensor;
use lockstep_graph::op::{Binary, Range, Reduce};
use lockstep_graph::{DType, Op, ValueId};

/// A column of the regions, [n, 1, 1], in elements of the image.
fn edge(cx: &mut Cx<'_, '_>, rois: ValueId, at: usize, scale: f64, shift: f64) -> Result<ValueId, Fail> {
    let n = cx.shape(rois)[0];
    let column = cx.b().narrow(rois, 1, Range::of(at, at + 1))?;
    let column = cx.b().reshape(column, [n, 1, 1])?;
    let scaled = with(cx, Binary::Mul, column, scale)?;
    with(cx, Binary::Sub, scaled, shift)
}

/// A grid of points in each cell of each region is sampled and averaged, or its greatest term taken.
pub(super) fn roi_align(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, rois, batches) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let (shape, roi_shape) = (cx.shape(x), cx.shape(rois));
    if shape.rank() != 4 || roi_shape.rank() != 2 || roi_shape[1] != 4 || shape.contains(&0) {
        return malformed(format!("input {shape} and regions {roi_shape} do not fit"));
    }
    let size = |name: &str| {
        usize::try_from(cx.int(name, 1))
            .ok()
            .filter(|n| (1..=1 << 12).contains(n))
            .map_or_else(|| malformed(format!("{name} is {}", cx.int(name, 1))), Ok)
    };
    let cells = [size("output_height")?, size("output_width")?];
    let points = match usize::try_from(cx.int("sampling_ratio", 0)) {
        Ok(points @ 1..=64) => points,
        _ => {
            return unsupported("a sampling_ratio that depends on the regions is not supported, allowed: 1 to 64");
        }
    };
    let half = cx.string("coordinate_transformation_mode", "half_pixel") == "half_pixel" && cx.opset >= 16;
    let (n, channels) = (roi_shape[0], shape[1]);
    let scale = f64::from(cx.float("spatial_scale", 1.0));
    let shift = if half { 0.5 } else { 0.0 };
    let dtype = cx.dtype(rois);
    let grid = [cells[0], points, cells[1], points];
    let total: usize = grid.iter().product();
    let mut places = Vec::new();
    let mut keep: Option<ValueId> = None;
    for axis in 0..2 {
        // Regions hold x before y.
        let low = edge(cx, rois, 1 - axis, scale, shift)?;
        let high = edge(cx, rois, 3 - axis, scale, shift)?;
        let mut extent = cx.b().binary(Binary::Sub, high, low)?;
        if !half {
            extent = with(cx, Binary::Max, extent, 1.0)?;
        }
        let n_points = cells[axis] * points;
        let steps = (0..n_points).map(|at| (at as f64 + 0.5) / n_points as f64);
        let steps = cx.constant(&Tensor::floats(dtype, [1, n_points, 1], steps.collect()))?;
        let along = cx.b().binary(Binary::Mul, extent, steps)?;
        let line = cx.b().binary(Binary::Add, low, along)?;
        let mut dims = [n, 1, 1, 1, 1];
        (dims[1 + 2 * axis], dims[2 + 2 * axis]) = (cells[axis], points);
        let line = cx.b().reshape(line, dims.to_vec())?;
        let full: Vec<usize> = [n].into_iter().chain(grid).collect();
        let wide = cx.b().expand(line, full)?;
        let place = cx.b().reshape(wide, [n, total, 1])?;
        let above = with(cx, Binary::Ge, place, -1.0)?;
        let below = with(cx, Binary::Le, place, shape[2 + axis] as f64)?;
        let both = cx.b().binary(Binary::And, above, below)?;
        keep = Some(match keep {
            Some(other) => cx.b().binary(Binary::And, other, both)?,
            None => both,
        });
        let place = with(cx, Binary::Max, place, 0.0)?;
        places.push(with(cx, Binary::Min, place, shape[2 + axis] as f64 - 1.0)?);
    }
    let image = cx.b().transpose(x, &[0, 2, 3, 1])?;
    let batches = cx.b().reshape(batches, [n])?;
    let own = cx.b().op(Op::Gather { axis: 0 }, &[image, batches])?;
    let blend = match cx.string("mode", "avg").to_lowercase().as_str() {
        "avg" => Blend::Sum,
        "max" => Blend::Greatest,
        other => return malformed(format!("mode is \"{}\", allowed: avg, max", other.escape_debug())),
    };
    let mut value = sample(cx, own, &places, "linear", Outside::Border, true, blend)?;
    if let Some(keep) = keep {
        let zero = cx.b().scalar_like(value, 0.0);
        value = cx.b().select(keep, value, zero)?;
    }
    let apart = cx
        .b()
        .reshape(value, [n, cells[0], points, cells[1], points, channels])?;
    let kind = if blend == Blend::Sum { Reduce::Mean } else { Reduce::Max };
    let pooled = cx.b().reduce(kind, apart, &[2, 4], false)?;
    Ok(vec![cx.b().transpose(pooled, &[0, 3, 1, 2])?])
}

/// Every tap of the kernel samples the image where its own offset says; the samples are multiplied by the weight as one matrix.
pub(super) fn deform_conv(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, w, offset) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let (shape, w_shape, offset_shape) = (cx.shape(x), cx.shape(w), cx.shape(offset));
    let attrs = conv_attrs(cx, x, w)?;
    if shape.rank() != 4 || offset_shape.rank() != 4 {
        return unsupported(format!("input {shape} has rank {}, allowed: 4", shape.rank()));
    }
    let parts = usize::try_from(cx.int("offset_group", 1)).unwrap_or(0);
    let (batch, channels, groups) = (shape[0], shape[1], attrs.groups);
    let (kernel, out) = ([w_shape[2], w_shape[3]], [offset_shape[2], offset_shape[3]]);
    let (taps, points) = (kernel[0] * kernel[1], out[0] * out[1]);
    let fits = |axis: usize| {
        let padded = shape[2 + axis] + attrs.pads[axis].0 + attrs.pads[axis].1;
        let span = extent(kernel[axis], attrs.dilations[axis]);
        padded >= span && (padded - span) / attrs.strides[axis] + 1 == out[axis]
    };
    let whole = parts > 0
        && groups > 0
        && channels.is_multiple_of(parts)
        && channels == w_shape[1] * groups
        && w_shape[0].is_multiple_of(groups)
        && offset_shape[1] == parts * taps * 2;
    if !whole || !fits(0) || !fits(1) {
        return malformed(format!(
            "input {shape}, weight {w_shape} and offset {offset_shape} do not fit"
        ));
    }
    let apart = cx
        .b()
        .reshape(offset, [batch, parts, kernel[0], kernel[1], 2, points])?;
    let image = cx.b().transpose(x, &[0, 2, 3, 1])?;
    let dtype = cx.dtype(offset);
    let mut columns = Vec::new();
    for part in 0..parts {
        let mut places = Vec::new();
        let own = cx.b().narrow(apart, 1, Range::of(part, part + 1))?;
        for axis in 0..2 {
            let moved = cx.b().narrow(own, 4, Range::of(axis, axis + 1))?;
            let moved = cx.b().reshape(moved, [batch, kernel[0], kernel[1], out[0], out[1]])?;
            let tap = count_along(cx, dtype, kernel[axis], 1 + axis, 5)?;
            let tap = with(cx, Binary::Mul, tap, attrs.dilations[axis] as f64)?;
            let at = count_along(cx, dtype, out[axis], 3 + axis, 5)?;
            let at = with(cx, Binary::Mul, at, attrs.strides[axis] as f64)?;
            let base = cx.b().binary(Binary::Add, tap, at)?;
            let base = with(cx, Binary::Sub, base, attrs.pads[axis].0 as f64)?;
            let place = cx.b().binary(Binary::Add, moved, base)?;
            places.push(cx.b().reshape(place, [batch, taps * points, 1])?);
        }
        let size = channels / parts;
        let own = cx.b().narrow(image, 3, Range::of(part * size, (part + 1) * size))?;
        let mut value = sample(cx, own, &places, "linear", Outside::Zeros, true, Blend::Sum)?;
        if let Some(mask) = cx.opt(4) {
            let mask = cx.b().reshape(mask, [batch, parts, taps * points])?;
            let mask = cx.b().narrow(mask, 1, Range::of(part, part + 1))?;
            let mask = cx.b().reshape(mask, [batch, taps * points, 1])?;
            value = cx.b().binary(Binary::Mul, value, mask)?;
        }
        columns.push(cx.b().reshape(value, [batch, taps, points, size])?);
    }
    let joined = cx.b().concat(&columns, 3)?;
    let mut results = Vec::new();
    let (inputs, outputs) = (channels / groups, w_shape[0] / groups);
    for group in 0..groups {
        let own = cx
            .b()
            .narrow(joined, 3, Range::of(group * inputs, (group + 1) * inputs))?;
        let turned = cx.b().transpose(own, &[0, 2, 1, 3])?;
        let rows = cx.b().reshape(turned, [batch, points, taps * inputs])?;
        let weight = cx.b().narrow(w, 0, Range::of(group * outputs, (group + 1) * outputs))?;
        let weight = cx.b().transpose(weight, &[2, 3, 1, 0])?;
        let weight = cx.b().reshape(weight, [taps * inputs, outputs])?;
        results.push(cx.b().matmul(rows, weight)?);
    }
    let mut y = cx.b().concat(&results, 2)?;
    if let Some(bias) = cx.opt(3) {
        y = cx.b().binary(Binary::Add, y, bias)?;
    }
    let turned = cx.b().transpose(y, &[0, 2, 1])?;
    Ok(vec![cx.b().reshape(turned, [batch, w_shape[0], out[0], out[1]])?])
}

/// Positions of the largest elements of windows as a pool's second result: places each value at its position, zeros elsewhere.
pub(super) fn max_unpool(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, indices) = (cx.x(0)?, cx.x(1)?);
    let shape = cx.shape(x);
    let rank = shape.rank().saturating_sub(2);
    let list = |name: &str, n: usize, default: i64| {
        let given = cx.ints(name).unwrap_or_else(|| vec![default; n]);
        if given.len() == n {
            Ok(given)
        } else {
            malformed(format!("{name} has {} entries, expected {n}", given.len()))
        }
    };
    let (kernel, strides, pads) = (
        list("kernel_shape", rank, 1)?,
        list("strides", rank, 1)?,
        list("pads", 2 * rank, 0)?,
    );
    let mut inner = shape[..2.min(shape.rank())].to_vec();
    for at in 0..rank {
        let size = (shape[2 + at] as i64 - 1) * strides[at] - pads[at] - pads[rank + at] + kernel[at];
        inner.push(usize::try_from(size).or_else(|_| malformed(format!("a result dimension is {size}")))?);
    }
    let wanted = match cx.opt(2) {
        Some(_) => {
            let given = cx.need_ints(2, "the output shape")?;
            given
                .iter()
                .map(|&d| usize::try_from(d).unwrap_or(0))
                .collect::<Vec<_>>()
        }
        None => inner.clone(),
    };
    if wanted.len() != inner.len() || wanted.iter().zip(&inner).any(|(w, i)| w < i) {
        return malformed(format!("the output shape {wanted:?} is smaller than {inner:?}"));
    }
    let (total, n) = (inner.iter().product::<usize>(), shape.n_elements());
    let dtype = cx.dtype(x);
    let zeros = cx.filled(dtype, [total], 0.0)?;
    let (flat, places) = (cx.b().reshape(x, [n])?, cx.b().reshape(indices, [n])?);
    let places = cx.b().cast(places, DType::I64)?;
    let op = Op::ScatterElements {
        axis: 0,
        combine: lockstep_graph::op::Combine::Set,
    };
    let filled = cx.b().op(op, &[zeros, places, flat])?;
    let y = cx.b().reshape(filled, inner.clone())?;
    if wanted == inner {
        return Ok(vec![y]);
    }
    let pads = wanted.iter().zip(&inner).map(|(w, i)| (0, w - i)).collect();
    let zero = if dtype.is_float() {
        lockstep_graph::op::Scalar::Float(0.0)
    } else {
        lockstep_graph::op::Scalar::Int(0)
    };
    let mode = lockstep_graph::op::PadMode::Constant(zero);
    Ok(vec![cx.b().op(Op::Pad { pads, mode }, &[y])?])
}
