//! Into which factors every axis is split, so that reshapes become mere renumberings of axes.
//!
//! Axes that must be split alike form a class: an axis of a map's operand and of its result, paired axes of a contract, axes that a
//! reduce keeps. A move that permutes and regroups elements asks for splits: with A the axes of its operand and B those of its
//! result, both must be split at the boundaries of either. Splits spread through classes and moves until nothing changes. A
//! reshape such as `[6,4]` to `[8,3]` has boundaries that do not divide each other; it stays a move and asks for nothing.

use crate::tir::{Op, TensorIr, ValueId, op::free_axes};
use lockstep_graph::{EntityId, IdSet};
use std::collections::BTreeMap;

/// Factors of every axis of every value, and the moves that renumber axes alone.
pub(super) struct Axes {
    base: Vec<usize>,
    parent: Vec<usize>,
    /// Of the root of a class: the suffix products at which it is split, descending, without its extent and without 1.
    splits: Vec<Vec<usize>>,
    /// Of the root of a class: it must stay whole.
    whole: Vec<bool>,
    /// Moves that permute, regroup and broadcast axes at the boundaries of splits, with what [`renumbers`] says of them.
    pub renumbering: BTreeMap<ValueId, Vec<SourceAxis>>,
}

/// An axis as (number, extent, weight in the linear index of a move's operand).
pub(super) type SourceAxis = (usize, usize, usize);

impl Axes {
    /// Analyses a program; constant values (in `constant`) take any split and ask for none; the axes of states stay whole if
    /// `keep_states`.
    pub fn of(ir: &TensorIr, constant: &IdSet<ValueId>, keep_states: bool) -> Axes {
        let mut base = Vec::with_capacity(ir.values.len());
        let mut count = 0;
        for value in ir.values.values() {
            base.push(count);
            count += value.ty.rank();
        }
        let mut axes = Axes {
            base,
            parent: (0..count).collect(),
            splits: vec![Vec::new(); count],
            whole: vec![false; count],
            renumbering: BTreeMap::new(),
        };
        for id in ir.values.ids().filter(|&id| !constant.contains(id)) {
            axes.link(ir, id, constant);
        }
        for state in ir.states.iter() {
            let read = ir
                .values
                .iter()
                .find(|(_, v)| v.op == Op::State(state.0))
                .map(|(id, _)| id);
            if let Some(read) = read {
                for d in 0..state.1.ty.rank() {
                    axes.union(read, d, state.1.next, d);
                    if keep_states {
                        axes.keep_whole(read, d);
                    }
                }
            }
        }
        axes.spread(ir, constant);
        axes
    }

    /// Factors of an axis, outermost first; none for an axis of extent 1.
    pub fn factors(&self, v: ValueId, axis: usize, extent: usize) -> Vec<usize> {
        if extent == 1 {
            return Vec::new();
        }
        let mut factors = Vec::new();
        let mut rest = extent;
        for &split in &self.splits[self.find(self.slot(v, axis))] {
            factors.push(rest / split);
            rest = split;
        }
        factors.push(rest);
        factors
    }

    fn slot(&self, v: ValueId, axis: usize) -> usize {
        self.base[v.index()] + axis
    }

    fn find(&self, mut slot: usize) -> usize {
        while self.parent[slot] != slot {
            slot = self.parent[slot];
        }
        slot
    }

    fn union(&mut self, a: ValueId, x: usize, b: ValueId, y: usize) {
        let (a, b) = (self.find(self.slot(a, x)), self.find(self.slot(b, y)));
        if a != b {
            let (root, child) = (a.min(b), a.max(b));
            self.parent[child] = root;
            self.whole[root] |= self.whole[child];
        }
    }

    fn keep_whole(&mut self, v: ValueId, axis: usize) {
        let slot = self.find(self.slot(v, axis));
        self.whole[slot] = true;
    }

    /// Joins the axes that one operation ties together.
    fn link(&mut self, ir: &TensorIr, id: ValueId, constant: &IdSet<ValueId>) {
        let value = &ir.values[id];
        let shape = |v: ValueId| &ir.values[v].ty.shape;
        match &value.op {
            Op::Map { .. } | Op::Sort { .. } | Op::Transfer | Op::Reduce { .. } => {
                for &v in value.inputs.iter().filter(|v| !constant.contains(**v)) {
                    for d in 0..value.ty.rank() {
                        if shape(v)[d] == value.ty.shape[d] && shape(v)[d] > 1 {
                            self.union(v, d, id, d);
                        }
                    }
                }
                if let Op::Sort { axis, .. } = value.op {
                    self.keep_whole(id, usize::from(axis));
                }
            }
            Op::Contract { batch, contracted, .. } => {
                let (l, r) = (value.inputs[0], value.inputs[1]);
                let varies = |v: ValueId| !constant.contains(v);
                for &(x, y) in batch.iter().chain(contracted) {
                    if varies(l) && varies(r) {
                        self.union(l, usize::from(x), r, usize::from(y));
                    }
                }
                let mut out = 0;
                for &(x, y) in batch {
                    if varies(l) {
                        self.union(l, usize::from(x), id, out);
                    } else {
                        self.union(r, usize::from(y), id, out);
                    }
                    out += 1;
                }
                for (v, left) in [(l, true), (r, false)] {
                    for axis in free_axes(shape(v).len(), batch, contracted, left) {
                        if varies(v) {
                            self.union(v, axis, id, out);
                        }
                        out += 1;
                    }
                }
            }
            Op::Gather | Op::Scatter { .. } => {
                // Rows of a table; what lies behind the row axis may be split.
                let table = value.inputs[0];
                let indices = value.inputs[1];
                let n_idx = shape(indices).len();
                let rows = if value.op == Op::Gather { id } else { value.inputs[2] };
                if !constant.contains(table) {
                    self.keep_whole(table, 0);
                    for d in 1..shape(table).len() {
                        self.union(table, d, rows, n_idx + d - 1);
                    }
                }
                if !constant.contains(indices) {
                    (0..n_idx).for_each(|d| self.union(indices, d, rows, d));
                }
                if value.op != Op::Gather {
                    self.keep_whole(id, 0);
                    for d in 1..shape(table).len() {
                        self.union(id, d, rows, n_idx + d - 1);
                    }
                }
            }
            Op::Input | Op::Const(_) | Op::State(_) | Op::Move { .. } => {}
        }
    }

