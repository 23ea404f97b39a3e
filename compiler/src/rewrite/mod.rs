//! Equality saturation: the program's blocks, rewritten by rules and extracted by the target's cycles.
//!
//! egg is confined to this folder, and [`convert`] is the only bridge to the tensor IR. `README.md` beside this file has the rules
//! of rules. In stages (see [`rules::STAGES`]), each reported with what it gained:
//!
//! ```text
//! v4 = map div(v2, v3)                       v4 = contract v2, v1
//! v5 = contract v4, v1           =>          v5 = map div(1.0, v3)
//!                                            v6 = map mul(v4, v5)
//! ```
//!
//! Limits are in nodes and iterations, never in seconds, so that the result depends on the program and the target alone.

pub mod analysis;
pub mod convert;
pub mod cost;
pub mod extract;
pub mod lang;
pub mod rules;
#[cfg(test)]
mod tests;

use crate::error::CompileError;
use crate::passes::{PassCx, TIR_PASSES};
use crate::tir::TensorIr;
use crate::tir::consteval;
use analysis::Facts;
use convert::{BlockKey, Solution};
use cost::{CYCLE, Model};
use egg::{Runner, SimpleScheduler};
use lockstep_graph::EntityId;
use lockstep_isa::Target;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most e-nodes of a block's graph.
const NODE_LIMIT: usize = 10_000;
/// Most rounds of all rules.
const ITERATION_LIMIT: usize = 10;
/// Out of reach: time must not decide.
const TIME_LIMIT: Duration = Duration::from_secs(1 << 40);
/// Passes that tidy up afterwards: what rules made of small constants, and what is no longer needed. Single operations become maps
/// in the passes that fuse.
const AFTER: [&str; 3] = ["fold-consts", "dedup", "dead-code"];

/// Options of [`run`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RewriteOptions {
    /// Only rules that keep every rounding.
    pub exact: bool,
    /// Stop after so many applications of rules, to find the one that is wrong.
    pub stop_after: Option<usize>,
}

/// What a stage gained: modelled cycles of all blocks, operations one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageGain {
    /// Name of the stage.
    pub stage: String,
    /// Cycles before it.
    pub cycles_before: u64,
    /// Cycles after it.
    pub cycles_after: u64,
}

/// The e-graph of a distinct block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockStats {
    /// Blocks of the program that are equal to it.
    pub times: usize,
    /// Nodes when the rules stopped.
    pub nodes: usize,
    /// Classes.
    pub classes: usize,
    /// Why they stopped.
    pub stop: String,
}

/// What [`run`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewriteReport {
    /// Gains by stage.
    pub stages: Vec<StageGain>,
    /// The distinct blocks.
    pub blocks: Vec<BlockStats>,
}

/// Modelled cycles of a whole program, operations one after another. A map is read from SRAM and written to it once, whatever the number
/// of its nodes.
pub fn estimate(ir: &TensorIr, target: &Target) -> u64 {
    let model = Model { target };
    let constant = consteval::const_values(ir);
    let of = |v: &crate::tir::ValueData| {
        let operands: Vec<&crate::tir::Type> = v.inputs.iter().map(|&u| &ir.values[u].ty).collect();
        let trip = if let crate::tir::Op::Map { .. } = v.op {
            model.trip(&operands, &v.ty)
        } else {
            0
        };
        model.op(&v.op, &operands, &v.ty) + trip
    };
    ir.values
        .iter()
        .filter(|(id, _)| !constant.contains(*id))
        .map(|(_, v)| of(v))
        .sum::<u64>()
        / CYCLE
}

/// What was found for a distinct block.
struct Solved {
    /// `None` if nothing was gained.
    solution: Option<Solution>,
    /// Cost before, and after each stage.
    costs: Vec<u64>,
    stats: BlockStats,
}

