//! Kernels of the cpu executor: the only unsafe code of this crate.
//!
//! Every kernel is written once, generic over a register type (`simd::Simd`), and instantiated for AVX-512, AVX2 and
//! plain f32. All instances compute the bits that `isa::scalar` defines. [`Kernels::new`] picks an instance after
//! checking that the host has its instructions.

#![allow(unsafe_code)]

mod ahead;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod convert;
mod drive;
mod gemm;
mod map;
mod moves;
mod peak;
#[cfg(feature = "sim")]
pub(crate) mod sim_mul;
mod simd;
mod team;

#[cfg(test)]
mod tests;

use crate::executor::Simd as Level;
pub use drive::{Local, MAX_BLOCK, Machine, Probe};
pub use gemm::{Factor, Product, Scales};
use lockstep_isa::{AluOp, DType};
pub use map::{Lines, MapArgs, exp};
pub use moves::{copy_pieces, transpose};
pub use team::Team;

type Map = unsafe fn(AluOp, DType, &MapArgs);
type Widen = unsafe fn(DType, *const u8, *mut u8, usize);
type Narrow = unsafe fn(DType, DType, *const u8, *mut u8, usize);
type Reduce = unsafe fn(AluOp, DType, usize, *const u8, *mut u8, usize);
type Permute = unsafe fn(*const u8, *const u8, *mut u8, usize, usize, usize, usize, u32);
type Sum = unsafe fn(&[(Lines, Lines)], &MapArgs);
type Pack = unsafe fn(DType, &[*const u8], usize, usize, usize, *mut u8);
type Multiply = unsafe fn(&Product<'_>);
type Peak = unsafe fn(u64) -> u64;

/// The kernels of one SIMD level.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// The level.
    pub level: Level,
    /// `map::map`.
    pub map: Map,
    /// `convert::widen`.
    pub widen: Widen,
    /// `convert::narrow`.
    pub narrow: Narrow,
    /// `moves::reduce`.
    pub reduce: Reduce,
    /// `moves::permute`.
    pub permute: Permute,
    /// `map::multiply_add`.
    pub multiply_add: Sum,
    /// `moves::pack_columns`.
    pub pack_columns: Pack,
    /// `gemm::product`.
    pub product: Multiply,
    peak: Peak,
}

macro_rules! level {
    ($name:ident, $level:ident, $v:ty, $nv:literal $(, $feature:literal)?) => {
        mod $name {
            use super::*;

            struct OnLevel;

            impl map::Rows for OnLevel {
                unsafe fn run<O: map::Op>(args: &MapArgs) {
                    // SAFETY: as the caller vouches.
                    unsafe { one_op::<O>(args) }
                }
            }

            /// # Safety
            /// See [`map::map`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn one_op<O: map::Op>(args: &MapArgs) {
                // SAFETY: as the caller vouches.
                unsafe { map::rows::<$v, O>(args) }
            }

            impl gemm::Level for OnLevel {
                const N: usize = <$v as simd::Simd>::N;

                unsafe fn one_panel<W: gemm::Weight>(
                    p: &Product<'_>,
                    x: &[*const u8],
                    acc: &[*mut u8],
                    at: gemm::Place,
                ) {
                    // SAFETY: as the caller vouches.
                    unsafe { one_panel::<W>(p, x, acc, at) }
                }

                unsafe fn panels<W: gemm::Weight>(p: &Product<'_>, at: gemm::Place, count: usize) {
                    // SAFETY: as the caller vouches.
                    unsafe { panels::<W>(p, at, count) }
                }

                unsafe fn to_float(dtype: DType, from: *const u8, to: *mut u8, n: usize) {
                    // SAFETY: as the caller vouches.
                    unsafe { to_float(dtype, from, to, n) }
                }
            }

            /// # Safety
            /// See [`gemm::one_panel`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn one_panel<W: gemm::Weight>(
                p: &Product<'_>,
                x: &[*const u8],
                acc: &[*mut u8],
                at: gemm::Place,
            ) {
                // SAFETY: as the caller vouches.
                unsafe { gemm::one_panel::<$v, W, $nv>(p, x, acc, at) }
            }

            /// # Safety
            /// See [`gemm::panels`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn panels<W: gemm::Weight>(p: &Product<'_>, at: gemm::Place, count: usize) {
                // SAFETY: as the caller vouches.
                unsafe { gemm::panels::<$v, W, $nv>(p, at, count) }
            }

            /// # Safety
            /// See [`convert::to_float`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn to_float(dtype: DType, from: *const u8, to: *mut u8, n: usize) {
                // SAFETY: as the caller vouches.
                unsafe { convert::to_float::<$v>(dtype, from, to, n) }
            }

            /// # Safety
            /// See [`convert::widen`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn widen(dtype: DType, from: *const u8, to: *mut u8, n: usize) {
                // SAFETY: as the caller vouches.
                unsafe { convert::widen::<$v>(dtype, from, to, n) }
            }

            /// # Safety
            /// See [`convert::narrow`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn narrow(ty: DType, dtype: DType, from: *const u8, to: *mut u8, n: usize) {
                // SAFETY: as the caller vouches.
                unsafe { convert::narrow::<$v>(ty, dtype, from, to, n) }
            }

            /// # Safety
            /// See [`moves::reduce`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn reduce(
                op: AluOp,
                ty: DType,
                segment: usize,
                from: *const u8,
                to: *mut u8,
                n: usize,
            ) {
                // SAFETY: as the caller vouches.
                unsafe { moves::reduce::<$v>(op, ty, segment, from, to, n) }
            }

            /// # Safety
            /// See [`moves::permute`]; the host has the instructions of this level.
            #[allow(clippy::too_many_arguments)]
            $(#[target_feature(enable = $feature)])?
            unsafe fn permute(
                from: *const u8,
                map: *const u8,
                to: *mut u8,
                size: usize,
                lanes: usize,
                lo: usize,
                hi: usize,
                fill: u32,
            ) {
                // SAFETY: as the caller vouches.
                unsafe { moves::permute::<$v>(from, map, to, size, lanes, lo, hi, fill) }
            }

            /// # Safety
            /// See [`map::multiply_add`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn multiply_add(terms: &[(Lines, Lines)], args: &MapArgs) {
                // SAFETY: as the caller vouches.
                unsafe { map::multiply_add::<$v>(terms, args) }
            }

            /// # Safety
            /// See [`moves::pack_columns`]; the host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn pack_columns(
                dtype: DType,
                columns: &[*const u8],
                k0: usize,
                k: usize,
                width: usize,
                to: *mut u8,
            ) {
                // SAFETY: as the caller vouches.
                unsafe { moves::pack_columns::<$v>(dtype, columns, k0, k, width, to) }
            }

            /// # Safety
            /// The host has the instructions of this level.
            $(#[target_feature(enable = $feature)])?
            unsafe fn multiply_adds(steps: u64) -> u64 {
                peak::multiply_adds::<$v>(steps)
            }

            pub(super) const KERNELS: Kernels = Kernels {
                level: Level::$level,
                map: map::map::<OnLevel>,
                widen,
                narrow,
                reduce,
                permute,
                multiply_add,
                pack_columns,
                product: gemm::product::<OnLevel>,
                peak: multiply_adds,
            };
        }
    };
}

