//! exp and the two functions built on it.

use super::lane::Lane;
use super::{MAGIC, horner};

/// `log2(e)`.
const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);
/// `ln 2` in two parts, high first.
const LN2: [f32; 2] = [f32::from_bits(0x3f31_7218), f32::from_bits(0xb102_e308)];

/// Minimax fit of `(e^r - 1 - r) / r^2` on `|r| <= 0.353`; error `2^-32.9` of `e^r`.
const EXP: [f32; 6] = [
    f32::from_bits(0x3f00_0000),
    f32::from_bits(0x3e2a_aaab),
    f32::from_bits(0x3d2a_aa6f),
    f32::from_bits(0x3c08_87fb),
    f32::from_bits(0x3ab6_ad2f),
    f32::from_bits(0x3951_307e),
];

/// Minimax fit of `(tanh(x) / x - 1) / z` in `z = x^2 <= 0.4`; error `2^-32.2`.
const TANH: [f32; 6] = [
    f32::from_bits(0xbeaa_aaaa),
    f32::from_bits(0x3e08_883b),
    f32::from_bits(0xbd5c_f81c),
    f32::from_bits(0x3cb1_c958),
    f32::from_bits(0xbc05_f912),
    f32::from_bits(0x3b0c_3435),
];

/// Minimax fit of `erf(x) / x - 1` in `z = x^2 <= 1`; error `2^-29.5`.
const ERF: [f32; 7] = [
    f32::from_bits(0x3e03_75d4),
    f32::from_bits(0xbec0_93a0),
    f32::from_bits(0x3de7_16a8),
    f32::from_bits(0xbcdb_ff48),
    f32::from_bits(0x3baa_1707),
    f32::from_bits(0xba52_8575),
    f32::from_bits(0x38a6_19d7),
];

/// Minimax fit of `log(erfc(a))` on `0.99 <= a <= 4`, weighted by erfc; error `2^-35.3` of erf.
const LOG_ERFC: [f32; 8] = [
    f32::from_bits(0x3945_5ebf),
    f32::from_bits(0xbf90_960e),
    f32::from_bits(0xbf22_1a95),
    f32::from_bits(0xbdde_0b9c),
    f32::from_bits(0x3cce_845f),
    f32::from_bits(0xbb89_caf6),
    f32::from_bits(0x39e7_7346),
    f32::from_bits(0xb7b6_0476),
];

/// `x = n * ln 2 + r`: returns `e^r` and `n` as integer, for `|x| < 2^21`.
#[inline(always)]
fn exp_reduced<L: Lane>(x: L) -> (L, L::Int) {
    let t = x.fma(L::splat(LOG2_E), L::splat(MAGIC));
    let n = t.sub(L::splat(MAGIC));
    let minus_n = L::splat(0.0).sub(n);
    let r = minus_n.fma(L::splat(LN2[0]), x);
    let r = minus_n.fma(L::splat(LN2[1]), r);
    let q = horner(r, EXP);
    let p = q.fma(r, L::splat(1.0)).fma(r, L::splat(1.0));
    (p, L::int_sub(t.bits(), L::splat(MAGIC).bits()))
}

/// `2^n` for `-126 <= n <= 127`.
#[inline(always)]
fn pow2<L: Lane>(n: L::Int) -> L {
    L::from_bits(L::int_shl::<23>(L::int_add(n, L::int(127))))
}

/// `e^x`.
#[inline(always)]
pub fn exp<L: Lane>(x: L) -> L {
    let (high, low) = (L::splat(89.5), L::splat(-104.5));
    let x = L::select(high.lt(x), high, x);
    let x = L::select(x.lt(low), low, x);
    let (p, n) = exp_reduced(x);
    // Two factors: the first product is exact, the second one rounds into a denormal or overflows.
    let half = L::int_shr::<1>(n);
    p.mul(pow2(half)).mul(pow2(L::int_sub(n, half)))
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh<L: Lane>(x: L) -> L {
    let (a, one, ten) = (x.abs(), L::splat(1.0), L::splat(10.0));
    let z = a.mul(a);
    let small = horner(z, TANH).mul(z).fma(a, a);
    let capped = L::select(ten.lt(a), ten, a);
    let (p, n) = exp_reduced(capped.add(capped));
    let e = p.mul(pow2(n));
    let big = one.sub(L::splat(2.0).div(e.add(one)));
    let y = L::select(a.lt(L::splat(0.625)), small, big);
    L::from_bits(L::int_or(y.bits(), x.sign()))
}

/// Error function.
#[inline(always)]
pub fn erf<L: Lane>(x: L) -> L {
    let (a, one, four) = (x.abs(), L::splat(1.0), L::splat(4.0));
    let small = horner(a.mul(a), ERF).fma(a, a);
    let capped = L::select(four.lt(a), four, a);
    let (p, n) = exp_reduced(horner(capped, LOG_ERFC));
    let big = one.sub(p.mul(pow2(n)));
    let y = L::select(a.lt(one), small, big);
    L::from_bits(L::int_or(y.bits(), x.sign()))
}
