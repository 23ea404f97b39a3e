//! The list scheduler: chains in program order or another given, each group at the earliest cycle that operands and tables allow.
//!
//! Groups of a chain go in the order of its muls, each mul's tile loads before it: a load may start as soon as the swap
//! before it has emptied the shadow tile, so weights arrive under running work. Anything that is free earlier is used:
//! chains without a product slip into gaps.
//!
//! Dependences are kept per vector: the cycle from which it may be read, and after which its row may be written again.

use super::PlacedRun;
use super::acc::acc_rows;
use super::deps::{Bound, Deps};
use super::group::{self, Group, Members, Step, StepOp, Unit, bad};
use super::report::{Cause, GroupTiming, Wait};
use super::reserve::{Chip, Slots};
use super::run::{self, Placed};
use super::transfer::{self, Transfer};
use crate::CompileError;
use crate::chain::{Acc, Chain, ChainId, ChainKind, ChainProgram, Node, NodeOp};
use lockstep_graph::EntityId;
use lockstep_isa::{Dir, Place, Queue, Target};
use std::collections::BTreeMap;

/// Runs with cycles and without rows.
pub(super) struct Timed {
    /// All runs, by chain.
    pub runs: Vec<PlacedRun>,
    /// Placed groups, in the order of their placement.
    pub groups: Vec<GroupTiming>,
    /// Per chain, the cycle from which the rows that its first product or other group takes were there.
    pub ready: Vec<u64>,
}

/// A place found for a group.
struct Fit {
    at: u64,
    alus: Vec<Option<u8>>,
    streams: Vec<Option<u8>>,
    cause: Cause,
}

/// Schedules all chains, in this `order` or in the program's. `window`: a chain starts after all chains this far before it in the
/// program's order (0: after everything placed).
pub(super) fn run(
    program: &ChainProgram,
    split: &[Vec<Members>],
    places: &[Place],
    target: &Target,
    window: Option<usize>,
    order: Option<&[ChainId]>,
) -> Result<Timed, CompileError> {
    let mut lister = Lister::new(program, places, target, window);
    let listed: Vec<ChainId> = program.chains.ids().collect();
    for &id in order.unwrap_or(&listed) {
        if let Some(chain) = program.chains.get(id) {
            lister.chain(id, chain, split.get(id.index()).map_or(&[], Vec::as_slice))?;
        }
    }
    Ok(Timed {
        runs: lister.runs,
        groups: lister.groups,
        ready: lister.ready,
    })
}

struct Lister<'a> {
    program: &'a ChainProgram,
    places: &'a [Place],
    target: &'a Target,
    window: Option<usize>,
    chips: Vec<Chip>,
    deps: Deps<'a>,
    runs: Vec<PlacedRun>,
    groups: Vec<GroupTiming>,
    ready: Vec<u64>,
    /// Largest end over the chains up to each, and over all runs, with the group that ends there.
    ends: Vec<(u64, u32)>,
    end: (u64, u32),
    /// Last group that multiplied, per chip, hemisphere and plane.
    last_mul: Vec<[Vec<u32>; 2]>,
}

impl<'a> Lister<'a> {
    fn new(program: &'a ChainProgram, places: &'a [Place], target: &'a Target, window: Option<usize>) -> Self {
        let transfers = program
            .chains
            .values()
            .any(|c| matches!(c.kind, ChainKind::Transfer { .. }));
        let narrow = program.bufs.values().map(|b| b.dtype.words() as u8).min().unwrap_or(4);
        let unit = if transfers { 1 } else { narrow };
        let planes = target.mxm.planes_per_hemisphere as usize;
        Lister {
            program,
            places,
            target,
            window,
            chips: (0..program.n_chips).map(|_| Chip::new(target, unit)).collect(),
            deps: Deps::new(program, target),
            runs: Vec::new(),
            groups: Vec::new(),
            ready: vec![u64::MAX; program.chains.len()],
            ends: Vec::new(),
            end: (0, 0),
            last_mul: vec![[vec![0; planes], vec![0; planes]]; program.n_chips as usize],
        }
    }

    /// Earliest cycle that the window allows for this chain.
    fn floor(&self, chain: ChainId) -> Bound {
        let end = match self.window {
            None => None,
            Some(0) => Some(&self.end),
            Some(w) => chain.index().checked_sub(w).and_then(|i| self.ends.get(i)),
        };
        let mut floor = Bound::START;
        if let Some(&(cycle, group)) = end {
            let (wait, group) = (Wait::Window, Some(group));
            floor.raise(cycle, Cause { wait, group });
        }
        floor
    }

