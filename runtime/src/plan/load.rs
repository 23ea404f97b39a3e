//! From an artifact to the plans of its entries and the memory that they work on.

use crate::aligned::Aligned;
use crate::error::ExecError;
use crate::memory::Memory;
use crate::plan::Plan;
use crate::plan::build::Builder;
use crate::plan::link::{LinkError, Linked, Nodes};
use crate::plan::pool::Pool;
use lockstep_isa::Artifact;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Chains that a thread prepares before it takes others; with more of them, two threads do.
pub(crate) const CHAINS_AT_A_TIME: usize = 64;

/// A linked artifact.
pub struct Loaded {
    /// Chip memory, constants filled in.
    pub memory: Memory,
    /// One plan for each entry.
    pub plans: Vec<Plan>,
    /// Constants made at load: [`crate::plan::Space::Pool`].
    pub(crate) pool: Aligned,
    /// Bytes of a row of scratch.
    pub row_bytes: usize,
}

/// Links an artifact; chip memory, and scratch and pool each, take at most `limit` bytes. With `decode`, weights that are integers
/// with scales become f32 in the pool, and no step has scales.
///
/// # Errors
/// An artifact that contradicts itself or its target, memory over the limit.
pub fn load(artifact: &Artifact, limit: u64, decode: bool) -> Result<Loaded, ExecError> {
    let n_chains: usize = artifact.entries.iter().map(|e| e.chains.len()).sum();
    for tile_rows in [false, true] {
        let (memory, nodes) = beside(
            n_chains > CHAINS_AT_A_TIME,
            || Memory::new(artifact, tile_rows, limit),
            || {
                artifact
                    .entries
                    .iter()
                    .map(|e| Nodes::new(artifact, e))
                    .collect::<Result<Vec<_>, _>>()
            },
        );
        let (memory, nodes) = (memory?, nodes?);
        let mut pool = Pool::default();
        match build_plans(artifact, nodes, &memory, &mut pool, tile_rows, limit, decode) {
            Ok(plans) => {
                let pool = pool.fill(&memory, limit)?;
                return Ok(Loaded {
                    memory,
                    plans,
                    pool,
                    row_bytes: row_bytes(artifact),
                });
            }
            Err(LinkError::Artifact(e)) => return Err(e),
            Err(LinkError::NeedsTileRows) => {}
        }
    }
    let what = "a weight tile is read as rows that it does not have";
    Err(ExecError::artifact("weights", what))
}

fn row_bytes(artifact: &Artifact) -> usize {
    artifact.target.word_bytes().next_multiple_of(16) * 4
}

fn build_plans(
    artifact: &Artifact,
    nodes: Vec<Nodes<'_>>,
    memory: &Memory,
    pool: &mut Pool,
    tile_rows: bool,
    limit: u64,
    decode: bool,
) -> Result<Vec<Plan>, LinkError> {
    let mut plans = Vec::with_capacity(artifact.entries.len());
    for (entry, nodes) in nodes.into_iter().enumerate() {
        let linked = Linked::new(artifact, entry, nodes, memory, tile_rows);
        let build = |chains: Range<usize>| -> Result<(Plan, Pool), LinkError> {
            let mut pool = Pool::default();
            let mut builder = Builder {
                linked: &linked,
                plan: Plan::default(),
                pool: &mut pool,
                row_bytes: row_bytes(artifact),
                limit,
                decode,
                facts: Vec::new(),
            };
            for chain in chains {
                builder.chain(chain)?;
            }
            Ok((builder.plan, pool))
        };
        let mut plan = Plan::default();
        for part in in_parts(linked.n_chains(), build) {
            let (part, bytes) = part?;
            let needed = pool.len() as u64 + bytes.len() as u64 + 64;
            if needed > limit {
                let e = ExecError::Memory { needed, allowed: limit };
                return Err(e.into());
            }
            let at = pool.append(bytes);
            plan.append(part, at);
        }
        plans.push(plan);
    }
    Ok(plans)
}

/// Two things at the same time, where that is worth a thread and the host has one.
pub(crate) fn beside<A, B: Send>(worth: bool, own: impl FnOnce() -> A, other: impl Fn() -> B + Sync) -> (A, B) {
    if !worth {
        return (own(), other());
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, &other);
        let own = own();
        let other = match thread.map(|thread| thread.join()) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => other(),
        };
        (own, other)
    })
}

/// What `build` makes of ranges of `n` chains, in order. Two threads take the ranges, each the next when it is done with its last.
fn in_parts<T: Send>(n: usize, build: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let mut built = Vec::new();
        loop {
            let first = next.fetch_add(CHAINS_AT_A_TIME, Ordering::Relaxed);
            if first >= n {
                return built;
            }
            built.push((first, build(first..n.min(first + CHAINS_AT_A_TIME))));
        }
    };
    let (mut all, others) = beside(n > CHAINS_AT_A_TIME, take, take);
    all.extend(others);
    all.sort_by_key(|(first, _)| *first);
    all.into_iter().map(|(_, built)| built).collect()
}
