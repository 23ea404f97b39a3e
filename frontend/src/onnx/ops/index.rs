//! Gathers, scatters and operators whose result shape depends on values.

use crate::onnx::cx::{Cx, Fail, Imported, malformed};
use crate::tensor::{Data, Tensor};
use lockstep_graph::op::{Binary, Combine, Range};
use lockstep_graph::{DType, Op, Shape, ValueId};

/// Indices with negative ones counted from the end; `dims` broadcasts to the indices.
fn wrapped(cx: &mut Cx<'_, '_>, indices: ValueId, dims: &[usize]) -> Result<ValueId, Fail> {
    let dtype = cx.dtype(indices);
    if !matches!(dtype, DType::I32 | DType::I64) {
        return malformed(format!("indices are {dtype}, allowed: i32, i64"));
    }
    if let Some(known) = cx.known_value(indices)
        && known.as_ints().is_some_and(|ints| ints.iter().all(|&index| index >= 0))
    {
        return Ok(indices);
    }
    let shape = if dims.len() == 1 {
        Shape::scalar()
    } else {
        Shape::from([dims.len()])
    };
    let dims = cx.constant(&Tensor::ints(
        dtype,
        shape,
        dims.iter().map(|&dim| dim as i128).collect(),
    ))?;
    let negative = cx.b().binary_scalar(Binary::Lt, indices, 0.0)?;
    let from_end = cx.b().binary(Binary::Add, indices, dims)?;
    Ok(cx.b().select(negative, from_end, indices)?)
}

/// Checks that known indices lie in their axis.
fn check_known(cx: &Cx<'_, '_>, indices: ValueId, dims: &[usize]) -> Result<(), Fail> {
    let Some(Tensor {
        data: Data::Int(data), ..
    }) = cx.known_value(indices)
    else {
        return Ok(());
    };
    match data
        .iter()
        .enumerate()
        .find(|(at, index)| !(0..dims[at % dims.len()] as i128).contains(*index))
    {
        Some((_, index)) if !dims.is_empty() => malformed(format!("index {index} is out of range of an axis")),
        _ => Ok(()),
    }
}

/// A single known index is a narrow.
pub(super) fn gather(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, indices) = (cx.x(0)?, cx.x(1)?);
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int("axis", 0), shape.rank())?;
    let indices = wrapped(cx, indices, &shape[axis..=axis])?;
    check_known(cx, indices, &shape[axis..=axis])?;
    let index_shape = cx.shape(indices);
    if let (
        1,
        Some(Tensor {
            data: Data::Int(data), ..
        }),
    ) = (index_shape.n_elements(), cx.known_value(indices))
    {
        let at = usize::try_from(data[0]).or_else(|_| malformed("an index is out of range"))?;
        let part = cx.b().narrow(x, axis, Range::of(at, at + 1))?;
        let dims = [&shape[..axis], &index_shape, &shape[axis + 1..]].concat();
        return Ok(vec![cx.b().reshape(part, dims)?]);
    }
    Ok(vec![cx.b().op(Op::Gather { axis }, &[x, indices])?])
}

pub(super) fn gather_elements(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, indices) = (cx.x(0)?, cx.x(1)?);
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int("axis", 0), shape.rank())?;
    let indices = wrapped(cx, indices, &shape[axis..=axis])?;
    check_known(cx, indices, &shape[axis..=axis])?;
    Ok(vec![cx.b().op(Op::GatherElements { axis }, &[x, indices])?])
}

pub(super) fn gather_nd(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, indices) = (cx.x(0)?, cx.x(1)?);
    let (shape, index_shape) = (cx.shape(x), cx.shape(indices));
    let batch_dims = usize::try_from(cx.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let k = index_shape.last().copied().unwrap_or(0);
    let Some(dims) = shape
        .get(batch_dims..batch_dims.saturating_add(k))
        .map(<[usize]>::to_vec)
    else {
        return malformed(format!(
            "indices {index_shape} do not fit {shape} with {batch_dims} batch dims"
        ));
    };
    let indices = if k == 0 { indices } else { wrapped(cx, indices, &dims)? };
    check_known(cx, indices, &dims)?;
    Ok(vec![cx.b().op(Op::GatherNd { batch_dims }, &[x, indices])?])
}

fn combine(cx: &Cx<'_, '_>) -> Result<Combine, Fail> {
    Ok(match cx.string("reduction", "none").as_str() {
        "none" => Combine::Set,
        "add" => Combine::Add,
        "mul" => Combine::Mul,
        "min" => Combine::Min,
        "max" => Combine::Max,
        other => {
            return malformed(format!(
                "reduction is \"{}\", allowed: none, add, mul, min, max",
                other.escape_debug()
            ));
        }
    })
}

