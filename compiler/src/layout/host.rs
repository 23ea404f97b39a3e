//! Host maps: the nests that move a row-major host tensor into and out of a layout.

use super::Layout;
use lockstep_isa::artifact::{HostDim, HostNest};

/// The nests of a tensor in this layout, of which the host has the elements of neighbouring coordinates `strides` apart; `value` names
/// the buffer of each part (`None` for empty parts).
pub fn nests(layout: &Layout, strides: &[usize], value: impl Fn(usize) -> Option<u32>) -> Vec<HostNest> {
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
                    element: d.div as i64 * strides[d.axis as usize] as i64,
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
                    element: d.div as i64 * strides[a as usize] as i64,
                    vector: 0,
                    lane,
                });
            }
            left /= n.max(1);
            lane *= d.extent as i32;
        }
        let origin = part.base.iter().zip(strides).map(|(c, s)| c * s).sum::<usize>();
        out.push(HostNest {
            value,
            element: origin as u64,
            vector: 0,
            lane: 0,
            dims,
        });
    }
    out
}
