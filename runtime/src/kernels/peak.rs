//! The multiply-add rate of the host, which products are measured against.

use super::simd::Simd;

/// Independent accumulators: enough to hide the latency of two units.
const CHAINS: usize = 12;

/// Does `steps` multiply-adds on each of 12 registers; returns the operations done (a multiply-add is two).
#[inline(always)]
pub fn multiply_adds<V: Simd>(steps: u64) -> u64 {
    let (x, y) = (
        V::splat(std::hint::black_box(0.999)),
        V::splat(std::hint::black_box(1e-3)),
    );
    let mut acc = [V::splat(0.5); CHAINS];
    for _ in 0..steps {
        for a in &mut acc {
            *a = a.fma(x, y);
        }
    }
    let mut sum = acc[0];
    for a in &acc[1..] {
        sum = sum.add(*a);
    }
    let mut out = [0u32; 16];
    // SAFETY: the buffer holds a register.
    unsafe { sum.store(out.as_mut_ptr()) };
    std::hint::black_box(out);
    steps * 2 * (CHAINS * V::N) as u64
}
