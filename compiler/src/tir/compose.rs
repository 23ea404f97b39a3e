//! Composition of index maps: views are merged where the result is one view, and kept apart where it is not.
//!
//! `outer` reads the row-major tensor that `inner` describes. Two neighbouring views merge if every step of the outer view
//! moves along axes of the inner one without carrying from one axis into the next, and if what the inner box excludes is a
//! box in the outer coordinates too. Before that, neighbouring axes of the inner view that lie one after another in memory are
//! joined, so that a reshape costs no view.

use super::map::{IndexMap, MAX_VIEWS, View};

/// The map that reads through `inner` what `outer` reads; `None` where that takes more than [`MAX_VIEWS`] views.
///
/// Where `inner` is undefined the result is undefined: the caller checks that fills agree.
pub fn compose(outer: &IndexMap, inner: &IndexMap) -> Option<IndexMap> {
    let views = inner.views.iter().chain(&outer.views).cloned().collect();
    let map = IndexMap { views }.simplified();
    (map.views.len() <= MAX_VIEWS).then_some(map)
}

/// [`compose`], if the result has no more views than the longer of the two: else two moves are the simpler form, of which users may
/// absorb one.
pub fn compose_simply(outer: &IndexMap, inner: &IndexMap) -> Option<IndexMap> {
    let limit = outer.views.len().max(inner.views.len());
    compose(outer, inner).filter(|map| map.views.len() <= limit)
}

impl IndexMap {
    /// The same map with neighbouring views merged where possible.
    pub fn simplified(self) -> IndexMap {
        if self.is_empty() {
            let shape = self.shape().to_vec();
            let rank = shape.len();
            let hi = vec![0; rank];
            // A rank-0 map cannot have an empty box, so the shape of an empty map has an axis.
            return IndexMap::of(View {
                shape,
                strides: vec![0; rank],
                offset: 0,
                lo: vec![0; rank],
                hi,
            });
        }
        let mut views: Vec<View> = Vec::new();
        for view in self.views {
            let mut view = view.normalised();
            while let Some(inner) = views.last() {
                let Some(merged) = merge(&view, inner) else {
                    break;
                };
                views.pop();
                view = merged;
            }
            views.push(view);
        }
        IndexMap { views }
    }
}

/// One view that does what `outer` after `inner` does.
fn merge(outer: &View, inner: &View) -> Option<View> {
    // Joining a clipped axis helps where outer axes run across it and hinders where they keep to it: try both.
    merge_axes(outer, inner, joined(inner, false)).or_else(|| merge_axes(outer, inner, joined(inner, true)))
}

