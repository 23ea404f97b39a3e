//! Schedule: every chain on its cycle.
//!
//! Stages: [`place`](self) gives every buffer a bank; each chain is split into rigid groups whose relative timing is
//! solved once (`group`); the list scheduler puts each group at the earliest cycle at which its operands are there and
//! the reservation tables are free; rows follow by lifetime (`alloc`).
//!
//! What is found is then bettered: banks are chosen again by when they are used in it, and chains placed in the order in which their
//! rows were there (`order`).
//!
//! The *serial* scheduler is the same machinery with every group after everything before it: no overlap, hence nothing
//! to get wrong but the groups themselves. It is the oracle of the tests, and what is left when overlapping lifetimes do
//! not fit.
//!
//! # Invariants
//! - Products of a plane issue in program order; a tile load starts after the swap before it.
//! - A consumer issues after each of its rows is written, row by row.
//! - Rows are shared by buffers whose lifetimes are disjoint, in the same order, both in cycles and in chains.
//! - No hash map, clock or thread count: the same program gives the same schedule.

mod acc;
mod alloc;
mod deps;
mod group;
mod list;
mod order;
mod place;
mod repair;
mod report;
mod reserve;
mod run;
mod solve;
mod transfer;
mod uses;

#[cfg(test)]
mod e2e;
#[cfg(test)]
mod tests;

use crate::chain::{ChainId, ChainKind, ChainProgram};
use crate::{CompileError, CompileErrorKind};
use lockstep_isa::claim::Claims;
use lockstep_isa::{Place, Run, Target};

pub use report::{Busy, ChainTiming, CriticalStep, Wait};

/// Chains by which lifetimes are stretched when banks are chosen, and chains by which a chain may overtake (0: none).
const ATTEMPTS: &[(usize, Option<usize>)] = &[(16, None), (16, Some(16)), (4, Some(4)), (1, Some(1)), (0, Some(0))];

/// Options of the scheduler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleOptions {
    /// Every group after everything before it: the oracle.
    pub serial: bool,
    /// How often banks, and on one chip the order of chains, are chosen again by the schedule found, as long as that betters it.
    pub rounds: usize,
}

impl ScheduleOptions {
    /// The oracle: no overlap.
    pub fn serial() -> Self {
        ScheduleOptions {
            serial: true,
            rounds: 0,
        }
    }
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The bank.
    pub place: Place,
    /// Word address of vector 0.
    pub base: u16,
}

/// A run on its cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedRun {
    /// The chip.
    pub chip: u16,
    /// The chain.
    pub chain: ChainId,
    /// The instruction; its cycle counts from the start of the entry.
    pub run: Run,
    /// Its claims; run ids are indices into [`Schedule::runs`].
    pub claims: Claims,
}

/// A timed program.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Home of each buffer.
    pub homes: Vec<Home>,
    /// Runs of all chips, by chain.
    pub runs: Vec<PlacedRun>,
    /// Cycles from 0 to the end of the last run.
    pub makespan: u64,
    /// When each chain runs, and what it waited for.
    pub chains: Vec<ChainTiming>,
    /// Busy cycles per kind of unit.
    pub busy: Busy,
    /// The chains that decide the makespan, last first.
    pub critical: Vec<CriticalStep>,
    /// SRAM used, per chip.
    pub sram: Vec<SramUse>,
}

/// Bytes of SRAM of one chip by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SramUse {
    /// Constants, live lanes only.
    pub const_bytes: u64,
    /// States, live lanes only.
    pub state_bytes: u64,
    /// Rows of inputs and temporaries, each counted once.
    pub scratch_bytes: u64,
    /// Lanes of constants and states that hold nothing.
    pub padding_bytes: u64,
    /// Of those, the lanes of states.
    pub state_padding_bytes: u64,
    /// Instruction text of all entries.
    pub text_bytes: u64,
    /// The chip's SRAM.
    pub total_bytes: u64,
}

impl SramUse {
    /// Everything that the chip holds.
    pub fn used_bytes(&self) -> u64 {
        self.const_bytes + self.state_bytes + self.scratch_bytes + self.padding_bytes + self.text_bytes
    }
}

