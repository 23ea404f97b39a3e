//! Shapes, constants and the movement of data with known indices.

use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use crate::onnx::tensor;
use crate::tensor::{Data, Tensor};
use lockstep_graph::op::{PadMode, Range, Scalar};
use lockstep_graph::{DType, Op, Shape, ValueId, Weights};

/// Most elements that an importer computes itself.
const MAX_COMPUTED: usize = 1 << 24;

/// A non-negative size.
fn size_of(value: i64) -> Result<usize, Fail> {
    usize::try_from(value).or_else(|_| malformed(format!("a dimension is {value}")))
}

pub(super) fn shape(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let rank = dims.rank() as i64;
    let clamp = |at: i64| (if at < 0 { at + rank } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(cx.int("start", 0)), clamp(cx.int("end", rank)));
    let part: Vec<i64> = dims[start..end.max(start)].iter().map(|&dim| dim as i64).collect();
    Ok(vec![cx.b().i64s(&part)])
}

pub(super) fn size(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let n = cx.shape(x).n_elements();
    Ok(vec![cx.b().scalar(DType::I64, Scalar::Int(n as i128))])
}

pub(super) fn constant(cx: &mut Cx<'_, '_>) -> Imported {
    if let Some(proto) = cx.attr("value").and_then(|attr| attr.t.as_ref()) {
        let (dtype, shape, data) = tensor::import(cx.walk, proto)?;
        let value = cx.b().constant("", dtype, shape, data)?;
        cx.set_packed_bits(value, tensor::packed_bits(proto.data_type).map(|bits| bits as u32));
        return Ok(vec![value]);
    }
    let ints = |values: &[i64]| Weights::from(values);
    let (dtype, shape, data) = if let Some(attr) = cx.attr("value_float") {
        (
            DType::F32,
            Shape::scalar(),
            tensor::encode_floats(DType::F32, &[attr.f]),
        )
    } else if let Some(attr) = cx.attr("value_floats") {
        (
            DType::F32,
            Shape::from([attr.floats.len()]),
            tensor::encode_floats(DType::F32, &attr.floats),
        )
    } else if let Some(attr) = cx.attr("value_int") {
        (DType::I64, Shape::scalar(), ints(&[attr.i]))
    } else if let Some(attr) = cx.attr("value_ints") {
        (DType::I64, Shape::from([attr.ints.len()]), ints(&attr.ints))
    } else {
        return unsupported("the constant is neither a tensor nor numbers");
    };
    Ok(vec![cx.b().constant("", dtype, shape, data)?])
}

pub(super) fn constant_of_shape(cx: &mut Cx<'_, '_>) -> Imported {
    let dims = cx
        .need_ints(0, "the shape")?
        .into_iter()
        .map(size_of)
        .collect::<Result<Vec<_>, _>>()?;
    let (dtype, data) = match cx.attr("value").and_then(|attr| attr.t.as_ref()) {
        None => (DType::F32, tensor::encode_floats(DType::F32, &[0.0])),
        Some(proto) => {
            let (dtype, shape, data) = tensor::import(cx.walk, proto)?;
            if shape.n_elements() != 1 {
                return malformed(format!("value has {} elements, allowed: 1", shape.n_elements()));
            }
            (dtype, data)
        }
    };
    let value = cx.b().constant("", dtype, Shape::scalar(), data)?;
    Ok(vec![cx.b().expand(value, dims)?])
}

