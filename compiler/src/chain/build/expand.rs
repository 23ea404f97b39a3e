//! Operations that no chain carries out, in terms of those that chains do.
//!
//! - A `scatter` that does not update a state in place becomes selects over the row numbers: for each block of updates, which
//!   of them a row gets (the last one) or what they come to together, then one select or operation with the rows.
//! - A `sort` becomes a bitonic network: every round compares each element with a partner at a fixed distance, which is a
//!   move. Elements carry their places, so that equal keys keep their order.
//! - A `gather` from a table computed at run time that is longer than a bank becomes gathers from parts of it, each ended
//!   by a row of -0 for the indices that belong elsewhere, and a sum.

use super::StateLayouts;
use super::gather::room;
use super::moves::minus_zero;
use super::scatter;
use crate::tir::expr::{Ex, Expr};
use crate::tir::{Combiner, IndexMap, Op, ReduceOp, TensorIr, Type, ValueData, ValueId, View};
use lockstep_graph::{EntityId, IdVec, OriginId, SideTable};
use lockstep_isa::{DType, Target, scalar};
use std::collections::{BTreeMap, BTreeSet};

/// Vectors that the comparison of a block of updates with the rows may take.
const BLOCK: usize = 512;

/// A program in which such operations are gone.
pub(crate) struct Expanded {
    pub ir: TensorIr,
    pub chip: SideTable<ValueId, u16>,
    /// New id of each old value.
    pub renamed: Vec<ValueId>,
}

/// Rewrites what is not constant.
pub(crate) fn expand(
    old: &TensorIr,
    old_chip: &SideTable<ValueId, u16>,
    target: &Target,
    states: &StateLayouts,
    is_const: &dyn Fn(ValueId) -> bool,
) -> Expanded {
    let in_place: BTreeSet<ValueId> = scatter::updates(old, old_chip, target, states)
        .into_iter()
        .flat_map(|u| u.scatters)
        .collect();
    let mut x = Expander {
        ir: TensorIr {
            values: IdVec::default(),
            ..old.clone()
        },
        chip: SideTable::default(),
        on: 0,
        origins: Vec::new(),
        lanes: target.lanes as usize,
        networks: BTreeMap::new(),
    };
    let mut renamed: Vec<ValueId> = Vec::with_capacity(old.values.len());
    for (v, data) in old.values.iter() {
        let inputs: Vec<ValueId> = data.inputs.iter().map(|i| renamed[i.index()]).collect();
        x.on = old_chip[v];
        x.origins.clone_from(&data.origins);
        let new = match (&data.op, &inputs[..]) {
            _ if is_const(v) => None,
            (Op::Scatter { combiner }, &[table, indices, updates]) if !in_place.contains(&v) => {
                Some(x.scatter(*combiner, table, indices, updates))
            }
            (Op::Sort { axis, descending }, &[key, payload]) => Some(x.sort(*axis as usize, *descending, key, payload)),
            (Op::Gather, &[table, indices]) if !is_const(data.inputs[0]) => {
                let most = room(target, x.dtype(table));
                (x.shape(table)[0] > most).then(|| x.gather(table, indices, most))
            }
            _ => None,
        };
        renamed.push(new.unwrap_or_else(|| x.push(data.op.clone(), inputs, data.ty.clone())));
    }
    let new = |v: ValueId| renamed[v.index()];
    let ir = &mut x.ir;
    ir.inputs
        .iter_mut()
        .chain(&mut ir.outputs)
        .for_each(|p| p.value = new(p.value));
    ir.states.iter_mut().for_each(|(_, s)| s.next = new(s.next));
    Expanded {
        ir: x.ir,
        chip: x.chip,
        renamed,
    }
}

/// The rounds of a sorting network for one key: where partners are, and where they are taken.
#[derive(Clone)]
struct Network {
    sorted: ValueId,
    rounds: Vec<(IndexMap, ValueId)>,
}

struct Expander {
    ir: TensorIr,
    chip: SideTable<ValueId, u16>,
    /// Chip and origins of what is appended.
    on: u16,
    origins: Vec<OriginId>,
    lanes: usize,
    networks: BTreeMap<(ValueId, usize, bool, u16), Network>,
}

impl Expander {
    fn push(&mut self, op: Op, inputs: Vec<ValueId>, ty: Type) -> ValueId {
        let v = self.ir.values.push(ValueData {
            ty,
            op,
            inputs,
            origins: self.origins.clone(),
        });
        self.chip[v] = self.on;
        v
    }

    fn shape(&self, v: ValueId) -> &[usize] {
        &self.ir.values[v].ty.shape
    }

