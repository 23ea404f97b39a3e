//! Attention of the domain `com.microsoft`: multi-head, grouped-query, the packed form of old BERT exports, rotary positions.

use super::attention::repeat_heads;
use super::index::count_along;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::{Binary, Range, Scalar, Unary};
use lockstep_graph::{DType, Op, ValueId};

/// [b, s, n·d] as [b, n, s, d].
fn split(cx: &mut Cx<'_, '_>, x: ValueId, n: usize) -> Result<ValueId, Fail> {
    let shape = cx.shape(x);
    match &shape[..] {
        &[batch, sequence, hidden] if n > 0 && hidden.is_multiple_of(n) => {
            let apart = cx.b().reshape(x, [batch, sequence, n, hidden / n])?;
            Ok(cx.b().transpose(apart, &[0, 2, 1, 3])?)
        }
        _ => malformed(format!("operand {shape} does not split into {n} heads")),
    }
}

/// [b, n, s, d] as [b, s, n·d].
fn join(cx: &mut Cx<'_, '_>, x: ValueId) -> Result<ValueId, Fail> {
    let shape = cx.shape(x);
    let turned = cx.b().transpose(x, &[0, 2, 1, 3])?;
    Ok(cx.b().reshape(turned, [shape[0], shape[2], shape[1] * shape[3]])?)
}

fn heads(cx: &Cx<'_, '_>, name: &str) -> Result<usize, Fail> {
    match usize::try_from(cx.int(name, 0)) {
        Ok(n) if n > 0 => Ok(n),
        _ => malformed(format!("{name} is {}", cx.int(name, 0))),
    }
}

/// A bool mask as a bias: 0 where it holds, else `hole`.
fn bias_of(cx: &mut Cx<'_, '_>, keep: ValueId, dtype: DType, hole: f64) -> Result<ValueId, Fail> {
    let zero = cx.b().scalar(dtype, Scalar::Float(0.0));
    let hole = cx.b().scalar(dtype, Scalar::Float(hole));
    Ok(cx.b().select(keep, zero, hole)?)
}

/// softmax(q·kᵀ·scale, soft-capped, + biases)·v on [b, n, s, d].
fn attend(
    cx: &mut Cx<'_, '_>,
    [q, k, v]: [ValueId; 3],
    biases: &[ValueId],
    scale: f64,
    softcap: f64,
) -> Result<ValueId, Fail> {
    let b = cx.b();
    let turned = b.transpose(k, &[0, 1, 3, 2])?;
    let product = b.matmul(q, turned)?;
    let mut scores = b.binary_scalar(Binary::Mul, product, scale)?;
    if softcap > 0.0 {
        let small = b.binary_scalar(Binary::Div, scores, softcap)?;
        let bent = b.unary(Unary::Tanh, small)?;
        scores = b.binary_scalar(Binary::Mul, bent, softcap)?;
    }
    for &bias in biases {
        scores = b.binary(Binary::Add, scores, bias)?;
    }
    let weights = b.op(Op::Softmax { axis: 3, log: false }, &[scores])?;
    Ok(b.matmul(weights, v)?)
}

fn scale(cx: &Cx<'_, '_>, size: usize) -> f64 {
    match cx.float("scale", 0.0) {
        0.0 => 1.0 / (size as f64).sqrt(),
        given => f64::from(given),
    }
}

/// Query i sees keys up to `past + i`: [queries, keys].
fn causal(cx: &mut Cx<'_, '_>, queries: usize, keys: usize, past: usize) -> Result<ValueId, Fail> {
    let key = count_along(cx, DType::I32, keys, 1, 2)?;
    let query = count_along(cx, DType::I32, queries, 0, 2)?;
    let last = cx.b().binary_scalar(Binary::Add, query, past as f64)?;
    Ok(cx.b().binary(Binary::Le, key, last)?)
}

/// The columns `at` of three that a bias or a packed operand holds along its last axis.
fn third(cx: &mut Cx<'_, '_>, x: ValueId, widths: [usize; 3], at: usize) -> Result<ValueId, Fail> {
    let start: usize = widths[..at].iter().sum();
    let axis = cx.rank(x).saturating_sub(1);
    Ok(cx.b().narrow(x, axis, Range::of(start, start + widths[at]))?)
}