    fn chain(&mut self, id: ChainId, chain: &Chain, split: &[Members]) -> Result<(), CompileError> {
        let first = self.groups.len();
        match &chain.kind {
            ChainKind::Compute { chip, nodes } => self.compute(id, *chip, nodes, split)?,
            ChainKind::Transfer {
                from,
                from_base,
                to,
                to_base,
                n_vectors,
            } => {
                let t = Transfer {
                    from: *from,
                    from_base: *from_base,
                    to: *to,
                    to_base: *to_base,
                    n_vectors: *n_vectors,
                };
                let mut best: Option<(Fit, Group)> = None;
                for group in transfer::groups(self.program, self.target, self.places, id, &t)? {
                    let bound = self.deps.bound(&group, self.floor(group.chain))?;
                    self.note_ready(id, bound.cycle);
                    let fit = self.find(&group, bound)?;
                    if best.as_ref().is_none_or(|(b, _)| fit.at < b.at) {
                        best = Some((fit, group));
                    }
                }
                if let Some((fit, group)) = best {
                    self.commit(&group, &fit, &[], &|_| None, &|_| 0)?;
                }
            }
        }
        let own = (first..).zip(&self.groups[first..]).map(|(i, g)| (g.end, i as u32));
        let before = self.ends.last().copied();
        self.ends.push(own.chain(before).max().unwrap_or((0, 0)));
        Ok(())
    }

    fn compute(&mut self, id: ChainId, chip: u16, nodes: &[Node], split: &[Members]) -> Result<(), CompileError> {
        let acc_base = acc_rows(self.target, id, nodes)?;
        let windows = |node: u32| match nodes.get(node as usize).map(|n| &n.op) {
            Some(NodeOp::Load { window, .. }) => Some(*window),
            _ => None,
        };
        let base_of = |node: u32| acc_base.get(node as usize).copied().unwrap_or(0);
        let mut node_runs: Vec<Option<u32>> = vec![None; nodes.len()];
        let mut mul_groups: BTreeMap<u32, u32> = BTreeMap::new();
        let mut load_group = vec![None; nodes.len()];
        for members in split {
            if let Some(load) = members.load {
                load_group[load as usize] = Some(members);
            }
        }
        for members in split.iter().filter(|m| m.load.is_none()) {
            let mut loaded = Bound::START;
            let mut unit = None;
            if let Some(mul) = members.mul {
                let NodeOp::Mul {
                    loads,
                    swap,
                    hemi,
                    plane,
                    ..
                } = &nodes[mul as usize].op
                else {
                    continue;
                };
                let planes = self.planes(id, nodes[mul as usize].dtype, *hemi, *plane)?;
                if *swap {
                    for &load in loads {
                        let Some(members) = load_group.get_mut(load as usize).and_then(Option::take) else {
                            return Err(bad(
                                id,
                                format_args!("mul {mul} swaps in tile load {load}, which is none of its own"),
                            ));
                        };
                        let at = self.load(id, chip, members, (*hemi, &planes), &mut node_runs, &windows)?;
                        loaded.raise(at.cycle, at.cause);
                    }
                }
                unit = Some((mul, *hemi, planes, *swap));
            }
            let group = group::build(self.program, self.target, self.places, id, members)?;
            let mut bound = self.deps.bound(&group, self.floor(group.chain))?;
            self.note_ready(id, bound.cycle);
            if let Some((mul, hemi, planes, _)) = &unit {
                let offset = step_of(&group, *mul).map_or(0, |s| s.offset);
                bound.raise(loaded.cycle.saturating_sub(offset), loaded.cause);
                for plane in planes.clone() {
                    let free = self.chips[chip as usize].planes[*hemi as usize][plane].mul_free;
                    let before = self.last_mul[chip as usize][*hemi as usize][plane];
                    bound.raise(
                        free.saturating_sub(offset),
                        Cause {
                            wait: Wait::Product,
                            group: Some(before),
                        },
                    );
                }
                if let NodeOp::Mul {
                    acc: Acc::Rows(before), ..
                } = nodes[*mul as usize].op
                {
                    let (Some(b), Some(s)) = (node_runs.get(before as usize).copied().flatten(), step_of(&group, *mul))
                    else {
                        return Err(bad(
                            id,
                            format_args!("mul {mul} accumulates on mul {before}, which is not before it"),
                        ));
                    };
                    let run = &self.runs[b as usize].run;
                    let first = run.cycle as u64 + self.target.latency.mul as u64;
                    let last = first + run.last_offset() as u64;
                    let need = first.max((last).saturating_sub(s.last()));
                    bound.raise(
                        need.saturating_sub(offset),
                        Cause {
                            wait: Wait::Product,
                            group: mul_groups.get(&before).copied(),
                        },
                    );
                }
            }
            let fit = self.find(&group, bound)?;
            let group_index = self.groups.len() as u32;
            self.commit(&group, &fit, &node_runs, &windows, &base_of)?;
            self.name_runs(&group, &mut node_runs);
            if let Some((mul, hemi, planes, swap)) = unit {
                let Some(step) = step_of(&group, mul) else {
                    continue;
                };
                mul_groups.insert(mul, group_index);
                let at = fit.at + step.offset;
                for plane in planes {
                    let state = &mut self.chips[chip as usize].planes[hemi as usize][plane];
                    state.mul_free = at + group::hold(self.target, step);
                    if swap {
                        state.shadow_free = at + 1;
                    }
                    self.last_mul[chip as usize][hemi as usize][plane] = group_index;
                }
            }
        }
        if let Some(load) = load_group.iter().flatten().next() {
            return Err(bad(
                id,
                format_args!("tile load {:?} is not swapped in by any mul", load.load),
            ));
        }
        Ok(())
    }

