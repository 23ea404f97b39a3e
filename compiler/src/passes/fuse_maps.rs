//! `fuse-maps`: an elementwise producer is merged into its user, if that is its only one or the producer is cheap.
//!
//! ```text
//! v1 = map add(v0, v9)
//! v2 = map max(v1, 0.0)     =>    v1 = map max(add(v0, v9), 0.0)
//! ```
//!
//! Where rounding may change, sums of products become fused multiply-adds and products with an inverse divisions, and the producer's result is not rounded to a narrower dtype on the way: only what goes to memory is.
//!
//! Limits: the operations that a chain of the vector unit holds, and the operands that it can stream.

use super::rebuild::{keep, rebuild, users};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::op::{MapNode, arg_dtype};
use crate::tir::{Arg, Op, TensorIr, TirBuilder, ValueId};
use lockstep_graph::EntityId;
use lockstep_isa::{AluOp, DType};

/// Most ALUs of a fused map: a chain has 16, and conversions and write-backs take some.
const MAX_ALUS: usize = 12;
/// Most ALUs of a map that takes in one that gives bytes, which are cheap to store: those of the epilogue of a product.
const MAX_ALUS_OF_BYTES: usize = 8;
/// A producer of at most this many ALUs that makes numbers of bytes is computed in every user, which then reads the bytes.
const WIDENING_ALUS: usize = 4;
/// Most operands of a fused map.
const MAX_OPERANDS: usize = 6;
/// A producer of at most this many ALUs and operands is computed again in every user.
const CHEAP_ALUS: usize = 2;
const CHEAP_OPERANDS: usize = 3;

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    // Users of the program as it was; a value of the new program stands for at least one old value.
    let old_users = users(ir);
    let stored = stored(ir);
    let mut new_users: Vec<(u32, bool)> = Vec::new();
    rebuild(ir, |b, old, id, inputs| {
        let v = match &old.values[id].op {
            Op::Map { nodes } if !inputs.iter().all(|&v| b.is_const(v)) => {
                let (mut nodes, mut operands) = (nodes.clone(), inputs.to_vec());
                let shape = &old.values[id].ty.shape;
                let mut at = 0;
                while at < operands.len() {
                    let (n, stored) = new_users.get(operands[at].index()).copied().unwrap_or((2, true));
                    match inlined(
                        b,
                        shape,
                        &nodes,
                        &operands,
                        at,
                        (n == 1, stored),
                        cx.narrowed && !cx.exact,
                    ) {
                        // The producer's own operands take its place and are looked at next.
                        Some((merged, with)) => (nodes, operands) = (merged, with),
                        None => at += 1,
                    }
                }
                if !cx.exact {
                    nodes = joined(&nodes);
                }
                b.map_nodes(shape, &operands, nodes)?
            }
            _ => keep(b, old, id, inputs)?,
        };
        if new_users.len() <= v.index() {
            new_users.resize(v.index() + 1, (0, false));
        }
        new_users[v.index()].0 += old_users[id.index()];
        new_users[v.index()].1 |= stored[id.index()];
        Ok(v)
    })
}

/// Whether something other than a map uses a value: then it is in memory, and computing it again saves nothing.
fn stored(ir: &TensorIr) -> Vec<bool> {
    let mut stored = vec![false; ir.values.len()];
    for value in ir.values.values().filter(|v| !matches!(v.op, Op::Map { .. })) {
        value.inputs.iter().for_each(|v| stored[v.index()] = true);
    }
    let roots = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next));
    roots.for_each(|v| stored[v.index()] = true);
    stored
}

/// Sums of products, products with a sum of 1 and products with an inverse, in one operation of one rounding.
fn joined(nodes: &[MapNode]) -> Vec<MapNode> {
    let mut uses = vec![0; nodes.len()];
    for node in nodes {
        for arg in &node.args[..node.op.arity()] {
            if let Arg::Node(n) = arg {
                uses[*n as usize] += 1;
            }
        }
    }
    let single = |arg: Arg, op: AluOp| match arg {
        Arg::Node(n) if uses[n as usize] == 1 => nodes.get(n as usize).filter(|n| n.op == op && n.dtype == DType::F32),
        _ => None,
    };
    let one = Arg::Imm(1f32.to_bits());
    let mut out = nodes.to_vec();
    for (new, node) in out.iter_mut().zip(nodes).filter(|(_, n)| n.dtype == DType::F32) {
        let [a, b, _] = node.args;
        for (x, y) in [(a, b), (b, a)] {
            let inverse = single(x, AluOp::Div).filter(|d| d.args[0] == one);
            let joined = match node.op {
                AluOp::Add => single(x, AluOp::Mul).map(|m| (AluOp::Fma, [m.args[0], m.args[1], y])),
                AluOp::Mul => match single(x, AluOp::Add).map(|s| s.args) {
                    Some([t, o, _] | [o, t, _]) if o == one => Some((AluOp::Fma, [y, t, y])),
                    _ => inverse.map(|d| (AluOp::Div, [y, d.args[1], Arg::Imm(0)])),
                },
                _ => None,
            };
            if let Some((op, args)) = joined {
                *new = MapNode { op, args, ..*node };
                break;
            }
        }
    }
    crate::tir::expr::prune(&out)
}

