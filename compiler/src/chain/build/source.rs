//! Where a kernel reads an operand: homes, constants made to order, and moves read in place.

use super::fit::At;
use super::{Builder, Home};
use crate::chain::contents::{Constant, Contents, Picked, stretches};
use crate::chain::{BufId, BufKind};
use crate::error::CompileError;
use crate::layout::Layout;
use crate::layout::choose::{default_layout, with_lanes};
use crate::tir::map::unravel;
use crate::tir::{Op, ValueId, View, row_major};
use lockstep_graph::EntityId;
use lockstep_isa::{DType, Dir};
use std::rc::Rc;
use std::sync::Arc;

/// Vectors that hold the operand as wanted: same elements in the same lanes.
#[derive(Clone)]
pub(crate) enum Source {
    /// A home whose lanes agree.
    Home(Rc<Home>),
    /// Vectors of other values, read through moves: per part and vector of `layout`.
    Table { layout: Layout, at: Vec<Vec<At>> },
}

impl Source {
    /// The vector that holds the element with these coordinates (of lane 0 of a wanted vector).
    pub fn at(&self, c: &[usize]) -> Result<At, CompileError> {
        match self {
            Source::Home(home) => home.at(c).map(|(buf, index, _)| (buf, index)),
            Source::Table { layout, at } => {
                let l = layout.locate(c);
                at.get(l.part)
                    .and_then(|p| p.get(l.index as usize))
                    .copied()
                    .ok_or_else(|| CompileError::internal("chains", format!("no vector for {c:?}")))
            }
        }
    }
}

/// An element behind moves.
pub(crate) enum Resolved {
    /// An element of a value that is no move (or of a constant).
    Element(ValueId, Vec<usize>),
    /// The fill of a move.
    Fill(u32),
}

