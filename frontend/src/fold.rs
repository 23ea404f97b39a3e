//! Evaluates operators on small constants at import, so that shape arithmetic becomes shapes.
//!
//! Only operations whose result is exact or correctly rounded are evaluated; exp and its like stay in the graph, where the compiler folds
//! them with the functions that the machine uses.

use crate::tensor::{Data, Tensor, round, wrap};
use lockstep_graph::op::{Binary, PadMode, Reduce, Scalar, Unary};
use lockstep_graph::{ConstRef, DType, Op, Shape, Weights};

/// Most elements of a result or operand that is folded: shape operands, index maps and masks.
const MAX_INTS: usize = 1 << 20;
/// The same for floats and 8-bit integers, which may be weights.
const MAX_FLOATS: usize = 1 << 12;
/// The same for 8-bit integers that become floats: the compiler stores weights as the integers that it sees behind them.
const MAX_DECODED: usize = 1 << 6;

/// The folder for [`lockstep_graph::GraphBuilder::fold_with`].
pub(crate) fn fold(op: &Op, inputs: &[ConstRef<'_>], types: &[(DType, Shape)]) -> Option<Vec<Weights>> {
    let small = |dtype: DType, shape: &Shape| {
        shape.n_elements()
            <= if dtype.is_float() || dtype.is_int8() {
                MAX_FLOATS
            } else {
                MAX_INTS
            }
    };
    if !inputs.iter().all(|input| small(input.dtype, input.shape))
        || !types.iter().all(|(dtype, shape)| small(*dtype, shape))
    {
        return None;
    }
    let decodes = |x: &ConstRef<'_>| x.dtype.is_int8() && types.iter().any(|(dtype, _)| dtype.is_float());
    if inputs.iter().any(|x| x.shape.n_elements() > MAX_DECODED && decodes(x)) {
        return None;
    }
    let inputs: Option<Vec<Tensor>> = inputs
        .iter()
        .map(|input| Tensor::decode(input.dtype, input.shape, input.bytes))
        .collect();
    let (dtype, shape) = types.first()?;
    let result = evaluate(op, &inputs?, *dtype, shape)?;
    (types.len() == 1 && result.shape == *shape && result.dtype == *dtype).then(|| vec![result.encode()])
}

/// The result of an operator with one result, or `None` if it is not evaluated here.
fn evaluate(op: &Op, inputs: &[Tensor], dtype: DType, shape: &Shape) -> Option<Tensor> {
    let x = inputs.first()?;
    match op {
        Op::Unary(kind) => unary(*kind, x),
        Op::Binary(kind) => binary(*kind, &broadcast(x, shape)?, &broadcast(inputs.get(1)?, shape)?, dtype),
        Op::Where => {
            let (cond, a, b) = (
                broadcast(x, shape)?,
                broadcast(inputs.get(1)?, shape)?,
                broadcast(inputs.get(2)?, shape)?,
            );
            let cond = cond.as_ints()?;
            let data = match (&a.data, &b.data) {
                (Data::Int(a), Data::Int(b)) => Data::Int(select(cond, a, b)),
                (Data::Float(a), Data::Float(b)) => Data::Float(select(cond, a, b)),
                _ => return None,
            };
            Some(Tensor {
                dtype,
                shape: shape.clone(),
                data,
            })
        }
        Op::Cast { to } => Some(cast(x, *to)),
        Op::Reduce { kind, axes, .. } => reduce(*kind, x, axes, shape),
        Op::CumSum {
            axis,
            exclusive: false,
            reverse: false,
        } => {
            let mut data = x.as_ints()?.to_vec();
            let stride = x.shape.strides()[*axis];
            for at in 0..data.len() {
                if !(at / stride).is_multiple_of(x.shape[*axis]) {
                    data[at] += data[at - stride];
                }
            }
            Some(Tensor::ints(dtype, shape.clone(), data))
        }
        Op::Reshape { .. } => Some(Tensor {
            shape: shape.clone(),
            ..x.clone()
        }),
        Op::Expand { .. } => broadcast(x, shape),
        Op::Transpose { perm } => {
            let strides = x.shape.strides();
            let strides: Vec<isize> = perm.iter().map(|&axis| strides[axis] as isize).collect();
            x.pick(shape.clone(), &positions(shape, 0, &strides))
        }
        Op::Narrow { ranges } => {
            let strides = x.shape.strides();
            let start = ranges
                .iter()
                .zip(&strides)
                .map(|(range, &stride)| range.start * stride)
                .sum();
            let strides: Vec<isize> = ranges
                .iter()
                .zip(&strides)
                .map(|(range, &stride)| range.step * stride as isize)
                .collect();
            x.pick(shape.clone(), &positions(shape, start, &strides))
        }
        Op::Concat { axis } => concat(inputs, *axis, dtype, shape),
        Op::Pad {
            pads,
            mode: PadMode::Constant(value),
        } => {
            let strides = x.shape.strides();
            let mut sources = Vec::with_capacity(shape.n_elements());
            each_index(shape, |index| {
                let mut at = Some(0usize);
                for axis in 0..index.len() {
                    let inside = index[axis].checked_sub(pads[axis].0).filter(|&i| i < x.shape[axis]);
                    at = at.zip(inside).map(|(at, i)| at + i * strides[axis]);
                }
                sources.push(at);
            });
            let data = match (&x.data, value) {
                (Data::Int(data), Scalar::Int(value)) => Data::Int(
                    sources
                        .iter()
                        .map(|at| at.map_or(wrap(dtype, *value), |at| data[at]))
                        .collect(),
                ),
                (Data::Float(data), Scalar::Float(value)) => Data::Float(
                    sources
                        .iter()
                        .map(|at| at.map_or(round(dtype, *value), |at| data[at]))
                        .collect(),
                ),
                _ => return None,
            };
            Some(Tensor {
                dtype,
                shape: shape.clone(),
                data,
            })
        }
        Op::Gather { axis } => {
            let indices = inputs.get(1)?.as_ints()?;
            let (outer, dim): (usize, usize) = (x.shape[..*axis].iter().product(), x.shape[*axis]);
            let inner: usize = x.shape[axis + 1..].iter().product();
            let mut at = Vec::with_capacity(shape.n_elements());
            for o in 0..outer {
                for &index in indices {
                    let index = usize::try_from(index).ok().filter(|&i| i < dim)?;
                    at.extend((0..inner).map(|i| (o * dim + index) * inner + i));
                }
            }
            x.pick(shape.clone(), &at)
        }
        _ => None,
    }
}

fn select<T: Copy>(cond: &[i128], a: &[T], b: &[T]) -> Vec<T> {
    cond.iter()
        .zip(a.iter().zip(b))
        .map(|(&cond, (&a, &b))| if cond != 0 { a } else { b })
        .collect()
}

/// Calls `f` with every index of a shape in row-major order.
fn each_index(shape: &Shape, mut f: impl FnMut(&[usize])) {
    let mut index = vec![0usize; shape.rank()];
    for _ in 0..shape.n_elements() {
        f(&index);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// Positions start + Σ index·stride over a shape.
fn positions(shape: &Shape, start: usize, strides: &[isize]) -> Vec<usize> {
    let mut out = Vec::with_capacity(shape.n_elements());
    each_index(shape, |index| {
        let offset: isize = index.iter().zip(strides).map(|(&i, &stride)| i as isize * stride).sum();
        out.push(start.wrapping_add_signed(offset));
    });
    out
}

fn broadcast(x: &Tensor, shape: &Shape) -> Option<Tensor> {
    if x.shape == *shape {
        return Some(x.clone());
    }
    let strides = x.shape.strides();
    let lead = shape.rank().checked_sub(x.shape.rank())?;
    let strides: Vec<isize> = (0..shape.rank())
        .map(|axis| {
            if axis < lead || x.shape[axis - lead] == 1 {
                0
            } else {
                strides[axis - lead] as isize
            }
        })
        .collect();
    x.pick(shape.clone(), &positions(shape, 0, &strides))
}

fn unary(kind: Unary, x: &Tensor) -> Option<Tensor> {
    let int = |f: fn(i128) -> i128| {
        Some(Tensor::ints(
            x.dtype,
            x.shape.clone(),
            x.as_ints()?.iter().map(|&v| f(v)).collect(),
        ))
    };
    let float = |f: fn(f64) -> f64| {
        Some(Tensor::floats(
            x.dtype,
            x.shape.clone(),
            x.to_floats().into_iter().map(f).collect(),
        ))
    };
    match (kind, &x.data) {
        (Unary::Neg, Data::Int(_)) => int(|v| -v),
        (Unary::Neg, Data::Float(_)) => float(|v| -v),
        (Unary::Abs, Data::Int(_)) => int(i128::abs),
        (Unary::Abs, Data::Float(_)) => float(f64::abs),
        (Unary::Sign, Data::Int(_)) => int(i128::signum),
        (Unary::Relu, Data::Int(_)) => int(|v| v.max(0)),
        (Unary::Not, Data::Int(_)) if x.dtype == DType::Bool => int(|v| 1 - v),
        (Unary::Not, Data::Int(_)) => int(|v| !v),
        (Unary::Floor, Data::Float(_)) => float(f64::floor),
        (Unary::Ceil, Data::Float(_)) => float(f64::ceil),
        (Unary::Round, Data::Float(_)) => float(f64::round_ties_even),
        (Unary::Sqrt, Data::Float(_)) => float(f64::sqrt),
        (Unary::Recip, Data::Float(_)) => float(f64::recip),
        _ => None,
    }
}

fn binary(kind: Binary, a: &Tensor, b: &Tensor, dtype: DType) -> Option<Tensor> {
    match (&a.data, &b.data) {
        (Data::Int(a_data), Data::Int(b_data)) => {
            let data: Option<Vec<i128>> = a_data
                .iter()
                .zip(b_data)
                .map(|(&x, &y)| int_binary(kind, x, y))
                .collect();
            Some(Tensor::ints(dtype, a.shape.clone(), data?))
        }
        (Data::Float(a_data), Data::Float(b_data)) if kind.is_compare() => {
            let compare = |x: f64, y: f64| match kind {
                Binary::Eq => x == y,
                Binary::Ne => x != y,
                Binary::Lt => x < y,
                Binary::Le => x <= y,
                Binary::Gt => x > y,
                _ => x >= y,
            };
            Some(Tensor::ints(
                DType::Bool,
                a.shape.clone(),
                a_data
                    .iter()
                    .zip(b_data)
                    .map(|(&x, &y)| i128::from(compare(x, y)))
                    .collect(),
            ))
        }
        (Data::Float(a_data), Data::Float(b_data)) => {
            // f64 holds the exact result or rounds it once more, which for these four operations on narrower floats changes nothing.
            let data: Option<Vec<f64>> = a_data
                .iter()
                .zip(b_data)
                .map(|(&x, &y)| float_binary(kind, x, y))
                .collect();
            Some(Tensor::floats(dtype, a.shape.clone(), data?))
        }
        _ => None,
    }
}

fn int_binary(kind: Binary, x: i128, y: i128) -> Option<i128> {
    Some(match kind {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x.wrapping_mul(y),
        Binary::Div => x.checked_div(y)?,
        Binary::Rem => x.checked_rem(y)?,
        Binary::Mod => ((x.checked_rem(y)?) + y).checked_rem(y)?,
        Binary::Pow => x.checked_pow(u32::try_from(y).ok()?)?,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::Eq => i128::from(x == y),
        Binary::Ne => i128::from(x != y),
        Binary::Lt => i128::from(x < y),
        Binary::Le => i128::from(x <= y),
        Binary::Gt => i128::from(x > y),
        Binary::Ge => i128::from(x >= y),
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Xor => x ^ y,
        Binary::Shl => x.checked_shl(u32::try_from(y).ok()?)?,
        Binary::Shr => x.checked_shr(u32::try_from(y).ok()?)?,
    })
}

fn float_binary(kind: Binary, x: f64, y: f64) -> Option<f64> {
    Some(match kind {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::Min if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Max if x.is_nan() || y.is_nan() => f64::NAN,
        Binary::Min if x != y => x.min(y),
        Binary::Max if x != y => x.max(y),
        _ => return None,
    })
}

fn cast(x: &Tensor, to: DType) -> Tensor {
    let shape = x.shape.clone();
    match (&x.data, to) {
        (Data::Int(data), DType::Bool) => Tensor::ints(to, shape, data.iter().map(|&v| i128::from(v != 0)).collect()),
        (Data::Float(data), DType::Bool) => {
            Tensor::ints(to, shape, data.iter().map(|&v| i128::from(v != 0.0)).collect())
        }
        (Data::Int(data), to) if to.is_float() => Tensor::floats(to, shape, data.iter().map(|&v| v as f64).collect()),
        (Data::Int(data), to) => Tensor::ints(to, shape, data.clone()),
        (Data::Float(data), to) if to.is_float() => Tensor::floats(to, shape, data.clone()),
        (Data::Float(data), to) => {
            let (low, high) = to.int_range().unwrap_or((0, 1));
            Tensor::ints(to, shape, data.iter().map(|&v| (v as i128).clamp(low, high)).collect())
        }
    }
}

fn reduce(kind: Reduce, x: &Tensor, axes: &[usize], shape: &Shape) -> Option<Tensor> {
    let data = x.as_ints()?;
    let start: i128 = match kind {
        Reduce::Sum => 0,
        Reduce::Prod => 1,
        Reduce::Max => i128::MIN,
        Reduce::Min => i128::MAX,
        Reduce::Mean => return None,
    };
    let kept = Shape(
        x.shape
            .iter()
            .enumerate()
            .map(|(axis, &dim)| if axes.contains(&axis) { 1 } else { dim })
            .collect(),
    );
    let strides = kept.strides();
    let mut out = vec![start; kept.n_elements()];
    let mut source = data.iter();
    each_index(&x.shape, |index| {
        let at: usize = index
            .iter()
            .enumerate()
            .filter(|(axis, _)| !axes.contains(axis))
            .map(|(axis, &i)| i * strides[axis])
            .sum();
        if let Some(&value) = source.next() {
            out[at] = match kind {
                Reduce::Sum => out[at] + value,
                Reduce::Prod => wrap(x.dtype, out[at].wrapping_mul(value)),
                Reduce::Max => out[at].max(value),
                _ => out[at].min(value),
            };
        }
    });
    Some(Tensor::ints(x.dtype, shape.clone(), out))
}

fn concat(parts: &[Tensor], axis: usize, dtype: DType, shape: &Shape) -> Option<Tensor> {
    let outer: usize = shape[..axis].iter().product();
    let inner: usize = shape[axis + 1..].iter().product();
    let (mut ints, mut floats) = (Vec::new(), Vec::new());
    for o in 0..outer {
        for part in parts {
            let len = part.shape[axis] * inner;
            match &part.data {
                Data::Int(data) => ints.extend_from_slice(data.get(o * len..(o + 1) * len)?),
                Data::Float(data) => floats.extend_from_slice(data.get(o * len..(o + 1) * len)?),
            }
        }
    }
    let data = if dtype.is_float() {
        Data::Float(floats)
    } else {
        Data::Int(ints)
    };
    Some(Tensor {
        dtype,
        shape: shape.clone(),
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_graph::GraphBuilder;
    use lockstep_graph::op::Range;

    /// The i64 elements of a value that must have been folded.
    fn ints(b: &GraphBuilder, value: lockstep_graph::ValueId) -> Vec<i128> {
        let c = b.const_ref(value).expect("not folded");
        Tensor::decode(c.dtype, c.shape, c.bytes)
            .unwrap()
            .as_ints()
            .unwrap()
            .to_vec()
    }

    #[test]
    fn shape_arithmetic_folds() {
        let mut b = GraphBuilder::new("t", "main").fold_with(fold);
        let shape = b.i64s(&[2, 3, 4]);
        let tail = b
            .narrow(
                shape,
                0,
                Range {
                    start: 2,
                    step: -1,
                    len: 2,
                },
            )
            .unwrap();
        assert_eq!(ints(&b, tail), [4, 3]);
        let product = b.reduce(Reduce::Prod, tail, &[0], true).unwrap();
        let both = b.concat(&[product, shape], 0).unwrap();
        assert_eq!(ints(&b, both), [12, 2, 3, 4]);
        let index = b.i64s(&[3, 0]);
        let picked = b.op(Op::Gather { axis: 0 }, &[both, index]).unwrap();
        let doubled = b.binary_scalar(Binary::Mul, picked, 2.0).unwrap();
        assert_eq!(ints(&b, doubled), [8, 24]);
        let table = b.reshape(both, [2, 2]).unwrap();
        let flipped = b.transpose(table, &[1, 0]).unwrap();
        assert_eq!(ints(&b, flipped), [12, 3, 2, 4]);
        let sums = b.reduce(Reduce::Sum, table, &[1], false).unwrap();
        assert_eq!(ints(&b, sums), [14, 7]);
    }

    #[test]
    fn floats_round_to_their_dtype_and_weights_stay() {
        let mut b = GraphBuilder::new("t", "main").fold_with(fold);
        let third = b.scalar(DType::F32, Scalar::Float(3.0));
        let third = b.unary(Unary::Recip, third).unwrap();
        let bytes = b.const_ref(third).unwrap().bytes.to_vec();
        assert_eq!(bytes, (1.0f32 / 3.0).to_le_bytes());
        let exp = b.unary(Unary::Exp, third).unwrap();
        assert!(b.const_ref(exp).is_none());
        let big = b.constant("w", DType::F32, [5000], vec![0u8; 20000].into()).unwrap();
        let neg = b.unary(Unary::Neg, big).unwrap();
        assert!(b.const_ref(neg).is_none());
    }
}
