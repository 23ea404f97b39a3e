//! Partition: one program over as many chips as it needs.
//!
//! A partitioned program is again a [`TensorIr`] in which every operation concerns one chip: [`Op::Transfer`] moves its
//! operand over direct links from the chip of its producer to the chip that the side table names; everything else has its
//! operands on its own chip. Weights and other constant expressions are repeated per chip as narrow moves of
//! constants; whoever materialises them needs SRAM only for what is used.
//!
//! | file | what |
//! |---|---|
//! | `dist.rs` | how the chips of a stage hold a value: whole, split along an axis, partial results |
//! | `choice.rs`, `moves.rs` | the table of ways to share an operation; index maps under sharding |
//! | `cost.rs`, `fabric.rs` | cycles and bytes before layout exists; links and paths |
//! | `search.rs` | tensor parallelism: a beam search over the ways of all operations |
//! | `cuts.rs` | pipeline: dynamic programming over stage cuts |
//! | `expand.rs`, `collective.rs` | the program per chip, with transfers |
//! | `capacity.rs` | SRAM of each chip, term by term; the report of what does not fit |
//! | `verify.rs`, `print.rs` | invariants P1.. and the text form |

mod capacity;
mod choice;
mod collective;
pub(crate) mod cost;
mod cuts;
mod dist;
mod expand;
mod fabric;
mod moves;
mod print;
mod search;
#[cfg(test)]
mod tests;
mod verify;

pub use capacity::{ChipUsage, usage};
pub use dist::{Dist, Split};

use crate::tir::{Op, TensorIr, ValueId};
use crate::{CompileError, CompileErrorKind};
use cuts::{Demand, StagePlan};
use expand::Expander;
use fabric::Fabric;
use lockstep_graph::SideTable;
use lockstep_isa::Target;
use lockstep_isa::topology::Topology;
use search::Sharding;
use std::collections::BTreeSet;
use std::ops::Range;

/// How many chips.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Chips {
    /// The number with the fewest modelled cycles.
    #[default]
    Auto,
    /// This many, all of which hold weights.
    Exactly(u16),
}

/// Options of the partitioner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PartitionOptions {
    /// How many chips.
    pub chips: Chips,
    /// Whether sums of floats may not be split over chips.
    pub exact: bool,
}

/// A group of chips that works on a contiguous part of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its chips.
    pub chips: Range<u16>,
    /// Indices of its operations (with what brings their operands) in the partitioned program.
    pub ops: Range<usize>,
}

/// Kind of a collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collective {
    /// Everyone gets all parts.
    AllGather,
    /// Everyone gets its part of the combination.
    ReduceScatter,
    /// Everyone gets the combination.
    AllReduce,
    /// Everyone gets its part of another split.
    AllToAll,
}

impl Collective {
    /// Name as printed.
    pub const fn name(self) -> &'static str {
        match self {
            Collective::AllGather => "all_gather",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::AllReduce => "all_reduce",
            Collective::AllToAll => "all_to_all",
        }
    }
}

/// A collective of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectiveInfo {
    /// What it does.
    pub kind: Collective,
    /// Chips that take part, by rank.
    pub members: Vec<u16>,
    /// Bytes that the largest member contributes.
    pub bytes: u64,
    /// Indices of its operations in the partitioned program.
    pub ops: Range<usize>,
}

/// A partition that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Chips, stages and degrees.
    pub description: String,
    /// Cycles by the cost model.
    pub modelled_cycles: u64,
}

/// A program over chips.
#[derive(Clone, Debug)]
pub struct Partitioned {
    /// The program. A state split over chips appears once per chip with the same name; its parts are in order of rank.
    pub ir: TensorIr,
    /// Chip of every operation.
    pub chip: SideTable<ValueId, u16>,
    /// Number of chips.
    pub n_chips: u16,
    /// Stages in order.
    pub stages: Vec<Stage>,
    /// Further copies of inputs: (index into `ir.inputs`, input operation on another chip).
    pub input_copies: Vec<(usize, ValueId)>,
    /// Collectives in program order.
    pub collectives: Vec<CollectiveInfo>,
    /// Chips, stages and degrees in words.
    pub description: String,
    /// Cycles by the cost model.
    pub modelled_cycles: u64,
    /// All partitions looked at, best first, this one among them.
    pub examined: Vec<Candidate>,
}

