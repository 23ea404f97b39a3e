//! Products of two operands computed at run time: how their layouts meet, and when they are re-arranged.

use super::contract::{Axis, Spec};
use super::source::Resolved;
use super::tiles::most_belts;
use super::{Builder, Home};
use crate::chain::{BufId, BufKind, Chain, ChainId, ChainKind, NodeOp};
use crate::error::CompileError;
use crate::layout::choose::{finish, whole_axis};
use crate::layout::{LaneDigit, Layout, VecDigit};
use crate::tir::ValueId;
use lockstep_graph::EntityId;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

impl Builder<'_> {
    /// Puts columns side by side that lie in different buffers of the right operand, so that several belts load them.
    pub fn spread_columns(&self, layout: &mut Layout, spec: &Spec, rhs: ValueId) {
        let Some(&LaneDigit {
            axis: Some(axis),
            div: 1,
            extent: n,
        }) = layout.lanes.first()
        else {
            return;
        };
        let Axis::Column { rhs: a } = spec.axes[axis as usize] else {
            return;
        };
        if layout.shape[axis as usize] != n {
            return;
        }
        let mut c = vec![0; self.shape(rhs).len()];
        let mut bufs: Vec<BufId> = Vec::with_capacity(n);
        for k in 0..n {
            c[a] = k;
            match self.behind(rhs, &c) {
                Ok(Some((buf, ..))) => bufs.push(buf),
                _ => return,
            }
        }
        let block = bufs.iter().take_while(|b| **b == bufs[0]).count();
        let blocks: Vec<BufId> = bufs.iter().step_by(block.max(1)).copied().collect();
        let even = n.is_multiple_of(block.max(1)) && (0..n).all(|k| bufs[k] == blocks[k / block]);
        let apart = blocks.iter().collect::<BTreeSet<_>>().len() == blocks.len();
        let most = most_belts(self.dtype(rhs)).min(blocks.len());
        let Some(beside) = (2..=most).rev().find(|&b| blocks.len().is_multiple_of(b)) else {
            return;
        };
        if even && apart {
            let digit = |div: usize, extent: usize| LaneDigit {
                axis: Some(axis),
                div,
                extent,
            };
            let spread = [
                digit(block, beside),
                digit(1, block),
                digit(block * beside, blocks.len() / beside),
            ];
            layout.lanes.splice(0..1, spread.into_iter().filter(|d| d.extent > 1));
        }
    }

    /// The layout of a left operand that has its contracted and batch coordinates in the lanes in which a right one computed at
    /// run time has them.
    pub fn as_loaded(&self, lhs: ValueId, spec: &Spec, rhs: ValueId) -> Option<Layout> {
        let (home, axes) = self.home_behind(rhs)?;
        let to_left = |a: u8| {
            let a = *axes.get(a as usize)?;
            let pairs = spec.contracted.iter().chain(&spec.batch);
            pairs.copied().find(|p| Some(p.1) == a).map(|p| p.0 as u8)
        };
        let mut lanes = Vec::new();
        for d in home.layout.lanes.iter().filter(|d| d.extent > 1) {
            lanes.push(LaneDigit {
                axis: Some(to_left(d.axis?)?),
                ..*d
            });
        }
        let shape = self.shape(lhs).to_vec();
        let in_lanes = |a: u8| lanes.iter().any(|l| l.axis == Some(a));
        let left = home.layout.vecs.iter().filter_map(|d| Some((to_left(d.axis)?, d)));
        let high: Vec<VecDigit> = left
            .filter(|(a, _)| in_lanes(*a))
            .map(|(axis, d)| VecDigit { axis, ..*d })
            .collect();
        let open: Vec<VecDigit> = (0..shape.len())
            .filter(|&a| shape[a] > 1 && !in_lanes(a as u8))
            .map(|a| whole_axis(&shape, a))
            .collect();
        Some(finish(&shape, lanes, high, &open, &self.rows(lhs)))
    }

    /// The home of a value computed at run time, or the first of those that its elements lie in behind moves; and for each axis of what
    /// has that home the axis of the value that is all of it, where one is.
    fn home_behind(&self, v: ValueId) -> Option<(Rc<Home>, Vec<Option<usize>>)> {
        if self.is_const(v) {
            return None;
        }
        let shape = self.shape(v);
        if let Some(home) = &self.homes[v.index()] {
            return Some((home.clone(), (0..shape.len()).map(Some).collect()));
        }
        let origin = vec![0; shape.len()];
        let element = |c: &[usize]| match self.resolve(v, c) {
            Ok(Resolved::Element(u, at)) => Some((u, at)),
            _ => None,
        };
        let (u, at) = element(&origin)?;
        let home = self.homes[u.index()].as_ref()?.clone();
        let mut axes = vec![None; at.len()];
        for a in (0..shape.len()).filter(|&a| shape[a] > 1) {
            let mut c = origin.clone();
            c[a] = 1;
            let Some((_, to)) = element(&c).filter(|(w, _)| *w == u) else {
                continue;
            };
            let mut moved = (0..at.len()).filter(|&k| to[k] != at[k]);
            if let (Some(k), None) = (moved.next(), moved.next())
                && (at[k], to[k]) == (0, 1)
                && shape[a] == home.layout.shape[k]
            {
                axes[k] = Some(a);
            }
        }
        Some((home, axes))
    }

    /// The layout of a left operand behind moves that has as many batches side by side as the vectors behind them.
    pub fn beside_others(&self, lhs: ValueId, spec: &Spec) -> Result<Option<Layout>, CompileError> {
        let shape = self.shape(lhs);
        let wide = |pairs: &[(usize, usize)]| -> Vec<usize> {
            let axes = pairs.iter().map(|p| p.0);
            axes.filter(|&a| shape[a] > 1).collect()
        };
        let ([k], [b]) = (&wide(&spec.contracted)[..], &wide(&spec.batch)[..]) else {
            return Ok(None);
        };
        let Resolved::Element(u, _) = self.resolve(lhs, &vec![0; shape.len()])? else {
            return Ok(None);
        };
        let Some(home) = &self.homes[u.index()] else {
            return Ok(None);
        };
        let beside = (home.layout.lane_count() / shape[*k]).min(shape[*b]);
        if beside < 2 {
            return Ok(None);
        }
        let digit = |axis: usize, extent: usize| LaneDigit {
            axis: Some(axis as u8),
            div: 1,
            extent,
        };
        let high = VecDigit {
            axis: *b as u8,
            div: beside,
            extent: shape[*b].div_ceil(beside),
        };
        let open: Vec<VecDigit> = (0..shape.len())
            .filter(|a| a != k && a != b && shape[*a] > 1)
            .map(|a| whole_axis(shape, a))
            .collect();
        let lanes = vec![digit(*k, shape[*k]), digit(*b, beside)];
        Ok(Some(finish(shape, lanes, vec![high], &open, &self.rows(lhs))))
    }

    /// Puts the chains from number `first` on as early as what they read allows, in their order: what is re-arranged for a product is
    /// often there long before it, and would be last in line for the lane-move units.
    pub fn bring_forward(&mut self, first: usize) {
        let n = self.prog.chains.len();
        if first == 0 || first == n {
            return;
        }
        let places = &mut self.places;
        places.written.resize(self.prog.bufs.len(), 0);
        places.used.resize(self.prog.bufs.len(), 0);
        for (id, chain) in self.prog.chains.iter().skip(places.noted).take(first - places.noted) {
            places.note(&touched(chain), id.index());
        }
        // The chain after which each goes, and where it is.
        let mut moved: Vec<(usize, usize)> = Vec::with_capacity(n - first);
        let mut written: BTreeMap<BufId, usize> = BTreeMap::new();
        let mut used: BTreeMap<BufId, usize> = BTreeMap::new();
        let mut touch = Vec::with_capacity(n - first);
        for (id, chain) in self.prog.chains.iter().skip(first) {
            let (reads, writes) = touched(chain);
            let temporary = |b: &BufId| !matches!(self.prog.bufs[*b].kind, BufKind::State(_) | BufKind::NextState(_));
            let free = matches!(chain.kind, ChainKind::Compute { .. }) && reads.iter().chain(&writes).all(temporary);
            let made = reads
                .iter()
                .filter_map(|b| places.written[b.index()].checked_sub(1).max(written.get(b).copied()));
            let touched = writes
                .iter()
                .filter_map(|b| places.used[b.index()].checked_sub(1).max(used.get(b).copied()));
            let at = made.chain(touched).max().filter(|_| free).unwrap_or(first - 1);
            let note = |of: &mut BTreeMap<BufId, usize>, b: BufId| {
                let place = of.entry(b).or_insert(at);
                *place = at.max(*place);
            };
            reads.iter().chain(&writes).for_each(|&b| note(&mut used, b));
            writes.iter().for_each(|&b| note(&mut written, b));
            moved.push((at, id.index()));
            touch.push((reads, writes));
        }
        moved.sort_unstable();
        let Some(&(lowest, _)) = moved.first() else { return };
        // Where the chains behind `lowest` come to lie.
        let mut to = vec![0; n - lowest - 1];
        for (k, &(at, from)) in moved.iter().enumerate() {
            to[from - lowest - 1] = at + 1 + k;
        }
        let mut before = 0;
        for p in lowest + 1..first {
            while moved.get(before).is_some_and(|m| m.0 < p) {
                before += 1;
            }
            to[p - lowest - 1] = p + before;
        }
        let none = || Chain {
            kind: ChainKind::Compute {
                chip: 0,
                nodes: Vec::new(),
            },
            origin: 0,
        };
        let behind = self.prog.chains.iter_mut().skip(lowest + 1);
        let taken: Vec<Chain> = behind.map(|(_, c)| std::mem::replace(c, none())).collect();
        for (chain, &to) in taken.into_iter().zip(&to) {
            self.prog.chains[ChainId::from_index(to)] = chain;
        }
        // A place is the number of its chain and 1.
        for place in places.written.iter_mut().chain(&mut places.used) {
            if let Some(&to) = place.checked_sub(lowest + 2).and_then(|p| to.get(p)) {
                *place = to + 1;
            }
        }
        for (touch, &to) in touch.iter().zip(&to[first - lowest - 1..]) {
            places.note(touch, to);
        }
        places.noted = n;
    }
}

