//! Eight lanes: AVX2 with FMA and F16C.

use super::simd::Simd;
use lockstep_isa::math::Lane;
use std::arch::x86_64::*;

/// Eight f32 lanes.
#[derive(Clone, Copy)]
pub struct X8(__m256);

/// Calls an intrinsic of the instruction set that this type stands for.
macro_rules! x {
    ($e:expr) => {
        // SAFETY: values of this type exist only after the instruction set was detected (see `Simd`), and pointers
        // are those that the caller of an unsafe method vouches for.
        unsafe { $e }
    };
}

impl Lane for X8 {
    type Int = __m256i;
    type Mask = __m256;

    #[inline(always)]
    fn splat(v: f32) -> X8 {
        X8(x!(_mm256_set1_ps(v)))
    }
    #[inline(always)]
    fn add(self, o: X8) -> X8 {
        X8(x!(_mm256_add_ps(self.0, o.0)))
    }
    #[inline(always)]
    fn sub(self, o: X8) -> X8 {
        X8(x!(_mm256_sub_ps(self.0, o.0)))
    }
    #[inline(always)]
    fn mul(self, o: X8) -> X8 {
        X8(x!(_mm256_mul_ps(self.0, o.0)))
    }
    #[inline(always)]
    fn div(self, o: X8) -> X8 {
        X8(x!(_mm256_div_ps(self.0, o.0)))
    }
    #[inline(always)]
    fn fma(self, b: X8, c: X8) -> X8 {
        X8(x!(_mm256_fmadd_ps(self.0, b.0, c.0)))
    }
    #[inline(always)]
    fn lt(self, o: X8) -> __m256 {
        x!(_mm256_cmp_ps::<_CMP_LT_OQ>(self.0, o.0))
    }
    #[inline(always)]
    fn eq(self, o: X8) -> __m256 {
        x!(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, o.0))
    }
    #[inline(always)]
    fn select(m: __m256, a: X8, b: X8) -> X8 {
        X8(x!(_mm256_blendv_ps(b.0, a.0, m)))
    }
    #[inline(always)]
    fn bits(self) -> __m256i {
        x!(_mm256_castps_si256(self.0))
    }
    #[inline(always)]
    fn from_bits(i: __m256i) -> X8 {
        X8(x!(_mm256_castsi256_ps(i)))
    }
    #[inline(always)]
    fn int(v: i32) -> __m256i {
        x!(_mm256_set1_epi32(v))
    }
    #[inline(always)]
    fn int_add(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_add_epi32(a, b))
    }
    #[inline(always)]
    fn int_sub(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_sub_epi32(a, b))
    }
    #[inline(always)]
    fn int_and(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_and_si256(a, b))
    }
    #[inline(always)]
    fn int_or(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_or_si256(a, b))
    }
    #[inline(always)]
    fn int_xor(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_xor_si256(a, b))
    }
    #[inline(always)]
    fn int_shl<const N: u32>(a: __m256i) -> __m256i {
        x!(_mm256_sllv_epi32(a, _mm256_set1_epi32(N as i32)))
    }
    #[inline(always)]
    fn int_shr<const N: u32>(a: __m256i) -> __m256i {
        x!(_mm256_srav_epi32(a, _mm256_set1_epi32(N as i32)))
    }
    #[inline(always)]
    fn int_eq(a: __m256i, b: __m256i) -> __m256 {
        x!(_mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b)))
    }
    #[inline(always)]
    fn or_else(self, m: __m256, x: X8, f: fn(f32) -> f32) -> X8 {
        let m = x!(_mm256_movemask_ps(m));
        if m == 0xff {
            return self;
        }
        let (mut y, mut input) = ([0u32; 8], [0u32; 8]);
        x!({
            self.store(y.as_mut_ptr());
            x.store(input.as_mut_ptr());
        });
        for i in 0..8 {
            if m >> i & 1 == 0 {
                y[i] = f(f32::from_bits(input[i])).to_bits();
            }
        }
        x!(X8::load(y.as_ptr()))
    }
}

impl Simd for X8 {
    const N: usize = 8;

