//! Resizing: every axis by itself, as a gather (nearest) or a product with a constant matrix (linear, cubic).

use crate::onnx::cx::{Cx, Fail, Imported, malformed};
use crate::onnx::tensor::encode_floats;
use lockstep_graph::op::{Binary, Scalar};
use lockstep_graph::{DType, Op, Shape, ValueId};

/// How a result position maps to a source position.
struct Axis {
    dim: usize,
    out: usize,
    scale: f64,
    roi: (f64, f64),
}

/// Interpolation of all axes.
struct Method {
    mode: String,
    transform: String,
    nearest: String,
    cubic_a: f64,
    exclude_outside: bool,
    antialias: bool,
}

impl Axis {
    /// The source position of result element `at`.
    fn source(&self, at: usize, transform: &str) -> Result<f64, Fail> {
        let (x, dim, out) = (at as f64, self.dim as f64, self.scale * self.dim as f64);
        let half = (x + 0.5) / self.scale - 0.5;
        Ok(match transform {
            "half_pixel" => half,
            "pytorch_half_pixel" => {
                if self.out > 1 {
                    half
                } else {
                    0.0
                }
            }
            "half_pixel_symmetric" => half + dim / 2.0 * (1.0 - self.out as f64 / out),
            "align_corners" => {
                if out == 1.0 {
                    0.0
                } else {
                    x * (dim - 1.0) / (out - 1.0)
                }
            }
            "asymmetric" => x / self.scale,
            "tf_crop_and_resize" => {
                let (start, end) = self.roi;
                if self.out > 1 {
                    start * (dim - 1.0) + x * (end - start) * (dim - 1.0) / (self.out as f64 - 1.0)
                } else {
                    0.5 * (start + end) * (dim - 1.0)
                }
            }
            other => {
                return malformed(format!(
                    "coordinate_transformation_mode \"{}\" is not known",
                    other.escape_debug()
                ));
            }
        })
    }

    /// Weights [out, dim] of the sources of each result element.
    fn weights(&self, method: &Method) -> Result<Vec<f32>, Fail> {
        let support = if method.mode == "linear" { 1.0 } else { 2.0 };
        let stretch = if method.antialias { self.scale.min(1.0) } else { 1.0 };
        let start = (-support / stretch).floor() as i64 + 1;
        let footprint = 2 - 2 * start;
        let mut matrix = vec![0f32; self.out * self.dim];
        for at in 0..self.out {
            let source = self.source(at, &method.transform)?;
            let (base, ratio) = (source.floor() as i64, source - source.floor());
            let mut row = vec![0f64; self.dim];
            let mut total = 0.0;
            for j in start..start + footprint {
                let weight = method.kernel((j as f64 - ratio) * stretch);
                let index = base + j;
                if method.exclude_outside && !(0..self.dim as i64).contains(&index) {
                    continue;
                }
                row[index.clamp(0, self.dim as i64 - 1) as usize] += weight;
                total += weight;
            }
            let normalise = if method.antialias || method.exclude_outside {
                total
            } else {
                1.0
            };
            for (slot, weight) in matrix[at * self.dim..(at + 1) * self.dim].iter_mut().zip(row) {
                *slot = (weight / normalise) as f32;
            }
        }
        Ok(matrix)
    }

    /// The nearest source of each result element.
    fn nearest(&self, method: &Method) -> Result<Vec<i64>, Fail> {
        let pick = |at: usize| {
            let source = self.source(at, &method.transform)?;
            let index = match method.nearest.as_str() {
                "round_prefer_floor" => (source - 0.5).ceil(),
                "round_prefer_ceil" => (source + 0.5).floor(),
                "floor" => source.floor(),
                "ceil" => source.ceil(),
                other => {
                    return malformed(format!("nearest_mode \"{}\" is not known", other.escape_debug()));
                }
            };
            Ok((index as i64).clamp(0, self.dim as i64 - 1))
        };
        (0..self.out).map(pick).collect()
    }
}

