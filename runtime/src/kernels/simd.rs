//! A register of lanes: what the kernels are written in, and its scalar form.

use lockstep_isa::math::Lane;

/// A register of `N` f32 or i32 lanes.
///
/// All operations follow `isa::scalar`. The types of this trait other than `f32` exist only inside functions that were
/// called after their instruction set was detected; that is what makes their methods sound.
pub trait Simd: Lane {
    /// Lanes.
    const N: usize;

    /// Loads `N` lanes of 4 bytes.
    ///
    /// # Safety
    /// `p` is readable for `N` elements.
    unsafe fn load(p: *const u32) -> Self;
    /// Stores `N` lanes of 4 bytes.
    ///
    /// # Safety
    /// `p` is writable for `N` elements.
    unsafe fn store(self, p: *mut u32);
    /// The first `n` lanes, all of them where `n` is more than there are.
    fn first(n: usize) -> Self::Mask;
    /// Loads the lanes of a mask; the others are zero.
    ///
    /// # Safety
    /// `p` is readable for the elements of these lanes.
    unsafe fn load_masked(p: *const u32, m: Self::Mask) -> Self;
    /// Stores the lanes of a mask.
    ///
    /// # Safety
    /// `p` is writable for the elements of these lanes.
    unsafe fn store_masked(self, p: *mut u32, m: Self::Mask);
    /// Loads element `i` from `p` on for the lanes of a mask; the others are those of `other`.
    ///
    /// # Safety
    /// `p` is readable for the elements of these lanes, whose indices are not negative.
    unsafe fn gather(p: *const u32, i: Self::Int, m: Self::Mask, other: Self) -> Self;
    /// Loads `N` binary16 and widens them.
    ///
    /// # Safety
    /// `p` is readable for `N` elements.
    unsafe fn load_f16(p: *const u16) -> Self;
    /// Rounds to binary16, half to even, and stores `N` elements.
    ///
    /// # Safety
    /// `p` is writable for `N` elements.
    unsafe fn store_f16(self, p: *mut u16);
    /// Loads `N` unsigned 16-bit integers.
    ///
    /// # Safety
    /// `p` is readable for `N` elements.
    unsafe fn load_u16(p: *const u16) -> Self::Int;
    /// Loads `N` unsigned 8-bit integers.
    ///
    /// # Safety
    /// `p` is readable for `N` elements.
    unsafe fn load_u8(p: *const u8) -> Self::Int;
    /// Loads `N` signed 8-bit integers.
    ///
    /// # Safety
    /// `p` is readable for `N` elements.
    unsafe fn load_i8(p: *const i8) -> Self::Int;

    /// Lane i is lane `i + H`, for `H` of 1, 2, 4 or 8 below `N` and lanes that exist; the others are undefined.
    fn down<const H: usize>(self) -> Self;
    /// Lane 0 on every lane.
    fn spread(self) -> Self;
    /// Asks for a line to be fetched into the second-level cache. Any address will do.
    #[inline(always)]
    fn prefetch(_p: *const u8) {}
    /// Square root.
    fn sqrt(self) -> Self;
    /// Rounds down.
    fn floor(self) -> Self;
    /// Rounds up.
    fn ceil(self) -> Self;
    /// Rounds to the nearest integer, half to even.
    fn round(self) -> Self;
    /// Rounds towards zero.
    fn trunc(self) -> Self;
    /// Truncates to i32, saturating; NaN gives 0.
    fn to_int(self) -> Self::Int;
    /// Rounds i32 to f32, half to even.
    fn from_int(i: Self::Int) -> Self;
    /// The other lanes.
    fn not(a: Self::Mask) -> Self::Mask;
    /// `a * b`, wrapping.
    fn int_mul(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a < b`, signed.
    fn int_lt(a: Self::Int, b: Self::Int) -> Self::Mask;
    /// `a << (b & 31)`.
    fn int_shlv(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a >> (b & 31)`, logical.
    fn int_shrv(a: Self::Int, b: Self::Int) -> Self::Int;
    /// `a >> (b & 31)`, arithmetic.
    fn int_shrav(a: Self::Int, b: Self::Int) -> Self::Int;

    /// `m ? a : b` on integers.
    #[inline(always)]
    fn int_select(m: Self::Mask, a: Self::Int, b: Self::Int) -> Self::Int {
        Self::select(m, Self::from_bits(a), Self::from_bits(b)).bits()
    }
}

impl Simd for f32 {
    const N: usize = 1;

    #[inline(always)]
    unsafe fn load(p: *const u32) -> f32 {
        // SAFETY: the caller vouches for one readable element.
        f32::from_bits(unsafe { p.read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u32) {
        // SAFETY: the caller vouches for one writable element.
        unsafe { p.write_unaligned(self.to_bits()) }
    }
    #[inline(always)]
    fn first(n: usize) -> bool {
        n > 0
    }
    #[inline(always)]
    unsafe fn load_masked(p: *const u32, m: bool) -> f32 {
        match m {
            // SAFETY: the caller vouches for the element.
            true => f32::from_bits(unsafe { p.read_unaligned() }),
            false => 0.0,
        }
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut u32, m: bool) {
        if m {
            // SAFETY: the caller vouches for the element.
            unsafe { p.write_unaligned(self.to_bits()) }
        }
    }
    #[inline(always)]
    unsafe fn gather(p: *const u32, i: i32, m: bool, other: f32) -> f32 {
        match m {
            // SAFETY: the caller vouches for the element.
            true => f32::from_bits(unsafe { p.add(i as usize).read_unaligned() }),
            false => other,
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> f32 {
        // SAFETY: the caller vouches for one readable element.
        half::f16::from_bits(unsafe { p.read_unaligned() }).to_f32()
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        // SAFETY: the caller vouches for one writable element.
        unsafe { p.write_unaligned(half::f16::from_f32(self).to_bits()) }
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> i32 {
        // SAFETY: the caller vouches for one readable element.
        unsafe { p.read_unaligned() as i32 }
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> i32 {
        // SAFETY: the caller vouches for one readable element.
        unsafe { *p as i32 }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> i32 {
        // SAFETY: the caller vouches for one readable element.
        unsafe { *p as i32 }
    }
    #[inline(always)]
    fn down<const H: usize>(self) -> f32 {
        self
    }
    #[inline(always)]
    fn spread(self) -> f32 {
        self
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn floor(self) -> f32 {
        f32::floor(self)
    }
    #[inline(always)]
    fn ceil(self) -> f32 {
        f32::ceil(self)
    }
    #[inline(always)]
    fn round(self) -> f32 {
        self.round_ties_even()
    }
    #[inline(always)]
    fn trunc(self) -> f32 {
        f32::trunc(self)
    }
    #[inline(always)]
    fn to_int(self) -> i32 {
        self as i32
    }
    #[inline(always)]
    fn from_int(i: i32) -> f32 {
        i as f32
    }
    #[inline(always)]
    fn not(a: bool) -> bool {
        !a
    }
    #[inline(always)]
    fn int_mul(a: i32, b: i32) -> i32 {
        a.wrapping_mul(b)
    }
    #[inline(always)]
    fn int_lt(a: i32, b: i32) -> bool {
        a < b
    }
    #[inline(always)]
    fn int_shlv(a: i32, b: i32) -> i32 {
        a.wrapping_shl(b as u32)
    }
    #[inline(always)]
    fn int_shrv(a: i32, b: i32) -> i32 {
        (a as u32).wrapping_shr(b as u32) as i32
    }
    #[inline(always)]
    fn int_shrav(a: i32, b: i32) -> i32 {
        a.wrapping_shr(b as u32)
    }
}
