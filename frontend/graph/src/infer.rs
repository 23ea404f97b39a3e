//! Result types of an operator from its operand types; the builder makes nodes with it and the verifier checks them with it.
//! One rule per operator, in one file beside the table of operators in [`crate::op`].

use crate::op::{Binary, Cell, Conv, ConvTranspose, Pool, PoolKind, Recurrent, Unary};
use crate::{DType, Op, Shape};

/// A tensor type.
pub type Type = (DType, Shape);

/// An operator that does not fit its operands; one line saying what was found and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {message}")]
pub struct OpError {
    /// Name of the operator.
    pub op: String,
    /// What was found and what is allowed.
    pub message: String,
}

/// Largest number of elements a tensor may have; keeps every byte offset far from overflow.
pub const MAX_ELEMENTS: usize = 1 << 44;

type Res<T> = Result<T, String>;

/// The types of the results of `op` on operands of these types.
///
/// # Errors
/// If the number, dtypes or shapes of the operands do not fit the operator or its attributes.
pub fn infer(op: &Op, inputs: &[(DType, &Shape)]) -> Result<Vec<Type>, OpError> {
    let results = results(op, inputs).and_then(|types| {
        for (_, shape) in &types {
            check_size(shape)?;
        }
        Ok(types)
    });
    results.map_err(|message| OpError { op: op.name(), message })
}

/// Checks that a shape's element count is sane.
pub(crate) fn check_size(shape: &Shape) -> Res<()> {
    let nonzero = shape
        .iter()
        .filter(|&&d| d != 0)
        .try_fold(1usize, |n, &d| n.checked_mul(d));
    match nonzero {
        Some(n) if n <= MAX_ELEMENTS => Ok(()),
        _ => Err(format!("shape {shape} has more than 2^44 elements")),
    }
}

