//! What the verifier says: violations with their place, and the summary of a sound artifact.

use super::Invariant;
use crate::claim::{ChainId, RunId};
use crate::op::UnitKind;
use crate::run::Queue;
use std::fmt;

/// Most violations that are kept; the rest are counted.
pub const MAX_VIOLATIONS: usize = 50;

/// One broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: Invariant,
    /// Name of the entry; empty for the artifact as a whole.
    pub entry: String,
    /// The chip.
    pub chip: Option<u16>,
    /// The queue that issues the run.
    pub queue: Option<Queue>,
    /// Cycle from the start of the entry: that of the event, or of the run's first issue.
    pub cycle: Option<u64>,
    /// The run.
    pub run: Option<RunId>,
    /// The chain that the run claims.
    pub chain: Option<ChainId>,
    /// The queue and instruction as printed; empty where no run is concerned.
    pub instruction: String,
    /// What was found and what is allowed.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.invariant)?;
        if !self.entry.is_empty() {
            write!(f, " entry {}", self.entry)?;
        }
        if let (None, Some(chip)) = (self.run, self.chip) {
            write!(f, " c{chip}")?;
        }
        if let Some(run) = self.run {
            write!(f, " r{run}")?;
        }
        if let Some(chain) = self.chain {
            write!(f, " h{chain}")?;
        }
        if let Some(cycle) = self.cycle {
            write!(f, " @{cycle}")?;
        }
        if !self.instruction.is_empty() {
            write!(f, " `{}`", self.instruction)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// All violations found, in the order of the checks; at most [`MAX_VIOLATIONS`] are kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct VerifyErrors {
    /// The violations kept.
    pub violations: Vec<Violation>,
    /// Violations found beyond those kept.
    pub more: u64,
}

impl VerifyErrors {
    fn text(&self) -> String {
        let total = self.violations.len() as u64 + self.more;
        let first = self.violations.first().map(|v| v.to_string());
        let first = first.unwrap_or_default();
        if total == 1 {
            first
        } else {
            format!("{total} violations, first: {first}")
        }
    }

    /// Whether any violation kept is of this invariant.
    pub fn has(&self, invariant: Invariant) -> bool {
        self.violations.iter().any(|v| v.invariant == invariant)
    }
}

/// Busy cycles of one chip in one entry, by kind of unit: issues times the cycles that an issue holds its queue, summed
/// over the queues of that kind (an operation that costs four ALUs counts four times).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BusyCycles {
    /// Banks.
    pub mem: u64,
    /// Tile loads, per matrix unit.
    pub mxm_load: u64,
    /// Products, per matrix unit.
    pub mxm_mul: u64,
    /// ALUs.
    pub vxm: u64,
    /// Lane moves.
    pub sxm: u64,
    /// Sending ends of links.
    pub c2c_send: u64,
    /// Receiving ends of links.
    pub c2c_recv: u64,
}

impl BusyCycles {
    pub(super) fn add(&mut self, unit: UnitKind, cycles: u64) {
        let field = match unit {
            UnitKind::Mem => &mut self.mem,
            UnitKind::MxmLoad => &mut self.mxm_load,
            UnitKind::MxmMul => &mut self.mxm_mul,
            UnitKind::Vxm => &mut self.vxm,
            UnitKind::Sxm => &mut self.sxm,
            UnitKind::C2cSend => &mut self.c2c_send,
            UnitKind::C2cRecv => &mut self.c2c_recv,
        };
        *field += cycles;
    }
}

/// What one entry does, as recomputed from its instructions.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EntrySummary {
    /// Name of the entry.
    pub name: String,
    /// Cycles from 0 to the end of the last run.
    pub makespan: u64,
    /// Runs of all chips.
    pub runs: u64,
    /// Issues of all runs of all chips.
    pub events: u64,
    /// Chains.
    pub chains: u64,
    /// Busy cycles per chip.
    pub busy: Vec<BusyCycles>,
}

/// What a sound artifact contains.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VerifySummary {
    /// Per entry.
    pub entries: Vec<EntrySummary>,
    /// Bytes of rows that values occupy, per chip, over all entries.
    pub data_bytes: Vec<u64>,
    /// Bytes of instruction text, per chip, over all entries.
    pub text_bytes: Vec<u64>,
}

/// Collects violations.
pub(super) struct Sink {
    checks: super::Checks,
    pub errors: VerifyErrors,
}

impl Sink {
    pub fn new(checks: super::Checks) -> Sink {
        let errors = VerifyErrors {
            violations: Vec::new(),
            more: 0,
        };
        Sink { checks, errors }
    }

    /// Violations reported so far.
    pub fn total(&self) -> u64 {
        self.errors.violations.len() as u64 + self.errors.more
    }

    /// Records a violation, unless its check is off. `make` builds it only where it is kept.
    pub fn report(&mut self, invariant: Invariant, make: impl FnOnce() -> Violation) {
        if !self.checks.has(invariant) {
            return;
        }
        if self.errors.violations.len() < MAX_VIOLATIONS {
            self.errors.violations.push(make());
        } else {
            self.errors.more += 1;
        }
    }

    /// Records a violation of the artifact or an entry as a whole.
    pub fn global(&mut self, invariant: Invariant, entry: &str, chip: Option<u16>, what: String) {
        self.report(invariant, || Violation {
            invariant,
            entry: entry.to_string(),
            chip,
            queue: None,
            cycle: None,
            run: None,
            chain: None,
            instruction: String::new(),
            what,
        });
    }
}
