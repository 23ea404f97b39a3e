//! Host maps: the nests that move a row-major host tensor into and out of a layout.

use super::Layout;
use lockstep_isa::artifact::{HostDim, HostNest};

/// The nests of a tensor in this layout; `value` names the buffer of each part (`None` for empty parts).
pub fn nests(layout: &Layout, value: impl Fn(usize) -> Option<u32>) -> Vec<HostNest> {
    let mut strides = vec![1i64; layout.shape.len()];
    for d in (0..layout.shape.len().saturating_sub(1)).rev() {
        strides[d] = strides[d + 1] * layout.shape[d + 1] as i64;
    }
    let mut out = Vec::new();
    for p in 0..layout.n_parts() {
        let part = layout.part(p);
        let Some(value) = value(p).filter(|_| part.n_vectors() > 0) else {
            continue;
        };
        let mut dims = Vec::new();
        let digits = &layout.vecs[layout.parts..];
        let mut step = 1i32;
        for (d, &n) in digits.iter().zip(&part.extents).rev() {
            if n > 1 {
                dims.push(HostDim {
                    count: n as u32,
                    element: d.div as i64 * strides[d.axis as usize],
                    vector: step,
                    lane: 0,
                });
            }
            step *= n as i32;
        }
        let mut left = part.hi;
        let mut lane = 1i32;
        for d in &layout.lanes {
            let n = d.extent.min(left.max(1));
            if let (Some(a), true) = (d.axis, n > 1) {
                dims.push(HostDim {
                    count: n as u32,
                    element: d.div as i64 * strides[a as usize],
                    vector: 0,
                    lane,
                });
            }
            left /= n.max(1);
            lane *= d.extent as i32;
        }
        let element: i64 = part.base.iter().zip(&strides).map(|(&c, &s)| c as i64 * s).sum();
        out.push(HostNest {
            value,
            element: element as u64,
            vector: 0,
            lane: 0,
            dims,
        });
    }
    out
}
