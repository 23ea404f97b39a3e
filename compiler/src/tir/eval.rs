//! The reference interpreter: plain nested loops over all primitives. The oracle of the tests, never optimised.
//!
//! Values are f32 or i32 vectors; a value of a narrower dtype holds the rounded elements. Products follow the order that the
//! IR states (one chain of fused multiply-adds); sums of a `reduce`, whose order the IR leaves open, are taken in f64 and
//! rounded once, so that any order is near.

use super::map::MapTable;
use super::op::{Arg, Combiner, MapNode, Op, ReduceOp, compute_dtype, free_axes};
use super::{IndexMap, TensorIr, Type, ValueId};
use crate::error::CompileError;
use lockstep_graph::EntityId;
use lockstep_isa::{AluOp, DType, scalar};

/// Elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Of a float dtype.
    F(Vec<f32>),
    /// Of an integer dtype.
    I(Vec<i32>),
}

/// A tensor with its elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Type.
    pub ty: Type,
    /// As many elements as the type says.
    pub data: Data,
}

impl Tensor {
    /// An f32 tensor.
    pub fn f32(shape: &[usize], values: Vec<f32>) -> Tensor {
        Tensor {
            ty: Type::new(DType::F32, shape),
            data: Data::F(values),
        }
    }

    /// An i32 tensor.
    pub fn i32(shape: &[usize], values: Vec<i32>) -> Tensor {
        Tensor {
            ty: Type::new(DType::I32, shape),
            data: Data::I(values),
        }
    }

    /// All zero.
    pub fn zeros(ty: &Type) -> Tensor {
        Tensor::from_bits(ty.clone(), vec![0; ty.elements()])
    }

    /// Elements as bits of an f32 or i32.
    pub fn bits(&self) -> Vec<u32> {
        match &self.data {
            Data::F(v) => v.iter().map(|x| x.to_bits()).collect(),
            Data::I(v) => v.iter().map(|&x| x as u32).collect(),
        }
    }

    /// A tensor from bits of f32 or i32 elements.
    pub fn from_bits(ty: Type, bits: Vec<u32>) -> Tensor {
        let data = if ty.dtype.is_float() {
            Data::F(bits.into_iter().map(f32::from_bits).collect())
        } else {
            Data::I(bits.into_iter().map(|b| b as i32).collect())
        };
        Tensor { ty, data }
    }

    /// Elements as f32, integers converted.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.data {
            Data::F(v) => v.clone(),
            Data::I(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }
}

/// Runs the program once: outputs in order. `states` holds the contents of the states and is advanced.
///
/// # Errors
/// If inputs or states are not of the declared number and types, or the program is malformed.
pub fn eval(ir: &TensorIr, inputs: &[Tensor], states: &mut [Tensor]) -> Result<Vec<Tensor>, CompileError> {
    let bad = |what: &str| CompileError::internal("eval", what.to_string());
    if inputs.len() != ir.inputs.len() || states.len() != ir.states.len() {
        return Err(bad("wrong number of inputs or states"));
    }
    let mut last_use = vec![0usize; ir.values.len()];
    for (id, value) in ir.values.iter() {
        value.inputs.iter().for_each(|v| last_use[v.index()] = id.index());
    }
    let kept = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next));
    kept.for_each(|v| last_use[v.index()] = usize::MAX);
    let mut values: Vec<Option<Tensor>> = vec![None; ir.values.len()];
    for (id, value) in ir.values.iter() {
        let result = match &value.op {
            Op::Input => {
                let at = ir
                    .inputs
                    .iter()
                    .position(|p| p.value == id)
                    .ok_or_else(|| bad("an input without a port"))?;
                let mut tensor = inputs[at].clone();
                if tensor.ty.dtype != value.ty.dtype || tensor.ty.elements() != value.ty.elements() {
                    return Err(bad("an input has another type"));
                }
                tensor.ty = value.ty.clone();
                tensor
            }
            Op::State(s) => states.get(s.index()).cloned().ok_or_else(|| bad("no such state"))?,
            Op::Const(k) => super::consteval::read_const(&ir.consts[*k])?,
            op => {
                let operands: Option<Vec<&Tensor>> = value.inputs.iter().map(|v| values[v.index()].as_ref()).collect();
                eval_op(
                    op,
                    &operands.ok_or_else(|| bad("an operand has no value"))?,
                    &value.ty,
                    &ir.maps,
                )
            }
        };
        values[id.index()] = Some(result);
        for v in &value.inputs {
            if last_use[v.index()] == id.index() {
                values[v.index()] = None;
            }
        }
    }
    let fetch = |v: ValueId| values[v.index()].clone().ok_or_else(|| bad("no value"));
    let outputs = ir
        .outputs
        .iter()
        .map(|p| fetch(p.value))
        .collect::<Result<Vec<_>, _>>()?;
    for (id, state) in ir.states.iter() {
        states[id.index()] = fetch(state.next)?;
    }
    Ok(outputs)
}

