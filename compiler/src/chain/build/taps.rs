//! Shifted values: what a map over the taps of a window reads.
//!
//! A vector of a shifted value is a vector of the value itself, lane by lane, wherever no segment of packed pixels and no
//! border of the tensor comes between: those are read in place. A vector that lies in the border altogether is a constant. What is left is
//! put together by lane moves, once for all shifts of a value.

use super::Builder;
use super::fit::{At, fit};
use super::moves::Recipe;
use super::source::Resolved;
use crate::chain::{Buf, BufKind};
use crate::error::CompileError;
use crate::layout::Layout;
use crate::tir::{Op, ValueId};
use lockstep_graph::EntityId;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Where the vectors of a value lie, per part of its layout.
pub(crate) type Table = Vec<Vec<At>>;

/// Steps of one chain of lane moves.
const MOST: usize = 1024;

/// A vector that lane moves make: how, and of which vectors.
type Made = (Recipe, Vec<At>);

/// Where one vector is found.
enum Spot {
    There(At),
    Fill(u32),
    Made(Made),
}

impl Builder<'_> {
    /// The vectors of a shifted value in its planned layout; `None` where it has none.
    pub fn shifted(&mut self, v: ValueId, want: &Layout, chip: u16) -> Result<Option<Rc<Table>>, CompileError> {
        if let Some(table) = self.shifted.get(&v) {
            return Ok(Some(table.clone()));
        }
        let &[base] = self.ir.values[v].inputs.as_slice() else {
            return Ok(None);
        };
        let planned = |b: &Self, m: ValueId| b.planned[m.index()].as_ref() == Some(want) && b.is_lazy(m);
        if !planned(self, v) || self.is_const(base) || self.is_lazy(base) || self.chip(base) != chip {
            return Ok(None);
        }
        self.any_home(base)?;
        let mut siblings: Vec<ValueId> = self.users[base.index()].clone();
        siblings.retain(|&m| planned(self, m) && self.ir.values[m].inputs == [base]);
        siblings.dedup();
        let mut spots = Vec::new();
        for &m in &siblings {
            spots.push(self.spots(m, want)?);
        }
        let made = self.make(&siblings, &spots, want, chip)?;
        let beside = self.homes[base.index()]
            .as_ref()
            .and_then(|h| h.bufs.iter().flatten().next().copied());
        let dtype = self.dtype(v);
        for (m, spots) in siblings.into_iter().zip(spots) {
            let mut table = Table::new();
            for (p, spots) in spots.into_iter().enumerate() {
                let part = want.part(p);
                let mut row = Vec::with_capacity(spots.len());
                for spot in spots {
                    row.push(match spot {
                        Spot::There(at) => at,
                        Spot::Fill(bits) => {
                            let bytes = bits.to_le_bytes()[..dtype.bytes()].repeat(part.hi);
                            (self.const_vector(beside, chip, part.side, dtype, bytes), 0)
                        }
                        Spot::Made(key) => match made.get(&key) {
                            Some(&at) => at,
                            None => {
                                return Err(CompileError::internal("chains", format!("a vector of {m} is not made")));
                            }
                        },
                    });
                }
                table.push(row);
            }
            self.shifted.insert(m, Rc::new(table));
        }
        Ok(self.shifted.get(&v).cloned())
    }

    /// Where each vector of a shifted value is found.
    fn spots(&self, m: ValueId, want: &Layout) -> Result<Vec<Vec<Spot>>, CompileError> {
        let first = |l: &Layout| {
            l.lanes
                .first()
                .filter(|d| d.axis == Some(l.shape.len() as u8 - 1))
                .copied()
        };
        let base = self.ir.values[m].inputs[0];
        let Some(home) = self.homes[base.index()].clone() else {
            return Err(CompileError::internal("chains", format!("{base} has no home")));
        };
        // Channels move together where both sides keep as many in the innermost lanes.
        let together = first(want).filter(|d| self.keeps_channels(m) && Some(*d) == first(&home.layout));
        let width = together.map_or(1, |d| d.extent);
        let mut all = Vec::new();
        for p in 0..want.n_parts() {
            let part = want.part(p);
            let mut row = Vec::with_capacity(part.n_vectors());
            for start in want.bases(&part) {
                if part.n_vectors() == 0 {
                    break;
                }
                let mut sources: BTreeMap<At, Vec<u16>> = BTreeMap::new();
                let mut fill = Vec::new();
                for lane in (0..part.hi).step_by(width) {
                    let end = part.hi.min(lane + width);
                    let mut c = start.clone();
                    want.add_lane(lane, &mut c);
                    match self.resolve(m, &c)? {
                        Resolved::Fill(bits) => fill.extend((lane..end).map(|l| (l as u16, bits))),
                        Resolved::Element(_, e) => {
                            let (buf, index, l) = home.at(&e)?;
                            let map = sources.entry((buf, index)).or_insert_with(|| vec![u16::MAX; part.hi]);
                            for (n, slot) in map[lane..end].iter_mut().enumerate() {
                                *slot = l + n as u16;
                            }
                        }
                    }
                }
                row.push(self.spot(sources, fill, part.hi));
            }
            all.push(row);
        }
        Ok(all)
    }

    fn spot(&self, sources: BTreeMap<At, Vec<u16>>, fill: Vec<(u16, u32)>, hi: usize) -> Spot {
        let whole = |at: &At, map: &[u16]| {
            fill.is_empty()
                && self.prog.bufs[at.0].hi as usize == hi
                && map.iter().enumerate().all(|(i, &m)| i == m as usize)
        };
        match (sources.len(), sources.iter().next(), fill.first()) {
            (1, Some((&at, map)), _) if whole(&at, map) => Spot::There(at),
            (0, _, Some(&(_, bits))) => Spot::Fill(bits),
            _ => {
                let at = sources.keys().copied().collect();
                let maps = sources.into_values().map(Some).collect();
                Spot::Made((Recipe { maps, fill }, at))
            }
        }
    }

    /// Chains that make what is not there, as many copies as one map reads at a time.
    fn make(
        &mut self,
        siblings: &[ValueId],
        spots: &[Vec<Vec<Spot>>],
        want: &Layout,
        chip: u16,
    ) -> Result<BTreeMap<Made, At>, CompileError> {
        let mut wanted: BTreeMap<Recipe, BTreeSet<Vec<At>>> = BTreeMap::new();
        let mut uses: BTreeMap<(Recipe, ValueId), usize> = BTreeMap::new();
        for (&m, spots) in siblings.iter().zip(spots) {
            let mut recipes = BTreeSet::new();
            for spot in spots.iter().flatten() {
                if let Spot::Made((recipe, at)) = spot {
                    wanted.entry(recipe.clone()).or_default().insert(at.clone());
                    recipes.insert(recipe);
                }
            }
            for recipe in recipes {
                for &user in &self.users[m.index()] {
                    if matches!(self.ir.values[user].op, Op::Map { .. }) {
                        *uses.entry((recipe.clone(), user)).or_default() += 1;
                    }
                }
            }
        }
        let mut made = BTreeMap::new();
        for (recipe, vectors) in wanted {
            let vectors: Vec<Vec<At>> = vectors.into_iter().collect();
            let hi = recipe
                .maps
                .iter()
                .flatten()
                .map(Vec::len)
                .max()
                .unwrap_or(want.lane_count());
            let side = vectors
                .first()
                .and_then(|at| at.first())
                .and_then(|at| self.prog.bufs[at.0].side);
            let copies = uses.iter().filter(|u| u.0.0 == recipe).map(|u| *u.1).max().unwrap_or(1);
            let buf = self.prog.bufs.push(Buf {
                chip,
                dtype: self.dtype(siblings[0]),
                n_vectors: vectors.len() as u32,
                lo: 0,
                hi: hi as u16,
                kind: BufKind::Temp,
                side,
            });
            self.add_twins(buf, copies);
            let mut tracks: Vec<Vec<At>> = vec![(0..vectors.len()).map(|i| (buf, i as u32)).collect()];
            for s in 0..recipe.maps.len() {
                tracks.push(vectors.iter().map(|at| at[s]).collect());
            }
            for piece in fit(&tracks, MOST, 3) {
                self.move_chain(chip, &recipe, piece.dims, &piece.at, hi as u16, side);
            }
            for (i, at) in vectors.into_iter().enumerate() {
                made.insert((recipe.clone(), at), (buf, i as u32));
            }
        }
        Ok(made)
    }
}
