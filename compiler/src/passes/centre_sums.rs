//! `centre-sums`: a sum that is only used less its mean is centred term by term, the weights of products at compile time.
//!
//! ```text
//! v3 = contract v0, v1                            v1' = v1 less its mean over the columns; bias' alike
//! v4 = map add(add(v3, bias), v2)                 v5' = reduce.add v2
//! v5 = reduce.add v4 over(1)                =>    v3' = contract v0, v1'
//! v6 = map sub(v4, mul(v5, 1/n))                  v6 = map add(add(v3', bias'), sub(v2, mul(v5', 1/n)))
//! ```
//!
//! The mean then waits for the other terms alone, which a residual network has long before the product. Changes rounding.

use super::fuse_maps::is_rounding;
use super::rebuild::{keep, live, readers, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::consteval::{self, const_values};
use crate::tir::op::free_axes;
use crate::tir::{Arg, MapNode, Op, ReduceOp, TensorIr, TirBuilder, Type, ValueId};
use lockstep_graph::{EntityId, IdSet, Weights};
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{AluOp, DType};
use std::collections::BTreeMap;

/// Most elements of all weights that are rewritten.
pub(super) const MAX_ELEMENTS: usize = 32 << 20;

/// A term of a sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    /// A product with constant columns.
    Product,
    /// A constant along the axis.
    Constant,
    /// Centred at run time.
    Other,
}

/// A sum that is only used less its mean.
struct Sum {
    /// The reduction that makes the mean.
    total: ValueId,
    /// 1 / extent, as bits.
    share: u32,
    /// Terms, by operand of the map.
    terms: Vec<Term>,
}

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    if cx.exact {
        return Ok(Changed(false));
    }
    let sums = sums(ir);
    let weights = |v: &ValueId| -> usize {
        let products = ir.values[*v].inputs.iter().map(|&u| &ir.values[u]);
        products
            .filter(|d| matches!(d.op, Op::Contract { .. }))
            .map(|d| ir.values[d.inputs[1]].ty.elements())
            .sum()
    };
    if sums.is_empty() || sums.keys().map(weights).sum::<usize>() > MAX_ELEMENTS {
        return Ok(Changed(false));
    }
    // Products, and the sum that each is a term of.
    let mut product_of: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for (&v, sum) in &sums {
        for (term, &u) in sum.terms.iter().zip(&ir.values[v].inputs) {
            if *term == Term::Product {
                product_of.insert(u, v);
            }
        }
    }
    let mut new: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    rebuild(ir, |b, old, id, inputs| {
        let value = &old.values[id];
        let v = match &value.op {
            Op::Contract { .. } if product_of.contains_key(&id) => {
                // Totals of the other terms come before the product, so that its chain can take them in.
                let sum = product_of[&id];
                for (term, u) in sums[&sum].terms.iter().zip(&old.values[sum].inputs) {
                    if let (Term::Other, Some(&u)) = (term, new.get(u)) {
                        total(b, u)?;
                    }
                }
                let rhs = centred_columns(b, &value.op, inputs)?;
                b.push(value.op.clone(), &[inputs[0], rhs], &value.ty)?
            }
            Op::Map { nodes } if sums.contains_key(&id) => centred_sum(b, &sums[&id], nodes, &value.ty.shape, inputs)?,
            Op::Map { nodes } => {
                let mut nodes = nodes.clone();
                let mut changed = false;
                for (i, u) in value.inputs.iter().enumerate() {
                    let Some(sum) = sums.get(u) else { continue };
                    let total = value.inputs.iter().position(|v| *v == sum.total);
                    changed |= replace(&mut nodes, i as u32, total.map(|t| t as u32), sum.share);
                }
                let nodes = crate::tir::expr::prune(&nodes);
                // A map that only centred is the sum itself now.
                let same = |i: u32| b.ty(inputs[i as usize]) == &value.ty;
                match nodes.as_slice() {
                    _ if !changed => keep(b, old, id, inputs)?,
                    [only] => match (only.op, only.args[0]) {
                        (AluOp::Copy | AluOp::Cvt, Arg::Operand(i)) if same(i) => inputs[i as usize],
                        _ => b.map_nodes(&value.ty.shape, inputs, nodes)?,
                    },
                    _ => b.map_nodes(&value.ty.shape, inputs, nodes)?,
                }
            }
            _ => keep(b, old, id, inputs)?,
        };
        new.insert(id, v);
        Ok(v)
    })
}

