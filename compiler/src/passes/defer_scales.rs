//! `defer-scales`: a product of scaled rows becomes the scaled product of the rows, so that it does not wait for the scales.
//!
//! ```text
//! v3 = map fma(mul(v0, v1), gain, bias)           weight' = gain * weight; bias' = bias x weight + offset
//! v4 = contract v3, weight                  =>    v4' = contract v0, weight'
//! v5 = map add(v4, offset)                        v5 = map fma(v4', v1, bias')
//! ```
//!
//! Here v1 has one element per row: the deviation of a normalisation, whose gain and bias go into the constants. A factor that
//! all users of the result apply goes into them too. Weights that are too many to be made anew, or stored in a narrower type, stay as they are: the gain is then
//! multiplied with the rows, and nothing that has a bias is deferred. Changes rounding.

use super::centre_sums::{MAX_ELEMENTS, derived, elements, stride};
use super::fuse_maps::is_rounding;
use super::rebuild::{keep, live, readers, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::consteval::const_values;
use crate::tir::op::free_axes;
use crate::tir::{Arg, MapNode, Op, TensorIr, TirBuilder, ValueId};
use lockstep_graph::{EntityId, IdSet};
use lockstep_isa::{AluOp, DType};
use std::collections::BTreeMap;

/// What an argument of a map varies with: nothing, the contracted axis alone, all axes but that, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Scalar,
    Gain,
    Row,
    Full,
}

/// `full * rows * gain + bias`, as arguments of a map.
struct Scaled {
    axis: usize,
    full: Arg,
    rows: Vec<Arg>,
    gain: Option<u32>,
    bias: Option<u32>,
}

/// A product to be scaled afterwards.
struct Product {
    /// Axes: of the left operand, of the right.
    axes: (usize, usize),
    weights: Weights,
    /// What its only user, a map, does first.
    user: Option<First>,
}

/// What the only user of a product does with it first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct First {
    /// The node that adds a constant, and the operand that is it.
    add: Option<(usize, u32)>,
    /// A factor in every further use.
    factor: Option<f32>,
}

/// A product in the new program: value, scales, offset if there is one.
type Deferred = (ValueId, ValueId, Option<ValueId>);

/// What becomes of the weights of deferred products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    /// Gains and factors go into them.
    Scaled,
    /// They stay as they are.
    Kept,
}

/// The parts of a scaled map in the new program.
struct Parts {
    full: ValueId,
    rows: ValueId,
    gain: Option<ValueId>,
    bias: Option<ValueId>,
}

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    if cx.exact {
        return Ok(Changed(false));
    }
    let (scaled, mut products) = find(ir);
    let sizes = products
        .keys()
        .map(|c| ir.values[ir.values[*c].inputs[1]].ty.elements());
    let many = sizes.sum::<usize>() > MAX_ELEMENTS;
    for (&c, p) in &mut products {
        if many || is_narrow(ir, ir.values[c].inputs[1]) {
            p.weights = Weights::Kept;
            p.user.iter_mut().for_each(|first| first.factor = None);
        }
    }
    products.retain(|c, p| {
        let z = ir.values[*c].inputs[0];
        // Rows that are not scaled yet may be beyond what binary16 holds.
        p.weights == Weights::Scaled || scaled[&z].bias.is_none() && ir.values[z].ty.dtype != DType::F16
    });
    if products.is_empty() {
        return Ok(Changed(false));
    }
    let mut parts: BTreeMap<ValueId, Parts> = BTreeMap::new();
    let mut deferred: BTreeMap<ValueId, Deferred> = BTreeMap::new();
    rebuild(ir, |b, old, id, inputs| {
        let value = &old.values[id];
        match &value.op {
            Op::Map { nodes } if scaled.contains_key(&id) => {
                let s = &scaled[&id];
                let of = |i: Option<u32>| i.map(|i| inputs[i as usize]);
                let p = Parts {
                    full: full_part(b, s.full, nodes, inputs, &value.ty)?,
                    rows: row_part(b, s, nodes, inputs, &value.ty.shape)?,
                    gain: of(s.gain),
                    bias: of(s.bias),
                };
                let mut operands = vec![p.full, p.rows];
                operands.extend(p.gain);
                operands.extend(p.bias);
                let (gain, bias, dtype) = (p.gain.is_some(), p.bias.is_some(), value.ty.dtype);
                parts.insert(id, p);
                b.map_to(&value.ty.shape, &operands, |e, x| {
                    let y = e.mul(x[0], x[1]);
                    let y = match (gain, bias) {
                        (true, true) => e.fma(y, x[2], x[3]),
                        (true, false) => e.mul(y, x[2]),
                        (false, true) => e.add(y, x[2]),
                        (false, false) => y,
                    };
                    e.cvt(y, dtype)
                })
            }
            Op::Contract { .. } if products.contains_key(&id) => {
                let (Some(parts), p) = (parts.get(&value.inputs[0]), &products[&id]) else {
                    return keep(b, old, id, inputs);
                };
                let product = match p.weights {
                    Weights::Scaled => defer(b, &value.op, p, inputs[1], parts)?,
                    Weights::Kept => defer_beside(b, &value.op, inputs[1], parts)?,
                };
                if p.user.is_some() {
                    deferred.insert(id, product);
                    return Ok(product.0);
                }
                let (y, rows, offset) = product;
                match offset {
                    Some(offset) => b.map(&[y, rows, offset], |e, x| e.fma(x[0], x[1], x[2])),
                    None => b.map(&[y, rows], |e, x| e.mul(x[0], x[1])),
                }
            }
            Op::Map { nodes } => {
                let mut hot = value.inputs.iter().enumerate();
                let Some((at, product)) = hot.find_map(|(i, u)| deferred.get(u).map(|d| (i, *d))) else {
                    return keep(b, old, id, inputs);
                };
                let first = products[&value.inputs[at]].user.unwrap_or_default();
                rewrite_user(b, nodes, &value.ty.shape, inputs, at as u32, product, first)
            }
            _ => keep(b, old, id, inputs),
        }
    })
}