fn results(op: &Op, inputs: &[(DType, &Shape)]) -> Res<Vec<Type>> {
    let arity = arity(op);
    if inputs.len() < arity.0 || inputs.len() > arity.1 {
        let allowed = if arity.0 == arity.1 {
            arity.0.to_string()
        } else {
            format!("{} to {}", arity.0, arity.1)
        };
        return Err(format!("has {} inputs, allowed: {allowed}", inputs.len()));
    }
    let (dtype, shape) = inputs[0];
    let one = |dtype: DType, shape: Shape| Ok(vec![(dtype, shape)]);
    match op {
        Op::Unary(kind) => {
            let legal = match kind {
                Unary::Not => !dtype.is_float(),
                Unary::Neg => dtype.is_float() || dtype.is_signed_int(),
                Unary::Abs | Unary::Sign | Unary::Relu => dtype != DType::Bool,
                _ => dtype.is_float(),
            };
            legal_dtype(legal, dtype)?;
            let result = if matches!(kind, Unary::IsNan | Unary::IsInf) {
                DType::Bool
            } else {
                dtype
            };
            one(result, shape.clone())
        }
        Op::Binary(kind) => {
            same_dtypes(inputs)?;
            let legal = match kind {
                Binary::Eq | Binary::Ne => true,
                Binary::And | Binary::Or | Binary::Xor => !dtype.is_float(),
                Binary::Shl | Binary::Shr => dtype.is_int() && !dtype.is_signed_int(),
                _ => dtype != DType::Bool,
            };
            legal_dtype(legal, dtype)?;
            one(if kind.is_compare() { DType::Bool } else { dtype }, broadcast(inputs)?)
        }
        Op::Where => {
            if dtype != DType::Bool {
                return Err(format!("condition is {dtype}, allowed: bool"));
            }
            same_dtypes(&inputs[1..])?;
            one(inputs[1].0, broadcast(inputs)?)
        }
        Op::Cast { to } => one(*to, shape.clone()),
        Op::MatMul => matmul(inputs),
        Op::Conv(conv) => self::conv(conv, inputs),
        Op::ConvTranspose(conv) => conv_transpose(conv, inputs),
        Op::Pool(pool) => self::pool(pool, dtype, shape),
        Op::Softmax { axis, .. } => {
            legal_dtype(dtype.is_float(), dtype)?;
            check_axis(*axis, shape)?;
            one(dtype, shape.clone())
        }
        Op::LayerNorm { axis, .. } | Op::RmsNorm { axis, .. } => {
            legal_dtype(dtype.is_float(), dtype)?;
            same_dtypes(inputs)?;
            check_axis(*axis, shape)?;
            let normalised = Shape::from(&shape[*axis..]);
            for (_, param) in &inputs[1..] {
                if !param.broadcasts_to(&normalised) {
                    return Err(format!(
                        "parameter has shape {param}, which does not broadcast to {normalised}"
                    ));
                }
            }
            one(dtype, shape.clone())
        }
        Op::BatchNorm { .. } => {
            legal_dtype(dtype.is_float(), dtype)?;
            same_dtypes(inputs)?;
            let channels = *shape
                .get(1)
                .ok_or_else(|| format!("input has rank {}, allowed: 2 or more", shape.rank()))?;
            for (_, param) in &inputs[1..] {
                expect_shape("parameter", param, &[channels])?;
            }
            one(dtype, shape.clone())
        }
        Op::Reduce { axes, keepdims, .. } => {
            legal_dtype(dtype != DType::Bool, dtype)?;
            if axes.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(format!("axes {axes:?} are not ascending"));
            }
            for axis in axes {
                check_axis(*axis, shape)?;
            }
            one(dtype, reduced(shape, axes, *keepdims))
        }
        Op::Arg { axis, keepdims, .. } => {
            check_axis(*axis, shape)?;
            if shape[*axis] == 0 {
                return Err("the searched axis is empty".into());
            }
            one(DType::I64, reduced(shape, &[*axis], *keepdims))
        }
        Op::CumSum { axis, .. } => {
            legal_dtype(dtype != DType::Bool, dtype)?;
            check_axis(*axis, shape)?;
            one(dtype, shape.clone())
        }
        Op::TopK { k, axis, .. } => {
            check_axis(*axis, shape)?;
            if *k > shape[*axis] {
                return Err(format!("k is {k}, the axis has {} elements", shape[*axis]));
            }
            let mut dims = shape.clone();
            dims.0[*axis] = *k;
            Ok(vec![(dtype, dims.clone()), (DType::I64, dims)])
        }
        Op::Recurrent(rnn) => recurrent(rnn, inputs),
        Op::Reshape { shape: to } => {
            check_size(to)?;
            if to.n_elements() != shape.n_elements() {
                return Err(format!(
                    "{shape} has {} elements, {to} has {}",
                    shape.n_elements(),
                    to.n_elements()
                ));
            }
            one(dtype, to.clone())
        }
        Op::Transpose { perm } => {
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            if sorted != (0..shape.rank()).collect::<Vec<_>>() {
                return Err(format!("{perm:?} is not a permutation of the {} axes", shape.rank()));
            }
            one(dtype, Shape(perm.iter().map(|&axis| shape[axis]).collect()))
        }
        Op::Narrow { ranges } => {
            expect_len("ranges", ranges.len(), shape.rank())?;
            for (axis, (range, &dim)) in ranges.iter().zip(shape.iter()).enumerate() {
                if !range.fits(dim) {
                    return Err(format!("range {range} leaves axis {axis} of {shape}"));
                }
            }
            one(dtype, Shape(ranges.iter().map(|range| range.len).collect()))
        }
        Op::Concat { axis } => {
            same_dtypes(inputs)?;
            check_axis(*axis, shape)?;
            let mut dims = shape.clone();
            dims.0[*axis] = 0;
            for (_, part) in inputs {
                let fits =
                    part.rank() == shape.rank() && (0..shape.rank()).all(|at| at == *axis || part[at] == shape[at]);
                if !fits {
                    return Err(format!("parts {shape} and {part} differ outside of axis {axis}"));
                }
                dims.0[*axis] = dims.0[*axis].saturating_add(part[*axis]);
            }
            one(dtype, dims)
        }
        Op::Pad { pads, mode } => {
            expect_len("pads", pads.len(), shape.rank())?;
            let mut dims = Vec::new();
            for (&(before, after), &dim) in pads.iter().zip(shape.iter()) {
                let legal = match mode {
                    crate::op::PadMode::Constant(_) => true,
                    crate::op::PadMode::Reflect => before.max(after) < dim.max(1),
                    _ => dim > 0 || before + after == 0,
                };
                if !legal {
                    return Err(format!(
                        "pads {before}:{after} are too large for a dimension of {dim} in this mode"
                    ));
                }
                dims.push(dim.saturating_add(before).saturating_add(after));
            }
            one(dtype, Shape(dims))
        }
        Op::Expand { shape: to } => {
            if !shape.broadcasts_to(to) {
                return Err(format!("{shape} does not broadcast to {to}"));
            }
            one(dtype, to.clone())
        }
        Op::Gather { axis } => {
            let indices = index_input(inputs)?;
            check_axis(*axis, shape)?;
            if shape[*axis] == 0 && indices.n_elements() != 0 {
                return Err("the indexed axis is empty".into());
            }
            one(dtype, Shape([&shape[..*axis], indices, &shape[axis + 1..]].concat()))
        }
        Op::GatherElements { axis } => {
            let indices = index_input(inputs)?;
            check_axis(*axis, shape)?;
            check_element_indices(*axis, shape, indices)?;
            one(dtype, indices.clone())
        }
        Op::GatherNd { batch_dims } => {
            let indices = index_input(inputs)?;
            let Some((&k, leading)) = indices.split_last() else {
                return Err("indices are a scalar, allowed: rank 1 or more".into());
            };
            if *batch_dims > leading.len()
                || batch_dims + k > shape.rank()
                || leading[..*batch_dims] != shape[..*batch_dims]
            {
                return Err(format!(
                    "indices {indices} do not fit {shape} with {batch_dims} batch dims"
                ));
            }
            one(dtype, Shape([leading, &shape[batch_dims + k..]].concat()))
        }
        Op::ScatterElements { axis, .. } => {
            let indices = index_input(inputs)?;
            same_dtypes(&[inputs[0], inputs[2]])?;
            check_axis(*axis, shape)?;
            check_element_indices(*axis, shape, indices)?;
            expect_shape("updates", inputs[2].1, indices)?;
            one(dtype, shape.clone())
        }
        Op::ScatterNd { .. } => {
            let indices = index_input(inputs)?;
            same_dtypes(&[inputs[0], inputs[2]])?;
            let Some((&k, leading)) = indices.split_last() else {
                return Err("indices are a scalar, allowed: rank 1 or more".into());
            };
            if k > shape.rank() {
                return Err(format!("indices {indices} address {k} axes of {shape}"));
            }
            expect_shape("updates", inputs[2].1, &[leading, &shape[k..]].concat())?;
            one(dtype, shape.clone())
        }
        Op::Quantize { to } => {
            legal_dtype(dtype.is_float() && dtype != DType::F64, dtype)?;
            same_dtypes(&inputs[..2])?;
            if !matches!(to, DType::I8 | DType::U8 | DType::I16 | DType::U16) || inputs[2].0 != *to {
                return Err(format!(
                    "zero point is {}, result {to}, allowed: equal, i8, u8, i16 or u16",
                    inputs[2].0
                ));
            }
            broadcast_params(inputs)?;
            one(*to, shape.clone())
        }
        Op::Dequantize => {
            legal_dtype(
                matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16 | DType::I32),
                dtype,
            )?;
            same_dtypes(&[inputs[0], inputs[2]])?;
            legal_dtype(inputs[1].0.is_float(), inputs[1].0)?;
            broadcast_params(inputs)?;
            one(inputs[1].0, shape.clone())
        }
    }
}

