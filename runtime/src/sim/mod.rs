//! The simulator: executes the instructions of all chips cycle by cycle, with values.
//!
//! It reads instructions and nothing else: no claim, no chain. Every rule of the machine that an instruction breaks is a
//! [`Hazard`](crate::error::Hazard) that names cycle, queue, instruction and model node; nothing ever stalls. Lanes
//! outside a run's live range are poisoned: using one is a hazard. The cycles it counts are the schedule's makespan.

mod belt;
mod check;
mod engine;
mod lanes;
mod mxm;
mod ops;
mod plan;
mod sram;
mod vector;

use crate::error::ExecError;
use crate::executor::{Executor, LoadOptions, Outputs, Session};
use crate::host_io::HostIo;
use crate::host_tensor::TensorView;
use crate::memory::Memory;
use engine::Engine;
use lockstep_isa::Artifact;
use plan::Plan;
use std::sync::Arc;

/// The executor *sim*.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sim;

struct SimSession {
    plan: Arc<Plan>,
    io: HostIo,
    engine: Engine,
}

impl Executor for Sim {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn load(&self, artifact: Arc<Artifact>, options: &LoadOptions) -> Result<Box<dyn Session>, ExecError> {
        artifact.check()?;
        let max = options.max_memory_bytes;
        let memory = Memory::new(&artifact, true, max)?;
        let io = HostIo::new(&artifact, &memory, max)?;
        let plan = Plan::new(artifact, max)?;
        let engine = Engine::new(&plan, memory)?;
        Ok(Box::new(SimSession {
            plan: Arc::new(plan),
            io,
            engine,
        }))
    }
}

impl Session for SimSession {
    fn run(&mut self, entry: usize, inputs: &[TensorView<'_>]) -> Result<Outputs<'_>, ExecError> {
        self.io.check(entry, inputs)?;
        self.io.place(entry, inputs, self.engine.sram.memory.bytes_mut());
        let plan = Arc::clone(&self.plan);
        let cycles = self.engine.run(&plan, entry).map_err(ExecError::Hazard)?;
        let tensors = self.io.take(entry, self.engine.sram.memory.bytes());
        Ok(Outputs {
            tensors,
            cycles: Some(cycles),
        })
    }

    fn reset_state(&mut self) {
        self.engine.sram.memory.reset_states();
    }
}
