//! Operators of the domain `com.microsoft`, which onnxruntime's tools write into exported models.

use super::elementwise::with;
use crate::compose;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::{Binary, Range, Reduce, Unary};
use lockstep_graph::{DType, Op, Shape, ValueId};

/// x plus the optional bias operand.
fn plus(cx: &mut Cx<'_, '_>, x: ValueId, index: usize) -> Result<ValueId, Fail> {
    match cx.opt(index) {
        Some(bias) => Ok(cx.b().binary(Binary::Add, x, bias)?),
        None => Ok(x),
    }
}

/// Gelu by erf of x + bias.
pub(super) fn bias_gelu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let x = plus(cx, x, 1)?;
    Ok(vec![compose::gelu(cx.b(), x, false)?])
}

/// Gelu by tanh of x + bias.
pub(super) fn fast_gelu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let x = plus(cx, x, 1)?;
    Ok(vec![compose::gelu(cx.b(), x, true)?])
}

/// x · sigmoid(alpha·x).
pub(super) fn quick_gelu(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let alpha = f64::from(cx.float("alpha", 1.702));
    let scaled = with(cx, Binary::Mul, x, alpha)?;
    let gate = cx.b().unary(Unary::Sigmoid, scaled)?;
    Ok(vec![cx.b().binary(Binary::Mul, x, gate)?])
}

/// Swaps the last two axes, and before that moves the first axis before the last if the batch is transposed.
fn turned(cx: &mut Cx<'_, '_>, x: ValueId, swap: &str, batch: &str) -> Result<ValueId, Fail> {
    let rank = cx.rank(x);
    let mut perm: Vec<usize> = (0..rank).collect();
    if cx.flag(batch, false) && rank >= 3 {
        perm[..rank - 1].rotate_left(1);
    }
    if cx.flag(swap, false) && rank >= 2 {
        perm.swap(rank - 1, rank - 2);
    }
    Ok(cx.b().transpose(x, &perm)?)
}

pub(super) fn fused_matmul(cx: &mut Cx<'_, '_>) -> Imported {
    let (a, b) = (cx.x(0)?, cx.x(1)?);
    let (a, b) = (
        turned(cx, a, "transA", "transBatchA")?,
        turned(cx, b, "transB", "transBatchB")?,
    );
    let y = cx.b().matmul(a, b)?;
    let alpha = cx.float("alpha", 1.0);
    if alpha == 1.0 {
        return Ok(vec![y]);
    }
    Ok(vec![with(cx, Binary::Mul, y, f64::from(alpha))?])
}

/// A product with weights [n, k] of few bits, in blocks along k that share a scale and a zero point.
pub(super) fn matmul_n_bits(cx: &mut Cx<'_, '_>) -> Imported {
    let (a, packed, scales) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let size = |name: &str| usize::try_from(cx.int(name, 0)).unwrap_or(0);
    let (k, n, block) = (size("K"), size("N"), size("block_size"));
    let bits = cx.int("bits", 4);
    if k == 0 || n == 0 || block == 0 || !matches!(bits, 2 | 4 | 8) {
        return malformed(format!(
            "K={k}, N={n}, block_size={block}, bits={bits}, allowed: positive sizes and 2, 4 or 8 bits"
        ));
    }
    if cx.opt(4).is_some() {
        return unsupported("reordered columns (g_idx) are not supported");
    }
    let per_byte = 8 / bits as usize;
    let blocks = k.div_ceil(block);
    let spread = |cx: &Cx<'_, '_>, value: ValueId, rows: usize, columns: usize| -> Result<Vec<u8>, Fail> {
        let Some(constant) = cx.const_bytes(value) else {
            return unsupported("packed weights that are computed at run time are not supported");
        };
        let stride = columns.div_ceil(per_byte);
        if constant.len() != rows * stride {
            return malformed(format!(
                "packed elements have {} bytes, expected {}",
                constant.len(),
                rows * stride
            ));
        }
        let mask = ((1u16 << bits) - 1) as u8;
        let element = |row: usize, column: usize| {
            let byte = constant[row * stride + column / per_byte];
            byte >> (column % per_byte * bits as usize) & mask
        };
        Ok((0..rows)
            .flat_map(|row| (0..columns).map(move |column| (row, column)))
            .map(|(r, c)| element(r, c))
            .collect())
    };
    let weights = spread(cx, packed, n * blocks, block)?;
    let weights = cx.b().constant("", DType::U8, [n, blocks, block], weights.into())?;
    let shape = [n, blocks, 1];
    let scales = cx.b().reshape(scales, shape)?;
    let dtype = cx.dtype(scales);
    let real = match cx.opt(3) {
        Some(zeros) if cx.dtype(zeros).is_float() => {
            let zeros = cx.b().reshape(zeros, shape)?;
            let wide = cx.b().cast(weights, dtype)?;
            let centred = cx.b().binary(Binary::Sub, wide, zeros)?;
            cx.b().binary(Binary::Mul, centred, scales)?
        }
        zeros => {
            let zeros = match zeros {
                Some(zeros) => spread(cx, zeros, n, blocks)?,
                None => vec![1 << (bits - 1); n * blocks],
            };
            let zeros = cx.b().constant("", DType::U8, shape, zeros.into())?;
            cx.b().op(Op::Dequantize, &[weights, scales, zeros])?
        }
    };
    let flat = cx.b().reshape(real, [n, blocks * block])?;
    let cut = cx.b().narrow(flat, 1, Range::of(0, k))?;
    let turned = cx.b().transpose(cut, &[1, 0])?;
    let to = cx.dtype(a);
    let turned = cx.b().cast(turned, to)?;
    let y = cx.b().matmul(a, turned)?;
    Ok(vec![plus(cx, y, 5)?])
}

