//! Operators that only move elements: narrow, pad.

use super::{Lowering, Res, Site, dtype, scalar_bits};
use crate::tir::ValueId;
use lockstep_graph::op::{PadMode, Range};

impl<'a> Lowering<'a> {
    pub(super) fn narrow(&mut self, s: &Site<'a>, ranges: &[Range]) -> Res<ValueId> {
        let ranges: Vec<_> = ranges.iter().map(|r| (r.start, r.step, r.len)).collect();
        Ok(self.b.narrow(s.x[0], &ranges)?)
    }

    /// Constant padding is one move; the other modes join parts of the operand, axis after axis.
    pub(super) fn pad(&mut self, s: &Site<'a>, pads: &[(usize, usize)], mode: PadMode) -> Res<ValueId> {
        if let PadMode::Constant(value) = mode {
            return Ok(self.b.pad(s.x[0], pads, scalar_bits(value, dtype(s.out_dtype())))?);
        }
        let mut x = s.x[0];
        for (axis, &(before, after)) in pads.iter().enumerate() {
            let n = self.b.shape(x)[axis];
            let part = |b: &mut Self, start: usize, step: isize, len: usize| -> Res<ValueId> {
                let mut ranges: Vec<_> = b.b.shape(x).iter().map(|&n| (0, 1, n)).collect();
                ranges[axis] = (start, step, len);
                Ok(b.b.narrow(x, &ranges)?)
            };
            let mut parts = Vec::new();
            match mode {
                PadMode::Reflect => {
                    if before > 0 {
                        parts.push(part(self, before, -1, before)?);
                    }
                    parts.push(x);
                    if after > 0 {
                        parts.push(part(self, n - 2, -1, after)?);
                    }
                }
                PadMode::Edge => {
                    if before > 0 {
                        let edge = part(self, 0, 1, 1)?;
                        parts.push(self.repeated(edge, axis, before)?);
                    }
                    parts.push(x);
                    if after > 0 {
                        let edge = part(self, n - 1, 1, 1)?;
                        parts.push(self.repeated(edge, axis, after)?);
                    }
                }
                PadMode::Wrap => {
                    let lead = before % n;
                    if lead > 0 {
                        parts.push(part(self, n - lead, 1, lead)?);
                    }
                    for _ in 0..(before / n + 1 + after / n) {
                        parts.push(x);
                    }
                    if after % n > 0 {
                        parts.push(part(self, 0, 1, after % n)?);
                    }
                }
                PadMode::Constant(_) => {}
            }
            x = self.b.concat(&parts, axis)?;
        }
        Ok(x)
    }

    /// A unit axis broadcast to `n`.
    fn repeated(&mut self, x: ValueId, axis: usize, n: usize) -> Res<ValueId> {
        let mut shape = self.b.shape(x).to_vec();
        shape[axis] = n;
        Ok(self.b.expand(x, &shape)?)
    }
}
