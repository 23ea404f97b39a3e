//! The scalar definition of every operation: what one lane of an instruction computes, bit by bit.
//!
//! A lane is a `u32` that holds the little-endian bits of an element; narrow dtypes use the low bits and leave the
//! rest zero. The VXM and SXM compute on [`DType::F32`] and [`DType::I32`] alone: operands are [`widen`]ed at the port,
//! and `cvt` [`convert`]s to any dtype.
//!
//! # Rules
//! - Float operations round to nearest even; denormals are kept. The payload and sign of a NaN are not defined, so
//!   executors make it canonical at outputs ([`canonical_nan`]).
//! - `min` and `max` give NaN where an operand is NaN; -0 is less than +0.
//! - Comparisons give i32 0 or 1; comparisons with NaN are 0 except `ne`. `select` and comparisons work on f32 and i32.
//! - i32 wraps; i32 division truncates, by zero it gives 0. Shift counts are taken & 31.
//! - `rsqrt(x)` is `1 / sqrt(x)`: two roundings. `round` is half to even.
//! - Conversions: to a narrower float rounds to nearest even; a float to an integer truncates, saturates, and NaN
//!   gives 0; integers saturate into narrower ones; i32 to f16 or bf16 goes through f32.
//! - `mul` of the MXM: see [`mac_f32`] and [`mac_i32`]. `reduce` and `fold`: see [`reduce`] and [`combine`].

use crate::id::DType;
use crate::math;
use crate::op::AluOp;
use half::{bf16, f16};

/// Partial results of a lane reduction.
pub const PARTIALS: usize = 16;

/// Bits of the canonical NaN of a float dtype; `None` for integers.
pub const fn canonical_nan(dtype: DType) -> Option<u32> {
    match dtype {
        DType::F32 => Some(0x7fc0_0000),
        DType::F16 => Some(0x7e00),
        DType::BF16 => Some(0x7fc0),
        _ => None,
    }
}

/// Widens the bits of an element to f32 (floats) or i32 (integers), exactly, as a VXM port does.
#[inline(always)]
pub fn widen(bits: u32, dtype: DType) -> u32 {
    match dtype {
        DType::F32 | DType::I32 => bits,
        DType::F16 => f16::from_bits(bits as u16).to_f32().to_bits(),
        DType::BF16 => bf16::from_bits(bits as u16).to_f32().to_bits(),
        DType::I8 => bits as u8 as i8 as i32 as u32,
        DType::U8 => bits & 0xff,
        DType::U16 => bits & 0xffff,
        DType::I4 => pair(bits as u8)[0] as u32,
    }
}

/// The two integers of an i4 pair.
#[inline(always)]
pub fn pair(byte: u8) -> [i32; 2] {
    let byte = byte as i8;
    [((byte << 4) >> 4) as i32, (byte >> 4) as i32]
}

/// Converts an f32 to the bits of any dtype.
#[inline(always)]
pub fn narrow_f32(x: f32, to: DType) -> u32 {
    match to {
        DType::F32 => x.to_bits(),
        DType::F16 => f16::from_f32(x).to_bits() as u32,
        DType::BF16 => bf16::from_f32(x).to_bits() as u32,
        DType::I32 => x as i32 as u32,
        DType::I8 => x as i8 as u8 as u32,
        DType::U8 => x as u8 as u32,
        DType::U16 => x as u16 as u32,
        DType::I4 => narrow_i32(x as i32, to),
    }
}

/// Converts an i32 to the bits of any dtype.
#[inline(always)]
pub fn narrow_i32(x: i32, to: DType) -> u32 {
    match to {
        DType::F32 | DType::F16 | DType::BF16 => narrow_f32(x as f32, to),
        DType::I32 => x as u32,
        DType::I8 => x.clamp(i8::MIN as i32, i8::MAX as i32) as i8 as u8 as u32,
        DType::U8 => x.clamp(0, u8::MAX as i32) as u32,
        DType::U16 => x.clamp(0, u16::MAX as i32) as u32,
        DType::I4 => x.clamp(-8, 7) as u32 & 0xf,
    }
}

