//! Layout: which element of a tensor lies in which lane of which vector of which buffer.
//!
//! Each axis of a tensor is decomposed into *digits* (mixed radix): coordinate = sum of digit * div. A digit lies in the lanes
//! ([`LaneDigit`]) or counts vectors ([`VecDigit`]). The leading vector digits (`parts`) choose a buffer, the rest the
//! vector in it, so that chains that work at the same time work on different banks: the two hemispheres' rows, blocks
//! of rows that a consumer follows while the next block is written, and the pieces of an axis wider than the chip.
//!
//! A lane digit may have a larger step than a vector digit of its axis: then the lanes hold *segments* of the axis side by side
//! ([`pack`]), and neighbouring coordinates lie in neighbouring vectors.
//!
//! A lane digit without an axis repeats the same elements (a row statistic on all lanes of its segment).

pub mod choose;
pub mod host;
pub mod pack;

use lockstep_isa::Dir;
use smallvec::SmallVec;

/// A digit that lies in the lanes: lane += digit * stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneDigit {
    /// The axis, or `None` for a replica.
    pub axis: Option<u8>,
    /// Coordinates per step.
    pub div: usize,
    /// Values of the digit.
    pub extent: usize,
}

/// A digit that counts vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VecDigit {
    /// The axis.
    pub axis: u8,
    /// Coordinates per step.
    pub div: usize,
    /// Values of the digit.
    pub extent: usize,
}

/// Where each element of a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Layout {
    /// Extents of the tensor.
    pub shape: Vec<usize>,
    /// Lane digits, innermost (stride 1) first; dense: each stride is the product of the extents before it. Only the last may be
    /// cut short by the extent of its axis.
    pub lanes: Vec<LaneDigit>,
    /// Vector digits, slowest first.
    pub vecs: Vec<VecDigit>,
    /// How many of `vecs` choose the buffer.
    pub parts: usize,
    /// Which of the part digits chooses the hemisphere: 0 east, 1 west.
    pub side: Option<usize>,
}

/// One buffer of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Coordinates of its first element.
    pub base: Vec<usize>,
    /// Extents of the vector digits inside the buffer, slowest first (cut short where the axis ends).
    pub extents: Vec<usize>,
    /// Live lanes: `[0, hi)`.
    pub hi: usize,
    /// Hemisphere in which it should lie.
    pub side: Option<Dir>,
}

impl Part {
    /// Number of vectors; 0 for a part beyond the end of an axis.
    pub fn n_vectors(&self) -> usize {
        if self.hi == 0 { 0 } else { self.extents.iter().product() }
    }
}

/// Place of one element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Part (index over the part digits).
    pub part: usize,
    /// Vector in the part.
    pub index: u32,
    /// Lane.
    pub lane: u16,
}

/// Room for the digits or axes of a layout, without a heap where there are few: elements are located by the million.
pub(crate) type Few<T> = SmallVec<[T; 12]>;

/// Where a digit lies: index into `vecs` or `lanes`.
#[derive(Clone, Copy)]
enum Slot {
    Vec(usize),
    Lane(usize),
}

impl Layout {
    /// Number of parts, empty ones included.
    pub fn n_parts(&self) -> usize {
        self.vecs[..self.parts].iter().map(|d| d.extent).product()
    }

    /// Lanes that a full vector uses.
    pub fn lane_count(&self) -> usize {
        self.lanes.iter().map(|d| d.extent).product()
    }

    /// The axis along which the lanes from this one run, and how many of those before `hi` do.
    pub fn lane_run(&self, lane: usize, hi: usize) -> (usize, usize) {
        match self.lanes.iter().find(|d| d.extent > 1) {
            Some(LaneDigit {
                axis: Some(axis),
                div: 1,
                extent,
            }) => (*axis as usize, (extent - lane % extent).min(hi - lane)),
            _ => (0, 1),
        }
    }

