//! Gives every thread its work, once, when a plan is loaded.
//!
//! Chains depend on each other only through the rows of memory that they touch. Within these dependences their order is
//! free, and it decides how fast a host is: a schedule for a chip works on a few rows of many layers at a time, which
//! would fetch every weight from memory once for each of them. Here chains that multiply by the same weights follow one
//! another while the weights are in the cache. A chain with much work on rows that do not need each other is cut into
//! one part per thread.
//!
//! The threads share nothing but counts of the parts that they have done. A part names the counts that must have been
//! reached before it starts, wherever it needs rows that another thread writes or still reads. None of it changes a bit
//! of a result: every output element is computed in one go by one thread, and nothing is decided when a run starts.

use crate::plan::depend::dependences;
use crate::plan::load::{CHAINS_AT_A_TIME, beside};
use crate::plan::{Arg, BlockStep, ChainPlan, FactorStep, OpKind, Part, Plan, Rows, Space, Step, TapeOp, Wait};
use lockstep_isa::AluOp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Least work of a chain that is cut into parts, in nanoseconds.
const CUT_NS: f64 = 20_000.0;
/// Least bytes of weights that are worth staying with.
const KEPT_BYTES: usize = 16 << 10;
/// Estimated time of one multiply-add, of one byte of weights, of one ALU operation on one lane, and of a chain.
const MAC_NS: f64 = 0.012;
const WEIGHT_BYTE_NS: f64 = 0.05;
const LANE_NS: f64 = 0.02;
const SLOW_LANE_NS: f64 = 0.2;
const CHAIN_NS: f64 = 150.0;
/// A thread takes what another would do next only if as much as this waits there: less is done before it has changed hands.
const TAKEN_NS: f64 = 3_000.0;

/// What a part multiplies by: the place of its first weights.
type Key = (Space, usize);

/// A part that waits for its turn.
struct Unit {
    chain: u32,
    part: u32,
    parts: u32,
    work: f64,
    key: Option<Key>,
    /// Units that must come before.
    before: Vec<u32>,
}

/// Orders a plan for `threads` threads. `row_bytes` is the size of a scratch row.
pub fn order(plan: &mut Plan, threads: usize, row_bytes: usize) {
    let units = units(&plan.chains, threads, row_bytes);
    let (place, lists) = assign(&units, threads);
    plan.threads = vec![Vec::new(); threads];
    plan.waits.clear();
    for (t, list) in lists.iter().enumerate() {
        // What this thread has waited for so far.
        let mut reached = vec![0u32; threads];
        let mut need = vec![0u32; threads];
        for &u in list {
            let unit = &units[u as usize];
            need.fill(0);
            for &b in &unit.before {
                let (thread, position) = place[b as usize];
                need[thread] = need[thread].max(position + 1);
            }
            let first = plan.waits.len() as u32;
            for (thread, &count) in need.iter().enumerate() {
                if thread != t && count > reached[thread] {
                    reached[thread] = count;
                    let thread = thread as u32;
                    plan.waits.push(Wait { thread, count });
                }
            }
            plan.threads[t].push(Part {
                chain: unit.chain,
                part: unit.part,
                parts: unit.parts,
                waits: (first, plan.waits.len() as u32),
            });
        }
    }
}

/// All parts with what must come before each.
fn units(chains: &[ChainPlan], threads: usize, row_bytes: usize) -> Vec<Unit> {
    let (cuts, all_before) = beside(
        chains.len() > CHAINS_AT_A_TIME,
        || chains.iter().map(|c| alone(c, threads, row_bytes)).collect::<Vec<_>>(),
        || dependences(chains),
    );
    let mut units: Vec<Unit> = Vec::with_capacity(chains.len());
    // The first unit of every chain so far.
    let mut first: Vec<u32> = Vec::with_capacity(chains.len());
    for (index, ((parts, work, key), before)) in cuts.into_iter().zip(all_before).enumerate() {
        first.push(units.len() as u32);
        let before: Vec<u32> = before
            .iter()
            .flat_map(|&c| first[c as usize]..first[c as usize + 1])
            .collect();
        for part in 0..parts {
            units.push(Unit {
                chain: index as u32,
                part,
                parts,
                work,
                key,
                before: before.clone(),
            });
        }
    }
    units
}

/// What is known of a chain without the others: its parts, the work of each, the weights that it multiplies by.
fn alone(chain: &ChainPlan, threads: usize, row_bytes: usize) -> (u32, f64, Option<Key>) {
    let work: f64 = CHAIN_NS + chain.steps.iter().map(work).sum::<f64>();
    let parts = match threads > 1 && work >= CUT_NS && can_be_cut(chain, threads, row_bytes) {
        true => threads as u32,
        false => 1,
    };
    (parts, work / parts as f64, key(chain))
}

