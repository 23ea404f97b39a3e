//! Sixteen lanes: AVX-512 F, BW, DQ and VL, with FMA and F16C.

use super::simd::Simd;
use lockstep_isa::math::Lane;
use std::arch::x86_64::*;

/// Sixteen f32 lanes.
#[derive(Clone, Copy)]
pub struct X16(__m512);

/// Calls an intrinsic of the instruction set that this type stands for.
macro_rules! x {
    ($e:expr) => {
        // SAFETY: values of this type exist only after the instruction set was detected (see `Simd`), and pointers
        // are those that the caller of an unsafe method vouches for.
        unsafe { $e }
    };
}

impl Lane for X16 {
    type Int = __m512i;
    type Mask = __mmask16;

    #[inline(always)]
    fn splat(v: f32) -> X16 {
        X16(x!(_mm512_set1_ps(v)))
    }
    #[inline(always)]
    fn add(self, o: X16) -> X16 {
        X16(x!(_mm512_add_ps(self.0, o.0)))
    }
    #[inline(always)]
    fn sub(self, o: X16) -> X16 {
        X16(x!(_mm512_sub_ps(self.0, o.0)))
    }
    #[inline(always)]
    fn mul(self, o: X16) -> X16 {
        X16(x!(_mm512_mul_ps(self.0, o.0)))
    }
    #[inline(always)]
    fn div(self, o: X16) -> X16 {
        X16(x!(_mm512_div_ps(self.0, o.0)))
    }
    #[inline(always)]
    fn fma(self, b: X16, c: X16) -> X16 {
        X16(x!(_mm512_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn lt(self, o: X16) -> __mmask16 {
        x!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, o.0))
    }
    #[inline(always)]
    fn eq(self, o: X16) -> __mmask16 {
        x!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, o.0))
    }
    #[inline(always)]
    fn select(m: __mmask16, a: X16, b: X16) -> X16 {
        X16(x!(_mm512_mask_blend_ps(m, b.0, a.0)))
    }
    #[inline(always)]
    fn bits(self) -> __m512i {
        x!(_mm512_castps_si512(self.0))
    }
    #[inline(always)]
    fn from_bits(i: __m512i) -> X16 {
        X16(x!(_mm512_castsi512_ps(i)))
    }
    #[inline(always)]
    fn int(v: i32) -> __m512i {
        x!(_mm512_set1_epi32(v))
    }
    #[inline(always)]
    fn int_add(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn int_sub(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_sub_epi32(a, b))
    }
    #[inline(always)]
    fn int_and(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_and_si512(a, b))
    }
    #[inline(always)]
    fn int_or(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn int_xor(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_xor_si512(a, b))
    }
    #[inline(always)]
    fn int_shl<const N: u32>(a: __m512i) -> __m512i {
        x!(_mm512_slli_epi32::<N>(a))
    }
    #[inline(always)]
    fn int_shr<const N: u32>(a: __m512i) -> __m512i {
        x!(_mm512_srai_epi32::<N>(a))
    }
    #[inline(always)]
    fn int_eq(a: __m512i, b: __m512i) -> __mmask16 {
        x!(_mm512_cmpeq_epi32_mask(a, b))
    }
    #[inline(always)]
    fn or_else(self, m: __mmask16, x: X16, f: fn(f32) -> f32) -> X16 {
        if m == 0xffff {
            return self;
        }
        let (mut y, mut input) = ([0u32; 16], [0u32; 16]);
        x!({
            self.store(y.as_mut_ptr());
            x.store(input.as_mut_ptr());
        });
        for i in 0..16 {
            if m >> i & 1 == 0 {
                y[i] = f(f32::from_bits(input[i])).to_bits();
            }
        }
        x!(X16::load(y.as_ptr()))
    }
}

impl Simd for X16 {
    const N: usize = 16;

    #[inline(always)]
    unsafe fn load(p: *const u32) -> X16 {
        X16(x!(_mm512_loadu_ps(p.cast())))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u32) {
        x!(_mm512_storeu_ps(p.cast(), self.0))
    }
    #[inline(always)]
    fn first(n: usize) -> __mmask16 {
        (0xffff_u32 >> (16 - n.min(16))) as __mmask16
    }
    #[inline(always)]
    unsafe fn load_masked(p: *const u32, m: __mmask16) -> X16 {
        X16(x!(_mm512_maskz_loadu_ps(m, p.cast())))
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut u32, m: __mmask16) {
        x!(_mm512_mask_storeu_ps(p.cast(), m, self.0))
    }
    #[inline(always)]
    unsafe fn gather(p: *const u32, i: __m512i, m: __mmask16, other: X16) -> X16 {
        X16(x!(_mm512_mask_i32gather_ps::<4>(other.0, m, i, p.cast())))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> X16 {
        X16(x!(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        x!(_mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<0>(self.0)))
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> __m512i {
        x!(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m512i {
        x!(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m512i {
        x!(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    fn down<const H: usize>(self) -> X16 {
        let i = self.bits();
        X16::from_bits(x!(match H {
            1 => _mm512_alignr_epi32::<1>(i, i),
            2 => _mm512_alignr_epi32::<2>(i, i),
            4 => _mm512_alignr_epi32::<4>(i, i),
            _ => _mm512_alignr_epi32::<8>(i, i),
        }))
    }
    #[inline(always)]
    fn spread(self) -> X16 {
        X16(x!(_mm512_broadcastss_ps(_mm512_castps512_ps128(self.0))))
    }
    #[inline(always)]
    fn prefetch(p: *const u8) {
        x!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }
    #[inline(always)]
    fn sqrt(self) -> X16 {
        X16(x!(_mm512_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn floor(self) -> X16 {
        X16(x!(_mm512_roundscale_ps::<9>(self.0)))
    }
    #[inline(always)]
    fn ceil(self) -> X16 {
        X16(x!(_mm512_roundscale_ps::<10>(self.0)))
    }
    #[inline(always)]
    fn round(self) -> X16 {
        X16(x!(_mm512_roundscale_ps::<8>(self.0)))
    }
    #[inline(always)]
    fn trunc(self) -> X16 {
        X16(x!(_mm512_roundscale_ps::<11>(self.0)))
    }
    #[inline(always)]
    fn to_int(self) -> __m512i {
        x!({
            let i = _mm512_cvttps_epi32(self.0);
            let high = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, _mm512_set1_ps(2_147_483_648.0));
            let i = _mm512_mask_mov_epi32(i, high, _mm512_set1_epi32(i32::MAX));
            let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(self.0, self.0);
            _mm512_maskz_mov_epi32(number, i)
        })
    }
    #[inline(always)]
    fn from_int(i: __m512i) -> X16 {
        X16(x!(_mm512_cvtepi32_ps(i)))
    }
    #[inline(always)]
    fn not(a: __mmask16) -> __mmask16 {
        !a
    }
    #[inline(always)]
    fn int_mul(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn int_lt(a: __m512i, b: __m512i) -> __mmask16 {
        x!(_mm512_cmplt_epi32_mask(a, b))
    }
    #[inline(always)]
    fn int_shlv(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_sllv_epi32(a, _mm512_and_si512(b, _mm512_set1_epi32(31))))
    }
    #[inline(always)]
    fn int_shrv(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_srlv_epi32(a, _mm512_and_si512(b, _mm512_set1_epi32(31))))
    }
    #[inline(always)]
    fn int_shrav(a: __m512i, b: __m512i) -> __m512i {
        x!(_mm512_srav_epi32(a, _mm512_and_si512(b, _mm512_set1_epi32(31))))
    }
}