pub(super) fn reshape(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let from = cx.shape(x);
    let Some(wanted) = cx.ints_attr_or_input("shape", 1)? else {
        return malformed("the shape is missing");
    };
    let allow_zero = cx.flag("allowzero", false);
    let mut dims = Vec::with_capacity(wanted.len());
    let mut inferred = None;
    for (at, &dim) in wanted.iter().enumerate() {
        dims.push(match dim {
            0 if !allow_zero => match from.get(at) {
                Some(&dim) => dim,
                None => {
                    return malformed(format!("shape {wanted:?} copies dimension {at} of {from}"));
                }
            },
            -1 if inferred.is_none() => {
                inferred = Some(at);
                1
            }
            dim => size_of(dim)?,
        });
    }
    if let Some(at) = inferred {
        let rest = Shape(dims.clone()).n_elements();
        if rest == 0 || !from.n_elements().is_multiple_of(rest) {
            return malformed(format!("{from} does not reshape to {wanted:?}"));
        }
        dims[at] = from.n_elements() / rest;
    }
    Ok(vec![cx.b().reshape(x, dims)?])
}

pub(super) fn flatten(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let axis = cx.int("axis", 1);
    let axis = if axis == dims.rank() as i64 {
        dims.rank()
    } else {
        cx.axis(axis, dims.rank())?
    };
    let flat: [usize; 2] = [dims[..axis].iter().product(), dims[axis..].iter().product()];
    Ok(vec![cx.b().reshape(x, flat)?])
}

pub(super) fn squeeze(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let axes = match cx.ints_attr_or_input("axes", 1)? {
        Some(axes) => cx.axes(&axes, dims.rank())?,
        None => (0..dims.rank()).filter(|&axis| dims[axis] == 1).collect(),
    };
    if let Some(axis) = axes.iter().find(|&&axis| dims[axis] != 1) {
        return malformed(format!("axis {axis} of {dims} is not 1"));
    }
    let kept: Vec<usize> = (0..dims.rank())
        .filter(|axis| !axes.contains(axis))
        .map(|axis| dims[axis])
        .collect();
    Ok(vec![cx.b().reshape(x, kept)?])
}

pub(super) fn unsqueeze(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let Some(axes) = cx.ints_attr_or_input("axes", 1)? else {
        return malformed("the axes are missing");
    };
    let rank = dims.rank() + axes.len();
    let axes = cx.axes(&axes, rank)?;
    let mut rest = dims.iter().copied();
    let dims: Vec<usize> = (0..rank)
        .map(|axis| {
            if axes.contains(&axis) {
                1
            } else {
                rest.next().unwrap_or(1)
            }
        })
        .collect();
    Ok(vec![cx.b().reshape(x, dims)?])
}

pub(super) fn transpose(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let rank = cx.rank(x);
    let perm = match cx.ints("perm") {
        Some(perm) if perm.len() == rank => perm
            .iter()
            .map(|&axis| cx.axis(axis, rank))
            .collect::<Result<Vec<_>, _>>()?,
        Some(perm) if !perm.is_empty() => {
            return malformed(format!("perm {perm:?} has {} entries for rank {rank}", perm.len()));
        }
        _ => (0..rank).rev().collect(),
    };
    Ok(vec![cx.b().transpose(x, &perm)?])
}

pub(super) fn concat(cx: &mut Cx<'_, '_>) -> Imported {
    let parts = cx.all()?;
    let axis = cx.axis(cx.int("axis", 1), cx.rank(parts[0]))?;
    Ok(vec![cx.b().concat(&parts, axis)?])
}

pub(super) fn split(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let axis = cx.axis(cx.int("axis", 0), cx.rank(x))?;
    let dim = cx.shape(x)[axis];
    let lens: Vec<usize> = match cx.ints_attr_or_input("split", 1)? {
        Some(lens) => lens.into_iter().map(size_of).collect::<Result<_, _>>()?,
        None => {
            let n = usize::try_from(cx.int("num_outputs", cx.n_outputs() as i64)).unwrap_or(0);
            if n == 0 || n > 1 << 16 {
                return malformed(format!("the number of parts is {n}"));
            }
            let part = dim.div_ceil(n);
            (0..n).map(|at| part.min(dim.saturating_sub(at * part))).collect()
        }
    };
    if lens.iter().fold(0usize, |sum, &len| sum.saturating_add(len)) != dim {
        return malformed(format!("the parts {lens:?} do not add up to {dim}"));
    }
    let mut start = 0;
    let mut results = Vec::with_capacity(lens.len());
    for len in lens {
        results.push(cx.b().narrow(x, axis, Range::of(start, start + len))?);
        start += len;
    }
    Ok(results)
}

