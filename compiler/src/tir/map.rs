//! Index maps of `move`: where each output element comes from.
//!
//! An [`IndexMap`] is a list of one to three [`View`]s, innermost (nearest the operand) first. A coordinate of the output is
//! looked up in the last view, which gives a linear index into a virtual row-major tensor of the shape of the view
//! before it, and so on down to the operand. A coordinate outside a view's box is undefined: the element comes from
//! another part of the move, or is its fill.

use lockstep_graph::{EntityId, entity_id};
use std::collections::BTreeMap;

entity_id!(
    /// An interned map.
    pub MapId, "m"
);

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

/// Row-major strides of a tensor, in elements.
pub fn row_major(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for d in (1..shape.len()).rev() {
        strides[d - 1] = strides[d] * shape[d];
    }
    strides
}

impl View {
    /// The row-major view of a whole tensor.
    pub fn contiguous(shape: &[usize]) -> View {
        View {
            shape: shape.to_vec(),
            strides: row_major(shape).into_iter().map(|s| s as i64).collect(),
            offset: 0,
            lo: vec![0; shape.len()],
            hi: shape.to_vec(),
        }
    }

    /// Linear index of a coordinate; `None` outside the box.
    pub fn at(&self, c: &[usize]) -> Option<i64> {
        let mut index = self.offset;
        for (d, &c) in c.iter().enumerate() {
            if c < self.lo[d] || c >= self.hi[d] {
                return None;
            }
            index += c as i64 * self.strides[d];
        }
        Some(index)
    }

    /// Whether every coordinate is defined.
    pub fn is_total(&self) -> bool {
        self.lo.iter().all(|&l| l == 0) && self.hi == self.shape
    }

    /// Whether coordinate c of the last axis, of extent `n`, is coordinate c of a last axis of that extent below.
    pub fn keeps_last(&self, n: usize) -> bool {
        let Some(last) = self.shape.len().checked_sub(1) else {
            return false;
        };
        let whole = |s: &i64| s % n.max(1) as i64 == 0;
        self.shape[last] == n
            && (self.strides[last] == 1 || n == 1)
            && (self.lo[last], self.hi[last]) == (0, n)
            && whole(&self.offset)
            && self.strides[..last].iter().all(whole)
    }

    /// A total view from shape and strides.
    pub fn strided(shape: Vec<usize>, strides: Vec<i64>, offset: i64) -> View {
        View {
            lo: vec![0; shape.len()],
            hi: shape.clone(),
            shape,
            strides,
            offset,
        }
    }

    /// Whether no coordinate is defined.
    pub fn is_empty(&self) -> bool {
        self.lo.iter().zip(&self.hi).any(|(lo, hi)| lo >= hi)
    }

    /// Smallest and largest linear index over the box; `None` if the box is empty.
    pub fn span(&self) -> Option<(i64, i64)> {
        if self.is_empty() {
            return None;
        }
        let (mut min, mut max) = (self.offset, self.offset);
        for d in 0..self.shape.len() {
            let (a, b) = (
                self.strides[d] * self.lo[d] as i64,
                self.strides[d] * (self.hi[d] as i64 - 1),
            );
            min += a.min(b);
            max += a.max(b);
        }
        Some((min, max))
    }

    /// The same view in normal form: an axis with one defined coordinate has stride 0, an empty box is `[0, 0)` everywhere.
    pub fn normalised(mut self) -> View {
        if self.is_empty() {
            let rank = self.shape.len();
            return View {
                strides: vec![0; rank],
                offset: 0,
                lo: vec![0; rank],
                hi: vec![0; rank],
                shape: self.shape,
            };
        }
        for d in 0..self.shape.len() {
            if self.hi[d] - self.lo[d] == 1 {
                self.offset += self.strides[d] * self.lo[d] as i64;
                self.strides[d] = 0;
            }
        }
        self
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
        IndexMap {
            views: vec![View::contiguous(shape)],
        }
    }

