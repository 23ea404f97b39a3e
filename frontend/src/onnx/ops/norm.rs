//! Normalisations and the softmax family.

use super::elementwise::with;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use crate::tensor::Tensor;
use lockstep_graph::op::{Binary, Conv, Reduce, Unary};
use lockstep_graph::{DType, Op, Shape, ValueId};

/// Mean and variance over axes, both with the axes kept.
fn statistics(cx: &mut Cx<'_, '_>, x: ValueId, axes: &[usize]) -> Result<(ValueId, ValueId), Fail> {
    let mean = cx.b().reduce(Reduce::Mean, x, axes, true)?;
    let centred = cx.b().binary(Binary::Sub, x, mean)?;
    let square = cx.b().binary(Binary::Mul, centred, centred)?;
    let variance = cx.b().reduce(Reduce::Mean, square, axes, true)?;
    Ok((mean, variance))
}

pub(super) fn batch(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dtype = cx.dtype(x);
    let eps = cx.float("epsilon", 1e-5);
    let mut params = Vec::new();
    for at in 1..5 {
        let param = cx.x(at)?;
        params.push(cx.b().cast(param, dtype)?);
    }
    if !cx.flag("training_mode", false) {
        let inputs: Vec<ValueId> = [x].into_iter().chain(params).collect();
        return Ok(vec![cx.b().op(Op::BatchNorm { eps }, &inputs)?]);
    }
    let axes: Vec<usize> = (0..cx.rank(x)).filter(|&axis| axis != 1).collect();
    let (mean, variance) = statistics(cx, x, &axes)?;
    let channels = cx.shape(params[0]);
    let (mean, variance) = (
        cx.b().reshape(mean, channels.clone())?,
        cx.b().reshape(variance, channels)?,
    );
    let momentum = f64::from(cx.float("momentum", 0.9));
    let y = cx
        .b()
        .op(Op::BatchNorm { eps }, &[x, params[0], params[1], mean, variance])?;
    let mut results = vec![y];
    for (running, now) in [(params[2], mean), (params[3], variance)] {
        let (old, new) = (
            with(cx, Binary::Mul, running, momentum)?,
            with(cx, Binary::Mul, now, 1.0 - momentum)?,
        );
        results.push(cx.b().binary(Binary::Add, old, new)?);
    }
    Ok(results)
}

/// Normalises groups of consecutive channels: x as [n, groups, rest].
fn grouped(cx: &mut Cx<'_, '_>, x: ValueId, groups: usize, eps: f32) -> Result<ValueId, Fail> {
    let shape = cx.shape(x);
    if shape.rank() < 2 || groups == 0 || !shape[1].is_multiple_of(groups) {
        return malformed(format!("input {shape} does not split into {groups} groups"));
    }
    let rest = shape[1..].iter().product::<usize>() / groups;
    let flat = cx.b().reshape(x, [shape[0], groups, rest])?;
    Ok(cx.b().op(Op::LayerNorm { axis: 2, eps }, &[flat])?)
}

/// x · scale + bias with one scale per channel.
fn per_channel(cx: &mut Cx<'_, '_>, x: ValueId, scale: ValueId, bias: ValueId) -> Result<ValueId, Fail> {
    let rank = cx.rank(x);
    let (dtype, channels) = (cx.dtype(x), cx.shape(scale).n_elements());
    let mut shape = vec![1; rank - 1];
    shape[0] = channels;
    let (scale, bias) = (cx.b().cast(scale, dtype)?, cx.b().cast(bias, dtype)?);
    let (scale, bias) = (cx.b().reshape(scale, shape.clone())?, cx.b().reshape(bias, shape)?);
    let scaled = cx.b().binary(Binary::Mul, x, scale)?;
    Ok(cx.b().binary(Binary::Add, scaled, bias)?)
}

pub(super) fn instance(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, scale, bias) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let shape = cx.shape(x);
    let channels = shape.get(1).copied().unwrap_or(0);
    let eps = cx.float("epsilon", 1e-5);
    let normal = grouped(cx, x, channels, eps)?;
    let normal = cx.b().reshape(normal, shape)?;
    Ok(vec![per_channel(cx, normal, scale, bias)?])
}

