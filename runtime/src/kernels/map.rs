//! Elementwise operations over rows: every ALU operation on f32 and i32, generic over the register type.

use super::simd::Simd;
use lockstep_isa::math::{self, Lane};
use lockstep_isa::{AluOp, DType};

/// Rows at equal distances.
#[derive(Clone, Copy)]
pub struct Lines {
    /// The first row.
    pub first: *mut u8,
    /// Bytes from a row to the next.
    pub step: isize,
}

impl Lines {
    /// No rows.
    pub const NONE: Lines = Lines {
        first: std::ptr::null_mut(),
        step: 0,
    };

    /// Row `i`.
    #[inline(always)]
    pub fn at(&self, i: usize) -> *mut u8 {
        self.first.wrapping_offset(i as isize * self.step)
    }
}

/// Rows of an elementwise operation: each reads `n` elements of 4 bytes of the operands that the operation has and writes
/// as many.
#[derive(Clone, Copy)]
pub struct MapArgs {
    /// First operands.
    pub a: Lines,
    /// Second operands.
    pub b: Lines,
    /// Third operands.
    pub c: Lines,
    /// Results. A result may lie exactly on an operand, but must not overlap one otherwise.
    pub out: Lines,
    /// Rows.
    pub rows: usize,
    /// Elements per row.
    pub n: usize,
}

/// One operation on registers of bits.
pub(super) trait Op {
    /// Operands used.
    const ARITY: usize;
    /// Applies it.
    fn apply<V: Simd>(a: V, b: V, c: V) -> V;
}

macro_rules! ops {
    ($($name:ident $arity:literal |$a:ident, $b:ident, $c:ident| $body:expr;)*) => {
        $(
            pub(super) struct $name;
            impl Op for $name {
                const ARITY: usize = $arity;
                #[inline(always)]
                #[allow(unused_variables)]
                fn apply<V: Simd>($a: V, $b: V, $c: V) -> V {
                    $body
                }
            }
        )*
    };
}

/// Integer 1 where the mask holds, else 0.
#[inline(always)]
fn flag<V: Simd>(m: V::Mask) -> V {
    V::from_bits(V::int_select(m, V::int(1), V::int(0)))
}

/// The value that is not taken by `min` and `max` where neither is less: `same` for equal ones, else NaN.
#[inline(always)]
fn tie<V: Simd>(a: V, b: V, same: V::Int) -> V {
    V::select(a.eq(b), V::from_bits(same), V::splat(f32::NAN))
}

#[inline(always)]
pub(super) fn min<V: Simd>(a: V, b: V) -> V {
    let rest = tie(a, b, V::int_or(a.bits(), b.bits()));
    V::select(a.lt(b), a, V::select(b.lt(a), b, rest))
}

#[inline(always)]
pub(super) fn max<V: Simd>(a: V, b: V) -> V {
    let rest = tie(a, b, V::int_and(a.bits(), b.bits()));
    V::select(b.lt(a), a, V::select(a.lt(b), b, rest))
}

#[inline(always)]
fn not_equal<V: Simd>(a: V, b: V) -> V {
    flag(V::not(a.eq(b)))
}

#[inline(always)]
fn at_most<V: Simd>(a: V, b: V) -> V {
    V::select(a.lt(b), flag(a.lt(b)), flag(a.eq(b)))
}

#[inline(always)]
fn int_at_most<V: Simd>(a: V, b: V) -> V {
    flag(V::not(V::int_lt(b.bits(), a.bits())))
}

/// i32 division lane by lane.
#[inline(always)]
fn int_div<V: Simd>(a: V, b: V) -> V {
    let (mut x, mut y) = ([0u32; 16], [0u32; 16]);
    // SAFETY: both buffers hold at least N elements.
    unsafe {
        a.store(x.as_mut_ptr());
        b.store(y.as_mut_ptr());
    }
    for (p, q) in x.iter_mut().zip(&y).take(V::N) {
        *p = lockstep_isa::scalar::div_i32(*p as i32, *q as i32) as u32;
    }
    // SAFETY: the buffer holds at least N elements.
    unsafe { V::load(x.as_ptr()) }
}

