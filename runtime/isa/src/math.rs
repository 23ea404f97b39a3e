//! Elementary functions of the machine: exp, log, tanh, erf, sin, cos on f32.
//!
//! Each function is written once, generic over a [`Lane`] (one f32, or a SIMD register of them), as one fixed sequence
//! of IEEE operations: add, sub, mul, div, fused multiply-add, compares, selects and integer operations on the bits. So
//! every lane type gives the same bits. No operation here depends on a host's math library.
//!
//! All functions are within 2 ULP of the exact result (the tests hold each to its own figure), keep denormals, and treat
//! NaN, infinities and signed zeros as IEEE 754 recommends: `exp(-inf) = 0`, `log(0) = -inf`, `log(x < 0) = NaN`,
//! `tanh(-0) = -0`, `sin(inf) = NaN`. The payload of a NaN is not specified.
//!
//! Polynomials are evaluated by Horner's rule from the highest coefficient down, one fused multiply-add a step.

mod exp;
mod lane;
mod log;
mod trig;

pub use exp::{erf, exp, tanh};
pub use lane::Lane;
pub use log::log;
pub use trig::{TWO_OVER_PI_BITS, cos, quadrant, sin};

/// Horner's rule: `c[0] + x * (c[1] + x * (c[2] + ...))`.
#[inline(always)]
fn horner<L: Lane, const N: usize>(x: L, c: [f32; N]) -> L {
    let mut i = N - 1;
    let mut acc = L::splat(c[i]);
    while i > 0 {
        i -= 1;
        acc = acc.fma(x, L::splat(c[i]));
    }
    acc
}

/// `1.5 * 2^23`: adding it to a float below `2^22` in magnitude rounds that to an integer (half to even), which then is
/// in the low bits of the sum.
const MAGIC: f32 = 12_582_912.0;

#[cfg(test)]
mod tests;
