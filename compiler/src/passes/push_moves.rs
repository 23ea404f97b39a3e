//! `push-moves`: absorbs reshapes, permutations and broadcasts into the axis numbers of the operations around them.
//!
//! Axes are split where a reshape needs it ([`super::axes`]), so that reshapes become renumberings; then every value is computed in
//! the axis order that its producer gives naturally, and users name axes by number. What cannot follow (an output, a map operand in
//! another order) is moved where it is used; constants always are, at no cost. Unit axes go.
//!
//! ```text
//! v1: f32[128,384]    = contract v0, k0 over(1:0)
//! v2: f32[128,12,32]  = move v1{reshape}
//! v3: f32[12,128,32]  = move v2{perm 1,0,2}             v1: f32[128,12,32]  = contract v0, k0' over(1:0)
//! v4: f32[12,128,128] = contract v3, v9 batch(0:0) ..   =>  v4: f32[12,128,128] = contract v1, v9 batch(1:0) ..
//! ```

mod left;

use super::axes::Axes;
use super::rebuild::{finish, live};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::expr::{Ex, Expr};
use crate::tir::op::{MapNode, free_axes};
use crate::tir::{Arg, Combiner, IndexMap, Op, TensorIr, TirBuilder, Type, ValueId, View, consteval};
use lockstep_graph::{EntityId, IdSet};
use lockstep_isa::AluOp;

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    let constant = consteval::const_values(ir);
    let axes = Axes::of(ir, &constant, cx.keep_states);
    let mut old = std::mem::take(ir);
    let live = live(&old);
    let mut b = TirBuilder::like(&mut old);
    b.carry_states(&old);
    let mut cx = Push {
        old: &old,
        constant,
        axes,
        b,
        new: vec![None; old.values.len()],
    };
    for (id, value) in old.values.iter().filter(|(id, _)| live.contains(*id)) {
        cx.b.set_origins(&value.origins);
        let placed = if cx.constant.contains(id) {
            cx.constant(id)?
        } else {
            cx.place(id)?
        };
        cx.new[id.index()] = Some(placed);
    }
    let mut ends = Vec::new();
    for v in old
        .outputs
        .iter()
        .chain(&old.inputs)
        .map(|p| p.value)
        .chain(old.states.values().map(|s| s.next))
    {
        cx.b.set_origins(&old.values[v].origins);
        let is_input = old.values[v].op == Op::Input;
        let mut end = if is_input { cx.get(v)?.value } else { cx.end(v)? };
        if let Some((state, _)) = old.states.iter().find(|(_, s)| s.next == v) {
            // A constant successor was not split with its state.
            let shape = cx.b.ir().states[state].ty.shape.clone();
            end = cx.b.reshape(end, &shape)?;
        }
        ends.push((v, end));
    }
    let b = cx.b;
    finish(ir, old, b, |v| {
        let found = ends.iter().find(|(old, _)| *old == v);
        found
            .map(|e| e.1)
            .ok_or_else(|| CompileError::internal("push-moves", format!("{v} was not rebuilt")))
    })
}

/// Where a factor of a logical axis is in the value that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// An axis.
    Axis(usize),
    /// Nowhere: all elements along it are equal.
    Broadcast,
}

/// An old value in the new program: for every old axis the places of its factors.
#[derive(Clone, Debug)]
struct Placed {
    value: ValueId,
    axes: Vec<Vec<At>>,
}

/// An axis of a value to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// Factor `.1` of old axis `.0`.
    Atom(usize, usize),
    /// An axis of extent 1.
    Unit,
}

struct Push<'a> {
    old: &'a TensorIr,
    constant: IdSet<ValueId>,
    axes: Axes,
    b: TirBuilder,
    new: Vec<Option<Placed>>,
}

impl<'a> Push<'a> {
    fn get(&self, v: ValueId) -> Result<Placed, CompileError> {
        let placed = self.new[v.index()].clone();
        placed.ok_or_else(|| CompileError::internal("push-moves", format!("{v} was not rebuilt")))
    }