/// One operation that is no source, on operands of verified types.
pub fn eval_op(op: &Op, operands: &[&Tensor], ty: &Type, maps: &MapTable) -> Tensor {
    match op {
        Op::Input | Op::Const(_) | Op::State(_) => Tensor::zeros(ty),
        Op::Transfer => operands[0].clone(),
        Op::Move { parts, fill } => {
            let parts: Vec<&IndexMap> = parts.iter().map(|&p| maps.get(p)).collect();
            eval_move(&parts, operands, scalar::widen(*fill, ty.dtype), ty)
        }
        Op::Map { nodes } => eval_map(nodes, operands, ty),
        Op::Reduce { op, axes } => eval_reduce(*op, axes, operands[0], ty),
        Op::Contract { batch, contracted, .. } => eval_contract(batch, contracted, operands[0], operands[1], ty),
        Op::Gather => {
            let (n, row) = rows(&operands[0].ty);
            let table = operands[0].bits();
            let pick = |&i: &u32| table[row * clamp(i, n)..][..row].to_vec();
            Tensor::from_bits(ty.clone(), operands[1].bits().iter().flat_map(pick).collect())
        }
        Op::Scatter { combiner } => {
            let (n, row) = rows(&operands[0].ty);
            let (mut table, updates) = (operands[0].bits(), operands[2].bits());
            let compute = ty.dtype.widened();
            for (u, &index) in operands[1].bits().iter().enumerate() {
                for e in 0..row {
                    let (slot, new) = (&mut table[row * clamp(index, n) + e], updates[u * row + e]);
                    *slot = match combiner {
                        Combiner::Replace => new,
                        Combiner::Reduce(r) => alu(r.alu(), compute, ty.dtype, [*slot, new, 0]),
                    };
                }
            }
            Tensor::from_bits(ty.clone(), table)
        }
        Op::Sort { axis, descending } => eval_sort(usize::from(*axis), *descending, operands[0], operands[1], ty),
    }
}

fn rows(ty: &Type) -> (usize, usize) {
    (ty.shape[0], ty.shape[1..].iter().product())
}

/// The row that an index addresses; a table has a row wherever an index exists.
fn clamp(index: u32, n: usize) -> usize {
    (index as usize).min(n.saturating_sub(1))
}

fn eval_move(parts: &[&IndexMap], operands: &[&Tensor], fill: u32, ty: &Type) -> Tensor {
    let sources: Vec<Vec<u32>> = operands.iter().map(|t| t.bits()).collect();
    let mut out = vec![fill; ty.elements()];
    for (map, source) in parts.iter().zip(&sources).rev() {
        super::consteval::for_each(map, |to, from| out[to] = source[from]);
    }
    Tensor::from_bits(ty.clone(), out)
}

