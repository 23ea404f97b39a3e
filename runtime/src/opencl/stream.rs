//! The launches of an entry, from the steps of its plan.
//!
//! Steps that do not need each other run in the same round ([`super::order`]). Those of a round that share a kernel are one launch.

use super::driver::Device;
use super::work::{Kernel, Parameters, Shape, Work};
use super::{order, prelude, step, tape};
use crate::plan::{Arg, ChainPlan, OpKind, Plan, Space, Step, Tape, TapeOp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Kernels, each once, and what entries do with them.
pub struct Stream {
    shape: Shape,
    /// Kernels in the order in which they were first needed, with the entry and chain that needed them.
    pub kernels: Vec<(Kernel, usize, u32)>,
    ids: BTreeMap<String, usize>,
    /// Kernels of products.
    products: Vec<(step::Product, usize)>,
    /// Steps that do not need each other, round by round.
    rounds: Vec<Vec<Item>>,
    /// Rounds of each entry.
    entries: Vec<Range<usize>>,
    /// Bytes of scratch.
    pub scratch: usize,
    /// Most bytes of local memory of a work-group.
    pub local_bytes: usize,
}

/// One step of a chain, or a part of it.
struct Item {
    kernel: usize,
    work: Work,
    chain: u32,
    kind: &'static str,
}

/// A launch: a kernel, once for each block of parameters.
#[derive(Debug)]
pub struct Launch {
    /// Index of its kernel.
    pub kernel: usize,
    /// Work-items of a group.
    pub local: [usize; 2],
    /// Work-groups in the first and second dimension; the third counts the blocks.
    pub groups: [usize; 2],
    /// Index of the buffer of its weights.
    pub part: usize,
    /// Parameters.
    pub blocks: Vec<Parameters>,
    /// Its first chain.
    pub chain: u32,
    /// Kind of its steps, as [`Step::kind`] has it.
    pub kind: &'static str,
}

/// All launches.
pub struct Launches {
    /// Parts of the weights section, each a buffer of its own.
    pub parts: Vec<Range<usize>>,
    /// Launches in order.
    pub launches: Vec<Launch>,
    /// Those of each entry.
    pub entries: Vec<Range<usize>>,
}

impl Shape {
    /// What suits a device that runs vectors of `lanes`.
    pub fn of(device: &Device, lanes: usize) -> Shape {
        let items = match device.processor {
            true => 1,
            false => lanes.next_power_of_two().min(device.group_items).min(64),
        };
        Shape {
            lanes: lanes.next_multiple_of(16),
            items,
            row_groups: match device.processor {
                true => device.units * 4,
                false => usize::MAX >> 33,
            },
            width: match device.width {
                0..8 => 4,
                8..16 => 8,
                _ => 16,
            },
            local: match device.processor {
                true => [1, 1],
                false => [8, 8.min(device.group_items / 8).max(1)],
            },
        }
    }
}

impl Stream {
    /// No launches.
    pub fn new(shape: Shape) -> Stream {
        Stream {
            shape,
            kernels: Vec::new(),
            ids: BTreeMap::new(),
            products: Vec::new(),
            rounds: Vec::new(),
            entries: Vec::new(),
            scratch: 0,
            local_bytes: 0,
        }
    }

    /// Adds an entry. `pool` are the constants made at load.
    pub fn entry(&mut self, plan: &Plan, pool: &[u8]) {
        let chains = plan.chains.iter().enumerate();
        let chains: Vec<_> = chains
            .map(|(c, chain)| self.chain(plan, pool, c as u32, chain))
            .collect();
        let kernels = chains.iter().map(|rounds| {
            let of = |items: &Vec<Item>| items.iter().map(|i| i.kernel).collect();
            rounds.iter().map(of).collect()
        });
        let kernels: Vec<Vec<BTreeSet<usize>>> = kernels.collect();
        let slots = order::chains(&plan.chains, &kernels);
        let first = self.rounds.len();
        let end = slots.iter().map(|s| s.rounds.end).max().unwrap_or(0);
        self.rounds.resize_with(first + end, Vec::new);
        for ((rounds, slot), chain) in chains.into_iter().zip(slots).zip(&plan.chains) {
            self.scratch = self.scratch.max(slot.scratch + chain.scratch);
            for (mut items, at) in rounds.into_iter().zip(slot.rounds) {
                for item in &mut items {
                    item.work.parameters.shift(Space::Scratch, slot.scratch as i64);
                }
                if let Some(round) = self.rounds.get_mut(first + at) {
                    round.append(&mut items);
                }
            }
        }
        self.entries.push(first..self.rounds.len());
    }

    /// The steps of a chain by the chain's rounds.
    fn chain(&mut self, plan: &Plan, pool: &[u8], c: u32, chain: &ChainPlan) -> Vec<Vec<Item>> {
        let mut all: Vec<Vec<Item>> = Vec::new();
        if chain.events.is_empty() {
            let mut steps = Vec::with_capacity(chain.steps.len());
            for step in &chain.steps {
                let rows = match step {
                    Step::Pack(_) => (0, 1),
                    _ => (0, step.rows().0),
                };
                let mut items = Vec::new();
                self.step(plan, pool, c, step, rows, &mut items);
                steps.push(items);
            }
            let lengths: Vec<usize> = steps.iter().map(Vec::len).collect();
            for (start, step) in order::steps(plan, chain, &lengths).into_iter().zip(steps) {
                all.resize_with(all.len().max(start + step.len()), Vec::new);
                for (round, mut items) in all.iter_mut().skip(start).zip(step) {
                    round.append(&mut items);
                }
            }
        }
        for &(s, row) in &chain.events {
            if let Some(step) = chain.steps.get(s as usize) {
                self.step(plan, pool, c, step, (row, row + 1), &mut all);
            }
        }
        all
    }

    fn step(&mut self, plan: &Plan, pool: &[u8], c: u32, step: &Step, rows: (u32, u32), all: &mut Vec<Vec<Item>>) {
        let kind = step.kind();
        if let Step::Tape(t) = step {
            self.local_bytes = self.local_bytes.max(t.slots as usize * self.shape.lanes * 4);
        }
        match step {
            Step::Tape(t) => all.push(vec![self.item(tape::tape(&self.shape, plan, pool, t, rows), c, kind)]),
            Step::Multiply(m) => {
                if let Some((from, lo, hi)) = &m.copy {
                    let op = TapeOp {
                        kind: OpKind::Copy { size: 4 },
                        a: Arg::Rows(*from),
                        b: Arg::None,
                        c: Arg::None,
                        out: Arg::Rows(m.acc),
                        lo: *lo,
                        n: hi - lo,
                    };
                    let copy = Tape {
                        rows: m.rows,
                        block: 1,
                        grain: 1,
                        slots: 0,
                        ops: vec![op],
                    };
                    all.push(vec![self.item(
                        tape::tape(&self.shape, plan, pool, &copy, rows),
                        c,
                        kind,
                    )]);
                }
                // No two blocks have a column in common.
                let blocks = m.blocks.iter().map(|b| step::multiply(&self.shape, m, b, rows));
                let blocks: Vec<_> = blocks.collect();
                let items = blocks.into_iter().map(|(product, work)| {
                    let known = self.products.iter().find(|(p, _)| *p == product);
                    let kernel = match known {
                        Some(&(_, id)) => id,
                        None => {
                            let id = self.kernel(step::product(&product), c);
                            self.products.push((product, id));
                            id
                        }
                    };
                    Item {
                        kernel,
                        work,
                        chain: c,
                        kind,
                    }
                });
                let items = items.collect();
                all.push(items);
            }
            Step::Pack(p) => all.push(vec![self.item(step::pack(&self.shape, p), c, kind)]),
            Step::Transpose(t) => all.push(vec![self.item(step::transpose(&self.shape, t, rows), c, kind)]),
        }
    }

    /// Index of a kernel.
    fn kernel(&mut self, kernel: Kernel, chain: u32) -> usize {
        if let Some(&id) = self.ids.get(&kernel.text) {
            return id;
        }
        let id = self.kernels.len();
        self.ids.insert(kernel.text.clone(), id);
        self.kernels.push((kernel, self.entries.len(), chain));
        id
    }

    fn item(&mut self, (kernel, work): (Kernel, Work), chain: u32, kind: &'static str) -> Item {
        Item {
            kernel: self.kernel(kernel, chain),
            work,
            chain,
            kind,
        }
    }

    /// Makes launches of what shares a kernel, the weights in buffers of at most `most` bytes. Takes the rounds.
    ///
    /// # Errors
    /// The bytes of the weights of a step that are more.
    pub fn launches(&mut self, most: u64) -> Result<Launches, u64> {
        let rounds = std::mem::take(&mut self.rounds);
        let parts = parts(rounds.iter().flatten(), most)?;
        let mut all = Launches {
            parts,
            launches: Vec::new(),
            entries: Vec::new(),
        };
        let mut first = vec![0];
        for round in rounds {
            let mut places: BTreeMap<(usize, [usize; 2], usize), usize> = BTreeMap::new();
            for mut item in round {
                let weights = item.work.parameters.weights();
                let part = part_of(&all.parts, weights);
                let start = all.parts.get(part).map_or(0, |p| p.start);
                item.work.parameters.shift(Space::Weights, -(start as i64));
                let next = all.launches.len();
                let at = *places.entry((item.kernel, item.work.local, part)).or_insert(next);
                if at == next {
                    all.launches.push(Launch {
                        kernel: item.kernel,
                        local: item.work.local,
                        groups: [1, 1],
                        part,
                        blocks: Vec::new(),
                        chain: item.chain,
                        kind: item.kind,
                    });
                }
                if let Some(l) = all.launches.get_mut(at) {
                    l.groups = [0, 1].map(|d| l.groups[d].max(item.work.groups[d]));
                    l.blocks.push(item.work.parameters);
                }
            }
            first.push(all.launches.len());
        }
        let at = |round: usize| first.get(round).copied().unwrap_or(0);
        all.entries = self.entries.iter().map(|r| at(r.start)..at(r.end)).collect();
        Ok(all)
    }

    /// The text before the kernels.
    pub fn prelude(&self) -> String {
        prelude::text(self.shape.items) + &step::prelude(self.shape.width)
    }
}

/// Cuts the weights section into buffers of at most `most` bytes, so that every step finds its weights in one of them. Buffers may
/// overlap.
fn parts<'a>(items: impl Iterator<Item = &'a Item>, most: u64) -> Result<Vec<Range<usize>>, u64> {
    let mut ranges: Vec<Range<usize>> = items.filter_map(|i| i.work.parameters.weights()).collect();
    ranges.sort_unstable_by_key(|r| (r.start, r.end));
    let mut parts: Vec<Range<usize>> = Vec::new();
    for r in ranges {
        if r.len() as u64 > most {
            return Err(r.len() as u64);
        }
        match parts.last_mut() {
            Some(p) if (r.end.max(p.end) - p.start) as u64 <= most => p.end = p.end.max(r.end),
            _ => parts.push(r),
        }
    }
    Ok(parts)
}

/// Index of the part that holds a range.
fn part_of(parts: &[Range<usize>], range: Option<Range<usize>>) -> usize {
    let holds = |p: &Range<usize>| range.as_ref().is_some_and(|r| p.start <= r.start && r.end <= p.end);
    parts.iter().position(holds).unwrap_or(0)
}