pub(super) fn multi_head(cx: &mut Cx<'_, '_>) -> Imported {
    let n = heads(cx, "num_heads")?;
    let query = cx.x(0)?;
    let shape = cx.shape(query);
    // Packed: query [b, s, n, 3, d], or key [b, l, n, 2, d].
    let pick = |cx: &mut Cx<'_, '_>, x: ValueId, at: usize| -> Result<ValueId, Fail> {
        let dims = cx.shape(x);
        let one = cx.b().narrow(x, 3, Range::of(at, at + 1))?;
        Ok(cx.b().reshape(one, [dims[0], dims[1], dims[2] * dims[4]])?)
    };
    let mut ready = [false; 3];
    let [mut q, mut k, mut v] = if shape.rank() == 5 {
        [pick(cx, query, 0)?, pick(cx, query, 1)?, pick(cx, query, 2)?]
    } else {
        let key = cx.x(1)?;
        match cx.rank(key) {
            5 => [query, pick(cx, key, 0)?, pick(cx, key, 1)?],
            rank => {
                ready = [false, rank == 4, rank == 4];
                [query, key, cx.x(2)?]
            }
        }
    };
    if let Some(bias) = cx.opt(3) {
        let width = |cx: &Cx<'_, '_>, x: ValueId| cx.shape(x).last().copied().unwrap_or(0);
        let total = width(cx, bias);
        let own = width(cx, q);
        let widths = [own, own, total.saturating_sub(2 * own)];
        let mut parts = [q, k, v];
        for (at, part) in parts.iter_mut().enumerate().filter(|(at, _)| !ready[*at]) {
            let bias = third(cx, bias, widths, at)?;
            *part = cx.b().binary(Binary::Add, *part, bias)?;
        }
        [q, k, v] = parts;
    }
    let mut parts = [q, k, v];
    for (part, _) in parts.iter_mut().zip(ready).filter(|(_, ready)| !ready) {
        *part = split(cx, *part, n)?;
    }
    [q, k, v] = parts;
    let mut past = 0;
    if let (Some(past_key), Some(past_value)) = (cx.opt(6), cx.opt(7)) {
        past = cx.shape_of_rank(past_key, 4, "the past key")?[2];
        k = cx.b().concat(&[past_key, k], 2)?;
        v = cx.b().concat(&[past_value, v], 2)?;
    }
    let (dtype, size) = (cx.dtype(q), cx.shape(q)[3]);
    let (queries, keys, batch) = (cx.shape(q)[2], cx.shape(k)[2], cx.shape(q)[0]);
    let mut biases = Vec::new();
    if let Some(mask) = cx.opt(4) {
        let hole = f64::from(cx.float("mask_filter_value", -10000.0));
        let own = cx.shape(mask);
        let keep = match own[..] {
            [n] if n == batch => {
                let lens = cx.b().reshape(mask, [batch, 1, 1, 1])?;
                let lens = cx.b().cast(lens, DType::I32)?;
                let key = count_along(cx, DType::I32, keys, 3, 4)?;
                cx.b().binary(Binary::Lt, key, lens)?
            }
            [b, l] if l == keys => {
                let mask = cx.b().reshape(mask, [b, 1, 1, l])?;
                cx.b().cast(mask, DType::Bool)?
            }
            [b, s, l] if l == keys => {
                let mask = cx.b().reshape(mask, [b, 1, s, l])?;
                cx.b().cast(mask, DType::Bool)?
            }
            _ => return unsupported(format!("a key padding mask of shape {own} is not supported")),
        };
        biases.push(bias_of(cx, keep, dtype, hole)?);
    }
    biases.extend(cx.opt(5));
    if cx.flag("unidirectional", false) {
        let keep = causal(cx, queries, keys, past)?;
        biases.push(bias_of(cx, keep, dtype, f64::NEG_INFINITY)?);
    }
    let scale = scale(cx, size);
    let y = attend(cx, [q, k, v], &biases, scale, 0.0)?;
    Ok(vec![join(cx, y)?, k, v])
}

/// The packed form: one weight for query, key and value.
pub(super) fn packed(cx: &mut Cx<'_, '_>) -> Imported {
    let n = heads(cx, "num_heads")?;
    let (x, w) = (cx.x(0)?, cx.x(1)?);
    let mut product = cx.b().matmul(x, w)?;
    if let Some(bias) = cx.opt(2) {
        product = cx.b().binary(Binary::Add, product, bias)?;
    }
    let total = cx.shape(product).last().copied().unwrap_or(0);
    let widths = match cx.ints("qkv_hidden_sizes") {
        Some(sizes) if sizes.len() == 3 => [0, 1, 2].map(|at| usize::try_from(sizes[at]).unwrap_or(0)),
        _ => [total / 3; 3],
    };
    if widths.iter().sum::<usize>() != total {
        return malformed(format!("{total} columns do not split into {widths:?}"));
    }
    if cx.opt(4).is_some() {
        return unsupported("a past of the packed attention is not supported, allowed: MultiHeadAttention");
    }
    let mut parts = Vec::new();
    for at in 0..3 {
        let part = third(cx, product, widths, at)?;
        parts.push(split(cx, part, n)?);
    }
    let (dtype, shape) = (cx.dtype(x), cx.shape(parts[0]));
    let mut biases = Vec::new();
    if let Some(mask) = cx.opt(3) {
        let own = cx.shape(mask);
        let hole = f64::from(cx.float("mask_filter_value", -10000.0));
        let dims = match own[..] {
            [b, l] => [b, 1, 1, l],
            [b, s, l] => [b, 1, s, l],
            _ => return unsupported(format!("a mask of shape {own} is not supported, allowed: rank 2, 3")),
        };
        let mask = cx.b().reshape(mask, dims)?;
        let keep = cx.b().cast(mask, DType::Bool)?;
        biases.push(bias_of(cx, keep, dtype, hole)?);
    }
    biases.extend(cx.opt(5));
    if cx.flag("unidirectional", false) {
        let keep = causal(cx, shape[2], shape[2], 0)?;
        biases.push(bias_of(cx, keep, dtype, f64::NEG_INFINITY)?);
    }
    let scale = scale(cx, shape[3]);
    let y = attend(cx, [parts[0], parts[1], parts[2]], &biases, scale, 0.0)?;
    Ok(vec![join(cx, y)?])
}