/// Fewest and most inputs of an operator.
fn arity(op: &Op) -> (usize, usize) {
    match op {
        Op::Binary(_) | Op::MatMul | Op::Gather { .. } | Op::GatherElements { .. } | Op::GatherNd { .. } => (2, 2),
        Op::Where | Op::ScatterElements { .. } | Op::ScatterNd { .. } | Op::Quantize { .. } | Op::Dequantize => (3, 3),
        Op::Conv(_) | Op::ConvTranspose(_) => (2, 3),
        Op::LayerNorm { .. } => (1, 3),
        Op::RmsNorm { .. } => (1, 2),
        Op::BatchNorm { .. } => (5, 5),
        Op::Concat { .. } => (1, usize::MAX),
        Op::Recurrent(rnn) => match rnn.cell {
            Cell::Lstm { peephole } => (6 + usize::from(peephole), 6 + usize::from(peephole)),
            _ => (5, 5),
        },
        _ => (1, 1),
    }
}

fn matmul(inputs: &[(DType, &Shape)]) -> Res<Vec<Type>> {
    let ((dtype, a), (_, b)) = (inputs[0], inputs[1]);
    let result = product_dtype(&inputs[..2])?;
    legal_dtype(dtype != DType::Bool && !matches!(dtype, DType::I16 | DType::U16), dtype)?;
    if a.rank() == 0 || b.rank() == 0 {
        return Err("an operand is a scalar, allowed: rank 1 or more".into());
    }
    let a2 = if a.rank() == 1 {
        Shape::from([1, a[0]])
    } else {
        a.clone()
    };
    let b2 = if b.rank() == 1 {
        Shape::from([b[0], 1])
    } else {
        b.clone()
    };
    let (ra, rb) = (a2.rank(), b2.rank());
    let batch = Shape::from(&a2[..ra - 2]).broadcast(&Shape::from(&b2[..rb - 2]));
    let (Some(batch), true) = (batch, a2[ra - 1] == b2[rb - 2]) else {
        return Err(format!("operands {a} and {b} do not fit"));
    };
    let mut dims = batch.0;
    if a.rank() > 1 {
        dims.push(a2[ra - 2]);
    }
    if b.rank() > 1 {
        dims.push(b2[rb - 1]);
    }
    Ok(vec![(result, Shape(dims))])
}

