//! The cpu executor: one fused kernel per chain.
//!
//! The steps of a chain ([`crate::plan`]) run over blocks of rows that stay in cache. A run decides nothing and allocates
//! nothing.
//!
//! Every thread has a list of chains, or of parts of their rows, that is fixed at load ([`order`]). Neither it nor the SIMD
//! level changes a bit of a result.

pub mod order;

use crate::aligned::Aligned;
use crate::error::ExecError;
use crate::executor::{Executor, LoadOptions, Outputs, Session, StepTime};
use crate::host_io::HostIo;
use crate::host_tensor::TensorView;
use crate::kernels::{FloatEnvironment, Kernels, Local, Machine, Probe, Team};
use crate::memory::Memory;
use crate::plan::{self, Loaded, Plan};
use lockstep_isa::Artifact;
use std::sync::Arc;

/// The executor `cpu`.
pub struct Cpu;

impl Executor for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn load(&self, artifact: Arc<Artifact>, options: &LoadOptions) -> Result<Box<dyn Session>, ExecError> {
        Ok(Box::new(CpuSession::load(artifact, options)?))
    }
}

/// How the chains of a session run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Chains over all entries.
    pub chains: usize,
    /// Those that no fused form fits: they run issue by issue.
    pub by_issue: usize,
    /// Steps of the fused chains.
    pub steps: usize,
    /// Parts of chains beyond the first of each.
    pub cut: usize,
}

/// A loaded artifact.
pub struct CpuSession {
    artifact: Arc<Artifact>,
    memory: Memory,
    host: HostIo,
    shared: Shared,
    scratch: Aligned,
    scratch_bytes: usize,
    team: Team,
}

/// What all threads read.
struct Shared {
    kernels: Kernels,
    plans: Vec<Plan>,
    pool: Aligned,
    row_bytes: usize,
}

impl CpuSession {
    /// Loads an artifact.
    ///
    /// # Errors
    /// As [`Executor::load`]; a SIMD level that the host lacks.
    pub fn load(artifact: Arc<Artifact>, options: &LoadOptions) -> Result<CpuSession, ExecError> {
        let Some(kernels) = Kernels::new(options.simd) else {
            let what = format!("SIMD level {:?}, which this host lacks", options.simd);
            return Err(ExecError::artifact("load option", what));
        };
        let threads = options.threads.max(1);
        let Loaded {
            memory,
            mut plans,
            pool,
            row_bytes,
        } = plan::load(&artifact, options.max_memory_bytes, false)?;
        for plan in &mut plans {
            order::order(plan, threads, row_bytes);
        }
        let host = HostIo::new(&artifact, &memory, options.max_memory_bytes)?;
        let scratch = plans.iter().map(|p| p.scratch).max().unwrap_or(0);
        let scratch = scratch.next_multiple_of(64);
        let local = plans.iter().map(|p| p.local).max().unwrap_or(0);
        let pointers = plans.iter().map(|p| p.pointers).max().unwrap_or(0);
        let factors = plans.iter().map(|p| p.factors).max().unwrap_or(0);
        let shared = Shared {
            kernels,
            plans,
            pool,
            row_bytes,
        };
        let bytes = zeroed(scratch as u64 * threads as u64, options)?;
        Ok(CpuSession {
            artifact,
            memory,
            host,
            shared,
            scratch: bytes,
            scratch_bytes: scratch,
            team: Team::new(threads, || Local::new(local, pointers, factors)),
        })
    }

    /// What its entries run.
    pub fn plans(&self) -> &[Plan] {
        &self.shared.plans
    }

    /// How its chains run.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for chain in self.shared.plans.iter().flat_map(|p| &p.chains) {
            stats.chains += 1;
            if chain.events.is_empty() {
                stats.steps += chain.steps.len();
            } else {
                stats.by_issue += 1;
            }
        }
        let parts = self.shared.plans.iter().flat_map(|p| p.threads.iter().flatten());
        stats.cut = parts.filter(|p| p.part > 0).count();
        stats
    }
}

/// Zeroed bytes, as many as the options allow.
fn zeroed(n: u64, options: &LoadOptions) -> Result<Aligned, ExecError> {
    let error = |allowed| ExecError::Memory { needed: n, allowed };
    if n > options.max_memory_bytes {
        return Err(error(options.max_memory_bytes));
    }
    Aligned::zeroed(n).ok_or(error(0))
}

impl CpuSession {
    fn execute(
        &mut self,
        entry: usize,
        inputs: &[TensorView<'_>],
        probe: &mut Option<Probe>,
    ) -> Result<Outputs<'_>, ExecError> {
        self.host.check(entry, inputs)?;
        let _environment = FloatEnvironment::enter();
        let note = |probe: &mut Option<Probe>, kind| {
            if let Some(probe) = probe {
                probe.note(None, kind);
            }
        };
        self.host.place(entry, inputs, self.memory.bytes_mut());
        note(probe, "input");
        let machine = Machine::new(
            self.memory.bytes_mut(),
            self.scratch.as_mut_slice(),
            self.shared.pool.as_slice(),
            self.artifact.weight_bytes(),
            self.shared.row_bytes,
            self.scratch_bytes,
        );
        if let Some(plan) = self.shared.plans.get(entry) {
            self.team.run(&self.shared.kernels, &machine, plan, probe);
        }
        let tensors = self.host.take(entry, self.memory.bytes());
        note(probe, "output");
        Ok(Outputs { tensors, cycles: None })
    }
}

impl Session for CpuSession {
    fn run(&mut self, entry: usize, inputs: &[TensorView<'_>]) -> Result<Outputs<'_>, ExecError> {
        self.execute(entry, inputs, &mut None)
    }

    fn profile(&mut self, entry: usize, inputs: &[TensorView<'_>]) -> Result<Vec<StepTime>, ExecError> {
        let mut probe = Some(Probe::start());
        self.execute(entry, inputs, &mut probe)?;
        Ok(probe.map_or(Vec::new(), |p| p.times))
    }

    fn reset_state(&mut self) {
        self.memory.reset_states();
    }
}
