//! The operations that the elementary functions are made of.

/// One f32 or a register of them.
///
/// Every operation is IEEE 754 binary32, round to nearest even, denormals kept, lane by lane; integers wrap.
/// `fma` rounds once.
pub trait Lane: Copy {
    /// As many i32 as there are f32 lanes.
    type Int: Copy;
    /// As many truth values.
    type Mask: Copy;

    /// The same value on every lane.
    fn splat(v: f32) -> Self;
    /// `self + o`.
    fn add(self, o: Self) -> Self;
    /// `self - o`.
    fn sub(self, o: Self) -> Self;
    /// `self * o`.
    fn mul(self, o: Self) -> Self;
    /// `self / o`.
    fn div(self, o: Self) -> Self;
    /// `self * b + c`, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;
    /// `self < o`; false where either is NaN.
    fn lt(self, o: Self) -> Self::Mask;
    /// `self == o`; false where either is NaN.
    fn eq(self, o: Self) -> Self::Mask;
    /// `m ? a : b`.
    fn select(m: Self::Mask, a: Self, b: Self) -> Self;
    /// The bits of the lanes.
    fn bits(self) -> Self::Int;
    /// Lanes of these bits.
    fn from_bits(i: Self::Int) -> Self;

    /// The same integer on every lane.
    fn int(v: i32) -> Self::Int;
    /// `a + b`.
    fn int_add(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a - b`.
    fn int_sub(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a & b`.
    fn int_and(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a | b`.
    fn int_or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a ^ b`.
    fn int_xor(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a << N`.
    fn int_shl<const N: u32>(a: Self::Int) -> Self::Int;
    /// `a >> N`, arithmetic.
    fn int_shr<const N: u32>(a: Self::Int) -> Self::Int;
    /// `a == b`.
    fn int_eq(a: Self::Int, b: Self::Int) -> Self::Mask;

    /// `m ? self : f(x)`, where `f` is evaluated for the lanes outside `m` only, one by one.
    fn or_else(self, m: Self::Mask, x: Self, f: fn(f32) -> f32) -> Self;

    /// `|self|`, also of a NaN.
    #[inline(always)]
    fn abs(self) -> Self {
        Self::from_bits(Self::int_and(self.bits(), Self::int(0x7fff_ffff)))
    }

    /// The sign bits alone.
    #[inline(always)]
    fn sign(self) -> Self::Int {
        Self::int_and(self.bits(), Self::int(i32::MIN))
    }
}

impl Lane for f32 {
    type Int = i32;
    type Mask = bool;

    #[inline(always)]
    fn splat(v: f32) -> f32 {
        v
    }
    #[inline(always)]
    fn add(self, o: f32) -> f32 {
        self + o
    }
    #[inline(always)]
    fn sub(self, o: f32) -> f32 {
        self - o
    }
    #[inline(always)]
    fn mul(self, o: f32) -> f32 {
        self * o
    }
    #[inline(always)]
    fn div(self, o: f32) -> f32 {
        self / o
    }
    #[inline(always)]
    fn fma(self, b: f32, c: f32) -> f32 {
        self.mul_add(b, c)
    }
    #[inline(always)]
    fn lt(self, o: f32) -> bool {
        self < o
    }
    #[inline(always)]
    fn eq(self, o: f32) -> bool {
        self == o
    }
    #[inline(always)]
    fn select(m: bool, a: f32, b: f32) -> f32 {
        if m { a } else { b }
    }
    #[inline(always)]
    fn bits(self) -> i32 {
        self.to_bits() as i32
    }
    #[inline(always)]
    fn from_bits(i: i32) -> f32 {
        f32::from_bits(i as u32)
    }
    #[inline(always)]
    fn int(v: i32) -> i32 {
        v
    }
    #[inline(always)]
    fn int_add(a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    fn int_sub(a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }
    #[inline(always)]
    fn int_and(a: i32, b: i32) -> i32 {
        a & b
    }
    #[inline(always)]
    fn int_or(a: i32, b: i32) -> i32 {
        a | b
    }
    #[inline(always)]
    fn int_xor(a: i32, b: i32) -> i32 {
        a ^ b
    }
    #[inline(always)]
    fn int_shl<const N: u32>(a: i32) -> i32 {
        a.wrapping_shl(N)
    }
    #[inline(always)]
    fn int_shr<const N: u32>(a: i32) -> i32 {
        a.wrapping_shr(N)
    }
    #[inline(always)]
    fn int_eq(a: i32, b: i32) -> bool {
        a == b
    }
    #[inline(always)]
    fn or_else(self, m: bool, x: f32, f: fn(f32) -> f32) -> f32 {
        if m { self } else { f(x) }
    }
}