/// Result dtype of a product: i32 for 8-bit operands, else the common dtype.
fn product_dtype(inputs: &[(DType, &Shape)]) -> Res<DType> {
    if inputs.iter().all(|(dtype, _)| dtype.is_int8()) {
        return Ok(DType::I32);
    }
    same_dtypes(inputs)?;
    Ok(inputs[0].0)
}

/// Checks ranks, strides and dilations; returns the spatial rank.
fn spatial(x: &Shape, kernel: usize, strides: &[usize], dilations: &[usize], pads: usize) -> Res<usize> {
    let rank = x.rank().saturating_sub(2);
    if !(1..=3).contains(&rank) {
        return Err(format!("input has rank {}, allowed: 3 to 5", x.rank()));
    }
    for (what, len) in [
        ("kernel", kernel),
        ("strides", strides.len()),
        ("dilations", dilations.len()),
        ("pads", pads),
    ] {
        expect_len(what, len, rank)?;
    }
    if strides.contains(&0) || dilations.contains(&0) {
        return Err("a stride or dilation is 0".into());
    }
    Ok(rank)
}

/// Size of a dilated kernel.
fn extent(kernel: usize, dilation: usize) -> Res<usize> {
    if kernel == 0 {
        return Err("the kernel is empty".into());
    }
    (kernel - 1)
        .checked_mul(dilation)
        .and_then(|n| n.checked_add(1))
        .ok_or_else(|| "the dilated kernel is too large".into())
}

fn windows(dim: usize, pad: usize, kernel: usize, dilation: usize, stride: usize) -> Res<usize> {
    let extent = extent(kernel, dilation)?;
    let padded = dim.saturating_add(pad);
    if padded < extent {
        return Err(format!(
            "the window covers {extent} elements, the padded input has {padded}"
        ));
    }
    Ok((padded - extent) / stride + 1)
}

