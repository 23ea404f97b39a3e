//! Builds a [`TensorIr`]: appends operations with inferred types, shares equal ones, and cancels what is trivial.

use super::compose::compose_simply;
use super::expr::{Ex, Expr};
use super::op::{Op, ReduceOp, infer};
use super::{ConstData, ConstId, IndexMap, MapId, Port, StateData, TensorIr, Type, ValueData, ValueId};
use crate::error::CompileError;
use lockstep_graph::{IdSet, OriginId, Weights};
use lockstep_isa::DType;
use lockstep_isa::artifact::HostDType;
use std::collections::BTreeMap;

/// A tensor IR under construction. Every value that it appends carries the current origins.
///
/// An operation that does not fit its operands is a bug of the caller: the error is [`CompileError::internal`].
#[derive(Debug, Default)]
pub struct TirBuilder {
    ir: TensorIr,
    origins: Vec<OriginId>,
    known: BTreeMap<(Op, Vec<ValueId>, Type), ValueId>,
    constant: IdSet<ValueId>,
}

/// A value that was built.
pub type Built = Result<ValueId, CompileError>;

impl TirBuilder {
    /// An empty program.
    pub fn new(name: &str) -> TirBuilder {
        TirBuilder {
            ir: TensorIr {
                name: name.to_string(),
                ..TensorIr::default()
            },
            ..TirBuilder::default()
        }
    }

    /// An empty program with the constants, maps, origins and name of another; states and ports are the caller's to carry over.
    pub fn like(ir: &mut TensorIr) -> TirBuilder {
        let ir = TensorIr {
            name: ir.name.clone(),
            consts: std::mem::take(&mut ir.consts),
            maps: std::mem::take(&mut ir.maps),
            origins: std::mem::take(&mut ir.origins),
            ..TensorIr::default()
        };
        TirBuilder {
            ir,
            ..TirBuilder::default()
        }
    }

    /// The program so far.
    pub fn ir(&self) -> &TensorIr {
        &self.ir
    }

    /// The program.
    pub fn finish(self) -> TensorIr {
        self.ir
    }

    /// The table of origins, to be filled in.
    pub fn origins_mut(&mut self) -> &mut lockstep_graph::IdVec<OriginId, lockstep_graph::Origin> {
        &mut self.ir.origins
    }

    /// Sets the origins of the values appended from now on: ascending, no duplicates.
    pub fn set_origins(&mut self, origins: &[OriginId]) {
        self.origins = origins.to_vec();
    }