/// Below this, `e^x` rounds to zero.
pub(super) const EXP_ZERO: f32 = -103.98;

/// `e^x`. Lanes whose result is zero go another way to it than through denormal numbers, which processors are slow at:
/// a mask of a softmax makes many of them.
#[inline(always)]
pub fn exp<L: Lane>(x: L) -> L {
    let none = x.lt(L::splat(EXP_ZERO));
    L::select(none, L::splat(0.0), math::exp(L::select(none, L::splat(0.0), x)))
}

ops! {
    AddF 2 |a, b, c| a.add(b);
    SubF 2 |a, b, c| a.sub(b);
    MulF 2 |a, b, c| a.mul(b);
    FmaF 3 |a, b, c| a.fma(b, c);
    DivF 2 |a, b, c| a.div(b);
    MinF 2 |a, b, c| min(a, b);
    MaxF 2 |a, b, c| max(a, b);
    EqF 2 |a, b, c| flag(a.eq(b));
    NeF 2 |a, b, c| not_equal(a, b);
    LtF 2 |a, b, c| flag(a.lt(b));
    LeF 2 |a, b, c| at_most(a, b);
    GtF 2 |a, b, c| flag(b.lt(a));
    GeF 2 |a, b, c| at_most(b, a);
    SelectF 3 |a, b, c| V::select(a.eq(V::splat(0.0)), c, b);
    SelectI 3 |a, b, c| V::select(V::int_eq(a.bits(), V::int(0)), c, b);
    Abs 1 |a, b, c| a.abs();
    Neg 1 |a, b, c| V::from_bits(V::int_xor(a.bits(), V::int(i32::MIN)));
    Floor 1 |a, b, c| a.floor();
    Ceil 1 |a, b, c| a.ceil();
    Round 1 |a, b, c| a.round();
    Trunc 1 |a, b, c| a.trunc();
    Sqrt 1 |a, b, c| a.sqrt();
    Rsqrt 1 |a, b, c| V::splat(1.0).div(a.sqrt());
    Exp 1 |a, b, c| exp(a);
    Log 1 |a, b, c| math::log(a);
    Tanh 1 |a, b, c| math::tanh(a);
    Erf 1 |a, b, c| math::erf(a);
    Sin 1 |a, b, c| math::sin(a);
    Cos 1 |a, b, c| math::cos(a);
    Copy 1 |a, b, c| a;
    IntOfFloat 1 |a, b, c| V::from_bits(a.to_int());
    FloatOfInt 1 |a, b, c| V::from_int(a.bits());
    AddI 2 |a, b, c| V::from_bits(V::int_add(a.bits(), b.bits()));
    SubI 2 |a, b, c| V::from_bits(V::int_sub(a.bits(), b.bits()));
    MulI 2 |a, b, c| V::from_bits(V::int_mul(a.bits(), b.bits()));
    FmaI 3 |a, b, c| V::from_bits(V::int_add(V::int_mul(a.bits(), b.bits()), c.bits()));
    DivI 2 |a, b, c| int_div(a, b);
    MinI 2 |a, b, c| V::select(V::int_lt(a.bits(), b.bits()), a, b);
    MaxI 2 |a, b, c| V::select(V::int_lt(b.bits(), a.bits()), a, b);
    EqI 2 |a, b, c| flag(V::int_eq(a.bits(), b.bits()));
    NeI 2 |a, b, c| flag(V::not(V::int_eq(a.bits(), b.bits())));
    LtI 2 |a, b, c| flag(V::int_lt(a.bits(), b.bits()));
    LeI 2 |a, b, c| int_at_most(a, b);
    GtI 2 |a, b, c| flag(V::int_lt(b.bits(), a.bits()));
    GeI 2 |a, b, c| int_at_most(b, a);
    And 2 |a, b, c| V::from_bits(V::int_and(a.bits(), b.bits()));
    Or 2 |a, b, c| V::from_bits(V::int_or(a.bits(), b.bits()));
    Xor 2 |a, b, c| V::from_bits(V::int_xor(a.bits(), b.bits()));
    Shl 2 |a, b, c| V::from_bits(V::int_shlv(a.bits(), b.bits()));
    Shr 2 |a, b, c| V::from_bits(V::int_shrv(a.bits(), b.bits()));
    Shra 2 |a, b, c| V::from_bits(V::int_shrav(a.bits(), b.bits()));
    NegI 1 |a, b, c| V::from_bits(V::int_sub(V::int(0), a.bits()));
    AbsI 1 |a, b, c| V::select(
        V::int_lt(a.bits(), V::int(0)),
        V::from_bits(V::int_sub(V::int(0), a.bits())),
        a
    );
}