/// Rotates [b, n, s, d] by the rows of the caches at `positions` [b, s].
fn rotate(
    cx: &mut Cx<'_, '_>,
    x: ValueId,
    [cos, sin]: [ValueId; 2],
    positions: ValueId,
    interleaved: bool,
) -> Result<ValueId, Fail> {
    let shape = cx.shape(x);
    let half = cx.shape(cos).last().copied().unwrap_or(0);
    let (batch, sequence, size) = (shape[0], shape[2], shape[3]);
    if half == 0 || 2 * half > size {
        return malformed(format!("{half} angles do not fit heads of {size}"));
    }
    let mut rows = Vec::new();
    for cache in [cos, sin] {
        let row = cx.b().op(Op::Gather { axis: 0 }, &[cache, positions])?;
        rows.push(cx.b().reshape(row, [batch, 1, sequence, half])?);
    }
    let (cos, sin) = (rows[0], rows[1]);
    let range = |at: usize| match (interleaved, at) {
        (true, at) => Range {
            start: at,
            step: 2,
            len: half,
        },
        (false, at) => Range::of(at * half, (at + 1) * half),
    };
    let b = cx.b();
    let (first, second) = (b.narrow(x, 3, range(0))?, b.narrow(x, 3, range(1))?);
    let mut product = |a: ValueId, c: ValueId| b.binary(Binary::Mul, a, c);
    let (fc, ss, fs, sc) = (
        product(first, cos)?,
        product(second, sin)?,
        product(first, sin)?,
        product(second, cos)?,
    );
    let (left, right) = (b.binary(Binary::Sub, fc, ss)?, b.binary(Binary::Add, fs, sc)?);
    let turned = if interleaved {
        let dims = [shape[0], shape[1], sequence, half, 1];
        let (left, right) = (b.reshape(left, dims)?, b.reshape(right, dims)?);
        let pairs = b.concat(&[left, right], 4)?;
        b.reshape(pairs, [shape[0], shape[1], sequence, 2 * half])?
    } else {
        b.concat(&[left, right], 3)?
    };
    if 2 * half == size {
        return Ok(turned);
    }
    let rest = b.narrow(x, 3, Range::of(2 * half, size))?;
    Ok(b.concat(&[turned, rest], 3)?)
}

/// input, position ids [b, s] or [1] (the first position), cosines, sines.
pub(super) fn rotary(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, positions, cos, sin) = (cx.x(0)?, cx.x(1)?, cx.x(2)?, cx.x(3)?);
    let flat = cx.rank(x) == 3;
    let size = cx.shape(cos).last().copied().unwrap_or(0) * 2;
    let value = if flat {
        let hidden = cx.shape(x)[2];
        let n = match usize::try_from(cx.int("num_heads", 0)) {
            Ok(n) if n > 0 => n,
            _ if size > 0 && hidden.is_multiple_of(size) => hidden / size,
            _ => return malformed(format!("{hidden} columns do not split into heads of {size}")),
        };
        split(cx, x, n)?
    } else {
        x
    };
    let shape = cx.shape(value);
    if shape.rank() != 4 {
        return malformed(format!("input {shape} has rank {}, allowed: 3, 4", shape.rank()));
    }
    let mut positions = positions;
    if cx.shape(positions).n_elements() == 1 && shape[0] * shape[2] != 1 {
        let first = cx.b().reshape(positions, [1, 1])?;
        let dtype = cx.dtype(first);
        let count = count_along(cx, dtype, shape[2], 1, 2)?;
        let row = cx.b().binary(Binary::Add, first, count)?;
        positions = cx.b().expand(row, [shape[0], shape[2]])?;
    }
    let positions = cx.b().reshape(positions, [shape[0], shape[2]])?;
    let interleaved = cx.flag("interleaved", false);
    let turned = rotate(cx, value, [cos, sin], positions, interleaved)?;
    Ok(vec![if flat { join(cx, turned)? } else { turned }])
}

