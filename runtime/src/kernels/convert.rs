//! Widening of narrow elements to f32 or i32 and narrowing back, row by row.

use super::simd::Simd;
use lockstep_isa::{DType, scalar};

/// Widens `n` elements of a dtype to f32 or i32 bits.
///
/// # Safety
/// `from` is readable for `n` elements of `dtype`, `to` writable for `n` of 4 bytes; they do not overlap.
#[inline(always)]
pub unsafe fn widen<V: Simd>(dtype: DType, from: *const u8, to: *mut u8, n: usize) {
    let to: *mut u32 = to.cast();
    let mut i = 0;
    // SAFETY: as the caller vouches.
    unsafe {
        while i + V::N <= n {
            load_wide::<V>(dtype, from, i).store(to.add(i));
            i += V::N;
        }
        while i < n {
            load_wide::<f32>(dtype, from, i).store(to.add(i));
            i += 1;
        }
    }
}

/// `N` widened elements from element `i` on.
///
/// # Safety
/// `from` is readable for `i + N` elements of `dtype`.
#[inline(always)]
pub unsafe fn load_wide<V: Simd>(dtype: DType, from: *const u8, i: usize) -> V {
    // SAFETY: as the caller vouches.
    unsafe {
        match dtype {
            DType::F32 | DType::I32 => V::load(from.cast::<u32>().add(i)),
            DType::F16 => V::load_f16(from.cast::<u16>().add(i)),
            DType::BF16 => {
                let bits = V::load_u16(from.cast::<u16>().add(i));
                V::from_bits(V::int_shl::<16>(bits))
            }
            DType::U16 => V::from_bits(V::load_u16(from.cast::<u16>().add(i))),
            DType::U8 => V::from_bits(V::load_u8(from.add(i))),
            DType::I8 => V::from_bits(V::load_i8(from.cast::<i8>().add(i))),
            DType::I4 => V::from_bits(halves::<V>(V::load_i8(from.cast::<i8>().add(i)))[0]),
        }
    }
}

/// The two integers of each pair of i4.
#[inline(always)]
pub fn halves<V: Simd>(pairs: V::Int) -> [V::Int; 2] {
    let low = V::int_shrav(V::int_shl::<28>(pairs), V::int(28));
    [low, V::int_shrav(pairs, V::int(4))]
}

/// Converts `n` elements of a dtype to f32.
///
/// # Safety
/// As for [`widen`].
#[inline(always)]
pub unsafe fn to_float<V: Simd>(dtype: DType, from: *const u8, to: *mut u8, n: usize) {
    let to: *mut u32 = to.cast();
    let mut i = 0;
    // SAFETY: as the caller vouches.
    unsafe {
        while i + V::N <= n {
            load_float::<V>(dtype, from, i).store(to.add(i));
            i += V::N;
        }
        while i < n {
            load_float::<f32>(dtype, from, i).store(to.add(i));
            i += 1;
        }
    }
}

/// `N` elements as f32 from element `i` on.
///
/// # Safety
/// As for [`load_wide`].
#[inline(always)]
pub unsafe fn load_float<V: Simd>(dtype: DType, from: *const u8, i: usize) -> V {
    // SAFETY: as the caller vouches.
    let x = unsafe { load_wide::<V>(dtype, from, i) };
    // Matched here and not by a function of another crate: a call in the loop of a product would spill its registers.
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => x,
        DType::I32 | DType::U16 | DType::I8 | DType::U8 | DType::I4 => V::from_int(x.bits()),
    }
}