    /// All digits of axes in the order in which they take their share of a coordinate: by axis, largest step first.
    fn digits(&self) -> Few<(Slot, u8, usize, usize)> {
        let vecs = self.vecs.iter().enumerate();
        let mut all: Few<_> = vecs.map(|(n, d)| (Slot::Vec(n), d.axis, d.div, d.extent)).collect();
        for (n, d) in self.lanes.iter().enumerate().rev() {
            if let Some(axis) = d.axis {
                all.push((Slot::Lane(n), axis, d.div, d.extent));
            }
        }
        all.sort_by_key(|d| (d.1, std::cmp::Reverse(d.2)));
        all
    }

    /// Whether no digit is cut short: those of every axis make up its extent. Only then may they come in any order.
    fn is_exact(&self) -> bool {
        (0..self.shape.len()).all(|a| {
            let lanes = self.lanes.iter().filter(|d| d.axis == Some(a as u8)).map(|d| d.extent);
            let vecs = self.vecs.iter().filter(|d| d.axis as usize == a).map(|d| d.extent);
            lanes.chain(vecs).product::<usize>() == self.shape[a]
        })
    }

    /// One buffer.
    pub fn part(&self, part: usize) -> Part {
        let mut fixed = vec![0; self.parts];
        let mut rest = part;
        for (n, d) in self.vecs[..self.parts].iter().enumerate().rev() {
            fixed[n] = rest % d.extent;
            rest /= d.extent;
        }
        let side = self.side.map(|n| if fixed[n] == 0 { Dir::East } else { Dir::West });
        if self.is_exact() {
            let mut base = vec![0; self.shape.len()];
            for (d, &digit) in self.vecs.iter().zip(&fixed) {
                base[d.axis as usize] += digit * d.div;
            }
            return Part {
                base,
                extents: self.vecs[self.parts..].iter().map(|d| d.extent).collect(),
                hi: if self.shape.contains(&0) { 0 } else { self.lane_count() },
                side,
            };
        }
        // `left` is what remains of each axis within the digits taken so far.
        let mut base = vec![0; self.shape.len()];
        let mut left = self.shape.clone();
        let mut empty = self.shape.contains(&0);
        let mut extents = vec![1; self.vecs.len() - self.parts];
        let mut lanes: Vec<usize> = self.lanes.iter().map(|d| d.extent).collect();
        for (slot, axis, div, extent) in self.digits() {
            let a = axis as usize;
            match slot {
                Slot::Vec(n) if n < self.parts => {
                    let digit = fixed[n];
                    base[a] += digit * div;
                    empty |= digit * div >= left[a];
                    left[a] = left[a].saturating_sub(digit * div).min(div);
                    continue;
                }
                Slot::Vec(n) => extents[n - self.parts] = extent.min(left[a].div_ceil(div)).max(1),
                Slot::Lane(n) => lanes[n] = extent.min(left[a].div_ceil(div)).max(1),
            }
            left[a] = left[a].min(div);
        }
        Part {
            base,
            extents,
            hi: if empty { 0 } else { lanes.iter().product() },
            side,
        }
    }

    /// Coordinates of the elements in lane 0 of the vectors of a part, in order.
    pub fn bases(&self, part: &Part) -> Vec<Vec<usize>> {
        let n = part.n_vectors();
        let digits = &self.vecs[self.parts..];
        let mut out = Vec::with_capacity(n);
        let mut index = vec![0usize; digits.len()];
        for _ in 0..n {
            let mut c = part.base.clone();
            for (d, &i) in digits.iter().zip(&index) {
                c[d.axis as usize] += i * d.div;
            }
            out.push(c);
            for k in (0..digits.len()).rev() {
                index[k] += 1;
                if index[k] < part.extents[k] {
                    break;
                }
                index[k] = 0;
            }
        }
        out
    }

    /// Adds to `c` what lane `lane` adds to the coordinates of lane 0.
    pub fn add_lane(&self, lane: usize, c: &mut [usize]) {
        let mut rest = lane;
        for d in &self.lanes {
            let digit = rest % d.extent;
            rest /= d.extent;
            if let Some(a) = d.axis {
                c[a as usize] += digit * d.div;
            }
        }
    }