fn merge_axes(outer: &View, inner: &View, axes: Vec<Axis>) -> Option<View> {
    if outer.is_empty() || inner.is_empty() {
        return Some(
            View {
                hi: vec![0; outer.shape.len()],
                ..outer.clone()
            }
            .normalised(),
        )
        .filter(|_| !outer.shape.is_empty());
    }
    let rank = outer.shape.len();
    // Digits of an inner linear index, one per joined axis.
    let digits = |index: i64| -> Option<Vec<i64>> {
        let mut rest = index;
        let mut out = vec![0; axes.len()];
        for (slot, axis) in out.iter_mut().zip(&axes).rev() {
            *slot = rest % axis.extent;
            rest /= axis.extent;
        }
        (rest == 0).then_some(out)
    };
    let start = (0..rank).map(|d| outer.lo[d] as i64 * outer.strides[d]).sum::<i64>() + outer.offset;
    if start < 0 {
        return None;
    }
    let at_lo = digits(start)?;
    // Step of outer axis d along joined axis a.
    let mut steps: Vec<Vec<i64>> = Vec::with_capacity(rank);
    for d in 0..rank {
        let stride = outer.strides[d];
        let mut step = if outer.hi[d] - outer.lo[d] == 1 {
            vec![0; axes.len()]
        } else {
            digits(stride.abs())?
        };
        if stride < 0 {
            step.iter_mut().for_each(|s| *s = -*s);
        }
        steps.push(step);
    }
    // Range of the coordinate along every joined axis; a carry would make the digits wrong.
    let mut ranges = Vec::with_capacity(axes.len());
    for (a, axis) in axes.iter().enumerate() {
        let (mut min, mut max) = (at_lo[a], at_lo[a]);
        for (d, step) in steps.iter().enumerate() {
            let reach = step[a] * (outer.hi[d] - outer.lo[d] - 1) as i64;
            min += reach.min(0);
            max += reach.max(0);
        }
        if min < 0 || max >= axis.extent {
            return None;
        }
        ranges.push((min, max));
    }
    let mut result = View {
        strides: vec![0; rank],
        offset: inner.offset,
        ..outer.clone()
    };
    for (a, axis) in axes.iter().enumerate() {
        let (min, max) = ranges[a];
        if min < axis.lo || max >= axis.hi {
            let moving: Vec<usize> = (0..rank).filter(|&d| steps[d][a] != 0).collect();
            match moving.as_slice() {
                [] => {
                    return Some(
                        View {
                            hi: vec![0; rank],
                            ..outer.clone()
                        }
                        .normalised(),
                    )
                    .filter(|_| rank > 0);
                }
                [d] => clip(&mut result, *d, outer, at_lo[a], steps[*d][a], axis),
                _ => return None,
            }
        }
        result.offset += at_lo[a] * axis.stride;
        for (d, step) in steps.iter().enumerate() {
            result.offset -= outer.lo[d] as i64 * step[a] * axis.stride;
            result.strides[d] += step[a] * axis.stride;
        }
    }
    Some(result.normalised())
}

/// Narrows axis `d` of `result` to the coordinates c with `lo <= at_lo + (c - outer.lo) * step < hi`.
fn clip(result: &mut View, d: usize, outer: &View, at_lo: i64, step: i64, axis: &Axis) {
    let inside = |c: usize| {
        let m = at_lo + (c - outer.lo[d]) as i64 * step;
        m >= axis.lo && m < axis.hi
    };
    while result.lo[d] < result.hi[d] && !inside(result.lo[d]) {
        result.lo[d] += 1;
    }
    while result.hi[d] > result.lo[d] && !inside(result.hi[d] - 1) {
        result.hi[d] -= 1;
    }
}

/// An axis of a view after neighbours were joined.
struct Axis {
    extent: i64,
    stride: i64,
    lo: i64,
    hi: i64,
}

impl Axis {
    fn whole(&self) -> bool {
        self.lo == 0 && self.hi == self.extent
    }
}