pub(super) fn scatter_elements(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, indices, updates) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let shape = cx.shape(x);
    let axis = cx.axis(cx.int("axis", 0), shape.rank())?;
    let indices = wrapped(cx, indices, &shape[axis..=axis])?;
    check_known(cx, indices, &shape[axis..=axis])?;
    let combine = combine(cx)?;
    Ok(vec![
        cx.b()
            .op(Op::ScatterElements { axis, combine }, &[x, indices, updates])?,
    ])
}

pub(super) fn scatter_nd(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, indices, updates) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let (shape, index_shape) = (cx.shape(x), cx.shape(indices));
    let k = index_shape.last().copied().unwrap_or(0);
    let Some(dims) = shape.get(..k).map(<[usize]>::to_vec) else {
        return malformed(format!("indices {index_shape} do not fit {shape}"));
    };
    let indices = if k == 0 { indices } else { wrapped(cx, indices, &dims)? };
    check_known(cx, indices, &dims)?;
    let combine = combine(cx)?;
    Ok(vec![cx.b().op(Op::ScatterNd { combine }, &[x, indices, updates])?])
}

/// 0, 1, .. along one axis of a rank.
pub(super) fn count_along(
    cx: &mut Cx<'_, '_>,
    dtype: DType,
    n: usize,
    axis: usize,
    rank: usize,
) -> Result<ValueId, Fail> {
    const MAX_COUNT: usize = 1 << 24;
    if n > MAX_COUNT {
        return malformed(format!("an axis has {n} elements, allowed: {MAX_COUNT}"));
    }
    let mut dims = vec![1; rank];
    dims[axis] = n;
    let counts = (0..n).map(|at| at as i128);
    let tensor = if dtype.is_float() {
        Tensor::floats(dtype, dims, (0..n).map(|at| at as f64).collect())
    } else {
        Tensor::ints(dtype, dims, counts.collect())
    };
    cx.constant(&tensor)
}

pub(super) fn one_hot(cx: &mut Cx<'_, '_>) -> Imported {
    let (indices, values) = (cx.x(0)?, cx.x(2)?);
    let depth = cx.need(1, "the depth")?.to_floats();
    let depth = match depth.as_slice() {
        [depth] if *depth >= 0.0 && *depth < (1u64 << 31) as f64 => *depth as usize,
        other => {
            return malformed(format!("the depth is {other:?}, allowed: one non-negative number"));
        }
    };
    if cx.shape(values).0 != [2] {
        return malformed(format!("values has shape {}, allowed: [2]", cx.shape(values)));
    }
    let rank = cx.rank(indices) + 1;
    let axis = cx.axis(cx.int("axis", -1), rank)?;
    let whole = cx.b().cast(indices, DType::I64)?;
    let whole = wrapped(cx, whole, &[depth])?;
    let mut dims = cx.shape(whole);
    dims.0.insert(axis, 1);
    let whole = cx.b().reshape(whole, dims)?;
    let counts = count_along(cx, DType::I64, depth, axis, rank)?;
    let hit = cx.b().binary(Binary::Eq, whole, counts)?;
    let off = cx.b().narrow(values, 0, Range::of(0, 1))?;
    let on = cx.b().narrow(values, 0, Range::of(1, 2))?;
    Ok(vec![cx.b().select(hit, on, off)?])
}

/// Element t of batch b is element len[b] − 1 − t where t < len[b], else t.
pub(super) fn reverse_sequence(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, lens) = (cx.x(0)?, cx.x(1)?);
    let shape = cx.shape(x);
    let (time, batch) = (cx.int("time_axis", 0), cx.int("batch_axis", 1));
    if shape.rank() < 2 || (time, batch) != (0, 1) && (time, batch) != (1, 0) {
        return malformed(format!(
            "time_axis {time} and batch_axis {batch} of {shape}, allowed: 0 and 1 in either order"
        ));
    }
    let (time, batch) = (time as usize, batch as usize);
    let (steps, batches) = (shape[time], shape[batch]);
    let mut lens_shape = [1, 1];
    lens_shape[batch] = batches;
    let lens = cx.b().cast(lens, DType::I64)?;
    let lens = cx.b().reshape(lens, lens_shape)?;
    let t = count_along(cx, DType::I64, steps, time, 2)?;
    let inside = cx.b().binary(Binary::Lt, t, lens)?;
    let last = cx.b().binary_scalar(Binary::Sub, lens, 1.0)?;
    let mirrored = cx.b().binary(Binary::Sub, last, t)?;
    let source = cx.b().select(inside, mirrored, t)?;
    let b = count_along(cx, DType::I64, batches, batch, 2)?;
    let grid = [shape[0], shape[1]];
    let column = |cx: &mut Cx<'_, '_>, value: ValueId| -> Result<ValueId, Fail> {
        let full = cx.b().expand(value, grid)?;
        Ok(cx.b().reshape(full, [grid[0], grid[1], 1])?)
    };
    let (source, b) = (column(cx, source)?, column(cx, b)?);
    let pair = if time == 0 { [source, b] } else { [b, source] };
    let indices = cx.b().concat(&pair, 2)?;
    Ok(vec![cx.b().op(Op::GatherNd { batch_dims: 0 }, &[x, indices])?])
}

