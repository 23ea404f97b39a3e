//! Index maps under sharding: what part of an operand a part of the output needs, and maps over shards.

use super::dist::Split;
use crate::tir::map::MAX_VIEWS;
use crate::tir::{IndexMap, View};

/// A box: per axis the first coordinate and one past the last.
pub(super) type Box_ = Vec<(usize, usize)>;

/// The box of a whole tensor.
pub(super) fn whole(shape: &[usize]) -> Box_ {
    shape.iter().map(|&n| (0, n)).collect()
}

/// Smallest box known to hold every element of the operand (of shape `operand`) that the output box reads; `None` where it
/// reads none. The box may be larger than needed, never smaller.
pub(super) fn needed(map: &IndexMap, operand: &[usize], out: &Box_) -> Option<Box_> {
    let mut region = out.clone();
    for (n, view) in map.views.iter().enumerate().rev() {
        let target = if n == 0 { operand } else { &map.views[n - 1].shape };
        region = view_box(view, &region, target)?;
    }
    Some(region)
}

/// One view of [`needed`].
fn view_box(view: &View, region: &Box_, target: &[usize]) -> Option<Box_> {
    let strides = View::contiguous(target).strides;
    let mut offset = view.offset;
    let mut terms: Vec<(i64, i64)> = Vec::new();
    for (d, &(lo, hi)) in region.iter().enumerate() {
        let (lo, hi) = (lo.max(view.lo[d]), hi.min(view.hi[d]));
        if lo >= hi {
            return None;
        }
        let (s, len) = (view.strides[d], (hi - lo) as i64);
        offset += s * if s < 0 { hi as i64 - 1 } else { lo as i64 };
        if s != 0 && len > 1 {
            terms.push((s.abs(), len));
        }
    }
    if offset < 0 {
        return Some(whole(target));
    }
    let plain = terms.clone();
    let terms = digits(terms, &strides);
    let mut result = Vec::with_capacity(target.len());
    for (&step, &extent) in strides.iter().zip(target) {
        let above = step * extent as i64;
        let mut low = offset % step;
        let mut mid = offset / step % extent as i64;
        let first = mid;
        let mut regular = true;
        for &(s, n) in &terms {
            if s < step {
                low += s * (n - 1);
            } else if s < above {
                regular &= s % step == 0;
                mid += s / step * (n - 1);
            } else {
                regular &= s % above == 0;
            }
        }
        result.push(if regular && low < step && mid < extent as i64 {
            (first as usize, mid as usize + 1)
        } else {
            // An interval of linear indices that does not leave the axis.
            let first = offset % above;
            let inner = plain
                .iter()
                .filter(|(s, _)| *s < above)
                .map(|(s, n)| s * (n - 1))
                .sum::<i64>();
            let apart = plain.iter().all(|(s, _)| *s < above || s % above == 0);
            if apart && first + inner < above {
                ((first / step) as usize, ((first + inner) / step) as usize + 1)
            } else {
                (0, extent)
            }
        });
    }
    Some(result)
}

/// Splits (stride, count) terms at the strides of the target, so that each term stays inside one axis where it can.
fn digits(terms: Vec<(i64, i64)>, strides: &[i64]) -> Vec<(i64, i64)> {
    let mut radices = strides.to_vec();
    radices.sort_unstable();
    let mut result = Vec::new();
    for (mut s, mut n) in terms {
        for &t in &radices {
            if t > s && t % s == 0 && t / s < n {
                result.push((s, t / s));
                n = (n * s + t - 1) / t;
                s = t;
            }
        }
        result.push((s, n));
    }
    result
}

/// The map for output coordinates `lo..hi` of `axis` alone, counted from `lo`.
pub(super) fn narrow_output(map: &IndexMap, axis: usize, lo: usize, hi: usize) -> IndexMap {
    let mut map = map.clone();
    if let Some(view) = map.views.last_mut() {
        let n = hi - lo;
        view.offset += lo as i64 * view.strides[axis];
        view.shape[axis] = n;
        view.lo[axis] = view.lo[axis].saturating_sub(lo).min(n);
        view.hi[axis] = view.hi[axis].saturating_sub(lo).min(n);
    }
    map
}