    fn dtype(&self, v: ValueId) -> DType {
        self.ir.values[v].ty.dtype
    }

    fn view(&mut self, x: ValueId, map: IndexMap, fill: u32) -> ValueId {
        if map.is_identity(self.shape(x)) {
            return x;
        }
        let ty = Type::new(self.dtype(x), map.shape());
        let parts = vec![self.ir.maps.intern(map)];
        self.push(Op::Move { parts, fill }, vec![x], ty)
    }

    fn reshape(&mut self, x: ValueId, shape: &[usize]) -> ValueId {
        self.view(x, IndexMap::reshape(shape), 0)
    }

    /// `len` coordinates from `start` along an axis.
    fn narrow(&mut self, x: ValueId, axis: usize, start: usize, len: usize) -> ValueId {
        let mut ranges: Vec<_> = self.shape(x).iter().map(|&n| (0, 1, n)).collect();
        ranges[axis] = (start, 1, len);
        let map = IndexMap::narrow(self.shape(x), &ranges);
        self.view(x, map, 0)
    }

    /// A map whose result has this shape and dtype.
    fn map(
        &mut self,
        shape: &[usize],
        dtype: DType,
        operands: &[ValueId],
        f: impl FnOnce(&Expr, &[Ex]) -> Ex,
    ) -> ValueId {
        let dtypes: Vec<DType> = operands.iter().map(|&v| self.dtype(v)).collect();
        let e = Expr::new(&dtypes);
        let args: Vec<Ex> = (0..operands.len()).map(|i| e.operand(i)).collect();
        let result = f(&e, &args);
        let nodes = e.finish(e.cvt(result, dtype));
        self.push(Op::Map { nodes }, operands.to_vec(), Type::new(dtype, shape))
    }

    fn reduce(&mut self, op: ReduceOp, x: ValueId, axis: usize) -> ValueId {
        let mut ty = Type::new(self.dtype(x).widened(), self.shape(x));
        ty.shape[axis] = 1;
        let axes = vec![axis as u8];
        self.push(Op::Reduce { op, axes }, vec![x], ty)
    }

    /// Indices as rows that exist: min(index as unsigned, n - 1).
    fn clamped(&mut self, indices: ValueId, n: usize) -> ValueId {
        let shape = self.shape(indices).to_vec();
        let last = Ex::i32(n as i32 - 1);
        self.map(&shape, DType::I32, &[indices], |e, x| {
            e.select(e.lt(x[0], Ex::i32(0)), last, e.min(x[0], last))
        })
    }

    fn scatter(&mut self, combiner: Combiner, table: ValueId, indices: ValueId, updates: ValueId) -> ValueId {
        let shape = self.shape(table).to_vec();
        let n_updates: usize = self.shape(indices).iter().product();
        let indices = self.reshape(indices, &[n_updates]);
        let indices = self.clamped(indices, shape[0]);
        let mut rows = vec![n_updates];
        rows.extend_from_slice(&shape[1..]);
        let updates = self.reshape(updates, &rows);
        let vectors = shape.iter().product::<usize>().div_ceil(self.lanes).max(1);
        let block = (BLOCK / vectors).clamp(1, n_updates);
        let mut acc = table;
        for start in (0..n_updates).step_by(block) {
            let len = block.min(n_updates - start);
            let index = self.narrow(indices, 0, start, len);
            let update = self.narrow(updates, 0, start, len);
            // Axes: updates, rows, the rest of a row.
            let mut ones = vec![1; shape.len() + 1];
            ones[0] = len;
            let index = self.reshape(index, &ones);
            let mut one_row = ones.clone();
            one_row[2..].copy_from_slice(&shape[1..]);
            let update = self.reshape(update, &one_row);
            acc = self.scatter_block(combiner, acc, index, update);
        }
        acc
    }

