//! The list scheduler: chains in program order, each group at the earliest cycle that operands and tables allow.
//!
//! Groups of a chain go in the order of its muls, each mul's tile loads before it: a load may start as soon as the swap
//! before it has emptied the shadow tile, so weights arrive under running work. Anything that is free earlier is used:
//! chains without a product slip into gaps.
//!
//! Dependences are kept per vector: the cycle from which it may be read, and after which its row may be written again.

use super::group::{self, Group, Members, Step, StepOp, Unit, bad};
use super::report::{ChainTiming, Wait};
use super::reserve::{Chip, Slots};
use super::run::{self, Placed};
use super::transfer::{self, Transfer};
use super::{PlacedRun, ScheduleOptions};
use crate::CompileError;
use crate::chain::{
    Acc, Affine, BufId, BufKind, Chain, ChainId, ChainKind, ChainProgram, Node, NodeOp,
};
use lockstep_graph::EntityId;
use lockstep_isa::{Dir, Opcode, Place, Queue, Target};

/// Runs with cycles and without rows.
pub(super) struct Timed {
    /// All runs, by chain.
    pub runs: Vec<PlacedRun>,
    /// One per chain.
    pub chains: Vec<ChainTiming>,
}

/// What a dependence says: not before this cycle, because of this chain.
#[derive(Clone, Copy, Debug)]
struct Bound {
    cycle: u64,
    wait: Wait,
}

impl Bound {
    fn raise(&mut self, cycle: u64, wait: Wait) {
        if cycle > self.cycle {
            *self = Bound { cycle, wait };
        }
    }
}

/// Per vector of a buffer that programs write.
#[derive(Clone, Debug, Default)]
struct Rows {
    /// Cycle from which it may be read.
    ready: Vec<u64>,
    /// First cycle at which it may be written.
    writable: Vec<u64>,
    /// Chain that wrote it.
    writer: Vec<u32>,
}

/// A place found for a group.
struct Fit {
    at: u64,
    alus: Vec<Option<u8>>,
    streams: Vec<Option<u8>>,
    wait: Wait,
}

/// Schedules all chains. `window`: a chain starts after all chains this far before it (0: after everything placed).
pub(super) fn run(
    program: &ChainProgram,
    split: &[Vec<Members>],
    places: &[Place],
    target: &Target,
    window: Option<usize>,
) -> Result<Timed, CompileError> {
    let mut lister = Lister::new(program, places, target, window);
    for (id, chain) in program.chains.iter() {
        lister.chain(id, chain, split.get(id.index()).map_or(&[], Vec::as_slice))?;
    }
    Ok(Timed {
        runs: lister.runs,
        chains: lister.timings,
    })
}

struct Lister<'a> {
    program: &'a ChainProgram,
    places: &'a [Place],
    target: &'a Target,
    window: Option<usize>,
    chips: Vec<Chip>,
    rows: Vec<Rows>,
    runs: Vec<PlacedRun>,
    timings: Vec<ChainTiming>,
    /// Largest end over the chains up to each, and over all runs.
    ends: Vec<u64>,
    end: u64,
    /// Last chain that multiplied, per chip, hemisphere and plane.
    last_mul: Vec<[Vec<u32>; 2]>,
}

impl<'a> Lister<'a> {
    fn new(
        program: &'a ChainProgram,
        places: &'a [Place],
        target: &'a Target,
        window: Option<usize>,
    ) -> Self {
        let transfers = program
            .chains
            .values()
            .any(|c| matches!(c.kind, ChainKind::Transfer { .. }));
        let narrow = program
            .bufs
            .values()
            .map(|b| b.dtype.words() as u8)
            .min()
            .unwrap_or(4);
        let unit = if transfers { 1 } else { narrow };
        let planes = target.mxm.planes_per_hemisphere as usize;
        Lister {
            program,
            places,
            target,
            window,
            chips: (0..program.n_chips)
                .map(|_| Chip::new(target, unit))
                .collect(),
            rows: vec![Rows::default(); program.bufs.len()],
            runs: Vec::new(),
            timings: Vec::new(),
            ends: Vec::new(),
            end: 0,
            last_mul: vec![[vec![0; planes], vec![0; planes]]; program.n_chips as usize],
        }
    }