pub(super) fn slice(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let (Some(starts), Some(ends)) = (cx.ints_attr_or_input("starts", 1)?, cx.ints_attr_or_input("ends", 2)?) else {
        return malformed("starts or ends are missing");
    };
    let axes = cx
        .ints_attr_or_input("axes", 3)?
        .unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = match cx.opt(4) {
        Some(_) => cx.need_ints(4, "steps")?,
        None => vec![1; starts.len()],
    };
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return malformed("starts, ends, axes and steps differ in length");
    }
    cx.axes(&axes, dims.rank())?;
    let mut ranges: Vec<Range> = dims.iter().map(|&dim| Range::all(dim)).collect();
    for (at, &axis) in axes.iter().enumerate() {
        let axis = cx.axis(axis, dims.rank())?;
        ranges[axis] = slice_range(dims[axis], starts[at], ends[at], steps[at])?;
    }
    let whole = ranges
        .iter()
        .zip(dims.iter())
        .all(|(range, &dim)| *range == Range::all(dim));
    Ok(vec![if whole {
        x
    } else {
        cx.b().op(Op::Narrow { ranges }, &[x])?
    }])
}

/// The elements that `start:end:step` takes of an axis, by numpy's rules.
fn slice_range(dim: usize, start: i64, end: i64, step: i64) -> Result<Range, Fail> {
    let n = dim as i128;
    let from_start = |at: i64| {
        if at < 0 { i128::from(at) + n } else { i128::from(at) }
    };
    let step_wide = i128::from(step);
    let (start, len) = match step {
        0 => return malformed("a step is 0"),
        1.. => {
            let (start, end) = (from_start(start).clamp(0, n), from_start(end).clamp(0, n));
            (start, (end - start + step_wide - 1).div_euclid(step_wide))
        }
        _ => {
            let (start, end) = (from_start(start).clamp(-1, n - 1), from_start(end).clamp(-1, n - 1));
            (start, (start - end - step_wide - 1).div_euclid(-step_wide))
        }
    };
    let len = len.max(0) as usize;
    let step = isize::try_from(step).unwrap_or(if step > 0 { isize::MAX } else { isize::MIN + 1 });
    Ok(if len == 0 {
        Range {
            start: 0,
            step: 1,
            len: 0,
        }
    } else {
        Range {
            start: start as usize,
            step: if len == 1 { 1 } else { step },
            len,
        }
    })
}

pub(super) fn expand(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let wanted = Shape(
        cx.need_ints(1, "the shape")?
            .into_iter()
            .map(size_of)
            .collect::<Result<_, _>>()?,
    );
    let from = cx.shape(x);
    let Some(to) = from.broadcast(&wanted) else {
        return malformed(format!("{from} does not broadcast with {wanted}"));
    };
    Ok(vec![cx.b().expand(x, to)?])
}

pub(super) fn tile(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let repeats = cx
        .need_ints(1, "repeats")?
        .into_iter()
        .map(size_of)
        .collect::<Result<Vec<_>, _>>()?;
    if repeats.len() != dims.rank() {
        return malformed(format!(
            "repeats has {} entries for rank {}",
            repeats.len(),
            dims.rank()
        ));
    }
    if repeats.iter().all(|&n| n == 1) {
        return Ok(vec![x]);
    }
    let pairs = |first: &dyn Fn(usize) -> usize| {
        (0..dims.rank())
            .flat_map(|axis| [first(axis), dims[axis]])
            .collect::<Vec<_>>()
    };
    let apart = cx.b().reshape(x, pairs(&|_| 1))?;
    let wide = cx.b().expand(apart, pairs(&|axis| repeats[axis]))?;
    let joined: Option<Vec<usize>> = dims.iter().zip(&repeats).map(|(&dim, &n)| dim.checked_mul(n)).collect();
    let Some(joined) = joined else {
        return malformed("the result is too large");
    };
    Ok(vec![cx.b().reshape(wide, joined)?])
}

