//! The bits of f32 numbers as i32 and back, by exact arithmetic: chips keep the two apart.
//!
//! The exponent is found by comparisons with powers of two, the largest first; every product is by a power of two and exact. NaN gives the
//! canonical one, and any NaN comes of the bits of one.

use super::elementwise::with;
use crate::onnx::cx::{Cx, Fail};
use lockstep_graph::op::{Binary, Unary};
use lockstep_graph::{DType, ValueId};

/// Bits of the fraction.
const FRACTION: i32 = 23;
/// What is added to exponents.
const BIAS: f64 = 127.0;
/// Steps of an exponent's search.
const STEPS: [i32; 7] = [64, 32, 16, 8, 4, 2, 1];
/// The bits of infinity, and of the canonical NaN.
const INFINITY: f64 = 0x7f80_0000_u32 as f64;
const NAN: f64 = 0x7fc0_0000_u32 as f64;

fn two_to(exponent: i32) -> f64 {
    2f64.powi(exponent)
}

/// `a` where `cond`, else `b`, with a number for either.
fn pick(cx: &mut Cx<'_, '_>, cond: ValueId, a: ValueId, b: ValueId) -> Result<ValueId, Fail> {
    Ok(cx.b().select(cond, a, b)?)
}

/// The bits of f32 elements.
pub(super) fn of_float(cx: &mut Cx<'_, '_>, x: ValueId) -> Result<ValueId, Fail> {
    let magnitude = cx.b().unary(Unary::Abs, x)?;
    let mut a = magnitude;
    let mut exponent = with(cx, Binary::Mul, magnitude, 0.0)?;
    for up in [true, false] {
        for step in STEPS {
            let (limit, sign) = if up { (step, 1.0) } else { (1 - step, -1.0) };
            let kind = if up { Binary::Ge } else { Binary::Lt };
            let taken = with(cx, kind, a, two_to(limit))?;
            let scaled = with(cx, Binary::Mul, a, two_to(if up { -step } else { step }))?;
            let moved = with(cx, Binary::Add, exponent, sign * f64::from(step))?;
            a = pick(cx, taken, scaled, a)?;
            exponent = pick(cx, taken, moved, exponent)?;
        }
    }
    let fraction = with(cx, Binary::Sub, a, 1.0)?;
    let fraction = with(cx, Binary::Mul, fraction, two_to(FRACTION))?;
    let fraction = cx.b().cast(fraction, DType::I32)?;
    let exponent = with(cx, Binary::Add, exponent, BIAS)?;
    let exponent = cx.b().cast(exponent, DType::I32)?;
    let exponent = with(cx, Binary::Mul, exponent, two_to(FRACTION))?;
    let normal = cx.b().binary(Binary::Add, exponent, fraction)?;
    // Below the least normal number the fraction counts from 2^-149.
    let small = with(cx, Binary::Lt, magnitude, two_to(-126))?;
    let count = with(cx, Binary::Mul, magnitude, two_to(100))?;
    let none = cx.b().scalar_like(count, 0.0);
    let count = pick(cx, small, count, none)?;
    let count = with(cx, Binary::Mul, count, two_to(49))?;
    let count = cx.b().cast(count, DType::I32)?;
    let mut bits = pick(cx, small, count, normal)?;
    let infinite = cx.b().unary(Unary::IsInf, x)?;
    let infinity = cx.b().scalar_like(bits, INFINITY);
    bits = pick(cx, infinite, infinity, bits)?;
    // Zero has a sign that no comparison sees, but its inverse does.
    let inverse = cx.b().unary(Unary::Recip, x)?;
    let below = with(cx, Binary::Lt, x, 0.0)?;
    let from_below = with(cx, Binary::Lt, inverse, 0.0)?;
    let negative = cx.b().binary(Binary::Or, below, from_below)?;
    let signed = with(cx, Binary::Or, bits, f64::from(i32::MIN))?;
    bits = pick(cx, negative, signed, bits)?;
    let no_number = cx.b().unary(Unary::IsNan, x)?;
    let canonical = cx.b().scalar_like(bits, NAN);
    pick(cx, no_number, canonical, bits)
}

/// The f32 numbers whose bits i32 elements are.
pub(super) fn to_float(cx: &mut Cx<'_, '_>, bits: ValueId) -> Result<ValueId, Fail> {
    let rest = with(cx, Binary::And, bits, f64::from(i32::MAX))?;
    let exponent = with(cx, Binary::Div, rest, two_to(FRACTION))?;
    let fraction = with(cx, Binary::And, rest, two_to(FRACTION) - 1.0)?;
    let fraction = cx.b().cast(fraction, DType::F32)?;
    let part = with(cx, Binary::Mul, fraction, two_to(-FRACTION))?;
    let mut value = with(cx, Binary::Add, part, 1.0)?;
    let mut left = with(cx, Binary::Sub, exponent, BIAS)?;
    for step in STEPS {
        for sign in [1, -1] {
            let kind = if sign > 0 { Binary::Ge } else { Binary::Le };
            let taken = with(cx, kind, left, f64::from(sign * step))?;
            let scaled = with(cx, Binary::Mul, value, two_to(sign * step))?;
            let moved = with(cx, Binary::Sub, left, f64::from(sign * step))?;
            value = pick(cx, taken, scaled, value)?;
            left = pick(cx, taken, moved, left)?;
        }
    }
    let tiny = with(cx, Binary::Mul, part, two_to(-126))?;
    let least = with(cx, Binary::Eq, exponent, 0.0)?;
    value = pick(cx, least, tiny, value)?;
    let greatest = with(cx, Binary::Eq, exponent, 255.0)?;
    let whole = with(cx, Binary::Eq, fraction, 0.0)?;
    let (infinity, nan) = (
        cx.b().scalar_like(value, f64::INFINITY),
        cx.b().scalar_like(value, f64::NAN),
    );
    let special = pick(cx, whole, infinity, nan)?;
    value = pick(cx, greatest, special, value)?;
    let negative = with(cx, Binary::Lt, bits, 0.0)?;
    let mirrored = cx.b().unary(Unary::Neg, value)?;
    pick(cx, negative, mirrored, value)
}