/// The weights that a chain multiplies by, if they are many.
pub(crate) fn key(chain: &ChainPlan) -> Option<Key> {
    let mut bytes = 0;
    let mut first = None;
    for step in &chain.steps {
        let Step::Multiply(m) = step else { continue };
        for b in &m.blocks {
            let constant = |f: &&FactorStep| matches!(f.space, Space::Weights | Space::Pool);
            for f in m.factors_of(b).iter().filter(constant) {
                bytes += (b.n * f.k) as usize * b.dtype.bytes();
                first.get_or_insert((f.space, f.offset));
            }
        }
    }
    first.filter(|_| bytes >= KEPT_BYTES)
}

/// Whether parts of a chain may run at the same time: every step has the same rows, row n needs of scratch no other row
/// than n, and no row is written twice. Packing is done by every part for itself.
fn can_be_cut(chain: &ChainPlan, threads: usize, row_bytes: usize) -> bool {
    let mut shape = None;
    chain.events.is_empty()
        && chain.steps.iter().all(|step| match step {
            Step::Pack(p) => p.belts.iter().all(|b| b.space != Space::Scratch),
            Step::Transpose(_) => false,
            Step::Tape(t) if !t.writes_each_row_once() => false,
            _ => {
                let (rows, grain) = step.rows();
                let same = *shape.get_or_insert((rows, grain)) == (rows, grain);
                same && (rows / grain.max(1)) as usize >= 2 * threads && by_row(step, row_bytes)
            }
        })
}

/// Whether row n of a step uses of scratch no other row than n, apart from panels packed before.
fn by_row(step: &Step, row_bytes: usize) -> bool {
    let own = |r: &Rows| r.space != Space::Scratch || (r.first == 0 && r.strides[0] == row_bytes as i64);
    let arg = |a: &Arg| match a {
        Arg::Rows(r) => own(r),
        _ => true,
    };
    match step {
        Step::Tape(t) => {
            let emits_less = |o: &TapeOp| matches!(o.kind, OpKind::Fold { every: false, .. }) && t.rows > 1;
            let op = |o: &TapeOp| arg(&o.a) && arg(&o.b) && arg(&o.c) && arg(&o.out) && !emits_less(o);
            t.ops.iter().all(op)
        }
        Step::Multiply(m) => {
            m.x.iter().all(own) && m.x.len() == 1 && own(&m.acc) && m.copy.as_ref().is_none_or(|(r, ..)| own(r))
        }
        _ => false,
    }
}

/// Units that are ready, in the order of the plan, by the thread that wrote most of what they need.
#[derive(Default)]
struct Ready {
    free: BTreeSet<u32>,
    keyed: BTreeMap<Key, BTreeSet<u32>>,
    /// Nanoseconds of all of them.
    work: f64,
}

impl Ready {
    fn add(&mut self, u: u32, unit: &Unit) {
        self.work += unit.work;
        match unit.key {
            None => self.free.insert(u),
            Some(key) => self.keyed.entry(key).or_default().insert(u),
        };
    }

    /// As [`Ready::pick`].
    fn take(&mut self, last: Option<Key>, units: &[Unit]) -> Option<u32> {
        let u = self.pick(last)?;
        self.work -= units[u as usize].work;
        Some(u)
    }

    /// Takes the next unit: one with the weights of the last, else one without weights, else one of the weights that
    /// most units wait for.
    fn pick(&mut self, last: Option<Key>) -> Option<u32> {
        if last.is_none_or(|key| !self.keyed.contains_key(&key))
            && let Some(u) = self.free.pop_first()
        {
            return Some(u);
        }
        let most = || {
            let by_count = |(key, set): (&Key, &BTreeSet<u32>)| (set.len(), Reverse(*key));
            self.keyed.iter().map(by_count).max().map(|(_, Reverse(key))| key)
        };
        let key = last.filter(|key| self.keyed.contains_key(key)).or_else(most)?;
        let set = self.keyed.get_mut(&key)?;
        let u = set.pop_first();
        if set.is_empty() {
            self.keyed.remove(&key);
        }
        u
    }
}