    /// Rows that the chain takes were there at this cycle.
    fn note_ready(&mut self, chain: ChainId, cycle: u64) {
        if let Some(ready) = self.ready.get_mut(chain.index()) {
            *ready = (*ready).min(cycle);
        }
    }

    /// Places a tile load; returns from when a swap may follow.
    fn load(
        &mut self,
        id: ChainId,
        chip: u16,
        members: &Members,
        (hemi, planes): (Dir, &std::ops::Range<usize>),
        node_runs: &mut [Option<u32>],
        windows: &dyn Fn(u32) -> Option<lockstep_isa::run::Window>,
    ) -> Result<Bound, CompileError> {
        let group = group::build(self.program, self.target, self.places, id, members)?;
        let mut bound = self.deps.bound(&group, self.floor(group.chain))?;
        let Some(step) = members.load.and_then(|l| step_of(&group, l)) else {
            return Err(bad(id, "a load group without its load"));
        };
        let words = group::load_words(&group, step);
        if words > self.target.mxm.load_words_per_cycle as u32 {
            return Err(bad(
                id,
                format_args!(
                    "a tile load of {words} words a cycle, the target takes {}",
                    self.target.mxm.load_words_per_cycle
                ),
            ));
        }
        for plane in planes.clone() {
            let free = self.chips[chip as usize].planes[hemi as usize][plane].shadow_free;
            let before = self.last_mul[chip as usize][hemi as usize][plane];
            bound.raise(
                free.saturating_sub(step.offset),
                Cause {
                    wait: Wait::Product,
                    group: Some(before),
                },
            );
        }
        let fit = self.find(&group, bound)?;
        self.commit(&group, &fit, node_runs, windows, &|_| 0)?;
        self.name_runs(&group, node_runs);
        let cycle = fit.at + step.offset + step.last() + self.target.latency.load as u64;
        Ok(Bound {
            cycle,
            cause: Cause {
                wait: Wait::Loads,
                group: Some(self.groups.len() as u32 - 1),
            },
        })
    }

    fn planes(
        &self,
        id: ChainId,
        dtype: lockstep_isa::DType,
        hemi: Dir,
        plane: u8,
    ) -> Result<std::ops::Range<usize>, CompileError> {
        let n = self.target.mxm.planes_per_hemisphere;
        let Some(rate) = self.target.mxm_rate(dtype) else {
            return Err(bad(id, format_args!("the target does not multiply {dtype}")));
        };
        if rate.planes == 0 || !plane.is_multiple_of(rate.planes) || plane + rate.planes > n {
            return Err(bad(
                id,
                format_args!(
                    "no {dtype} matrix unit starts at plane {plane} of hemisphere {}",
                    hemi.letter()
                ),
            ));
        }
        Ok(plane as usize..(plane + rate.planes) as usize)
    }

    /// Notes the run ids of the group's nodes; the group has just been committed.
    fn name_runs(&self, group: &Group, node_runs: &mut [Option<u32>]) {
        let first = self.runs.len() - group.steps.len();
        for (i, step) in group.steps.iter().enumerate() {
            if let Some(slot) = step.node.and_then(|n| node_runs.get_mut(n as usize)) {
                *slot = Some((first + i) as u32);
            }
        }
    }