/// The scaled maps, and the products of them that are deferred.
fn find(ir: &TensorIr) -> (BTreeMap<ValueId, Scaled>, BTreeMap<ValueId, Product>) {
    let (consts, live, readers) = (const_values(ir), live(ir), readers(ir));
    let mut scaled: BTreeMap<ValueId, Scaled> = BTreeMap::new();
    let mut products: BTreeMap<ValueId, Product> = BTreeMap::new();
    for (v, data) in ir.values.iter().filter(|(v, _)| live.contains(*v)) {
        let (Op::Contract { batch, contracted, .. }, [z, w]) = (&data.op, &data.inputs[..]) else {
            continue;
        };
        let (true, [(left, right)]) = (batch.is_empty(), &contracted[..]) else {
            continue;
        };
        let axes = (usize::from(*left), usize::from(*right));
        if !consts.contains(*w) || consts.contains(*z) {
            continue;
        }
        if !scaled.contains_key(z)
            && let Some(s) = decompose(ir, *z, axes.0, &consts)
        {
            scaled.insert(*z, s);
        }
        if scaled.get(z).is_some_and(|s| s.axis == axes.0) {
            products.insert(
                v,
                Product {
                    axes,
                    weights: Weights::Scaled,
                    user: None,
                },
            );
        }
    }
    // A map takes in one product, unless it is scaled itself.
    let mut taken: IdSet<ValueId> = IdSet::new();
    for (&c, product) in &mut products {
        if let (false, [m]) = (ir.is_observed(c), &readers[c.index()][..])
            && !scaled.contains_key(m)
            && matches!(ir.values[*m].op, Op::Map { .. })
            && taken.insert(*m)
        {
            product.user = Some(first(ir, c, *m, &consts));
        }
    }
    (scaled, products)
}

/// Whether a constant is stored in a narrower type than it is multiplied in.
fn is_narrow(ir: &TensorIr, v: ValueId) -> bool {
    let data = &ir.values[v];
    let from = |u: &ValueId| ir.values[*u].ty.dtype.bytes() < data.ty.dtype.bytes() || is_narrow(ir, *u);
    match &data.op {
        Op::Map { .. } | Op::Move { .. } => data.inputs.iter().any(from),
        _ => false,
    }
}

