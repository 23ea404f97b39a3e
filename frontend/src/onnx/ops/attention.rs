//! Attention and rotary position embedding of opset 23 on, as compositions.

use super::index::count_along;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::{Binary, PadMode, Range, Scalar, Unary};
use lockstep_graph::{DType, Op, ValueId};

/// [b, s, h·d] as [b, h, s, d]; of rank 4 as it is.
fn heads(cx: &mut Cx<'_, '_>, x: ValueId, attr: &str) -> Result<ValueId, Fail> {
    let shape = cx.shape(x);
    match &shape[..] {
        [_, _, _, _] => Ok(x),
        &[batch, sequence, hidden] => {
            let n = usize::try_from(cx.int(attr, 0)).unwrap_or(0);
            if n == 0 || !hidden.is_multiple_of(n) {
                return malformed(format!("{attr} is {n}, which does not divide {hidden}"));
            }
            let apart = cx.b().reshape(x, [batch, sequence, n, hidden / n])?;
            Ok(cx.b().transpose(apart, &[0, 2, 1, 3])?)
        }
        _ => malformed(format!("operand {shape} has rank {}, allowed: 3, 4", shape.rank())),
    }
}

/// Each head of [b, h, s, d] repeated n times in place.
pub(super) fn repeat_heads(cx: &mut Cx<'_, '_>, x: ValueId, n: usize) -> Result<ValueId, Fail> {
    let shape = cx.shape(x);
    if n == 1 {
        return Ok(x);
    }
    let apart = cx.b().reshape(x, [shape[0], shape[1], 1, shape[2], shape[3]])?;
    let wide = cx.b().expand(apart, [shape[0], shape[1], n, shape[2], shape[3]])?;
    Ok(cx.b().reshape(wide, [shape[0], shape[1] * n, shape[2], shape[3]])?)
}

/// −inf where a bool value is false, else 0.
fn holes(cx: &mut Cx<'_, '_>, keep: ValueId, dtype: DType) -> Result<ValueId, Fail> {
    let zero = cx.b().scalar(dtype, Scalar::Float(0.0));
    let infinite = cx.b().scalar(dtype, Scalar::Float(f64::NEG_INFINITY));
    Ok(cx.b().select(keep, zero, infinite)?)
}