    /// Where the element with these coordinates lies (its first replica).
    pub fn locate(&self, c: &[usize]) -> Location {
        if self.is_exact() {
            let digit = |axis: u8, div: usize, extent: usize| c[axis as usize] / div % extent.max(1);
            let number = |digits: &[VecDigit]| {
                digits
                    .iter()
                    .fold(0, |n, d| n * d.extent + digit(d.axis, d.div, d.extent))
            };
            let lane = self
                .lanes
                .iter()
                .rev()
                .fold(0, |n, d| n * d.extent + d.axis.map_or(0, |a| digit(a, d.div, d.extent)));
            return Location {
                part: number(&self.vecs[..self.parts]),
                index: number(&self.vecs[self.parts..]) as u32,
                lane: lane as u16,
            };
        }
        let mut rest: Few<usize> = SmallVec::from_slice(c);
        let mut left: Few<usize> = SmallVec::from_slice(&self.shape);
        // Digit and extent of each vector digit.
        let mut vecs: Few<(usize, usize)> = SmallVec::from_elem((0, 1), self.vecs.len());
        let mut lane = 0;
        for (slot, axis, div, extent) in self.digits() {
            let a = axis as usize;
            let digit = rest[a] / div;
            rest[a] -= digit * div;
            match slot {
                Slot::Vec(n) if n < self.parts => {
                    vecs[n] = (digit, extent);
                    left[a] = left[a].saturating_sub(digit * div).min(div);
                    continue;
                }
                Slot::Vec(n) => vecs[n] = (digit, extent.min(left[a].div_ceil(div)).max(1)),
                Slot::Lane(n) => lane += digit * self.lanes[..n].iter().map(|d| d.extent).product::<usize>(),
            }
            left[a] = left[a].min(div);
        }
        let over = |digits: &[(usize, usize)]| digits.iter().fold(0, |sum, &(digit, n)| sum * n + digit);
        let part = over(&vecs[..self.parts]);
        let index = over(&vecs[self.parts..]);
        Location {
            part,
            index: index as u32,
            lane: lane as u16,
        }
    }

    /// The layout that an operand of this shape (equal extents, or 1 where it is broadcast) needs to meet this layout lane by lane.
    pub fn restrict(&self, shape: &[usize]) -> Layout {
        let gone = |a: u8| shape[a as usize] == 1 && self.shape[a as usize] != 1;
        let lanes = self
            .lanes
            .iter()
            .map(|d| match d.axis {
                Some(a) if gone(a) => LaneDigit { axis: None, ..*d },
                _ => *d,
            })
            .collect();
        let mut vecs = Vec::new();
        let (mut parts, mut side) = (0, None);
        for (n, d) in self.vecs.iter().enumerate() {
            if gone(d.axis) {
                continue;
            }
            if n < self.parts {
                if self.side == Some(n) {
                    side = Some(vecs.len());
                }
                parts += 1;
            }
            vecs.push(*d);
        }
        Layout {
            shape: shape.to_vec(),
            lanes,
            vecs,
            parts,
            side,
        }
    }

    /// This layout, which has no side, with an even digit that counts vectors along one of these axes split over the two
    /// hemispheres; `None` where there is none.
    pub fn split_sides(&self, axes: impl Fn(u8) -> bool) -> Option<Layout> {
        let at = self
            .vecs
            .iter()
            .position(|d| axes(d.axis) && d.extent.is_multiple_of(2))?;
        let mut out = self.clone();
        let digit = &mut out.vecs[at];
        digit.extent /= 2;
        let side = VecDigit {
            axis: digit.axis,
            div: digit.div * digit.extent,
            extent: 2,
        };
        if digit.extent == 1 {
            out.vecs.remove(at);
            out.parts -= usize::from(at < self.parts);
        }
        out.vecs.insert(0, side);
        out.parts += 1;
        out.side = Some(0);
        Some(out)
    }

