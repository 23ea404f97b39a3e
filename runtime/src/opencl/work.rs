//! What kernels and their launches are made of.

use crate::plan::{Rows, Space};
use std::ops::Range;

/// What the text of kernels depends on besides the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Lanes of a vector.
    pub lanes: usize,
    /// Work-items that share a row of a tape: 1 on a processor, whose compiler makes vectors of the loop over lanes.
    pub items: usize,
    /// Most work-groups that the rows of a tape are dealt out to.
    pub row_groups: usize,
    /// Floats of a vector register: 4, 8 or 16.
    pub width: usize,
    /// Work-items of a product's work-group along rows and columns.
    pub local: [usize; 2],
}

/// The body of a kernel. `P` points to the parameters of the launch; `mem`, `scr`, `pool` and `wts` to the spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// OpenCL C.
    pub text: String,
}

/// Numbers that a launch gives to its kernel.
#[derive(Clone, Debug, Default)]
pub struct Parameters(
    /// The numbers.
    pub Vec<i64>,
    /// Those of them that are bytes of scratch or of the weights section.
    Vec<(usize, Space)>,
    /// Bytes of the weights section that the launch reads.
    Option<Range<usize>>,
);

impl Parameters {
    /// Adds a number and gives its index.
    pub fn push(&mut self, x: i64) -> usize {
        self.0.push(x);
        self.0.len() - 1
    }

    /// Adds rows as `rows_at` takes them: seven numbers.
    pub fn rows(&mut self, r: &Rows) -> usize {
        let at = self.push(r.offset);
        self.address(at, r.space);
        self.push(i64::from(r.first));
        self.push(i64::from(r.counts[0]));
        self.push(i64::from(r.counts[1]));
        r.strides.iter().for_each(|&s| {
            self.push(s);
        });
        at
    }

    /// Notes that a number is a byte of a space.
    pub fn address(&mut self, at: usize, space: Space) {
        if matches!(space, Space::Scratch | Space::Weights) {
            self.1.push((at, space));
        }
    }

    /// Notes that these bytes of the weights section are read.
    pub fn weights_range(&mut self, first: usize, end: usize) {
        let all = self.2.get_or_insert(first..end);
        *all = all.start.min(first)..all.end.max(end);
    }

    /// The bytes of the weights section that are read.
    pub fn weights(&self) -> Option<Range<usize>> {
        self.2.clone()
    }

    /// Moves all addresses in scratch or in the weights section by so many bytes.
    pub fn shift(&mut self, space: Space, bytes: i64) {
        for &(i, s) in &self.1 {
            if let (true, Some(x)) = (s == space, self.0.get_mut(i)) {
                *x += bytes;
            }
        }
    }
}

/// A launch of a kernel.
#[derive(Clone, Debug)]
pub struct Work {
    /// Its numbers.
    pub parameters: Parameters,
    /// Work-groups in the first and second dimension.
    pub groups: [usize; 2],
    /// Work-items of a group.
    pub local: [usize; 2],
}