    /// Spreads splits through moves until nothing changes; moves whose splits do not fit stay moves.
    fn spread(&mut self, ir: &TensorIr, constant: &IdSet<ValueId>) {
        let mut moves: Vec<ValueId> = ir
            .values
            .iter()
            .filter(|(id, _)| !constant.contains(*id) && renumbers(ir, *id).is_some())
            .map(|(id, _)| id)
            .collect();
        loop {
            let mut changed = false;
            let mut kept = Vec::with_capacity(moves.len());
            for &id in &moves {
                match self.spread_one(ir, id) {
                    Some(grew) => {
                        changed |= grew;
                        kept.push(id);
                    }
                    None => changed = true,
                }
            }
            moves = kept;
            if !changed {
                break;
            }
        }
        self.renumbering = moves
            .into_iter()
            .filter_map(|id| Some((id, renumbers(ir, id)?)))
            .collect();
    }

    /// Splits both sides of a move at the boundaries of either; whether that added any, `None` if they do not fit.
    fn spread_one(&mut self, ir: &TensorIr, id: ValueId) -> Option<bool> {
        let source = ir.values[id].inputs[0];
        let sides = [axes_of_source(ir, source), renumbers(ir, id)?];
        // Boundaries: digits of the operand's linear index, as weights.
        let mut bounds: Vec<usize> = Vec::new();
        for (v, side) in [source, id].into_iter().zip(&sides) {
            for &(axis, extent, stride) in side {
                bounds.push(stride);
                bounds.extend(self.splits[self.find(self.slot(v, axis))].iter().map(|s| s * stride));
                bounds.push(stride * extent);
            }
        }
        bounds.sort_unstable();
        bounds.dedup();
        if bounds.windows(2).any(|w| !w[1].is_multiple_of(w[0])) {
            return None;
        }
        let mut grown = Vec::new();
        for (v, side) in [source, id].into_iter().zip(&sides) {
            for &(axis, extent, stride) in side {
                let root = self.find(self.slot(v, axis));
                let mut splits = self.splits[root].clone();
                splits.extend(
                    bounds
                        .iter()
                        .filter(|&&b| b > stride && b < stride * extent)
                        .map(|b| b / stride),
                );
                splits.sort_unstable_by(|a, b| b.cmp(a));
                splits.dedup();
                let chain = splits.windows(2).all(|w| w[0].is_multiple_of(w[1]));
                let fits = splits.first().is_none_or(|&s| extent.is_multiple_of(s));
                if !chain || !fits || (self.whole[root] && !splits.is_empty()) {
                    return None;
                }
                grown.push((root, splits));
            }
        }
        // Two axes of one class may ask for different splits: their union must be a chain too.
        let mut changed = false;
        let before: Vec<(usize, Vec<usize>)> = grown
            .iter()
            .map(|(root, _)| (*root, self.splits[*root].clone()))
            .collect();
        for (root, splits) in grown {
            let mut union = self.splits[root].clone();
            union.extend(splits);
            union.sort_unstable_by(|a, b| b.cmp(a));
            union.dedup();
            if union.windows(2).any(|w| !w[0].is_multiple_of(w[1])) {
                before.into_iter().for_each(|(root, splits)| self.splits[root] = splits);
                return None;
            }
            changed |= self.splits[root] != union;
            self.splits[root] = union;
        }
        Some(changed)
    }
}

/// Axes of extent above 1 of a whole tensor.
fn axes_of_source(ir: &TensorIr, v: ValueId) -> Vec<SourceAxis> {
    let shape = &ir.values[v].ty.shape;
    let mut axes = Vec::new();
    let mut stride = 1;
    for (axis, &n) in shape.iter().enumerate().rev() {
        if n > 1 {
            axes.push((axis, n, stride));
        }
        stride *= n;
    }
    axes
}

/// For a move that permutes, regroups and broadcasts whole axes: its axes that are no broadcast.
fn renumbers(ir: &TensorIr, id: ValueId) -> Option<Vec<SourceAxis>> {
    let value = &ir.values[id];
    let (Op::Move { parts, .. }, &[source]) = (&value.op, value.inputs.as_slice()) else {
        return None;
    };
    let map = ir.maps.get(parts[0]);
    let [view] = map.views.as_slice() else { return None };
    if !view.is_total() || view.offset != 0 || view.strides.iter().any(|&s| s < 0) {
        return None;
    }
    let mut axes: Vec<SourceAxis> = (0..view.shape.len())
        .filter(|&d| view.shape[d] > 1 && view.strides[d] != 0)
        .map(|d| (d, view.shape[d], view.strides[d] as usize))
        .collect();
    axes.sort_unstable_by_key(|a| a.2);
    let mut next = 1;
    for &(_, extent, stride) in &axes {
        if stride != next {
            return None;
        }
        next = stride * extent;
    }
    (next == ir.values[source].ty.elements()).then_some(axes)
}