/// Converts between any two dtypes: what `cvt` does.
#[inline(always)]
pub fn convert(bits: u32, from: DType, to: DType) -> u32 {
    let wide = widen(bits, from);
    if from.is_float() {
        narrow_f32(f32::from_bits(wide), to)
    } else {
        narrow_i32(wide as i32, to)
    }
}

/// Minimum by the machine's rule: NaN if either is NaN, -0 below +0.
#[inline(always)]
pub fn min_f32(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else if a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    }
}

/// Maximum by the machine's rule: NaN if either is NaN, +0 above -0.
#[inline(always)]
pub fn max_f32(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else if a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    }
}

/// i32 division: truncates, wraps for `MIN / -1`, and gives 0 for a zero divisor.
#[inline(always)]
pub fn div_i32(a: i32, b: i32) -> i32 {
    if b == 0 { 0 } else { a.wrapping_div(b) }
}

/// Whether an ALU operation is defined on operands of this widened type (F32 or I32); `cvt` and `copy` on both.
pub const fn is_defined(op: AluOp, ty: DType) -> bool {
    use AluOp::*;
    match op {
        Add | Sub | Mul | Fma | Div | Min | Max | Eq | Ne | Lt | Le | Gt | Ge | Select | Abs | Neg | Cvt | Copy => {
            matches!(ty, DType::F32 | DType::I32)
        }
        And | Or | Xor | Shl | Shr | Shra | Iota => matches!(ty, DType::I32),
        Floor | Ceil | Round | Trunc | Sqrt | Rsqrt | Exp | Log | Tanh | Erf | Sin | Cos => {
            matches!(ty, DType::F32)
        }
    }
}

/// Dtype of the result of an ALU operation on operands of this widened type; `cvt` has the run's dtype instead.
pub const fn result_type(op: AluOp, ty: DType) -> DType {
    use AluOp::*;
    match op {
        Eq | Ne | Lt | Le | Gt | Ge | Iota => DType::I32,
        _ => ty,
    }
}

/// One ALU operation on one lane of widened operands of type `ty` (F32 or I32).
///
/// Operands come in the order of the run's `a`, `b`, `c`; operands that the operation lacks are ignored. `select` takes
/// its condition as `a`, already turned into an i32 truth value by [`truth`], and has the type of `b` and `c`. For
/// `iota`, `a` is the lane number and `b` the immediate. `cvt` and `copy` give their operand: what `cvt` narrows to is
/// the run's affair. An operation that [`is_defined`] denies gives 0.
#[inline(always)]
pub fn alu(op: AluOp, ty: DType, a: u32, b: u32, c: u32) -> u32 {
    match op {
        AluOp::Select => {
            if a != 0 {
                b
            } else {
                c
            }
        }
        AluOp::Cvt | AluOp::Copy => a,
        AluOp::Iota => a.wrapping_add(b),
        _ if matches!(ty, DType::F32) => alu_f32(op, f32::from_bits(a), f32::from_bits(b), f32::from_bits(c)),
        _ => alu_i32(op, a as i32, b as i32, c as i32),
    }
}

/// The truth value of a select's condition: 1 where it is not zero (a NaN is not).
#[inline(always)]
pub fn truth(bits: u32, ty: DType) -> u32 {
    match ty {
        DType::F32 => (f32::from_bits(bits) != 0.0) as u32,
        _ => (bits != 0) as u32,
    }
}

