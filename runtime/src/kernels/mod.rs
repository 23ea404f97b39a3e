//! Kernels: the only module of this crate with unsafe code, all of it calls of functions compiled for a CPU feature that
//! was detected first. Every kernel has a scalar twin and a test that both agree bit for bit.
#![allow(unsafe_code)]

#[cfg(feature = "sim")]
pub(crate) mod sim_mul;