fn conv(attr: &Conv, inputs: &[(DType, &Shape)]) -> Res<Vec<Type>> {
    let ((dtype, x), (_, w)) = (inputs[0], inputs[1]);
    let result = product_dtype(&inputs[..2])?;
    legal_dtype(dtype.is_float() || dtype.is_int8() || dtype == DType::I32, dtype)?;
    let rank = spatial(
        x,
        w.rank().saturating_sub(2),
        &attr.strides,
        &attr.dilations,
        attr.pads.len(),
    )?;
    let groups = attr.groups;
    if groups == 0 || !x[1].is_multiple_of(groups) || !w[0].is_multiple_of(groups) || w[1] != x[1] / groups {
        return Err(format!("input {x} and weight {w} do not fit with {groups} groups"));
    }
    check_bias(inputs, result, w[0])?;
    let mut dims = vec![x[0], w[0]];
    for i in 0..rank {
        let (before, after) = attr.pads[i];
        dims.push(windows(
            x[2 + i],
            before.saturating_add(after),
            w[2 + i],
            attr.dilations[i],
            attr.strides[i],
        )?);
    }
    Ok(vec![(result, Shape(dims))])
}

fn conv_transpose(attr: &ConvTranspose, inputs: &[(DType, &Shape)]) -> Res<Vec<Type>> {
    let ((dtype, x), (_, w)) = (inputs[0], inputs[1]);
    same_dtypes(inputs)?;
    legal_dtype(dtype.is_float(), dtype)?;
    let rank = spatial(
        x,
        w.rank().saturating_sub(2),
        &attr.strides,
        &attr.dilations,
        attr.pads.len(),
    )?;
    expect_len("output_padding", attr.output_padding.len(), rank)?;
    let groups = attr.groups;
    if groups == 0 || w[0] != x[1] || !x[1].is_multiple_of(groups) {
        return Err(format!("input {x} and weight {w} do not fit with {groups} groups"));
    }
    let channels = w[1].saturating_mul(groups);
    check_bias(inputs, dtype, channels)?;
    let mut dims = vec![x[0], channels];
    for i in 0..rank {
        if x[2 + i] == 0 {
            return Err("a spatial dimension is 0".into());
        }
        let full = (x[2 + i] as i128 - 1) * attr.strides[i] as i128
            + extent(w[2 + i], attr.dilations[i])? as i128
            + attr.output_padding[i] as i128;
        let cut = full - attr.pads[i].0 as i128 - attr.pads[i].1 as i128;
        dims.push(usize::try_from(cut).map_err(|_| format!("pads cut {full} elements to {cut}"))?);
    }
    Ok(vec![(dtype, Shape(dims))])
}

fn check_bias(inputs: &[(DType, &Shape)], dtype: DType, channels: usize) -> Res<()> {
    let Some(&(bias_dtype, bias)) = inputs.get(2) else {
        return Ok(());
    };
    if bias_dtype != dtype {
        return Err(format!("bias is {bias_dtype}, allowed: {dtype}"));
    }
    expect_shape("bias", bias, &[channels])
}

fn pool(attr: &Pool, dtype: DType, x: &Shape) -> Res<Vec<Type>> {
    legal_dtype(
        if attr.kind == PoolKind::Max {
            dtype != DType::Bool
        } else {
            dtype.is_float()
        },
        dtype,
    )?;
    let rank = spatial(x, attr.kernel.len(), &attr.strides, &attr.dilations, attr.pads.len())?;
    expect_len("ceil_extra", attr.ceil_extra.len(), rank)?;
    let mut dims = x[..2].to_vec();
    for i in 0..rank {
        let (before, after) = attr.pads[i];
        let extent = extent(attr.kernel[i], attr.dilations[i])?;
        if before.max(after) >= extent {
            return Err(format!(
                "pads {before}:{after} are not smaller than the window of {extent}"
            ));
        }
        let n = windows(
            x[2 + i],
            before + after + attr.ceil_extra[i],
            attr.kernel[i],
            attr.dilations[i],
            attr.strides[i],
        )?;
        if (n - 1) * attr.strides[i] >= x[2 + i] + before + after {
            return Err("a window starts behind the padded input".into());
        }
        dims.push(n);
    }
    Ok(vec![(dtype, Shape(dims))])
}

