//! Elementwise operators: unary and binary functions, where, cast.

use super::{GDType, Lowering, Res, Site, dtype};
use crate::tir::ValueId;
use crate::tir::expr::{Ex, Expr};
use lockstep_graph::op::{Binary, Unary};
use lockstep_isa::DType;

impl<'a> Lowering<'a> {
    pub(super) fn unary(&mut self, s: &Site<'a>, kind: Unary) -> Res<ValueId> {
        let from = s.dtype(0);
        self.elementwise(dtype(s.out_dtype()), s.out_shape(), &s.x, |e, x| {
            let y = if x[0].is_float() {
                unary_float(e, kind, x[0])
            } else {
                unary_int(e, kind, x[0], from)
            };
            wrap(e, y, s.out_dtype())
        })
    }

    pub(super) fn binary(&mut self, s: &Site<'a>, kind: Binary) -> Res<ValueId> {
        let constant = self.immediate(s.x[1]);
        self.elementwise(dtype(s.out_dtype()), s.out_shape(), &s.x, |e, x| {
            let (a, b) = (x[0], x[1]);
            let y = match kind {
                Binary::Add => e.add(a, b),
                Binary::Sub => e.sub(a, b),
                Binary::Mul => e.mul(a, b),
                Binary::Div => e.div(a, b),
                Binary::Pow if a.is_float() => match constant {
                    Some(bits) => pow_const(e, a, f32::from_bits(bits)),
                    None => pow(e, a, b),
                },
                Binary::Pow => pow_int(e, a, b, constant.map(|bits| bits as i32)),
                Binary::Min => e.min(a, b),
                Binary::Max => e.max(a, b),
                Binary::Mod if a.is_float() => e.sub(a, e.mul(b, e.floor(e.div(a, b)))),
                Binary::Rem if a.is_float() => e.sub(a, e.mul(b, e.trunc(e.div(a, b)))),
                Binary::Mod => {
                    let r = e.sub(a, e.mul(b, e.div(a, b)));
                    let wrong = e.and(e.ne(r, Ex::i32(0)), e.lt(e.xor(r, b), Ex::i32(0)));
                    e.select(wrong, e.add(r, b), r)
                }
                Binary::Rem => e.sub(a, e.mul(b, e.div(a, b))),
                Binary::Eq => e.eq(a, b),
                Binary::Ne => e.ne(a, b),
                Binary::Lt => e.lt(a, b),
                Binary::Le => e.le(a, b),
                Binary::Gt => e.gt(a, b),
                Binary::Ge => e.ge(a, b),
                Binary::And => e.and(a, b),
                Binary::Or => e.or(a, b),
                Binary::Xor => e.xor(a, b),
                Binary::Shl => e.shl(a, b),
                Binary::Shr => e.shr(a, b),
            };
            wrap(e, y, s.out_dtype())
        })
    }

    pub(super) fn select(&mut self, s: &Site<'a>) -> Res<ValueId> {
        self.elementwise(dtype(s.out_dtype()), s.out_shape(), &s.x, |e, x| {
            e.select(x[0], x[1], x[2])
        })
    }

    pub(super) fn cast(&mut self, s: &Site<'a>, to: GDType) -> Res<ValueId> {
        let from = s.dtype(0);
        self.elementwise(dtype(to), s.out_shape(), &s.x, |e, x| {
            let x = x[0];
            match (from.is_float(), to) {
                (true, GDType::Bool) => e.ne(x, Ex::f32(0.0)),
                (false, GDType::Bool) => e.ne(x, Ex::i32(0)),
                (true, GDType::I16 | GDType::U16) => {
                    let (lo, hi) = to.int_range().unwrap_or((0, 0));
                    e.max(e.min(e.cvt(x, DType::I32), Ex::i32(hi as i32)), Ex::i32(lo as i32))
                }
                (false, to) if !to.is_float() => wrap(e, x, to),
                _ => x,
            }
        })
    }
}

/// Wraps an i32 into an 8- or 16-bit integer dtype.
fn wrap(e: &Expr, x: Ex, to: GDType) -> Ex {
    match to {
        _ if x.is_float() => x,
        GDType::U8 => e.and(x, Ex::i32(0xff)),
        GDType::U16 => e.and(x, Ex::i32(0xffff)),
        GDType::I8 => e.shra(e.shl(x, Ex::i32(24)), Ex::i32(24)),
        GDType::I16 => e.shra(e.shl(x, Ex::i32(16)), Ex::i32(16)),
        _ => x,
    }
}