    /// Updates `[b, 1, rest..]` at rows `[b, 1, 1..]` of a table `[n, rest..]`.
    fn scatter_block(&mut self, combiner: Combiner, table: ValueId, index: ValueId, update: ValueId) -> ValueId {
        let (shape, dtype) = (self.shape(table).to_vec(), self.dtype(table));
        let n_updates = self.shape(update)[0];
        let mut one = vec![1];
        one.extend_from_slice(&shape);
        let rows = self.reshape(table, &one);
        let wide = dtype.widened();
        let combine = move |e: &Expr, a: Ex, b: Ex| match combiner {
            Combiner::Replace => b,
            Combiner::Reduce(r) => e.node(r.alu(), wide, &[a, b]),
        };
        let result = if n_updates == 1 {
            self.map(&one, dtype, &[rows, index, update], |e, x| {
                e.select(e.eq(e.iota(1), x[1]), combine(e, x[0], x[2]), x[0])
            })
        } else {
            let mut all = one.clone();
            all[0] = n_updates;
            match combiner {
                Combiner::Replace => {
                    let mut no_rest = vec![1; all.len()];
                    no_rest[..2].copy_from_slice(&all[..2]);
                    let which = self.map(&no_rest, DType::I32, &[index], |e, x| {
                        e.select(e.eq(e.iota(1), x[0]), e.iota(0), Ex::i32(-1))
                    });
                    let last = self.reduce(ReduceOp::Max, which, 0);
                    let none = neutral(ReduceOp::Add, wide);
                    let chosen = self.map(&all, wide, &[last, update], |e, x| {
                        e.select(e.eq(x[0], e.iota(0)), x[1], none)
                    });
                    let value = self.reduce(ReduceOp::Add, chosen, 0);
                    self.map(&one, dtype, &[rows, last, value], |e, x| {
                        e.select(e.lt(x[1], Ex::i32(0)), x[0], x[2])
                    })
                }
                Combiner::Reduce(r) => {
                    let none = neutral(r, wide);
                    let chosen = self.map(&all, wide, &[index, update], |e, x| {
                        e.select(e.eq(x[0], e.iota(1)), x[1], none)
                    });
                    let value = self.reduce(r, chosen, 0);
                    self.map(&one, dtype, &[rows, value], |e, x| combine(e, x[0], x[1]))
                }
            }
        };
        self.reshape(result, &shape)
    }

    /// A gather from a long table, by parts of at most `most` rows.
    fn gather(&mut self, table: ValueId, indices: ValueId, most: usize) -> ValueId {
        let (shape, dtype) = (self.shape(table).to_vec(), self.dtype(table));
        let n = shape[0];
        let index_shape = self.shape(indices).to_vec();
        let indices = self.clamped(indices, n);
        // Half a bank each: a whole one may not be free.
        let count = n.div_ceil((most / 2).max(1));
        let per = n.div_ceil(count);
        let mut result_shape = index_shape.clone();
        result_shape.extend_from_slice(&shape[1..]);
        let mut parts = Vec::new();
        for first in (0..n).step_by(per) {
            let rows = self.narrow(table, 0, first, per.min(n - first));
            let mut pads = vec![(0, 0); shape.len()];
            pads[0].1 = 1;
            let padded = IndexMap::pad(self.shape(rows), &pads);
            let rows = self.view(rows, padded, minus_zero(dtype));
            let index = self.map(&index_shape, DType::I32, &[indices], |e, x| {
                e.sub(x[0], Ex::i32(first as i32))
            });
            parts.push(self.push(Op::Gather, vec![rows, index], Type::new(dtype, &result_shape)));
        }
        self.map(&result_shape, dtype, &parts, |e, x| {
            x[1..].iter().fold(x[0], |sum, &x| e.add(sum, x))
        })
    }

    fn sort(&mut self, axis: usize, descending: bool, key: ValueId, payload: ValueId) -> ValueId {
        let n = self.shape(key)[axis];
        let cached = (key, axis, descending, self.on);
        let network = match self.networks.get(&cached) {
            Some(network) => network.clone(),
            None => {
                let network = self.network(axis, descending, key);
                self.networks.insert(cached, network.clone());
                network
            }
        };
        let mut sorted = network.sorted;
        if payload != key {
            sorted = self.padded(payload, axis, 0);
            for (partner, take) in network.rounds {
                sorted = self.exchanged(sorted, &partner, take);
            }
        }
        self.narrow(sorted, axis, 0, n)
    }

    /// Up to a power of two along an axis.
    fn padded(&mut self, x: ValueId, axis: usize, fill: u32) -> ValueId {
        let n = self.shape(x)[axis];
        let mut pads = vec![(0, 0); self.shape(x).len()];
        pads[axis].1 = n.next_power_of_two() - n;
        let map = IndexMap::pad(self.shape(x), &pads);
        self.view(x, map, fill)
    }

    /// Elements replaced by their partners where `take` says so.
    fn exchanged(&mut self, x: ValueId, partner: &IndexMap, take: ValueId) -> ValueId {
        let shape = self.shape(take).to_vec();
        let dtype = self.dtype(x);
        // Places are the same for all but the sorted axis before the first round.
        let there = match self.shape(x) == shape {
            true => self.view(x, partner.clone(), 0),
            false => {
                let wide = self.view(x, IndexMap::expand(self.shape(x), &shape), 0);
                self.view(wide, partner.clone(), 0)
            }
        };
        self.map(&shape, dtype, &[take, x, there], |e, x| e.select(x[0], x[2], x[1]))
    }