pub(super) fn range(cx: &mut Cx<'_, '_>) -> Imported {
    let (start, limit, delta) = (cx.need(0, "start")?, cx.need(1, "limit")?, cx.need(2, "delta")?);
    let too_long = |n: f64| malformed(format!("the range has {n} elements, allowed: {MAX_COMPUTED}"));
    let tensor = match (&start.data, &limit.data, &delta.data) {
        (Data::Int(start_data), Data::Int(limit), Data::Int(delta)) => {
            let (&[start_value], &[limit], &[delta]) = (start_data.as_slice(), limit.as_slice(), delta.as_slice())
            else {
                return malformed("an operand is no scalar");
            };
            if delta == 0 {
                return malformed("delta is 0");
            }
            let n = if (limit - start_value).signum() == delta.signum() {
                (limit - start_value).unsigned_abs().div_ceil(delta.unsigned_abs())
            } else {
                0
            };
            if n > MAX_COMPUTED as u128 {
                return too_long(n as f64);
            }
            Tensor::ints(
                start.dtype,
                [n as usize],
                (0..n as i128).map(|at| start_value + at * delta).collect(),
            )
        }
        (Data::Float(start_data), Data::Float(limit), Data::Float(delta)) => {
            let (&[start_value], &[limit], &[delta]) = (start_data.as_slice(), limit.as_slice(), delta.as_slice())
            else {
                return malformed("an operand is no scalar");
            };
            let n = ((limit - start_value) / delta).ceil().max(0.0);
            if n.is_nan() || n > MAX_COMPUTED as f64 {
                return too_long(n);
            }
            Tensor::floats(
                start.dtype,
                [n as usize],
                (0..n as usize).map(|at| start_value + at as f64 * delta).collect(),
            )
        }
        _ => return malformed("start, limit and delta differ in dtype"),
    };
    Ok(vec![cx.constant(&tensor)?])
}