/// Whether a node only rounds a float to a narrower dtype.
pub(super) fn is_rounding(node: &MapNode, nodes: &[MapNode], operands: &[DType]) -> bool {
    let from = arg_dtype(node.args[0], nodes, operands);
    node.op == AluOp::Cvt && node.dtype.is_float() && node.dtype.bytes() < 4 && from.is_some_and(|d| d == DType::F32)
}

/// ALUs that an expression occupies.
fn alus(nodes: &[MapNode]) -> usize {
    nodes.iter().map(|n| usize::from(n.op.cost())).sum()
}

/// The expression with operand `at` replaced by the map that computes it, if that is within limits.
fn inlined(
    b: &TirBuilder,
    shape: &[usize],
    nodes: &[MapNode],
    operands: &[ValueId],
    at: usize,
    (single, stored): (bool, bool),
    narrowed: bool,
) -> Option<(Vec<MapNode>, Vec<ValueId>)> {
    let producer = &b.ir().values[operands[at]];
    let Op::Map { nodes: inner } = &producer.op else {
        return None;
    };
    if b.is_const(operands[at]) {
        return None;
    }
    let smaller = producer.ty.shape != shape;
    let cheap = alus(inner) <= CHEAP_ALUS;
    let broadcast_iota = smaller && inner.iter().any(|n| n.op == AluOp::Iota);
    let light = cheap && producer.inputs.len() <= CHEAP_OPERANDS;
    let dtypes: Vec<DType> = producer.inputs.iter().map(|&v| b.dtype(v)).collect();
    let bytes = |d: &DType| d.bytes() == 1;
    let widens = !bytes(&producer.ty.dtype) && dtypes.iter().any(bytes) && alus(inner) <= WIDENING_ALUS;
    // What little is made of bytes is made in every user: what gives the bytes stays apart.
    let apart = bytes(&producer.ty.dtype) && !cheap && alus(nodes) <= WIDENING_ALUS;
    if broadcast_iota || apart || (smaller && !cheap) || (!single && !widens && (!light || stored)) {
        return None;
    }
    // Operands: the outer ones in place, new ones of the producer after them.
    let mut merged_operands: Vec<ValueId> = operands.to_vec();
    merged_operands.remove(at);
    let mut place = |v: ValueId| {
        let found = merged_operands.iter().position(|&o| o == v);
        found.unwrap_or_else(|| {
            merged_operands.push(v);
            merged_operands.len() - 1
        }) as u32
    };
    let mut merged: Vec<MapNode> = Vec::with_capacity(inner.len() + nodes.len());
    let (kept, result) = match inner.split_last() {
        Some((last, kept)) if narrowed && is_rounding(last, inner, &dtypes) => (kept, last.args[0]),
        _ => (inner.as_slice(), Arg::Node(inner.len() as u32 - 1)),
    };
    let result = match result {
        Arg::Operand(i) => Arg::Operand(place(producer.inputs[i as usize])),
        arg => arg,
    };
    for node in kept {
        let mut node = *node;
        let arity = node.op.arity();
        for arg in &mut node.args[..arity] {
            if let Arg::Operand(i) = arg {
                *arg = Arg::Operand(place(producer.inputs[*i as usize]));
            }
        }
        merged.push(node);
    }
    // The operand becomes the producer's result; nodes that both have are shared.
    let mut index: Vec<u32> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut node = *node;
        let arity = node.op.arity();
        for arg in &mut node.args[..arity] {
            *arg = match *arg {
                Arg::Operand(i) if i as usize == at => result,
                Arg::Operand(i) => Arg::Operand(place(operands[i as usize])),
                Arg::Node(i) => Arg::Node(index[i as usize]),
                imm => imm,
            };
        }
        let shared = merged.iter().position(|n| *n == node);
        index.push(shared.unwrap_or_else(|| {
            merged.push(node);
            merged.len() - 1
        }) as u32);
    }
    // The result must stay the last node.
    let last = *index.last()?;
    merged.truncate(last as usize + 1);
    let merged = crate::tir::expr::prune(&merged);
    let used = |i: usize| {
        merged
            .iter()
            .any(|n| n.args[..n.op.arity()].contains(&Arg::Operand(i as u32)))
    };
    let n_operands = (0..merged_operands.len()).filter(|&i| used(i)).count();
    // An expression that is too large already may still shrink its operands, but never grow.
    let most = match bytes(&producer.ty.dtype) && !cheap {
        true => MAX_ALUS_OF_BYTES,
        false => MAX_ALUS,
    };
    let fits = alus(&merged) <= most && n_operands <= MAX_OPERANDS;
    fits.then_some((merged, merged_operands))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::expr::Ex;
    use crate::tir::{TirBuilder, Type};
    use lockstep_isa::artifact::HostDType;

    fn inputs(b: &mut TirBuilder, n: usize) -> Vec<ValueId> {
        let ty = || Type::new(DType::F32, &[4]);
        (0..n)
            .map(|i| b.input(&format!("x{i}"), HostDType::F32, &[4], ty()))
            .collect()
    }

    fn maps(mut ir: TensorIr) -> Vec<String> {
        run(&mut ir, &PassCx::default()).unwrap();
        super::super::dead_code::run(&mut ir, &PassCx::default()).unwrap();
        let text = ir.to_string();
        let lines = text.lines().filter_map(|l| l.split_once("= map "));
        lines
            .map(|(_, map)| map.split(" ;").next().unwrap_or(map).to_owned())
            .collect()
    }

    #[test]
    fn a_product_with_an_inverse_is_a_division() {
        let mut b = TirBuilder::new("t");
        let x = inputs(&mut b, 1)[0];
        let sigmoid = b
            .map(&[x], |e, a| {
                e.div(Ex::f32(1.0), e.add(e.exp(e.neg(a[0])), Ex::f32(1.0)))
            })
            .unwrap();
        let y = b.map(&[x, sigmoid], |e, a| e.mul(a[0], a[1])).unwrap();
        b.output("y", HostDType::F32, &[4], y);
        assert_eq!(maps(b.finish()), ["div(v0, add(exp(neg(v0)), 1.0))"]);
    }

    /// Two products' epilogues that give bytes, and the sum of these: the bytes are stored, and each is widened where it is added.
    #[test]
    fn bytes_are_stored_and_widened_by_their_users() {
        let mut b = TirBuilder::new("t");
        let x = inputs(&mut b, 3);
        let bytes: Vec<ValueId> = (0..2)
            .map(|n| {
                let scaled = |e: &crate::tir::expr::Expr, a: &[Ex]| e.fma(a[0], Ex::f32(0.3), a[1]);
                b.map(&[x[n], x[2]], |e, a| {
                    e.cvt(e.round(e.max(scaled(e, a), Ex::f32(-9.0))), DType::I8)
                })
                .unwrap()
            })
            .collect();
        let wide: Vec<ValueId> = bytes
            .iter()
            .map(|&q| {
                b.map(&[q], |e, a| e.mul(e.cvt(a[0], DType::F32), Ex::f32(0.5)))
                    .unwrap()
            })
            .collect();
        let sum = b.map(&wide, |e, a| e.exp(e.add(a[0], a[1]))).unwrap();
        b.output("sum", HostDType::F32, &[4], sum);
        b.output("again", HostDType::F32, &[4], wide[0]);
        let mut ir = b.finish();
        run(&mut ir, &PassCx::default()).unwrap();
        let of = |v: ValueId| {
            let data = &ir.values[v];
            let dtypes: Vec<DType> = data.inputs.iter().map(|&v| ir.values[v].ty.dtype).collect();
            dtypes
        };
        assert_eq!(of(ir.outputs[0].value), [DType::I8, DType::I8]);
        assert_eq!(of(ir.outputs[1].value), [DType::I8]);
    }

    #[test]
    fn what_reads_many_operands_is_computed_once() {
        for (n, want) in [(3, 2), (5, 3)] {
            let mut b = TirBuilder::new("t");
            let x = inputs(&mut b, n);
            let sum = b
                .map(&x, |e, a| a[1..].chunks(2).fold(a[0], |sum, p| e.fma(p[0], p[1], sum)))
                .unwrap();
            for (name, factor) in [("y", 2.0), ("z", 3.0)] {
                let out = b.map(&[sum], |e, a| e.mul(a[0], Ex::f32(factor))).unwrap();
                b.output(name, HostDType::F32, &[4], out);
            }
            assert_eq!(maps(b.finish()).len(), want, "{n} operands");
        }
    }
}