#[inline(always)]
fn alu_f32(op: AluOp, a: f32, b: f32, c: f32) -> u32 {
    let x = match op {
        AluOp::Add => a + b,
        AluOp::Sub => a - b,
        AluOp::Mul => a * b,
        AluOp::Fma => a.mul_add(b, c),
        AluOp::Div => a / b,
        AluOp::Min => min_f32(a, b),
        AluOp::Max => max_f32(a, b),
        AluOp::Eq => return (a == b) as u32,
        AluOp::Ne => return (a != b) as u32,
        AluOp::Lt => return (a < b) as u32,
        AluOp::Le => return (a <= b) as u32,
        AluOp::Gt => return (a > b) as u32,
        AluOp::Ge => return (a >= b) as u32,
        AluOp::Abs => return a.to_bits() & 0x7fff_ffff,
        AluOp::Neg => return a.to_bits() ^ 0x8000_0000,
        AluOp::Floor => a.floor(),
        AluOp::Ceil => a.ceil(),
        AluOp::Round => a.round_ties_even(),
        AluOp::Trunc => a.trunc(),
        AluOp::Sqrt => a.sqrt(),
        AluOp::Rsqrt => 1.0 / a.sqrt(),
        AluOp::Exp => math::exp(a),
        AluOp::Log => math::log(a),
        AluOp::Tanh => math::tanh(a),
        AluOp::Erf => math::erf(a),
        AluOp::Sin => math::sin(a),
        AluOp::Cos => math::cos(a),
        _ => return 0,
    };
    x.to_bits()
}

#[inline(always)]
fn alu_i32(op: AluOp, a: i32, b: i32, c: i32) -> u32 {
    let shift = b as u32 & 31;
    let x = match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Fma => a.wrapping_mul(b).wrapping_add(c),
        AluOp::Div => div_i32(a, b),
        AluOp::Min => a.min(b),
        AluOp::Max => a.max(b),
        AluOp::Eq => (a == b) as i32,
        AluOp::Ne => (a != b) as i32,
        AluOp::Lt => (a < b) as i32,
        AluOp::Le => (a <= b) as i32,
        AluOp::Gt => (a > b) as i32,
        AluOp::Ge => (a >= b) as i32,
        AluOp::And => a & b,
        AluOp::Or => a | b,
        AluOp::Xor => a ^ b,
        AluOp::Shl => a << shift,
        AluOp::Shr => ((a as u32) >> shift) as i32,
        AluOp::Shra => a >> shift,
        AluOp::Abs => a.wrapping_abs(),
        AluOp::Neg => a.wrapping_neg(),
        _ => 0,
    };
    x as u32
}

/// Whether an operation may be folded or lane-reduced: add, mul, min, max.
pub const fn is_reduction(op: AluOp) -> bool {
    matches!(op, AluOp::Add | AluOp::Mul | AluOp::Min | AluOp::Max)
}

/// Bits of the identity of a reduction on F32 or I32: `identity op x` has exactly the bits of `x` (add of floats
/// therefore starts at -0). 0 for operations that are no reduction.
pub const fn identity(op: AluOp, ty: DType) -> u32 {
    let float = matches!(ty, DType::F32);
    match (op, float) {
        (AluOp::Add, true) => 0x8000_0000,
        (AluOp::Mul, true) => 0x3f80_0000,
        (AluOp::Min, true) => 0x7f80_0000,
        (AluOp::Max, true) => 0xff80_0000,
        (AluOp::Mul, false) => 1,
        (AluOp::Min, false) => i32::MAX as u32,
        (AluOp::Max, false) => i32::MIN as u32,
        _ => 0,
    }
}

/// One step of a reduction: `acc op x`. A fold over `x0, x1, ...` is `((x0 op x1) op x2) ...` in issue order.
#[inline(always)]
pub fn combine(op: AluOp, ty: DType, acc: u32, x: u32) -> u32 {
    alu(op, ty, acc, x, 0)
}

/// Reduces the widened lanes of one segment in the stated order: partial `j` of [`PARTIALS`] is
/// `x[j] op x[j + 16] op x[j + 32] ...` ascending, missing terms being the [`identity`]; then `s[j] = s[j] op s[j + h]`
/// for h = 8, 4, 2, 1. The result is `s[0]`.
pub fn reduce(op: AluOp, ty: DType, segment: &[u32]) -> u32 {
    let mut s = [identity(op, ty); PARTIALS];
    for row in segment.chunks(PARTIALS) {
        for (acc, &x) in s.iter_mut().zip(row) {
            *acc = combine(op, ty, *acc, x);
        }
    }
    let mut h = PARTIALS / 2;
    while h > 0 {
        for j in 0..h {
            s[j] = combine(op, ty, s[j], s[j + h]);
        }
        h /= 2;
    }
    s[0]
}