    /// A map of one view.
    pub fn of(view: View) -> IndexMap {
        IndexMap {
            views: vec![view.normalised()],
        }
    }

    /// Row-major reshape to `to`.
    pub fn reshape(to: &[usize]) -> IndexMap {
        IndexMap::of(View::contiguous(to))
    }

    /// Output axis d is axis `perm[d]` of an operand of shape `shape`.
    pub fn transpose(shape: &[usize], perm: &[usize]) -> IndexMap {
        let whole = View::contiguous(shape);
        IndexMap::of(View::strided(
            perm.iter().map(|&a| shape[a]).collect(),
            perm.iter().map(|&a| whole.strides[a]).collect(),
            0,
        ))
    }

    /// Element i of output axis d is element `start + i * step` of the operand; `ranges` has (start, step, length) per axis.
    pub fn narrow(shape: &[usize], ranges: &[(usize, isize, usize)]) -> IndexMap {
        let whole = View::contiguous(shape);
        let offset = ranges.iter().zip(&whole.strides).map(|(r, &s)| r.0 as i64 * s).sum();
        let strides = ranges
            .iter()
            .zip(&whole.strides)
            .map(|(r, &s)| r.1 as i64 * s)
            .collect();
        IndexMap::of(View::strided(ranges.iter().map(|r| r.2).collect(), strides, offset))
    }

    /// Numpy broadcast of an operand of shape `from` to `to`, aligned at the last axis.
    pub fn expand(from: &[usize], to: &[usize]) -> IndexMap {
        let whole = View::contiguous(from);
        let skip = to.len() - from.len();
        let strides = (0..to.len()).map(|d| {
            if d < skip || from[d - skip] == 1 {
                0
            } else {
                whole.strides[d - skip]
            }
        });
        IndexMap::of(View::strided(to.to_vec(), strides.collect(), 0))
    }

    /// Elements before and after the operand on every axis are undefined.
    pub fn pad(shape: &[usize], pads: &[(usize, usize)]) -> IndexMap {
        let mut view = View::contiguous(shape);
        for (d, &(before, after)) in pads.iter().enumerate() {
            view.offset -= before as i64 * view.strides[d];
            view.shape[d] += before + after;
            view.lo[d] = before;
            view.hi[d] = before + shape[d];
        }
        IndexMap::of(view)
    }

    /// Zero insertion: `steps[d] - 1` undefined elements between neighbours of axis d. Output axis d has `(shape[d] - 1) * steps[d] + 1`.
    pub fn dilate(shape: &[usize], steps: &[usize]) -> IndexMap {
        // An axis [n] padded to [n, step] and read as n * step, cut after the last element.
        let split: Vec<usize> = shape.iter().flat_map(|&n| [n, 1]).collect();
        let pads: Vec<(usize, usize)> = steps.iter().flat_map(|&s| [(0, 0), (0, s - 1)]).collect();
        let padded = IndexMap::pad(&split, &pads);
        let joined: Vec<usize> = shape.iter().zip(steps).map(|(&n, &s)| n * s).collect();
        let cut: Vec<_> = shape
            .iter()
            .zip(steps)
            .map(|(&n, &s)| (0, 1, (n.max(1) - 1) * s + usize::from(n > 0)))
            .collect();
        let mut views = padded.views;
        views.extend(IndexMap::narrow(&joined, &cut).views);
        IndexMap { views }.simplified()
    }

    /// The part of a concatenation along `axis` that starts at `at` of `total`.
    pub fn concat_part(shape: &[usize], axis: usize, at: usize, total: usize) -> IndexMap {
        let mut pads = vec![(0, 0); shape.len()];
        pads[axis] = (at, total - at - shape[axis]);
        IndexMap::pad(shape, &pads)
    }