impl Partitioned {
    /// The program with a port for every copy of an input: after the ports of the model, in the order of `input_copies`.
    pub fn with_all_ports(&self) -> TensorIr {
        let mut ir = self.ir.clone();
        for &(port, value) in &self.input_copies {
            let port = crate::tir::Port { value, ..ir.inputs[port].clone() };
            ir.inputs.push(port);
        }
        ir
    }
}

/// What every step of the partitioner looks at.
pub(crate) struct Context<'a> {
    pub(crate) ir: &'a TensorIr,
    pub(crate) target: &'a Target,
    pub(crate) options: PartitionOptions,
    /// Constant expressions.
    pub(crate) constant: SideTable<ValueId, bool>,
    /// Operations that chips do, in order: alive, no constants and no inputs. States come just before their first user.
    pub(crate) order: Vec<ValueId>,
    /// Output values that chips compute.
    pub(crate) outputs: Vec<ValueId>,
    /// States in use: the operation that reads it, and the value that feeds it.
    pub(crate) feeds: Vec<(ValueId, ValueId)>,
    in_order: SideTable<ValueId, bool>,
}

/// Which values are constant expressions: constants, and what is computed from nothing else.
pub(crate) fn constants(ir: &TensorIr) -> SideTable<ValueId, bool> {
    let mut constant = SideTable::new();
    for (v, data) in ir.values.iter() {
        constant[v] = match data.op {
            Op::Input | Op::State(_) => false,
            _ => data.inputs.iter().all(|&u| constant[u]),
        };
    }
    constant
}

impl<'a> Context<'a> {
    fn new(ir: &'a TensorIr, target: &'a Target, options: PartitionOptions) -> Context<'a> {
        let constant = constants(ir);
        let mut live: SideTable<ValueId, bool> = SideTable::new();
        ir.outputs.iter().for_each(|p| live[p.value] = true);
        // A state that nothing reads but its own update still persists nothing visible; one that is read keeps its feed.
        loop {
            for (v, data) in ir.values.iter().rev() {
                if live[v] {
                    data.inputs.iter().for_each(|&u| live[u] = true);
                }
            }
            let mut grew = false;
            for (v, data) in ir.values.iter() {
                if let (Op::State(s), true) = (&data.op, live[v]) {
                    let next = ir.states[*s].next;
                    grew |= !live[next];
                    live[next] = true;
                }
            }
            if !grew {
                break;
            }
        }
        let mut order = Vec::new();
        let mut in_order: SideTable<ValueId, bool> = SideTable::new();
        for (v, data) in ir.values.iter() {
            if !live[v] || constant[v] || matches!(data.op, Op::Input | Op::State(_)) {
                continue;
            }
            for &u in &data.inputs {
                if matches!(ir.values[u].op, Op::State(_)) && !in_order[u] {
                    in_order[u] = true;
                    order.push(u);
                }
            }
            in_order[v] = true;
            order.push(v);
        }
        for (v, data) in ir.values.iter() {
            if matches!(data.op, Op::State(_)) && live[v] && !in_order[v] {
                in_order[v] = true;
                order.push(v);
            }
        }
        let outputs: BTreeSet<ValueId> = ir.outputs.iter().map(|p| p.value).filter(|&v| in_order[v]).collect();
        let feeds = order
            .iter()
            .filter_map(|&v| match ir.values[v].op {
                Op::State(s) => Some((v, ir.states[s].next)),
                _ => None,
            })
            .collect();
        Context { ir, target, options, constant, order, outputs: outputs.into_iter().collect(), feeds, in_order }
    }

    /// Whether chips compute it (states included).
    fn computed(&self, v: ValueId) -> bool {
        self.in_order[v]
    }

    /// Values that must last until the end: outputs, states and what feeds them.
    fn kept(&self) -> BTreeSet<ValueId> {
        let states = self.feeds.iter().flat_map(|&(s, n)| [s, n]).filter(|&v| self.computed(v));
        self.outputs.iter().copied().chain(states).collect()
    }
}