    #[inline(always)]
    unsafe fn load(p: *const u32) -> X8 {
        X8(x!(_mm256_loadu_ps(p.cast())))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut u32) {
        x!(_mm256_storeu_ps(p.cast(), self.0))
    }
    #[inline(always)]
    fn first(n: usize) -> __m256 {
        let lanes = x!(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        let n = x!(_mm256_set1_epi32(n.min(8) as i32));
        x!(_mm256_castsi256_ps(_mm256_cmpgt_epi32(n, lanes)))
    }
    #[inline(always)]
    unsafe fn load_masked(p: *const u32, m: __m256) -> X8 {
        X8(x!(_mm256_maskload_ps(p.cast(), _mm256_castps_si256(m))))
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut u32, m: __m256) {
        x!(_mm256_maskstore_ps(p.cast(), _mm256_castps_si256(m), self.0))
    }
    #[inline(always)]
    unsafe fn gather(p: *const u32, i: __m256i, m: __m256, other: X8) -> X8 {
        X8(x!(_mm256_mask_i32gather_ps::<4>(other.0, p.cast(), i, m)))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> X8 {
        X8(x!(_mm256_cvtph_ps(_mm_loadu_si128(p.cast()))))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16) {
        x!(_mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<0>(self.0)))
    }
    #[inline(always)]
    unsafe fn load_u16(p: *const u16) -> __m256i {
        x!(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> __m256i {
        x!(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m256i {
        x!(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))
    }
    #[inline(always)]
    fn down<const H: usize>(self) -> X8 {
        let lane = |i: usize| ((i + H) % 8) as i32;
        let from = x!(_mm256_setr_epi32(
            lane(0),
            lane(1),
            lane(2),
            lane(3),
            lane(4),
            lane(5),
            lane(6),
            lane(7)
        ));
        X8(x!(_mm256_permutevar8x32_ps(self.0, from)))
    }
    #[inline(always)]
    fn spread(self) -> X8 {
        X8(x!(_mm256_broadcastss_ps(_mm256_castps256_ps128(self.0))))
    }
    #[inline(always)]
    fn prefetch(p: *const u8) {
        x!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }
    #[inline(always)]
    fn sqrt(self) -> X8 {
        X8(x!(_mm256_sqrt_ps(self.0)))
    }
    #[inline(always)]
    fn floor(self) -> X8 {
        X8(x!(_mm256_round_ps::<9>(self.0)))
    }
    #[inline(always)]
    fn ceil(self) -> X8 {
        X8(x!(_mm256_round_ps::<10>(self.0)))
    }
    #[inline(always)]
    fn round(self) -> X8 {
        X8(x!(_mm256_round_ps::<8>(self.0)))
    }
    #[inline(always)]
    fn trunc(self) -> X8 {
        X8(x!(_mm256_round_ps::<11>(self.0)))
    }
    #[inline(always)]
    fn to_int(self) -> __m256i {
        x!({
            let i = _mm256_cvttps_epi32(self.0);
            let high = _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, _mm256_set1_ps(2_147_483_648.0));
            let max = _mm256_set1_ps(f32::from_bits(i32::MAX as u32));
            let i = _mm256_blendv_ps(_mm256_castsi256_ps(i), max, high);
            let number = _mm256_cmp_ps::<_CMP_ORD_Q>(self.0, self.0);
            _mm256_castps_si256(_mm256_and_ps(number, i))
        })
    }
    #[inline(always)]
    fn from_int(i: __m256i) -> X8 {
        X8(x!(_mm256_cvtepi32_ps(i)))
    }
    #[inline(always)]
    fn not(a: __m256) -> __m256 {
        x!(_mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1))))
    }
    #[inline(always)]
    fn int_mul(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn int_lt(a: __m256i, b: __m256i) -> __m256 {
        x!(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a)))
    }
    #[inline(always)]
    fn int_shlv(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_sllv_epi32(a, _mm256_and_si256(b, _mm256_set1_epi32(31))))
    }
    #[inline(always)]
    fn int_shrv(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_srlv_epi32(a, _mm256_and_si256(b, _mm256_set1_epi32(31))))
    }
    #[inline(always)]
    fn int_shrav(a: __m256i, b: __m256i) -> __m256i {
        x!(_mm256_srav_epi32(a, _mm256_and_si256(b, _mm256_set1_epi32(31))))
    }
}
