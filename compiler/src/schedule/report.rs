//! What a schedule reports: busy units, the timing of chains, the chains that decide the makespan.

use super::list::Timed;
use super::{Home, PlacedRun, Schedule, SramUse};
use crate::CompileError;
use crate::chain::ChainId;
use lockstep_graph::EntityId;
use lockstep_isa::op::UnitKind;
use lockstep_isa::{Opcode, Queue, Target};

/// Why a group started no earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing held it up.
    Start,
    /// Rows that this chain writes (or still reads).
    Rows(ChainId),
    /// Its own tile loads.
    Loads,
    /// A unit that this chain holds.
    Unit(UnitKind, ChainId),
    /// This queue.
    Queue(Queue),
    /// Free ALUs.
    Alus,
    /// Free belt slots.
    Belts,
}

/// When a chain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainTiming {
    /// First issue, tile loads included.
    pub start: u64,
    /// End of its last run.
    pub end: u64,
    /// What its last group waited for.
    pub wait: Wait,
    /// The chain that last held what it waited for, where it is a queue.
    pub unit: Option<ChainId>,
}

/// Cycles in which units issue, summed over chips and over the units of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    /// Reads, writes, gathers and scatters.
    pub mem: u64,
    /// Tile loads.
    pub load: u64,
    /// Products.
    pub mul: u64,
    /// ALUs.
    pub vxm: u64,
    /// Lane moves.
    pub sxm: u64,
    /// Words sent.
    pub c2c: u64,
}

/// A chain on the path that decides the makespan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CriticalStep {
    /// The chain.
    pub chain: ChainId,
    /// Its first cycle.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// What it waited for.
    pub wait: Wait,
}

/// Rows, makespan and figures of a timed program.
pub(super) fn finish(
    target: &Target,
    timed: Timed,
    (homes, sram): (Vec<Home>, Vec<SramUse>),
) -> Result<Schedule, CompileError> {
    let Timed {
        mut runs,
        mut chains,
    } = timed;
    let mut makespan = 0u64;
    let mut busy = Busy::default();
    for placed in &mut runs {
        if let Some(home) = placed.claims.mem.and_then(|m| homes.get(m.value as usize)) {
            super::run::resolve(placed.chain, &mut placed.run, &placed.claims, home.base)?;
        }
        makespan = makespan.max(placed.run.cycle as u64 + target.run_end(&placed.run) as u64);
        let run = &placed.run;
        let cycles = run.issues() as u64 * target.occupancy(run.op, run.dtype) as u64;
        match run.op.unit() {
            UnitKind::Mem => busy.mem += cycles,
            UnitKind::MxmLoad => busy.load += cycles,
            UnitKind::MxmMul => busy.mul += cycles,
            UnitKind::Vxm if run.op == Opcode::Alu => busy.vxm += cycles * run.alu.cost() as u64,
            UnitKind::Vxm => busy.vxm += cycles,
            UnitKind::Sxm => busy.sxm += cycles,
            UnitKind::C2cSend => busy.c2c += cycles,
            UnitKind::C2cRecv => {}
        }
    }
    blame_queues(&runs, &mut chains);
    let critical = critical_path(&chains);
    Ok(Schedule {
        homes,
        runs,
        makespan,
        chains,
        busy,
        critical,
        sram,
    })
}

/// Finds for each chain that waited for a queue the chain that held it last before.
fn blame_queues(runs: &[PlacedRun], chains: &mut [ChainTiming]) {
    let mut by_queue: std::collections::BTreeMap<(u16, Queue), Vec<(u64, ChainId)>> =
        Default::default();
    for placed in runs {
        let end = placed.run.cycle as u64 + placed.run.last_offset() as u64;
        by_queue
            .entry((placed.chip, placed.run.queue))
            .or_default()
            .push((end, placed.chain));
    }
    for list in by_queue.values_mut() {
        list.sort_unstable();
    }
    let mut chip_of = vec![0u16; chains.len()];
    let mut first = vec![u64::MAX; chains.len()];
    for placed in runs {
        let c = placed.chain.index();
        if let Wait::Queue(queue) = chains[c].wait
            && queue == placed.run.queue
        {
            chip_of[c] = placed.chip;
            first[c] = placed.run.cycle as u64;
        }
    }
    for (c, timing) in chains.iter_mut().enumerate() {
        if let Wait::Queue(queue) = timing.wait
            && let Some(list) = by_queue.get(&(chip_of[c], queue))
        {
            let at = list.partition_point(|&(end, _)| end < first[c]);
            timing.unit = list[..at]
                .iter()
                .rev()
                .map(|&(_, chain)| chain)
                .find(|chain| chain.index() != c);
        }
    }
}

/// Walks back from the chain that ends last.
fn critical_path(chains: &[ChainTiming]) -> Vec<CriticalStep> {
    let mut out = Vec::new();
    let mut at = (0..chains.len()).max_by_key(|&c| (chains[c].end, std::cmp::Reverse(c)));
    while let Some(c) = at {
        let t = chains[c];
        let id = ChainId::from_index(c);
        out.push(CriticalStep {
            chain: id,
            start: t.start,
            end: t.end,
            wait: t.wait,
        });
        let next = match t.wait {
            Wait::Rows(chain) | Wait::Unit(_, chain) => Some(chain.index()),
            Wait::Queue(_) => t.unit.map(EntityId::index),
            // Loads, ALUs and belts: whatever ends last of what was placed before.
            Wait::Loads | Wait::Alus | Wait::Belts => c.checked_sub(1),
            Wait::Start => None,
        };
        // Only ever backwards in the order, so that the walk ends.
        at = next.filter(|&n| n < c);
    }
    out
}