    /// Type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.ir.values[v].ty
    }

    /// Shape of a value.
    pub fn shape(&self, v: ValueId) -> &[usize] {
        &self.ir.values[v].ty.shape
    }

    /// Element type of a value.
    pub fn dtype(&self, v: ValueId) -> DType {
        self.ir.values[v].ty.dtype
    }

    /// Appends an operation; an equal one that is there already is returned instead. `stored` is the type hint of [`infer`].
    pub fn push(&mut self, op: Op, inputs: &[ValueId], stored: &Type) -> Built {
        let types: Vec<&Type> = inputs.iter().map(|&v| &self.ir.values[v].ty).collect();
        let ty = infer(&op, &types, stored, &self.ir.maps).map_err(|message| {
            CompileError::internal("build", format!("{} ({:?}): {message}", op.name(), self.origins))
        })?;
        if matches!(op, Op::Input) {
            return Ok(self.append(op, inputs, ty));
        }
        let key = (op, inputs.to_vec(), ty);
        if let Some(&known) = self.known.get(&key) {
            let extra: Vec<OriginId> = self.origins.clone();
            let origins = &mut self.ir.values[known].origins;
            origins.extend(extra);
            origins.sort_unstable();
            origins.dedup();
            return Ok(known);
        }
        let v = self.append(key.0.clone(), inputs, key.2.clone());
        self.known.insert(key, v);
        Ok(v)
    }

    fn append(&mut self, op: Op, inputs: &[ValueId], ty: Type) -> ValueId {
        let constant = match op {
            Op::Const(_) => true,
            Op::Input | Op::State(_) | Op::Transfer => false,
            _ => inputs.iter().all(|&v| self.constant.contains(v)),
        };
        let v = self.ir.values.push(ValueData {
            ty,
            op,
            inputs: inputs.to_vec(),
            origins: self.origins.clone(),
        });
        if constant {
            self.constant.insert(v);
        }
        v
    }

    /// Whether all ancestors of a value are constants, so that it costs nothing at run time.
    pub fn is_const(&self, v: ValueId) -> bool {
        self.constant.contains(v)
    }

    /// An argument of the entry.
    pub fn input(&mut self, name: &str, host: HostDType, host_shape: &[usize], ty: Type) -> ValueId {
        let value = self.append(Op::Input, &[], ty);
        self.ir.inputs.push(Port {
            name: name.to_string(),
            host,
            shape: host_shape.to_vec(),
            value,
        });
        value
    }

    /// A result of the entry.
    pub fn output(&mut self, name: &str, host: HostDType, host_shape: &[usize], value: ValueId) {
        self.ir.outputs.push(Port {
            name: name.to_string(),
            host,
            shape: host_shape.to_vec(),
            value,
        });
    }

    /// A state; its successor is set with [`TirBuilder::set_next`].
    pub fn state(&mut self, name: &str, from: &str, ty: Type) -> Built {
        let next = self.ir.values.next_id();
        let id = self.ir.states.push(StateData {
            name: name.to_string(),
            ty: ty.clone(),
            from: from.to_string(),
            next,
        });
        self.push(Op::State(id), &[], &ty)
    }

    /// The states of another program, under the same ids.
    pub fn carry_states(&mut self, ir: &TensorIr) {
        self.ir.states = ir.states.clone();
    }

    /// Sets the type of a state, before it is read.
    pub fn set_state_type(&mut self, id: super::StateId, ty: Type) {
        self.ir.states[id].ty = ty;
    }

    /// The value that becomes the contents of state number `index` (in order of creation).
    pub fn set_next(&mut self, index: usize, next: ValueId) {
        if let Some((_, state)) = self.ir.states.iter_mut().nth(index) {
            state.next = next;
        }
    }

    /// A constant from the model.
    pub fn constant(&mut self, name: &str, ty: Type, stored: HostDType, bytes: Weights) -> Built {
        let id = self.ir.consts.push(ConstData {
            name: name.to_string(),
            ty: ty.clone(),
            stored,
            bytes,
        });
        self.const_value(id)
    }

    /// The value of a constant that is in the table already.
    pub fn const_value(&mut self, id: ConstId) -> Built {
        let ty = self.ir.consts[id].ty.clone();
        self.push(Op::Const(id), &[], &ty)
    }

    /// A constant of f32 elements made by the compiler.
    pub fn const_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Built {
        self.constant(name, Type::new(DType::F32, shape), HostDType::F32, values.into())
    }

    /// A constant of i32 elements made by the compiler.
    pub fn const_i32(&mut self, name: &str, shape: &[usize], values: &[i32]) -> Built {
        self.constant(name, Type::new(DType::I32, shape), HostDType::I32, values.into())
    }

    /// Interns a map.
    pub fn intern(&mut self, map: IndexMap) -> MapId {
        self.ir.maps.intern(map)
    }

    /// A move of several operands.
    pub fn moves(&mut self, parts: &[(ValueId, IndexMap)], fill: u32) -> Built {
        let inputs: Vec<ValueId> = parts.iter().map(|p| p.0).collect();
        let parts = parts.iter().map(|(_, map)| self.ir.maps.intern(map.clone())).collect();
        let stored = self.ty(inputs[0]).clone();
        self.push(Op::Move { parts, fill }, &inputs, &stored)
    }

    /// A move of one operand; nothing if it is the identity, one move if `x` is itself a total move that composes.
    pub fn move_one(&mut self, x: ValueId, map: IndexMap, fill: u32) -> Built {
        if map.is_identity(self.shape(x)) {
            return Ok(x);
        }
        if let (Op::Move { parts, .. }, &[inner]) = (&self.ir.values[x].op, self.ir.values[x].inputs.as_slice()) {
            let first = self.ir.maps.get(parts[0]);
            if first.is_total()
                && let Some(both) = compose_simply(&map, first)
            {
                return self.move_one(inner, both, fill);
            }
        }
        self.moves(&[(x, map)], fill)
    }

    /// Row-major reshape.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Built {
        self.move_one(x, IndexMap::reshape(shape), 0)
    }

    /// Output axis d is axis `perm[d]`.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Built {
        let map = IndexMap::transpose(self.shape(x), perm);
        self.move_one(x, map, 0)
    }

    /// Ranges (start, step, length) per axis.
    pub fn narrow(&mut self, x: ValueId, ranges: &[(usize, isize, usize)]) -> Built {
        let map = IndexMap::narrow(self.shape(x), ranges);
        self.move_one(x, map, 0)
    }

    /// Elements `start .. start + len` of one axis.
    pub fn narrow_axis(&mut self, x: ValueId, axis: usize, start: usize, len: usize) -> Built {
        let mut ranges: Vec<_> = self.shape(x).iter().map(|&n| (0, 1, n)).collect();
        ranges[axis] = (start, 1, len);
        self.narrow(x, &ranges)
    }

    /// Constant padding with the bits of a fill element.
    pub fn pad(&mut self, x: ValueId, pads: &[(usize, usize)], fill: u32) -> Built {
        let map = IndexMap::pad(self.shape(x), pads);
        self.move_one(x, map, fill)
    }

    /// Numpy broadcast to a shape.
    pub fn expand(&mut self, x: ValueId, shape: &[usize]) -> Built {
        let map = IndexMap::expand(self.shape(x), shape);
        self.move_one(x, map, 0)
    }

    /// Concatenation along an axis; nothing if there is one part.
    pub fn concat(&mut self, parts: &[ValueId], axis: usize) -> Built {
        if let [one] = parts {
            return Ok(*one);
        }
        let total = parts.iter().map(|&p| self.shape(p)[axis]).sum();
        let mut at = 0;
        let mut maps = Vec::new();
        for &part in parts {
            let shape = self.shape(part);
            if shape[axis] > 0 {
                maps.push((part, IndexMap::concat_part(shape, axis, at, total)));
                at += shape[axis];
            }
        }
        if maps.is_empty() {
            return Ok(parts[0]);
        }
        self.moves(&maps, 0)
    }

    /// An elementwise expression over operands of one rank, broadcast where an extent is 1.
    ///
    /// The result has the broadcast shape of the operands; see [`TirBuilder::map_to`] where that is too small.
    pub fn map(&mut self, operands: &[ValueId], f: impl FnOnce(&Expr, &[Ex]) -> Ex) -> Built {
        let rank = operands.first().map_or(0, |&v| self.shape(v).len());
        let mut shape = vec![1; rank];
        for &v in operands {
            for (slot, &n) in shape.iter_mut().zip(self.shape(v)) {
                if n != 1 {
                    *slot = n;
                }
            }
        }
        self.map_to(&shape, operands, f)
    }

    /// An elementwise expression whose result has this shape.
    pub fn map_to(&mut self, shape: &[usize], operands: &[ValueId], f: impl FnOnce(&Expr, &[Ex]) -> Ex) -> Built {
        let dtypes: Vec<DType> = operands.iter().map(|&v| self.dtype(v)).collect();
        let e = Expr::new(&dtypes);
        let args: Vec<Ex> = (0..operands.len()).map(|i| e.operand(i)).collect();
        let result = f(&e, &args);
        if let super::Arg::Operand(i) = result.arg
            && self.shape(operands[i as usize]) == shape
            && !matches!(
                self.dtype(operands[i as usize]),
                DType::F16 | DType::BF16 | DType::I8 | DType::U8
            )
        {
            return Ok(operands[i as usize]);
        }
        let nodes = e.finish(result);
        self.map_nodes(shape, operands, nodes)
    }

    /// A map with these nodes; operands that no node uses are dropped and equal ones joined. What is too large for one chain becomes several maps.
    pub fn map_nodes(&mut self, shape: &[usize], operands: &[ValueId], nodes: Vec<super::MapNode>) -> Built {
        let (mut nodes, mut operands) = (nodes, operands.to_vec());
        while let Some((first, rest)) = super::split::split(&nodes, operands.len() as u32) {
            operands.push(self.map_of(shape, &operands, first)?);
            nodes = rest;
        }
        self.map_of(shape, &operands, nodes)
    }

    fn map_of(&mut self, shape: &[usize], operands: &[ValueId], mut nodes: Vec<super::MapNode>) -> Built {
        let mut kept: Vec<ValueId> = Vec::new();
        for node in &mut nodes {
            let arity = node.op.arity();
            for arg in &mut node.args[..arity] {
                if let super::Arg::Operand(i) = arg {
                    let v = operands[*i as usize];
                    let at = kept.iter().position(|&k| k == v).unwrap_or_else(|| {
                        kept.push(v);
                        kept.len() - 1
                    });
                    *arg = super::Arg::Operand(at as u32);
                }
            }
        }
        let dtype = nodes.last().map_or(DType::F32, |n| n.dtype);
        self.push(Op::Map { nodes }, &kept, &Type::new(dtype, shape))
    }

    /// Reduction over axes, which stay with extent 1; nothing if there is none.
    pub fn reduce(&mut self, op: ReduceOp, x: ValueId, axes: &[usize]) -> Built {
        if axes.is_empty() {
            return Ok(x);
        }
        let mut axes: Vec<u8> = axes.iter().map(|&a| a as u8).collect();
        axes.sort_unstable();
        let stored = Type {
            dtype: self.dtype(x).widened(),
            shape: Vec::new(),
        };
        self.push(Op::Reduce { op, axes }, &[x], &stored)
    }

    /// Batched matrix product; see [`Op::Contract`].
    pub fn contract(
        &mut self,
        a: ValueId,
        b: ValueId,
        batch: &[(usize, usize)],
        contracted: &[(usize, usize)],
    ) -> Built {
        let narrow = |pairs: &[(usize, usize)]| pairs.iter().map(|&(l, r)| (l as u8, r as u8)).collect::<Vec<_>>();
        let acc = self.dtype(a).widened();
        let op = Op::Contract {
            batch: narrow(batch),
            contracted: narrow(contracted),
            acc,
        };
        let stored = Type::new(acc, &[]);
        self.push(op, &[a, b], &stored)
    }

    /// Rows of a table by run-time indices.
    pub fn gather(&mut self, table: ValueId, indices: ValueId) -> Built {
        let stored = self.ty(table).clone();
        self.push(Op::Gather, &[table, indices], &stored)
    }

    /// Rows of a tensor replaced or combined.
    pub fn scatter(&mut self, combiner: super::Combiner, x: ValueId, indices: ValueId, updates: ValueId) -> Built {
        let stored = self.ty(x).clone();
        self.push(Op::Scatter { combiner }, &[x, indices, updates], &stored)
    }

    /// The payload in the order that sorts the keys.
    pub fn sort(&mut self, axis: usize, descending: bool, key: ValueId, payload: ValueId) -> Built {
        let stored = self.ty(payload).clone();
        self.push(
            Op::Sort {
                axis: axis as u8,
                descending,
            },
            &[key, payload],
            &stored,
        )
    }
}