    /// Earliest cycle that the window allows for this chain.
    fn floor(&self, chain: ChainId) -> u64 {
        match self.window {
            None => 0,
            Some(0) => self.end,
            Some(w) => chain
                .index()
                .checked_sub(w)
                .and_then(|i| self.ends.get(i))
                .copied()
                .unwrap_or(0),
        }
    }

    fn chain(&mut self, id: ChainId, chain: &Chain, split: &[Members]) -> Result<(), CompileError> {
        self.timings.push(ChainTiming {
            start: u64::MAX,
            end: 0,
            wait: Wait::Start,
            unit: None,
        });
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
                    let bound = self.bound(&group)?;
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
        let end = self.timings.last().map_or(0, |t| t.end);
        self.ends
            .push(end.max(self.ends.last().copied().unwrap_or(0)));
        Ok(())
    }

    fn compute(
        &mut self,
        id: ChainId,
        chip: u16,
        nodes: &[Node],
        split: &[Members],
    ) -> Result<(), CompileError> {
        let acc_base = acc_rows(self.target, id, nodes)?;
        let windows = |node: u32| match nodes.get(node as usize).map(|n| &n.op) {
            Some(NodeOp::Load { window, .. }) => Some(*window),
            _ => None,
        };
        let base_of = |node: u32| acc_base.get(node as usize).copied().unwrap_or(0);
        let mut node_runs: Vec<Option<u32>> = vec![None; nodes.len()];
        let mut load_group = vec![None; nodes.len()];
        for members in split {
            if let Some(load) = members.load {
                load_group[load as usize] = Some(members);
            }
        }
        for members in split.iter().filter(|m| m.load.is_none()) {
            let mut loaded = Bound {
                cycle: 0,
                wait: Wait::Start,
            };
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
                        let Some(members) =
                            load_group.get_mut(load as usize).and_then(Option::take)
                        else {
                            return Err(bad(
                                id,
                                format_args!(
                                    "mul {mul} swaps in tile load {load}, which is none of its own"
                                ),
                            ));
                        };
                        let at = self.load(
                            id,
                            chip,
                            members,
                            (*hemi, &planes),
                            &mut node_runs,
                            &windows,
                        )?;
                        loaded.raise(at.cycle, at.wait);
                    }
                }
                unit = Some((mul, *hemi, planes, *swap));
            }
            let group = group::build(self.program, self.target, self.places, id, members)?;
            let mut bound = self.bound(&group)?;
            if let Some((mul, hemi, planes, _)) = &unit {
                let offset = step_of(&group, *mul).map_or(0, |s| s.offset);
                bound.raise(loaded.cycle.saturating_sub(offset), Wait::Loads);
                for plane in planes.clone() {
                    let free = self.chips[chip as usize].planes[*hemi as usize][plane].mul_free;
                    let before = self.last_mul[chip as usize][*hemi as usize][plane];
                    bound.raise(
                        free.saturating_sub(offset),
                        Wait::Unit(Opcode::Mul.unit(), ChainId::from_index(before as usize)),
                    );
                }
                if let NodeOp::Mul {
                    acc: Acc::Rows(before),
                    ..
                } = nodes[*mul as usize].op
                {
                    let (Some(b), Some(s)) = (
                        node_runs.get(before as usize).copied().flatten(),
                        step_of(&group, *mul),
                    ) else {
                        return Err(bad(
                            id,
                            format_args!(
                                "mul {mul} accumulates on mul {before}, which is not before it"
                            ),
                        ));
                    };
                    let run = &self.runs[b as usize].run;
                    let first = run.cycle as u64 + self.target.latency.mul as u64;
                    let last = first + run.last_offset() as u64;
                    let need = first.max((last).saturating_sub(s.last()));
                    bound.raise(
                        need.saturating_sub(offset),
                        Wait::Unit(Opcode::Mul.unit(), id),
                    );
                }
            }
            let fit = self.find(&group, bound)?;
            self.commit(&group, &fit, &node_runs, &windows, &base_of)?;
            self.name_runs(&group, &mut node_runs);
            if let Some((mul, hemi, planes, swap)) = unit {
                let Some(step) = step_of(&group, mul) else {
                    continue;
                };
                let at = fit.at + step.offset;
                for plane in planes {
                    let state = &mut self.chips[chip as usize].planes[hemi as usize][plane];
                    state.mul_free = at + group::hold(self.target, step);
                    if swap {
                        state.shadow_free = at + 1;
                    }
                    self.last_mul[chip as usize][hemi as usize][plane] = id.index() as u32;
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
        let mut bound = self.bound(&group)?;
        let Some(step) = members.load.and_then(|l| step_of(&group, l)) else {
            return Err(bad(id, "a load group without its load"));
        };
        let words = step.args.len() as u32 * step.dtype.words() as u32;
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
                Wait::Unit(Opcode::LoadRow.unit(), ChainId::from_index(before as usize)),
            );
        }
        let fit = self.find(&group, bound)?;
        self.commit(&group, &fit, node_runs, windows, &|_| 0)?;
        self.name_runs(&group, node_runs);
        let cycle = fit.at + step.offset + step.last() + self.target.latency.load as u64;
        Ok(Bound {
            cycle,
            wait: fit.wait,
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
            return Err(bad(
                id,
                format_args!("the target does not multiply {dtype}"),
            ));
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

    /// The buffer whose rows these are: a next state lies in the rows of its state.
    fn storage(&self, buf: BufId) -> BufId {
        match self.program.bufs.get(buf).map(|b| &b.kind) {
            Some(BufKind::NextState(state)) => *state,
            _ => buf,
        }
    }

    /// Calls `f(offset in cycles from the step's first issue, vector)` for every vector the step touches: with the first
    /// and the last issue for rows chosen at run time.
    fn touch(
        &self,
        id: ChainId,
        step: &Step,
        f: &mut dyn FnMut(u64, u64, usize),
    ) -> Result<(), CompileError> {
        let (buf, at, width, rows) = match &step.op {
            StepOp::Node(NodeOp::Read(buf, at) | NodeOp::Write(buf, at)) => (*buf, at, 1, None),
            StepOp::Node(
                NodeOp::Gather {
                    buf,
                    at,
                    row_stride,
                    limit,
                }
                | NodeOp::Scatter {
                    buf,
                    at,
                    row_stride,
                    limit,
                },
            ) => (*buf, at, 1, Some((*row_stride, *limit))),
            StepOp::Words { buf, at, .. } => (*buf, at, step.dtype.words() as i64, None),
            _ => return Ok(()),
        };
        let n = self.program.bufs.get(buf).map_or(0, |b| b.n_vectors) as i64;
        let mut issue = 0u64;
        let mut seen = Vec::new();
        for i2 in 0..step.dims[2] as i64 {
            for i1 in 0..step.dims[1] as i64 {
                for i0 in 0..step.dims[0] as i64 {
                    let s: &Affine = at;
                    let element = s.base as i64
                        + i0 * s.strides[0] as i64
                        + i1 * s.strides[1] as i64
                        + i2 * s.strides[2] as i64;
                    let vector = element.div_euclid(width);
                    if vector < 0 || vector >= n {
                        return Err(bad(
                            id,
                            format_args!(
                                "node {:?} touches vector {vector} of {buf}, which has {n}",
                                step.node
                            ),
                        ));
                    }
                    match rows {
                        None => f(issue * step.period, issue * step.period, vector as usize),
                        Some(_) => seen.push(vector),
                    }
                    issue += 1;
                }
            }
        }
        if let Some((stride, limit)) = rows {
            seen.sort_unstable();
            seen.dedup();
            for first in seen {
                let last = first + limit.max(1).saturating_sub(1) as i64 * stride as i64;
                if limit == 0 || last >= n {
                    return Err(bad(
                        id,
                        format_args!(
                            "node {:?} may touch vector {last} of {buf}, which has {n}",
                            step.node
                        ),
                    ));
                }
                for row in 0..limit as i64 {
                    f(0, step.last(), (first + row * stride as i64) as usize);
                }
            }
        }
        Ok(())
    }

    /// Earliest anchor by the rows that the group reads and writes.
    fn bound(&self, group: &Group) -> Result<Bound, CompileError> {
        let mut bound = Bound {
            cycle: self.floor(group.chain),
            wait: Wait::Start,
        };
        for step in &group.steps {
            let Some((buf, writes)) = memory(step) else {
                continue;
            };
            let rows = &self.rows[self.storage(buf).index()];
            // The vectors' range must be checked even where nothing has been written.
            self.touch(group.chain, step, &mut |first, _, v| {
                let Some(&ready) = rows.ready.get(v) else {
                    return;
                };
                let wait = Wait::Rows(ChainId::from_index(rows.writer[v] as usize));
                bound.raise(ready.saturating_sub(step.offset + first), wait);
                if writes {
                    bound.raise(rows.writable[v].saturating_sub(step.offset + first), wait);
                }
            })?;
        }
        Ok(bound)
    }

    /// The earliest cycle at or after the bound at which everything the group needs is free.
    fn find(&mut self, group: &Group, bound: Bound) -> Result<Fit, CompileError> {
        let mut at = bound.cycle;
        let mut wait = bound.wait;
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
                    return Err(bad(
                        group.chain,
                        format_args!("the target has no queue {queue:?}"),
                    ));
                };
                let mut free = held.next_free(start, len);
                if let (StepOp::Node(NodeOp::Load { .. }), Queue::MxmLoad(hemi, _)) =
                    (&step.op, queue)
                {
                    let words = step.args.len() as u32 * step.dtype.words() as u32;
                    free = chip.load_free(
                        hemi,
                        free,
                        len,
                        words,
                        self.target.mxm.load_words_per_cycle as u32,
                    );
                }
                if free > start {
                    at += free - start;
                    wait = Wait::Queue(queue);
                    continue 'search;
                }
            }
            let alus = match self.alus(group, at) {
                Ok(alus) => alus,
                Err(later) => {
                    at = later;
                    wait = Wait::Alus;
                    continue 'search;
                }
            };
            match self.streams(group, at, &order) {
                Some(streams) => {
                    return Ok(Fit {
                        at,
                        alus,
                        streams,
                        wait,
                    });
                }
                None if at > limit.max(bound.cycle) => {
                    return Err(bad(
                        group.chain,
                        "needs more streams at a time than the target has",
                    ));
                }
                None => {
                    at += 1;
                    wait = Wait::Belts;
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
    fn alus(&self, group: &Group, at: u64) -> Result<Vec<Option<u8>>, u64> {
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
                let mut later = u64::MAX;
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
                        .unwrap_or(start);
                    if free == start {
                        out[i] = Some(first as u8);
                        used[first..first + cost].fill(true);
                        break;
                    }
                    later = later.min(free);
                }
                if out[i].is_none() {
                    let shift = if later == u64::MAX { 1 } else { later - start };
                    return Err(at + shift.max(1));
                }
            }
        }
        Ok(out)
    }

    /// A first stream for each belt; `None` where they do not all find one.
    fn streams(&mut self, group: &Group, at: u64, order: &[Vec<usize>]) -> Option<Vec<Option<u8>>> {
        let mut out = vec![None; group.steps.len()];
        let mut taken: Vec<(usize, Slots, u8, u16)> = Vec::new();
        let mut all = true;
        for set in order {
            let mut free = Vec::with_capacity(set.len());
            for &i in set {
                let step = &group.steps[i];
                if let Some(slots) = slots(step, at) {
                    free.push(self.chips[step.chip as usize].belts.free(&slots));
                }
            }
            let Some(&first) = set.first() else { continue };
            let lead = &group.steps[first];
            let words = lead.belt.map_or(1, |b| b.words);
            let Some(stream) = self.chips[lead.chip as usize].belts.choose(&free, words) else {
                all = false;
                break;
            };
            for (g, &i) in set.iter().enumerate() {
                let step = &group.steps[i];
                let index = stream + (g as u16 * words) as u8;
                if let Some(slots) = slots(step, at) {
                    self.chips[step.chip as usize]
                        .belts
                        .set(&slots, index, words, true);
                    taken.push((step.chip as usize, slots, index, words));
                    out[i] = Some(index);
                }
            }
        }
        for (chip, slots, index, words) in taken {
            self.chips[chip].belts.set(&slots, index, words, false);
        }
        all.then_some(out)
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
        let mut end = 0;
        for (i, step) in group.steps.iter().enumerate() {
            let (start, len) = (fit.at + step.offset, group::hold(self.target, step));
            let chip = &mut self.chips[step.chip as usize];
            match (step.unit, fit.alus[i]) {
                (Unit::Fixed(queue), _) => chip.hold(queue, start, len),
                (Unit::Alu(cost), Some(alu)) => {
                    (alu..alu + cost).for_each(|a| chip.hold(Queue::Alu(a), start, len));
                }
                (Unit::Alu(_), None) => {}
            }
            if let (StepOp::Node(NodeOp::Load { .. }), Unit::Fixed(Queue::MxmLoad(hemi, _))) =
                (&step.op, step.unit)
            {
                chip.hold_load(
                    hemi,
                    start,
                    len,
                    step.args.len() as u32 * step.dtype.words() as u32,
                );
            }
            if let (Some(slots), Some(stream), Some(belt)) =
                (slots(step, fit.at), fit.streams[i], step.belt)
            {
                chip.belts.set(&slots, stream, belt.words, true);
            }
            end = end.max(fit.at + step.offset + group::end(self.target, step));
            self.note_rows(group.chain, step, fit.at)?;
        }
        self.end = self.end.max(end);
        if let Some(timing) = self.timings.last_mut() {
            if fit.at < timing.start {
                timing.start = fit.at;
            }
            if end >= timing.end {
                timing.end = end;
                (timing.wait, timing.unit) = (fit.wait, None);
            }
        }
        Ok(())
    }

    /// Records what a step reads or writes.
    fn note_rows(&mut self, chain: ChainId, step: &Step, at: u64) -> Result<(), CompileError> {
        let Some((buf, writes)) = memory(step) else {
            return Ok(());
        };
        let storage = self.storage(buf);
        let Some(data) = self.program.bufs.get(storage) else {
            return Ok(());
        };
        match data.kind {
            BufKind::Rows(_) | BufKind::Tile { .. } if writes => {
                return Err(bad(
                    chain,
                    format_args!("node {:?} writes the constant {buf}", step.node),
                ));
            }
            BufKind::Rows(_) | BufKind::Tile { .. } => return Ok(()),
            _ => {}
        }
        let mut rows = std::mem::take(&mut self.rows[storage.index()]);
        if rows.ready.is_empty() {
            let n = data.n_vectors as usize;
            rows = Rows {
                ready: vec![0; n],
                writable: vec![0; n],
                writer: vec![0; n],
            };
        }
        let latency = group::latency(self.target, step);
        let result = self.touch(chain, step, &mut |_, last, v| {
            let cycle = at + step.offset + last;
            if writes {
                rows.ready[v] = rows.ready[v].max(cycle + latency);
                rows.writer[v] = chain.index() as u32;
            }
            rows.writable[v] = rows.writable[v].max(cycle + 1);
        });
        self.rows[storage.index()] = rows;
        result
    }
}

