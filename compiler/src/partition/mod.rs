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
//! | `plan.rs`, `entries.rs` | which partitions to try; several entries over the same weights |
//! | `expand.rs`, `collective.rs` | the program per chip, with transfers |
//! | `capacity.rs` | SRAM of each chip, term by term; the report of what does not fit |
//! | `boundary.rs` | what stages that are compiled apart hand on |
//! | `verify.rs`, `print.rs` | invariants P1.. and the text form |

mod boundary;
mod capacity;
mod choice;
mod collective;
pub(crate) mod cost;
mod cuts;
mod dist;
mod entries;
mod expand;
mod fabric;
mod moves;
mod plan;
mod print;
mod search;
#[cfg(test)]
mod tests;
mod verify;

pub use boundary::boundary;
pub use capacity::{ChipUsage, usage};
pub use dist::{Dist, Split};
pub use entries::candidates_of_entries;
pub(crate) use plan::MOST_SPREAD;
pub use plan::{candidates, partition};

use crate::throughput::Objective;
use crate::tir::{Op, TensorIr, ValueId};
use lockstep_graph::SideTable;
use lockstep_isa::Target;
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
    /// What they are chosen by.
    pub optimize: Objective,
    /// Whether sums of floats may not be split over chips.
    pub exact: bool,
    /// How far the stages are spread over more chips than estimates of values and text ask for, which fell short of what the scheduler
    /// needed; 0 is not at all. Only where the number of chips is free.
    pub spread: u32,
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
    /// Cycles of its longest stage by the cost model.
    pub modelled_stage: u64,
    /// All partitions looked at, best first, this one among them.
    pub examined: Vec<Candidate>,
}

impl Partitioned {
    /// Chips of every stage: what makes two partitions of one model alike.
    pub fn shape(&self) -> Vec<Range<u16>> {
        self.stages.iter().map(|s| s.chips.clone()).collect()
    }

    /// Modelled cycles that an objective makes least: of the run, or from one user's run to the next one's.
    pub fn modelled(&self, optimize: Objective) -> u64 {
        match optimize {
            Objective::Latency => self.modelled_cycles,
            Objective::Throughput => self.modelled_stage,
        }
    }

    /// The program with a port for every copy of an input: after the ports of the model, in the order of `input_copies`.
    pub fn with_all_ports(&self) -> TensorIr {
        let mut ir = self.ir.clone();
        for &(port, value) in &self.input_copies {
            let port = crate::tir::Port {
                value,
                ..ir.inputs[port].clone()
            };
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
        Context {
            ir,
            target,
            options,
            constant,
            order,
            outputs: outputs.into_iter().collect(),
            feeds,
            in_order,
        }
    }

    /// Whether chips compute it (states included).
    fn computed(&self, v: ValueId) -> bool {
        self.in_order[v]
    }

    /// Values that must last until the end: outputs, states and what feeds them.
    fn kept(&self) -> BTreeSet<ValueId> {
        let states = self
            .feeds
            .iter()
            .flat_map(|&(s, n)| [s, n])
            .filter(|&v| self.computed(v));
        self.outputs.iter().copied().chain(states).collect()
    }
}
