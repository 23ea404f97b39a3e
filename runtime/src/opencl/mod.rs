//! The executor `opencl`: every step of a plan is a launch of a kernel on an accelerator.
//!
//! Loading links the artifact to the same steps as the cpu executor's ([`crate::plan`]) and writes a kernel for each kind of step
//! ([`tape`], [`step`]), built once for all sessions of a device ([`kernels`]); addresses are parameters, so that few kernels serve all chains of all chips ([`stream`]). All memory is the
//! device's: chip memory with the states, scratch, constants and weights. A run writes the inputs, replays the launches, which were
//! fixed at load, and reads the outputs. It allocates nothing and decides nothing.
//!
//! Bits are those of every other executor: each operation is correctly rounded by the standard or made of operations on bits
//! ([`prelude`]); the elementary functions are written out from the definitions in `isa::math` ([`trace`]).

pub mod commands;
pub mod device;
pub mod driver;
pub mod kernels;
pub mod order;
pub mod prelude;
pub mod session;
pub mod step;
pub mod stream;
pub mod tape;
pub mod trace;
pub mod work;

use crate::error::ExecError;
use crate::executor::{Executor, LoadOptions, Session};
pub use device::devices;
pub use driver::Device;
pub use kernels::Kernels;
use lockstep_isa::Artifact;
pub use session::OpenClSession;
use std::sync::Arc;

/// Keeps what a driver has built for the next load.
pub trait KernelStore {
    /// What was kept under a key, as it was.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Keeps bytes under a key. That it cannot is no error.
    fn put(&self, key: &str, bytes: &[u8]);
}

/// The executor `opencl`.
#[derive(Clone, Default)]
pub struct OpenCl {
    /// Number of the device as [`devices`] lists them; `None` for the first that can be used.
    pub device: Option<usize>,
    /// Where built kernels are kept; `None` builds them at every load.
    pub store: Option<Arc<dyn KernelStore>>,
    /// Whether the launches of a run are enqueued one by one even where the device can record them.
    pub enqueue_each: bool,
}

impl OpenCl {
    /// The device with no kernels yet, for several artifacts.
    ///
    /// # Errors
    /// No library, no driver, no such device, one that cannot be used.
    pub fn kernels(&self) -> Result<Kernels, ExecError> {
        let driver = device::open(self.device).map_err(|what| ExecError::NoDevice { what })?;
        Ok(Kernels::new(Box::new(driver)).record(!self.enqueue_each))
    }
}

impl Executor for OpenCl {
    fn name(&self) -> &'static str {
        "opencl"
    }

    fn load(&self, artifact: Arc<Artifact>, options: &LoadOptions) -> Result<Box<dyn Session>, ExecError> {
        let session = self.kernels()?.load(artifact, self.store.as_deref(), options)?;
        Ok(Box::new(session))
    }
}