    fn network(&mut self, axis: usize, descending: bool, key: ValueId) -> Network {
        let dtype = self.dtype(key);
        let mut keys = self.padded(key, axis, extreme(dtype, descending));
        let shape = self.shape(keys).to_vec();
        let n = shape[axis];
        let mut ones = vec![1; shape.len()];
        ones[axis] = n;
        let mut places = self.map(&ones, DType::I32, &[], |e, _| e.iota(axis));
        let mut rounds = Vec::new();
        for block in (1..=n.ilog2()).map(|k| 1usize << k) {
            // First against the mirror image in the block, then at halving distances.
            let halves = (0..block.ilog2().saturating_sub(1)).rev().map(|t| 1usize << t);
            for (size, upper) in std::iter::once((None, block / 2)).chain(halves.map(|d| (Some(d), d))) {
                let mirror = |shape: &[usize]| match size {
                    None => flipped(shape, axis, block, 1),
                    Some(distance) => flipped(shape, axis, 2 * distance, distance),
                };
                let partner = mirror(&shape);
                let other_keys = self.view(keys, partner.clone(), 0);
                let own = self.shape(places).to_vec();
                let other_places = self.view(places, mirror(&own), 0);
                let take = self.map(&shape, DType::I32, &[keys, other_keys, places, other_places], |e, x| {
                    let (less, more) = if descending {
                        (e.gt(x[1], x[0]), e.lt(x[1], x[0]))
                    } else {
                        (e.lt(x[1], x[0]), e.gt(x[1], x[0]))
                    };
                    // The partner belongs before this element: by key, else by place.
                    let tied = e.and(e.not(more), e.lt(x[3], x[2]));
                    let before = e.or(less, tied);
                    // In the upper half of a pair it is taken if it does not.
                    let high = e.and(e.shr(e.iota(axis), Ex::i32(upper.ilog2() as i32)), Ex::i32(1));
                    e.xor(before, high)
                });
                keys = self.exchanged(keys, &partner, take);
                places = self.exchanged(places, &partner, take);
                rounds.push((partner, take));
            }
        }
        Network { sorted: keys, rounds }
    }
}

/// The map of an axis in blocks of `block`, each read backwards in steps of `unit`.
fn flipped(shape: &[usize], axis: usize, block: usize, unit: usize) -> IndexMap {
    let whole = View::contiguous(shape);
    let step = whole.strides[axis];
    let split = |list: &[i64], at: [i64; 3]| -> Vec<i64> {
        list[..axis]
            .iter()
            .copied()
            .chain(at)
            .chain(list[axis + 1..].iter().copied())
            .collect()
    };
    let extents: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
    let per = (block / unit) as i64;
    let inner = split(&extents, [extents[axis] / block as i64, per, unit as i64]);
    let strides = split(&whole.strides, [step * block as i64, -step * unit as i64, step]);
    let view = View::strided(
        inner.into_iter().map(|n| n as usize).collect(),
        strides,
        (per - 1) * step * unit as i64,
    );
    IndexMap {
        views: vec![view, whole],
    }
    .simplified()
}

/// What does not change anything when combined with it.
fn neutral(op: ReduceOp, wide: DType) -> Ex {
    let float = wide.is_float();
    match op {
        ReduceOp::Add if float => Ex::f32(-0.0),
        ReduceOp::Add => Ex::i32(0),
        ReduceOp::Mul if float => Ex::f32(1.0),
        ReduceOp::Mul => Ex::i32(1),
        ReduceOp::Min if float => Ex::f32(f32::INFINITY),
        ReduceOp::Min => Ex::i32(i32::MAX),
        ReduceOp::Max if float => Ex::f32(f32::NEG_INFINITY),
        ReduceOp::Max => Ex::i32(i32::MIN),
    }
}

/// Bits of the largest element (the least, where that comes last).
fn extreme(dtype: DType, least: bool) -> u32 {
    match (dtype, least) {
        (DType::F32 | DType::F16 | DType::BF16, _) => {
            let value = if least { f32::NEG_INFINITY } else { f32::INFINITY };
            scalar::narrow_f32(value, dtype)
        }
        (DType::I32, false) => i32::MAX as u32,
        (DType::I32, true) => i32::MIN as u32,
        (DType::I4, false) => 7,
        (DType::I4, true) => 8,
        (DType::I8, false) => i8::MAX as u32,
        (DType::I8, true) => i8::MIN as u8 as u32,
        (DType::U8, false) => u8::MAX as u32,
        (DType::U16, false) => u16::MAX as u32,
        (DType::U8 | DType::U16, true) => 0,
    }
}
