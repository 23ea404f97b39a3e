//! The simulator's matrix product: one vector through one tile block, the scalar definition applied column by column
//! with k ascending. Columns are independent, so that the compiler may compute several at a time; with the CPU's `fma`
//! feature each step is one instruction instead of a call of the math library.

use lockstep_isa::scalar::{mac_f32, mac_i32};

/// Columns that are computed together.
const COLUMNS: usize = 32;

/// `acc[j] = mac(x[k], w[k * acc.len() + j], acc[j])` for k ascending, all operands as bits of f32. `w` has
/// `x.len() * acc.len()` elements.
pub(crate) fn mul_f32(x: &[u32], w: &[u32], acc: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has the features that the function is compiled for.
        return unsafe { mul_f32_fma(x, w, acc) };
    }
    mul(x, w, acc, step_f32);
}

/// As [`mul_f32`] for bits of i32, in wrapping arithmetic.
pub(crate) fn mul_i32(x: &[u32], w: &[u32], acc: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has the feature that the function is compiled for.
        return unsafe { mul_i32_avx2(x, w, acc) };
    }
    mul(x, w, acc, step_i32);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn mul_f32_fma(x: &[u32], w: &[u32], acc: &mut [u32]) {
    mul(x, w, acc, step_f32);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn mul_i32_avx2(x: &[u32], w: &[u32], acc: &mut [u32]) {
    mul(x, w, acc, step_i32);
}

#[inline(always)]
fn step_f32(x: u32, w: u32, acc: u32) -> u32 {
    mac_f32(f32::from_bits(x), f32::from_bits(w), f32::from_bits(acc)).to_bits()
}

#[inline(always)]
fn step_i32(x: u32, w: u32, acc: u32) -> u32 {
    mac_i32(x as i32, w as i32, acc as i32) as u32
}

#[inline(always)]
fn mul(x: &[u32], w: &[u32], acc: &mut [u32], step: impl Fn(u32, u32, u32) -> u32) {
    let n = acc.len();
    for (chunk, out) in acc.chunks_mut(COLUMNS).enumerate() {
        let c = chunk * COLUMNS;
        let mut sums = [0u32; COLUMNS];
        sums[..out.len()].copy_from_slice(out);
        if out.len() == COLUMNS {
            for (&xk, row) in x.iter().zip(w.chunks_exact(n)) {
                for (s, &wk) in sums.iter_mut().zip(&row[c..c + COLUMNS]) {
                    *s = step(xk, wk, *s);
                }
            }
        } else {
            for (&xk, row) in x.iter().zip(w.chunks_exact(n)) {
                for (s, &wk) in sums.iter_mut().zip(&row[c..]) {
                    *s = step(xk, wk, *s);
                }
            }
        }
        out.copy_from_slice(&sums[..out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_equals_the_scalar_definition() {
        let value = |i: usize| ((i * 7919 % 1009) as f32 - 500.0) * 0.013_7;
        for (k, n) in [(1, 1), (3, 31), (17, 32), (64, 33), (96, 100), (320, 320)] {
            let bits = |i: usize| value(i).to_bits();
            let x: Vec<u32> = (0..k).map(bits).collect();
            let w: Vec<u32> = (0..k * n).map(|i| bits(i + 11)).collect();
            let start: Vec<u32> = (0..n).map(|i| bits(i + 77)).collect();
            let plain = |step: fn(u32, u32, u32) -> u32| -> Vec<u32> {
                (0..n)
                    .map(|j| (0..k).fold(start[j], |a, i| step(x[i], w[i * n + j], a)))
                    .collect()
            };
            let mut got = start.clone();
            mul_f32(&x, &w, &mut got);
            assert_eq!(got, plain(step_f32), "f32 {k}x{n}");
            let mut got = start.clone();
            mul(&x, &w, &mut got, step_f32);
            assert_eq!(got, plain(step_f32), "scalar f32 {k}x{n}");
            let mut got = start.clone();
            mul_i32(&x, &w, &mut got);
            assert_eq!(got, plain(step_i32), "i32 {k}x{n}");
        }
    }
}