fn unary_int(e: &Expr, kind: Unary, x: Ex, from: GDType) -> Ex {
    let zero = Ex::i32(0);
    match kind {
        Unary::Neg => e.neg(x),
        Unary::Abs => e.abs(x),
        Unary::Sign => e.sub(e.gt(x, zero), e.lt(x, zero)),
        Unary::Not if from == GDType::Bool => e.eq(x, zero),
        Unary::Not => e.xor(x, Ex::i32(-1)),
        Unary::Relu => e.max(x, zero),
        _ => x,
    }
}

fn unary_float(e: &Expr, kind: Unary, x: Ex) -> Ex {
    let f = Ex::f32;
    match kind {
        Unary::Neg => e.neg(x),
        Unary::Abs => e.abs(x),
        Unary::Sign => e.select(e.gt(x, f(0.0)), f(1.0), e.select(e.lt(x, f(0.0)), f(-1.0), x)),
        Unary::Not => e.eq(x, f(0.0)),
        Unary::Exp => e.exp(x),
        Unary::Log => e.log(x),
        Unary::Sqrt => e.sqrt(x),
        Unary::Rsqrt => e.rsqrt(x),
        Unary::Recip => e.div(f(1.0), x),
        Unary::Sin => e.sin(x),
        Unary::Cos => e.cos(x),
        Unary::Tan => e.div(e.sin(x), e.cos(x)),
        Unary::Asin => atan(e, e.div(x, e.sqrt(e.mul(e.sub(f(1.0), x), e.add(f(1.0), x))))),
        Unary::Acos => {
            let half = atan(e, e.sqrt(e.div(e.sub(f(1.0), x), e.add(f(1.0), x))));
            e.add(half, half)
        }
        Unary::Atan => atan(e, x),
        Unary::Sinh => {
            // Through tanh, which keeps the relative accuracy near 0 that the difference of two exponentials loses.
            e.mul(e.tanh(x), cosh(e, x))
        }
        Unary::Cosh => cosh(e, x),
        Unary::Asinh => {
            let a = e.abs(x);
            let root = e.sqrt(e.fma(a, a, f(1.0)));
            let small = log1p(e, e.add(a, e.div(e.mul(a, a), e.add(f(1.0), root))));
            // Above 1e9 the square may overflow, and log(2a) is exact to f32.
            let big = e.add(e.log(a), f(std::f32::consts::LN_2));
            let y = e.select(e.gt(a, f(1e9)), big, small);
            e.select(e.lt(x, f(0.0)), e.neg(y), y)
        }
        Unary::Acosh => {
            let t = e.sub(x, f(1.0));
            let small = log1p(e, e.add(t, e.sqrt(e.mul(t, e.add(t, f(2.0))))));
            let big = e.add(e.log(x), f(std::f32::consts::LN_2));
            e.select(e.gt(x, f(1e9)), big, small)
        }
        Unary::Atanh => {
            let a = e.abs(x);
            let y = e.mul(f(0.5), log1p(e, e.div(e.mul(f(2.0), a), e.sub(f(1.0), a))));
            e.select(e.lt(x, f(0.0)), e.neg(y), y)
        }
        Unary::Tanh => e.tanh(x),
        Unary::Erf => e.erf(x),
        Unary::Sigmoid => sigmoid(e, x),
        Unary::Relu => e.max(x, f(0.0)),
        Unary::Floor => e.floor(x),
        Unary::Ceil => e.ceil(x),
        Unary::Round => e.round(x),
        Unary::IsNan => e.ne(x, x),
        Unary::IsInf => e.eq(e.abs(x), f(f32::INFINITY)),
    }
}

/// 1 / (1 + exp(-x)).
pub(super) fn sigmoid(e: &Expr, x: Ex) -> Ex {
    e.div(Ex::f32(1.0), e.add(Ex::f32(1.0), e.exp(e.neg(x))))
}

/// log(1 + u), also for small u: log(w) · u / (w − 1) with w = 1 + u as rounded.
pub(super) fn log1p(e: &Expr, u: Ex) -> Ex {
    let w = e.add(Ex::f32(1.0), u);
    let scaled = e.div(e.mul(e.log(w), u), e.sub(w, Ex::f32(1.0)));
    let huge = e.ge(w, Ex::f32(1e30));
    e.select(e.eq(w, Ex::f32(1.0)), u, e.select(huge, e.log(w), scaled))
}