/// What map `m` does first with the product `c`.
fn first(ir: &TensorIr, c: ValueId, m: ValueId, consts: &IdSet<ValueId>) -> First {
    let data = &ir.values[m];
    let Op::Map { nodes } = &data.op else {
        return First::default();
    };
    let Some(hot) = data.inputs.iter().position(|&u| u == c) else {
        return First::default();
    };
    let uses = |arg: Arg| -> Vec<usize> {
        (0..nodes.len())
            .filter(|&n| nodes[n].args[..nodes[n].op.arity()].contains(&arg))
            .collect()
    };
    let rhs = &ir.values[ir.values[c].inputs[1]].ty;
    let rank = data.ty.rank();
    // Rows of the result, extents of the columns.
    let n_free = rank - (rhs.rank() - 1);
    let along = |u: ValueId| {
        let shape = &ir.values[u].ty.shape;
        consts.contains(u)
            && shape.len() == rank
            && shape[..n_free].iter().all(|&n| n == 1)
            && shape[n_free..] == ir.values[c].ty.shape[n_free..]
    };
    let mut out = First::default();
    let mut root = Arg::Operand(hot as u32);
    if let [n] = uses(root)[..]
        && nodes[n].op == AluOp::Add
        && let Some(Arg::Operand(k)) = nodes[n].args[..2].iter().find(|a| **a != root)
        && data.inputs.get(*k as usize).is_some_and(|&u| along(u))
    {
        out.add = Some((n, *k));
        root = Arg::Node(n as u32);
    }
    let is_result = root == Arg::Node(nodes.len() as u32 - 1);
    let factors: Option<Vec<f32>> = uses(root).iter().map(|&n| factor(&nodes[n], root)).collect();
    if let (false, Some(factors)) = (is_result, factors) {
        out.factor = factors.first().copied();
    }
    out
}

/// The immediate by which a node multiplies `root`.
fn factor(node: &MapNode, root: Arg) -> Option<f32> {
    let bits = match (node.op, node.args[0], node.args[1]) {
        (AluOp::Mul, a, Arg::Imm(bits)) | (AluOp::Mul, Arg::Imm(bits), a) if a == root => bits,
        _ => return None,
    };
    let value = f32::from_bits(bits);
    value.is_normal().then_some(value)
}

/// The parts of a map along `axis`, if it scales rows.
fn decompose(ir: &TensorIr, z: ValueId, axis: usize, consts: &IdSet<ValueId>) -> Option<Scaled> {
    let data = &ir.values[z];
    let Op::Map { nodes } = &data.op else { return None };
    let dtypes: Vec<DType> = data.inputs.iter().map(|&v| ir.values[v].ty.dtype).collect();
    let end = nodes.last()?;
    let root = if is_rounding(end, nodes, &dtypes) {
        end.args[0]
    } else {
        Arg::Node(nodes.len() as u32 - 1)
    };
    let of_operand = |i: u32| {
        let u = data.inputs[i as usize];
        let shape = &ir.values[u].ty.shape;
        let others = (0..shape.len()).any(|d| d != axis && shape[d] != 1);
        match (consts.contains(u), shape[axis] != 1, others) {
            (true, _, false) => Class::Gain,
            (false, false, _) => Class::Row,
            _ => Class::Full,
        }
    };
    let mut classes: Vec<Class> = Vec::with_capacity(nodes.len());
    let class = |arg: Arg, classes: &[Class]| match arg {
        Arg::Operand(i) => of_operand(i),
        Arg::Node(n) => classes[n as usize],
        Arg::Imm(_) => Class::Scalar,
    };
    for n in nodes {
        let mut c = if n.op == AluOp::Iota {
            Class::Full
        } else {
            Class::Scalar
        };
        for &a in &n.args[..n.op.arity()] {
            let of = class(a, &classes);
            c = match (c, of) {
                (Class::Scalar, x) | (x, Class::Scalar) => x,
                (x, y) if x == y => x,
                _ => Class::Full,
            };
        }
        classes.push(c);
    }
    let node = |arg: Arg| match arg {
        Arg::Node(n) => nodes.get(n as usize),
        _ => None,
    };
    let gain_operand = |arg: Arg| match arg {
        Arg::Operand(i) if of_operand(i) == Class::Gain => Some(i),
        _ => None,
    };
    let mut bias = None;
    let mut open = vec![root];
    if let Some(n) = node(root) {
        let args = n.args;
        match n.op {
            AluOp::Fma => {
                bias = Some(gain_operand(args[2])?);
                open = vec![args[0], args[1]];
            }
            AluOp::Add => {
                let (k, rest) = match (gain_operand(args[0]), gain_operand(args[1])) {
                    (Some(k), None) => (k, args[1]),
                    (None, Some(k)) => (k, args[0]),
                    _ => return None,
                };
                bias = Some(k);
                open = vec![rest];
            }
            _ => {}
        }
    }
    let (mut full, mut rows, mut gain) = (None, Vec::new(), None);
    let mut has_rows = false;
    while let Some(arg) = open.pop() {
        let c = class(arg, &classes);
        match (c, node(arg)) {
            (Class::Full, Some(n)) if n.op == AluOp::Mul => open.extend([n.args[1], n.args[0]]),
            (Class::Full, _) => {
                if full.replace(arg).is_some() {
                    return None;
                }
            }
            (Class::Gain, _) => {
                if gain.replace(gain_operand(arg)?).is_some() {
                    return None;
                }
            }
            (Class::Row | Class::Scalar, _) => {
                has_rows |= c == Class::Row;
                rows.push(arg);
            }
        }
    }
    let float = |d: DType| matches!(d, DType::F32 | DType::F16 | DType::BF16);
    (has_rows && float(data.ty.dtype)).then_some(Scaled {
        axis,
        full: full?,
        rows,
        gain,
        bias,
    })
}

