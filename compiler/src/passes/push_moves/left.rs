//! Moves that remain: renumberings of axes where a move is only that, and moves that are carried out, in the axis order that
//! keeps them simplest.

use super::{At, Placed, Push, Slot, extent};
use crate::error::CompileError;
use crate::tir::map::MAX_VIEWS;
use crate::tir::{IndexMap, ValueId, View};

impl Push<'_> {
    /// A move that only renumbers axes is its operand under other numbers.
    pub(super) fn renumber(&mut self, id: ValueId) -> Result<Option<Placed>, CompileError> {
        let source = self.old.values[id].inputs[0];
        let Some(axes) = self.axes.renumbering.get(&id) else {
            return Ok(None);
        };
        let placed = self.get(source)?;
        // Places of the operand's factors by their weight in its linear index.
        let mut places: Vec<(usize, usize, At)> = Vec::new();
        let logical = View::contiguous(self.shape(source)).strides;
        for (a, factors) in self.factors(source).iter().enumerate() {
            let mut weight = logical[a] as usize;
            for (j, &n) in factors.iter().enumerate().rev() {
                places.push((weight, n, placed.axes[a][j]));
                weight *= n;
            }
        }
        let mut result = Vec::new();
        for (d, factors) in self.factors(id).iter().enumerate() {
            let Some(&(_, _, stride)) = axes.iter().find(|a| a.0 == d) else {
                result.push(vec![At::Broadcast; factors.len()]);
                continue;
            };
            let mut weight = stride;
            let mut own = Vec::new();
            for &n in factors.iter().rev() {
                let Some(place) = places.iter().find(|p| p.0 == weight && p.1 == n) else {
                    return Ok(None);
                };
                own.push(place.2);
                weight *= n;
            }
            own.reverse();
            result.push(own);
        }
        Ok(Some(Placed {
            value: placed.value,
            axes: result,
        }))
    }

    /// Any other move: read through the placement of its operands, written in logical order or that of the first operand.
    pub(super) fn real_move(&mut self, id: ValueId, maps: &[IndexMap], fill: u32) -> Result<Placed, CompileError> {
        let inputs = &self.old.values[id].inputs;
        let factors = self.factors(id);
        let mut candidates = vec![Self::atoms(&factors)];
        candidates.extend(self.followed(id, &factors)?);
        candidates.extend(self.by_stride(id, maps, &factors)?);
        type Reordered = (Vec<Slot>, Vec<(ValueId, IndexMap)>);
        let mut best: Option<(usize, Reordered)> = None;
        for slots in candidates {
            let out = self.reordered(id, &factors, &slots);
            let mut parts = Vec::new();
            let mut score = 0;
            for (&v, map) in inputs.iter().zip(maps) {
                let mut views = self.operand_views(v)?;
                views.extend(map.views.iter().cloned());
                views.push(out.clone());
                let map = IndexMap { views }.simplified();
                score += 2 * map.views.len()
                    + usize::from(
                        map.views
                            .last()
                            .is_some_and(|w| w.strides.last().is_some_and(|&s| s > 1)),
                    );
                score += if map.views.len() > MAX_VIEWS { 1000 } else { 0 };
                parts.push((self.get(v)?.value, map));
            }
            if best.as_ref().is_none_or(|(least, _)| score < *least) {
                best = Some((score, (slots, parts)));
            }
        }
        let Some((_, (slots, parts))) = best.filter(|(score, _)| *score < 1000) else {
            return self.plain_move(id, maps, fill, &factors);
        };
        let v = if let [(v, map)] = parts.as_slice() {
            self.b.move_one(*v, map.clone(), fill)?
        } else {
            self.b.moves(&parts, fill)?
        };
        Ok(self.placed(v, &factors, &slots))
    }

    /// The move on operands in logical order, then split.
    pub(super) fn plain_move(
        &mut self,
        id: ValueId,
        maps: &[IndexMap],
        fill: u32,
        factors: &[Vec<usize>],
    ) -> Result<Placed, CompileError> {
        let mut parts = Vec::new();
        for (&v, map) in self.old.values[id].inputs.iter().zip(maps) {
            parts.push((self.in_order(v)?, map.clone()));
        }
        let v = self.b.moves(&parts, fill)?;
        let slots = Self::atoms(factors);
        let shape: Vec<usize> = slots.iter().map(|&s| extent(s, factors)).collect();
        let v = self.b.moves(&[(v, IndexMap::reshape(&shape))], 0)?;
        Ok(self.placed(v, factors, &slots))
    }

    /// The view that reads a placed operand in logical order.
    pub(super) fn operand_views(&self, v: ValueId) -> Result<Vec<View>, CompileError> {
        if self.constant.contains(v) {
            return Ok(Vec::new());
        }
        let placed = self.get(v)?;
        let own = View::contiguous(self.b.shape(placed.value)).strides;
        let (mut shape, mut strides) = (Vec::new(), Vec::new());
        for (a, factors) in self.factors(v).iter().enumerate() {
            for (j, &n) in factors.iter().enumerate() {
                shape.push(n);
                strides.push(if let At::Axis(p) = placed.axes[a][j] { own[p] } else { 0 });
            }
        }
        Ok(vec![View::strided(shape, strides, 0).normalised()])
    }

    /// The view of an old value, in logical order, whose axes are these slots.
    pub(super) fn reordered(&self, id: ValueId, factors: &[Vec<usize>], slots: &[Slot]) -> View {
        let logical = View::contiguous(self.shape(id)).strides;
        let stride = |slot: &Slot| match *slot {
            Slot::Atom(a, j) => logical[a] * factors[a][j + 1..].iter().product::<usize>() as i64,
            Slot::Unit => 0,
        };
        let shape = slots.iter().map(|&s| extent(s, factors)).collect();
        View::strided(shape, slots.iter().map(stride).collect(), 0).normalised()
    }

    /// The order in which the axes run through the first operand as it is placed, where one view says so.
    fn by_stride(
        &self,
        id: ValueId,
        maps: &[IndexMap],
        factors: &[Vec<usize>],
    ) -> Result<Option<Vec<Slot>>, CompileError> {
        let operands = self.old.values[id].inputs.iter().zip(maps);
        for (&v, map) in operands.filter(|(v, _)| !self.constant.contains(**v)) {
            let slots = Self::atoms(factors);
            let mut views = self.operand_views(v)?;
            views.extend(map.views.iter().cloned());
            views.push(self.reordered(id, factors, &slots));
            if let [view] = &(IndexMap { views }).simplified().views[..] {
                let mut keyed: Vec<(i64, Slot)> = view.strides.iter().copied().zip(slots).collect();
                keyed.sort_by_key(|(stride, _)| std::cmp::Reverse(*stride));
                return Ok(Some(keyed.into_iter().map(|(_, slot)| slot).collect()));
            }
        }
        Ok(None)
    }

    /// The order of axes of the first operand that has the rank of the result, carried over axis by axis.
    pub(super) fn followed(&self, id: ValueId, factors: &[Vec<usize>]) -> Result<Option<Vec<Slot>>, CompileError> {
        for &v in self.old.values[id]
            .inputs
            .iter()
            .filter(|v| !self.constant.contains(**v))
        {
            if self.shape(v).len() != self.shape(id).len() {
                continue;
            }
            let placed = self.get(v)?;
            // Axes by the place of their first factor; an axis without one stays behind its predecessor.
            let mut last = 0;
            let mut keyed: Vec<(usize, usize)> = Vec::new();
            for (a, places) in placed.axes.iter().enumerate() {
                if let Some(At::Axis(p)) = places.first() {
                    last = *p;
                }
                keyed.push((last, a));
            }
            keyed.sort_unstable();
            let slots = keyed
                .into_iter()
                .flat_map(|(_, a)| (0..factors[a].len()).map(move |j| Slot::Atom(a, j)));
            return Ok(Some(slots.collect()));
        }
        Ok(None)
    }
}