fn recurrent(attr: &Recurrent, inputs: &[(DType, &Shape)]) -> Res<Vec<Type>> {
    let (dtype, x) = inputs[0];
    same_dtypes(inputs)?;
    legal_dtype(dtype.is_float(), dtype)?;
    let &[steps, batch, features] = &x[..] else {
        return Err(format!("input {x} has rank {}, allowed: 3", x.rank()));
    };
    let (d, h) = (attr.direction.count(), attr.hidden);
    expect_len("activations", attr.activations.len(), d * attr.cell.n_activations())?;
    let gates = h
        .checked_mul(attr.cell.n_gates())
        .filter(|n| *n <= MAX_ELEMENTS)
        .ok_or("hidden is too large")?;
    expect_shape("w", inputs[1].1, &[d, gates, features])?;
    expect_shape("r", inputs[2].1, &[d, gates, h])?;
    expect_shape("bias", inputs[3].1, &[d, 2 * gates])?;
    expect_shape("h0", inputs[4].1, &[d, batch, h])?;
    let state = (dtype, Shape::from([d, batch, h]));
    let mut results = vec![(dtype, Shape::from([steps, d, batch, h])), state.clone()];
    if let Cell::Lstm { peephole } = attr.cell {
        expect_shape("c0", inputs[5].1, &[d, batch, h])?;
        if peephole {
            expect_shape("p", inputs[6].1, &[d, 3 * h])?;
        }
        results.push(state);
    }
    Ok(results)
}

fn reduced(shape: &Shape, axes: &[usize], keepdims: bool) -> Shape {
    let dims = shape
        .iter()
        .enumerate()
        .filter(|(axis, _)| keepdims || !axes.contains(axis));
    Shape(
        dims.map(|(axis, &dim)| if axes.contains(&axis) { 1 } else { dim })
            .collect(),
    )
}

fn broadcast(inputs: &[(DType, &Shape)]) -> Res<Shape> {
    let mut all = inputs[0].1.clone();
    for (_, shape) in &inputs[1..] {
        all = all
            .broadcast(shape)
            .ok_or_else(|| format!("shapes {} do not broadcast", list_shapes(inputs)))?;
    }
    Ok(all)
}

fn broadcast_params(inputs: &[(DType, &Shape)]) -> Res<()> {
    for (_, param) in &inputs[1..] {
        if !param.broadcasts_to(inputs[0].1) {
            return Err(format!(
                "parameter has shape {param}, which does not broadcast to {}",
                inputs[0].1
            ));
        }
    }
    Ok(())
}

fn same_dtypes(inputs: &[(DType, &Shape)]) -> Res<()> {
    match inputs.iter().find(|(dtype, _)| *dtype != inputs[0].0) {
        Some((other, _)) => Err(format!("operands are {} and {other}, allowed: one dtype", inputs[0].0)),
        None => Ok(()),
    }
}

fn legal_dtype(legal: bool, dtype: DType) -> Res<()> {
    if legal {
        Ok(())
    } else {
        Err(format!("{dtype} operands are not allowed"))
    }
}

fn check_axis(axis: usize, shape: &Shape) -> Res<()> {
    if axis < shape.rank() {
        Ok(())
    } else {
        Err(format!("axis {axis} is not one of {shape}"))
    }
}

fn check_element_indices(axis: usize, shape: &Shape, indices: &Shape) -> Res<()> {
    let fits = indices.rank() == shape.rank() && (0..shape.rank()).all(|at| at == axis || indices[at] <= shape[at]);
    if fits && (shape[axis] != 0 || indices.n_elements() == 0) {
        Ok(())
    } else {
        Err(format!("indices {indices} do not fit {shape} at axis {axis}"))
    }
}

