//! Layouts chosen ahead: which values of a convolutional network are packed, and how.
//!
//! Values that meet lane by lane (the operands and results of maps, the taps of one value) form a *class* and are packed alike: as
//! many segments of their pixel axis side by side as the class chooses. The cost of a choice is that of the products between
//! classes, counted pass by pass along one row of pixels, and of the maps; it is lowered class by class until nothing changes.
//! What is the same for all pixels (a scale per channel) is repeated in the lanes of what it scales.

use super::Builder;
use super::contract::Axis;
use super::scatter::leads_to;
use super::source::Resolved;
use crate::error::CompileError;
use crate::layout::choose::{Rows, with_lanes};
use crate::layout::pack::{Pack, repeated};
use crate::tir::{Op, ValueId};
use lockstep_graph::EntityId;
use std::collections::{BTreeMap, BTreeSet};

/// Fewest pixels of a value worth packing.
const LEAST_PIXELS: usize = 32;

/// Rounds of improvement.
const ROUNDS: usize = 6;

/// Most copies of a value that one chain reads several times.
const MOST_COPIES: usize = 6;

/// Most copies of a value that goes to several chips.
const MOST_SENT: usize = 4;

/// Cycles that a tile load with its reads costs beside the products that it hides under.
const LOAD_CYCLES: usize = 2;

/// Most vectors of a map whose lanes go by the product behind it: rows of which all are multiplied by one tile.
const FEW: usize = 64;

/// Values packed alike.
struct Class {
    members: Vec<ValueId>,
    /// Packings it may choose from, the first one unpacked.
    choices: Vec<Pack>,
    chosen: usize,
    /// Vector operations per pixel group: maps of the class, by the number of pixels each works on.
    pixels: usize,
}

/// A product from one class to another.
struct Edge {
    from: usize,
    to: usize,
    /// The left operand behind its moves, whose shape counts.
    source: ValueId,
    result: ValueId,
    /// For each pixel of a row of the result: row and pixel of every left pixel that it contracts.
    taps: Vec<Vec<(usize, usize)>>,
    /// Rows of the result, times vectors of its channels.
    rows: usize,
    /// Cycles per pass.
    period: usize,
    /// Cycles to load one block of a tile.
    load: usize,
}

/// Root of a value in a forest of classes.
fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

