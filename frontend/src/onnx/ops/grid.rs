//! Sampling at positions known at run time: affine grids and grid samples.

use super::elementwise::with;
use super::index::count_along;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::{Binary, Range, Unary};
use lockstep_graph::{DType, Op, ValueId};

/// Positions −1..1 of an axis: of the corners, or of the middles of the elements.
fn positions(
    cx: &mut Cx<'_, '_>,
    dtype: DType,
    dim: usize,
    axis: usize,
    rank: usize,
    corners: bool,
) -> Result<ValueId, Fail> {
    let counts = count_along(cx, dtype, dim, axis, rank)?;
    let (shift, scale) = if corners {
        (0.0, 2.0 / dim.saturating_sub(1).max(1) as f64)
    } else {
        (0.5, 2.0 / dim as f64)
    };
    let shifted = with(cx, Binary::Add, counts, shift)?;
    let scaled = with(cx, Binary::Mul, shifted, scale)?;
    with(cx, Binary::Sub, scaled, 1.0)
}

/// The homogeneous positions of an output grid times each batch's matrix.
pub(super) fn affine_grid(cx: &mut Cx<'_, '_>) -> Imported {
    let theta = cx.x(0)?;
    let size = cx.need_ints(1, "the size")?;
    let corners = cx.flag("align_corners", false);
    let dims = size
        .iter()
        .map(|&dim| usize::try_from(dim).or_else(|_| malformed(format!("a dimension is {dim}"))))
        .collect::<Result<Vec<_>, _>>()?;
    let spatial = match dims.len() {
        4 | 5 => &dims[2..],
        other => return malformed(format!("the size has {other} entries, allowed: 4, 5")),
    };
    let (r, dtype) = (spatial.len(), cx.dtype(theta));
    let full: Vec<usize> = spatial.iter().copied().chain([1]).collect();
    let mut columns = Vec::new();
    // The innermost axis is x, the first coordinate.
    for axis in (0..r).rev() {
        let line = positions(cx, dtype, spatial[axis], axis, r + 1, corners)?;
        columns.push(cx.b().expand(line, full.clone())?);
    }
    columns.push(cx.filled(dtype, full, 1.0)?);
    let points: usize = spatial.iter().product();
    let b = cx.b();
    let grid = b.concat(&columns, r)?;
    let grid = b.reshape(grid, [1, points, r + 1])?;
    let turned = b.transpose(theta, &[0, 2, 1])?;
    let moved = b.matmul(grid, turned)?;
    let shape = [&dims[..1], spatial, &[r]].concat();
    Ok(vec![b.reshape(moved, shape)?])
}

/// What lies outside of the image.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// How the weighted neighbours of a position become one value.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Blend {
    Sum,
    /// The greatest of them.
    Greatest,
}

/// One neighbour along one axis: its index as a float, and its weight unless that is 1.
type Tap = (ValueId, Option<ValueId>);

/// The neighbours of positions x along an axis.
fn taps(cx: &mut Cx<'_, '_>, x: ValueId, mode: &str) -> Result<Vec<Tap>, Fail> {
    if mode == "nearest" {
        return Ok(vec![(cx.b().unary(Unary::Round, x)?, None)]);
    }
    let base = cx.b().unary(Unary::Floor, x)?;
    let t = cx.b().binary(Binary::Sub, x, base)?;
    if mode != "cubic" {
        let one = cx.b().scalar_like(t, 1.0);
        let rest = cx.b().binary(Binary::Sub, one, t)?;
        return Ok(vec![(base, Some(rest)), (with(cx, Binary::Add, base, 1.0)?, Some(t))]);
    }
    // Keys' kernel with a = -0.75: at distance d a cubic polynomial inside 1, another one inside 2.
    const A: f64 = -0.75;
    let polynomial = |cx: &mut Cx<'_, '_>, d: ValueId, coefficients: [f64; 4]| -> Result<ValueId, Fail> {
        let mut sum = with(cx, Binary::Mul, d, coefficients[0])?;
        for &coefficient in &coefficients[1..3] {
            sum = with(cx, Binary::Add, sum, coefficient)?;
            sum = cx.b().binary(Binary::Mul, sum, d)?;
        }
        with(cx, Binary::Add, sum, coefficients[3])
    };
    let (near, far) = ([A + 2.0, -(A + 3.0), 0.0, 1.0], [A, -5.0 * A, 8.0 * A, -4.0 * A]);
    let mut taps = Vec::new();
    for (offset, coefficients) in [(-1.0, far), (0.0, near), (1.0, near), (2.0, far)] {
        let signed = with(cx, Binary::Sub, t, offset)?;
        let distance = cx.b().unary(Unary::Abs, signed)?;
        let weight = polynomial(cx, distance, coefficients)?;
        taps.push((with(cx, Binary::Add, base, offset)?, Some(weight)));
    }
    Ok(taps)
}