/// x + skip (+ bias), normalised over the last axis; the sum is the fourth result.
pub(super) fn skip_norm(cx: &mut Cx<'_, '_>) -> Imported {
    let simple = cx.op_type() == "SkipSimplifiedLayerNormalization";
    let (x, skip, scale) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let mut sum = cx.b().binary(Binary::Add, x, skip)?;
    sum = plus(cx, sum, if simple { 3 } else { 4 })?;
    let axis = cx.rank(sum).saturating_sub(1);
    let eps = cx.float("epsilon", 1e-12);
    let beta = if simple { None } else { cx.opt(3) };
    let y = normalised(cx, sum, scale, beta, axis, eps, simple)?;
    if cx.n_outputs() < 2 {
        return Ok(vec![y]);
    }
    let (mean, inverse) = statistics(cx, sum, axis, eps, simple)?;
    Ok(vec![y, mean, inverse, sum])
}

fn normalised(
    cx: &mut Cx<'_, '_>,
    x: ValueId,
    scale: ValueId,
    beta: Option<ValueId>,
    axis: usize,
    eps: f32,
    simple: bool,
) -> Result<ValueId, Fail> {
    let op = if simple {
        Op::RmsNorm { axis, eps }
    } else {
        Op::LayerNorm { axis, eps }
    };
    let inputs: Vec<ValueId> = [x, scale].into_iter().chain(beta).collect();
    Ok(cx.b().op(op, &inputs)?)
}

/// Mean and 1 / standard deviation (or root mean square) with the reduced axes kept.
fn statistics(
    cx: &mut Cx<'_, '_>,
    x: ValueId,
    axis: usize,
    eps: f32,
    simple: bool,
) -> Result<(ValueId, ValueId), Fail> {
    let axes: Vec<usize> = (axis..cx.rank(x)).collect();
    let b = cx.b();
    let mean = b.reduce(Reduce::Mean, x, &axes, true)?;
    let centred = if simple { x } else { b.binary(Binary::Sub, x, mean)? };
    let square = b.binary(Binary::Mul, centred, centred)?;
    let variance = b.reduce(Reduce::Mean, square, &axes, true)?;
    let more = b.binary_scalar(Binary::Add, variance, f64::from(eps))?;
    Ok((mean, b.unary(Unary::Rsqrt, more)?))
}