    /// The earliest cycle at or after the bound at which everything the group needs is free.
    fn find(&mut self, group: &Group, bound: Bound) -> Result<Fit, CompileError> {
        let mut at = bound.cycle;
        let mut cause = bound.cause;
        let limit = self.horizon(group) + 1;
        let order = stream_order(group);
        'search: loop {
            for step in &group.steps {
                let Unit::Fixed(queue) = step.unit else {
                    continue;
                };
                let start = at + step.offset;
                let len = group::hold(self.target, step);
                let chip = &self.chips[step.chip as usize];
                let Some(held) = chip.queue(queue) else {
                    return Err(bad(group.chain, format_args!("the target has no queue {queue:?}")));
                };
                let (mut free, mut holder) = held.next_free(start, len);
                if let (StepOp::Node(NodeOp::Load { .. }), Queue::MxmLoad(hemi, _)) = (&step.op, queue) {
                    let words = group::load_words(group, step);
                    let limit = self.target.mxm.load_words_per_cycle as u32;
                    (free, holder) = chip.load_free(hemi, (free, holder), len, words, limit);
                }
                if free > start {
                    at += free - start;
                    cause = Cause {
                        wait: Wait::Unit(queue.unit()),
                        group: holder,
                    };
                    continue 'search;
                }
            }
            let alus = match self.alus(group, at) {
                Ok(alus) => alus,
                Err((later, holder)) => {
                    at = later;
                    cause = Cause {
                        wait: Wait::Unit(lockstep_isa::op::UnitKind::Vxm),
                        group: holder,
                    };
                    continue 'search;
                }
            };
            match self.streams(group, at, &order) {
                Ok(streams) => {
                    return Ok(Fit {
                        at,
                        alus,
                        streams,
                        cause,
                    });
                }
                Err(_) if at > limit.max(bound.cycle) => {
                    return Err(bad(group.chain, "needs more streams at a time than the target has"));
                }
                Err(delay) => {
                    at += delay;
                    let group = (self.groups.len() as u32).checked_sub(1);
                    cause = Cause {
                        wait: Wait::Belts,
                        group,
                    };
                }
            }
        }
    }

    fn horizon(&self, group: &Group) -> u64 {
        group
            .steps
            .iter()
            .map(|s| self.chips[s.chip as usize].horizon)
            .max()
            .unwrap_or(0)
    }

    /// An ALU for each VXM step, or the next anchor to try.
    fn alus(&self, group: &Group, at: u64) -> Result<Vec<Option<u8>>, (u64, Option<u32>)> {
        let mut out = vec![None; group.steps.len()];
        let mut used = vec![false; self.target.vxm.alus as usize];
        for wide in [true, false] {
            for (i, step) in group.steps.iter().enumerate() {
                let Unit::Alu(cost) = step.unit else { continue };
                if (cost > 1) != wide {
                    continue;
                }
                let (start, len) = (at + step.offset, group::hold(self.target, step));
                let chip = &self.chips[step.chip as usize];
                let mut later = (u64::MAX, None);
                let cost = cost as usize;
                // Wide operations from the low end, single ones from the high end.
                let n = used.len() / cost;
                for slot in 0..n {
                    let first = if wide { slot } else { n - 1 - slot } * cost;
                    if used[first..first + cost].contains(&true) {
                        continue;
                    }
                    let free = (first..first + cost)
                        .filter_map(|a| chip.queue(Queue::Alu(a as u8)))
                        .map(|q| q.next_free(start, len))
                        .max()
                        .unwrap_or((start, None));
                    if free.0 == start {
                        out[i] = Some(first as u8);
                        used[first..first + cost].fill(true);
                        break;
                    }
                    later = later.min(free);
                }
                if out[i].is_none() {
                    let shift = if later.0 == u64::MAX { 1 } else { later.0 - start };
                    return Err((at + shift.max(1), later.1));
                }
            }
        }
        Ok(out)
    }

    /// A first stream for each belt; where they do not all find one, cycles after which to try again.
    fn streams(&mut self, group: &Group, at: u64, order: &[Vec<usize>]) -> Result<Vec<Option<u8>>, u64> {
        let mut out = vec![None; group.steps.len()];
        let mut taken: Vec<(usize, Slots, u8, u16)> = Vec::new();
        let mut missing = None;
        for set in order {
            let mut free = Vec::with_capacity(set.len());
            let mut wanted = Vec::with_capacity(set.len());
            for &i in set {
                let step = &group.steps[i];
                if let Some(slots) = slots(step, at) {
                    free.push(self.chips[step.chip as usize].belts.free(&slots));
                    wanted.push(slots);
                }
            }
            let Some(&first) = set.first() else { continue };
            let lead = &group.steps[first];
            let words = lead.belt.map_or(1, |b| b.words);
            let Some(stream) = self.chips[lead.chip as usize].belts.choose(&free, words) else {
                missing = Some((lead.chip as usize, wanted, words));
                break;
            };
            for (g, &i) in set.iter().enumerate() {
                let step = &group.steps[i];
                let index = stream + (g as u16 * words) as u8;
                if let Some(slots) = slots(step, at) {
                    self.chips[step.chip as usize].belts.set(&slots, index, words, true);
                    taken.push((step.chip as usize, slots, index, words));
                    out[i] = Some(index);
                }
            }
        }
        for (chip, slots, index, words) in taken {
            self.chips[chip].belts.set(&slots, index, words, false);
        }
        match missing {
            None => Ok(out),
            // The group's own belts are given back: they would move along.
            Some((chip, wanted, words)) => Err(self.chips[chip].belts.delay(&wanted, words)),
        }
    }

    /// Reserves everything and makes the runs.
    fn commit(
        &mut self,
        group: &Group,
        fit: &Fit,
        node_runs: &[Option<u32>],
        windows: &dyn Fn(u32) -> Option<lockstep_isa::run::Window>,
        acc_base: &dyn Fn(u32) -> u16,
    ) -> Result<(), CompileError> {
        let placed = Placed {
            chain: group.chain,
            steps: &group.steps,
            at: fit.at,
            alus: &fit.alus,
            streams: &fit.streams,
            first_run: self.runs.len() as u32,
            node_runs,
            windows,
            acc_base,
        };
        for index in 0..group.steps.len() {
            let (run, claims) = run::make(&placed, index)?;
            self.runs.push(PlacedRun {
                chip: group.steps[index].chip,
                chain: group.chain,
                run,
                claims,
            });
        }
        let index = self.groups.len() as u32;
        let mut end = 0;
        for (i, step) in group.steps.iter().enumerate() {
            let (start, len) = (fit.at + step.offset, group::hold(self.target, step));
            let chip = &mut self.chips[step.chip as usize];
            match (step.unit, fit.alus[i]) {
                (Unit::Fixed(queue), _) => chip.hold(queue, start, len, index),
                (Unit::Alu(cost), Some(alu)) => {
                    (alu..alu + cost).for_each(|a| chip.hold(Queue::Alu(a), start, len, index));
                }
                (Unit::Alu(_), None) => {}
            }
            if let (StepOp::Node(NodeOp::Load { .. }), Unit::Fixed(Queue::MxmLoad(hemi, _))) = (&step.op, step.unit) {
                chip.hold_load(hemi, start, len, group::load_words(group, step), index);
            }
            if let (Some(slots), Some(stream), Some(belt)) = (slots(step, fit.at), fit.streams[i], step.belt) {
                chip.belts.set(&slots, stream, belt.words, true);
            }
            end = end.max(fit.at + step.offset + group::end(self.target, step));
            self.deps.note(group.chain, index, step, fit.at)?;
        }
        self.end = self.end.max((end, index));
        self.groups.push(GroupTiming {
            chain: group.chain,
            first: group.steps.iter().filter_map(|s| s.node).min(),
            start: fit.at,
            end,
            cause: fit.cause,
        });
        Ok(())
    }
}