pub(super) fn pad(cx: &mut Cx<'_, '_>) -> Imported {
    let mut x = cx.x(0)?;
    let dims = cx.shape(x);
    let rank = dims.rank();
    let Some(flat) = cx.ints_attr_or_input("pads", 1)? else {
        return malformed("the pads are missing");
    };
    let axes = if cx.opt(3).is_some() {
        cx.need_ints(3, "axes")?
    } else {
        (0..rank as i64).collect()
    };
    if flat.len() != 2 * axes.len() {
        return malformed(format!("pads has {} entries, expected {}", flat.len(), 2 * axes.len()));
    }
    let mut pads = vec![(0usize, 0usize); rank];
    let mut ranges: Vec<Range> = dims.iter().map(|&dim| Range::all(dim)).collect();
    for (at, &axis) in axes.iter().enumerate() {
        let axis = cx.axis(axis, rank)?;
        let (before, after) = (flat[at], flat[axes.len() + at]);
        let cut = |pad: i64| {
            if pad < 0 { pad.unsigned_abs() as usize } else { 0 }
        };
        if cut(before).saturating_add(cut(after)) > dims[axis] {
            return malformed(format!("pads cut more than axis {axis} of {dims} has"));
        }
        ranges[axis] = Range::of(cut(before), dims[axis] - cut(after));
        pads[axis] = (before.max(0) as usize, after.max(0) as usize);
    }
    if ranges
        .iter()
        .zip(dims.iter())
        .any(|(range, &dim)| *range != Range::all(dim))
    {
        x = cx.b().op(Op::Narrow { ranges }, &[x])?;
    }
    if pads.iter().all(|pad| *pad == (0, 0)) {
        return Ok(vec![x]);
    }
    let dtype = cx.dtype(x);
    let mode = match cx.string("mode", "constant").as_str() {
        "constant" => PadMode::Constant(if dtype.is_float() {
            Scalar::Float(f64::from(cx.float("value", 0.0)))
        } else {
            Scalar::Int(0)
        }),
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => {
            return malformed(format!(
                "mode is \"{}\", allowed: constant, reflect, edge, wrap",
                other.escape_debug()
            ));
        }
    };
    let (PadMode::Constant(_), Some(value)) = (mode, cx.opt(2)) else {
        return Ok(vec![cx.b().op(Op::Pad { pads, mode }, &[x])?]);
    };
    match cx.known_value(value).map(|tensor| tensor.data) {
        Some(Data::Float(data)) if data.len() == 1 => Ok(vec![cx.b().op(
            Op::Pad {
                pads,
                mode: PadMode::Constant(Scalar::Float(data[0])),
            },
            &[x],
        )?]),
        Some(Data::Int(data)) if data.len() == 1 => Ok(vec![cx.b().op(
            Op::Pad {
                pads,
                mode: PadMode::Constant(Scalar::Int(data[0])),
            },
            &[x],
        )?]),
        Some(_) => malformed("the pad value has more than one element"),
        None => {
            // A pad value known only at run time: pad with anything and select by a constant mask.
            let inside = cx.shape(x);
            let ones = cx.filled(DType::Bool, inside, 1.0)?;
            let mask = cx.b().op(
                Op::Pad {
                    pads: pads.clone(),
                    mode: PadMode::Constant(Scalar::Int(0)),
                },
                &[ones],
            )?;
            let padded = cx.b().op(Op::Pad { pads, mode }, &[x])?;
            Ok(vec![cx.b().select(mask, padded, value)?])
        }
    }
}

pub(super) fn depth_to_space(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (dims, block) = blocks(cx, x)?;
    let [n, c, h, w] = dims;
    if !c.is_multiple_of(block * block) {
        return malformed(format!("{c} channels do not split into blocks of {block}x{block}"));
    }
    let depth = c / (block * block);
    let (split, perm) = match cx.string("mode", "DCR").as_str() {
        "DCR" => ([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3]),
        other => {
            return malformed(format!("mode is \"{}\", allowed: DCR, CRD", other.escape_debug()));
        }
    };
    let apart = cx.b().reshape(x, split)?;
    let moved = cx.b().transpose(apart, &perm)?;
    Ok(vec![cx.b().reshape(moved, [n, depth, h * block, w * block])?])
}

pub(super) fn space_to_depth(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (dims, block) = blocks(cx, x)?;
    let [n, c, h, w] = dims;
    if !h.is_multiple_of(block) || !w.is_multiple_of(block) {
        return malformed(format!("{h}x{w} does not split into blocks of {block}x{block}"));
    }
    let apart = cx.b().reshape(x, [n, c, h / block, block, w / block, block])?;
    let moved = cx.b().transpose(apart, &[0, 3, 5, 1, 2, 4])?;
    Ok(vec![cx.b().reshape(
        moved,
        [n, c.saturating_mul(block * block), h / block, w / block],
    )?])
}

fn blocks(cx: &Cx<'_, '_>, x: ValueId) -> Result<([usize; 4], usize), Fail> {
    let dims = cx.shape(x);
    let block = usize::try_from(cx.int("blocksize", 0))
        .ok()
        .filter(|block| (1..1 << 16).contains(block));
    match (dims.0.as_slice(), block) {
        (&[n, c, h, w], Some(block)) => Ok(([n, c, h, w], block)),
        _ => malformed(format!(
            "input {dims} and blocksize {}, allowed: rank 4 and a positive size",
            cx.int("blocksize", 0)
        )),
    }
}

