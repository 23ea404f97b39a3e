//! Index maps of `move`: where each output element comes from.
//!
//! An [`IndexMap`] is a list of one to three [`View`]s, innermost (nearest the operand) first. A coordinate of the output is
//! looked up in the last view, which gives a linear index into a virtual row-major tensor of the shape of the view
//! before it, and so on down to the operand. A coordinate outside a view's box is undefined: the element comes from
//! another part of the move, or is its fill.

use lockstep_graph::{EntityId, entity_id};
use std::collections::BTreeMap;

entity_id!(pub MapId, "m");

/// Most views of one map.
pub const MAX_VIEWS: usize = 3;

/// One strided view.
///
/// Coordinate c (each `c[d] < shape[d]`) maps to linear index `offset + sum c[d] * strides[d]` where `lo[d] <= c[d] < hi[d]`
/// for all d, and is undefined elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View {
    /// Extents.
    pub shape: Vec<usize>,
    /// Linear step per axis; 0 broadcasts, negative reverses.
    pub strides: Vec<i64>,
    /// Linear index of coordinate zero (may be negative where the box excludes it).
    pub offset: i64,
    /// First defined coordinate per axis.
    pub lo: Vec<usize>,
    /// One past the last defined coordinate per axis.
    pub hi: Vec<usize>,
}

impl View {
    /// The row-major view of a whole tensor.
    pub fn contiguous(shape: &[usize]) -> View {
        let mut strides = vec![0i64; shape.len()];
        let mut step = 1i64;
        for (d, &n) in shape.iter().enumerate().rev() {
            strides[d] = step;
            step *= n as i64;
        }
        View { shape: shape.to_vec(), strides, offset: 0, lo: vec![0; shape.len()], hi: shape.to_vec() }
    }

    /// Linear index of a coordinate; `None` outside the box.
    pub fn at(&self, c: &[usize]) -> Option<i64> {
        let mut index = self.offset;
        for d in 0..self.shape.len() {
            if c[d] < self.lo[d] || c[d] >= self.hi[d] {
                return None;
            }
            index += c[d] as i64 * self.strides[d];
        }
        Some(index)
    }

    /// Whether every coordinate is defined.
    pub fn is_total(&self) -> bool {
        self.lo.iter().all(|&l| l == 0) && self.hi == self.shape
    }
}

/// A map from output coordinates to elements of one operand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexMap {
    /// Views, nearest the operand first; the last one has the output's shape.
    pub views: Vec<View>,
}

impl IndexMap {
    /// The map that reads a tensor as it is.
    pub fn identity(shape: &[usize]) -> IndexMap {
        IndexMap { views: vec![View::contiguous(shape)] }
    }

    /// Output shape.
    pub fn shape(&self) -> &[usize] {
        self.views.last().map_or(&[], |v| &v.shape)
    }

    /// Linear index into the operand for an output coordinate; `None` where undefined.
    pub fn at(&self, c: &[usize]) -> Option<usize> {
        let mut coordinate = c.to_vec();
        for (n, view) in self.views.iter().enumerate().rev() {
            let index = usize::try_from(view.at(&coordinate)?).ok()?;
            if n == 0 {
                return Some(index);
            }
            coordinate = unravel(index, &self.views[n - 1].shape)?;
        }
        None
    }
}

/// Coordinates of a linear index in a row-major tensor; `None` where it is out of range.
pub fn unravel(mut index: usize, shape: &[usize]) -> Option<Vec<usize>> {
    let mut c = vec![0; shape.len()];
    for (d, &n) in shape.iter().enumerate().rev() {
        if n == 0 {
            return None;
        }
        c[d] = index % n;
        index /= n;
    }
    (index == 0).then_some(c)
}

/// Interned maps: equal maps have equal ids.
#[derive(Clone, Debug, Default)]
pub struct MapTable {
    maps: Vec<IndexMap>,
    ids: BTreeMap<IndexMap, MapId>,
}

impl MapTable {
    /// The id of a map.
    pub fn intern(&mut self, map: IndexMap) -> MapId {
        if let Some(&id) = self.ids.get(&map) {
            return id;
        }
        let id = MapId::from_index(self.maps.len());
        self.maps.push(map.clone());
        self.ids.insert(map, id);
        id
    }

    /// The map with this id.
    pub fn get(&self, id: MapId) -> &IndexMap {
        &self.maps[id.index()]
    }
}