    fn shape(&self, v: ValueId) -> &'a [usize] {
        let old: &'a TensorIr = self.old;
        &old.values[v].ty.shape
    }

    /// Factors of every axis of an old value that is no constant.
    fn factors(&self, v: ValueId) -> Vec<Vec<usize>> {
        self.shape(v)
            .iter()
            .enumerate()
            .map(|(d, &n)| self.axes.factors(v, d, n))
            .collect()
    }

    /// All atoms in logical order.
    fn atoms(factors: &[Vec<usize>]) -> Vec<Slot> {
        factors
            .iter()
            .enumerate()
            .flat_map(|(a, f)| (0..f.len()).map(move |j| Slot::Atom(a, j)))
            .collect()
    }

    /// A constant stays as it is; it is moved where it is used.
    fn constant(&mut self, id: ValueId) -> Result<Placed, CompileError> {
        let value = &self.old.values[id];
        let mut inputs = Vec::new();
        for &v in &value.inputs {
            inputs.push(self.get(v)?.value);
        }
        let value = self.b.push(value.op.clone(), &inputs, &value.ty)?;
        Ok(Placed {
            value,
            axes: Vec::new(),
        })
    }

    /// The old value `v` with exactly these axes; `factors` are those of its axes (a constant takes its users').
    fn with_axes(&mut self, v: ValueId, factors: &[Vec<usize>], slots: &[Slot]) -> Result<ValueId, CompileError> {
        let placed = self.get(v)?;
        let own = View::contiguous(self.b.shape(placed.value)).strides;
        let logical = View::contiguous(self.shape(v)).strides;
        let (mut shape, mut strides) = (Vec::new(), Vec::new());
        for slot in slots {
            let (n, stride) = match *slot {
                Slot::Unit => (1, 0),
                Slot::Atom(a, j) if self.constant.contains(v) => {
                    let inner: usize = factors[a][j + 1..].iter().product();
                    (factors[a][j], logical[a] * inner as i64)
                }
                Slot::Atom(a, j) => match placed.axes[a][j] {
                    At::Axis(p) => (factors[a][j], own[p]),
                    At::Broadcast => (factors[a][j], 0),
                },
            };
            shape.push(n);
            strides.push(stride);
        }
        self.b
            .move_one(placed.value, IndexMap::of(View::strided(shape, strides, 0)), 0)
    }

    /// The old value with its factors in logical order.
    fn in_order(&mut self, v: ValueId) -> Result<ValueId, CompileError> {
        if self.constant.contains(v) {
            return Ok(self.get(v)?.value);
        }
        let factors = self.factors(v);
        self.with_axes(v, &factors, &Self::atoms(&factors))
    }

    /// The old value for the host: its factors in logical order, wherever unit axes are.
    fn end(&mut self, v: ValueId) -> Result<ValueId, CompileError> {
        if !self.constant.contains(v) {
            let placed = self.get(v)?;
            let order = self
                .order(v, &placed)
                .map(|o| o.into_iter().filter(|s| *s != Slot::Unit).collect::<Vec<_>>());
            if order.is_some_and(|order| order == Self::atoms(&self.factors(v))) {
                return Ok(placed.value);
            }
        }
        self.in_order(v)
    }

    /// The axes of a placed value in their order; `None` where a factor is a broadcast.
    fn order(&self, v: ValueId, placed: &Placed) -> Option<Vec<Slot>> {
        let mut slots = vec![Slot::Unit; self.b.shape(placed.value).len()];
        debug_assert_eq!(placed.axes.len(), self.shape(v).len());
        for (a, places) in placed.axes.iter().enumerate() {
            for (j, place) in places.iter().enumerate() {
                match place {
                    At::Axis(p) => slots[*p] = Slot::Atom(a, j),
                    At::Broadcast => return None,
                }
            }
        }
        Some(slots)
    }

    /// A new value whose axes are these slots.
    fn placed(&self, value: ValueId, factors: &[Vec<usize>], slots: &[Slot]) -> Placed {
        let place = |a, j| {
            let at = slots.iter().position(|&s| s == Slot::Atom(a, j));
            at.map_or(At::Broadcast, At::Axis)
        };
        let axes = factors
            .iter()
            .enumerate()
            .map(|(a, f)| (0..f.len()).map(|j| place(a, j)).collect())
            .collect();
        Placed { value, axes }
    }

    fn place(&mut self, id: ValueId) -> Result<Placed, CompileError> {
        let old: &'a TensorIr = self.old;
        let value = &old.values[id];
        match &value.op {
            Op::Input | Op::State(_) => self.source(id),
            Op::Const(_) => self.constant(id),
            Op::Map { nodes } => self.map(id, nodes),
            Op::Reduce { op, axes } => self.reduce(id, *op, axes),
            Op::Contract { batch, contracted, .. } => self.contract(id, batch, contracted),
            Op::Gather => self.gather(id),
            Op::Scatter { combiner } => self.scatter(id, *combiner),
            Op::Sort { axis, descending } => self.sort(id, usize::from(*axis), *descending),
            Op::Move { parts, fill } => {
                if let Some(placed) = self.renumber(id)? {
                    return Ok(placed);
                }
                let maps: Vec<IndexMap> = parts.iter().map(|&m| self.b.ir().maps.get(m).clone()).collect();
                self.real_move(id, &maps, *fill)
            }
            Op::Transfer => {
                let factors = self.factors(id);
                let slots = Self::atoms(&factors);
                let x = self.with_axes(value.inputs[0], &factors, &slots)?;
                let ty = self.b.ty(x).clone();
                let v = self.b.push(Op::Transfer, &[x], &ty)?;
                Ok(self.placed(v, &factors, &slots))
            }
        }
    }

    /// Inputs and states: split in place, which the host does for nothing.
    fn source(&mut self, id: ValueId) -> Result<Placed, CompileError> {
        let value = &self.old.values[id];
        let factors = self.factors(id);
        let slots = Self::atoms(&factors);
        let ty = Type::new(value.ty.dtype, &factors.concat());
        if let Op::State(s) = value.op {
            self.b.set_state_type(s, ty.clone());
        }
        let v = self.b.push(value.op.clone(), &[], &ty)?;
        Ok(self.placed(v, &factors, &slots))
    }

    fn map(&mut self, id: ValueId, nodes: &[MapNode]) -> Result<Placed, CompileError> {
        let inputs = &self.old.values[id].inputs;
        let out = self.shape(id);
        let factors = self.factors(id);
        let slots = self.map_order(id, &factors)?;
        let mut operands = Vec::with_capacity(inputs.len());
        for &v in inputs {
            let shape = self.shape(v);
            let placed = self.get(v)?;
            let wide = |a: usize| shape[a] == out[a];
            let own: Vec<Slot> = slots
                .iter()
                .map(|&slot| match slot {
                    Slot::Atom(a, j) if wide(a) => {
                        let broadcast = !self.constant.contains(v) && placed.axes[a][j] == At::Broadcast;
                        if broadcast { Slot::Unit } else { slot }
                    }
                    _ => Slot::Unit,
                })
                .collect();
            operands.push(self.with_axes(v, &factors, &own)?);
        }
        let shape: Vec<usize> = slots.iter().map(|&s| extent(s, &factors)).collect();
        let nodes = renumber_iotas(nodes, &factors, &slots);
        let v = self.b.map_nodes(&shape, &operands, nodes)?;
        Ok(self.placed(v, &factors, &slots))
    }

    /// The order of axes in which most of a map's whole operands are; without any, the largest operand's, else the logical one.
    fn map_order(&self, id: ValueId, factors: &[Vec<usize>]) -> Result<Vec<Slot>, CompileError> {
        let out = self.shape(id);
        let n_atoms: usize = factors.iter().map(Vec::len).sum();
        let mut orders: Vec<(Vec<Slot>, usize)> = Vec::new();
        let mut partial: Option<(Vec<Slot>, usize)> = None;
        for &v in self.old.values[id]
            .inputs
            .iter()
            .filter(|v| !self.constant.contains(**v))
        {
            let placed = self.get(v)?;
            let Some(order) = self.order(v, &placed) else { continue };
            if order.iter().filter(|s| **s != Slot::Unit).count() == n_atoms && self.shape(v) == out {
                match orders.iter_mut().find(|(known, _)| *known == order) {
                    Some((_, votes)) => *votes += 1,
                    None => orders.push((order, 1)),
                }
            } else {
                let size = self.b.ty(placed.value).elements();
                if partial.as_ref().is_none_or(|(_, best)| size > *best) {
                    partial = Some((order, size));
                }
            }
        }
        let most = orders.iter().map(|(_, votes)| *votes).max().unwrap_or(0);
        if let Some((order, _)) = orders.into_iter().find(|(_, votes)| *votes == most) {
            return Ok(order);
        }
        // Factors that the largest operand lacks come before the first of its factors that logically follows them.
        let mut order: Vec<Slot> = partial.map_or(Vec::new(), |(order, _)| {
            order.into_iter().filter(|s| *s != Slot::Unit).collect()
        });
        for slot in Self::atoms(factors) {
            if !order.contains(&slot) {
                let key = |s: &Slot| if let Slot::Atom(a, j) = s { (*a, *j) } else { (0, 0) };
                let at = order.iter().position(|s| key(s) > key(&slot)).unwrap_or(order.len());
                order.insert(at, slot);
            }
        }
        Ok(order)
    }

    fn reduce(&mut self, id: ValueId, op: crate::tir::ReduceOp, axes: &[u8]) -> Result<Placed, CompileError> {
        let (x, ty) = (self.old.values[id].inputs[0], &self.old.values[id].ty);
        let factors = self.factors(x);
        let mut placed = self.get(x)?;
        if self.order(x, &placed).is_none() {
            let slots = Self::atoms(&factors);
            let value = self.with_axes(x, &factors, &slots)?;
            placed = self.placed(value, &factors, &slots);
        }
        let mut reduced: Vec<u8> = Vec::new();
        for &a in axes {
            for place in std::mem::take(&mut placed.axes[usize::from(a)]) {
                if let At::Axis(p) = place {
                    reduced.push(p as u8);
                }
            }
        }
        reduced.sort_unstable();
        if reduced.is_empty() {
            // Every reduced axis has extent 1: the value itself, in the result's dtype.
            let shape = self.b.shape(placed.value).to_vec();
            let dtype = ty.dtype;
            placed.value = self.b.map_to(&shape, &[placed.value], |e, x| e.cvt(x[0], dtype))?;
            return Ok(placed);
        }
        placed.value = self.b.push(
            Op::Reduce { op, axes: reduced },
            &[placed.value],
            &Type::new(ty.dtype, &[]),
        )?;
        Ok(placed)
    }

    fn contract(&mut self, id: ValueId, batch: &[(u8, u8)], contracted: &[(u8, u8)]) -> Result<Placed, CompileError> {
        let inputs = [self.old.values[id].inputs[0], self.old.values[id].inputs[1]];
        let ranks = inputs.map(|v| self.shape(v).len());
        let frees = [
            free_axes(ranks[0], batch, contracted, true),
            free_axes(ranks[1], batch, contracted, false),
        ];
        let pairs: Vec<[usize; 2]> = batch
            .iter()
            .chain(contracted)
            .map(|&(l, r)| [usize::from(l), usize::from(r)])
            .collect();
        let out_factors = self.factors(id);
        // Factors of both operands; a constant takes those of what it meets.
        let mut factors = inputs.map(|v| {
            if self.constant.contains(v) {
                Vec::new()
            } else {
                self.factors(v)
            }
        });
        for side in 0..2 {
            if self.constant.contains(inputs[side]) {
                let mut own = vec![Vec::new(); ranks[side]];
                for pair in &pairs {
                    own[pair[side]] = factors[1 - side][pair[1 - side]].clone();
                }
                let first = batch.len() + if side == 0 { 0 } else { frees[0].len() };
                for (i, &axis) in frees[side].iter().enumerate() {
                    own[axis] = out_factors[first + i].clone();
                }
                factors[side] = own;
            }
        }
        // A batch factor along which one operand is broadcast is a free factor of the other.
        let mut values = [inputs[0], inputs[1]];
        let mut orders: [Vec<Slot>; 2] = [Vec::new(), Vec::new()];
        for side in 0..2 {
            let v = inputs[side];
            if self.constant.contains(v) {
                let list = |axes: Vec<usize>| {
                    axes.into_iter()
                        .flat_map(|a| (0..factors[side][a].len()).map(move |j| Slot::Atom(a, j)))
                        .collect::<Vec<_>>()
                };
                let paired: Vec<usize> = pairs.iter().map(|p| p[side]).collect();
                let free = list(frees[side].clone());
                orders[side] = if side == 0 {
                    [
                        list(paired[..batch.len()].to_vec()),
                        free,
                        list(paired[batch.len()..].to_vec()),
                    ]
                    .concat()
                } else {
                    [list(paired), free].concat()
                };
                values[side] = self.with_axes(v, &factors[side], &orders[side].clone())?;
                continue;
            }
            let placed = self.get(v)?;
            let mut slots = vec![Slot::Unit; self.b.shape(placed.value).len()];
            let mut missing = false;
            for (a, places) in placed.axes.iter().enumerate() {
                let in_batch = pairs[..batch.len()].iter().any(|p| p[side] == a);
                for (j, place) in places.iter().enumerate() {
                    match place {
                        At::Axis(p) => slots[*p] = Slot::Atom(a, j),
                        At::Broadcast => missing |= !in_batch || side == 1 && self.lacks(inputs[0], &pairs, a, j),
                    }
                }
            }
            if missing {
                slots = Self::atoms(&factors[side]);
                values[side] = self.with_axes(v, &factors[side], &slots)?;
            } else {
                values[side] = placed.value;
            }
            orders[side] = slots;
        }
        let find = |side: usize, slot: Slot| orders[side].iter().position(|&s| s == slot);
        let mut new_batch: Vec<(usize, usize, Slot)> = Vec::new();
        let mut new_contracted = Vec::new();
        // Out slots by where they come from.
        let mut of_side: [Vec<(usize, Slot)>; 2] = [Vec::new(), Vec::new()];
        for (i, pair) in pairs.iter().enumerate() {
            for j in 0..factors[0][pair[0]].len() {
                let at = [find(0, Slot::Atom(pair[0], j)), find(1, Slot::Atom(pair[1], j))];
                match at {
                    [Some(l), Some(r)] if i < batch.len() => new_batch.push((l, r, Slot::Atom(i, j))),
                    [Some(l), Some(r)] => new_contracted.push((l, r)),
                    [Some(l), None] => of_side[0].push((l, Slot::Atom(i, j))),
                    [None, Some(r)] => of_side[1].push((r, Slot::Atom(i, j))),
                    [None, None] => return Err(CompileError::internal("push-moves", "a contract lost an axis")),
                }
            }
        }
        new_batch.sort_unstable_by_key(|b| b.0);
        let mut out_axis = batch.len();
        for side in 0..2 {
            for &axis in &frees[side] {
                for j in 0..factors[side][axis].len() {
                    if let Some(p) = find(side, Slot::Atom(axis, j)) {
                        of_side[side].push((p, Slot::Atom(out_axis, j)));
                    }
                }
                out_axis += 1;
            }
            of_side[side].extend(
                (0..orders[side].len())
                    .filter(|&p| orders[side][p] == Slot::Unit)
                    .map(|p| (p, Slot::Unit)),
            );
            of_side[side].sort_unstable_by_key(|f| f.0);
        }
        let slots: Vec<Slot> = new_batch
            .iter()
            .map(|b| b.2)
            .chain(of_side.iter().flatten().map(|f| f.1))
            .collect();
        let pairs: Vec<(usize, usize)> = new_batch.iter().map(|b| (b.0, b.1)).collect();
        let v = self.b.contract(values[0], values[1], &pairs, &new_contracted)?;
        Ok(self.placed(v, &out_factors, &slots))
    }

    /// Whether the left operand is broadcast along the batch factor that pairs with factor `j` of axis `a` of the right.
    fn lacks(&self, left: ValueId, pairs: &[[usize; 2]], a: usize, j: usize) -> bool {
        let Some(pair) = pairs.iter().find(|p| p[1] == a) else {
            return false;
        };
        let Some(placed) = &self.new[left.index()] else {
            return false;
        };
        placed.axes.get(pair[0]).and_then(|places| places.get(j)) == Some(&At::Broadcast)
    }

    fn gather(&mut self, id: ValueId) -> Result<Placed, CompileError> {
        let (table, indices) = (self.old.values[id].inputs[0], self.old.values[id].inputs[1]);
        let n_idx = self.shape(indices).len();
        let out = self.factors(id);
        let rest: Vec<Slot> = (1..self.shape(table).len())
            .flat_map(|a| (0..out[n_idx + a - 1].len()).map(move |j| Slot::Atom(a, j)))
            .collect();
        let table_factors = self.table_factors(table, &out[n_idx..]);
        let first = if table_factors[0].is_empty() {
            Slot::Unit
        } else {
            Slot::Atom(0, 0)
        };
        let t = self.with_axes(table, &table_factors, &[&[first], &rest[..]].concat())?;
        let idx_slots = Self::atoms(&out[..n_idx]);
        let i = self.with_axes(indices, &out[..n_idx], &idx_slots)?;
        let v = self.b.gather(t, i)?;
        let moved = rest.iter().map(|&s| {
            if let Slot::Atom(a, j) = s {
                Slot::Atom(n_idx + a - 1, j)
            } else {
                s
            }
        });
        let slots: Vec<Slot> = idx_slots.into_iter().chain(moved).collect();
        Ok(self.placed(v, &out, &slots))
    }

    /// Factors of a table whose row axis is whole and whose other axes are split as those of its rows.
    fn table_factors(&self, table: ValueId, rows: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let n = self.shape(table)[0];
        std::iter::once(if n == 1 { Vec::new() } else { vec![n] })
            .chain(rows.iter().cloned())
            .collect()
    }

    fn scatter(&mut self, id: ValueId, combiner: Combiner) -> Result<Placed, CompileError> {
        let inputs = &self.old.values[id].inputs;
        let (table, indices, updates) = (inputs[0], inputs[1], inputs[2]);
        let n_idx = self.shape(indices).len();
        let factors = self.factors(id);
        let first = if factors[0].is_empty() {
            Slot::Unit
        } else {
            Slot::Atom(0, 0)
        };
        let rest: Vec<Slot> = Self::atoms(&factors)
            .into_iter()
            .filter(|s| !matches!(s, Slot::Atom(0, _)))
            .collect();
        let slots = [&[first], &rest[..]].concat();
        let t = self.with_axes(table, &factors, &slots)?;
        let idx: Vec<Vec<usize>> = if !self.constant.contains(updates) {
            self.factors(updates)[..n_idx].to_vec()
        } else if !self.constant.contains(indices) {
            self.factors(indices)
        } else {
            self.shape(indices)
                .iter()
                .map(|&n| if n == 1 { Vec::new() } else { vec![n] })
                .collect()
        };
        let idx_slots = Self::atoms(&idx);
        let i = self.with_axes(indices, &idx, &idx_slots)?;
        let update_factors: Vec<Vec<usize>> = idx.iter().cloned().chain(factors[1..].iter().cloned()).collect();
        let u = self.with_axes(updates, &update_factors, &Self::atoms(&update_factors))?;
        let v = self.b.scatter(combiner, t, i, u)?;
        Ok(self.placed(v, &factors, &slots))
    }

    fn sort(&mut self, id: ValueId, axis: usize, descending: bool) -> Result<Placed, CompileError> {
        let (key, payload) = (self.old.values[id].inputs[0], self.old.values[id].inputs[1]);
        let factors = self.factors(id);
        let slots = Self::atoms(&factors);
        let p = self.with_axes(payload, &factors, &slots)?;
        let Some(at) = slots.iter().position(|&s| s == Slot::Atom(axis, 0)) else {
            return Ok(self.placed(p, &factors, &slots));
        };
        let k = self.with_axes(key, &factors, &slots)?;
        let v = self.b.sort(at, descending, k, p)?;
        Ok(self.placed(v, &factors, &slots))
    }
}

