//! Packing: pixels of a row beside their channels.
//!
//! Lanes hold all channels of `inner` neighbouring pixels, and beside them those of the pixels at the same place of
//! `segments` equal segments of the row. With one inner pixel, the neighbour of a pixel lies in the neighbouring vector, in the
//! same lanes, except where a segment ends: shifted rows are then the same vectors at other addresses.

use super::choose::{Rows, finish, whole_axis};
use super::{LaneDigit, Layout, VecDigit};

/// Which pixels share a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pack {
    /// The axis of channels; all of them lie in the lanes.
    pub channel: u8,
    /// The axis of pixels.
    pub axis: u8,
    /// Neighbouring pixels in a vector.
    pub inner: usize,
    /// Segments of the axis in a vector.
    pub segments: usize,
}

impl Pack {
    /// Pixels of a row from the first one of a vector to the first one of the same lanes in the next segment.
    pub fn segment(&self, shape: &[usize]) -> usize {
        shape[self.axis as usize] / self.segments.max(1)
    }

    /// The vector of a row that holds pixel `x` of it.
    pub fn vector(&self, shape: &[usize], x: usize) -> usize {
        x % self.segment(shape) / self.inner
    }

    /// Whether a tensor of this shape can be packed so: the axis divides evenly and a vector holds the lanes.
    pub fn fits(&self, shape: &[usize], lanes: usize) -> bool {
        let (n, channels) = (shape[self.axis as usize], shape[self.channel as usize]);
        n.is_multiple_of(self.segments * self.inner) && channels * self.segments * self.inner <= lanes
    }

    /// The layout of a tensor of this shape.
    pub fn layout(&self, shape: &[usize], rows: &Rows) -> Layout {
        let lane = |axis: u8, div: usize, extent: usize| LaneDigit {
            axis: Some(axis),
            div,
            extent,
        };
        let segment = self.segment(shape);
        let mut lanes = vec![lane(self.channel, 1, shape[self.channel as usize])];
        lanes.push(lane(self.axis, 1, self.inner));
        lanes.push(lane(self.axis, segment, self.segments));
        lanes.retain(|d| d.extent > 1);
        let pixels = VecDigit {
            axis: self.axis,
            div: self.inner,
            extent: segment / self.inner,
        };
        let open: Vec<VecDigit> = (0..shape.len())
            .filter(|&a| a != self.channel as usize)
            .map(|a| {
                if a == self.axis as usize {
                    pixels
                } else {
                    whole_axis(shape, a)
                }
            })
            .filter(|d| d.extent > 1)
            .collect();
        finish(shape, lanes, Vec::new(), &open, rows)
    }
}

/// A layout with all channels (the last axis) in `segments` equal groups of lanes, for what is the same for all pixels.
pub fn repeated(shape: &[usize], segments: usize, rows: &Rows) -> Layout {
    let channel = shape.len().saturating_sub(1);
    let lanes = vec![
        LaneDigit {
            axis: Some(channel as u8),
            div: 1,
            extent: shape.get(channel).copied().unwrap_or(1),
        },
        LaneDigit {
            axis: None,
            div: 0,
            extent: segments,
        },
    ];
    let open: Vec<VecDigit> = (0..channel)
        .filter(|&a| shape[a] > 1)
        .map(|a| whole_axis(shape, a))
        .collect();
    finish(shape, lanes, Vec::new(), &open, rows)
}
