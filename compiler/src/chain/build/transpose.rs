//! Re-arrangements by transposition: lanes become vectors and vectors lanes in one run of the lane-move unit, where putting the
//! vectors together lane by lane would take a permute for each.
//!
//! A product whose tiles are large and whose rows are few loads the operand with many rows instead (`orient.rs`); what it
//! streams and what it gives then lie crosswise to what their neighbours want.

use super::fit::{At, fit};
use super::moves::{Kernel, dense};
use super::source::Resolved;
use super::{Builder, Home};
use crate::chain::{BufKind, NodeArg, NodeOp};
use crate::error::CompileError;
use crate::layout::{LaneDigit, Layout, VecDigit};
use crate::tir::{Op, ValueId};
use lockstep_graph::EntityId;
use lockstep_isa::Dir;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Source vectors of one wanted vector up to which it is put together lane by lane.
const FEW: usize = 4;

/// Vectors with the same sources: per lane the source vector, and by lane of these the part and vector of the result.
type Groups = BTreeMap<Vec<At>, BTreeMap<u16, (usize, u32)>>;

impl Builder<'_> {
    /// A copy of `v` in the wanted layout, if a transposition makes it in fewer steps than lane moves.
    pub fn by_transposition(&mut self, v: ValueId, want: &Layout) -> Result<Option<Rc<Home>>, CompileError> {
        let n_in = want.lane_count();
        if n_in <= FEW || n_in > self.lanes() || !want.is_injective() || self.n_sources(v, want)? <= FEW {
            return Ok(None);
        }
        let behind = self.groups(want, |b, c| match b.resolve(v, c)? {
            Resolved::Element(u, at) => match &b.homes[u.index()] {
                Some(home) if !b.is_const(u) && b.chip(u) == b.chip(v) => home.at(&at).map(Some),
                _ => Ok(None),
            },
            Resolved::Fill(_) => Ok(None),
        })?;
        let groups = match behind {
            Some(groups) => groups,
            None => {
                // Through a layout whose lanes are the wanted vectors.
                let Some(crosswise) = want.crosswise(self.lanes()) else {
                    return Ok(None);
                };
                if self.n_sources(v, &crosswise)? > FEW {
                    return Ok(None);
                }
                let home = self.relayout(v, &crosswise)?;
                match self.groups(want, |_, c| home.at(c).map(Some))? {
                    Some(groups) => groups,
                    None => return Ok(None),
                }
            }
        };
        let home = self.new_home(self.chip(v), self.dtype(v), want.clone(), |_| BufKind::Temp);
        for (n, (sources, results)) in groups.into_iter().enumerate() {
            self.transpose_chain(v, &sources, &results, &home, Dir::BOTH[n % 2])?;
        }
        Ok(Some(home))
    }

    /// Vectors that hold the elements of the first wanted vector; 0 where not all of them are in memory.
    fn n_sources(&self, v: ValueId, want: &Layout) -> Result<usize, CompileError> {
        let part = want.part(0);
        let Some(base) = want.bases(&part).into_iter().next() else {
            return Ok(0);
        };
        let mut sources = Vec::new();
        for lane in 0..part.hi {
            let mut c = base.clone();
            want.add_lane(lane, &mut c);
            let Resolved::Element(u, at) = self.resolve(v, &c)? else {
                return Ok(0);
            };
            let (Some(home), false) = (&self.homes[u.index()], self.is_const(u)) else {
                return Ok(0);
            };
            let (buf, index, _) = home.at(&at)?;
            sources.push((buf, index));
        }
        sources.sort_unstable();
        sources.dedup();
        Ok(sources.len())
    }

    /// The wanted vectors by their sources, if each vector takes one lane of every source; `at` finds an element.
    fn groups(
        &self,
        want: &Layout,
        at: impl Fn(&Self, &[usize]) -> Result<Option<(crate::chain::BufId, u32, u16)>, CompileError>,
    ) -> Result<Option<Groups>, CompileError> {
        let mut groups = Groups::new();
        for p in 0..want.n_parts() {
            let part = want.part(p);
            if part.n_vectors() > 0 && part.hi != want.lane_count() {
                return Ok(None);
            }
            for (i, base) in want.bases(&part).iter().enumerate() {
                let mut sources = Vec::with_capacity(part.hi);
                let mut from = None;
                for lane in 0..part.hi {
                    let mut c = base.clone();
                    want.add_lane(lane, &mut c);
                    let Some((buf, index, l)) = at(self, &c)? else {
                        return Ok(None);
                    };
                    if from.is_some_and(|f| f != l) {
                        return Ok(None);
                    }
                    from = Some(l);
                    sources.push((buf, index));
                }
                let Some(l) = from else { return Ok(None) };
                groups.entry(sources).or_default().insert(l, (p, i as u32));
            }
        }
        // As many vectors as there are lanes, or nearly: else the sources are read for little.
        let results: usize = groups.values().map(BTreeMap::len).sum();
        let worth = results == want.n_vectors() && results * FEW >= groups.len() * want.lane_count();
        Ok(worth.then_some(groups))
    }

    /// Reads the sources in order and writes the results.
    fn transpose_chain(
        &mut self,
        v: ValueId,
        sources: &[At],
        results: &BTreeMap<u16, (usize, u32)>,
        home: &Home,
        hemi: Dir,
    ) -> Result<(), CompileError> {
        let (chip, dtype, n_in) = (self.chip(v), self.dtype(v), sources.len() as u16);
        let hi = self.prog.bufs[sources[0].0].hi;
        let pieces = fit(&[sources.to_vec()], usize::MAX, 3);
        let (buf, at, dims) = match pieces.as_slice() {
            [piece] => (piece.at[0].0, piece.at[0].1, piece.dims),
            pieces => {
                // One run reads one buffer.
                let dims = [sources.len() as u32, 1, 1];
                let (temp, affine) = self.temp(chip, dtype, dims, hi, Some(hemi));
                for piece in pieces {
                    let mut kernel = Kernel::new(piece.dims);
                    let from = &self.prog.bufs[piece.at[0].0];
                    let x = kernel.read(piece.at[0].0, piece.at[0].1, dtype, from.lo, from.hi);
                    let x = self.as_result(&mut kernel, x, dtype, hi);
                    let mut to = dense(piece.dims);
                    to.base = piece.start as u32;
                    kernel.write(x, temp, to, dtype, hi);
                    self.add_chain(chip, kernel.nodes);
                }
                (temp, affine, dims)
            }
        };
        let mut kernel = Kernel::new(dims);
        let (lo, hi) = (self.prog.bufs[buf].lo, self.prog.bufs[buf].hi);
        let x = kernel.read(buf, at, dtype, lo, hi);
        // One result per live lane of the operand; its own live lanes are as many as there are sources.
        let n_out = hi - lo;
        let op = NodeOp::Transpose { n_out, hemi };
        let NodeArg::Node { node, .. } = kernel.push_dims(op, dtype, dims, lo, hi, vec![x]) else {
            return Ok(());
        };
        // Stretches of results that follow one another and lie affinely.
        let mut stretches: Vec<(u16, Vec<At>)> = Vec::new();
        for (&l, &(part, index)) in results {
            let Some(dest) = home.bufs[part] else { continue };
            match stretches.last_mut() {
                Some((first, track)) if *first as usize + track.len() == l as usize => track.push((dest, index)),
                _ => stretches.push((l, vec![(dest, index)])),
            }
        }
        for (first, track) in stretches {
            for piece in fit(&[track], usize::MAX, 3) {
                let result = NodeArg::Node {
                    node,
                    first: (first - lo) as u32 + piece.start as u32,
                };
                let (dest, to) = piece.at[0];
                kernel.push_dims(NodeOp::Write(dest, to), dtype, piece.dims, 0, n_in, vec![result]);
            }
        }
        self.add_chain(chip, kernel.nodes);
        Ok(())
    }

    /// The layout crosswise to that in which a value, or what it only permutes the axes of, lies: its vectors in the lanes.
    pub fn crosswise_layout(&self, v: ValueId) -> Option<Layout> {
        let layout = match &self.homes[v.index()] {
            Some(home) => home.layout.clone(),
            None => {
                let (Op::Move { parts, .. }, [u]) = (&self.ir.values[v].op, &self.ir.values[v].inputs[..]) else {
                    return None;
                };
                let home = self.homes[u.index()].as_ref()?;
                let [view] = self.ir.maps.get(*parts.first()?).views.as_slice() else {
                    return None;
                };
                permuted(&home.layout, self.shape(*u), view)?
            }
        };
        let mut out = layout.crosswise(self.lanes())?;
        // The longest digit that counts vectors is split over the hemispheres.
        let at = (0..out.vecs.len()).max_by_key(|&n| out.vecs[n].extent)?;
        let digit = out.vecs[at];
        if digit.extent.is_multiple_of(2) {
            let half = digit.extent / 2;
            out.vecs[at].extent = half;
            out.vecs.insert(
                at,
                VecDigit {
                    div: digit.div * half,
                    extent: 2,
                    ..digit
                },
            );
            out.parts = at + 1;
            out.side = Some(at);
        }
        Some(out)
    }
}

