//! The natural logarithm.

use super::lane::Lane;
use super::{MAGIC, horner};

/// `ln 2` in two parts, the high one with eight zero bits below, so that its product with an exponent is exact.
const LN2: [f32; 2] = [f32::from_bits(0x3f31_7200), f32::from_bits(0x35bf_be8e)];

/// Bits of `sqrt(1/2)`, the lower end of the reduced mantissa.
const SQRT_HALF: i32 = 0x3f35_04f3;

/// Minimax fit of `(log(1 + f) - f + f^2 / 2) / f^3` on `sqrt(1/2) - 1 <= f <= sqrt(2) - 1`; error `2^-30.3` of log.
const LOG: [f32; 9] = [
    f32::from_bits(0x3eaa_aaa3),
    f32::from_bits(0xbe7f_fff8),
    f32::from_bits(0x3e4c_d2a2),
    f32::from_bits(0xbe2a_b13e),
    f32::from_bits(0x3e11_9945),
    f32::from_bits(0xbdfd_a80a),
    f32::from_bits(0x3df3_3021),
    f32::from_bits(0xbdf1_53a2),
    f32::from_bits(0x3d8d_6970),
];

/// `ln(x)`.
#[inline(always)]
pub fn log<L: Lane>(x: L) -> L {
    let zero = L::splat(0.0);
    let denormal = x.lt(L::splat(f32::MIN_POSITIVE));
    let scaled = L::select(denormal, x.mul(L::splat(8_388_608.0)), x);
    let bias = L::select(denormal, L::splat(-23.0), zero);
    let from_half = L::int_sub(scaled.bits(), L::int(SQRT_HALF));
    let exponent = L::int_shr::<23>(from_half);
    let e = L::from_bits(L::int_add(exponent, L::splat(MAGIC).bits()))
        .sub(L::splat(MAGIC))
        .add(bias);
    let mantissa = L::int_and(from_half, L::int(0x007f_ffff));
    let f = L::from_bits(L::int_add(mantissa, L::int(SQRT_HALF))).sub(L::splat(1.0));
    // f - f^2 / 2 + f^3 * P(f) + e * ln 2, the smallest terms first.
    let tail = horner(f, LOG).fma(f, L::splat(-0.5));
    let low = tail.fma(f.mul(f), e.mul(L::splat(LN2[1])));
    let high = e.mul(L::splat(LN2[0]));
    // high + f as an exact pair: where e is not 0, |high| > |f|.
    let sum = high.add(f);
    let rest = f.sub(sum.sub(high));
    let y = sum.add(low.add(rest));
    let y = L::select(x.lt(zero), L::splat(f32::NAN), y);
    let y = L::select(x.eq(zero), L::splat(f32::NEG_INFINITY), y);
    let inf = L::splat(f32::INFINITY);
    let y = L::select(x.eq(inf), inf, y);
    L::select(x.eq(x), y, x.add(x))
}
