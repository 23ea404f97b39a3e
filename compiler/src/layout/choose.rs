//! Choice of a layout: which axes share the lanes, and how the remaining vectors are spread over buffers.

use super::{LaneDigit, Layout, VecDigit};

/// How the vectors of a value are spread over buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Split the longest remaining axis over the two hemispheres.
    pub sides: bool,
    /// Blocks per hemisphere, so that a consumer can read one while the next is written.
    pub blocks: usize,
    /// Fewest vectors that make a block of their own.
    pub least: usize,
    /// Most vectors of one buffer.
    pub most: usize,
}

impl Rows {
    /// Two hemispheres, four blocks each.
    pub const fn pipelined(least: usize, most: usize) -> Rows {
        Rows {
            sides: true,
            blocks: 4,
            least,
            most,
        }
    }

    /// Two hemispheres, one block each: for values that a consumer needs whole.
    pub const fn whole(most: usize) -> Rows {
        Rows {
            sides: true,
            blocks: 1,
            least: 1,
            most,
        }
    }

    /// One buffer, as far as it fits.
    pub const fn single(most: usize) -> Rows {
        Rows {
            sides: false,
            blocks: 1,
            least: 1,
            most,
        }
    }
}

/// The default: trailing axes in the lanes, small ones packed together.
pub fn default_layout(shape: &[usize], lanes: usize, rows: &Rows) -> Layout {
    let order: Vec<usize> = (0..shape.len()).rev().collect();
    let limit = lanes / 4;
    with_lanes(shape, &order, lanes, rows, |used| used <= limit)
}

/// Lanes from `order` (innermost axis first): the first axis whole, or in equal pieces where it is wider than the chip; then
/// even shares of the following axes as long as `pack` agrees, given the lanes used so far.
pub fn with_lanes(shape: &[usize], order: &[usize], lanes: usize, rows: &Rows, pack: impl Fn(usize) -> bool) -> Layout {
    let mut digits = Vec::new();
    let mut high: Vec<VecDigit> = Vec::new();
    let mut used = 1;
    let mut in_lanes = vec![false; shape.len()];
    for &a in order {
        // A scalar has no axis.
        let Some(&n) = shape.get(a).filter(|&&n| n != 1) else {
            continue;
        };
        if used == 1 {
            let per = if n <= lanes { n } else { piece(n, lanes) };
            digits.push(LaneDigit {
                axis: Some(a as u8),
                div: 1,
                extent: per,
            });
            in_lanes[a] = true;
            used = per;
            if per < n {
                high.push(VecDigit {
                    axis: a as u8,
                    div: per,
                    extent: n.div_ceil(per),
                });
                break;
            }
            continue;
        }
        if !pack(used) {
            break;
        }
        let share = (1..=n.min(lanes / used))
            .rev()
            .find(|&p| n.is_multiple_of(p))
            .unwrap_or(1);
        if share == 1 {
            break;
        }
        digits.push(LaneDigit {
            axis: Some(a as u8),
            div: 1,
            extent: share,
        });
        in_lanes[a] = true;
        used *= share;
        if share < n {
            high.push(VecDigit {
                axis: a as u8,
                div: share,
                extent: n / share,
            });
            break;
        }
    }
    let open: Vec<VecDigit> = (0..shape.len())
        .filter(|&a| !in_lanes[a] && shape[a] > 1)
        .map(|a| whole_axis(shape, a))
        .collect();
    finish(shape, digits, high, &open, rows)
}

/// The digit that counts all coordinates of an axis.
pub fn whole_axis(shape: &[usize], axis: usize) -> VecDigit {
    VecDigit {
        axis: axis as u8,
        div: 1,
        extent: shape[axis],
    }
}

/// A layout from its lane digits, the digits left over from the axes in the lanes (`high`), and the digits that count vectors
/// (`open`, slowest first): the longest of these is split over hemispheres and blocks.
pub fn finish(shape: &[usize], lanes: Vec<LaneDigit>, high: Vec<VecDigit>, open: &[VecDigit], rows: &Rows) -> Layout {
    let row = (0..open.len()).max_by_key(|&n| (open[n].extent, std::cmp::Reverse(n)));
    let total: usize = open.iter().map(|d| d.extent).product();
    let mut parts = Vec::new();
    let mut inner = Vec::new();
    let mut side = None;
    if let Some(VecDigit { axis, div, extent: n }) = row.map(|n| open[n]) {
        let digit = |steps: usize, extent: usize| VecDigit {
            axis,
            div: div * steps,
            extent,
        };
        let per_row = total / n;
        let mut left = n;
        if rows.sides && n >= 2 && total >= 4 {
            let half = n.div_ceil(2);
            side = Some(0);
            parts.push(digit(half, 2));
            left = half;
        }
        let wanted = if left * per_row >= rows.blocks * rows.least {
            rows.blocks
        } else {
            1
        };
        let needed = (left * per_row).div_ceil(rows.most.max(1));
        let blocks = wanted.max(needed).min(left);
        let block = left.div_ceil(blocks.max(1));
        if block < left {
            parts.push(digit(block, left.div_ceil(block)));
        }
        if block > 1 {
            inner.push(digit(1, block));
        }
    }
    parts.extend(high);
    let n_parts = parts.len();
    let mut vecs = parts;
    vecs.extend(inner);
    vecs.extend((0..open.len()).filter(|&n| Some(n) != row).map(|n| open[n]));
    Layout {
        shape: shape.to_vec(),
        lanes,
        vecs,
        parts: n_parts,
        side,
    }
}

/// Size of the pieces of an axis of `n` > `lanes`: the fewest pieces, or an eighth more where that makes them equal.
pub fn piece(n: usize, lanes: usize) -> usize {
    let least = n.div_ceil(lanes);
    match (least..=least + least / 8).find(|&p| n.is_multiple_of(p)) {
        Some(p) => n / p,
        None => n.div_ceil(least),
    }
}
