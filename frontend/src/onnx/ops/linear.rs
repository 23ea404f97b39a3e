//! Recurrent mixers of opset 27: linear attention and the causal convolution with a carried state.

use super::elementwise::with;
use crate::onnx::cx::{Cx, Fail, Imported, malformed};
use lockstep_graph::op::{Binary, Conv, PadMode, Range, Scalar, Unary};
use lockstep_graph::{DType, Op, ValueId};

/// Longest sequence that is unrolled.
const MAX_STEPS: usize = 4096;

/// Step `t` of [b, t, h·d] as [b, h, rows, columns].
fn step(cx: &mut Cx<'_, '_>, x: ValueId, t: usize, dims: [usize; 4]) -> Result<ValueId, Fail> {
    let part = cx.b().narrow(x, 1, Range::of(t, t + 1))?;
    let wide = cx.b().cast(part, DType::F32)?;
    Ok(cx.b().reshape(wide, dims)?)
}

/// The state S of each key head, [d_k, d_v], walks over the sequence: it decays, takes k ⊗ v, and is read by q.
pub(super) fn linear_attention(cx: &mut Cx<'_, '_>) -> Imported {
    let (q, k, v) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let (q_shape, k_shape, v_shape) = (cx.shape(q), cx.shape(k), cx.shape(v));
    let heads = |name: &str| usize::try_from(cx.int(name, 0)).unwrap_or(0);
    let (n_q, n_kv) = (heads("q_num_heads"), heads("kv_num_heads"));
    let ranks = [q_shape.rank(), k_shape.rank(), v_shape.rank()];
    if ranks != [3, 3, 3] || n_q == 0 || n_kv == 0 || !n_q.is_multiple_of(n_kv) {
        return malformed(format!(
            "ranks {ranks:?} with {n_q} query and {n_kv} key heads, allowed: rank 3 and a multiple"
        ));
    }
    let (batch, steps) = (q_shape[0], q_shape[1]);
    let (d_k, d_v) = (q_shape[2] / n_q, v_shape[2] / n_kv);
    if k_shape[2] != n_kv * d_k || steps > MAX_STEPS || k_shape[1] != steps || v_shape[1] != steps {
        return malformed(format!("query {q_shape}, key {k_shape} and value {v_shape} do not fit"));
    }
    let rule = cx.string("update_rule", "gated_delta");
    let (gated, delta) = match rule.as_str() {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => {
            return malformed(format!(
                "update_rule is \"{}\", allowed: linear, gated, delta, gated_delta",
                other.escape_debug()
            ));
        }
    };
    let decay = if gated { Some(cx.x(4)?) } else { None };
    let beta = if delta { Some(cx.x(5)?) } else { None };
    let scale = match cx.float("scale", 0.0) {
        0.0 => 1.0 / (d_k as f64).sqrt(),
        given => f64::from(given),
    };
    let dtype = cx.dtype(q);
    let state_dtype = cx.opt(3).map_or(dtype, |past| cx.dtype(past));
    let state_dims = [batch, n_kv, d_k, d_v];
    let mut state = match cx.opt(3) {
        Some(past) => cx.b().cast(past, DType::F32)?,
        None => cx.filled(DType::F32, state_dims.to_vec(), 0.0)?,
    };
    let group = n_q / n_kv;
    let mut outputs = Vec::with_capacity(steps);
    for t in 0..steps {
        let key = step(cx, k, t, [batch, n_kv, d_k, 1])?;
        let mut value = step(cx, v, t, [batch, n_kv, 1, d_v])?;
        if let Some(decay) = decay {
            let per_key = cx.shape_of_rank(decay, 3, "decay")?[2] / n_kv;
            let gate = step(cx, decay, t, [batch, n_kv, per_key, 1])?;
            let factor = cx.b().unary(Unary::Exp, gate)?;
            state = cx.b().binary(Binary::Mul, state, factor)?;
        }
        if let Some(beta) = beta {
            let n = cx.shape_of_rank(beta, 3, "beta")?[2];
            let rate = step(cx, beta, t, [batch, n, 1, 1])?;
            let row = cx.b().transpose(key, &[0, 1, 3, 2])?;
            let known = cx.b().matmul(row, state)?;
            let new = cx.b().binary(Binary::Sub, value, known)?;
            value = cx.b().binary(Binary::Mul, rate, new)?;
        }
        let outer = cx.b().binary(Binary::Mul, key, value)?;
        state = cx.b().binary(Binary::Add, state, outer)?;
        // The query heads of a group read the state of their key head.
        let query = step(cx, q, t, [batch, n_kv, group, d_k])?;
        let read = cx.b().matmul(query, state)?;
        let scaled = with(cx, Binary::Mul, read, scale)?;
        outputs.push(cx.b().reshape(scaled, [batch, 1, n_q * d_v])?);
    }
    if outputs.is_empty() {
        return malformed("the sequence is empty");
    }
    let joined = cx.b().concat(&outputs, 1)?;
    Ok(vec![cx.b().cast(joined, dtype)?, cx.b().cast(state, state_dtype)?])
}

/// A depthwise convolution over the carried positions and the input; the last k − 1 positions are carried on.
pub(super) fn causal_conv(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, w) = (cx.x(0)?, cx.x(1)?);
    let (shape, w_shape) = (cx.shape(x), cx.shape(w));
    if shape.rank() != 3 || w_shape.rank() != 3 || w_shape[2] == 0 {
        return malformed(format!("input {shape} and weight {w_shape}, allowed: rank 3"));
    }
    let before = w_shape[2] - 1;
    let padded = match cx.opt(3) {
        Some(past) if before > 0 => cx.b().concat(&[past, x], 2)?,
        _ => cx.b().op(
            Op::Pad {
                pads: vec![(0, 0), (0, 0), (before, 0)],
                mode: PadMode::Constant(Scalar::Float(0.0)),
            },
            &[x],
        )?,
    };
    let attrs = Conv {
        strides: vec![1],
        dilations: vec![1],
        pads: vec![(0, 0)],
        groups: shape[1],
    };
    let inputs: Vec<ValueId> = [padded, w].into_iter().chain(cx.opt(2)).collect();
    let mut y = cx.b().op(Op::Conv(attrs), &inputs)?;
    match cx.string("activation", "none").as_str() {
        "none" => {}
        "silu" | "swish" => {
            let gate = cx.b().unary(Unary::Sigmoid, y)?;
            y = cx.b().binary(Binary::Mul, y, gate)?;
        }
        other => {
            return malformed(format!(
                "activation is \"{}\", allowed: none, silu, swish",
                other.escape_debug()
            ));
        }
    }
    let end = shape[2] + before;
    Ok(vec![y, cx.b().narrow(padded, 2, Range::of(shape[2], end))?])
}
