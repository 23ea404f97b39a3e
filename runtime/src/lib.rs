//! Load an artifact and execute it.
//!
//! An [`Executor`] turns an artifact into a [`Session`]; a session runs entries and keeps their state. Executors are
//! chosen by name with [`lookup`]. All of them compute the same bits: *sim* steps the instructions cycle by cycle and
//! fails on any hazard, *cpu* runs one fused kernel per chain.
//!
//! What they share: [`HostIo`] moves tensors between the host and chip memory, [`Memory`] holds the rows that an
//! artifact uses, [`plan`] links its chains to steps over rows, [`ExecError`] says what went wrong.

mod aligned;
pub mod cpu;
pub mod error;
pub mod executor;
pub mod host_convert;
pub mod host_io;
pub mod host_tensor;
pub mod kernels;
pub mod memory;
#[cfg(feature = "opencl")]
pub mod opencl;
pub mod plan;
#[cfg(feature = "sim")]
pub mod sim;

pub use cpu::{Cpu, CpuSession};
pub use error::ExecError;
pub use executor::{Executor, LoadOptions, Outputs, Session, Simd, StepTime, lookup};
pub use host_io::HostIo;
pub use host_tensor::{HostTensor, TensorView};
pub use memory::Memory;
