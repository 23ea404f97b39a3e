//! Operations across lanes: reduce, permute, transpose, packing.

use super::simd::Simd;
use crate::plan::Piece;
use lockstep_isa::scalar::{self, PARTIALS};
use lockstep_isa::{AluOp, DType};

/// Reduces every whole segment of `n` widened elements and puts the result on all lanes of the segment.
///
/// # Safety
/// `from` is readable and `to` writable for `n` elements of 4 bytes; they are the same or do not overlap.
#[inline(always)]
pub unsafe fn reduce<V: Simd>(op: AluOp, ty: DType, segment: usize, from: *const u8, to: *mut u8, n: usize) {
    let (from, to): (*const u32, *mut u32) = (from.cast(), to.cast());
    if segment == 0 {
        return;
    }
    for s in 0..n / segment {
        // The 16 partial results, in registers.
        let mut partial = [V::splat(f32::from_bits(scalar::identity(op, ty))); PARTIALS];
        let registers = PARTIALS / V::N;
        // SAFETY: segment `s` lies within the `n` elements that the caller vouches for; registers divide PARTIALS.
        let result = unsafe {
            let x = from.add(s * segment);
            let whole = segment / PARTIALS * PARTIALS;
            let mut i = 0;
            while i < whole {
                for (j, p) in partial.iter_mut().enumerate().take(registers) {
                    *p = combine(op, ty, *p, V::load(x.add(i + j * V::N)));
                }
                i += PARTIALS;
            }
            if whole < segment {
                let mut lanes = [0u32; PARTIALS];
                for (j, p) in partial.iter().enumerate().take(registers) {
                    p.store(lanes.as_mut_ptr().add(j * V::N));
                }
                for (j, p) in lanes.iter_mut().enumerate().take(segment - whole) {
                    *p = scalar::combine(op, ty, *p, x.add(whole + j).read_unaligned());
                }
                for (j, p) in partial.iter_mut().enumerate().take(registers) {
                    *p = V::load(lanes.as_ptr().add(j * V::N));
                }
            }
            halves(op, ty, &mut partial).spread()
        };
        // SAFETY: as above.
        unsafe {
            let y = to.add(s * segment);
            let mut i = 0;
            while i + V::N <= segment {
                result.store(y.add(i));
                i += V::N;
            }
            if i < segment {
                let mut lanes = [0u32; PARTIALS];
                result.store(lanes.as_mut_ptr());
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), y.add(i), segment - i);
            }
        }
    }
}

/// Combines the partial results by halves, the first with the second, down to one in lane 0 of the result.
#[inline(always)]
fn halves<V: Simd>(op: AluOp, ty: DType, partial: &mut [V; PARTIALS]) -> V {
    let mut registers = PARTIALS / V::N;
    while registers > 1 {
        registers /= 2;
        for j in 0..registers {
            partial[j] = combine(op, ty, partial[j], partial[j + registers]);
        }
    }
    let mut x = partial[0];
    if V::N > 8 {
        x = combine(op, ty, x, x.down::<8>());
    }
    if V::N > 4 {
        x = combine(op, ty, x, x.down::<4>());
        x = combine(op, ty, x, x.down::<2>());
        x = combine(op, ty, x, x.down::<1>());
    }
    x
}

/// One step of a reduction on registers.
#[inline(always)]
fn combine<V: Simd>(op: AluOp, ty: DType, acc: V, x: V) -> V {
    let float = ty == DType::F32;
    match (op, float) {
        (AluOp::Add, true) => acc.add(x),
        (AluOp::Mul, true) => acc.mul(x),
        (AluOp::Min, true) => super::map::min(acc, x),
        (AluOp::Max, true) => super::map::max(acc, x),
        (AluOp::Add, false) => V::from_bits(V::int_add(acc.bits(), x.bits())),
        (AluOp::Mul, false) => V::from_bits(V::int_mul(acc.bits(), x.bits())),
        (AluOp::Min, false) => V::select(V::int_lt(acc.bits(), x.bits()), acc, x),
        (AluOp::Max, false) => V::select(V::int_lt(x.bits(), acc.bits()), acc, x),
        _ => acc,
    }
}