/// Grouped-query attention over a cache: the new keys follow the past ones, of which the first `seqlens_k + 1 - s` count; the cache is
/// returned with the new rows at its end.
pub(super) fn grouped_query(cx: &mut Cx<'_, '_>) -> Imported {
    let (n, n_kv) = (heads(cx, "num_heads")?, heads(cx, "kv_num_heads")?);
    if !n.is_multiple_of(n_kv) {
        return malformed(format!("{n} query heads do not share {n_kv} key heads"));
    }
    let query = cx.x(0)?;
    let (q, k, v) = match (cx.opt(1), cx.opt(2)) {
        (Some(k), Some(v)) => (query, k, v),
        _ => {
            let hidden = cx.shape(query).last().copied().unwrap_or(0);
            let size = hidden / (n + 2 * n_kv);
            let widths = [n * size, n_kv * size, n_kv * size];
            (
                third(cx, query, widths, 0)?,
                third(cx, query, widths, 1)?,
                third(cx, query, widths, 2)?,
            )
        }
    };
    let (mut q, mut k, mut v) = (split(cx, q, n)?, split(cx, k, n_kv)?, split(cx, v, n_kv)?);
    let (batch, queries, size) = (cx.shape(q)[0], cx.shape(q)[2], cx.shape(q)[3]);
    let lens = cx.x(5)?;
    let lens = cx.b().reshape(lens, [batch, 1])?;
    let lens = cx.b().cast(lens, DType::I32)?;
    // The position of the first new token of each batch.
    let first = cx.b().binary_scalar(Binary::Sub, lens, queries as f64 - 1.0)?;
    if cx.flag("do_rotary", false) {
        let (cos, sin) = (cx.x(7)?, cx.x(8)?);
        let count = count_along(cx, DType::I32, queries, 1, 2)?;
        let positions = cx.b().binary(Binary::Add, first, count)?;
        let positions = cx.b().binary_scalar(Binary::Max, positions, 0.0)?;
        let interleaved = cx.flag("rotary_interleaved", false);
        q = rotate(cx, q, [cos, sin], positions, interleaved)?;
        k = rotate(cx, k, [cos, sin], positions, interleaved)?;
    }
    let mut past = 0;
    if let (Some(past_key), Some(past_value)) = (cx.opt(3), cx.opt(4)) {
        past = cx.shape_of_rank(past_key, 4, "the past key")?[2];
        if past > 0 {
            k = cx.b().concat(&[past_key, k], 2)?;
            v = cx.b().concat(&[past_value, v], 2)?;
        }
    }
    let (present_key, present_value, keys) = (k, v, past + queries);
    let dtype = cx.dtype(q);
    // Positions of keys: rows of the past count from 0, new rows from the first new position.
    let row = count_along(cx, DType::I32, keys, 3, 4)?;
    let first = cx.b().reshape(first, [batch, 1, 1, 1])?;
    let fresh = cx.b().binary_scalar(Binary::Ge, row, past as f64)?;
    let valid = cx.b().binary(Binary::Lt, row, first)?;
    let there = cx.b().binary(Binary::Or, fresh, valid)?;
    let offset = cx.b().binary_scalar(Binary::Sub, row, past as f64)?;
    let new = cx.b().binary(Binary::Add, first, offset)?;
    let position = cx.b().select(fresh, new, row)?;
    let count = count_along(cx, DType::I32, queries, 2, 4)?;
    let own = cx.b().binary(Binary::Add, first, count)?;
    let seen = cx.b().binary(Binary::Le, position, own)?;
    let mut keep = cx.b().binary(Binary::And, there, seen)?;
    let window = cx.int("local_window_size", -1);
    if window >= 0 {
        let low = cx.b().binary_scalar(Binary::Sub, own, window as f64)?;
        let near = cx.b().binary(Binary::Gt, position, low)?;
        keep = cx.b().binary(Binary::And, keep, near)?;
    }
    let bias = bias_of(cx, keep, dtype, f64::NEG_INFINITY)?;
    let (k, v) = (repeat_heads(cx, k, n / n_kv)?, repeat_heads(cx, v, n / n_kv)?);
    let (scale, softcap) = (scale(cx, size), f64::from(cx.float("softcap", 0.0)));
    let y = attend(cx, [q, k, v], &[bias], scale, softcap)?;
    Ok(vec![join(cx, y)?, present_key, present_value])
}