/// Where chains touch each buffer: 0, or 1 and the number of the last that does.
#[derive(Default)]
pub(super) struct Places {
    /// The last that writes it.
    written: Vec<usize>,
    /// The last that reads or writes it.
    used: Vec<usize>,
    /// Chains that are noted here.
    noted: usize,
}

impl Places {
    /// Notes that the chain with this number touches buffers: those that it reads, and those that it writes.
    fn note(&mut self, (reads, writes): &(Vec<BufId>, Vec<BufId>), at: usize) {
        for b in reads.iter().chain(writes) {
            self.used[b.index()] = self.used[b.index()].max(at + 1);
        }
        for b in writes {
            self.written[b.index()] = self.written[b.index()].max(at + 1);
        }
    }
}

/// Buffers that a chain reads, and those that it writes.
fn touched(chain: &Chain) -> (Vec<BufId>, Vec<BufId>) {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    match &chain.kind {
        ChainKind::Compute { nodes, .. } => {
            for node in nodes {
                match node.op {
                    NodeOp::Read(buf, _) | NodeOp::Gather { buf, .. } => reads.push(buf),
                    NodeOp::Write(buf, _) | NodeOp::Scatter { buf, .. } => writes.push(buf),
                    _ => {}
                }
            }
        }
        ChainKind::Transfer { from, to, .. } => {
            reads.push(*from);
            writes.push(*to);
        }
    }
    (reads, writes)
}