fn extent(slot: Slot, factors: &[Vec<usize>]) -> usize {
    match slot {
        Slot::Atom(a, j) => factors[a][j],
        Slot::Unit => 1,
    }
}

/// An expression whose iotas count the factors of their axis.
fn renumber_iotas(nodes: &[MapNode], factors: &[Vec<usize>], slots: &[Slot]) -> Vec<MapNode> {
    if nodes.iter().all(|n| n.op != AluOp::Iota) {
        return nodes.to_vec();
    }
    let mut out: Vec<MapNode> = Vec::new();
    let mut index: Vec<Arg> = Vec::new();
    for node in nodes {
        if node.op == AluOp::Iota {
            let e = Expr::new(&[]);
            let axis = usize::from(node.axis);
            let mut sum: Option<Ex> = None;
            for j in 0..factors[axis].len() {
                let weight: usize = factors[axis][j + 1..].iter().product();
                if let Some(at) = slots.iter().position(|&s| s == Slot::Atom(axis, j)) {
                    let place = e.iota(at);
                    let term = if weight == 1 {
                        place
                    } else {
                        e.mul(place, Ex::i32(weight as i32))
                    };
                    sum = Some(sum.map_or(term, |sum| e.add(sum, term)));
                }
            }
            match sum {
                None => index.push(Arg::Imm(0)),
                Some(sum) => {
                    let first = out.len() as u32;
                    for mut inner in e.finish(sum) {
                        let arity = inner.op.arity();
                        inner.args[..arity].iter_mut().for_each(|a| {
                            if let Arg::Node(i) = a {
                                *a = Arg::Node(first + *i);
                            }
                        });
                        out.push(inner);
                    }
                    index.push(Arg::Node(out.len() as u32 - 1));
                }
            }
            continue;
        }
        let mut node = *node;
        let arity = node.op.arity();
        node.args[..arity].iter_mut().for_each(|a| {
            if let Arg::Node(i) = a {
                *a = index[*i as usize];
            }
        });
        index.push(Arg::Node(out.len() as u32));
        out.push(node);
    }
    if matches!(index.last(), Some(Arg::Imm(_))) {
        // The whole expression is the number 0.
        let args = [Arg::Imm(0); 3];
        out.push(MapNode {
            op: AluOp::Copy,
            dtype: lockstep_isa::DType::I32,
            args,
            axis: 0,
        });
    }
    out
}