/// The map that takes `lo..hi` of one axis of a tensor.
pub(super) fn narrow(shape: &[usize], axis: usize, lo: usize, hi: usize) -> IndexMap {
    narrow_output(&IndexMap::identity(shape), axis, lo, hi)
}

/// The map that places a tensor (extent `hi - lo`) at `lo..hi` of one axis of an output of shape `out`.
pub(super) fn place(out: &[usize], axis: usize, lo: usize, hi: usize) -> IndexMap {
    let mut part = out.to_vec();
    part[axis] = hi - lo;
    let mut view = View::contiguous(&part);
    view.offset = -(lo as i64) * view.strides[axis];
    view.shape = out.to_vec();
    view.lo[axis] = lo;
    view.hi = out.to_vec();
    view.hi[axis] = hi;
    IndexMap { views: vec![view] }
}

/// The same map over an operand of which only `lo..hi` of `axis` is at hand; `None` where it cannot be written in
/// [`MAX_VIEWS`] views. What it reads outside that range becomes undefined.
pub(super) fn rebase(map: &IndexMap, operand: &[usize], axis: usize, lo: usize, hi: usize) -> Option<IndexMap> {
    let mut map = map.clone();
    if let Some(view) = map.views.first().and_then(|v| rebase_view(v, operand, axis, lo, hi)) {
        map.views[0] = view;
        return Some(map);
    }
    if map.views.len() == MAX_VIEWS {
        return None;
    }
    let mut part = operand.to_vec();
    part[axis] = hi - lo;
    let mut view = View::contiguous(&part);
    view.offset = -(lo as i64) * view.strides[axis];
    view.shape = operand.to_vec();
    view.hi = operand.to_vec();
    view.lo[axis] = lo;
    view.hi[axis] = hi;
    map.views.insert(0, view);
    Some(map)
}

/// [`rebase`] of one view by changing its strides; possible where no output axis carries across the sharded axis and all
/// it reads lies in the shard.
fn rebase_view(view: &View, operand: &[usize], axis: usize, lo: usize, hi: usize) -> Option<View> {
    let region: Box_ = view.lo.iter().copied().zip(view.hi.iter().copied()).collect();
    let needed = view_box(view, &region, operand)?;
    if needed[axis].0 < lo || needed[axis].1 > hi {
        return None;
    }
    let step = View::contiguous(operand).strides[axis];
    let (above, extent) = (step * operand[axis] as i64, operand[axis] as i64);
    let corner = view.offset
        + (0..region.len())
            .map(|d| view.strides[d] * region[d].0 as i64)
            .sum::<i64>();
    if corner < 0 {
        return None;
    }
    let mut below = corner % above;
    let mut result = view.clone();
    for (d, &(from, to)) in region.iter().enumerate() {
        let s = view.strides[d];
        if s < 0 {
            return None;
        }
        if s < above {
            below += s * (to - from).saturating_sub(1) as i64;
        } else if s % above != 0 {
            return None;
        } else {
            result.strides[d] = s / extent * (hi - lo) as i64;
        }
    }
    if below >= above {
        return None;
    }
    let corner = corner / above * (above / extent * (hi - lo) as i64) + corner % above - lo as i64 * step;
    result.offset = corner
        - (0..region.len())
            .map(|d| result.strides[d] * region[d].0 as i64)
            .sum::<i64>();
    Some(result)
}

/// The split of an operand such that each member's part of the output reads only its own part of the operand.
pub(super) fn split_behind(map: &IndexMap, operand: &[usize], split: &Split) -> Option<Split> {
    let parts: Vec<Box_> = (0..split.members())
        .map(|r| {
            let mut out = whole(map.shape());
            out[split.axis()] = split.range(r);
            needed(map, operand, &out)
        })
        .collect::<Option<_>>()?;
    (0..operand.len())
        .filter(|&b| operand[b] >= split.members())
        .find_map(|b| {
            let mut bounds = vec![0];
            bounds.extend(parts.iter().map(|p| p[b].1));
            let starts = parts.iter().zip(&bounds).all(|(p, &from)| p[b].0 >= from);
            if let Some(last) = bounds.last_mut() {
                *last = operand[b];
            }
            let found = Split { axis: b as u8, bounds };
            (starts && found.tiles(operand[b])).then_some(found)
        })
}