/// Scales are per group before opset 21 and per channel from there on.
pub(super) fn group(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, scale, bias) = (cx.x(0)?, cx.x(1)?, cx.x(2)?);
    let shape = cx.shape(x);
    let groups = usize::try_from(cx.int("num_groups", 0)).unwrap_or(0);
    let eps = cx.float("epsilon", 1e-5);
    let normal = grouped(cx, x, groups, eps)?;
    let per_group = cx.shape(scale).n_elements() == groups && cx.opset < 21;
    let normal = if per_group {
        per_channel(cx, normal, scale, bias)?
    } else {
        normal
    };
    let normal = cx.b().reshape(normal, shape)?;
    Ok(vec![if per_group {
        normal
    } else {
        per_channel(cx, normal, scale, bias)?
    }])
}

pub(super) fn layer(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, scale) = (cx.x(0)?, cx.x(1)?);
    let dtype = cx.dtype(x);
    let axis = cx.axis(cx.int("axis", -1), cx.rank(x))?;
    let eps = cx.float("epsilon", 1e-5);
    let mut inputs = vec![x, cx.b().cast(scale, dtype)?];
    if let Some(bias) = cx.opt(2) {
        inputs.push(cx.b().cast(bias, dtype)?);
    }
    let mut results = vec![cx.b().op(Op::LayerNorm { axis, eps }, &inputs)?];
    if cx.n_outputs() > 1 {
        let axes: Vec<usize> = (axis..cx.rank(x)).collect();
        let wide = cx.b().cast(x, DType::F32)?;
        let (mean, variance) = statistics(cx, wide, &axes)?;
        let shifted = with(cx, Binary::Add, variance, f64::from(eps))?;
        results.extend([mean, cx.b().unary(Unary::Rsqrt, shifted)?]);
    }
    Ok(results)
}

pub(super) fn rms(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, scale) = (cx.x(0)?, cx.x(1)?);
    let dtype = cx.dtype(x);
    let axis = cx.axis(cx.int("axis", -1), cx.rank(x))?;
    let eps = cx.float("epsilon", 1e-5);
    let scale = cx.b().cast(scale, dtype)?;
    Ok(vec![cx.b().op(Op::RmsNorm { axis, eps }, &[x, scale])?])
}

/// Most channels over which the sum of an LRN is a product with a banded matrix.
const MAX_BAND: usize = 2048;

/// x / (bias + alpha/size · Σ x² over neighbouring channels)^beta; the sum is a convolution with a banded matrix, which leaves the
/// channels where they are.
pub(super) fn lrn(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let shape = cx.shape(x);
    let size = usize::try_from(cx.int("size", 0)).unwrap_or(0);
    if size == 0 || shape.rank() < 2 {
        return malformed(format!(
            "size is {size} and the rank {}, allowed: positive, and 2 or more",
            shape.rank()
        ));
    }
    if shape[1] > MAX_BAND {
        return unsupported(format!("{} channels, allowed: at most {MAX_BAND}", shape[1]));
    }
    let (alpha, beta, bias) = (cx.float("alpha", 1e-4), cx.float("beta", 0.75), cx.float("bias", 1.0));
    let square = cx.b().binary(Binary::Mul, x, x)?;
    // A convolution has at least one spatial axis.
    let (channels, spatial) = (shape[1], (shape.rank() - 2).max(1));
    let mut long = shape.to_vec();
    long.resize(2 + spatial, 1);
    let long = cx.b().reshape(square, long)?;
    let (before, after) = ((size - 1) / 2, size / 2);
    let share = f64::from(alpha) / size as f64;
    let near = |o: usize, i: usize| i + before >= o && i <= o.saturating_add(after);
    let band = (0..channels * channels).map(|at| if near(at / channels, at % channels) { share } else { 0.0 });
    let mut dims = vec![channels, channels];
    dims.resize(2 + spatial, 1);
    let band = cx.constant(&Tensor::floats(cx.dtype(x), dims, band.collect()))?;
    let conv = Conv {
        strides: vec![1; spatial],
        dilations: vec![1; spatial],
        pads: vec![(0, 0); spatial],
        groups: 1,
    };
    let scaled = cx.b().op(Op::Conv(conv), &[long, band])?;
    let scaled = cx.b().reshape(scaled, shape)?;
    let shifted = with(cx, Binary::Add, scaled, f64::from(bias))?;
    let power = with(cx, Binary::Pow, shifted, f64::from(beta))?;
    Ok(vec![cx.b().binary(Binary::Div, x, power)?])
}