/// One step of a float product: `fma(x, w, acc)` with one rounding, operands widened exactly to f32. A column of a
/// `mul` applies it with k ascending over its window, starting from the accumulator (+0 from zero).
#[inline(always)]
pub fn mac_f32(x: f32, w: f32, acc: f32) -> f32 {
    x.mul_add(w, acc)
}

/// One step of an integer product, in wrapping i32: exact while no sum leaves i32.
#[inline(always)]
pub fn mac_i32(x: i32, w: i32, acc: i32) -> i32 {
    acc.wrapping_add(x.wrapping_mul(w))
}

/// The row that a gather or scatter touches, counted in rows from its base: `min(index as u32, limit - 1)`.
#[inline(always)]
pub const fn clamp_index(index: u32, limit: u32) -> u32 {
    let last = limit.saturating_sub(1);
    if index < last { index } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(op: AluOp, a: f32, b: f32) -> f32 {
        f32::from_bits(alu(op, DType::F32, a.to_bits(), b.to_bits(), 0))
    }

    #[test]
    fn min_and_max_order_zeros_and_propagate_nan() {
        for (op, pick) in [(AluOp::Min, -0.0f32), (AluOp::Max, 0.0)] {
            assert_eq!(f(op, 0.0, -0.0).to_bits(), pick.to_bits());
            assert_eq!(f(op, -0.0, 0.0).to_bits(), pick.to_bits());
            assert!(f(op, f32::NAN, 1.0).is_nan());
            assert!(f(op, 1.0, f32::NAN).is_nan());
        }
        assert_eq!(f(AluOp::Min, 1.0, 2.0), 1.0);
        assert_eq!(f(AluOp::Max, f32::NEG_INFINITY, 2.0), 2.0);
    }

    #[test]
    fn integers_wrap_and_division_is_total() {
        let i = |op, a: i32, b: i32| alu(op, DType::I32, a as u32, b as u32, 0) as i32;
        assert_eq!(i(AluOp::Add, i32::MAX, 1), i32::MIN);
        assert_eq!(i(AluOp::Div, i32::MIN, -1), i32::MIN);
        assert_eq!(i(AluOp::Div, 7, 0), 0);
        assert_eq!(i(AluOp::Div, -7, 2), -3);
        assert_eq!(i(AluOp::Shl, 1, 33), 2);
        assert_eq!(i(AluOp::Shr, -1, 28), 15);
        assert_eq!(i(AluOp::Shra, -16, 2), -4);
        assert_eq!(i(AluOp::Abs, i32::MIN, 0), i32::MIN);
    }

    #[test]
    fn round_is_half_to_even() {
        for (x, y) in [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, -0.0), (-1.5, -2.0f32)] {
            assert_eq!(f(AluOp::Round, x, 0.0).to_bits(), f32::to_bits(y));
        }
    }

    #[test]
    fn conversions_saturate_and_round() {
        let c = |x: f32, to| narrow_f32(x, to);
        assert_eq!(c(f32::NAN, DType::I32), 0);
        assert_eq!(c(3e9, DType::I32) as i32, i32::MAX);
        assert_eq!(c(-3e9, DType::I32) as i32, i32::MIN);
        assert_eq!(c(-1.9, DType::I32) as i32, -1);
        assert_eq!(c(300.0, DType::U8), 255);
        assert_eq!(c(-300.0, DType::I8), 0x80);
        assert_eq!(narrow_i32(-5, DType::U8), 0);
        assert_eq!(narrow_i32(200, DType::I8), 0x7f);
        assert_eq!(widen(0x80, DType::I8) as i32, -128);
        assert_eq!(widen(0x80, DType::U8) as i32, 128);
        // 2049 lies halfway between two f16 numbers; the even one wins. The least denormal is kept.
        assert_eq!(convert(2049.0f32.to_bits(), DType::F32, DType::F16), 0x6800);
        assert_eq!(widen(1, DType::F16), 2f32.powi(-24).to_bits());
        assert_eq!(convert(2f32.powi(-24).to_bits(), DType::F32, DType::F16), 1);
        assert_eq!(convert(0x3f80_8000, DType::F32, DType::BF16), 0x3f80);
        assert_eq!(convert(0x3f81_8000, DType::F32, DType::BF16), 0x3f82);
    }

    #[test]
    fn every_f16_and_bf16_survives_a_round_trip() {
        for bits in 0..=0xffffu32 {
            for dtype in [DType::F16, DType::BF16] {
                let wide = widen(bits, dtype);
                if f32::from_bits(wide).is_nan() {
                    continue;
                }
                assert_eq!(narrow_f32(f32::from_bits(wide), dtype), bits, "{dtype}");
            }
        }
    }

    #[test]
    fn reduce_follows_the_stated_tree() {
        for n in [1usize, 2, 7, 15, 16, 17, 32, 45, 128, 320] {
            let x: Vec<f32> = (0..n)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) * 1.000_3 + (i as f32) * 1e-4)
                .collect();
            let mut s: Vec<Option<f32>> = vec![None; 16];
            for (i, &v) in x.iter().enumerate() {
                let slot = &mut s[i % 16];
                *slot = Some(slot.map_or(v, |a| a + v));
            }
            for h in [8, 4, 2, 1] {
                for j in 0..h {
                    s[j] = match (s[j], s[j + h]) {
                        (Some(a), Some(b)) => Some(a + b),
                        (a, b) => a.or(b),
                    };
                }
            }
            let bits: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
            let got = reduce(AluOp::Add, DType::F32, &bits);
            assert_eq!(got, s[0].map_or(0, f32::to_bits), "n={n}");
        }
        let minus_zero = [(-0.0f32).to_bits(); 5];
        assert_eq!(reduce(AluOp::Add, DType::F32, &minus_zero), (-0.0f32).to_bits());
        let ints: Vec<u32> = [3i32, -9, 4].iter().map(|&v| v as u32).collect();
        assert_eq!(reduce(AluOp::Min, DType::I32, &ints) as i32, -9);
        assert_eq!(reduce(AluOp::Max, DType::I32, &ints) as i32, 4);
        assert_eq!(reduce(AluOp::Mul, DType::I32, &ints) as i32, -108);
    }

    #[test]
    fn identities_change_no_bits() {
        for op in [AluOp::Add, AluOp::Mul, AluOp::Min, AluOp::Max] {
            for x in [0.0f32, -0.0, 1.5, f32::INFINITY, f32::NEG_INFINITY, 1e-40] {
                let got = combine(op, DType::F32, identity(op, DType::F32), x.to_bits());
                assert_eq!(got, x.to_bits(), "{op:?} {x}");
            }
            for x in [0i32, -1, i32::MAX, i32::MIN] {
                let got = combine(op, DType::I32, identity(op, DType::I32), x as u32);
                assert_eq!(got as i32, x, "{op:?} {x}");
            }
        }
    }

    #[test]
    fn select_and_compare_give_truth_values() {
        assert_eq!(truth((-0.0f32).to_bits(), DType::F32), 0);
        assert_eq!(truth(f32::NAN.to_bits(), DType::F32), 1);
        assert_eq!(alu(AluOp::Select, DType::F32, 1, 7, 8), 7);
        assert_eq!(alu(AluOp::Select, DType::F32, 0, 7, 8), 8);
        let nan = f32::NAN.to_bits();
        assert_eq!(alu(AluOp::Ne, DType::F32, nan, nan, 0), 1);
        assert_eq!(alu(AluOp::Le, DType::F32, nan, nan, 0), 0);
        assert_eq!(alu(AluOp::Iota, DType::I32, 5, (-2i32) as u32, 0), 3);
    }

    #[test]
    fn operations_without_a_definition_give_zero() {
        for &op in AluOp::ALL {
            for ty in [DType::F32, DType::I32] {
                if !is_defined(op, ty) && op != AluOp::Iota {
                    let x = 2.5f32.to_bits();
                    assert_eq!(alu(op, ty, x, x, x), 0, "{op:?} {ty}");
                }
            }
        }
    }
}