/// `to[l] = map[l] == 0xffff ? fill : from[map[l]]` for lanes `[lo, hi)`; an entry beyond `lanes` gives the fill.
///
/// # Safety
/// `from` is readable for `lanes` elements of `size` bytes, `map` for `hi` entries, `to` writable for `hi` elements;
/// `to` does not overlap the others.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub unsafe fn permute<V: Simd>(
    from: *const u8,
    map: *const u8,
    to: *mut u8,
    size: usize,
    lanes: usize,
    mut lo: usize,
    hi: usize,
    fill: u32,
) {
    let map: *const u16 = map.cast();
    while size == 4 && lo + V::N <= hi {
        // SAFETY: lanes `lo .. lo + N` are below `hi`, and an index below `lanes` where it is used.
        unsafe {
            let i = V::load_u16(map.add(lo));
            let inside = V::int_lt(i, V::int(lanes as i32));
            let x = V::gather(from.cast(), i, inside, V::splat(f32::from_bits(fill)));
            x.store(to.cast::<u32>().add(lo));
        }
        lo += V::N;
    }
    for l in lo..hi {
        // SAFETY: `l < hi`, and `i < lanes` where it is used.
        unsafe {
            let i = map.add(l).read_unaligned() as usize;
            match size {
                4 => {
                    let x = match i < lanes {
                        true => from.cast::<u32>().add(i).read_unaligned(),
                        false => fill,
                    };
                    to.cast::<u32>().add(l).write_unaligned(x);
                }
                2 => {
                    let x = match i < lanes {
                        true => from.cast::<u16>().add(i).read_unaligned(),
                        false => fill as u16,
                    };
                    to.cast::<u16>().add(l).write_unaligned(x);
                }
                _ => *to.add(l) = if i < lanes { *from.add(i) } else { fill as u8 },
            }
        }
    }
}

/// Copies ranges of a row, and fills what they leave of it with elements of `size` bytes.
///
/// # Safety
/// Every piece lies in the row at `to` and, where it is copied, in that at `from`; the rows do not overlap.
#[inline(always)]
pub unsafe fn copy_pieces(from: *const u8, to: *mut u8, pieces: &[Piece], size: usize, fill: u32) {
    for p in pieces {
        let bytes = p.bytes as usize;
        // SAFETY: as the caller vouches.
        unsafe {
            let to = to.add(p.to as usize);
            match p.from {
                Some(at) => std::ptr::copy_nonoverlapping(from.add(at as usize), to, bytes),
                None => match size {
                    4 => (0..bytes / 4).for_each(|i| to.cast::<u32>().add(i).write_unaligned(fill)),
                    2 => (0..bytes / 2).for_each(|i| to.cast::<u16>().add(i).write_unaligned(fill as u16)),
                    _ => std::ptr::write_bytes(to, fill as u8, bytes),
                },
            }
        }
    }
}

/// Row `i` of the result is `[from[0][lo + i], from[1][lo + i], ...]`, for every `i` below `to.len()`.
///
/// # Safety
/// Every row of `from` is readable for `lo + to.len()` elements of `size` bytes and every row of `to` writable for
/// `from.len()`; they do not overlap.
#[inline(always)]
pub unsafe fn transpose(from: &[*const u8], to: &[*mut u8], size: usize, lo: usize) {
    for (i, &out) in to.iter().enumerate() {
        for (j, &row) in from.iter().enumerate() {
            // SAFETY: `i` and `j` are within the rows that the caller vouches for.
            unsafe {
                match size {
                    4 => {
                        let x = row.cast::<u32>().add(lo + i).read_unaligned();
                        out.cast::<u32>().add(j).write_unaligned(x);
                    }
                    2 => {
                        let x = row.cast::<u16>().add(lo + i).read_unaligned();
                        out.cast::<u16>().add(j).write_unaligned(x);
                    }
                    _ => *out.add(j) = *row.add(lo + i),
                }
            }
        }
    }
}

/// Packs columns of weights, each given as a row with k contiguous, into a widened k-major panel:
/// `to[k * width + n] = columns[n][k0 + k]`; columns from `columns.len()` to `width` are zero.
///
/// # Safety
/// Every column is readable for `k0 + k` elements of `dtype`; `to` is writable for `k * width` elements of 4 bytes;
/// `columns.len() <= width`.
#[inline(always)]
pub unsafe fn pack_columns<V: Simd>(
    dtype: DType,
    columns: &[*const u8],
    k0: usize,
    k: usize,
    width: usize,
    to: *mut u8,
) {
    let to: *mut u32 = to.cast();
    const BLOCK: usize = 16;
    let mut buffer = [[0u32; BLOCK]; BLOCK];
    let mut n0 = 0;
    while n0 < width {
        let columns = columns.get(n0..).unwrap_or(&[]);
        let columns = &columns[..columns.len().min(BLOCK)];
        let mut kk = 0;
        while kk < k {
            let depth = (k - kk).min(BLOCK);
            // SAFETY: `kk + depth <= k` elements of each column, `n0 + BLOCK` columns capped at `width` of the panel.
            unsafe {
                for (row, &column) in buffer.iter_mut().zip(columns) {
                    let at = column.add((k0 + kk) * dtype.bytes());
                    super::convert::widen::<V>(dtype, at, row.as_mut_ptr().cast(), depth);
                }
                let count = (width - n0).min(BLOCK);
                for d in 0..depth {
                    let line = to.add((kk + d) * width + n0);
                    for (j, row) in buffer.iter().enumerate().take(count) {
                        line.add(j).write(if j < columns.len() { row[d] } else { 0 });
                    }
                }
            }
            kk += depth;
        }
        n0 += BLOCK;
    }
}