/// An index inside the axis, and the weight with what lies outside taken out.
fn inside(cx: &mut Cx<'_, '_>, (index, weight): Tap, dim: usize, outside: Outside, corners: bool) -> Result<Tap, Fail> {
    let last = dim as f64 - 1.0;
    let mut index = index;
    let mut weight = weight;
    if outside == Outside::Zeros {
        let (low, high) = (with(cx, Binary::Ge, index, 0.0)?, with(cx, Binary::Le, index, last)?);
        let keep = cx.b().binary(Binary::And, low, high)?;
        let (zero, one) = (cx.b().scalar_like(index, 0.0), cx.b().scalar_like(index, 1.0));
        weight = Some(cx.b().select(keep, weight.unwrap_or(one), zero)?);
    }
    let (low, high) = if corners { (0.0, last) } else { (-0.5, last + 0.5) };
    if outside == Outside::Reflection && high > low {
        // Distance from the lower edge, folded over a period of twice the span.
        let span = high - low;
        let distance = with(cx, Binary::Sub, index, low)?;
        let distance = cx.b().unary(Unary::Abs, distance)?;
        let periods = with(cx, Binary::Div, distance, 2.0 * span)?;
        let whole = cx.b().unary(Unary::Floor, periods)?;
        let whole = with(cx, Binary::Mul, whole, 2.0 * span)?;
        let phase = cx.b().binary(Binary::Sub, distance, whole)?;
        let centred = with(cx, Binary::Sub, phase, span)?;
        let centred = cx.b().unary(Unary::Abs, centred)?;
        let negated = cx.b().unary(Unary::Neg, centred)?;
        index = with(cx, Binary::Add, negated, span + low)?;
    }
    index = with(cx, Binary::Max, index, 0.0)?;
    Ok((with(cx, Binary::Min, index, last)?, weight))
}

/// Sums neighbours, gathered with the channels last, by the products of their weights along the axes.
pub(super) fn grid_sample(cx: &mut Cx<'_, '_>) -> Imported {
    let (x, grid) = (cx.x(0)?, cx.x(1)?);
    let (shape, grid_shape) = (cx.shape(x), cx.shape(grid));
    let r = shape.rank().saturating_sub(2);
    if !(2..=3).contains(&r)
        || grid_shape.rank() != r + 2
        || grid_shape[r + 1] != r
        || grid_shape[0] != shape[0]
        || shape.contains(&0)
    {
        return malformed(format!("input {shape} and grid {grid_shape} do not fit"));
    }
    let mode = match cx.string("mode", "linear").as_str() {
        "bilinear" | "linear" => "linear",
        "nearest" => "nearest",
        "bicubic" | "cubic" if r == 2 => "cubic",
        other => {
            return unsupported(format!(
                "mode \"{}\" in {r} dimensions is not supported",
                other.escape_debug()
            ));
        }
    };
    let outside = match cx.string("padding_mode", "zeros").as_str() {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => {
            return malformed(format!(
                "padding_mode is \"{}\", allowed: zeros, border, reflection",
                other.escape_debug()
            ));
        }
    };
    let corners = cx.flag("align_corners", false);
    let points: usize = grid_shape[1..=r].iter().product();
    let batch = shape[0];
    let flat = cx.b().reshape(grid, [batch, points, r])?;
    let mut places = Vec::new();
    for axis in 0..r {
        // The first coordinate belongs to the innermost axis.
        let at = r - 1 - axis;
        let column = cx.b().narrow(flat, 2, Range::of(at, at + 1))?;
        let dim = shape[2 + axis];
        let (shift, scale, less) = if corners {
            (1.0, (dim as f64 - 1.0) / 2.0, 0.0)
        } else {
            (1.0, dim as f64 / 2.0, 0.5)
        };
        let shifted = with(cx, Binary::Add, column, shift)?;
        let scaled = with(cx, Binary::Mul, shifted, scale)?;
        places.push(with(cx, Binary::Sub, scaled, less)?);
    }
    let perm: Vec<usize> = [0].into_iter().chain(2..r + 2).chain([1]).collect();
    let image = cx.b().transpose(x, &perm)?;
    let total = sample(cx, image, &places, mode, outside, corners, Blend::Sum)?;
    let turned = cx.b().transpose(total, &[0, 2, 1])?;
    let result = [&shape[..2], &grid_shape[1..=r]].concat();
    Ok(vec![cx.b().reshape(turned, result)?])
}

/// Values [b, points, c] of an image [b, d.., c] at fractional positions, one [b, points, 1] per axis d: `linear`, `nearest` or `cubic`.
pub(super) fn sample(
    cx: &mut Cx<'_, '_>,
    image: ValueId,
    places: &[ValueId],
    mode: &str,
    outside: Outside,
    corners: bool,
    blend: Blend,
) -> Result<ValueId, Fail> {
    let shape = cx.shape(image);
    let mut axes: Vec<Vec<Tap>> = Vec::new();
    for (axis, &place) in places.iter().enumerate() {
        let taps = taps(cx, place, mode)?;
        axes.push(
            taps.into_iter()
                .map(|tap| inside(cx, tap, shape[1 + axis], outside, corners))
                .collect::<Result<_, _>>()?,
        );
    }
    let mut total: Option<ValueId> = None;
    let n: usize = axes.iter().map(Vec::len).product();
    for combination in 0..n {
        let mut rest = combination;
        let (mut indices, mut weight) = (Vec::new(), None::<ValueId>);
        for taps in &axes {
            let (index, factor) = taps[rest % taps.len()];
            rest /= taps.len();
            indices.push(cx.b().cast(index, DType::I64)?);
            weight = match (weight, factor) {
                (Some(a), Some(b)) => Some(cx.b().binary(Binary::Mul, a, b)?),
                (a, b) => a.or(b),
            };
        }
        let indices = cx.b().concat(&indices, 2)?;
        let mut value = cx.b().op(Op::GatherNd { batch_dims: 1 }, &[image, indices])?;
        if let Some(weight) = weight {
            let dtype = cx.dtype(value);
            let weight = cx.b().cast(weight, dtype)?;
            value = cx.b().binary(Binary::Mul, value, weight)?;
        }
        total = Some(match total {
            Some(sum) if blend == Blend::Sum => cx.b().binary(Binary::Add, sum, value)?,
            Some(best) => cx.b().binary(Binary::Max, best, value)?,
            None => value,
        });
    }
    match total {
        Some(total) => Ok(total),
        None => malformed("there is no axis to sample along"),
    }
}