    /// The lane digits in a normal form: digits of extent 1 dropped, adjoining digits merged.
    pub fn pattern(&self) -> Vec<LaneDigit> {
        let mut out: Vec<LaneDigit> = Vec::new();
        for d in self.lanes.iter().filter(|d| d.extent > 1) {
            match out.last_mut() {
                Some(p) if p.axis.is_none() && d.axis.is_none() => p.extent *= d.extent,
                Some(p) if p.axis == d.axis && p.axis.is_some() && d.div == p.div * p.extent => p.extent *= d.extent,
                _ => out.push(LaneDigit {
                    div: if d.axis.is_some() { d.div } else { 0 },
                    ..*d
                }),
            }
        }
        out
    }

    /// Whether a value in this layout can be read where `wanted` is needed: the same elements in the same lanes (a longer run
    /// of replicas also serves).
    pub fn serves(&self, wanted: &Layout) -> bool {
        let (have, want) = (self.pattern(), wanted.pattern());
        if have == want {
            return true;
        }
        let n = have.len();
        match (have.last(), want.last()) {
            (Some(h), Some(w)) if h.axis.is_none() && w.axis.is_none() => {
                n == want.len() && have[..n - 1] == want[..n - 1] && h.extent >= w.extent
            }
            (Some(h), _) if h.axis.is_none() && n == want.len() + 1 => have[..n - 1] == want[..],
            _ => false,
        }
    }

    /// Whether no element is repeated in the lanes.
    pub fn is_injective(&self) -> bool {
        self.lanes.iter().all(|d| d.axis.is_some() || d.extent == 1)
    }

    /// Number of vectors over all parts.
    pub fn n_vectors(&self) -> usize {
        (0..self.n_parts()).map(|p| self.part(p).n_vectors()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;
    use super::choose::{Rows, default_layout};
    use super::pack::Pack;

    #[test]
    fn every_element_has_one_place_and_is_found_there() {
        for shape in [
            vec![1, 128, 384],
            vec![7, 5, 33],
            vec![3],
            vec![],
            vec![2, 1, 9, 70],
            vec![5, 400],
            vec![13, 130],
            vec![1, 57, 3, 130],
        ] {
            check(&default_layout(&shape, 32, &Rows::pipelined(2, 256)));
        }
    }

    #[test]
    fn segments_of_an_axis_lie_side_by_side() {
        for (shape, inner, segments) in [
            (vec![3, 24, 96, 8], 1, 4),
            (vec![24, 96, 3], 2, 4),
            (vec![5, 12, 8], 3, 2),
        ] {
            let axis = shape.len() as u8 - 2;
            let pack = Pack {
                channel: axis + 1,
                axis,
                inner,
                segments,
            };
            let l = pack.layout(&shape, &Rows::pipelined(2, 256));
            check(&l);
            // Segment 1 starts beside segment 0.
            let mut c = vec![0; shape.len()];
            c[axis as usize] = shape[axis as usize] / segments;
            let at = l.locate(&c);
            assert_eq!((at.index, at.lane as usize), (0, shape[axis as usize + 1] * inner));
        }
    }

    fn check(l: &Layout) {
        let shape = &l.shape;
        {
            let mut seen = std::collections::BTreeSet::new();
            for p in 0..l.n_parts() {
                let part = l.part(p);
                for (i, base) in l.bases(&part).iter().enumerate() {
                    for lane in 0..part.hi {
                        let mut c = base.clone();
                        l.add_lane(lane, &mut c);
                        assert!(
                            c.iter().zip(shape).all(|(a, b)| a < b),
                            "{shape:?} {l:?} part {p} {c:?}"
                        );
                        let at = l.locate(&c);
                        assert_eq!(
                            (at.part, at.index as usize, at.lane as usize),
                            (p, i, lane),
                            "{shape:?} {c:?} {l:?}"
                        );
                        assert!(seen.insert(c));
                    }
                }
            }
            assert_eq!(seen.len(), shape.iter().product::<usize>(), "{shape:?}");
        }
    }
}
