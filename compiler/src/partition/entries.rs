//! Several entries over the same weights and states: all follow the plan of the first.
//!
//! A constant or state lies in the same parts on the same chips in every entry. So the first entry is planned alone; each
//! other entry takes its stages from where its constants and states lie, and its ways from a search that is bound to
//! the parts that are settled.

use super::cuts::{Demand, StagePlan};
use super::dist::Dist;
use super::fabric::Fabric;
use super::plan::{self, Planned};
use super::search::{self, Fixed, Sharding, constant_key};
use super::{Context, PartitionOptions, Partitioned, capacity, usage};
use crate::tir::{Op, TensorIr, Type};
use crate::{CompileError, CompileErrorKind};
use lockstep_isa::Target;
use std::collections::{BTreeMap, BTreeSet};

/// Partitions of all entries of a model together: each element holds one partition per entry, on the same chips, with
/// the same parts of constants and states on each; by the sum of modelled cycles. The first entry decides: give the one
/// whose speed counts most. One entry is the same as [`candidates`](super::candidates).
///
/// # Errors
/// As [`candidates`](super::candidates); `DoesNotFit` also where the entries do not fit together.
pub fn candidates_of_entries(
    irs: &[&TensorIr],
    target: &Target,
    options: &PartitionOptions,
) -> Result<Vec<Vec<Partitioned>>, CompileError> {
    let cxs: Vec<Context<'_>> = irs.iter().map(|ir| Context::new(ir, target, *options)).collect();
    let Some((first, others)) = cxs.split_first() else {
        return Ok(Vec::new());
    };
    let (planned, shardings) = plan::plan(first)?;
    let mut found: Vec<Vec<Partitioned>> = Vec::new();
    let mut refused = None;
    // Plans that fit by no estimate are there only where none does: then the allocator decides.
    let near = planned.iter().all(|p| plan::excess(&p.part, target) > 0);
    for p in planned {
        let mut parts = Vec::with_capacity(irs.len());
        for cx in others {
            parts.push(follow(cx, first, &p, &shardings)?);
        }
        parts.insert(0, p.part);
        if near || fit_together(&parts, target) {
            found.push(parts);
        } else {
            refused = refused.or(Some(parts));
        }
    }
    if !near {
        let modelled = |parts: &[Partitioned]| {
            parts
                .iter()
                .map(|p| p.modelled(options.optimize))
                .fold(0u64, u64::saturating_add)
        };
        found.sort_by_key(|parts| modelled(parts));
    }
    if found.is_empty() {
        let limit = refused.iter().flatten().map(|p| p.n_chips).max().unwrap_or(1);
        let largest = refused.into_iter().flatten().max_by_key(|p| {
            usage(p, target)
                .iter()
                .map(capacity::ChipUsage::total)
                .max()
                .unwrap_or(0)
        });
        let (summary, report) = capacity::does_not_fit(first, largest.as_ref(), 1, limit);
        return Err(CompileError {
            kind: CompileErrorKind::DoesNotFit { summary, report },
            at: None,
        });
    }
    for entry in 0..irs.len() {
        let mut of: Vec<Partitioned> = found.iter().map(|parts| parts[entry].clone()).collect();
        plan::note_examined(&mut of);
        found.iter_mut().zip(of).for_each(|(parts, p)| parts[entry] = p);
    }
    Ok(found)
}

/// Whether every chip has room for the constants and states, the text of all entries, and the values of any one.
fn fit_together(parts: &[Partitioned], target: &Target) -> bool {
    let all: Vec<Vec<capacity::ChipUsage>> = parts.iter().map(|p| usage(p, target)).collect();
    let chips = all.iter().map(Vec::len).max().unwrap_or(0);
    (0..chips).all(|chip| {
        let of = || all.iter().filter_map(|u| u.get(chip));
        let held = of().map(|u| u.weights + u.states + u.padding).max().unwrap_or(0);
        let values = of().map(|u| u.values).max().unwrap_or(0);
        held + values + of().map(|u| u.text).sum::<u64>() <= target.sram_bytes()
    })
}

/// What a plan settles: distributions per sharding, and the stages that hold each constant and state.
struct Settled {
    fixed: BTreeMap<usize, Fixed>,
    constants: BTreeMap<(String, Type), BTreeSet<usize>>,
    states: BTreeMap<String, usize>,
}

fn settled(cx: &Context<'_>, stages: &[StagePlan], shardings: &[Sharding]) -> Settled {
    let mut settled = Settled {
        fixed: BTreeMap::new(),
        constants: BTreeMap::new(),
        states: BTreeMap::new(),
    };
    for (n, stage) in stages.iter().enumerate() {
        let sharding = &shardings[stage.sharding];
        let fixed = settled.fixed.entry(stage.sharding).or_default();
        for &v in &cx.order[stage.ops.clone()] {
            let data = &cx.ir.values[v];
            if let Op::State(s) = data.op {
                fixed.states.insert(cx.ir.states[s].name.clone(), sharding.dist(v));
                settled.states.insert(cx.ir.states[s].name.clone(), n);
            }
            for (j, &u) in data.inputs.iter().enumerate().filter(|(_, u)| cx.constant[**u]) {
                if let Some(key) = constant_key(cx, u) {
                    let need: Dist = sharding.need(v, j);
                    fixed.constants.entry(key.clone()).or_default().insert(need);
                    settled.constants.entry(key).or_default().insert(n);
                }
            }
        }
    }
    settled
}

/// Another entry on the chips of a plan.
fn follow(
    cx: &Context<'_>,
    first: &Context<'_>,
    planned: &Planned,
    shardings: &[Sharding],
) -> Result<Partitioned, CompileError> {
    let settled = settled(first, &planned.stages, shardings);
    let mut own: Vec<Sharding> = Vec::new();
    let mut index: BTreeMap<usize, usize> = BTreeMap::new();
    for (&k, fixed) in &settled.fixed {
        let degree = shardings[k].degree;
        let load = Fabric::new(cx.target, degree).load(0, degree);
        index.insert(k, own.len());
        own.push(search::search(cx, degree, load, 0, fixed));
    }
    // An operation goes to the first stage from here on that holds its constants or state.
    let lanes = cx.target.lanes as usize;
    let mut bounds = vec![0; planned.stages.len() + 1];
    let mut at = 0;
    for (i, &v) in cx.order.iter().enumerate() {
        let data = &cx.ir.values[v];
        let mut wanted = at;
        if let Op::State(s) = data.op {
            wanted = settled.states.get(&cx.ir.states[s].name).copied().unwrap_or(at);
        }
        for &u in data
            .inputs
            .iter()
            .filter(|&&u| cx.constant[u] && cx.ir.values[u].ty.elements() > lanes)
        {
            let holders = constant_key(cx, u).and_then(|key| settled.constants.get(&key));
            wanted = wanted.max(holders.and_then(|h| h.range(at..).next().copied()).unwrap_or(at));
        }
        while at < wanted {
            at += 1;
            bounds[at] = i;
        }
    }
    bounds[at + 1..].iter_mut().for_each(|b| *b = cx.order.len());
    let stages: Vec<StagePlan> = planned
        .stages
        .iter()
        .enumerate()
        .map(|(n, s)| StagePlan {
            ops: bounds[n]..bounds[n + 1],
            sharding: index.get(&s.sharding).copied().unwrap_or(0),
            ..s.clone()
        })
        .collect();
    plan::expand(cx, &Demand::new(cx, &[]), &stages, &own)
}