impl Builder<'_> {
    /// Chooses the layouts of convolutional networks.
    pub fn plan(&mut self) -> Result<(), CompileError> {
        let n = self.ir.values.len();
        let mut parent: Vec<usize> = (0..n).collect();
        let join = |parent: &mut [usize], a: usize, b: usize| {
            let (a, b) = (root(parent, a), root(parent, b));
            parent[a.max(b)] = a.min(b);
        };
        for (v, data) in self.ir.values.iter() {
            for &u in &data.inputs {
                let meets = match data.op {
                    Op::Map { .. } => self.shape(u) == self.shape(v),
                    Op::Transfer => true,
                    Op::Move { .. } => self.is_tap(v),
                    _ => false,
                };
                if meets && !self.is_const(u) && !self.is_const(v) {
                    join(&mut parent, u.index(), v.index());
                }
            }
        }
        let mut members: BTreeMap<usize, Vec<ValueId>> = BTreeMap::new();
        for v in self.ir.values.ids().filter(|&v| !self.is_const(v)) {
            members.entry(root(&mut parent, v.index())).or_default().push(v);
        }
        let mut classes: Vec<Class> = Vec::new();
        let read = self.read_by_convolutions()?;
        let mut class_of: BTreeMap<ValueId, usize> = BTreeMap::new();
        let mut placed: Vec<Vec<ValueId>> = Vec::new();
        for members in members.into_values() {
            let choices = self.choices(&members, &read);
            if choices.len() < 2 && !members.iter().any(|&v| self.is_convolution(v)) {
                if members.iter().any(|&v| matches!(self.ir.values[v].op, Op::Input)) {
                    placed.push(members);
                }
                continue;
            }
            members.iter().for_each(|&v| {
                class_of.insert(v, classes.len());
            });
            let maps = members
                .iter()
                .filter(|&&v| matches!(self.ir.values[v].op, Op::Map { .. }));
            let pixels = maps.map(|&v| self.pixels(v)).sum();
            classes.push(Class {
                members,
                chosen: choices.len() - 1,
                choices,
                pixels,
            });
        }
        let edges = self.edges(class_of, &placed, &mut classes)?;
        let used: BTreeSet<usize> = edges.iter().flat_map(|e| [e.from, e.to]).collect();
        self.improve(&mut classes, &edges);
        for (_, class) in classes.iter().enumerate().filter(|(n, _)| used.contains(n)) {
            let pack = class.choices[class.chosen];
            let shifted = |v: ValueId| matches!(self.ir.values[v].op, Op::Move { .. });
            if pack.segments * pack.inner == 1 && !class.members.iter().any(|&v| shifted(v)) {
                continue;
            }
            for &v in &class.members {
                let layout = if pack.fits(self.shape(v), self.lanes()) {
                    pack.layout(self.shape(v), &self.rows(v))
                } else {
                    let last = self.shape(v).len() - 1;
                    with_lanes(self.shape(v), &[last], self.lanes(), &self.rows(v), |_| false)
                };
                self.planned[v.index()] = Some(layout);
            }
        }
        self.plan_repeated(&mut parent);
        self.plan_copies();
        self.plan_heads();
        Ok(())
    }

    /// What the left operand of a product of activations comes from is laid out as the product wants it, where the contracted axes and
    /// the batch are several and fit the lanes, or the keys are rows of a state: the heads of a query lie beside each other, as those of the
    /// keys do.
    fn plan_heads(&mut self) {
        for (v, data) in self.ir.values.iter() {
            let Op::Contract { batch, contracted, .. } = &data.op else {
                continue;
            };
            let &[lhs, rhs] = &data.inputs[..] else { continue };
            if batch.len() + contracted.len() < 2 || self.is_const(lhs) || self.is_const(rhs) {
                continue;
            }
            let order: Vec<usize> = contracted
                .iter()
                .rev()
                .chain(batch.iter().rev())
                .map(|p| p.0 as usize)
                .collect();
            let shape = self.shape(lhs);
            let extents: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
            let depth: usize = extents[..contracted.len()].iter().product();
            let several_fit = 2 * depth <= self.lanes() && self.is_of_rows(rhs);
            if !several_fit && extents.iter().product::<usize>() > self.lanes() {
                continue;
            }
            let mut open = vec![(lhs, order)];
            while let Some((u, order)) = open.pop() {
                let source = &self.ir.values[u];
                let whole = order.iter().zip(&extents).all(|(&a, &n)| source.ty.shape[a] == n);
                if self.is_const(u) || !whole || self.chip(u) != self.chip(v) {
                    continue;
                }
                let layout = |rows: &Rows| with_lanes(&source.ty.shape, &order, self.lanes(), rows, |_| true);
                match &source.op {
                    // A map takes the layout of what it reads, unless all of that is smaller.
                    Op::Map { .. } => {
                        let same = |i: &&ValueId| self.shape(**i) == source.ty.shape;
                        let leads = source.inputs.iter().any(|i| same(&i) && !self.is_const(*i));
                        let followed = source.inputs.iter().filter(|i| !leads || same(i));
                        open.extend(followed.map(|&i| (i, order.clone())));
                        let vectors = source.ty.elements() / extents.iter().product::<usize>().max(1);
                        if !leads && vectors <= FEW {
                            // Read by one unit.
                            let rows = Rows {
                                sides: false,
                                ..self.rows(u)
                            };
                            self.wanted[u.index()] = Some(layout(&rows));
                        }
                    }
                    Op::Move { .. } => open.extend(self.behind_units(u, &order)),
                    Op::Contract { .. } if self.is_const(source.inputs[1]) && !self.has_rows(u, &order) => {
                        self.wanted[u.index()] = Some(layout(&self.rows(u)));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Whether an operand is a state whose rows are replaced in place, seen through moves: as many of its heads as fit lie beside each other.
    fn is_of_rows(&self, v: ValueId) -> bool {
        let of = |s: &ValueId| leads_to(self.ir, v, *s);
        self.updates.iter().any(|u| u.scatters.last().is_some_and(of))
    }

    /// Whether some of these axes of a product are rows, which no lanes hold.
    fn has_rows(&self, v: ValueId, axes: &[usize]) -> bool {
        let is_row = |a: &Axis| matches!(a, Axis::Row { .. });
        self.spec(v)
            .is_some_and(|spec| axes.iter().any(|&a| is_row(&spec.axes[a])))
    }

    /// What a move that adds or drops unit axes reads, with its axes for those of the result.
    fn behind_units(&self, v: ValueId, axes: &[usize]) -> Option<(ValueId, Vec<usize>)> {
        let data = &self.ir.values[v];
        let (Op::Move { parts, .. }, &[u]) = (&data.op, &data.inputs[..]) else {
            return None;
        };
        let wide = |v: ValueId| {
            let shape = self.shape(v);
            (0..shape.len()).filter(|&a| shape[a] > 1).collect::<Vec<_>>()
        };
        let (to, from) = (wide(v), wide(u));
        let extents = |v: ValueId, axes: &[usize]| axes.iter().map(|&a| self.shape(v)[a]).collect::<Vec<_>>();
        let same = extents(v, &to) == extents(u, &from);
        if !same || !self.ir.maps.get(parts[0]).is_reshape(self.ir.values[u].ty.elements()) {
            return None;
        }
        let axis = |a: &usize| to.iter().position(|t| t == a).map(|at| from[at]);
        Some((u, axes.iter().map(axis).collect::<Option<_>>()?))
    }

    fn pixels(&self, v: ValueId) -> usize {
        let shape = self.shape(v);
        shape[..shape.len().saturating_sub(1)].iter().product()
    }

    /// A contract of pixels with constant weights, whose last axis has the channels.
    fn is_convolution(&self, v: ValueId) -> bool {
        let Some(spec) = self.spec(v) else { return false };
        let columns = spec.axes.iter().filter(|a| matches!(a, Axis::Column { .. })).count();
        let last = matches!(spec.axes.last(), Some(Axis::Column { .. }));
        self.is_const(self.ir.values[v].inputs[1])
            && !self.is_const(self.ir.values[v].inputs[0])
            && spec.batch.is_empty()
            && last
            && columns == 1
            && spec.axes.len() >= 3
            && self.pixels(v) >= LEAST_PIXELS
    }

    /// Whether a move shifts, cuts or strides pixels so that segments stay segments.
    fn is_tap(&self, v: ValueId) -> bool {
        let data = &self.ir.values[v];
        let (Op::Move { parts, .. }, [u]) = (&data.op, data.inputs.as_slice()) else {
            return false;
        };
        let (shape, from) = (&data.ty.shape, self.shape(*u).to_vec());
        let rank = shape.len();
        if rank < 2 || from.len() != rank || shape[rank - 1] != from[rank - 1] || shape[rank - 2] < 2 {
            return false;
        }
        if !self.is_lazy(v) || !self.keeps_channels(v) {
            return false;
        }
        let axis = rank - 2;
        let middle: Vec<usize> = shape.iter().map(|n| n / 2).collect();
        let mut before = middle.clone();
        before[axis] -= 1;
        let map = self.ir.maps.get(parts[0]);
        let at = |c: &[usize]| map.at(c).and_then(|i| crate::tir::map::unravel(i, &from));
        let (Some(a), Some(b)) = (at(&before), at(&middle)) else {
            return false;
        };
        let step = b[axis].wrapping_sub(a[axis]);
        let alone = (0..rank).all(|d| d == axis || a[d] == b[d]);
        alone && from[axis] == step.wrapping_mul(shape[axis])
    }

    /// What convolutions multiply, behind the moves.
    fn read_by_convolutions(&self) -> Result<BTreeSet<ValueId>, CompileError> {
        let mut read = BTreeSet::new();
        for v in self.ir.values.ids().filter(|&v| self.is_convolution(v)) {
            let lhs = self.ir.values[v].inputs[0];
            let middle: Vec<usize> = self.shape(lhs).iter().map(|n| n / 2).collect();
            if let Resolved::Element(u, _) = self.resolve(lhs, &middle)? {
                read.insert(u);
            }
        }
        Ok(read)
    }

    /// Packings of a class: none, then ever more segments of the axis before the channels, where convolutions make or read it.
    fn choices(&self, members: &[ValueId], read: &BTreeSet<ValueId>) -> Vec<Pack> {
        let first = self.shape(members[0]).to_vec();
        let rank = first.len();
        let pack = |segments| Pack {
            channel: rank.saturating_sub(1) as u8,
            axis: rank.saturating_sub(2) as u8,
            inner: 1,
            segments,
        };
        let mut choices = vec![pack(1)];
        let pooled = |v: &ValueId| read.contains(v) && matches!(self.ir.values[*v].op, Op::Map { .. });
        if rank < 2 || !members.iter().any(|v| self.is_convolution(*v) || pooled(v)) {
            return choices;
        }
        let fits = |p: &Pack| {
            members.iter().all(|&v| {
                let shape = self.shape(v);
                shape.len() == rank && shape[rank - 1] == first[rank - 1] && p.fits(shape, self.lanes())
            })
        };
        choices.extend((2..=first[rank - 2]).map(pack).filter(fits));
        choices
    }

    /// The products between classes. Values that the host places, and maps of them, become classes of their own.
    fn edges(
        &self,
        mut class_of: BTreeMap<ValueId, usize>,
        placed: &[Vec<ValueId>],
        classes: &mut Vec<Class>,
    ) -> Result<Vec<Edge>, CompileError> {
        let mut edges: Vec<Edge> = Vec::new();
        for v in self.ir.values.ids().filter(|&v| !self.is_const(v)) {
            let (Some(&to), Some(spec)) = (class_of.get(&v), self.spec(v)) else {
                continue;
            };
            if !self.is_convolution(v) {
                continue;
            }
            let lhs = self.ir.values[v].inputs[0];
            let axes: Vec<(usize, usize)> = spec.contracted.iter().map(|p| (p.0, self.shape(lhs)[p.0])).collect();
            let (Some(&(channel, _)), Some(Axis::Row { lhs: row })) =
                (axes.last(), spec.axes.get(spec.axes.len().wrapping_sub(2)))
            else {
                continue;
            };
            let Some((source, axis, channel)) = self.axes_behind(lhs, *row, channel)? else {
                continue;
            };
            if let (None, Some(members)) = (class_of.get(&source), placed.iter().find(|m| m.contains(&source)))
                && self.is_elementwise(members)
            {
                let shape = self.shape(source);
                let pixels = shape.iter().product::<usize>() / shape[channel as usize].max(1);
                class_of.extend(members.iter().map(|&v| (v, classes.len())));
                classes.push(Class {
                    members: members.clone(),
                    choices: self.placements(source, axis, channel),
                    chosen: 0,
                    pixels: pixels * (members.len() - 1),
                });
            }
            let Some(&from) = class_of.get(&source) else {
                continue;
            };
            if classes[from]
                .choices
                .iter()
                .any(|p| (p.axis, p.channel) != (axis, channel))
            {
                continue;
            }
            let taps = self.taps_of(lhs, *row, &axes, axis)?;
            let Some(rate) = self.target.mxm_rate(self.dtype(lhs)) else {
                continue;
            };
            let n = self.shape(v)[spec.axes.len() - 2];
            let columns = self.shape(v)[spec.axes.len() - 1].div_ceil(self.lanes());
            let words = self.dtype(lhs).words() as usize;
            edges.push(Edge {
                from,
                to,
                source,
                result: v,
                taps,
                rows: self.pixels(v) / n * columns,
                period: rate.cycles_per_vector as usize,
                load: LOAD_CYCLES + axes.last().map_or(1, |a| a.1) * words / 16,
            });
        }
        Ok(edges)
    }

    /// The value behind the moves, and its axes along which pixels and channels run.
    fn axes_behind(&self, lhs: ValueId, row: usize, channel: usize) -> Result<Option<(ValueId, u8, u8)>, CompileError> {
        let middle: Vec<usize> = self.shape(lhs).iter().map(|n| n / 2).collect();
        let along = |axis: usize| -> Result<Option<(ValueId, u8)>, CompileError> {
            let mut c = middle.clone();
            if c[axis] == 0 {
                return Ok(None);
            }
            let a = self.resolve(lhs, &c)?;
            c[axis] -= 1;
            let b = self.resolve(lhs, &c)?;
            let (Resolved::Element(u, a), Resolved::Element(w, b)) = (a, b) else {
                return Ok(None);
            };
            let moved: Vec<usize> = (0..a.len()).filter(|&d| a.get(d) != b.get(d)).collect();
            Ok(match moved[..] {
                [d] if u == w && !self.is_const(u) => Some((u, d as u8)),
                _ => None,
            })
        };
        Ok(match (along(row)?, along(channel)?) {
            (Some((u, pixels)), Some((w, channels))) if u == w && pixels != channels => Some((u, pixels, channels)),
            _ => None,
        })
    }

    /// Whether all of these are inputs, and maps of one shape.
    fn is_elementwise(&self, members: &[ValueId]) -> bool {
        let is = |&v: &ValueId| match &self.ir.values[v].op {
            Op::Input => true,
            Op::Map { .. } => self.wanted[v.index()].is_none(),
            _ => false,
        };
        members.iter().all(is) && members.iter().all(|&v| self.shape(v) == self.shape(members[0]))
    }

    /// Packings of a value that the host places.
    fn placements(&self, v: ValueId, axis: u8, channel: u8) -> Vec<Pack> {
        let shape = self.shape(v);
        let n = shape[axis as usize];
        let mut all = Vec::new();
        for segments in (1..=n).filter(|&s| n.is_multiple_of(s)) {
            for inner in 1..=n / segments {
                let pack = Pack {
                    channel,
                    axis,
                    inner,
                    segments,
                };
                if pack.fits(shape, self.lanes()) {
                    all.push(pack);
                }
            }
        }
        if all.is_empty() {
            all.push(Pack {
                channel,
                axis,
                inner: 1,
                segments: 1,
            });
        }
        all
    }

    /// Row and pixel of every left pixel that each pixel of a middle row contracts.
    fn taps_of(
        &self,
        lhs: ValueId,
        row: usize,
        axes: &[(usize, usize)],
        pixels: u8,
    ) -> Result<Vec<Vec<(usize, usize)>>, CompileError> {
        let shape = self.shape(lhs);
        let mut c: Vec<usize> = shape.iter().map(|n| n / 2).collect();
        let outer = &axes[..axes.len() - 1];
        let n_outer: usize = outer.iter().map(|a| a.1).product();
        c[axes[axes.len() - 1].0] = 0;
        let mut rows: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        let mut taps = Vec::with_capacity(shape[row]);
        for x in 0..shape[row] {
            c[row] = x;
            let mut met = Vec::with_capacity(n_outer);
            for position in 0..n_outer {
                let mut rest = position;
                for &(a, n) in outer.iter().rev() {
                    c[a] = rest % n;
                    rest /= n;
                }
                if let Resolved::Element(_, mut e) = self.resolve(lhs, &c)? {
                    let at = std::mem::take(&mut e[pixels as usize]);
                    let next = rows.len();
                    met.push((*rows.entry(e).or_insert(next), at));
                }
            }
            taps.push(met);
        }
        Ok(taps)
    }

    /// Lowers the cost of all choices, class by class.
    fn improve(&self, classes: &mut [Class], edges: &[Edge]) {
        let mut costs: BTreeMap<(usize, usize, usize), usize> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let mut changed = false;
            for k in 0..classes.len() {
                let near: Vec<usize> = (0..edges.len())
                    .filter(|&e| edges[e].from == k || edges[e].to == k)
                    .collect();
                if near.is_empty() {
                    continue;
                }
                let mut best = (usize::MAX, classes[k].chosen);
                for choice in (0..classes[k].choices.len()).rev() {
                    classes[k].chosen = choice;
                    let pack = classes[k].choices[choice];
                    let mut cost = classes[k].pixels.div_ceil(pack.segments * pack.inner);
                    for &e in &near {
                        let edge = &edges[e];
                        let key = (e, classes[edge.from].chosen, classes[edge.to].chosen);
                        cost += *costs.entry(key).or_insert_with(|| self.edge_cost(classes, edge));
                    }
                    if cost < best.0 {
                        best = (cost, choice);
                    }
                }
                changed |= classes[k].chosen != best.1;
                classes[k].chosen = best.1;
            }
            if !changed {
                break;
            }
        }
    }

    /// Cycles of a product, both hemispheres at work.
    fn edge_cost(&self, classes: &[Class], edge: &Edge) -> usize {
        let (from, to) = (&classes[edge.from], &classes[edge.to]);
        let (from, to) = (&from.choices[from.chosen], &to.choices[to.chosen]);
        let shape = self.shape(edge.source);
        let result = self.shape(edge.result);
        let segment = to.segment(result);
        let mut met: Vec<(usize, usize)> = Vec::new();
        let (mut passes, mut most) = (0, 0);
        for j in 0..segment {
            met.clear();
            for p in 0..to.segments {
                let taps = edge.taps.get(p * segment + j).into_iter().flatten();
                met.extend(taps.map(|&(row, x)| (row, from.vector(shape, x))));
            }
            met.sort_unstable();
            met.dedup();
            passes += met.len();
            most = most.max(met.len());
        }
        let units = 2 * (self.target.mxm_units(self.dtype(edge.source)) as usize).max(1);
        let products = passes * edge.rows * edge.period / units;
        // Every group of segments that starts elsewhere in its vectors needs tiles of its own.
        let kinds = from.inner.max(1) * to.segments.div_ceil(from.segments).max(1);
        let loads = most * to.segments * edge.load * kinds.min(segment.max(1));
        products.max(loads) + loads / 4
    }

    /// What is one pixel and meets packed values lies repeated in the lanes, as they need it.
    fn plan_repeated(&mut self, parent: &mut [usize]) {
        let mut wanted: BTreeMap<usize, usize> = BTreeMap::new();
        for (v, data) in self.ir.values.iter() {
            let (Op::Map { .. }, Some(layout)) = (&data.op, &self.planned[v.index()]) else {
                continue;
            };
            let channels = data.ty.shape.last().copied().unwrap_or(1);
            let segments = layout.lane_count() / channels.max(1);
            for &u in &data.inputs {
                let shape = self.shape(u);
                let one = shape.last() == Some(&channels) && shape.len() == data.ty.shape.len() && self.pixels(u) == 1;
                if one && segments > 1 && !self.is_const(u) {
                    wanted.entry(root(parent, u.index())).or_insert(segments);
                }
            }
        }
        for v in self.ir.values.ids() {
            let computed = matches!(self.ir.values[v].op, Op::Contract { .. } | Op::Map { .. });
            let free = self.planned[v.index()].is_none() && computed && !self.is_const(v) && self.pixels(v) == 1;
            if let (true, Some(&segments)) = (free, wanted.get(&root(parent, v.index()))) {
                self.planned[v.index()] = Some(repeated(self.shape(v), segments, &self.rows(v)));
            }
        }
    }

    /// Copies of the values that one map reads several times, shifted, and of those that go to several chips at a time: a transfer
    /// holds a bank for as long as its link takes.
    fn plan_copies(&mut self) {
        for v in self.ir.values.ids() {
            let sent = self.transfers(v).count();
            self.copies[v.index()] = sent.clamp(1, MOST_SENT);
        }
        for (v, data) in self.ir.values.iter() {
            if !matches!(data.op, Op::Map { .. }) || self.planned[v.index()].is_none() {
                continue;
            }
            let mut reads: BTreeMap<ValueId, usize> = BTreeMap::new();
            for &u in &data.inputs {
                let base = match self.ir.values[u].inputs.as_slice() {
                    &[base] if self.is_lazy(u) => base,
                    _ => u,
                };
                *reads.entry(base).or_default() += 1;
            }
            for (u, n) in reads {
                if self.planned[u.index()].is_some() {
                    let copies = &mut self.copies[u.index()];
                    *copies = n.min(MOST_COPIES).max(*copies);
                }
            }
        }
    }
}
