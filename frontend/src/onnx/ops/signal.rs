//! Windows and Fourier transforms; a transform is a product with a constant matrix.

use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use crate::tensor::Tensor;
use lockstep_graph::op::{Binary, PadMode, Range, Scalar};
use lockstep_graph::{DType, Op, ValueId};
use std::f64::consts::TAU;

/// Longest transform, window or step.
const MAX_LENGTH: usize = 1 << 12;
/// Most indices that frames are gathered by.
const MAX_INDICES: usize = 1 << 22;

fn length(value: i64) -> Result<usize, Fail> {
    match usize::try_from(value) {
        Ok(n) if (1..=MAX_LENGTH).contains(&n) => Ok(n),
        _ => unsupported(format!(
            "a length of {value} is not supported, allowed: 1 to {MAX_LENGTH}"
        )),
    }
}

pub(super) fn window(cx: &mut Cx<'_, '_>) -> Imported {
    let size = length(cx.need_int(0, "the size")?)?;
    let period = if cx.flag("periodic", true) {
        size
    } else {
        size.saturating_sub(1).max(1)
    } as f64;
    let dtype = cx.dtype_attr("output_datatype")?.unwrap_or(DType::F32);
    if !dtype.is_float() {
        return unsupported(format!("a window of {dtype} is not supported"));
    }
    let [a, b, c] = match cx.op_type() {
        "HannWindow" => [0.5, 0.5, 0.0],
        "HammingWindow" => [25.0 / 46.0, 21.0 / 46.0, 0.0],
        _ => [0.42, 0.5, 0.08],
    };
    let at = |n: usize| {
        let angle = TAU * n as f64 / period;
        a - b * libm::cos(angle) + c * libm::cos(2.0 * angle)
    };
    Ok(vec![cx.constant(&Tensor::floats(
        dtype,
        [size],
        (0..size).map(at).collect(),
    ))?])
}

/// The matrix [n·c, k·2] that takes n values with c components (1 real, 2 complex) to k complex values.
fn matrix(cx: &mut Cx<'_, '_>, dtype: DType, n: usize, c: usize, k: usize, inverse: bool) -> Result<ValueId, Fail> {
    let mut data = Vec::with_capacity(n * c * k * 2);
    let scale = if inverse { 1.0 / n as f64 } else { 1.0 };
    for from in 0..n {
        for component in 0..c {
            for to in 0..k {
                // The exponent is reduced modulo n first, so that large products stay exact.
                let angle = TAU * (from * to % n) as f64 / n as f64;
                let (cos, sin) = (
                    libm::cos(angle) * scale,
                    libm::sin(angle) * if inverse { scale } else { -scale },
                );
                data.extend(if component == 0 { [cos, sin] } else { [-sin, cos] });
            }
        }
    }
    cx.constant(&Tensor::floats(dtype, [n * c, k * 2], data))
}

/// The transform of x [.., n, c] along its last but one axis, as [.., k, 2].
fn transform(cx: &mut Cx<'_, '_>, x: ValueId, k: usize, inverse: bool) -> Result<ValueId, Fail> {
    let (shape, dtype) = (cx.shape(x), cx.dtype(x));
    let &[.., n, c] = &shape[..] else {
        return malformed(format!("input {shape} has rank {}, allowed: 2 or more", shape.rank()));
    };
    if !(1..=2).contains(&c) || !dtype.is_float() {
        return malformed(format!("input {dtype}{shape} is neither real nor complex"));
    }
    let matrix = matrix(cx, dtype, n, c, k, inverse)?;
    let lead = &shape[..shape.rank() - 2];
    let flat = cx.b().reshape(x, [lead, &[n * c]].concat())?;
    let product = cx.b().matmul(flat, matrix)?;
    Ok(cx.b().reshape(product, [lead, &[k, 2]].concat())?)
}

pub(super) fn dft(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let rank = cx.rank(x);
    let axis = match (cx.opset >= 20, cx.opt(2)) {
        (false, _) => cx.int("axis", 1),
        (true, Some(_)) => cx.need_int(2, "the axis")?,
        (true, None) => -2,
    };
    let axis = cx.axis(axis, rank)?;
    if axis + 1 == rank {
        return malformed("the transformed axis is the last one");
    }
    let (inverse, one_sided) = (cx.flag("inverse", false), cx.flag("onesided", false));
    let dim = cx.shape(x)[axis];
    if inverse && one_sided {
        return real_inverse(cx, x, axis, dim);
    }
    let n = length(if cx.opt(1).is_some() {
        cx.need_int(1, "dft_length")?
    } else {
        dim as i64
    })?;
    let mut value = cx.b().narrow(x, axis, Range::of(0, dim.min(n)))?;
    if n > dim {
        let mut pads = vec![(0, 0); rank];
        pads[axis].1 = n - dim;
        value = cx.b().op(
            Op::Pad {
                pads,
                mode: PadMode::Constant(Scalar::Float(0.0)),
            },
            &[value],
        )?;
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 2);
    let turned = cx.b().transpose(value, &perm)?;
    let k = if one_sided { n / 2 + 1 } else { n };
    let result = transform(cx, turned, k, inverse)?;
    Ok(vec![cx.b().transpose(result, &perm)?])
}