    /// Windows of a channels-last operand `[n, d.., c]`: result `[n, o.., k.., c]` where o counts windows and k elements of one.
    pub fn im2col(shape: &[usize], window: &Windows) -> IndexMap {
        let rank = window.kernel.len();
        let mut pads = vec![(0, 0)];
        pads.extend(&window.pads);
        pads.push((0, 0));
        let padded = IndexMap::pad(shape, &pads);
        let strides = View::contiguous(padded.shape()).strides;
        let mut out = vec![shape[0]];
        let mut steps = vec![strides[0]];
        for d in 0..rank {
            out.push(window.count(d, shape[1 + d]));
            steps.push(strides[1 + d] * window.strides[d] as i64);
        }
        for d in 0..rank {
            out.push(window.kernel[d]);
            steps.push(strides[1 + d] * window.dilations[d] as i64);
        }
        out.push(shape[1 + rank]);
        steps.push(1);
        let mut views = padded.views;
        views.push(View::strided(out, steps, 0).normalised());
        IndexMap { views }.simplified()
    }

    /// Whether every output coordinate is defined.
    pub fn is_total(&self) -> bool {
        self.views.iter().all(View::is_total)
    }

    /// Whether no output coordinate is defined.
    pub fn is_empty(&self) -> bool {
        self.views.iter().any(View::is_empty)
    }

    /// Whether it reads a whole tensor of `elements` elements in row-major order (a reshape).
    pub fn is_reshape(&self, elements: usize) -> bool {
        let [view] = self.views.as_slice() else {
            return false;
        };
        view.shape.iter().product::<usize>() == elements && *view == View::contiguous(&view.shape).normalised()
    }

    /// Whether it reads a tensor of this shape as it is.
    pub fn is_identity(&self, shape: &[usize]) -> bool {
        self.shape() == shape && self.is_reshape(shape.iter().product())
    }

    /// The permutation, if it transposes a tensor of this shape (unit axes in ascending order).
    pub fn as_transpose(&self, shape: &[usize]) -> Option<Vec<usize>> {
        let [view] = self.views.as_slice() else {
            return None;
        };
        let whole = View::contiguous(shape);
        let mut units = (0..shape.len()).filter(|&a| shape[a] == 1);
        let mut perm = Vec::with_capacity(view.shape.len());
        for (&n, &stride) in view.shape.iter().zip(&view.strides) {
            perm.push(match n {
                1 => units.next()?,
                n => (0..shape.len()).find(|&a| shape[a] == n && whole.strides[a] == stride)?,
            });
        }
        let mut seen = perm.clone();
        seen.sort_unstable();
        (seen == (0..shape.len()).collect::<Vec<_>>() && *self == IndexMap::transpose(shape, &perm)).then_some(perm)
    }

    /// Output shape.
    pub fn shape(&self) -> &[usize] {
        self.views.last().map_or(&[], |v| &v.shape)
    }

    /// Linear index into the operand for an output coordinate; `None` where undefined.
    pub fn at(&self, c: &[usize]) -> Option<usize> {
        if let [view] = self.views.as_slice() {
            return usize::try_from(view.at(c)?).ok();
        }
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

/// Windows of a convolution or pooling over the spatial axes of a tensor; one entry per axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Elements of a window.
    pub kernel: Vec<usize>,
    /// Distance between windows.
    pub strides: Vec<usize>,
    /// Distance between elements of a window.
    pub dilations: Vec<usize>,
    /// Undefined elements before and after.
    pub pads: Vec<(usize, usize)>,
}

impl Windows {
    /// Number of windows along spatial axis `d` of extent `n`.
    pub fn count(&self, d: usize, n: usize) -> usize {
        let padded = n + self.pads[d].0 + self.pads[d].1;
        let extent = (self.kernel[d] - 1) * self.dilations[d] + 1;
        if padded < extent {
            0
        } else {
            (padded - extent) / self.strides[d] + 1
        }
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

    /// Number of maps.
    pub fn len(&self) -> usize {
        self.maps.len()
    }

    /// Whether there is no map.
    pub fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }

    /// The map with this id.
    pub fn get(&self, id: MapId) -> &IndexMap {
        &self.maps[id.index()]
    }
}
