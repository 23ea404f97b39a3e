//! sin and cos.
//!
//! The argument is reduced by multiples of pi/2 to `|r| <= pi/4`, kept as a pair `r + c`. Below [`HUGE`] the reduction
//! subtracts the parts of pi/2 one by one, the first one exactly and the second one as a pair. From there on, and for infinities and NaN,
//! each such lane goes through the scalar functions below, which reduce with as many bits of 2/pi as the exponent needs
//! (Payne and Hanek); every lane type calls the same ones.

use super::lane::Lane;
use super::{MAGIC, horner};

/// Arguments of at least this magnitude are reduced lane by lane.
const HUGE: f32 = 65_536.0;
/// `2 / pi`.
const TWO_OVER_PI: f32 = f32::from_bits(0x3f22_f983);
/// `pi / 2` in three parts.
const HALF_PI: [f32; 3] = [
    f32::from_bits(0x3fc9_0fdb),
    f32::from_bits(0xb33b_bd2e),
    f32::from_bits(0xa6f7_2ced),
];
/// Bits of 2/pi after the binary point, highest first.
pub const TWO_OVER_PI_BITS: [u32; 8] = [
    0xa2f9_836e,
    0x4e44_1529,
    0xfc27_57d1,
    0xf534_ddc0,
    0xdb62_9599,
    0x3c43_9041,
    0xfe51_63ab,
    0xdebb_c561,
];

/// Minimax fit of `(sin(r) / r - 1) / z` in `z = r^2`; error `2^-32.5`.
const SIN: [f32; 4] = [
    f32::from_bits(0xbe2a_aaab),
    f32::from_bits(0x3c08_88b9),
    f32::from_bits(0xb950_2b62),
    f32::from_bits(0x363d_b3e7),
];
/// Minimax fit of `(cos(r) - 1 + z / 2) / z^2` in `z = r^2`; error `2^-37.2`.
const COS: [f32; 4] = [
    f32::from_bits(0x3d2a_aaab),
    f32::from_bits(0xbab6_0baf),
    f32::from_bits(0x37d0_38a7),
    f32::from_bits(0xb49a_f05b),
];

/// Sine.
#[inline(always)]
pub fn sin<L: Lane>(x: L) -> L {
    let a = x.abs();
    let (r, c, n) = reduce(x);
    let y = quadrant(r, c, n);
    // Tiny arguments are their own sine, and -0 stays -0.
    let y = L::select(a.lt(L::splat(0.000_244_140_63)), x, y);
    y.or_else(a.lt(L::splat(HUGE)), x, sin_huge)
}

/// Cosine.
#[inline(always)]
pub fn cos<L: Lane>(x: L) -> L {
    let (r, c, n) = reduce(x);
    let y = quadrant(r, c, L::int_add(n, L::int(1)));
    y.or_else(x.abs().lt(L::splat(HUGE)), x, cos_huge)
}

/// `x = n * pi/2 + r + c` for `|x| < HUGE`.
#[inline(always)]
fn reduce<L: Lane>(x: L) -> (L, L, L::Int) {
    let t = x.fma(L::splat(TWO_OVER_PI), L::splat(MAGIC));
    let minus_n = L::splat(MAGIC).sub(t);
    let mid = L::splat(HALF_PI[1]);
    let exact = minus_n.fma(L::splat(HALF_PI[0]), x);
    // The product by the middle part as an exact pair, and its sum with `exact` as another.
    let product = minus_n.mul(mid);
    let product_rest = minus_n.fma(mid, L::splat(0.0).sub(product));
    let r = exact.add(product);
    let part = r.sub(exact);
    let sum_rest = exact.sub(r.sub(part)).add(product.sub(part));
    let c = minus_n.fma(L::splat(HALF_PI[2]), sum_rest.add(product_rest));
    (r, c, L::int_sub(t.bits(), L::splat(MAGIC).bits()))
}

/// `sin(r + c + n * pi/2)` for `|r| <= pi/4` and a `c` that is small beside it.
#[inline(always)]
pub fn quadrant<L: Lane>(r: L, c: L, n: L::Int) -> L {
    let (z, one) = (r.mul(r), L::splat(1.0));
    let sin = horner(z, SIN).fma(z.mul(r), c).add(r);
    let half = z.mul(L::splat(0.5));
    let w = one.sub(half);
    let rest = one.sub(w).sub(half);
    let low = L::splat(0.0).sub(r).fma(c, rest);
    let cos = horner(z, COS).fma(z.mul(z), low).add(w);
    let odd = L::int_eq(L::int_and(n, L::int(1)), L::int(1));
    let y = L::select(odd, cos, sin);
    let sign = L::int_shl::<30>(L::int_and(n, L::int(2)));
    L::from_bits(L::int_xor(y.bits(), sign))
}

/// `sin(x)` for `|x| >= HUGE`, infinities and NaN.
fn sin_huge(x: f32) -> f32 {
    match reduce_huge(x) {
        Some((r, c, n)) => quadrant(r, c, n),
        None => f32::NAN,
    }
}

/// `cos(x)` for `|x| >= HUGE`, infinities and NaN.
fn cos_huge(x: f32) -> f32 {
    match reduce_huge(x) {
        Some((r, c, n)) => quadrant(r, c, n.wrapping_add(1)),
        None => f32::NAN,
    }
}

/// `x = n * pi/2 + r + c` modulo 2 pi for `|x| >= HUGE`; `None` for infinities and NaN.
fn reduce_huge(x: f32) -> Option<(f32, f32, i32)> {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32;
    if exponent == 0xff {
        return None;
    }
    // |x| = mantissa * 2^e. Bits of 2/pi whose product with 2^e is a multiple of 4 do not matter: skip them.
    let mantissa = (bits & 0x007f_ffff | 0x0080_0000) as u128;
    let e = exponent - 150;
    let skip = (e - 2).max(0) as usize;
    let mut window: u128 = 0;
    for word in &TWO_OVER_PI_BITS[skip / 32..skip / 32 + 4] {
        window = window << 32 | *word as u128;
    }
    let window = window << (skip % 32) >> 32;
    // The product counts in units of 2^-94 turns of pi/2.
    let product = ((mantissa * window) >> (2 - e).max(0)) & ((1 << 96) - 1);
    let n = (product + (1 << 93)) >> 94;
    let fraction = product as i128 - ((n << 94) as i128);
    let scale = f64::from_bits((1023 - 94) << 52);
    let r = fraction as f64 * scale * std::f64::consts::FRAC_PI_2;
    let (r, n) = if x < 0.0 { (-r, -(n as i32)) } else { (r, n as i32) };
    let high = r as f32;
    Some((high, (r - high as f64) as f32, n))
}