/// Axes of a view: unit axes dropped, axes joined that are contiguous; of two joined axes the inner one is whole, and with `clipped`
/// the outer one need not be.
fn joined(view: &View, clipped: bool) -> Vec<Axis> {
    let mut axes: Vec<Axis> = Vec::new();
    for d in 0..view.shape.len() {
        let axis = Axis {
            extent: view.shape[d] as i64,
            stride: view.strides[d],
            lo: view.lo[d] as i64,
            hi: view.hi[d] as i64,
        };
        if axis.extent == 1 {
            continue;
        }
        let whole = axis.whole();
        match axes.last_mut() {
            Some(last) if whole && (clipped || last.whole()) && last.stride == axis.stride * axis.extent => {
                last.extent *= axis.extent;
                last.lo *= axis.extent;
                last.hi *= axis.extent;
                last.stride = axis.stride;
            }
            _ => axes.push(axis),
        }
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::map::{Windows, unravel};

    fn same(a: &IndexMap, b: impl Fn(&[usize]) -> Option<usize>) {
        let n: usize = a.shape().iter().product();
        for i in 0..n {
            let c = unravel(i, a.shape()).unwrap();
            assert_eq!(a.at(&c), b(&c), "{a:?} at {c:?}");
        }
    }

    fn composed(outer: &IndexMap, inner: &IndexMap) -> IndexMap {
        let map = compose(outer, inner).unwrap();
        same(&map, |c| {
            let index = outer.at(c)?;
            inner.at(&unravel(index, inner.shape()).unwrap())
        });
        map
    }

    #[test]
    fn transposes_cancel() {
        let t = IndexMap::transpose(&[2, 3, 4], &[2, 0, 1]);
        let back = IndexMap::transpose(&[4, 2, 3], &[1, 2, 0]);
        assert!(composed(&back, &t).is_identity(&[2, 3, 4]));
    }

    #[test]
    fn split_and_transpose_is_one_view() {
        let heads = IndexMap::transpose(&[5, 4, 3], &[1, 0, 2]);
        let map = composed(&heads, &IndexMap::reshape(&[5, 4, 3]));
        assert_eq!(map.views.len(), 1);
        let merge = composed(
            &IndexMap::reshape(&[12, 5]),
            &IndexMap::transpose(&[4, 5, 3], &[0, 2, 1]),
        );
        assert_eq!(merge.views.len(), 2);
    }

    #[test]
    fn narrow_of_pad_clips() {
        let pad = IndexMap::pad(&[4, 3], &[(2, 1), (0, 0)]);
        let cut = IndexMap::narrow(&[7, 3], &[(1, 2, 3), (2, -1, 3)]);
        assert_eq!(composed(&cut, &pad).views.len(), 1);
        let gone = IndexMap::narrow(&[7, 3], &[(0, 1, 2), (0, 1, 3)]);
        assert!(composed(&gone, &pad).is_empty());
    }

    #[test]
    fn windows_keep_the_padding_as_a_view() {
        let w = Windows {
            kernel: vec![3, 2],
            strides: vec![2, 1],
            dilations: vec![1, 2],
            pads: vec![(1, 1), (0, 1)],
        };
        let map = IndexMap::im2col(&[2, 5, 4, 3], &w);
        assert_eq!((map.shape(), map.views.len()), (&[2, 3, 3, 3, 2, 3][..], 2));
        let nchw = IndexMap::transpose(&[2, 3, 5, 4], &[0, 2, 3, 1]);
        assert_eq!(composed(&map, &nchw).views.len(), 2);
        let plain = Windows {
            pads: vec![(0, 0), (0, 0)],
            ..w
        };
        assert_eq!(IndexMap::im2col(&[2, 5, 4, 3], &plain).views.len(), 1);
    }

    #[test]
    fn dilation_inserts_holes() {
        let map = IndexMap::dilate(&[3, 2], &[2, 3]);
        assert_eq!(map.shape(), &[5, 4]);
        same(&map, |c| {
            (c[0] % 2 == 0 && c[1] % 3 == 0).then(|| c[0] / 2 * 2 + c[1] / 3)
        });
    }

    #[test]
    fn random_chains_agree() {
        let mut seed = 1u64;
        let mut next = move |n: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % n
        };
        for _ in 0..400 {
            let shape = vec![2, 3, 4];
            let mut map = IndexMap::identity(&shape);
            for _ in 0..3 {
                let s = map.shape().to_vec();
                let outer = match next(4) {
                    0 => {
                        let mut perm: Vec<usize> = (0..s.len()).collect();
                        perm.rotate_left(next(s.len().max(1)));
                        IndexMap::transpose(&s, &perm)
                    }
                    1 => {
                        let n: usize = s.iter().product();
                        let f = (1..=n)
                            .rev()
                            .find(|f| n.is_multiple_of(*f) && *f <= 1 + next(6))
                            .unwrap_or(1);
                        IndexMap::reshape(&[f, n / f])
                    }
                    2 => IndexMap::pad(&s, &s.iter().map(|_| (next(2), next(3))).collect::<Vec<_>>()),
                    _ => {
                        let ranges: Vec<_> = s
                            .iter()
                            .map(|&n| if next(2) == 0 { (n - 1, -1, n) } else { (next(n), 1, 1) })
                            .collect();
                        IndexMap::narrow(&s, &ranges)
                    }
                };
                if compose(&outer, &map).is_some() {
                    map = composed(&outer, &map);
                }
            }
        }
    }
}