/// x / rms(x) · scale from an axis on; the second result is 1 / rms.
pub(super) fn simplified_norm(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, scale) = (cx.x(0)?, cx.x(1)?);
    let axis = cx.axis(cx.int("axis", -1), cx.rank(x))?;
    let eps = cx.float("epsilon", 1e-5);
    let y = normalised(cx, x, scale, None, axis, eps, true)?;
    if cx.n_outputs() < 2 {
        return Ok(vec![y]);
    }
    let (_, inverse) = statistics(cx, x, axis, eps, true)?;
    Ok(vec![y, inverse])
}

/// A convolution of [n, d.., c]; the weight is [o, c/g, k..].
pub(super) fn nhwc_conv(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let rank = cx.rank(x);
    if rank < 3 {
        return malformed(format!("the input has rank {rank}, allowed: 3 to 5"));
    }
    let to_first: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
    let to_last: Vec<usize> = [0].into_iter().chain(2..rank).chain([1]).collect();
    let first = cx.b().transpose(x, &to_first)?;
    cx.set(0, first);
    let y = super::conv::conv(cx)?;
    y.into_iter().map(|y| Ok(cx.b().transpose(y, &to_last)?)).collect()
}

/// A convolution with an activation.
pub(super) fn fused_conv(cx: &mut Cx<'_, '_>) -> Imported {
    let mut y = super::conv::conv(cx)?[0];
    y = plus(cx, y, 3)?;
    let params = cx.floats("activation_params").unwrap_or_default();
    let param = |at: usize, default: f32| f64::from(params.get(at).copied().unwrap_or(default));
    y = match cx.string("activation", "").as_str() {
        "" => y,
        "Relu" => cx.b().unary(Unary::Relu, y)?,
        "Sigmoid" => cx.b().unary(Unary::Sigmoid, y)?,
        "Tanh" => cx.b().unary(Unary::Tanh, y)?,
        "LeakyRelu" => {
            let small = cx.b().binary_scalar(Binary::Mul, y, param(0, 0.01))?;
            let below = cx.b().binary_scalar(Binary::Lt, y, 0.0)?;
            cx.b().select(below, small, y)?
        }
        "Clip" => {
            let low = cx.b().binary_scalar(Binary::Max, y, param(0, f32::MIN))?;
            cx.b().binary_scalar(Binary::Min, low, param(1, f32::MAX))?
        }
        "HardSigmoid" => {
            let scaled = cx.b().binary_scalar(Binary::Mul, y, param(0, 0.2))?;
            let moved = cx.b().binary_scalar(Binary::Add, scaled, param(1, 0.5))?;
            let low = cx.b().binary_scalar(Binary::Max, moved, 0.0)?;
            cx.b().binary_scalar(Binary::Min, low, 1.0)?
        }
        other => return unsupported(format!("the activation \"{}\" is not known", other.escape_debug())),
    };
    Ok(vec![y])
}

/// An LSTM whose weights are bytes [D, i, 4·H] and [D, H, 4·H] with a scale and zero point per direction or per column.
pub(super) fn dynamic_lstm(cx: &mut Cx<'_, '_>) -> Imported {
    for (weight, scale, zero) in [(1, 8, 9), (2, 10, 11)] {
        let (bytes, scale) = (cx.x(weight)?, cx.x(scale)?);
        let shape = cx.shape(bytes);
        if shape.rank() != 3 {
            return malformed(format!("a weight has rank {}, allowed: 3", shape.rank()));
        }
        let dtype = cx.dtype(bytes);
        let zero = match cx.opt(zero) {
            Some(zero) => zero,
            None => cx.filled(dtype, Shape::scalar(), 0.0)?,
        };
        let mut params = Vec::new();
        for param in [scale, zero] {
            let own = cx.shape(param);
            let dims = match &own[..] {
                [] => vec![],
                &[n] if n == shape[0] => vec![n, 1, 1],
                &[n] => vec![1, 1, n],
                &[d, n] => vec![d, 1, n],
                _ => return malformed(format!("a parameter is {own}, allowed: rank 0 to 2")),
            };
            params.push(cx.b().reshape(param, dims)?);
        }
        let real = cx.b().op(Op::Dequantize, &[bytes, params[0], params[1]])?;
        let turned = cx.b().transpose(real, &[0, 2, 1])?;
        cx.set(weight, turned);
    }
    super::rnn::lstm(cx)
}