/// The splits of the output that follow a split of the operand.
pub(super) fn splits_ahead(map: &IndexMap, operand: &[usize], split: &Split) -> Vec<Split> {
    let (out, b) = (map.shape().to_vec(), split.axis());
    let first_of = |a: usize, c: usize| -> usize {
        let mut region = whole(&out);
        region[a] = (c, out[a]);
        needed(map, operand, &region).map_or(usize::MAX, |p| p[b].0)
    };
    let mut found = Vec::new();
    for a in (0..out.len()).filter(|&a| out[a] >= split.members()) {
        let mut bounds = vec![0];
        for &cut in &split.bounds[1..split.members()] {
            let (mut lo, mut hi) = (0, out[a]);
            while lo < hi {
                let c = (lo + hi) / 2;
                if first_of(a, c) >= cut {
                    hi = c;
                } else {
                    lo = c + 1;
                }
            }
            bounds.push(lo);
        }
        bounds.push(out[a]);
        let candidate = Split { axis: a as u8, bounds };
        if candidate.tiles(out[a]) && split_behind(map, operand, &candidate).as_ref() == Some(split) {
            found.push(candidate);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tir::map::unravel;

    fn view(shape: &[usize], strides: &[i64]) -> IndexMap {
        let mut v = View::contiguous(shape);
        v.strides = strides.to_vec();
        IndexMap { views: vec![v] }
    }

    /// Every read of a member's part, through the rebased map, is the element the whole map reads.
    fn check(map: &IndexMap, operand: &[usize], split: &Split, behind: &Split) {
        let b = behind.axis();
        for r in 0..split.members() {
            let ((lo, hi), (from, to)) = (split.range(r), behind.range(r));
            let local = narrow_output(map, split.axis(), lo, hi);
            let over = rebase(&local, operand, b, from, to).expect("few views");
            let mut part = operand.to_vec();
            part[b] = to - from;
            let n: usize = over.shape().iter().product();
            for i in 0..n {
                let mut c = unravel(i, over.shape()).expect("in range");
                let got = over.at(&c).map(|x| unravel(x, &part).expect("in shard"));
                c[split.axis()] += lo;
                let want = map.at(&c).map(|x| {
                    let mut x = unravel(x, operand).expect("in operand");
                    x[b] -= from;
                    x
                });
                assert_eq!(got, want, "{map:?} {split:?} {behind:?} rank {r}");
            }
        }
    }

    #[test]
    fn heads_split_through_reshape_and_transpose() {
        // [5, 6 * 4] -> heads first [6, 5, 4]
        let map = view(&[6, 5, 4], &[4, 24, 1]);
        let split = Split::even(0, 6, 4).expect("fits");
        let behind = split_behind(&map, &[5, 24], &split).expect("columns");
        assert_eq!((behind.axis, behind.bounds.clone()), (1, vec![0, 8, 16, 20, 24]));
        check(&map, &[5, 24], &split, &behind);
        assert_eq!(splits_ahead(&map, &[5, 24], &behind), vec![split.clone()]);
        // and back: [6, 5, 4] -> [5, 24] needs two views
        let back = IndexMap {
            views: vec![
                view(&[5, 6, 4], &[4, 20, 1]).views[0].clone(),
                View::contiguous(&[5, 24]),
            ],
        };
        let ahead = splits_ahead(&back, &[6, 5, 4], &split);
        assert_eq!(ahead, vec![behind.clone()]);
        check(&back, &[6, 5, 4], &behind, &split);
    }

    #[test]
    fn concat_narrow_and_broadcast() {
        let part = place(&[4, 9], 1, 3, 9);
        let rows = Split::even(0, 4, 2).expect("fits");
        assert_eq!(split_behind(&part, &[4, 6], &rows), Some(rows.clone()));
        check(&part, &[4, 6], &rows, &rows);
        let wide = view(&[3, 4, 6], &[0, 6, 1]);
        assert_eq!(split_behind(&wide, &[4, 6], &Split::even(0, 3, 3).expect("fits")), None);
        let mid = Split::even(1, 4, 2).expect("fits");
        check(&wide, &[4, 6], &mid, &rows);
        let columns = narrow(&[4, 10], 1, 2, 8);
        check(&columns, &[4, 10], &rows, &rows);
    }
}