/// Softmax(softcap(q·kᵀ·scale) + mask)·v with grouped heads, a key-value cache, causal and padding masks.
pub(super) fn attention(cx: &mut Cx<'_, '_>) -> Imported {
    let (q, k, v) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let flat = cx.rank(q) == 3;
    let (q, mut k, mut v) = (
        heads(cx, q, "q_num_heads")?,
        heads(cx, k, "kv_num_heads")?,
        heads(cx, v, "kv_num_heads")?,
    );
    let mut past = 0;
    if let (Some(past_key), Some(past_value)) = (cx.opt(4), cx.opt(5)) {
        past = cx.shape(past_key).get(2).copied().unwrap_or(0);
        k = cx.b().concat(&[past_key, k], 2)?;
        v = cx.b().concat(&[past_value, v], 2)?;
    }
    let (present_key, present_value) = (k, v);
    let (q_shape, k_shape) = (cx.shape(q), cx.shape(k));
    let (n_q, n_kv) = (q_shape[1], k_shape[1]);
    if n_kv == 0 || !n_q.is_multiple_of(n_kv) {
        return malformed(format!("{n_q} query heads do not share {n_kv} key heads"));
    }
    let (k, v) = (repeat_heads(cx, k, n_q / n_kv)?, repeat_heads(cx, v, n_q / n_kv)?);
    let dtype = cx.dtype(q);
    let scale = cx
        .attr("scale")
        .map(|attr| f64::from(attr.f))
        .unwrap_or_else(|| 1.0 / (q_shape[3] as f64).sqrt());
    let (queries, keys) = (q_shape[2], k_shape[2]);

    let root = scale.sqrt();
    let b = cx.b();
    let scaled_q = b.binary_scalar(Binary::Mul, q, root)?;
    let turned = b.transpose(k, &[0, 1, 3, 2])?;
    let scaled_k = b.binary_scalar(Binary::Mul, turned, root)?;
    let raw = b.matmul(scaled_q, scaled_k)?;
    let softcap = f64::from(cx.float("softcap", 0.0));
    let b = cx.b();
    let mut scores = raw;
    if softcap > 0.0 {
        let small = b.binary_scalar(Binary::Div, scores, softcap)?;
        let bent = b.unary(Unary::Tanh, small)?;
        scores = b.binary_scalar(Binary::Mul, bent, softcap)?;
    }
    let capped = scores;

    if let Some(mask) = cx.opt(3) {
        let short = keys.saturating_sub(cx.shape(mask).last().copied().unwrap_or(keys));
        let is_bool = cx.dtype(mask) == DType::Bool;
        let mut mask = mask;
        if short > 0 {
            let mut pads = vec![(0, 0); cx.rank(mask)];
            if let Some(last) = pads.last_mut() {
                last.1 = short;
            }
            let fill = if is_bool {
                Scalar::Int(0)
            } else {
                Scalar::Float(f64::NEG_INFINITY)
            };
            mask = cx.b().op(
                Op::Pad {
                    pads,
                    mode: PadMode::Constant(fill),
                },
                &[mask],
            )?;
        }
        let bias = if is_bool { holes(cx, mask, dtype)? } else { mask };
        scores = cx.b().binary(Binary::Add, scores, bias)?;
    }
    if cx.flag("is_causal", false) {
        // Query i sees keys up to past + i.
        let key = count_along(cx, DType::I64, keys, 1, 2)?;
        let query = count_along(cx, DType::I64, queries, 0, 2)?;
        let limit = cx.b().binary_scalar(Binary::Add, query, past as f64)?;
        let keep = cx.b().binary(Binary::Le, key, limit)?;
        let bias = holes(cx, keep, dtype)?;
        scores = cx.b().binary(Binary::Add, scores, bias)?;
    }
    if let Some(lens) = cx.opt(6) {
        let lens = cx.b().cast(lens, DType::I64)?;
        let lens = cx.b().reshape(lens, [q_shape[0], 1, 1, 1])?;
        let key = count_along(cx, DType::I64, keys, 3, 4)?;
        let keep = cx.b().binary(Binary::Lt, key, lens)?;
        let bias = holes(cx, keep, dtype)?;
        scores = cx.b().binary(Binary::Add, scores, bias)?;
    }
    let masked = scores;

    let precision = cx.dtype_attr("softmax_precision")?.unwrap_or(dtype);
    let b = cx.b();
    let wide = b.cast(masked, precision)?;
    let weights = b.op(Op::Softmax { axis: 3, log: false }, &[wide])?;
    let weights = b.cast(weights, dtype)?;
    let v = b.cast(v, dtype)?;
    let mut y = b.matmul(weights, v)?;
    if flat {
        let shape = b.shape(y).clone();
        let joined = b.transpose(y, &[0, 2, 1, 3])?;
        y = b.reshape(joined, [shape[0], shape[2], shape[1] * shape[3]])?;
    }
    let seen = match cx.int("qk_matmul_output_mode", 0) {
        0 if softcap > 0.0 => capped,
        0 => raw,
        1 => capped,
        2 => masked,
        3 => weights,
        other => return unsupported(format!("qk_matmul_output_mode={other} is not supported")),
    };
    Ok(vec![y, present_key, present_value, seen])
}

/// prob_mod(softmax(score_mod(q·kᵀ·scale)))·v with grouped heads; the two are bodies of one operand and one result.
pub(super) fn flex_attention(cx: &mut Cx<'_, '_>) -> Imported {
    let (q, k, v) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let (q_shape, k_shape) = (cx.shape(q), cx.shape(k));
    if q_shape.rank() != 4 || k_shape.rank() != 4 || k_shape[1] == 0 || !q_shape[1].is_multiple_of(k_shape[1]) {
        return malformed(format!("query {q_shape} and key {k_shape} do not fit"));
    }
    let group = q_shape[1] / k_shape[1];
    let (k, v) = (repeat_heads(cx, k, group)?, repeat_heads(cx, v, group)?);
    let dtype = cx.dtype(q);
    let scale = match cx.attr("scale") {
        Some(attr) => f64::from(attr.f),
        None => 1.0 / (q_shape[3] as f64).sqrt(),
    };
    let precision = match cx.dtype_attr("softmax_precision")? {
        Some(precision) => precision,
        None if dtype == DType::F64 => DType::F64,
        None => DType::F32,
    };
    let b = cx.b();
    let scaled_q = b.binary_scalar(Binary::Mul, q, scale.sqrt())?;
    let turned = b.transpose(k, &[0, 1, 3, 2])?;
    let scaled_k = b.binary_scalar(Binary::Mul, turned, scale.sqrt())?;
    let product = b.matmul(scaled_q, scaled_k)?;
    let mut scores = b.cast(product, precision)?;
    if cx.attr("score_mod").is_some() {
        scores = cx.inline("score_mod", &[scores])?;
    }
    let mut weights = cx.b().op(Op::Softmax { axis: 3, log: false }, &[scores])?;
    if cx.attr("prob_mod").is_some() {
        weights = cx.inline("prob_mod", &[weights])?;
    }
    let to = cx.dtype(v);
    let wide = cx.b().cast(v, precision)?;
    let y = cx.b().matmul(weights, wide)?;
    Ok(vec![cx.b().cast(y, to)?])
}