/// Runs one operation over rows on the registers of a level: a function of its own for each operation, compiled for the
/// level's instructions.
pub(super) trait Rows {
    /// # Safety
    /// As for [`map`].
    unsafe fn run<O: Op>(args: &MapArgs);
}

/// # Safety
/// As for [`map`].
#[inline(always)]
pub(super) unsafe fn rows<V: Simd, O: Op>(args: &MapArgs) {
    let whole = args.n / V::N;
    let rest = args.n % V::N;
    for r in 0..args.rows {
        let [a, b, c, out] = [args.a, args.b, args.c, args.out].map(|l| l.at(r).cast::<u32>());
        // SAFETY: the caller vouches for `n` elements of each operand that the operation has; what is left of a row goes
        // through buffers of a whole register.
        unsafe {
            for i in 0..whole {
                one::<V, O>(a, b, c, out, i * V::N);
            }
            if rest > 0 {
                let mut spare = [[0u32; 16]; 4];
                let at = whole * V::N;
                for (to, from) in spare.iter_mut().zip([a, b, c]).take(O::ARITY) {
                    std::ptr::copy_nonoverlapping(from.wrapping_add(at), to.as_mut_ptr(), rest);
                }
                let [x, y, z, result] = &mut spare;
                one::<V, O>(x.as_mut_ptr(), y.as_mut_ptr(), z.as_mut_ptr(), result.as_mut_ptr(), 0);
                std::ptr::copy_nonoverlapping(result.as_ptr(), out.wrapping_add(at), rest);
            }
        }
    }
}

/// Registers of a row whose sums are held at a time.
const HELD: usize = 4;

/// Adds products to operand `c`, one after the other in the order of the terms, without storing a sum in between.
///
/// # Safety
/// As for [`map`]; every row of every term is readable for `n` elements.
#[inline(always)]
pub(super) unsafe fn multiply_add<V: Simd>(terms: &[(Lines, Lines)], args: &MapArgs) {
    let live = |at: usize| V::first(args.n.saturating_sub(at));
    for r in 0..args.rows {
        let (c, out) = (args.c.at(r).cast::<u32>(), args.out.at(r).cast::<u32>());
        let mut at = 0;
        // SAFETY: the caller vouches for `n` elements of each row.
        unsafe {
            while at + HELD * V::N <= args.n {
                let mut sums: [V; HELD] = std::array::from_fn(|v| V::load(c.wrapping_add(at + v * V::N)));
                for (a, b) in terms {
                    let (a, b) = (
                        a.at(r).cast::<u32>().wrapping_add(at),
                        b.at(r).cast::<u32>().wrapping_add(at),
                    );
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = V::load(a.wrapping_add(v * V::N)).fma(V::load(b.wrapping_add(v * V::N)), *sum);
                    }
                }
                for (v, sum) in sums.iter().enumerate() {
                    sum.store(out.wrapping_add(at + v * V::N));
                }
                at += HELD * V::N;
            }
            while at < args.n {
                let mask = live(at);
                let mut sum = V::load_masked(c.wrapping_add(at), mask);
                for (a, b) in terms {
                    let a = V::load_masked(a.at(r).cast::<u32>().wrapping_add(at), mask);
                    let b = V::load_masked(b.at(r).cast::<u32>().wrapping_add(at), mask);
                    sum = a.fma(b, sum);
                }
                sum.store_masked(out.wrapping_add(at), mask);
                at += V::N;
            }
        }
    }
}