/// The sums of a program.
fn sums(ir: &TensorIr) -> BTreeMap<ValueId, Sum> {
    let (consts, live, readers) = (const_values(ir), live(ir), readers(ir));
    let mut out = BTreeMap::new();
    for (total, data) in ir.values.iter().filter(|(v, _)| live.contains(*v)) {
        let Op::Reduce {
            op: ReduceOp::Add,
            axes,
        } = &data.op
        else {
            continue;
        };
        let u = data.inputs[0];
        let shape = &ir.values[u].ty.shape;
        let last = shape.len().wrapping_sub(1);
        if axes.len() != 1 || usize::from(axes[0]) != last || consts.contains(u) || out.contains_key(&u) {
            continue;
        }
        let share = (1.0 / shape[last] as f32).to_bits();
        let centring = |m: &ValueId| {
            let data = &ir.values[*m];
            let Op::Map { nodes } = &data.op else { return false };
            let at = |v: ValueId| data.inputs.iter().position(|&u| u == v).map(|i| i as u32);
            at(u).is_some_and(|i| {
                let mut left = nodes.clone();
                replace(&mut left, i, at(total), share);
                let left = crate::tir::expr::prune(&left);
                let uses = |i: u32| left.iter().any(|n| n.args[..n.op.arity()].contains(&Arg::Operand(i)));
                // All that is left of the sum stands where it was centred: as many uses as centrings.
                at(total).is_none_or(|t| !uses(t)) && only_centred(nodes, i, at(total), share)
            })
        };
        let of_sum = readers[u.index()].iter().filter(|m| **m != total);
        let mut others = of_sum.chain(&readers[total.index()]).peekable();
        if others.peek().is_none() || ir.is_observed(u) || ir.is_observed(total) || !others.all(centring) {
            continue;
        }
        if let Some(terms) = terms(ir, u, &readers, &consts) {
            out.insert(u, Sum { total, share, terms });
        }
    }
    out
}

/// The terms of a map that is a sum: one at least a product, one at most centred at run time.
fn terms(ir: &TensorIr, u: ValueId, readers: &[Vec<ValueId>], consts: &IdSet<ValueId>) -> Option<Vec<Term>> {
    let data = &ir.values[u];
    let Op::Map { nodes } = &data.op else { return None };
    let dtypes: Vec<DType> = data.inputs.iter().map(|&v| ir.values[v].ty.dtype).collect();
    let (end, kept) = nodes.split_last()?;
    let adds = if is_rounding(end, nodes, &dtypes) { kept } else { nodes };
    // Every node an addition, every operand and node used once.
    let mut seen: Vec<Arg> = Vec::new();
    for n in adds {
        if n.op != AluOp::Add || n.dtype != DType::F32 {
            return None;
        }
        seen.extend(&n.args[..2]);
    }
    let n_args = seen.len();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() != n_args || seen.iter().any(|a| matches!(a, Arg::Imm(_))) || adds.is_empty() {
        return None;
    }
    let shape = &data.ty.shape;
    let n = *shape.last()?;
    let mut terms = Vec::new();
    for &v in &data.inputs {
        let term = &ir.values[v];
        let (Some(&extent), DType::F32 | DType::F16 | DType::BF16) = (term.ty.shape.last(), term.ty.dtype) else {
            return None;
        };
        let product = || match &term.op {
            Op::Contract { batch, contracted, .. } => {
                let rank = ir.values[term.inputs[1]].ty.rank();
                batch.is_empty()
                    && consts.contains(term.inputs[1])
                    && free_axes(rank, batch, contracted, false).len() == 1
                    && readers[v.index()].len() == 1
            }
            _ => false,
        };
        terms.push(match () {
            () if extent != n => return None,
            () if consts.contains(v) => Term::Constant,
            () if term.ty.shape == *shape && product() => Term::Product,
            () => Term::Other,
        });
    }
    let count = |t: Term| terms.iter().filter(|&&x| x == t).count();
    (count(Term::Product) > 0 && count(Term::Other) <= 1).then_some(terms)
}

/// Whether node `n` takes the mean away from operand `u`: `u - total * share`, in two operations or one.
fn is_centring(nodes: &[MapNode], n: &MapNode, u: u32, total: Option<u32>, share: u32) -> bool {
    let Some(total) = total.map(Arg::Operand) else {
        return false;
    };
    let both =
        |args: &[Arg; 3], share: u32| args[..2] == [total, Arg::Imm(share)] || args[..2] == [Arg::Imm(share), total];
    match (n.op, n.args) {
        (AluOp::Sub, [of, Arg::Node(k), _]) => {
            let mean = nodes.get(k as usize);
            of == Arg::Operand(u) && mean.is_some_and(|m| m.op == AluOp::Mul && both(&m.args, share))
        }
        (AluOp::Fma, args) => args[2] == Arg::Operand(u) && both(&args, (-f32::from_bits(share)).to_bits()),
        _ => false,
    }
}