/// Rewrites a program that the passes have canonicalised; what rules changed is left as maps of one operation.
///
/// # Errors
/// If a rule joins what is not equal in type, or the result is malformed (a bug).
pub fn run(ir: &mut TensorIr, target: &Target, options: &RewriteOptions) -> Result<RewriteReport, CompileError> {
    let constant = consteval::const_values(ir);
    let mut users = vec![0u32; ir.values.len()];
    ir.values
        .values()
        .flat_map(|v| &v.inputs)
        .for_each(|v| users[v.index()] += 1);
    let blocks = convert::blocks(ir);
    let keys: Vec<BlockKey> = blocks.iter().map(|b| convert::key(ir, b, &constant, &users)).collect();
    let mut facts = Facts {
        maps: std::mem::take(&mut ir.maps),
        budget: options.stop_after,
        ..Facts::default()
    };
    let mut solved: BTreeMap<&BlockKey, Solved> = BTreeMap::new();
    let mut order: Vec<&BlockKey> = Vec::new();
    for key in &keys {
        if let Some(known) = solved.get_mut(key) {
            known.stats.times += 1;
            continue;
        }
        solved.insert(key, solve(key, &mut facts, target, options)?);
        order.push(key);
    }
    ir.maps = facts.maps;
    let solutions: Vec<Option<&Solution>> = keys
        .iter()
        .map(|k| solved.get(k).and_then(|s| s.solution.as_ref()))
        .collect();
    convert::rebuild(ir, &blocks, &solutions)?;
    let cx = PassCx {
        exact: options.exact,
        ..PassCx::default()
    };
    for name in AFTER {
        if let Some(pass) = TIR_PASSES.iter().find(|p| p.name == name) {
            (pass.run)(ir, &cx)?;
        }
    }
    let total = |stage: usize| {
        solved
            .values()
            .map(|s| s.costs[stage] * s.stats.times as u64)
            .sum::<u64>()
            / CYCLE
    };
    let stages = rules::STAGES.iter().enumerate().map(|(n, (name, _))| StageGain {
        stage: (*name).to_string(),
        cycles_before: total(n),
        cycles_after: total(n + 1),
    });
    let report = RewriteReport {
        stages: stages.collect(),
        blocks: order
            .iter()
            .filter_map(|k| solved.get(k))
            .map(|s| s.stats.clone())
            .collect(),
    };
    for gain in &report.stages {
        tracing::debug!(
            stage = gain.stage,
            before = gain.cycles_before,
            after = gain.cycles_after,
            "rewrite"
        );
    }
    Ok(report)
}

/// Saturates a block with the rules of one stage more each time, and keeps the cheapest program found.
fn solve(key: &BlockKey, facts: &mut Facts, target: &Target, options: &RewriteOptions) -> Result<Solved, CompileError> {
    let model = Model { target };
    let mut costs = Vec::with_capacity(rules::STAGES.len() + 1);
    let mut best: Option<Solution> = None;
    let mut stats = BlockStats {
        times: 1,
        nodes: 0,
        classes: 0,
        stop: String::new(),
    };
    for n_stages in 0..=rules::STAGES.len() {
        let last = n_stages == rules::STAGES.len();
        // A budget of rule applications is for the stages together.
        let budget = if last {
            facts.budget
        } else {
            options.stop_after.map(|_| 0)
        };
        let given = Facts {
            budget,
            maps: std::mem::take(&mut facts.maps),
            ..Facts::default()
        };
        let (graph, roots) = convert::graph(key, given);
        let runner = Runner::<_, _, ()>::new(Facts::default())
            .with_egraph(graph)
            .with_scheduler(SimpleScheduler)
            .with_node_limit(NODE_LIMIT)
            .with_iter_limit(ITERATION_LIMIT)
            .with_time_limit(TIME_LIMIT)
            .run(&rules::rewrites(n_stages, options.exact)?);
        let mut graph = runner.egraph;
        if let Some(clash) = graph.analysis.clash.take() {
            return Err(CompileError::internal("rewrite", clash));
        }
        let cost = |class, node: &lang::Node| model.node(&graph, class, node);
        let choice = extract::extract(&graph, &roots, &cost, &|_, _| true);
        let before = costs.last().copied().unwrap_or(u64::MAX);
        match choice {
            Some(choice) if choice.cost < before => {
                costs.push(choice.cost);
                if n_stages > 0 {
                    best = convert::solution(&graph, &roots, &choice);
                }
            }
            _ => costs.push(if n_stages == 0 { 0 } else { before }),
        }
        stats.nodes = graph.total_number_of_nodes();
        stats.classes = graph.number_of_classes();
        stats.stop = runner.stop_reason.map(|r| format!("{r:?}")).unwrap_or_default();
        facts.maps = std::mem::take(&mut graph.analysis.maps);
        if last {
            facts.budget = graph.analysis.budget;
        }
    }
    tracing::debug!(nodes = stats.nodes, classes = stats.classes, stop = stats.stop, "block");
    Ok(Solved {
        solution: best,
        costs,
        stats,
    })
}