/// The unscaled rows as a value of their own.
fn full_part(
    b: &mut TirBuilder,
    full: Arg,
    nodes: &[MapNode],
    inputs: &[ValueId],
    ty: &crate::tir::Type,
) -> Result<ValueId, CompileError> {
    match full {
        Arg::Operand(i) if b.ty(inputs[i as usize]) == ty => Ok(inputs[i as usize]),
        Arg::Operand(i) => b.map_to(&ty.shape, &[inputs[i as usize]], |e, x| e.cvt(x[0], ty.dtype)),
        arg => {
            let mut part = upto(nodes, arg);
            if ty.dtype != DType::F32 {
                part.push(MapNode {
                    op: AluOp::Cvt,
                    dtype: ty.dtype,
                    args: [Arg::Node(part.len() as u32 - 1), Arg::Imm(0), Arg::Imm(0)],
                    axis: 0,
                });
            }
            b.map_nodes(&ty.shape, inputs, part)
        }
    }
}

/// The product of the factors of the rows.
fn row_part(
    b: &mut TirBuilder,
    s: &Scaled,
    nodes: &[MapNode],
    inputs: &[ValueId],
    shape: &[usize],
) -> Result<ValueId, CompileError> {
    let mut shape = shape.to_vec();
    shape[s.axis] = 1;
    let mut all = nodes.to_vec();
    let mut product = s.rows[0];
    for &factor in &s.rows[1..] {
        all.push(MapNode {
            op: AluOp::Mul,
            dtype: DType::F32,
            args: [product, factor, Arg::Imm(0)],
            axis: 0,
        });
        product = Arg::Node(all.len() as u32 - 1);
    }
    match product {
        Arg::Operand(i) if b.shape(inputs[i as usize]) == shape => Ok(inputs[i as usize]),
        Arg::Operand(i) => b.map_to(&shape, &[inputs[i as usize]], |e, x| e.cvt(x[0], DType::F32)),
        arg => b.map_nodes(&shape, inputs, upto(&all, arg)),
    }
}

/// The nodes that a node needs, itself last.
fn upto(nodes: &[MapNode], arg: Arg) -> Vec<MapNode> {
    match arg {
        Arg::Node(n) => crate::tir::expr::prune(&nodes[..=n as usize]),
        _ => Vec::new(),
    }
}