/// x / norm; 0 where the norm is 0.
pub(super) fn lp(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let axis = cx.axis(cx.int("axis", -1), cx.rank(x))?;
    let norm = if cx.int("p", 2) == 1 {
        let abs = cx.b().unary(Unary::Abs, x)?;
        cx.b().reduce(Reduce::Sum, abs, &[axis], true)?
    } else {
        let square = cx.b().binary(Binary::Mul, x, x)?;
        let sum = cx.b().reduce(Reduce::Sum, square, &[axis], true)?;
        cx.b().unary(Unary::Sqrt, sum)?
    };
    let none = with(cx, Binary::Eq, norm, 0.0)?;
    let quotient = cx.b().binary(Binary::Div, x, norm)?;
    let zero = cx.b().scalar_like(x, 0.0);
    Ok(vec![cx.b().select(none, zero, quotient)?])
}

pub(super) fn mean_variance(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let axes = cx.axes(&cx.ints("axes").unwrap_or_else(|| vec![0, 2, 3]), cx.rank(x))?;
    let (mean, variance) = statistics(cx, x, &axes)?;
    let deviation = cx.b().unary(Unary::Sqrt, variance)?;
    let shifted = with(cx, Binary::Add, deviation, 1e-9)?;
    let centred = cx.b().binary(Binary::Sub, x, mean)?;
    Ok(vec![cx.b().binary(Binary::Div, centred, shifted)?])
}

/// The operand and axis of a softmax: before opset 13 all axes from `axis` on are one.
fn flattened(cx: &mut Cx<'_, '_>, x: ValueId) -> Result<(ValueId, usize), Fail> {
    let shape = cx.shape(x);
    if cx.opset >= 13 {
        let axis = cx.axis(cx.int("axis", -1), shape.rank())?;
        return Ok((x, axis));
    }
    let axis = cx.axis(cx.int("axis", 1), shape.rank())?;
    if axis + 1 == shape.rank() {
        return Ok((x, axis));
    }
    let flat: [usize; 2] = [shape[..axis].iter().product(), shape[axis..].iter().product()];
    Ok((cx.b().reshape(x, flat)?, 1))
}

pub(super) fn softmax(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let log = cx.op_type() == "LogSoftmax";
    let shape = cx.shape(x);
    let (flat, axis) = flattened(cx, x)?;
    let result = cx.b().op(Op::Softmax { axis, log }, &[flat])?;
    Ok(vec![cx.b().reshape(result, shape)?])
}

pub(super) fn hardmax(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let (dtype, shape) = (cx.dtype(x), cx.shape(x));
    let (flat, axis) = flattened(cx, x)?;
    let best = cx.b().op(
        Op::Arg {
            max: true,
            axis,
            keepdims: true,
            last: false,
        },
        &[flat],
    )?;
    let flat_shape = cx.shape(flat);
    let mut along = vec![1; flat_shape.rank()];
    along[axis] = flat_shape[axis];
    let count = cx.constant(&Tensor::ints(
        DType::I64,
        Shape(along),
        (0..flat_shape[axis] as i128).collect(),
    ))?;
    let hit = cx.b().binary(Binary::Eq, count, best)?;
    let result = cx.b().cast(hit, dtype)?;
    Ok(vec![cx.b().reshape(result, shape)?])
}