fn index_input<'a>(inputs: &[(DType, &'a Shape)]) -> Res<&'a Shape> {
    let (dtype, shape) = inputs[1];
    if matches!(dtype, DType::I32 | DType::I64) {
        Ok(shape)
    } else {
        Err(format!("indices are {dtype}, allowed: i32, i64"))
    }
}

fn expect_len(what: &str, len: usize, expected: usize) -> Res<()> {
    if len == expected {
        Ok(())
    } else {
        Err(format!("{what} has {len} entries, expected {expected}"))
    }
}

fn expect_shape(what: &str, found: &Shape, expected: &[usize]) -> Res<()> {
    if found.0 == expected {
        Ok(())
    } else {
        Err(format!("{what} has shape {found}, expected {}", Shape::from(expected)))
    }
}

fn list_shapes(inputs: &[(DType, &Shape)]) -> String {
    inputs
        .iter()
        .map(|(_, shape)| shape.to_string())
        .collect::<Vec<_>>()
        .join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Range;

    fn of(op: Op, inputs: &[&[usize]]) -> Result<Vec<Vec<usize>>, String> {
        let shapes: Vec<Shape> = inputs.iter().map(|dims| Shape::from(*dims)).collect();
        let types: Vec<_> = shapes.iter().map(|shape| (DType::F32, shape)).collect();
        infer(&op, &types)
            .map(|r| r.into_iter().map(|(_, s)| s.0).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn matmul_shapes() {
        assert_eq!(of(Op::MatMul, &[&[2, 1, 3, 4], &[5, 4, 6]]), Ok(vec![vec![2, 5, 3, 6]]));
        assert_eq!(of(Op::MatMul, &[&[4], &[4, 6]]), Ok(vec![vec![6]]));
        assert_eq!(of(Op::MatMul, &[&[3, 4], &[4]]), Ok(vec![vec![3]]));
        assert_eq!(
            of(Op::MatMul, &[&[3, 4], &[5, 6]]),
            Err("MatMul: operands [3,4] and [5,6] do not fit".into())
        );
    }

    #[test]
    fn int8_products_are_i32() {
        let (a, b) = (Shape::from([2, 3]), Shape::from([3, 4]));
        let types = infer(&Op::MatMul, &[(DType::U8, &a), (DType::I8, &b)]);
        assert_eq!(types, Ok(vec![(DType::I32, Shape::from([2, 4]))]));
    }

    #[test]
    fn conv_and_pool_shapes() {
        let conv = Op::Conv(Conv {
            strides: vec![2, 2],
            dilations: vec![1, 1],
            pads: vec![(1, 1), (1, 1)],
            groups: 1,
        });
        assert_eq!(
            of(conv.clone(), &[&[1, 3, 224, 224], &[64, 3, 3, 3], &[64]]),
            Ok(vec![vec![1, 64, 112, 112]])
        );
        assert!(of(conv, &[&[1, 3, 224, 224], &[64, 2, 3, 3]]).is_err());
        let pool = Pool {
            kind: PoolKind::Max,
            kernel: vec![3],
            strides: vec![2],
            dilations: vec![1],
            pads: vec![(0, 0)],
            ceil_extra: vec![1],
        };
        assert_eq!(of(Op::Pool(pool), &[&[1, 1, 6]]), Ok(vec![vec![1, 1, 3]]));
    }

    #[test]
    fn bad_attributes_are_errors() {
        assert!(of(Op::Transpose { perm: vec![0, 0] }, &[&[2, 3]]).is_err());
        assert!(
            of(
                Op::Narrow {
                    ranges: vec![Range {
                        start: 1,
                        step: -1,
                        len: 3
                    }]
                },
                &[&[4]]
            )
            .is_err()
        );
        assert!(
            of(
                Op::Reshape {
                    shape: Shape::from([usize::MAX, 2])
                },
                &[&[4]]
            )
            .is_err()
        );
        assert!(of(Op::Softmax { axis: 2, log: false }, &[&[4]]).is_err());
        assert!(of(Op::Where, &[&[4], &[4], &[4]]).is_err());
    }
}