/// Writes `update` into `past` at each batch's write index along the sequence axis.
pub(super) fn tensor_scatter(cx: &mut Cx<'_, '_>) -> Imported {
    let (past, update) = (cx.x(0)?, cx.x(1)?);
    let (shape, update_shape) = (cx.shape(past), cx.shape(update));
    let axis = cx.axis(cx.int("axis", -2), shape.rank())?;
    if update_shape.rank() != shape.rank() || axis == 0 {
        return malformed(format!("update {update_shape} does not fit {shape} at axis {axis}"));
    }
    let rank = shape.rank();
    let mut indices = count_along(cx, DType::I64, update_shape[axis], axis, rank)?;
    if let Some(start) = cx.opt(2) {
        let start = cx.b().cast(start, DType::I64)?;
        let mut dims = vec![1; rank];
        dims[0] = shape[0];
        let start = cx.b().reshape(start, dims)?;
        indices = cx.b().binary(Binary::Add, indices, start)?;
    }
    match cx.string("mode", "linear").as_str() {
        "linear" => {}
        "circular" => indices = cx.b().binary_scalar(Binary::Mod, indices, shape[axis] as f64)?,
        other => {
            return malformed(format!(
                "mode is \"{}\", allowed: linear, circular",
                other.escape_debug()
            ));
        }
    }
    let indices = cx.b().expand(indices, update_shape)?;
    Ok(vec![cx.b().op(
        Op::ScatterElements {
            axis,
            combine: Combine::Set,
        },
        &[past, indices, update],
    )?])
}

/// Positions of the elements that are not zero, if they are known now.
pub(super) fn non_zero(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.need(0, "the input")?;
    let hits: Vec<usize> = x
        .to_floats()
        .iter()
        .enumerate()
        .filter(|(_, value)| **value != 0.0)
        .map(|(at, _)| at)
        .collect();
    let strides = x.shape.strides();
    let mut data = Vec::with_capacity(hits.len() * strides.len());
    for (axis, &stride) in strides.iter().enumerate() {
        data.extend(hits.iter().map(|at| (at / stride % x.shape[axis]) as i128));
    }
    Ok(vec![cx.constant(&Tensor::ints(
        DType::I64,
        [strides.len(), hits.len()],
        data,
    ))?])
}

/// A gather if the condition is known now.
pub(super) fn compress(cx: &mut Cx<'_, '_>) -> Imported {
    let mut x = cx.x(0)?;
    let condition = cx.need(1, "the condition")?.to_floats();
    let axis = match cx.opt_int("axis") {
        Some(axis) => cx.axis(axis, cx.rank(x))?,
        None => {
            let n = cx.shape(x).n_elements();
            x = cx.b().reshape(x, [n])?;
            0
        }
    };
    let picked: Vec<i64> = condition
        .iter()
        .enumerate()
        .filter(|(_, value)| **value != 0.0)
        .map(|(at, _)| at as i64)
        .collect();
    if picked.last().is_some_and(|&last| last as usize >= cx.shape(x)[axis]) {
        return malformed("the condition is longer than the axis");
    }
    let indices = cx.b().i64s(&picked);
    Ok(vec![cx.b().op(Op::Gather { axis }, &[x, indices])?])
}

/// Operators that are known, but whose result shape always depends on run-time values.
pub(super) fn data_dependent(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let Fail::Unsupported { help, .. } = cx.data_dependent(x, "the input") else {
        return malformed("the operator is not supported");
    };
    let help = if cx.known_value(x).is_some() {
        "compute it before the export".to_string()
    } else {
        format!("cut the model before it and do it on the host, or {help}")
    };
    Err(Fail::Unsupported {
        reason: "its result shape depends on run-time values".into(),
        help,
    })
}