level!(on_scalar, Scalar, f32, 32);
#[cfg(target_arch = "x86_64")]
level!(on_avx2, Avx2, avx2::X8, 4, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
level!(
    on_avx512,
    Avx512,
    avx512::X16,
    2,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
);

impl Kernels {
    /// Most multiply-adds per second of one thread at this level, times two: measured for about 20 ms.
    pub fn peak_flops(&self) -> f64 {
        let mut best = 0.0f64;
        for _ in 0..10 {
            let start = std::time::Instant::now();
            // SAFETY: `new` hands out only levels that the host has.
            let flops = unsafe { (self.peak)(200_000) };
            best = best.max(flops as f64 / start.elapsed().as_secs_f64());
        }
        best
    }

    /// The kernels of a level, or of the best one the host has; `None` where the host lacks the level asked for.
    pub fn new(level: Option<Level>) -> Option<Kernels> {
        match level {
            None => Some(
                Kernels::new(Some(Level::Avx512))
                    .or_else(|| Kernels::new(Some(Level::Avx2)))
                    .unwrap_or(on_scalar::KERNELS),
            ),
            Some(Level::Scalar) => Some(on_scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Some(Level::Avx2) => has_avx2().then_some(on_avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Some(Level::Avx512) => {
                let has = has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                has.then_some(on_avx512::KERNELS)
            }
            #[cfg(not(target_arch = "x86_64"))]
            Some(_) => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

/// Keeps the float environment of the machine's rules (round to nearest even, denormals kept, no traps) until dropped.
pub struct FloatEnvironment {
    #[cfg(target_arch = "x86_64")]
    saved: u32,
}

impl FloatEnvironment {
    /// Sets the environment on this thread.
    pub fn enter() -> FloatEnvironment {
        #[cfg(target_arch = "x86_64")]
        {
            let mut saved = 0u32;
            let wanted = 0x1f80u32;
            // SAFETY: both instructions access four bytes of memory; this value masks all exceptions.
            unsafe {
                std::arch::asm!("stmxcsr [{}]", in(reg) &mut saved, options(nostack));
                std::arch::asm!("ldmxcsr [{}]", in(reg) &wanted, options(nostack, readonly));
            }
            FloatEnvironment { saved }
        }
        #[cfg(not(target_arch = "x86_64"))]
        FloatEnvironment {}
    }
}

impl Drop for FloatEnvironment {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: restores the value that `enter` read.
            unsafe {
                std::arch::asm!("ldmxcsr [{}]", in(reg) &self.saved, options(nostack, readonly));
            }
        }
    }
}