/// The partition with the fewest modelled cycles: see [`candidates`].
///
/// # Errors
/// As [`candidates`].
pub fn partition(ir: &TensorIr, target: &Target, options: &PartitionOptions) -> Result<Partitioned, CompileError> {
    candidates(ir, target, options)?
        .into_iter()
        .next()
        .ok_or_else(|| CompileError::internal("partition", "no candidate"))
}

/// Prices of a row of constants, in cycles, in the searches: only latency counts; about what it costs to multiply a row;
/// SRAM counts most.
const ROW_PRICES: [u64; 3] = [0, 4, 64];
/// Most chips for which stages of unequal degree are tried.
const MAX_MIXED_CHIPS: u16 = 16;
/// How often a plan that turns out too large is cut again with less SRAM, and the share that then remains of it.
const RETRIES: usize = 4;
const RETRY_NUMERATOR: u64 = 9;
const RETRY_DENOMINATOR: u64 = 10;

/// Partitions worth scheduling, by modelled cycles, on ties fewer chips first; never empty.
///
/// # Errors
/// `DoesNotFit` with a capacity report; `Options` where the number of chips asked for is none the target has or more than can hold
/// weights.
pub fn candidates(
    ir: &TensorIr,
    target: &Target,
    options: &PartitionOptions,
) -> Result<Vec<Partitioned>, CompileError> {
    let most = target.max_chips.max(1);
    if let Chips::Exactly(n) = options.chips
        && (n == 0 || n > most)
    {
        return Err(CompileError::options(format!("--chips {n}: {} has 1 to {most} chips", target.name)));
    }
    let cx = Context::new(ir, target, *options);
    let demand = Demand::new(&cx);
    let limit = match options.chips {
        Chips::Auto => most,
        Chips::Exactly(n) => n,
    };
    let shardings = shardings(&cx, limit);
    let mut found: Vec<Partitioned> = Vec::new();
    let mut tried: Vec<Vec<StagePlan>> = Vec::new();
    let mut too_large: Option<Partitioned> = None;
    for (wanted, offer, least) in attempts(&cx, &shardings, options.chips, limit) {
        let mut available = target.sram_bytes();
        for _ in 0..RETRIES {
            let Some((stages, cycles)) = cuts::cut(&cx, &demand, &shardings, &offer, wanted, available, least) else { break };
            if tried.contains(&stages) {
                break;
            }
            tried.push(stages.clone());
            let n_chips = stages.last().map_or(1, |s| s.first + s.degree);
            let mut part = Expander::new(&cx, &stages, &shardings, n_chips).run(n_chips)?;
            let used = usage(&part, target);
            let held = used.iter().map(|u| u.weights).max().unwrap_or(0);
            part.description = format!("{}, at most {held} bytes of weights each", describe(&stages, n_chips));
            part.modelled_cycles = cycles;
            if used.iter().all(|u| u.total() <= target.sram_bytes()) {
                found.push(part);
                break;
            }
            if too_large.as_ref().is_none_or(|t| t.n_chips <= part.n_chips) {
                too_large = Some(part);
            }
            available = available / RETRY_DENOMINATOR * RETRY_NUMERATOR;
        }
    }
    found.sort_by_key(|p| (p.modelled_cycles, p.n_chips));
    found.dedup_by(|a, b| a.description == b.description && a.modelled_cycles == b.modelled_cycles);
    if found.is_empty() {
        return Err(nothing_fits(&cx, too_large, &shardings, limit));
    }
    let examined: Vec<Candidate> = found
        .iter()
        .map(|p| Candidate { description: p.description.clone(), modelled_cycles: p.modelled_cycles })
        .collect();
    found.iter_mut().for_each(|p| p.examined.clone_from(&examined));
    Ok(found)
}