fn eval_map(nodes: &[MapNode], operands: &[&Tensor], ty: &Type) -> Tensor {
    let sources: Vec<Vec<u32>> = operands.iter().map(|t| t.bits()).collect();
    let strides: Vec<Vec<usize>> = operands
        .iter()
        .map(|t| broadcast_strides(&t.ty.shape, &ty.shape))
        .collect();
    let dtypes: Vec<DType> = operands.iter().map(|t| t.ty.dtype).collect();
    let compute: Vec<DType> = (0..nodes.len()).map(|at| compute_dtype(nodes, at, &dtypes)).collect();
    let mut results = vec![0u32; nodes.len()];
    let mut out = Vec::with_capacity(ty.elements());
    for_coordinates(&ty.shape, |c| {
        for (at, node) in nodes.iter().enumerate() {
            let mut args = [0u32; 3];
            for (slot, arg) in args.iter_mut().zip(&node.args[..node.op.arity()]) {
                *slot = match *arg {
                    Arg::Imm(bits) => bits,
                    Arg::Node(i) => results[i as usize],
                    Arg::Operand(i) => {
                        let i = i as usize;
                        sources[i][c.iter().zip(&strides[i]).map(|(c, s)| c * s).sum::<usize>()]
                    }
                };
            }
            results[at] = match node.op {
                AluOp::Iota => c[usize::from(node.axis)] as u32,
                op => alu(op, compute[at], node.dtype, args),
            };
        }
        out.push(results[nodes.len() - 1]);
    });
    Tensor::from_bits(ty.clone(), out)
}

/// Row-major strides of an operand of extents `from` seen with extents `to`: 0 where it is broadcast.
fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut strides = vec![0; from.len()];
    let mut step = 1;
    for d in (0..from.len()).rev() {
        strides[d] = if from[d] == 1 && to[d] != 1 { 0 } else { step };
        step *= from[d];
    }
    strides
}

/// Calls `f` with every coordinate in row-major order.
fn for_coordinates(shape: &[usize], mut f: impl FnMut(&[usize])) {
    let n: usize = shape.iter().product();
    let mut c = vec![0; shape.len()];
    for _ in 0..n {
        f(&c);
        for d in (0..shape.len()).rev() {
            c[d] += 1;
            if c[d] < shape[d] {
                break;
            }
            c[d] = 0;
        }
    }
}

fn eval_reduce(op: ReduceOp, axes: &[u8], x: &Tensor, ty: &Type) -> Tensor {
    let kept: Vec<usize> = broadcast_strides(&ty.shape, &x.ty.shape);
    let mut index = Vec::with_capacity(x.ty.elements());
    for_coordinates(&x.ty.shape, |c| {
        index.push(c.iter().zip(&kept).map(|(c, s)| c * s).sum::<usize>())
    });
    debug_assert!(axes.iter().all(|&a| ty.shape[usize::from(a)] == 1));
    let data = match &x.data {
        Data::F(values) if matches!(op, ReduceOp::Add | ReduceOp::Mul) => {
            let mut sums = vec![if op == ReduceOp::Add { 0f64 } else { 1.0 }; ty.elements()];
            for (&i, &v) in index.iter().zip(values) {
                if op == ReduceOp::Add {
                    sums[i] += f64::from(v)
                } else {
                    sums[i] *= f64::from(v)
                }
            }
            sums.into_iter().map(|s| (s as f32).to_bits()).collect()
        }
        _ => {
            let compute = x.ty.dtype.widened();
            let identity = match (op, compute.is_float()) {
                (ReduceOp::Add, _) => 0,
                (ReduceOp::Mul, _) => 1,
                (ReduceOp::Min, true) => f32::INFINITY.to_bits(),
                (ReduceOp::Max, true) => f32::NEG_INFINITY.to_bits(),
                (ReduceOp::Min, false) => i32::MAX as u32,
                (ReduceOp::Max, false) => i32::MIN as u32,
            };
            let mut out = vec![identity; ty.elements()];
            for (&i, v) in index.iter().zip(x.bits()) {
                out[i] = alu(op.alu(), compute, compute, [out[i], v, 0]);
            }
            out
        }
    };
    let wide = Type {
        dtype: ty.dtype.widened(),
        shape: ty.shape.clone(),
    };
    let mut result = Tensor::from_bits(wide, data);
    if let Data::F(values) = &mut result.data {
        values
            .iter_mut()
            .for_each(|v| *v = f32::from_bits(scalar::widen(scalar::narrow_f32(*v, ty.dtype), ty.dtype)));
    }
    result.ty = ty.clone();
    result
}