/// The product of the unscaled rows with the weights, gain and factor in them; the scales and the offset for it.
fn defer(b: &mut TirBuilder, op: &Op, p: &Product, weights: ValueId, parts: &Parts) -> Result<Deferred, CompileError> {
    let shape = b.shape(weights).to_vec();
    let (n, step) = (shape[p.axes.1], stride(&shape, p.axes.1));
    let mut values = elements(b, weights)?;
    let (lhs_free, rhs_free) = free_extents(b, op, parts.full, weights);
    let at = |all: &[f32], k: usize| f64::from(all[if all.len() == 1 { 0 } else { k }]);
    let offset = match parts.bias {
        Some(bias) => {
            let bias = elements(b, bias)?;
            let mut sums = vec![0f64; values.len() / n.max(1)];
            for (i, &w) in values.iter().enumerate() {
                sums[i / (n * step) * step + i % step] += at(&bias, i / step % n) * f64::from(w);
            }
            let sums: Vec<f32> = sums.into_iter().map(|x| x as f32).collect();
            let shape = [vec![1; lhs_free.len()], rhs_free.clone()].concat();
            Some(derived(b, weights, "offset", DType::F32, &shape, &sums)?)
        }
        None => None,
    };
    let factor = p.user.and_then(|f| f.factor);
    let mut scaled = weights;
    if parts.gain.is_some() || factor.is_some() {
        let gain = match parts.gain {
            Some(gain) => elements(b, gain)?,
            None => vec![1.0],
        };
        let factor = f64::from(factor.unwrap_or(1.0));
        for (i, w) in values.iter_mut().enumerate() {
            *w = (f64::from(*w) * at(&gain, i / step % n) * factor) as f32;
        }
        let dtype = b.dtype(weights);
        scaled = derived(b, weights, "scaled", dtype, &shape, &values)?;
    }
    let product = b.push(
        op.clone(),
        &[parts.full, scaled],
        &crate::tir::Type::new(DType::F32, &[]),
    )?;
    let rows = b.reshape(parts.rows, &[lhs_free, vec![1; rhs_free.len()]].concat())?;
    Ok((product, rows, offset))
}

/// The product of the unscaled rows, with their gain, and the weights as they are; the scales for it.
fn defer_beside(b: &mut TirBuilder, op: &Op, weights: ValueId, parts: &Parts) -> Result<Deferred, CompileError> {
    let ty = b.ty(parts.full).clone();
    let left = match parts.gain {
        Some(gain) => b.map_to(&ty.shape, &[parts.full, gain], |e, x| {
            e.cvt(e.mul(x[0], x[1]), ty.dtype)
        })?,
        None => parts.full,
    };
    let (lhs_free, rhs_free) = free_extents(b, op, left, weights);
    let product = b.push(op.clone(), &[left, weights], &crate::tir::Type::new(DType::F32, &[]))?;
    let rows = b.reshape(parts.rows, &[lhs_free, vec![1; rhs_free.len()]].concat())?;
    Ok((product, rows, None))
}

/// Extents of the axes of a contract's operands that are neither batch nor contracted.
fn free_extents(b: &TirBuilder, op: &Op, left: ValueId, right: ValueId) -> (Vec<usize>, Vec<usize>) {
    let (batch, contracted) = match op {
        Op::Contract { batch, contracted, .. } => (batch.as_slice(), contracted.as_slice()),
        _ => Default::default(),
    };
    let of = |v: ValueId, is_left: bool| {
        let shape = b.shape(v);
        let axes = free_axes(shape.len(), batch, contracted, is_left);
        axes.iter().map(|&a| shape[a]).collect()
    };
    (of(left, true), of(right, false))
}