/// Shardings for every degree on offer: chips of one node (or ring) in powers of two, for latency and for SRAM.
fn shardings(cx: &Context<'_>, limit: u16) -> Vec<Sharding> {
    let group = match cx.target.topology {
        Topology::Nodes { node } => u16::from(node),
        Topology::Ring => 8,
    };
    let mut found = vec![Sharding::whole(cx)];
    let mut degrees: Vec<u16> =
        std::iter::successors(Some(2u16), |d| d.checked_mul(2)).take_while(|&d| d <= limit.min(group)).collect();
    if let Chips::Exactly(n) = cx.options.chips
        && n > 1
        && n <= group
        && !degrees.contains(&n)
    {
        degrees.push(n);
    }
    for d in degrees {
        let load = Fabric::new(cx.target, d).load(0, d);
        for price in ROW_PRICES {
            let sharding = search::search(cx, d, load, price);
            if sharding.shares() {
                found.push(sharding);
            }
        }
    }
    found
}

/// What to try: (chips, indices of the shardings that stages may follow, whether fewer chips are better).
fn attempts(cx: &Context<'_>, shardings: &[Sharding], chips: Chips, limit: u16) -> Vec<(u16, Vec<usize>, bool)> {
    let all: Vec<usize> = (0..shardings.len()).collect();
    let mut attempts = Vec::new();
    match chips {
        Chips::Exactly(n) => {
            for k in all.iter().copied().filter(|&k| n % shardings[k].degree == 0) {
                attempts.push((n, vec![k], false));
            }
            if n > 2 && n <= MAX_MIXED_CHIPS {
                attempts.push((n, all, false));
            }
        }
        Chips::Auto => {
            for (k, s) in shardings.iter().enumerate() {
                let least = capacity::least_stages(cx, s).max(1);
                let mut stages = least;
                for _ in 0..8 {
                    let n = stages.saturating_mul(s.degree as u64).min(limit as u64) as u16;
                    attempts.push((n / s.degree * s.degree, vec![k], true));
                    stages += (stages / 4).max(1);
                    if n == limit {
                        break;
                    }
                }
            }
            if shardings.len() > 1 {
                for n in [4u16, 8].into_iter().filter(|&n| n <= limit) {
                    attempts.push((n, all.clone(), false));
                }
            }
        }
    }
    attempts
}

/// Stages and degrees in words.
fn describe(stages: &[StagePlan], n_chips: u16) -> String {
    let degrees: Vec<u16> = stages.iter().map(|s| s.degree).collect();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let uniform = degrees.windows(2).all(|w| w[0] == w[1]);
    let of = match degrees.first() {
        Some(d) if uniform => format!("{d}"),
        _ => degrees.iter().map(u16::to_string).collect::<Vec<_>>().join("+"),
    };
    let (n, s) = (n_chips as usize, stages.len());
    format!("{n} chip{}: {s} stage{} of {of}", plural(n), plural(s))
}

/// The error where no candidate fits.
fn nothing_fits(
    cx: &Context<'_>,
    too_large: Option<Partitioned>,
    shardings: &[Sharding],
    limit: u16,
) -> CompileError {
    let least = shardings.iter().map(|s| capacity::least_stages(cx, s) * s.degree as u64).min().unwrap_or(1);
    let capacity_allows = too_large.is_none() && least <= limit as u64;
    if let (Chips::Exactly(n), true) = (cx.options.chips, capacity_allows) {
        let weights = capacity::weight_operations(cx);
        if weights < n as usize {
            return CompileError::options(format!(
                "--chips {n}: at most {} chips can hold weights of this model",
                weights.max(1)
            ));
        }
    }
    let (summary, report) = capacity::does_not_fit(cx, too_large.as_ref(), least, limit);
    CompileError { kind: CompileErrorKind::DoesNotFit { summary, report }, at: None }
}