/// The layout of a value as a view that permutes its axes shows it.
fn permuted(layout: &Layout, shape: &[usize], view: &crate::tir::View) -> Option<Layout> {
    let own = crate::tir::View::contiguous(shape);
    if view.offset != 0 || !view.is_total() {
        return None;
    }
    let seen = |a: u8| {
        let a = a as usize;
        (0..view.shape.len())
            .find(|&d| view.shape[d] == shape[a] && view.shape[d] > 1 && view.strides[d] == own.strides[a])
            .map(|d| d as u8)
    };
    let elements: usize = shape.iter().product();
    let mut out = Layout {
        shape: view.shape.clone(),
        ..layout.clone()
    };
    for d in out.lanes.iter_mut().filter(|d| d.axis.is_some() && d.extent > 1) {
        d.axis = Some(seen(d.axis?)?);
    }
    for d in out.vecs.iter_mut() {
        d.axis = seen(d.axis)?;
    }
    (view.shape.iter().product::<usize>() == elements).then_some(out)
}

impl Layout {
    /// The layout with lanes and vectors exchanged, in one buffer; `None` where the vectors are more than `lanes`, or a digit is
    /// cut short.
    pub(crate) fn crosswise(&self, lanes: usize) -> Option<Layout> {
        let mut per_axis = vec![1; self.shape.len()];
        for d in self.lanes.iter().filter(|d| d.extent > 1) {
            per_axis[d.axis? as usize] *= d.extent;
        }
        for d in &self.vecs {
            per_axis[d.axis as usize] *= d.extent;
        }
        let n: usize = self.vecs.iter().map(|d| d.extent).product();
        if per_axis != self.shape || n > lanes {
            return None;
        }
        let lane = |d: &VecDigit| LaneDigit {
            axis: Some(d.axis),
            div: d.div,
            extent: d.extent,
        };
        let vector = |d: &LaneDigit| {
            Some(VecDigit {
                axis: d.axis?,
                div: d.div,
                extent: d.extent,
            })
        };
        Some(Layout {
            shape: self.shape.clone(),
            lanes: self.vecs.iter().rev().filter(|d| d.extent > 1).map(lane).collect(),
            vecs: self
                .lanes
                .iter()
                .rev()
                .filter(|d| d.extent > 1)
                .filter_map(vector)
                .collect(),
            parts: 0,
            side: None,
        })
    }
}