/// Which buffer a step touches, and whether it writes.
pub(super) fn memory(step: &Step) -> Option<(BufId, bool)> {
    match &step.op {
        StepOp::Node(NodeOp::Read(buf, _) | NodeOp::Gather { buf, .. }) => Some((*buf, false)),
        StepOp::Node(NodeOp::Write(buf, _) | NodeOp::Scatter { buf, .. }) => Some((*buf, true)),
        StepOp::Words { buf, write, .. } => Some((*buf, *write)),
        _ => None,
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
        let belts = load
            .args
            .iter()
            .filter_map(|a| match a {
                group::Arg::Step { step, .. } => Some(*step),
                group::Arg::Imm(_) => None,
            })
            .collect();
        return vec![belts];
    }
    let mut order: Vec<usize> = (0..group.steps.len())
        .filter(|&i| group.steps[i].belt.is_some())
        .collect();
    order.sort_by_key(|&i| std::cmp::Reverse(group.steps[i].belt.map_or(0, |b| b.words)));
    order.into_iter().map(|i| vec![i]).collect()
}

/// First accumulator row of each mul: sequences alive at the same time get ranges of their own.
fn acc_rows(target: &Target, id: ChainId, nodes: &[Node]) -> Result<Vec<u16>, CompileError> {
    struct Sequence {
        first: usize,
        last: usize,
        rows: u32,
        base: u32,
    }
    let mut sequences: Vec<Sequence> = Vec::new();
    let mut of = vec![usize::MAX; nodes.len()];
    for (m, node) in nodes.iter().enumerate() {
        let NodeOp::Mul { acc, to_rows, .. } = &node.op else {
            continue;
        };
        match acc {
            Acc::Rows(before) => {
                let s = of.get(*before as usize).copied().unwrap_or(usize::MAX);
                let Some(sequence) = sequences.get_mut(s) else {
                    return Err(bad(
                        id,
                        format_args!("mul {m} accumulates on node {before}, which fills no rows"),
                    ));
                };
                sequence.last = m;
                if node.issues() != sequence.rows {
                    return Err(bad(
                        id,
                        format_args!(
                            "mul {m} has {} rows, its accumulator {}",
                            node.issues(),
                            sequence.rows
                        ),
                    ));
                }
                of[m] = s;
            }
            Acc::Zero if *to_rows => {
                of[m] = sequences.len();
                sequences.push(Sequence {
                    first: m,
                    last: m,
                    rows: node.issues(),
                    base: 0,
                });
            }
            Acc::Zero => {}
        }
    }
    for s in 0..sequences.len() {
        let (first, last, rows) = (sequences[s].first, sequences[s].last, sequences[s].rows);
        let mut base = 0;
        // Ranges of sequences still alive, by base: the first gap that is wide enough.
        let mut alive: Vec<(u32, u32)> = sequences[..s]
            .iter()
            .filter(|o| o.last > first && o.first < last)
            .map(|o| (o.base, o.base + o.rows))
            .collect();
        alive.sort_unstable();
        for (low, high) in alive {
            if base + rows <= low {
                break;
            }
            base = base.max(high);
        }
        if base + rows > target.mxm.acc_rows as u32 {
            return Err(bad(
                id,
                format_args!(
                    "needs {} accumulator rows, a matrix unit has {}",
                    base + rows,
                    target.mxm.acc_rows
                ),
            ));
        }
        sequences[s].base = base;
    }
    Ok(of
        .into_iter()
        .map(|s| sequences.get(s).map_or(0, |s| s.base as u16))
        .collect())
}

impl ScheduleOptions {
    /// The oracle: no overlap.
    pub fn serial() -> Self {
        ScheduleOptions { serial: true }
    }
}