impl Method {
    /// Weight of a source at distance t.
    fn kernel(&self, t: f64) -> f64 {
        let (t, a) = (t.abs(), self.cubic_a);
        match self.mode.as_str() {
            "linear" => (1.0 - t).max(0.0),
            _ if t <= 1.0 => ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0,
            _ if t < 2.0 => a * (((t - 5.0) * t + 8.0) * t - 4.0),
            _ => 0.0,
        }
    }
}

pub(super) fn resize(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let old = cx.opset < 11;
    let axes = match cx.ints("axes") {
        Some(axes) => axes
            .iter()
            .map(|&axis| cx.axis(axis, dims.rank()))
            .collect::<Result<Vec<_>, _>>()?,
        None => (0..dims.rank()).collect(),
    };
    let method = Method {
        mode: cx.string("mode", "nearest"),
        transform: if old {
            "asymmetric".into()
        } else {
            cx.string("coordinate_transformation_mode", "half_pixel")
        },
        nearest: if old {
            "floor".into()
        } else {
            cx.string("nearest_mode", "round_prefer_floor")
        },
        cubic_a: f64::from(cx.float("cubic_coeff_a", -0.75)),
        exclude_outside: cx.flag("exclude_outside", false),
        antialias: cx.flag("antialias", false),
    };
    let present = |cx: &Cx<'_, '_>, at: usize| cx.opt(at).is_some_and(|value| cx.shape(value).n_elements() > 0);
    let roi = if method.transform == "tf_crop_and_resize" {
        cx.need(1, "roi")?.to_floats()
    } else {
        Vec::new()
    };
    let scales_at = if old { 1 } else { 2 };
    let mut plan: Vec<Option<Axis>> = dims.iter().map(|_| None).collect();
    let region = |at: usize| {
        (
            roi.get(at).copied().unwrap_or(0.0),
            roi.get(axes.len() + at).copied().unwrap_or(1.0),
        )
    };
    if present(cx, scales_at) {
        let scales = cx.need(scales_at, "scales")?.to_floats();
        check_len("scales", scales.len(), axes.len())?;
        for (at, &axis) in axes.iter().enumerate() {
            let out = (dims[axis] as f64 * scales[at]).floor();
            plan[axis] = Some(Axis {
                dim: dims[axis],
                out: out_size(out)?,
                scale: scales[at],
                roi: region(at),
            });
        }
    } else {
        let sizes = cx.need_ints(3, "sizes")?;
        check_len("sizes", sizes.len(), axes.len())?;
        let ratios = axes
            .iter()
            .zip(&sizes)
            .map(|(&axis, &size)| size as f64 / dims[axis] as f64);
        let shared = match cx.string("keep_aspect_ratio_policy", "stretch").as_str() {
            "stretch" => None,
            "not_larger" => ratios.reduce(f64::min),
            "not_smaller" => ratios.reduce(f64::max),
            other => {
                return malformed(format!(
                    "keep_aspect_ratio_policy \"{}\" is not known",
                    other.escape_debug()
                ));
            }
        };
        for (at, &axis) in axes.iter().enumerate() {
            let size = shared.map_or(sizes[at] as f64, |ratio| (ratio * dims[axis] as f64).round_ties_even());
            let scale = shared.unwrap_or(size / dims[axis] as f64);
            plan[axis] = Some(Axis {
                dim: dims[axis],
                out: out_size(size)?,
                scale,
                roi: region(at),
            });
        }
    }
    let outside = f64::from(cx.float("extrapolation_value", 0.0));
    Ok(vec![apply(cx, x, &plan, &method, outside)?])
}

/// Scales by the positions' quotient, with floor or linear interpolation.
pub(super) fn upsample(cx: &mut Cx<'_, '_>) -> Imported {
    let x = cx.x(0)?;
    let dims = cx.shape(x);
    let scales = match cx.floats("scales") {
        Some(scales) => scales.into_iter().map(f64::from).collect(),
        None => cx.need(1, "scales")?.to_floats(),
    };
    check_len("scales", scales.len(), dims.rank())?;
    let method = Method {
        mode: cx.string("mode", "nearest"),
        transform: "asymmetric".into(),
        nearest: "floor".into(),
        cubic_a: 0.0,
        exclude_outside: false,
        antialias: false,
    };
    let mut plan = Vec::new();
    for (&dim, &scale) in dims.iter().zip(&scales) {
        plan.push(Some(Axis {
            dim,
            out: out_size((dim as f64 * scale).floor())?,
            scale,
            roi: (0.0, 1.0),
        }));
    }
    Ok(vec![apply(cx, x, &plan, &method, 0.0)?])
}