/// Thread and position of every unit, and the units of every thread in order: simulates threads that take what is ready
/// at their time.
fn assign(units: &[Unit], threads: usize) -> (Vec<(usize, u32)>, Vec<Vec<u32>>) {
    let mut missing: Vec<usize> = units.iter().map(|u| u.before.len()).collect();
    // The units after each: those of unit u are `after[starts[u] .. starts[u + 1]]`.
    let mut starts = vec![0usize; units.len() + 1];
    for &b in units.iter().flat_map(|u| &u.before) {
        starts[b as usize + 1] += 1;
    }
    for i in 0..units.len() {
        starts[i + 1] += starts[i];
    }
    let mut ends = starts.clone();
    let mut after = vec![0u32; starts[units.len()]];
    for (i, u) in units.iter().enumerate() {
        for &b in &u.before {
            after[ends[b as usize]] = i as u32;
            ends[b as usize] += 1;
        }
    }
    // A unit prefers the thread that did most of what came before; the first of any goes to the thread that asks.
    let mut ready: Vec<Ready> = (0..=threads).map(|_| Ready::default()).collect();
    let anyone = threads;
    for (i, u) in units.iter().enumerate().filter(|(i, _)| missing[*i] == 0) {
        ready[anyone].add(i as u32, u);
    }
    let mut place = vec![(0usize, 0u32); units.len()];
    let mut lists: Vec<Vec<u32>> = vec![Vec::new(); threads];
    let mut last: Vec<Option<Key>> = vec![None; threads];
    let mut time = vec![0.0f64; threads];
    // Units that end at some time, by that time in picoseconds.
    let mut running: BTreeSet<(u64, u32)> = BTreeSet::new();
    let mut idle = vec![true; threads];
    let mut now = 0u64;
    let mut share = vec![0.0; threads];
    loop {
        for t in 0..threads {
            if !idle[t] {
                continue;
            }
            let own = ready[t].take(last[t], units);
            let own = own.or_else(|| ready[anyone].take(last[t], units));
            let other = || (0..threads).find(|&o| o != t && ready[o].work >= TAKEN_NS);
            let taken = match (own, other()) {
                (None, Some(o)) => ready[o].take(last[t], units),
                (own, _) => own,
            };
            let Some(u) = taken else {
                continue;
            };
            let unit = &units[u as usize];
            place[u as usize] = (t, lists[t].len() as u32);
            lists[t].push(u);
            last[t] = unit.key.or(last[t]);
            time[t] = now as f64 / 1e3 + unit.work;
            running.insert(((time[t] * 1e3) as u64, u));
            idle[t] = false;
        }
        let Some((end, u)) = running.pop_first() else {
            break;
        };
        now = end;
        idle[place[u as usize].0] = true;
        for &a in &after[starts[u as usize]..starts[u as usize + 1]] {
            let left = &mut missing[a as usize];
            *left -= 1;
            if *left == 0 {
                let unit = &units[a as usize];
                share.fill(0.0);
                for &b in &unit.before {
                    share[place[b as usize].0] += units[b as usize].work;
                }
                let most = (0..threads).max_by(|&x, &y| share[x].total_cmp(&share[y]));
                ready[most.unwrap_or(anyone)].add(a, unit);
            }
        }
    }
    (place, lists)
}

/// Estimated nanoseconds of a step.
fn work(step: &Step) -> f64 {
    match step {
        Step::Multiply(m) => {
            let block = |b: &BlockStep| {
                let k: u32 = m.factors_of(b).iter().map(|f| f.k).sum();
                let weights = b.n as f64 * k as f64;
                let rows = m.rows as f64 * m.places_of(b).len() as f64;
                (weights * rows * MAC_NS).max(weights * b.dtype.bytes() as f64 * WEIGHT_BYTE_NS)
            };
            m.blocks.iter().map(block).sum()
        }
        Step::Tape(t) => {
            let op = |o: &TapeOp| {
                let slow = matches!(
                    o.kind,
                    OpKind::Permute { .. }
                        | OpKind::Map {
                            op: AluOp::Exp | AluOp::Log | AluOp::Tanh | AluOp::Erf | AluOp::Sin | AluOp::Cos,
                            ..
                        }
                );
                let times = match o.kind {
                    OpKind::MultiplyAdd { count, .. } => count as f64,
                    _ => 1.0,
                };
                o.n as f64 * times * if slow { SLOW_LANE_NS } else { LANE_NS }
            };
            t.rows as f64 * t.ops.iter().map(op).sum::<f64>()
        }
        Step::Pack(p) => p.vectors as f64 * p.n as f64 * SLOW_LANE_NS,
        Step::Transpose(t) => t.rows as f64 * t.n as f64 * SLOW_LANE_NS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(accesses: &[(i64, i64, bool)]) -> ChainPlan {
        ChainPlan {
            accesses: accesses.to_vec(),
            ..ChainPlan::default()
        }
    }

    #[test]
    fn every_thread_waits_for_what_others_do_before() {
        for threads in 1..4 {
            let mut plan = Plan {
                chains: (0..40)
                    .map(|i| chain(&[(i % 7, i % 7 + 1, true), (i % 5, i % 5 + 1, false)]))
                    .collect(),
                ..Plan::default()
            };
            order(&mut plan, threads, 64);
            let before = dependences(&plan.chains);
            let mut done = vec![0usize; threads];
            let mut ended = vec![false; plan.chains.len()];
            // Any order that the waits allow is one that the dependences allow.
            while let Some(t) = (0..threads).rev().find(|&t| {
                plan.threads[t].get(done[t]).is_some_and(|p| {
                    let waits = &plan.waits[p.waits.0 as usize..p.waits.1 as usize];
                    waits.iter().all(|w| done[w.thread as usize] >= w.count as usize)
                })
            }) {
                let chain = plan.threads[t][done[t]].chain as usize;
                assert!(before[chain].iter().all(|&b| ended[b as usize]));
                ended[chain] = true;
                done[t] += 1;
            }
            assert!(ended.iter().all(|&e| e), "{threads} threads: {done:?}");
        }
    }
}