/// The real signal of a one-sided spectrum: [.., k, 2] to [.., n, 1].
fn real_inverse(cx: &mut Cx<'_, '_>, x: ValueId, axis: usize, dim: usize) -> Imported {
    let (rank, dtype) = (cx.rank(x), cx.dtype(x));
    let n = length(if cx.opt(1).is_some() {
        cx.need_int(1, "dft_length")?
    } else {
        2 * dim as i64 - 2
    })?;
    let k = (n / 2 + 1).min(dim);
    if cx.shape(x)[rank - 1] != 2 {
        return malformed("a one-sided inverse transform takes complex elements");
    }
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis, rank - 2);
    let value = cx.b().narrow(x, axis, Range::of(0, k))?;
    let turned = cx.b().transpose(value, &perm)?;
    let lead = cx.shape(turned)[..rank - 2].to_vec();
    // Every bin but the first and the middle one stands for two.
    let mut data = Vec::with_capacity(k * 2 * n);
    for bin in 0..k {
        let weight = if bin == 0 || 2 * bin == n { 1.0 } else { 2.0 } / n as f64;
        let angle = |at: usize| TAU * (bin * at % n) as f64 / n as f64;
        data.extend((0..n).map(|at| weight * libm::cos(angle(at))));
        data.extend((0..n).map(|at| -weight * libm::sin(angle(at))));
    }
    let matrix = cx.constant(&Tensor::floats(dtype, [k * 2, n], data))?;
    let flat = cx.b().reshape(turned, [lead.as_slice(), &[k * 2]].concat())?;
    let product = cx.b().matmul(flat, matrix)?;
    let result = cx.b().reshape(product, [lead.as_slice(), &[n, 1]].concat())?;
    Ok(vec![cx.b().transpose(result, &perm)?])
}

/// The triangles of the mel scale over the bins of a spectrum, [bins, bands].
pub(super) fn mel_weights(cx: &mut Cx<'_, '_>) -> Imported {
    let (bands, n) = (
        length(cx.need_int(0, "num_mel_bins")?)?,
        length(cx.need_int(1, "dft_length")?)?,
    );
    let rate = cx.need_float(2, "sample_rate")?;
    let mel = |hertz: f64| 2595.0 * libm::log10(1.0 + hertz / 700.0);
    let (low, high) = (
        mel(cx.need_float(3, "lower_edge_hertz")?),
        mel(cx.need_float(4, "upper_edge_hertz")?),
    );
    let dtype = cx.dtype_attr("output_datatype")?.unwrap_or(DType::F32);
    let bins = n / 2 + 1;
    let step = (high - low) / (bands + 2) as f64;
    let edge = |at: usize| {
        let hertz = 700.0 * (libm::pow(10.0, (at as f64 * step + low) / 2595.0) - 1.0);
        libm::floor((n as f64 + 1.0) * hertz / rate)
    };
    let edges: Vec<f64> = (0..bands + 2).map(edge).collect();
    if edges.iter().any(|e| !(0.0..bins as f64).contains(e)) {
        return malformed(format!("the bands reach beyond the {bins} bins of the spectrum"));
    }
    let mut data = vec![0.0; bins * bands];
    for band in 0..bands {
        let [left, centre, right] = [edges[band], edges[band + 1], edges[band + 2]];
        for bin in 0..bins {
            let at = bin as f64;
            let slot = &mut data[bin * bands + band];
            if at >= centre && at < right {
                *slot = (right - at) / (right - centre);
            } else if at >= left && at <= centre {
                *slot = if centre == left {
                    1.0
                } else {
                    (at - left) / (centre - left)
                };
            }
        }
    }
    Ok(vec![cx.constant(&Tensor::floats(dtype, [bins, bands], data))?])
}

/// Frames are gathered, windowed and transformed.
pub(super) fn stft(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let shape = cx.shape(x);
    let &[_, samples, _] = &shape[..] else {
        return malformed(format!("signal {shape} has rank {}, allowed: 3", shape.rank()));
    };
    let step = length(cx.need_int(1, "frame_step")?)?;
    let window = cx.opt(2);
    let n = match (cx.opt(3), window) {
        (Some(_), _) => length(cx.need_int(3, "frame_length")?)?,
        (None, Some(window)) => length(cx.shape(window).n_elements() as i64)?,
        (None, None) => return malformed("neither a window nor frame_length is given"),
    };
    if n > samples {
        return malformed(format!("a frame has {n} samples, the signal {samples}"));
    }
    let frames = (samples - n) / step + 1;
    if frames * n > MAX_INDICES {
        return unsupported(format!(
            "{frames} frames of {n} samples are not supported, allowed: {MAX_INDICES} samples"
        ));
    }
    let starts = (0..frames).flat_map(|frame| (0..n).map(move |at| (frame * step + at) as i128));
    let indices = cx.constant(&Tensor::ints(DType::I64, [frames, n], starts.collect()))?;
    let mut framed = cx.b().op(Op::Gather { axis: 1 }, &[x, indices])?;
    if let Some(window) = window {
        let window = cx.b().reshape(window, [n, 1])?;
        framed = cx.b().binary(Binary::Mul, framed, window)?;
    }
    let k = if cx.flag("onesided", true) { n / 2 + 1 } else { n };
    Ok(vec![transform(cx, framed, k, false)?])
}
