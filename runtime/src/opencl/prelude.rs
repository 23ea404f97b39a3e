//! The OpenCL C functions that kernels are made of: every ALU operation and conversion, on bits.
//!
//! A lane is a `uint` with the bits of an element, as in `isa::scalar`, whose rules these functions follow. The elementary
//! functions come from `isa::math` itself ([`super::trace`]).

use super::trace;
use lockstep_isa::math::TWO_OVER_PI_BITS;

/// Everything that stands before the kernels, for work-groups of `items` work-items per row.
pub fn text(items: usize) -> String {
    let bits: Vec<String> = TWO_OVER_PI_BITS.iter().map(|b| format!("0x{b:08x}u")).collect();
    let table = format!("__constant uint TWO_OVER_PI[8] = {{ {} }};\n", bits.join(", "));
    let sync = match items {
        1 => "#define SYNC\n#define LID 0u\n#define EACH _Pragma(\"clang loop vectorize(assume_safety)\")\n",
        _ => {
            "#define SYNC barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);\n\
             #define LID ((uint)get_local_id(0))\n#define EACH\n"
        }
    };
    let ahead = match items {
        1 => "#ifdef __clang__\n#define AHEAD(p) __builtin_prefetch(p);\n#else\n#define AHEAD(p)\n#endif\n",
        _ => "#define AHEAD(p)\n",
    };
    format!(
        "#pragma OPENCL FP_CONTRACT OFF\n#define LS {items}u\n{ahead}{sync}{table}{}{HUGE}{OPERATIONS}",
        trace::functions()
    )
}

/// `sin` and `cos` from 65536 on: the product with the bits of 2/pi that matter, then what `isa::math` does in f64, in integers.
const HUGE: &str = r"
static int reduce_huge(float x, float *high, float *low) {
    const uint bits = as_uint(x);
    const int e = (int)(bits >> 23 & 0xffu) - 150;
    const uint m = (bits & 0x007fffffu) | 0x00800000u;
    const uint skip = (uint)max(e - 2, 0), at = skip / 32u, s = skip % 32u;
    const ulong t01 = (ulong)TWO_OVER_PI[at] << 32 | TWO_OVER_PI[at + 1];
    const ulong t12 = (ulong)TWO_OVER_PI[at + 1] << 32 | TWO_OVER_PI[at + 2];
    const ulong t23 = (ulong)TWO_OVER_PI[at + 2] << 32 | TWO_OVER_PI[at + 3];
    ulong a = (ulong)m * (uint)(t23 << s >> 32);
    uint p0 = (uint)a;
    a = (a >> 32) + (ulong)m * (uint)(t12 << s >> 32);
    uint p1 = (uint)a;
    a = (a >> 32) + (ulong)m * (uint)(t01 << s >> 32);
    uint p2 = (uint)a;
    const uint p3 = (uint)(a >> 32), d = (uint)max(2 - e, 0);
    if (d > 0u) {
        p0 = p0 >> d | p1 << (32u - d);
        p1 = p1 >> d | p2 << (32u - d);
        p2 = p2 >> d | p3 << (32u - d);
    }
    int n = (int)(((ulong)p2 + 0x20000000ul) >> 30);
    p2 -= (uint)n << 30;
    int negative = (int)(p2 >> 31);
    if (negative) {
        p0 = ~p0 + 1u;
        p1 = ~p1 + (p0 == 0u ? 1u : 0u);
        p2 = ~p2 + (p0 == 0u && p1 == 0u ? 1u : 0u);
    }
    *high = 0.0f;
    *low = 0.0f;
    if ((p0 | p1 | p2) != 0u) {
        /* The fraction as 53 bits, half to even: f * 2^(lead - 52). */
        int lead = p2 != 0u ? 95 - (int)clz(p2) : p1 != 0u ? 63 - (int)clz(p1) : 31 - (int)clz(p0);
        const ulong low64 = (ulong)p1 << 32 | p0;
        ulong f;
        if (lead <= 52) {
            f = low64 << (52 - lead);
        } else {
            const uint c = (uint)(lead - 52);
            f = low64 >> c | (ulong)p2 << (64u - c);
            const ulong rest = low64 & ((1ul << c) - 1ul), mid = 1ul << (c - 1u);
            f += rest > mid || (rest == mid && (f & 1ul) != 0ul) ? 1ul : 0ul;
            if (f >> 53 != 0ul) { f >>= 1; lead += 1; }
        }
        /* Times pi/2, again 53 bits. */
        const ulong half_pi = 0x1921fb54442d18ul;
        const ulong top = mul_hi(f, half_pi), bottom = f * half_pi;
        uint c = top >> 41 != 0ul ? 53u : 52u;
        ulong q = top << (64u - c) | bottom >> c;
        const ulong rest = bottom & ((1ul << c) - 1ul), mid = 1ul << (c - 1u);
        q += rest > mid || (rest == mid && (q & 1ul) != 0ul) ? 1ul : 0ul;
        if (q >> 53 != 0ul) { q >>= 1; c += 1u; }
        const int scale = lead - 146 - 52 + (int)c;
        ulong h = q >> 29;
        const ulong left = q & 0x1ffffffful;
        h += left > 0x10000000ul || (left == 0x10000000ul && (h & 1ul) != 0ul) ? 1ul : 0ul;
        *high = ldexp((float)h, scale + 29);
        *low = ldexp((float)(int)((long)q - (long)(h << 29)), scale);
        if (negative) { *high = -*high; *low = -*low; }
    }
    if (x < 0.0f) { *high = -*high; *low = -*low; n = -n; }
    return n;
}
static float sin_huge(float x) {
    if ((as_uint(x) & 0x7f800000u) == 0x7f800000u) return as_float(0x7fc00000u);
    float r, c;
    const int n = reduce_huge(x, &r, &c);
    return quadrant(r, c, n);
}
static float cos_huge(float x) {
    if ((as_uint(x) & 0x7f800000u) == 0x7f800000u) return as_float(0x7fc00000u);
    float r, c;
    const int n = reduce_huge(x, &r, &c);
    return quadrant(r, c, n + 1);
}
";