fn eval_contract(batch: &[(u8, u8)], contracted: &[(u8, u8)], a: &Tensor, b: &Tensor, ty: &Type) -> Tensor {
    // Linear offsets of every combination of the given axes, first axis slowest.
    let offsets = |ty: &Type, axes: &[usize]| -> Vec<usize> {
        let strides = broadcast_strides(&ty.shape, &ty.shape);
        let mut out = Vec::new();
        let shape: Vec<usize> = axes.iter().map(|&x| ty.shape[x]).collect();
        for_coordinates(&shape, |c| {
            out.push(c.iter().zip(axes).map(|(c, &x)| c * strides[x]).sum())
        });
        out
    };
    let side = |pairs: &[(u8, u8)], left: bool| -> Vec<usize> {
        pairs
            .iter()
            .map(|&(l, r)| usize::from(if left { l } else { r }))
            .collect()
    };
    let (ba, bb) = (offsets(&a.ty, &side(batch, true)), offsets(&b.ty, &side(batch, false)));
    let (ka, kb) = (
        offsets(&a.ty, &side(contracted, true)),
        offsets(&b.ty, &side(contracted, false)),
    );
    let m = offsets(&a.ty, &free_axes(a.ty.rank(), batch, contracted, true));
    let n = offsets(&b.ty, &free_axes(b.ty.rank(), batch, contracted, false));
    let widened = match (&a.data, &b.data) {
        (Data::F(_), Data::I(b)) => Some(Data::F(b.iter().map(|&w| w as f32).collect())),
        _ => None,
    };
    let weights = widened.as_ref().unwrap_or(&b.data);
    let mut data = match ty.dtype.is_float() {
        true => Data::F(Vec::with_capacity(ty.elements())),
        false => Data::I(Vec::with_capacity(ty.elements())),
    };
    for (&ba, &bb) in ba.iter().zip(&bb) {
        for &m in &m {
            match (&a.data, weights, &mut data) {
                (Data::F(a), Data::F(b), Data::F(out)) => {
                    let mut row = vec![0f32; n.len()];
                    for (&ka, &kb) in ka.iter().zip(&kb) {
                        let x = a[ba + m + ka];
                        row.iter_mut()
                            .zip(&n)
                            .for_each(|(acc, &n)| *acc = x.mul_add(b[bb + kb + n], *acc));
                    }
                    out.extend(row);
                }
                (Data::I(a), Data::I(b), Data::I(out)) => {
                    let mut row = vec![0i32; n.len()];
                    for (&ka, &kb) in ka.iter().zip(&kb) {
                        let x = a[ba + m + ka];
                        row.iter_mut()
                            .zip(&n)
                            .for_each(|(acc, &n)| *acc = acc.wrapping_add(x.wrapping_mul(b[bb + kb + n])));
                    }
                    out.extend(row);
                }
                _ => {}
            }
        }
    }
    Tensor { ty: ty.clone(), data }
}

/// Odd-even transposition: neighbours are exchanged where they are strictly out of order, so it is stable.
fn eval_sort(axis: usize, descending: bool, key: &Tensor, payload: &Tensor, ty: &Type) -> Tensor {
    let n = ty.shape[axis];
    let inner: usize = ty.shape[axis + 1..].iter().product();
    let outer: usize = ty.shape[..axis].iter().product();
    let (mut keys, mut out) = (key.bits(), payload.bits());
    let compute = key.ty.dtype.widened();
    let before = |a: u32, b: u32| {
        let (a, b) = if descending { (b, a) } else { (a, b) };
        alu(AluOp::Lt, compute, DType::I32, [a, b, 0]) != 0
    };
    for o in 0..outer {
        for i in 0..inner {
            let at = |e: usize| (o * n + e) * inner + i;
            for round in 0..n {
                for e in (round % 2..n.saturating_sub(1)).step_by(2) {
                    if before(keys[at(e + 1)], keys[at(e)]) {
                        keys.swap(at(e), at(e + 1));
                        out.swap(at(e), at(e + 1));
                    }
                }
            }
        }
    }
    Tensor::from_bits(ty.clone(), out)
}

/// One ALU operation on bits of f32 or i32 (`compute`), with a result of `dtype` widened: the definition of the ISA.
pub fn alu(op: AluOp, compute: DType, dtype: DType, args: [u32; 3]) -> u32 {
    match op {
        AluOp::Cvt => scalar::widen(scalar::convert(args[0], compute, dtype), dtype),
        _ => scalar::alu(op, compute, args[0], args[1], args[2]),
    }
}
