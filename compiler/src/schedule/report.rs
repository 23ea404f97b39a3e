//! What a schedule reports: busy units, the timing of chains, the chains that decide the makespan.

use super::list::Timed;
use super::{Home, Schedule, SramUse};
use crate::CompileError;
use crate::chain::ChainId;
use lockstep_graph::EntityId;
use lockstep_isa::op::UnitKind;
use lockstep_isa::{Opcode, Target};

/// Why a group of runs started no earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Nothing held it up.
    Start,
    /// Rows that another chain writes (or still reads).
    Rows,
    /// Its own tile loads.
    Loads,
    /// A product before it on its matrix unit.
    Product,
    /// A unit of this kind.
    Unit(UnitKind),
    /// Free belt slots.
    Belts,
    /// The end of chains so far before it in the program that it may not overtake them.
    Window,
}

/// What a group waited for, and the group that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    /// The reason.
    pub wait: Wait,
    /// Index of the group waited for.
    pub group: Option<u32>,
}

impl Cause {
    /// Nothing.
    pub const START: Cause = Cause {
        wait: Wait::Start,
        group: None,
    };
}

/// A placed group.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupTiming {
    /// Its chain.
    pub chain: ChainId,
    /// The first of its nodes; `None` for a transfer.
    pub first: Option<u32>,
    /// First issue.
    pub start: u64,
    /// End of its last run.
    pub end: u64,
    /// What it waited for.
    pub cause: Cause,
}

/// When a chain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainTiming {
    /// First issue, tile loads included.
    pub start: u64,
    /// End of its last run.
    pub end: u64,
    /// What the group that ends last waited for.
    pub wait: Wait,
    /// The chain that had it.
    pub after: Option<ChainId>,
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
    /// Its chain.
    pub chain: ChainId,
    /// Its first cycle.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// What its first group of runs on the path waited for.
    pub wait: Wait,
    /// Cycles of the makespan that it accounts for: from its start to the start of the step after it on the path (the last step: to
    /// its end). They sum to the makespan, less the start of the first.
    pub cycles: u64,
}

/// Rows, makespan and figures of a timed program.
pub(super) fn finish(
    n_chains: usize,
    target: &Target,
    timed: Timed,
    (homes, sram): (Vec<Home>, Vec<SramUse>),
) -> Result<Schedule, CompileError> {
    let Timed { mut runs, groups, .. } = timed;
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
    let chains = chains(&groups, n_chains);
    let critical = critical_path(&groups);
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

/// Timing per chain.
fn chains(groups: &[GroupTiming], n: usize) -> Vec<ChainTiming> {
    let never = ChainTiming {
        start: u64::MAX,
        end: 0,
        wait: Wait::Start,
        after: None,
    };
    let mut out = vec![never; n];
    for g in groups {
        let Some(t) = out.get_mut(g.chain.index()) else {
            continue;
        };
        t.start = t.start.min(g.start);
        if g.end >= t.end {
            t.end = g.end;
            t.wait = g.cause.wait;
            t.after = before(groups, g).map(|b| b.chain);
        }
    }
    out
}

fn before<'a>(groups: &'a [GroupTiming], g: &GroupTiming) -> Option<&'a GroupTiming> {
    groups.get(g.cause.group? as usize)
}

/// Walks back from the group that ends last.
fn critical_path(groups: &[GroupTiming]) -> Vec<CriticalStep> {
    let mut out: Vec<CriticalStep> = Vec::new();
    let mut at = (0..groups.len()).max_by_key(|&g| (groups[g].end, std::cmp::Reverse(g)));
    let mut until = None;
    while let Some(index) = at {
        let g = &groups[index];
        let end = until.unwrap_or(g.end);
        let cycles = end.saturating_sub(g.start);
        match out.last_mut() {
            Some(last) if last.chain == g.chain => {
                last.start = last.start.min(g.start);
                last.wait = g.cause.wait;
                last.cycles += cycles;
            }
            _ => out.push(CriticalStep {
                chain: g.chain,
                start: g.start,
                end: g.end,
                wait: g.cause.wait,
                cycles,
            }),
        }
        until = Some(g.start.min(end));
        // Causes are placed earlier, so that the walk ends.
        at = g.cause.group.map(|b| b as usize).filter(|&b| b < index);
    }
    out
}