pub(super) fn eye_like(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let &[rows, columns] = &dims[..] else {
        return malformed(format!("input {dims} has rank {}, allowed: 2", dims.rank()));
    };
    let dtype = cx.dtype_attr("dtype")?.unwrap_or(cx.dtype(x));
    let offset = cx.int("k", 0);
    let mask = diagonal_mask(cx, rows, columns, |row, column| column - row == i128::from(offset))?;
    Ok(vec![cx.b().cast(mask, dtype)?])
}

/// A constant bool matrix.
fn diagonal_mask(
    cx: &mut Cx<'_, '_>,
    rows: usize,
    columns: usize,
    keep: impl Fn(i128, i128) -> bool,
) -> Result<ValueId, Fail> {
    if rows.checked_mul(columns).is_none_or(|n| n > MAX_COMPUTED) {
        return malformed(format!("a mask of {rows}x{columns} is too large"));
    }
    let mut bytes = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        bytes.extend((0..columns).map(|column| u8::from(keep(row as i128, column as i128))));
    }
    Ok(cx.b().constant("", DType::Bool, [rows, columns], bytes.into())?)
}

pub(super) fn trilu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let &[.., rows, columns] = &dims[..] else {
        return malformed(format!("input {dims} has rank {}, allowed: 2 or more", dims.rank()));
    };
    let upper = cx.flag("upper", true);
    let offset = i128::from(if cx.opt(1).is_some() { cx.need_int(1, "k")? } else { 0 });
    let mask = diagonal_mask(cx, rows, columns, |row, column| {
        if upper {
            column - row >= offset
        } else {
            column - row <= offset
        }
    })?;
    let zero = cx.filled(cx.dtype(x), Shape::scalar(), 0.0)?;
    Ok(vec![cx.b().select(mask, x, zero)?])
}

pub(super) fn center_crop_pad(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let wanted = cx.need_ints(1, "the shape")?;
    let axes = cx.ints("axes").unwrap_or_else(|| (0..dims.rank() as i64).collect());
    if axes.len() != wanted.len() {
        return malformed(format!(
            "the shape has {} entries for {} axes",
            wanted.len(),
            axes.len()
        ));
    }
    let mut ranges: Vec<Range> = dims.iter().map(|&dim| Range::all(dim)).collect();
    let mut pads = vec![(0, 0); dims.rank()];
    for (&axis, &size) in axes.iter().zip(&wanted) {
        let (axis, size) = (cx.axis(axis, dims.rank())?, size_of(size)?);
        let dim = dims[axis];
        if size < dim {
            let start = (dim - size) / 2;
            ranges[axis] = Range::of(start, start + size);
        } else {
            let before = (size - dim) / 2;
            pads[axis] = (before, size - dim - before);
        }
    }
    let cropped = cx.b().op(Op::Narrow { ranges }, &[x])?;
    let zero = if cx.dtype(x).is_float() {
        Scalar::Float(0.0)
    } else {
        Scalar::Int(0)
    };
    Ok(vec![cx.b().op(
        Op::Pad {
            pads,
            mode: PadMode::Constant(zero),
        },
        &[cropped],
    )?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_numpy() {
        let of = |dim, start, end, step| {
            let r = slice_range(dim, start, end, step).unwrap();
            (0..r.len)
                .map(|i| (r.start as isize + i as isize * r.step) as usize)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(5, 1, 4, 2), [1, 3]);
        assert_eq!(of(5, -2, i64::MAX, 1), [3, 4]);
        assert_eq!(of(5, -1, i64::MIN, -2), [4, 2, 0]);
        assert_eq!(of(5, 3, 0, -1), [3, 2, 1]);
        assert_eq!(of(5, 10, 0, -4), [4]);
        assert_eq!(of(5, 4, 2, 1), [0usize; 0]);
        assert_eq!(of(0, 0, -1, -1), [0usize; 0]);
        assert!(slice_range(5, 0, 1, 0).is_err());
    }
}
