//! The cpu executor: one fused kernel per chain.
//!
//! Loading links every chain's instructions through their claims ([`link`]) and derives a plan from them ([`build`],
//! [`matrix`], [`tape`]): products over weight panels that are used where the artifact has them, and tapes of vector
//! operations that run over blocks of rows in cache. Belts, tiles and accumulators do not exist; data flows from rows
//! through registers to rows. A run decides nothing and allocates nothing.
//!
//! Every thread has a list of chains, or of parts of their rows, that is fixed at load ([`order`]). Neither it nor the SIMD
//! level changes a bit of a result.

pub mod build;
pub mod follow;
pub mod join;
pub mod link;
pub mod matrix;
pub mod order;
pub mod plan;
pub mod tape;

use crate::aligned::Aligned;
use crate::error::ExecError;
use crate::executor::{Executor, LoadOptions, Outputs, Session, StepTime};
use crate::host_io::HostIo;
use crate::host_tensor::TensorView;
use crate::kernels::{FloatEnvironment, Kernels, Local, Machine, Probe, Team};
use crate::memory::Memory;
use build::{Builder, Pool};
use link::{LinkError, Linked};
use lockstep_isa::Artifact;
use plan::Plan;
use std::ops::Range;
use std::sync::Arc;

/// From this many chains on, two threads prepare them.
const CHAINS_FOR_TWO: usize = 256;

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
        let tile_rows = [false, true];
        for tile_rows in tile_rows {
            let memory = Memory::new(&artifact, tile_rows, options.max_memory_bytes)?;
            let mut pool = Pool::default();
            let row_bytes = artifact.target.word_bytes().next_multiple_of(16) * 4;
            match build_plans(&artifact, &memory, &mut pool, row_bytes, tile_rows, options) {
                Ok(mut plans) => {
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
                        pool: aligned(&pool.bytes, options)?,
                        row_bytes,
                    };
                    let bytes = zeroed(scratch as u64 * threads as u64, options)?;
                    return Ok(CpuSession {
                        artifact,
                        memory,
                        host,
                        shared,
                        scratch: bytes,
                        scratch_bytes: scratch,
                        team: Team::new(threads, || Local::new(local, pointers, factors)),
                    });
                }
                Err(LinkError::Artifact(e)) => return Err(e),
                Err(LinkError::NeedsTileRows) => {}
            }
        }
        let what = "a weight tile is read as rows that it does not have";
        Err(ExecError::artifact("weights", what))
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

/// A copy of bytes that begins at a cache line.
fn aligned(bytes: &[u8], options: &LoadOptions) -> Result<Aligned, ExecError> {
    let mut copy = zeroed(bytes.len() as u64, options)?;
    copy.as_mut_slice().copy_from_slice(bytes);
    Ok(copy)
}

fn build_plans(
    artifact: &Artifact,
    memory: &Memory,
    pool: &mut Pool,
    row_bytes: usize,
    tile_rows: bool,
    options: &LoadOptions,
) -> Result<Vec<Plan>, LinkError> {
    let limit = options.max_memory_bytes;
    let mut plans = Vec::with_capacity(artifact.entries.len());
    for entry in &artifact.entries {
        let linked = Linked::new(artifact, entry, memory, tile_rows)?;
        let build = |chains: Range<usize>| -> Result<(Plan, Pool), LinkError> {
            let mut pool = Pool::default();
            let mut builder = Builder {
                linked: &linked,
                plan: Plan::default(),
                pool: &mut pool,
                row_bytes,
                limit,
            };
            for chain in chains {
                builder.chain(chain)?;
            }
            Ok((builder.plan, pool))
        };
        let (n, half) = (linked.chains.len(), linked.chains.len() / 2);
        let parts = match n < CHAINS_FOR_TWO {
            true => [Some(build(0..n)), None],
            false => std::thread::scope(|scope| {
                let beside = std::thread::Builder::new().spawn_scoped(scope, || build(half..n));
                let first = build(0..half);
                let second = match beside.map(|thread| thread.join()) {
                    Ok(Ok(built)) => built,
                    _ => build(half..n),
                };
                [Some(first), Some(second)]
            }),
        };
        let mut plan = Plan::default();
        for part in parts.into_iter().flatten() {
            let (part, bytes) = part?;
            let needed = pool.bytes.len() as u64 + bytes.bytes.len() as u64 + 64;
            if needed > limit {
                let e = ExecError::Memory { needed, allowed: limit };
                return Err(e.into());
            }
            let at = pool.reserve(bytes.bytes.len());
            pool.bytes[at..].copy_from_slice(&bytes.bytes);
            plan.append(part, at);
        }
        plans.push(plan);
    }
    Ok(plans)
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