impl Builder<'_> {
    /// Whether a value has no buffers of its own because it is a move not carried out.
    pub fn is_lazy(&self, v: ValueId) -> bool {
        matches!(self.ir.values[v].op, Op::Move { .. })
            && !self.is_const(v)
            && !self.forced[v.index()]
            && self.homes[v.index()].is_none()
    }

    /// Whether a value can be read now.
    pub fn is_ready(&self, v: ValueId) -> bool {
        self.is_const(v)
            || self.done[v.index()]
            || match self.ir.values[v].op {
                Op::Input | Op::State(_) => true,
                Op::Move { .. } => self.ir.values[v].inputs.iter().all(|&i| self.is_ready(i)),
                _ => false,
            }
    }

    /// Follows an element through moves.
    pub fn resolve(&self, v: ValueId, c: &[usize]) -> Result<Resolved, CompileError> {
        let (mut v, mut c) = (v, c.to_vec());
        while self.is_lazy(v) {
            let data = &self.ir.values[v];
            let Op::Move { parts, fill } = &data.op else { break };
            let mut found = None;
            for (&map, &input) in parts.iter().zip(&data.inputs) {
                if let Some(linear) = self.ir.maps.get(map).at(&c) {
                    found = unravel(linear, self.shape(input)).map(|c| (input, c));
                    break;
                }
            }
            match found {
                Some((input, at)) => (v, c) = (input, at),
                None => return Ok(Resolved::Fill(*fill)),
            }
        }
        Ok(Resolved::Element(v, c))
    }

    /// Follows an element through moves, and with it those after it along an axis: how many of them, at most `most`, are all filled,
    /// or lie one after the other along the last axis of what the first one lies in.
    pub fn resolve_run(
        &self,
        v: ValueId,
        c: &[usize],
        axis: usize,
        most: usize,
    ) -> Result<(Resolved, usize), CompileError> {
        let (mut v, mut c, mut axis, mut n) = (v, c.to_vec(), axis, most);
        while self.is_lazy(v) {
            let data = &self.ir.values[v];
            let Op::Move { parts, fill } = &data.op else { break };
            let mut found = None;
            for (&map, &input) in parts.iter().zip(&data.inputs) {
                let (run, place) = map_run(&self.ir.maps.get(map).views, &c, axis, n);
                n = run;
                if let Some(at) = place.and_then(|linear| unravel(linear, self.shape(input))) {
                    found = Some((input, at));
                    break;
                }
            }
            let Some((input, at)) = found else {
                return Ok((Resolved::Fill(*fill), n));
            };
            (v, c) = (input, at);
            axis = c.len().saturating_sub(1);
            n = n.min(left_along(self.shape(v), &c));
        }
        if axis + 1 != c.len() {
            n = 1;
        }
        Ok((Resolved::Element(v, c), n.max(1)))
    }

    /// Vectors that hold `v` as `want` says; `side` is the hemisphere that will read constants.
    pub fn source(&mut self, v: ValueId, want: &Layout, chip: u16, side: Option<Dir>) -> Result<Source, CompileError> {
        if self.is_const(v) {
            return self.const_home(v, chip, side, want).map(Source::Home);
        }
        if self.is_lazy(v) {
            if let Some(home) = self.other_homes.get(&(v, want.clone())) {
                return Ok(Source::Home(home.clone()));
            }
            if let Some(table) = self.shifted(v, want, chip)? {
                let (layout, at) = (want.clone(), table.to_vec());
                return Ok(Source::Table { layout, at });
            }
            return match self.in_place(v, want, chip)? {
                Some(at) => Ok(Source::Table {
                    layout: want.clone(),
                    at,
                }),
                None => self.relayout(v, want).map(Source::Home),
            };
        }
        let home = self.home_or(v, want)?;
        if home.layout.serves(want) {
            Ok(Source::Home(home))
        } else {
            self.relayout(v, want).map(Source::Home)
        }
    }

    /// The home of a value; an input or state without one gets it in the wanted layout, if that holds each element once.
    pub fn home_or(&mut self, v: ValueId, want: &Layout) -> Result<Rc<Home>, CompileError> {
        if let Some(home) = &self.homes[v.index()] {
            return Ok(home.clone());
        }
        let layout = if let Some(planned) = &self.planned[v.index()] {
            planned.clone()
        } else if want.shape == self.shape(v) && want.is_injective() {
            want.clone()
        } else {
            default_layout(self.shape(v), self.lanes(), &self.rows(v))
        };
        let (kind, layout) = match self.ir.values[v].op {
            Op::Input => (BufKind::Input, layout),
            Op::State(s) => {
                let key = (self.ir.states[s].name.clone(), self.chip(v));
                let settled = self.states.entry(key).or_insert(layout).clone();
                (BufKind::State(s.index() as u32), settled)
            }
            _ => {
                return Err(CompileError::internal(
                    "chains",
                    format!("{v} is used before it is computed"),
                ));
            }
        };
        let home = self.new_home(self.chip(v), self.dtype(v), layout, |_| kind.clone());
        self.homes[v.index()] = Some(home.clone());
        Ok(home)
    }

    /// The home of a value in any layout: its own, or the default one.
    pub fn any_home(&mut self, v: ValueId) -> Result<Rc<Home>, CompileError> {
        let default = default_layout(self.shape(v), self.lanes(), &self.rows(v));
        if self.is_const(v) {
            let chip = self.chip(v);
            return self.const_home(v, chip, None, &default);
        }
        if self.is_lazy(v) {
            let home = self.relayout(v, &default)?;
            self.homes[v.index()] = Some(home.clone());
            return Ok(home);
        }
        self.home_or(v, &default)
    }

    /// The home of a value that is read for the first time, through moves, by something that wants `v` in the layout `want`:
    /// an input goes where lanes run as they are wanted, since the host places it anywhere.
    pub fn first_home(&mut self, u: ValueId, v: ValueId, want: &Layout) -> Result<Rc<Home>, CompileError> {
        let free = matches!(self.ir.values[u].op, Op::Input | Op::State(_)) && self.homes[u.index()].is_none();
        let axis = if free { self.lane_axis(u, v, want)? } else { None };
        match axis {
            Some(a) => {
                let layout = with_lanes(self.shape(u), &[a], self.lanes(), &self.rows(u), |_| false);
                self.home_or(u, &layout)
            }
            None => self.any_home(u),
        }
    }

    /// Whether the first vector of `v` in this layout that has no fill lies in one vector behind the moves, lane by lane.
    pub fn keeps_lanes(&self, v: ValueId, layout: &Layout) -> Result<bool, CompileError> {
        for p in 0..layout.n_parts() {
            let part = layout.part(p);
            'vectors: for base in layout.bases(&part) {
                let mut found = None;
                for lane in 0..part.hi {
                    let mut c = base.clone();
                    layout.add_lane(lane, &mut c);
                    let Resolved::Element(u, at) = self.resolve(v, &c)? else {
                        continue 'vectors;
                    };
                    let Some(home) = &self.homes[u.index()] else {
                        return Ok(false);
                    };
                    let (buf, index, l) = home.at(&at)?;
                    if l as usize != lane || found.is_some_and(|f| f != (buf, index)) {
                        return Ok(false);
                    }
                    found = Some((buf, index));
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The axis of `u` along which the lanes of `v` in this layout run.
    fn lane_axis(&self, u: ValueId, v: ValueId, want: &Layout) -> Result<Option<usize>, CompileError> {
        for p in 0..want.n_parts() {
            let part = want.part(p);
            for base in want.bases(&part) {
                let mut next = base.clone();
                want.add_lane(1, &mut next);
                if part.hi < 2 {
                    return Ok(None);
                }
                let (a, b) = (self.resolve(v, &base)?, self.resolve(v, &next)?);
                if let (Resolved::Element(x, a), Resolved::Element(y, b)) = (a, b)
                    && (x, y) == (u, u)
                {
                    let moved: Vec<usize> = (0..a.len()).filter(|&d| a[d] != b[d]).collect();
                    return Ok(match moved[..] {
                        [d] if b[d] == a[d] + 1 => Some(d),
                        _ => None,
                    });
                }
            }
        }
        Ok(None)
    }

    /// A constant in the wanted layout, replicas included.
    pub fn const_home(
        &mut self,
        v: ValueId,
        chip: u16,
        side: Option<Dir>,
        want: &Layout,
    ) -> Result<Rc<Home>, CompileError> {
        let key = (v, chip, side, want.clone());
        if let Some(home) = self.const_homes.get(&key) {
            return Ok(home.clone());
        }
        let from = self.constant(v);
        let home = self.const_from(from, self.dtype(v), chip, side, want);
        self.const_homes.insert(key, home.clone());
        Ok(home)
    }

    /// Buffers with constant contents: `from` is a tensor of the layout's shape.
    pub fn const_from(
        &mut self,
        from: Arc<Constant>,
        dtype: DType,
        chip: u16,
        side: Option<Dir>,
        layout: &Layout,
    ) -> Rc<Home> {
        let strides = row_major(&layout.shape);
        let linear = |c: &[usize]| c.iter().zip(&strides).map(|(a, b)| a * b).sum::<usize>();
        let origin = vec![0; layout.shape.len()];
        let lane_offsets = (0..layout.lane_count()).map(|l| {
            let mut c = origin.clone();
            layout.add_lane(l, &mut c);
            linear(&c)
        });
        let lane_offsets: Vec<usize> = lane_offsets.collect();
        let mut contents = Vec::new();
        for p in 0..layout.n_parts() {
            let part = layout.part(p);
            contents.push(Contents::from(Picked {
                from: from.clone(),
                size: dtype.bytes(),
                lead: 0,
                vectors: layout.bases(&part).iter().map(|base| linear(base)).collect(),
                stretches: stretches(lane_offsets.iter().copied().take(part.hi)).into(),
                tail: Vec::new(),
            }));
        }
        let home = self.new_home(chip, dtype, layout.clone(), |p| BufKind::Rows(contents[p].clone()));
        if side.is_some() {
            for buf in home.bufs.iter().flatten() {
                self.prog.bufs[*buf].side = side;
            }
        }
        home
    }

    /// Tries to read a lazy value in place: every wanted vector is one vector of another value, lane by lane.
    pub fn in_place(&mut self, v: ValueId, want: &Layout, chip: u16) -> Result<Option<Vec<Vec<At>>>, CompileError> {
        self.in_place_among(v, want, chip, false)
    }

    /// The same, where `wider` vectors serve too: those with more live lanes than are wanted.
    pub fn in_place_among(
        &mut self,
        v: ValueId,
        want: &Layout,
        chip: u16,
        wider: bool,
    ) -> Result<Option<Vec<Vec<At>>>, CompileError> {
        let mut table = Vec::new();
        let repeated = want.lanes.iter().all(|d| d.axis.is_none() || d.extent == 1);
        for p in 0..want.n_parts() {
            let part = want.part(p);
            let mut row = Vec::new();
            for base in want.bases(&part) {
                if repeated && let Some(at) = self.repeated_at(v, &base, part.hi, chip)? {
                    row.push(at);
                    continue;
                }
                let mut found: Option<(BufId, u32)> = None;
                let mut lane = 0;
                while lane < part.hi {
                    let mut c = base.clone();
                    want.add_lane(lane, &mut c);
                    let (axis, most) = want.lane_run(lane, part.hi);
                    let (Resolved::Element(u, at), n) = self.resolve_run(v, &c, axis, most)? else {
                        return Ok(None);
                    };
                    if self.is_const(u) || self.chip(u) != chip {
                        return Ok(None);
                    }
                    let home = match &self.homes[u.index()] {
                        Some(home) => home.clone(),
                        None => self.first_home(u, v, want)?,
                    };
                    let (buf, index, l, n) = home.run_at(&at, n)?;
                    if l as usize != lane || found.is_some_and(|f| f != (buf, index)) {
                        return Ok(None);
                    }
                    found = Some((buf, index));
                    lane += n;
                }
                let Some((buf, index)) = found else { return Ok(None) };
                if self.prog.bufs[buf].hi as usize != part.hi && !wider {
                    return Ok(None);
                }
                row.push((buf, index));
            }
            table.push(row);
        }
        Ok(Some(table))
    }

    /// The vector behind moves that holds one element in its first `n` lanes, if there is one.
    fn repeated_at(&self, v: ValueId, c: &[usize], n: usize, chip: u16) -> Result<Option<At>, CompileError> {
        let Resolved::Element(u, at) = self.resolve(v, c)? else {
            return Ok(None);
        };
        let Some(home) = self.homes[u.index()].as_ref().filter(|_| self.chip(u) == chip) else {
            return Ok(None);
        };
        let serves = matches!(&home.layout.pattern()[..], [d] if d.axis.is_none() && d.extent >= n);
        if self.is_const(u) || !serves {
            return Ok(None);
        }
        let (buf, index, _) = home.at(&at)?;
        Ok(Some((buf, index)))
    }
}

/// Elements from this one to the end of the last axis.
fn left_along(shape: &[usize], c: &[usize]) -> usize {
    match (shape.last(), c.last()) {
        (Some(n), Some(c)) => n - c,
        _ => 1,
    }
}

/// Where the views of a map lead from `c`, and for how many of `most` elements along an axis the answer is the same: nowhere, or
/// one element after the other.
fn map_run(views: &[View], c: &[usize], axis: usize, most: usize) -> (usize, Option<usize>) {
    let (mut c, mut axis, mut n) = (c.to_vec(), axis, most);
    for (k, view) in views.iter().enumerate().rev() {
        let Some(index) = view.at(&c).and_then(|i| usize::try_from(i).ok()) else {
            let elsewhere = (0..c.len()).any(|d| d != axis && (c[d] < view.lo[d] || c[d] >= view.hi[d]));
            // Before the box along the axis itself, the box begins at some point.
            let before = c
                .get(axis)
                .zip(view.lo.get(axis))
                .map_or(0, |(c, lo)| lo.saturating_sub(*c));
            return (if elsewhere || before == 0 { n } else { n.min(before) }, None);
        };
        match (view.strides.get(axis), view.hi.get(axis)) {
            (Some(1), Some(hi)) => n = n.min(hi - c[axis]),
            _ => n = 1,
        }
        let Some(shape) = k.checked_sub(1).map(|k| &views[k].shape) else {
            return (n, Some(index));
        };
        let Some(at) = unravel(index, shape) else {
            return (1, None);
        };
        c = at;
        axis = shape.len().saturating_sub(1);
        n = n.min(left_along(shape, &c));
    }
    (1, None)
}