/// Whether operand `u` is used only where its mean is taken away.
fn only_centred(nodes: &[MapNode], u: u32, total: Option<u32>, share: u32) -> bool {
    nodes
        .iter()
        .all(|n| is_centring(nodes, n, u, total, share) || !n.args[..n.op.arity()].contains(&Arg::Operand(u)))
}

/// Puts operand `u` in the place of itself less its mean; whether there was such a place.
fn replace(nodes: &mut [MapNode], u: u32, total: Option<u32>, share: u32) -> bool {
    let places: Vec<usize> = (0..nodes.len())
        .filter(|&n| is_centring(nodes, &nodes[n], u, total, share))
        .collect();
    for &at in &places {
        for n in nodes.iter_mut() {
            let arity = n.op.arity();
            n.args[..arity]
                .iter_mut()
                .filter(|a| **a == Arg::Node(at as u32))
                .for_each(|a| *a = Arg::Operand(u));
        }
        // Where it is the result.
        nodes[at] = MapNode {
            op: AluOp::Copy,
            args: [Arg::Operand(u), Arg::Imm(0), Arg::Imm(0)],
            ..nodes[at]
        };
    }
    !places.is_empty()
}

/// The sum over the last axis.
fn total(b: &mut TirBuilder, v: ValueId) -> Result<ValueId, CompileError> {
    let last = b.shape(v).len() - 1;
    b.reduce(ReduceOp::Add, v, &[last])
}

/// The sum of the centred terms.
fn centred_sum(
    b: &mut TirBuilder,
    sum: &Sum,
    nodes: &[MapNode],
    shape: &[usize],
    inputs: &[ValueId],
) -> Result<ValueId, CompileError> {
    let mut operands = inputs.to_vec();
    let mut centred: Vec<MapNode> = Vec::new();
    let mut place: Vec<Arg> = (0..inputs.len() as u32).map(Arg::Operand).collect();
    for (i, (&u, term)) in inputs.iter().zip(&sum.terms).enumerate() {
        match term {
            Term::Product => {}
            Term::Constant => operands[i] = centred_constant(b, u)?,
            Term::Other => {
                operands.push(total(b, u)?);
                let node = |op, args: [Arg; 2]| MapNode {
                    op,
                    dtype: DType::F32,
                    args: [args[0], args[1], Arg::Imm(0)],
                    axis: 0,
                };
                let at = centred.len() as u32;
                let mean = [Arg::Operand(operands.len() as u32 - 1), Arg::Imm(sum.share)];
                centred.push(node(AluOp::Mul, mean));
                centred.push(node(AluOp::Sub, [Arg::Operand(i as u32), Arg::Node(at)]));
                place[i] = Arg::Node(at + 1);
            }
        }
    }
    let first = centred.len() as u32;
    for node in nodes {
        let mut node = *node;
        let arity = node.op.arity();
        for arg in &mut node.args[..arity] {
            *arg = match *arg {
                Arg::Operand(i) => place[i as usize],
                Arg::Node(i) => Arg::Node(first + i),
                imm => imm,
            };
        }
        centred.push(node);
    }
    b.map_nodes(shape, &operands, centred)
}

/// The elements of a float constant before it was rounded to a narrower dtype; zeros where they are absent, and what is derived from it
/// will be absent too.
pub(super) fn elements(b: &mut TirBuilder, v: ValueId) -> Result<Vec<f32>, CompileError> {
    if consteval::is_absent(b.ir(), v) {
        return Ok(vec![0.0; b.ty(v).elements()]);
    }
    let wide = widened(b, v)?;
    Ok(consteval::tensor(b.ir(), wide)?.to_f32())
}

/// A constant, without a conversion to a narrower float.
fn widened(b: &mut TirBuilder, v: ValueId) -> Result<ValueId, CompileError> {
    let data = b.ir().values[v].clone();
    match &data.op {
        Op::Map { nodes } if data.inputs.len() == 1 && nodes.len() == 1 => {
            let dtypes = [b.dtype(data.inputs[0])];
            let same_shape = b.shape(data.inputs[0]) == data.ty.shape;
            Ok(if same_shape && is_rounding(&nodes[0], nodes, &dtypes) {
                data.inputs[0]
            } else {
                v
            })
        }
        Op::Move { parts, fill: 0 } => {
            let mut inputs = Vec::new();
            for &u in &data.inputs {
                inputs.push(widened(b, u)?);
            }
            if inputs == data.inputs || inputs.iter().any(|&u| b.dtype(u) != DType::F32) {
                return Ok(v);
            }
            let stored = b.ty(inputs[0]).clone();
            let parts = parts.clone();
            b.push(Op::Move { parts, fill: 0 }, &inputs, &stored)
        }
        _ => Ok(v),
    }
}

