//! How the chips of a stage hold one value.

use crate::tir::{ReduceOp, Type};
use std::fmt;

/// A tiling of one axis over the chips of a stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Split {
    /// The axis.
    pub axis: u8,
    /// Member `r` owns `bounds[r]..bounds[r + 1]`; strictly ascending from 0 to the extent.
    pub bounds: Vec<usize>,
}

impl Split {
    /// `extent` elements over `n` members, the larger parts first; `None` where a member would own nothing.
    pub fn even(axis: usize, extent: usize, n: usize) -> Option<Split> {
        Split::in_units(axis, extent, n, 1)
    }

    /// As [`Split::even`], cut at multiples of `unit` only (the last part may be ragged).
    pub fn in_units(axis: usize, extent: usize, n: usize, unit: usize) -> Option<Split> {
        let units = extent.div_ceil(unit.max(1));
        if n == 0 || units < n {
            return None;
        }
        let (each, more) = (units / n, units % n);
        let bounds = (0..=n).map(|r| ((each * r + more.min(r)) * unit).min(extent)).collect();
        Some(Split {
            axis: axis as u8,
            bounds,
        })
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    /// The axis as an index.
    pub fn axis(&self) -> usize {
        self.axis as usize
    }

    /// What a member owns.
    pub fn range(&self, rank: usize) -> (usize, usize) {
        (self.bounds[rank], self.bounds[rank + 1])
    }

    /// Extent of the largest part.
    pub fn largest(&self) -> usize {
        self.bounds.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)
    }

    /// Whether the parts tile `extent` without gap or overlap.
    pub fn tiles(&self, extent: usize) -> bool {
        self.bounds.len() >= 2
            && self.bounds[0] == 0
            && self.bounds[self.bounds.len() - 1] == extent
            && self.bounds.windows(2).all(|w| w[0] < w[1])
    }
}

/// How the members of a stage hold a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dist {
    /// Every member holds all of it.
    Whole,
    /// Every member holds its part of one axis.
    Split(Split),
    /// Every member holds a tensor of the full shape; the value is their combination, in order of rank.
    Partial(ReduceOp),
}

impl Dist {
    /// Type of what member `rank` holds of a value of type `ty`.
    pub fn local(&self, ty: &Type, rank: usize) -> Type {
        match self {
            Dist::Split(s) => {
                let (lo, hi) = s.range(rank);
                with_extent(ty, s.axis(), hi - lo)
            }
            _ => ty.clone(),
        }
    }

    /// Type of the largest local part.
    pub fn largest(&self, ty: &Type) -> Type {
        match self {
            Dist::Split(s) => with_extent(ty, s.axis(), s.largest()),
            _ => ty.clone(),
        }
    }
}

impl fmt::Display for Dist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dist::Whole => f.write_str("whole"),
            Dist::Split(s) => write!(f, "split(axis {}, {:?})", s.axis, s.bounds),
            Dist::Partial(op) => write!(f, "partial({op:?})"),
        }
    }
}

/// `ty` with another extent of one axis.
pub(super) fn with_extent(ty: &Type, axis: usize, extent: usize) -> Type {
    let mut ty = ty.clone();
    ty.shape[axis] = extent;
    ty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_splits_tile() {
        for extent in 1..40 {
            for n in 1..9 {
                match Split::even(0, extent, n) {
                    Some(s) => assert!(s.tiles(extent) && s.members() == n, "{s:?}"),
                    None => assert!(extent < n),
                }
            }
        }
        assert_eq!(
            Split::in_units(1, 576, 2, 64).map(|s| s.bounds),
            Some(vec![0, 320, 576])
        );
        assert_eq!(Split::in_units(1, 100, 3, 64), None);
    }
}