/// Rotates pairs of elements of each head by the angles whose cosines and sines are given.
pub(super) fn rotary(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, mut cos, mut sin) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let shape = cx.shape(x);
    let x = if shape.rank() == 4 {
        cx.b().transpose(x, &[0, 2, 1, 3])?
    } else {
        heads_last(cx, x)?
    };
    let (batch, sequence, n, size) = match &cx.shape(x)[..] {
        &[batch, sequence, n, size] => (batch, sequence, n, size),
        _ => {
            return malformed(format!("input {shape} has rank {}, allowed: 3, 4", shape.rank()));
        }
    };
    let rotated = match usize::try_from(cx.int("rotary_embedding_dim", 0)).unwrap_or(0) {
        0 => size,
        dim => dim,
    };
    if rotated > size || !rotated.is_multiple_of(2) {
        return malformed(format!(
            "rotary_embedding_dim is {rotated}, allowed: even, at most {size}"
        ));
    }
    let half = rotated / 2;
    if let Some(positions) = cx.opt(3) {
        cos = cx.b().op(Op::Gather { axis: 0 }, &[cos, positions])?;
        sin = cx.b().op(Op::Gather { axis: 0 }, &[sin, positions])?;
    }
    let cos = cx.b().reshape(cos, [batch, sequence, 1, half])?;
    let sin = cx.b().reshape(sin, [batch, sequence, 1, half])?;
    let interleaved = cx.flag("interleaved", false);
    let b = cx.b();
    let (first, second) = if interleaved {
        (
            Range {
                start: 0,
                step: 2,
                len: half,
            },
            Range {
                start: 1,
                step: 2,
                len: half,
            },
        )
    } else {
        (Range::of(0, half), Range::of(half, rotated))
    };
    let (x1, x2) = (b.narrow(x, 3, first)?, b.narrow(x, 3, second)?);
    let (a, c) = (b.binary(Binary::Mul, cos, x1)?, b.binary(Binary::Mul, sin, x2)?);
    let real = b.binary(Binary::Sub, a, c)?;
    let (a, c) = (b.binary(Binary::Mul, sin, x1)?, b.binary(Binary::Mul, cos, x2)?);
    let imaginary = b.binary(Binary::Add, a, c)?;
    let mut result = if interleaved {
        let apart = [batch, sequence, n, half, 1];
        let (real, imaginary) = (b.reshape(real, apart)?, b.reshape(imaginary, apart)?);
        let pairs = b.concat(&[real, imaginary], 4)?;
        b.reshape(pairs, [batch, sequence, n, rotated])?
    } else {
        b.concat(&[real, imaginary], 3)?
    };
    if rotated < size {
        let rest = b.narrow(x, 3, Range::of(rotated, size))?;
        result = b.concat(&[result, rest], 3)?;
    }
    Ok(vec![if shape.rank() == 4 {
        b.transpose(result, &[0, 2, 1, 3])?
    } else {
        b.reshape(result, shape)?
    }])
}

/// [b, s, h·d] as [b, s, h, d].
fn heads_last(cx: &mut Cx<'_, '_>, x: ValueId) -> Result<ValueId, Fail> {
    let shape = cx.shape(x);
    let n = usize::try_from(cx.int("num_heads", 0)).unwrap_or(0);
    match &shape[..] {
        &[batch, sequence, hidden] if n > 0 && hidden.is_multiple_of(n) => {
            Ok(cx.b().reshape(x, [batch, sequence, n, hidden / n])?)
        }
        _ => malformed(format!("input {shape} does not split into {n} heads")),
    }
}