const OPERATIONS: &str = r"
#define F(x) as_float(x)
#define I(x) as_int(x)
#define U(x) as_uint(x)
static inline uint add_f(uint a, uint b) { return U(F(a) + F(b)); }
static inline uint sub_f(uint a, uint b) { return U(F(a) - F(b)); }
static inline uint mul_f(uint a, uint b) { return U(F(a) * F(b)); }
static inline uint div_f(uint a, uint b) { return U(F(a) / F(b)); }
static inline uint fma_f(uint a, uint b, uint c) { return U(fma(F(a), F(b), F(c))); }
static inline uint min_f(uint a, uint b) {
    const uint rest = F(a) == F(b) ? a | b : 0x7fc00000u;
    return F(a) < F(b) ? a : F(b) < F(a) ? b : rest;
}
static inline uint max_f(uint a, uint b) {
    const uint rest = F(a) == F(b) ? a & b : 0x7fc00000u;
    return F(b) < F(a) ? a : F(a) < F(b) ? b : rest;
}
static inline uint eq_f(uint a, uint b) { return F(a) == F(b) ? 1u : 0u; }
static inline uint ne_f(uint a, uint b) { return F(a) != F(b) ? 1u : 0u; }
static inline uint lt_f(uint a, uint b) { return F(a) < F(b) ? 1u : 0u; }
static inline uint le_f(uint a, uint b) { return F(a) <= F(b) ? 1u : 0u; }
static inline uint gt_f(uint a, uint b) { return F(a) > F(b) ? 1u : 0u; }
static inline uint ge_f(uint a, uint b) { return F(a) >= F(b) ? 1u : 0u; }
static inline uint select_f(uint a, uint b, uint c) { return F(a) != 0.0f ? b : c; }
static inline uint abs_f(uint a) { return a & 0x7fffffffu; }
static inline uint neg_f(uint a) { return a ^ 0x80000000u; }
static inline uint floor_f(uint a) { return U(floor(F(a))); }
static inline uint ceil_f(uint a) { return U(ceil(F(a))); }
static inline uint round_f(uint a) { return U(rint(F(a))); }
static inline uint trunc_f(uint a) { return U(trunc(F(a))); }
static inline uint sqrt_f(uint a) { return U(sqrt(F(a))); }
static inline uint rsqrt_f(uint a) { return U(1.0f / sqrt(F(a))); }
static inline uint exp_f(uint a) { return U(math_exp(F(a))); }
static inline uint log_f(uint a) { return U(math_log(F(a))); }
static inline uint tanh_f(uint a) { return U(math_tanh(F(a))); }
static inline uint erf_f(uint a) { return U(math_erf(F(a))); }
static inline uint sin_f(uint a) { return U(math_sin(F(a))); }
static inline uint cos_f(uint a) { return U(math_cos(F(a))); }
static inline uint copy_f(uint a) { return a; }
static inline int to_int(float x) {
    const int inside = x > -2147483648.0f && x < 2147483648.0f;
    const int i = (int)(inside ? x : 0.0f);
    return x >= 2147483648.0f ? 0x7fffffff : x <= -2147483648.0f ? (int)0x80000000 : i;
}
static inline uint cvt_f(uint a) { return U(to_int(F(a))); }
static inline uint add_i(uint a, uint b) { return a + b; }
static inline uint sub_i(uint a, uint b) { return a - b; }
static inline uint mul_i(uint a, uint b) { return a * b; }
static inline uint fma_i(uint a, uint b, uint c) { return a * b + c; }
static inline uint div_i(uint a, uint b) {
    const int whole = b != 0u && !(a == 0x80000000u && b == 0xffffffffu);
    const int q = I(a) / (whole ? I(b) : 1);
    return b == 0u ? 0u : U(q);
}
static inline uint min_i(uint a, uint b) { return I(a) < I(b) ? a : b; }
static inline uint max_i(uint a, uint b) { return I(a) > I(b) ? a : b; }
static inline uint eq_i(uint a, uint b) { return a == b ? 1u : 0u; }
static inline uint ne_i(uint a, uint b) { return a != b ? 1u : 0u; }
static inline uint lt_i(uint a, uint b) { return I(a) < I(b) ? 1u : 0u; }
static inline uint le_i(uint a, uint b) { return I(a) <= I(b) ? 1u : 0u; }
static inline uint gt_i(uint a, uint b) { return I(a) > I(b) ? 1u : 0u; }
static inline uint ge_i(uint a, uint b) { return I(a) >= I(b) ? 1u : 0u; }
static inline uint select_i(uint a, uint b, uint c) { return a != 0u ? b : c; }
static inline uint and_i(uint a, uint b) { return a & b; }
static inline uint or_i(uint a, uint b) { return a | b; }
static inline uint xor_i(uint a, uint b) { return a ^ b; }
static inline uint shl_i(uint a, uint b) { return a << (b & 31u); }
static inline uint shr_i(uint a, uint b) { return a >> (b & 31u); }
static inline uint shra_i(uint a, uint b) { return U(I(a) >> (b & 31u)); }
static inline uint abs_i(uint a) { return I(a) < 0 ? 0u - a : a; }
static inline uint neg_i(uint a) { return 0u - a; }
static inline uint copy_i(uint a) { return a; }
static inline uint cvt_i(uint a) { return U((float)I(a)); }
static inline uint widen_f32(uint a) { return a; }
static inline uint widen_i32(uint a) { return a; }
static inline uint widen_bf16(uint a) { return a << 16; }
static inline uint widen_u16(uint a) { return a; }
static inline uint widen_u8(uint a) { return a; }
static inline uint widen_i8(uint a) { return U((int)(char)(uchar)a); }
static inline uint widen_f16(uint a) {
    const uint m = (a & 0x7fffu) << 13, sign = (a & 0x8000u) << 16;
    const uint finite = U(F(m) * F(0x77800000u));
    return sign | (m >= 0x0f800000u ? m | 0x70000000u : finite);
}
static inline uint narrow_f_f32(uint a) { return a; }
static inline uint narrow_f_i32(uint a) { return cvt_f(a); }
static inline uint narrow_f_bf16(uint a) {
    const uint rounded = (a + ((a >> 16 & 1u) + 0x7fffu)) >> 16;
    return F(a) == F(a) ? rounded : a >> 16 | 0x40u;
}
static inline uint narrow_f_f16(uint a) {
    const uint sign = a >> 16 & 0x8000u, x = a & 0x7fffffffu;
    const uint small = U(F(x) + 0.5f) - 0x3f000000u;
    const uint normal = (x + 0xc8000fffu + (x >> 13 & 1u)) >> 13;
    const uint large = x > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return sign | (x >= 0x47800000u ? large : x < 0x38800000u ? small : normal);
}
static inline uint narrow_i_i8(uint a) { return U(clamp(I(a), -128, 127)) & 0xffu; }
static inline uint narrow_i_u8(uint a) { return U(clamp(I(a), 0, 255)); }
static inline uint narrow_i_u16(uint a) { return U(clamp(I(a), 0, 65535)); }
static inline uint narrow_i_i32(uint a) { return a; }
static inline uint narrow_i_f32(uint a) { return cvt_i(a); }
static inline uint narrow_i_f16(uint a) { return narrow_f_f16(cvt_i(a)); }
static inline uint narrow_i_bf16(uint a) { return narrow_f_bf16(cvt_i(a)); }
static inline uint narrow_f_i8(uint a) { return narrow_i_i8(cvt_f(a)); }
static inline uint narrow_f_u8(uint a) { return narrow_i_u8(cvt_f(a)); }
static inline uint narrow_f_u16(uint a) { return narrow_i_u16(cvt_f(a)); }
static inline __global const uchar *space_of(
    __global uchar *mem, __global uchar *scr, __global const uchar *pool, __global const uchar *wts, long s
) {
    return s == 0l ? (__global const uchar *)mem : s == 1l ? (__global const uchar *)scr : s == 2l ? pool : wts;
}
static inline long rows_at(__global const long *p, uint row) {
    const uint n = (uint)p[1] + row, inner = (uint)p[2], middle = (uint)p[3], rest = n / inner;
    return p[0] + (long)(n % inner) * p[4] + (long)(rest % middle) * p[5] + (long)(rest / middle) * p[6];
}
static inline uint chosen(uint index, uint limit) { return limit == 0u ? 0u : min(index, limit - 1u); }
";