fn cosh(e: &Expr, x: Ex) -> Ex {
    let y = e.exp(e.abs(x));
    e.fma(Ex::f32(0.5), y, e.div(Ex::f32(0.5), y))
}

/// Two reductions (1/t, then the tangent of t − π/4) and a polynomial in t² (coefficients of Cephes' atanf).
fn atan(e: &Expr, x: Ex) -> Ex {
    use std::f32::consts::{FRAC_PI_2, FRAC_PI_4};
    let f = Ex::f32;
    let a = e.abs(x);
    let steep = e.gt(a, f(1.0));
    let t = e.select(steep, e.div(f(1.0), a), a);
    let middle = e.gt(t, f(0.414_213_57));
    let r = e.select(middle, e.div(e.sub(t, f(1.0)), e.add(t, f(1.0))), t);
    let z = e.mul(r, r);
    let mut p = f(8.053_744_6e-2);
    for c in [-1.387_768_6e-1, 1.997_771_1e-1, -3.333_295e-1] {
        p = e.fma(p, z, f(c));
    }
    let small = e.fma(e.mul(p, z), r, r);
    let y = e.add(small, e.select(middle, f(FRAC_PI_4), f(0.0)));
    let y = e.select(steep, e.sub(f(FRAC_PI_2), y), y);
    e.select(e.lt(x, f(0.0)), e.neg(y), y)
}

/// Largest constant exponent that becomes multiplications.
const MAX_UNROLLED: f32 = 16.0;

fn pow_const(e: &Expr, x: Ex, y: f32) -> Ex {
    let f = Ex::f32;
    match y {
        0.0 => f(1.0),
        1.0 => x,
        0.5 => e.sqrt(x),
        -0.5 => e.rsqrt(x),
        _ if y.fract() == 0.0 && y.abs() <= MAX_UNROLLED => {
            let product = power(e, x, y.abs() as u32, f(1.0));
            if y < 0.0 { e.div(f(1.0), product) } else { product }
        }
        _ => pow(e, x, f(y)),
    }
}

/// x^n by squaring, n constant.
fn power(e: &Expr, x: Ex, n: u32, one: Ex) -> Ex {
    let (mut result, mut square, mut rest) = (None, x, n);
    while rest > 0 {
        if rest & 1 == 1 {
            result = Some(result.map_or(square, |r| e.mul(r, square)));
        }
        rest >>= 1;
        if rest > 0 {
            square = e.mul(square, square);
        }
    }
    result.unwrap_or(one)
}

/// exp(y · log|x|), with the sign of an odd power and NaN for a fractional power of a negative number.
fn pow(e: &Expr, x: Ex, y: Ex) -> Ex {
    let f = Ex::f32;
    let size = e.exp(e.mul(y, e.log(e.abs(x))));
    let whole = e.eq(e.round(y), y);
    let half = e.mul(y, f(0.5));
    let odd = e.ne(e.floor(half), half);
    let negative = e.select(whole, e.select(odd, e.neg(size), size), f(f32::NAN));
    let signed = e.select(e.lt(x, f(0.0)), negative, size);
    e.select(e.eq(y, f(0.0)), f(1.0), e.select(e.eq(x, f(1.0)), f(1.0), signed))
}

/// Integer power by squaring over the bits of the exponent; a negative exponent gives the truncated value.
fn pow_int(e: &Expr, x: Ex, y: Ex, constant: Option<i32>) -> Ex {
    let i = Ex::i32;
    if let Some(n) = constant
        && (0..=MAX_UNROLLED as i32).contains(&n)
    {
        return power(e, x, n as u32, i(1));
    }
    // Powers beyond 32 of anything but -1, 0, 1 leave i32, and those three depend on whether the exponent is odd or 0 alone.
    let n = e.select(e.gt(y, i(32)), e.add(i(32), e.and(y, i(1))), y);
    let (mut result, mut square) = (i(1), x);
    for bit in 0..6 {
        let take = e.and(e.shr(n, i(bit)), i(1));
        result = e.select(take, e.mul(result, square), result);
        square = e.mul(square, square);
    }
    let odd = e.and(y, i(1));
    let inverse = e.select(
        e.eq(x, i(1)),
        i(1),
        e.select(e.eq(x, i(-1)), e.select(odd, i(-1), i(1)), i(0)),
    );
    e.select(e.lt(y, i(0)), inverse, result)
}