fn step_of(group: &Group, node: u32) -> Option<&Step> {
    group.steps.iter().find(|s| s.node == Some(node))
}

fn slots(step: &Step, at: u64) -> Option<Slots> {
    step.belt.map(|b| Slots {
        dir: b.dir,
        cycle: at + b.start,
        period: b.period,
        count: b.count,
        from: b.from,
        to: b.to,
    })
}

/// Sets of steps whose streams are chosen together: the belts of a tile load, everything else alone; wide vectors first.
fn stream_order(group: &Group) -> Vec<Vec<usize>> {
    let load = group
        .steps
        .iter()
        .find(|s| matches!(s.op, StepOp::Node(NodeOp::Load { .. })));
    if let Some(load) = load {
        let scaled = matches!(load.op, StepOp::Node(NodeOp::Load { scaled: true, .. }));
        let belts: Vec<usize> = load
            .args
            .iter()
            .filter_map(|a| match a {
                group::Arg::Step { step, .. } => Some(*step),
                group::Arg::Imm(_) => None,
            })
            .collect();
        let (belts, scales) = belts.split_at(belts.len() - usize::from(scaled));
        let mut sets = vec![belts.to_vec()];
        sets.extend(scales.iter().map(|&s| vec![s]));
        return sets;
    }
    let mut order: Vec<usize> = (0..group.steps.len())
        .filter(|&i| group.steps[i].belt.is_some())
        .collect();
    order.sort_by_key(|&i| std::cmp::Reverse(group.steps[i].belt.map_or(0, |b| b.words)));
    order.into_iter().map(|i| vec![i]).collect()
}