/// Schedules one entry.
///
/// # Errors
/// `DoesNotFit` where a chip's SRAM does not hold the program; `Internal` where a chain breaks the rules of
/// [`crate::chain`].
pub fn schedule(program: &ChainProgram, target: &Target, options: &ScheduleOptions) -> Result<Schedule, CompileError> {
    let mut schedules = schedule_entries(&[program], target, options)?;
    schedules
        .pop()
        .ok_or_else(|| CompileError::internal("schedule", "no entry"))
}

/// Schedules several entries over shared constants and states: these lie in the same rows in all of them. Constants are
/// the same where their bytes are behind the same reference and their shape agrees; states where their index agrees.
///
/// # Errors
/// As [`schedule`].
pub fn schedule_entries(
    programs: &[&ChainProgram],
    target: &Target,
    options: &ScheduleOptions,
) -> Result<Vec<Schedule>, CompileError> {
    let split = programs
        .iter()
        .map(|p| place::split_all(p))
        .collect::<Result<Vec<_>, _>>()?;
    // Overlap makes lifetimes longer than in chain order; where they do not fit, less of it is tried.
    let attempts = if options.serial {
        &ATTEMPTS[ATTEMPTS.len() - 1..]
    } else {
        ATTEMPTS
    };
    let transfers = programs
        .iter()
        .flat_map(|p| p.chains.values())
        .any(|c| matches!(c.kind, ChainKind::Transfer { .. }));
    let mut refused = None;
    for &(slack, window) in attempts {
        let attempt = |last: Option<&[list::Timed]>, by_ready: bool| -> Result<_, CompileError> {
            let seen = last.map(seen);
            let places = place::place(programs, &split, target, slack, seen.as_deref())?;
            let mut timed = Vec::with_capacity(programs.len());
            for (i, ((program, split), places)) in programs.iter().zip(&split).zip(&places.entries).enumerate() {
                let ready = last.filter(|_| by_ready).and_then(|l| l.get(i)).map(|l| &l.ready);
                let order = ready.map(|ready| order::by_ready(program, ready));
                timed.push(list::run(program, split, places, target, window, order.as_deref())?);
            }
            let homes = alloc::rows(programs, &places, &timed, target)?;
            Ok((timed, homes))
        };
        match attempt(None, false) {
            Ok(mut best) => {
                // Where chips wait for each other, program order is the better one.
                let mut orders: &[bool] = if window.is_some() || transfers {
                    &[false]
                } else {
                    &[true, false]
                };
                for _ in 0..options.rounds {
                    // Other banks may hold less: then the schedule found stays.
                    let next = orders.iter().enumerate().find_map(|(i, &by_ready)| {
                        let next = attempt(Some(&best.0), by_ready).ok()?;
                        (end(&next.0) < end(&best.0)).then_some((next, i))
                    });
                    let Some((next, i)) = next else { break };
                    best = next;
                    orders = &orders[i..];
                }
                let (timed, homes) = best;
                return timed
                    .into_iter()
                    .zip(homes)
                    .zip(programs)
                    .map(|((timed, homes), program)| report::finish(program.chains.len(), target, timed, homes))
                    .collect();
            }
            Err(error) if matches!(error.kind, CompileErrorKind::DoesNotFit { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| CompileError::internal("schedule", "no window")))
}

/// When the groups of runs of every entry are scheduled.
fn seen(timed: &[list::Timed]) -> Vec<uses::Seen> {
    let of = |t: &list::Timed| {
        let groups = t.groups.iter();
        groups
            .map(|g| ((g.chain, g.first), (g.start, g.end.saturating_sub(g.start))))
            .collect()
    };
    timed.iter().map(of).collect()
}

/// Cycles of all entries.
fn end(timed: &[list::Timed]) -> u64 {
    let of = |t: &list::Timed| t.groups.iter().map(|g| g.end).max().unwrap_or(0);
    timed.iter().map(of).sum()
}