/// One register from element `i` on.
///
/// # Safety
/// As for [`map`], for a whole register.
#[inline(always)]
unsafe fn one<V: Simd, O: Op>(a: *mut u32, b: *mut u32, c: *mut u32, out: *mut u32, i: usize) {
    // SAFETY: as the caller vouches.
    unsafe {
        let x = V::load(a.wrapping_add(i));
        let y = if O::ARITY > 1 { V::load(b.wrapping_add(i)) } else { x };
        let z = if O::ARITY > 2 { V::load(c.wrapping_add(i)) } else { x };
        O::apply(x, y, z).store(out.wrapping_add(i));
    }
}

/// Applies an operation on widened operands of type `ty` (F32 or I32) to rows; `ty` of a select is that of its
/// condition, of a `cvt` that of its operand, whose other type is the result's. An operation that
/// `isa::scalar::is_defined` denies gives zeros.
///
/// # Safety
/// Every pointer is valid for `n` elements of 4 bytes; results do not partly overlap operands.
pub(super) unsafe fn map<R: Rows>(op: AluOp, ty: DType, args: &MapArgs) {
    macro_rules! go {
        ($o:ident) => {
            // SAFETY: as the caller of `map` vouches.
            unsafe { R::run::<$o>(args) }
        };
    }
    if ty == DType::F32 {
        match op {
            AluOp::Add => go!(AddF),
            AluOp::Sub => go!(SubF),
            AluOp::Mul => go!(MulF),
            AluOp::Fma => go!(FmaF),
            AluOp::Div => go!(DivF),
            AluOp::Min => go!(MinF),
            AluOp::Max => go!(MaxF),
            AluOp::Eq => go!(EqF),
            AluOp::Ne => go!(NeF),
            AluOp::Lt => go!(LtF),
            AluOp::Le => go!(LeF),
            AluOp::Gt => go!(GtF),
            AluOp::Ge => go!(GeF),
            AluOp::Select => go!(SelectF),
            AluOp::Abs => go!(Abs),
            AluOp::Neg => go!(Neg),
            AluOp::Floor => go!(Floor),
            AluOp::Ceil => go!(Ceil),
            AluOp::Round => go!(Round),
            AluOp::Trunc => go!(Trunc),
            AluOp::Sqrt => go!(Sqrt),
            AluOp::Rsqrt => go!(Rsqrt),
            AluOp::Exp => go!(Exp),
            AluOp::Log => go!(Log),
            AluOp::Tanh => go!(Tanh),
            AluOp::Erf => go!(Erf),
            AluOp::Sin => go!(Sin),
            AluOp::Cos => go!(Cos),
            AluOp::Copy => go!(Copy),
            AluOp::Cvt => go!(IntOfFloat),
            _ => zero(args),
        }
    } else {
        match op {
            AluOp::Add => go!(AddI),
            AluOp::Sub => go!(SubI),
            AluOp::Mul => go!(MulI),
            AluOp::Fma => go!(FmaI),
            AluOp::Div => go!(DivI),
            AluOp::Min => go!(MinI),
            AluOp::Max => go!(MaxI),
            AluOp::Eq => go!(EqI),
            AluOp::Ne => go!(NeI),
            AluOp::Lt => go!(LtI),
            AluOp::Le => go!(LeI),
            AluOp::Gt => go!(GtI),
            AluOp::Ge => go!(GeI),
            AluOp::Select => go!(SelectI),
            AluOp::And => go!(And),
            AluOp::Or => go!(Or),
            AluOp::Xor => go!(Xor),
            AluOp::Shl => go!(Shl),
            AluOp::Shr => go!(Shr),
            AluOp::Shra => go!(Shra),
            AluOp::Abs => go!(AbsI),
            AluOp::Neg => go!(NegI),
            AluOp::Copy => go!(Copy),
            AluOp::Cvt => go!(FloatOfInt),
            _ => zero(args),
        }
    }
}

fn zero(args: &MapArgs) {
    for r in 0..args.rows {
        // SAFETY: the caller of `map` vouches for `n` elements per row.
        unsafe { std::ptr::write_bytes(args.out.at(r), 0, args.n * 4) };
    }
}