fn check_len(what: &str, len: usize, expected: usize) -> Result<(), Fail> {
    if len == expected {
        Ok(())
    } else {
        malformed(format!("{what} has {len} entries, expected {expected}"))
    }
}

fn out_size(size: f64) -> Result<usize, Fail> {
    const MAX: f64 = (1u64 << 24) as f64;
    if (0.0..=MAX).contains(&size) {
        Ok(size as usize)
    } else {
        malformed(format!("a resized dimension is {size}, allowed: 0 to {MAX}"))
    }
}

/// Resizes the planned axes one after the other; then puts `outside` where a crop reads outside of the source.
fn apply(
    cx: &mut Cx<'_, '_>,
    x: ValueId,
    plan: &[Option<Axis>],
    method: &Method,
    outside: f64,
) -> Result<ValueId, Fail> {
    let dtype = cx.dtype(x);
    let is_nearest = method.mode == "nearest";
    if !matches!(method.mode.as_str(), "nearest" | "linear" | "cubic" | "bilinear") {
        return malformed(format!("mode \"{}\" is not known", method.mode.escape_debug()));
    }
    let crops = method.transform == "tf_crop_and_resize";
    let mut value = if is_nearest || dtype.is_float() {
        x
    } else {
        cx.b().cast(x, DType::F32)?
    };
    let mut inside: Option<ValueId> = None;
    for (axis, step) in plan
        .iter()
        .enumerate()
        .filter_map(|(axis, step)| step.as_ref().map(|step| (axis, step)))
    {
        let whole = step.out == step.dim
            && (step.scale == 1.0 || method.transform == "align_corners")
            && (!crops || step.roi == (0.0, 1.0));
        if whole || step.dim == 0 {
            continue;
        }
        if is_nearest {
            let indices = step.nearest(method)?;
            let indices = cx.b().i64s(&indices);
            value = cx.b().op(Op::Gather { axis }, &[value, indices])?;
        } else {
            if step.out.saturating_mul(step.dim) > 1 << 26 {
                return malformed(format!("resizing {} to {} elements is too large", step.dim, step.out));
            }
            let own = cx.dtype(value);
            let data = encode_floats(DType::F32, &step.weights(method)?);
            let matrix = cx.b().constant("", DType::F32, [step.out, step.dim], data)?;
            let rank = cx.rank(value);
            let b = cx.b();
            let matrix = b.cast(matrix, own)?;
            let matrix = b.transpose(matrix, &[1, 0])?;
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(axis, rank - 1);
            let turned = b.transpose(value, &perm)?;
            let product = b.matmul(turned, matrix)?;
            value = b.transpose(product, &perm)?;
        }
        if crops {
            let mut dims = vec![1; plan.len()];
            dims[axis] = step.out;
            let within = |at| {
                step.source(at, &method.transform)
                    .map(|s| u8::from(s >= 0.0 && s <= step.dim as f64 - 1.0))
            };
            let mask = (0..step.out).map(within).collect::<Result<Vec<u8>, _>>()?;
            let mask = cx.b().constant("", DType::Bool, Shape(dims), mask.into())?;
            inside = Some(match inside {
                Some(other) => cx.b().binary(Binary::And, other, mask)?,
                None => mask,
            });
        }
    }
    if let Some(inside) = inside {
        let own = cx.dtype(value);
        let scalar = if own.is_float() {
            Scalar::Float(outside)
        } else {
            Scalar::Int(outside as i128)
        };
        let outside = cx.b().scalar(own, scalar);
        value = cx.b().select(inside, value, outside)?;
    }
    Ok(cx.b().cast(value, dtype)?)
}