/// The map that uses a product, scaling it first.
fn rewrite_user(
    b: &mut TirBuilder,
    nodes: &[MapNode],
    shape: &[usize],
    inputs: &[ValueId],
    hot: u32,
    (_, rows, offset): Deferred,
    first: First,
) -> Result<ValueId, CompileError> {
    let mut operands = inputs.to_vec();
    operands.push(rows);
    // Offset, constant and factor in one.
    let added = first.add.map(|(_, k)| inputs[k as usize]);
    if let Some(from) = offset.or(added) {
        let mut sum = vec![0f64; b.ty(from).elements()];
        for v in offset.into_iter().chain(added) {
            let values = elements(b, v)?;
            sum.iter_mut().zip(values).for_each(|(s, x)| *s += f64::from(x));
        }
        let factor = f64::from(first.factor.unwrap_or(1.0));
        let sum: Vec<f32> = sum.into_iter().map(|x| (x * factor) as f32).collect();
        let shape = b.shape(from).to_vec();
        operands.push(derived(b, from, "total", DType::F32, &shape, &sum)?);
    }
    let at = inputs.len() as u32;
    let wide = operands.len() > inputs.len() + 1;
    let scaled = MapNode {
        op: if wide { AluOp::Fma } else { AluOp::Mul },
        dtype: DType::F32,
        args: [
            Arg::Operand(hot),
            Arg::Operand(at),
            if wide { Arg::Operand(at + 1) } else { Arg::Imm(0) },
        ],
        axis: 0,
    };
    let mut out = vec![scaled];
    let root = first.add.map_or(Arg::Operand(hot), |(n, _)| Arg::Node(n as u32));
    let mut new: Vec<Arg> = Vec::with_capacity(nodes.len());
    for (n, node) in nodes.iter().enumerate() {
        let mut node = *node;
        if first.add.is_some_and(|(add, _)| add == n) {
            new.push(Arg::Node(0));
            continue;
        }
        let by = first.factor.and_then(|f| factor(&node, root).map(|x| x / f));
        if by == Some(1.0) {
            new.push(Arg::Node(0));
            continue;
        }
        let arity = node.op.arity();
        for arg in &mut node.args[..arity] {
            *arg = match *arg {
                Arg::Operand(i) if i == hot => Arg::Node(0),
                Arg::Node(i) => new[i as usize],
                arg => arg,
            };
        }
        if let Some(by) = by {
            node.args = [Arg::Node(0), Arg::Imm(by.to_bits()), Arg::Imm(0)];
        }
        out.push(node);
        new.push(Arg::Node(out.len() as u32 - 1));
    }
    if let Some(Arg::Node(last)) = new.last() {
        out.truncate(*last as usize + 1);
    }
    b.map_nodes(shape, &operands, crate::tir::expr::prune(&out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::eval::{Tensor, eval};
    use crate::tir::expr::Ex;
    use crate::tir::{ReduceOp, Type};
    use lockstep_isa::artifact::HostDType;

    #[test]
    fn a_product_no_longer_waits_for_the_deviation() {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[3, 8], Type::new(DType::F32, &[3, 8]));
        let row = |b: &mut TirBuilder, name: &str, shape: &[usize], k: usize| {
            let values: Vec<f32> = (0..shape.iter().product())
                .map(|i| (i * k % 11) as f32 * 0.3 - 1.0)
                .collect();
            b.const_f32(name, shape, &values).unwrap()
        };
        let (gain, bias) = (row(&mut b, "gain", &[1, 8], 3), row(&mut b, "bias", &[1, 8], 5));
        let (w, c) = (row(&mut b, "w", &[8, 2, 3], 7), row(&mut b, "c", &[1, 2, 3], 2));
        let squares = b.map(&[x], |e, a| e.mul(a[0], a[0])).unwrap();
        let s = b.reduce(ReduceOp::Add, squares, &[1]).unwrap();
        let z = b
            .map(&[x, s, gain, bias], |e, a| {
                let r = e.rsqrt(e.fma(a[1], Ex::f32(0.125), Ex::f32(1e-6)));
                e.fma(e.mul(a[0], r), a[2], a[3])
            })
            .unwrap();
        let y = b.contract(z, w, &[], &[(1, 0)]).unwrap();
        let y = b
            .map(&[y, c], |e, a| {
                let n = e.add(a[0], a[1]);
                e.fma(e.erf(e.mul(n, Ex::f32(0.7))), e.mul(n, Ex::f32(0.5)), Ex::f32(1.0))
            })
            .unwrap();
        b.output("y", HostDType::F32, &[3, 2, 3], y);
        b.output("z", HostDType::F32, &[3, 8], z);
        let before = b.finish();
        let mut after = before.clone();
        run(
            &mut after,
            &PassCx {
                exact: true,
                ..PassCx::default()
            },
        )
        .unwrap();
        assert_eq!(after.to_string(), before.to_string());
        assert_eq!(run(&mut after, &PassCx::default()).unwrap(), Changed(true));
        let product = after
            .values
            .values()
            .find(|d| matches!(d.op, Op::Contract { .. }))
            .unwrap();
        assert_eq!(after.values[product.inputs[0]].op, Op::Input);
        // One multiplication less: its factor is in the weights.
        let nodes = |ir: &TensorIr| match &ir.values[ir.outputs[0].value].op {
            Op::Map { nodes } => nodes.len(),
            _ => 0,
        };
        assert_eq!((nodes(&before), nodes(&after)), (5, 4));
        let inputs = [Tensor::f32(
            &[3, 8],
            (0..24).map(|i| ((i * 5) % 7) as f32 - 2.0).collect(),
        )];
        let values = |ir: &TensorIr| eval(ir, &inputs, &mut []).unwrap();
        for (a, b) in values(&before).iter().zip(&values(&after)) {
            for (a, b) in a.to_f32().iter().zip(b.to_f32()) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
}