/// A constant made from another one, in a dtype: the name says from which and how.
pub(super) fn derived(
    b: &mut TirBuilder,
    from: ValueId,
    how: &str,
    dtype: DType,
    shape: &[usize],
    values: &[f32],
) -> Result<ValueId, CompileError> {
    let mut at = from;
    let name = loop {
        let data = &b.ir().values[at];
        match (&data.op, data.inputs.first()) {
            (Op::Const(k), _) => break b.ir().consts[*k].name.clone(),
            (_, Some(&u)) => at = u,
            (_, None) => break from.to_string(),
        }
    };
    let data = match consteval::is_absent(b.ir(), from) {
        true => Weights::absent(size_of_val(values)),
        false => values.into(),
    };
    let ty = Type::new(DType::F32, shape);
    let v = b.constant(&format!("{name}.{how}"), ty, HostDType::F32, data)?;
    if dtype == DType::F32 {
        return Ok(v);
    }
    b.map_to(shape, &[v], |e, x| e.cvt(x[0], dtype))
}

/// Elements between neighbours along an axis.
pub(super) fn stride(shape: &[usize], axis: usize) -> usize {
    shape[axis + 1..].iter().product()
}

/// The right operand of a product, less its mean over the columns.
fn centred_columns(b: &mut TirBuilder, op: &Op, inputs: &[ValueId]) -> Result<ValueId, CompileError> {
    let Op::Contract { batch, contracted, .. } = op else {
        return Ok(inputs[1]);
    };
    let shape = b.shape(inputs[1]).to_vec();
    let axis = free_axes(shape.len(), batch, contracted, false)[0];
    centred(b, inputs[1], &shape, axis)
}

fn centred_constant(b: &mut TirBuilder, v: ValueId) -> Result<ValueId, CompileError> {
    let shape = b.shape(v).to_vec();
    let axis = shape.len() - 1;
    centred(b, v, &shape, axis)
}

fn centred(b: &mut TirBuilder, v: ValueId, shape: &[usize], axis: usize) -> Result<ValueId, CompileError> {
    let mut values = elements(b, v)?;
    let (n, step) = (shape[axis], stride(shape, axis));
    for outer in (0..values.len()).step_by((n * step).max(1)) {
        for inner in outer..outer + step {
            let sum: f64 = (0..n).map(|i| f64::from(values[inner + i * step])).sum();
            let mean = sum / n as f64;
            for i in 0..n {
                let x = &mut values[inner + i * step];
                *x = (f64::from(*x) - mean) as f32;
            }
        }
    }
    let dtype = b.dtype(v);
    derived(b, v, "centred", dtype, shape, &values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::Type;
    use crate::tir::eval::{Tensor, eval};
    use crate::tir::expr::Ex;
    use lockstep_isa::artifact::HostDType;

    #[test]
    fn the_mean_no_longer_waits_for_the_product() {
        let mut b = TirBuilder::new("t");
        let input = |b: &mut TirBuilder, n: &str| b.input(n, HostDType::F32, &[3, 8], Type::new(DType::F32, &[3, 8]));
        let (x, y) = (input(&mut b, "x"), input(&mut b, "y"));
        let w: Vec<f32> = (0..64).map(|i| (i * 37 % 23) as f32 * 0.1).collect();
        let w = b.const_f32("w", &[8, 8], &w).unwrap();
        let bias: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let bias = b.const_f32("bias", &[1, 8], &bias).unwrap();
        let p = b.contract(x, w, &[], &[(1, 0)]).unwrap();
        let u = b.map(&[p, bias, y], |e, a| e.add(e.add(a[0], a[1]), a[2])).unwrap();
        let s = b.reduce(ReduceOp::Add, u, &[1]).unwrap();
        let c = b.map(&[u, s], |e, a| e.sub(a[0], e.mul(a[1], Ex::f32(0.125)))).unwrap();
        let q = b
            .map(&[u, s], |e, a| {
                let c = e.sub(a[0], e.mul(a[1], Ex::f32(0.125)));
                e.mul(c, c)
            })
            .unwrap();
        b.output("c", HostDType::F32, &[3, 8], c);
        b.output("q", HostDType::F32, &[3, 8], q);
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
        let reduced = after
            .values
            .values()
            .find(|d| matches!(d.op, Op::Reduce { .. }))
            .unwrap();
        assert_eq!(after.values[reduced.inputs[0]].op, Op::Input);
        let tensor = |k: usize| Tensor::f32(&[3, 8], (0..24).map(|i| ((i * k) % 7) as f32 - 3.0).collect());
        let inputs = [tensor(5), tensor(3)];
        let values = |ir: &TensorIr| eval(ir, &inputs, &mut []).unwrap();
        for (a, b) in values(&before).iter().zip(&values(&after)) {
            for (a, b) in a.to_f32().iter().zip(b.to_f32()) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
}