/// Converts `n` elements of 4 bytes, f32 or i32 as `ty` says, to a dtype, as `cvt` does.
///
/// # Safety
/// `from` is readable for `n` elements of 4 bytes, `to` writable for `n` of `dtype`. They are the same or do not overlap.
#[inline(always)]
pub unsafe fn narrow<V: Simd>(ty: DType, dtype: DType, from: *const u8, to: *mut u8, n: usize) {
    let from: *const u32 = from.cast();
    let mut i = 0;
    // SAFETY: as the caller vouches.
    unsafe {
        while i + V::N <= n {
            store_narrow::<V>(ty, dtype, V::load(from.add(i)), to, i);
            i += V::N;
        }
        while i < n {
            let bits = from.add(i).read_unaligned();
            let x = match ty {
                DType::F32 => scalar::narrow_f32(f32::from_bits(bits), dtype),
                _ => scalar::narrow_i32(bits as i32, dtype),
            };
            match dtype.bytes() {
                1 => *to.add(i) = x as u8,
                2 => to.cast::<u16>().add(i).write_unaligned(x as u16),
                _ => to.cast::<u32>().add(i).write_unaligned(x),
            }
            i += 1;
        }
    }
}

#[inline(always)]
unsafe fn store_narrow<V: Simd>(ty: DType, dtype: DType, x: V, to: *mut u8, i: usize) {
    let float = ty == DType::F32;
    // SAFETY: the caller vouches for N elements of `dtype` from `i` on; the buffers hold N elements.
    unsafe {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => {
                let x = if float { x } else { V::from_int(x.bits()) };
                match dtype {
                    DType::F32 => x.store(to.cast::<u32>().add(i)),
                    DType::F16 => x.store_f16(to.cast::<u16>().add(i)),
                    _ => store_low::<V, u16>(bf16_bits(x), to.cast::<u16>().add(i)),
                }
            }
            _ => {
                let v = if float { x.to_int() } else { x.bits() };
                match dtype {
                    DType::I8 => store_low::<V, u8>(clamp::<V>(v, -128, 127), to.add(i)),
                    DType::I4 => {
                        let v = V::int_and(clamp::<V>(v, -8, 7), V::int(0xf));
                        store_low::<V, u8>(v, to.add(i));
                    }
                    DType::U8 => store_low::<V, u8>(clamp::<V>(v, 0, 255), to.add(i)),
                    DType::U16 => store_low::<V, u16>(clamp::<V>(v, 0, 65_535), to.cast::<u16>().add(i)),
                    _ => V::from_bits(v).store(to.cast::<u32>().add(i)),
                }
            }
        }
    }
}

/// bf16 bits, half to even; NaN stays NaN.
#[inline(always)]
fn bf16_bits<V: Simd>(x: V) -> V::Int {
    let bits = x.bits();
    let low = V::int_and(V::int_shrv(bits, V::int(16)), V::int(1));
    let rounded = V::int_add(bits, V::int_add(low, V::int(0x7fff)));
    let high = V::int_shrv(rounded, V::int(16));
    let nan = V::int_or(V::int_shrv(bits, V::int(16)), V::int(0x40));
    V::int_select(x.eq(x), high, nan)
}

#[inline(always)]
fn clamp<V: Simd>(v: V::Int, low: i32, high: i32) -> V::Int {
    let (low, high) = (V::int(low), V::int(high));
    let v = V::int_select(V::int_lt(v, low), low, v);
    V::int_select(V::int_lt(high, v), high, v)
}

/// The low byte or half of an element.
trait Low: Copy {
    fn of(x: u32) -> Self;
}

impl Low for u8 {
    #[inline(always)]
    fn of(x: u32) -> u8 {
        x as u8
    }
}

impl Low for u16 {
    #[inline(always)]
    fn of(x: u32) -> u16 {
        x as u16
    }
}

#[inline(always)]
unsafe fn store_low<V: Simd, T: Low>(v: V::Int, to: *mut T) {
    let mut buffer = [0u32; 16];
    // SAFETY: the buffer holds N elements, and the caller vouches for N elements of `to`.
    unsafe {
        V::from_bits(v).store(buffer.as_mut_ptr());
        for (j, &x) in buffer.iter().take(V::N).enumerate() {
            to.add(j).write_unaligned(T::of(x));
        }
    }
}
