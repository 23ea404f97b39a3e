//! The interface of all executors, and the table of their names.

use crate::error::ExecError;
use crate::host_tensor::{HostTensor, TensorView};
use lockstep_isa::Artifact;
use std::sync::Arc;

/// SIMD level of the cpu executor's kernels. All levels compute the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Simd {
    /// No SIMD instructions.
    Scalar,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512.
    Avx512,
}

/// How to load an artifact. None of it changes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Threads that a session may use, at least 1; *sim* uses one.
    pub threads: usize,
    /// SIMD level; `None` picks the best that the host has.
    pub simd: Option<Simd>,
    /// Most bytes of chip memory (rows, belts, accumulators) that the session may allocate.
    pub max_memory_bytes: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            threads: 1,
            simd: None,
            max_memory_bytes: 32 << 30,
        }
    }
}

/// A backend that can run artifacts.
pub trait Executor {
    /// Name under which [`lookup`] finds it.
    fn name(&self) -> &'static str;

    /// Checks an artifact and prepares it to run: everything that a run needs is allocated here.
    ///
    /// # Errors
    /// An artifact that contradicts itself or its target, memory over the limit.
    fn load(&self, artifact: Arc<Artifact>, options: &LoadOptions) -> Result<Box<dyn Session>, ExecError>;
}

/// A loaded artifact with its state. State starts at zero.
pub trait Session {
    /// Runs an entry on inputs in the order of its signature. The outputs belong to the session and are valid until
    /// the next run.
    ///
    /// # Errors
    /// An entry out of range, inputs that do not match the signature, a hazard.
    fn run(&mut self, entry: usize, inputs: &[TensorView<'_>]) -> Result<Outputs<'_>, ExecError>;

    /// As [`Session::run`]; gives the time that each part of the run took on the calling thread, in the order of execution.
    /// Empty where the executor does not measure.
    ///
    /// # Errors
    /// As [`Session::run`].
    fn profile(&mut self, entry: usize, inputs: &[TensorView<'_>]) -> Result<Vec<StepTime>, ExecError> {
        self.run(entry, inputs)?;
        Ok(Vec::new())
    }

    /// Name of the device; `None` where there is none.
    fn device(&self) -> Option<&str> {
        None
    }

    /// Commands that a run of an entry gives to a device; `None` where there is no device.
    fn enqueues(&self, _entry: usize) -> Option<usize> {
        None
    }

    /// Sets every state to zero.
    fn reset_state(&mut self);
}

/// Time that a part of a run took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// Chain of the entry; `None` for what belongs to no chain.
    pub chain: Option<u32>,
    /// What was done: `product`, `pack`, `map`, `transpose`, `by issue`, `wait`, `input`, `output`.
    pub kind: &'static str,
    /// Nanoseconds.
    pub nanoseconds: u64,
}

/// Results of a run, borrowed from the session.
#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    /// Tensors in the order of the signature.
    pub tensors: &'a [HostTensor],
    /// Cycles that the run took, where the executor counts them.
    pub cycles: Option<u64>,
}

impl<'a> Outputs<'a> {
    /// The output of this name.
    pub fn get(&self, name: &str) -> Option<&'a HostTensor> {
        self.tensors.iter().find(|t| t.name == name)
    }
}

/// Names of all executors that exist, built in or not.
pub const NAMES: [&str; 3] = ["cpu", "sim", "opencl"];

/// The executor of this name.
///
/// # Errors
/// [`ExecError::NotBuilt`] for one that this build leaves out, [`ExecError::UnknownExecutor`] for any other name.
pub fn lookup(name: &str) -> Result<Box<dyn Executor>, ExecError> {
    if name == "cpu" {
        return Ok(Box::new(crate::cpu::Cpu));
    }
    #[cfg(feature = "sim")]
    if name == "sim" {
        return Ok(Box::new(crate::sim::Sim));
    }
    #[cfg(feature = "opencl")]
    if name == "opencl" {
        return Ok(Box::new(crate::opencl::OpenCl::default()));
    }
    match NAMES.iter().find(|&&n| n == name) {
        Some(name) => Err(ExecError::NotBuilt { name }),
        None => Err(ExecError::UnknownExecutor {
            name: name.to_owned(),
            known: NAMES.join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup_tells_not_built_from_unknown() {
        let of = |name| lookup(name).err().map(|e| e.to_string());
        #[cfg(not(feature = "opencl"))]
        assert_eq!(
            of("opencl").as_deref(),
            Some("executor \"opencl\" is not built in; build with feature \"opencl\"")
        );
        assert_eq!(
            of("gpu").as_deref(),
            Some("executor \"gpu\" is unknown; known are cpu, sim, opencl")
        );
    }
}
