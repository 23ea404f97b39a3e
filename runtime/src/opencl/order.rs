//! When each step of an entry runs, and where its chain keeps its scratch meanwhile.
//!
//! Time is counted in rounds: what runs in one round needs nothing else of it. A step of a chain comes after the steps of its chain that it
//! needs, a chain after the chains that it needs:
//!
//! ```text
//! product a; map a; product b; map b; map (a, b)     rounds 0, 1, 0, 1, 2
//! ```
//!
//! Two chains whose rounds overlap have scratch of their own.

use crate::plan::depend::{Access, between, dependences};
use crate::plan::{Arg, ChainPlan, Multiply, OpKind, Plan, Rows, Space, Step, Tape};
use lockstep_isa::artifact::PANEL_COLUMNS;
use std::collections::BTreeSet;
use std::ops::Range;

/// Most bytes of scratch, unless one chain needs more.
const SCRATCH_BYTES: usize = 256 << 20;
/// Most rounds that a chain is delayed to share launches.
const MOST_DELAY: usize = 64;
/// What is added to bytes of scratch, so that they are not bytes of memory.
const SCRATCH: i64 = 1 << 60;

/// For every step of a chain the first of the chain's rounds in which it may run. `lengths` are the rounds that the steps take.
pub fn steps(plan: &Plan, chain: &ChainPlan, lengths: &[usize]) -> Vec<usize> {
    let accesses: Vec<Vec<Access>> = match lengths {
        [_] => vec![Vec::new()],
        _ => chain.steps.iter().map(|s| accesses(plan, s)).collect(),
    };
    let mut starts: Vec<usize> = Vec::with_capacity(lengths.len());
    for before in between(&accesses) {
        let ends = before
            .iter()
            .filter_map(|&b| Some(starts.get(b as usize)? + lengths.get(b as usize)?));
        starts.push(ends.max().unwrap_or(0));
    }
    starts
}

/// When a chain runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its rounds.
    pub rounds: Range<usize>,
    /// First byte of its scratch.
    pub scratch: usize,
}

/// Places chains, each with the kernels of its rounds: as soon as it may run, or later, where no other chain has to wait for it and
/// its steps share more launches.
pub fn chains(chains: &[ChainPlan], kernels: &[Vec<BTreeSet<usize>>]) -> Vec<Slot> {
    let before = dependences(chains);
    let mut starts: Vec<usize> = Vec::with_capacity(chains.len());
    for before in &before {
        let ends = before.iter().filter_map(|&b| {
            let (start, rounds) = (starts.get(b as usize)?, kernels.get(b as usize)?);
            Some(start + rounds.len())
        });
        starts.push(ends.max().unwrap_or(0));
    }
    let shared = share(&before, kernels, &starts);
    let slots = give(chains, &before, kernels, &shared);
    match shared.iter().zip(&slots).any(|(s, slot)| *s != slot.rounds.start) {
        true => give(chains, &before, kernels, &starts),
        false => slots,
    }
}

/// Later starts for chains that nothing waits for meanwhile, where they need fewer launches of their own.
fn share(before: &[Vec<u32>], kernels: &[Vec<BTreeSet<usize>>], starts: &[usize]) -> Vec<usize> {
    let end = starts.iter().zip(kernels).map(|(s, k)| s + k.len()).max().unwrap_or(0);
    let mut starts = starts.to_vec();
    // The last start of each chain, as long as the chains after it may be delayed.
    let mut last: Vec<usize> = kernels.iter().map(|k| end - k.len()).collect();
    let bound = |last: &mut [usize], c: usize, start: usize| {
        for &b in before.get(c).into_iter().flatten() {
            if let (Some(last), Some(own)) = (last.get_mut(b as usize), kernels.get(b as usize)) {
                *last = (*last).min(start.saturating_sub(own.len()));
            }
        }
    };
    for c in (0..last.len()).rev() {
        let start = last.get(c).copied().unwrap_or(0);
        bound(&mut last, c, start);
    }
    // Launches of each round, of the chains that are placed: at first those that have one place only.
    let mut launches: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); end];
    let fixed = starts
        .iter()
        .zip(&last)
        .zip(kernels)
        .filter(|((start, last), _)| start == last);
    for ((&start, _), own) in fixed {
        for (there, own) in launches.iter_mut().skip(start).zip(own) {
            there.extend(own);
        }
    }
    let mut last: Vec<usize> = kernels.iter().map(|k| end - k.len()).collect();
    for (c, own) in kernels.iter().enumerate().rev() {
        let (Some(&first), Some(&latest)) = (starts.get(c), last.get(c)) else {
            continue;
        };
        let fresh = |start: &usize| {
            let rounds = launches.iter().skip(*start).zip(own);
            rounds.map(|(there, own)| own.difference(there).count()).sum::<usize>()
        };
        let best = (first..=latest.min(first + MOST_DELAY))
            .min_by_key(fresh)
            .unwrap_or(first);
        for (there, own) in launches.iter_mut().skip(best).zip(own) {
            there.extend(own);
        }
        if let Some(start) = starts.get_mut(c) {
            *start = best;
        }
        bound(&mut last, c, best);
    }
    starts
}

/// Gives chains scratch. One that finds none from its start on begins later, and so do those that need it.
fn give(chains: &[ChainPlan], before: &[Vec<u32>], kernels: &[Vec<BTreeSet<usize>>], starts: &[usize]) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::with_capacity(chains.len());
    // Scratch in use in each round.
    let mut used: Vec<Vec<Range<usize>>> = Vec::new();
    for (((chain, own), before), &start) in chains.iter().zip(kernels).zip(before).zip(starts) {
        let ends = before
            .iter()
            .filter_map(|&b| slots.get(b as usize))
            .map(|s| s.rounds.end);
        let mut start = ends.max().unwrap_or(0).max(start);
        let (length, bytes) = (own.len(), chain.scratch.next_multiple_of(64));
        let scratch = loop {
            let rounds = used.get(start.min(used.len())..(start + length).min(used.len()));
            let at = gap(rounds.unwrap_or(&[]), bytes);
            if bytes == 0 || at == 0 || at + bytes <= SCRATCH_BYTES {
                break at;
            }
            start += 1;
        };
        let rounds = start..start + length;
        if used.len() < rounds.end {
            used.resize(rounds.end, Vec::new());
        }
        if bytes > 0 {
            for round in used.get_mut(rounds.clone()).into_iter().flatten() {
                round.push(scratch..scratch + bytes);
            }
        }
        slots.push(Slot { rounds, scratch });
    }
    slots
}

/// The first place for so many bytes that nothing uses in these rounds.
fn gap(rounds: &[Vec<Range<usize>>], bytes: usize) -> usize {
    let mut taken: Vec<&Range<usize>> = rounds.iter().flatten().collect();
    taken.sort_unstable_by_key(|r| r.start);
    let mut at = 0;
    for r in taken {
        if at + bytes <= r.start {
            break;
        }
        at = at.max(r.end);
    }
    at
}

/// What a step reads and writes of memory and scratch; rather too much than too little.
fn accesses(plan: &Plan, step: &Step) -> Vec<Access> {
    let mut all = Touched::default();
    match step {
        Step::Tape(t) => tape(plan, t, &mut all),
        Step::Multiply(m) => multiply(m, &mut all),
        Step::Pack(p) => {
            let size = p.dtype.bytes() as i64;
            let belts = p.belts.len().max(1) as u32;
            for b in &p.belts {
                let bytes = i64::from(p.lo) * size..i64::from(p.lo + p.n) * size;
                all.rows(b, p.vectors.div_ceil(belts), bytes, false);
            }
            let (depth, width) = if p.columns { (p.n, p.vectors) } else { (p.vectors, p.n) };
            let panels = (width as usize).div_ceil(PANEL_COLUMNS);
            let bytes = panels * depth as usize * PANEL_COLUMNS * 4;
            all.range(Space::Scratch, p.out as i64, (p.out + bytes) as i64, true);
        }
        Step::Transpose(t) => {
            let size = i64::from(t.size);
            all.rows(
                &t.a,
                t.rows,
                i64::from(t.lo) * size..i64::from(t.lo + t.n) * size,
                false,
            );
            all.rows(&t.out, t.n, 0..i64::from(t.rows) * size, true);
        }
    }
    all.0
}

fn multiply(m: &Multiply, all: &mut Touched) {
    for b in &m.blocks {
        for f in m.factors_of(b) {
            let panels = (b.n as usize).div_ceil(PANEL_COLUMNS).max(1);
            let bytes = (panels - 1) * f.panel_step + f.k as usize * f.w_step.max(PANEL_COLUMNS * b.dtype.bytes());
            all.range(f.space, f.offset as i64, (f.offset + bytes) as i64, false);
            for &(x, _) in m.places_of(b) {
                for rows in &m.x {
                    let first = f.x + x;
                    all.rows(rows, m.each.min(m.rows), first..first + i64::from(f.k) * 4, false);
                }
            }
        }
        for &(_, column) in m.places_of(b) {
            let first = i64::from(b.n0) * 4 + column;
            all.rows(&m.acc, m.rows, first..first + i64::from(b.n) * 4, true);
        }
    }
    if let Some((from, lo, hi)) = &m.copy {
        let bytes = i64::from(*lo)..i64::from(*hi);
        all.rows(from, m.rows, bytes.clone(), false);
        all.rows(&m.acc, m.rows, bytes, true);
    }
}

fn tape(plan: &Plan, t: &Tape, all: &mut Touched) {
    for op in &t.ops {
        let (lo, n) = (i64::from(op.lo), i64::from(op.n));
        let lanes = |size: u32| lo * i64::from(size)..(lo + n) * i64::from(size);
        let mut arg = |arg: &Arg, rows: u32, bytes: Range<i64>, write: bool| {
            if let Arg::Rows(r) = arg {
                all.rows(r, rows, bytes, write);
            }
        };
        // Bytes of a, b, c and of the result.
        let words = lanes(4);
        let mut bytes = [words.clone(), words.clone(), words.clone(), words];
        let mut results = t.rows;
        match op.kind {
            OpKind::Map { .. } | OpKind::Reduce { .. } => {}
            OpKind::MultiplyAdd { first, count } => {
                let terms = plan.terms.get(first as usize..(first + count) as usize);
                for (a, b) in terms.unwrap_or(&[]) {
                    arg(a, t.rows, lanes(4), false);
                    arg(b, t.rows, lanes(4), false);
                }
            }
            OpKind::Widen(d) => bytes[0] = lanes(d.bytes() as u32),
            OpKind::Narrow { dtype, .. } => bytes[3] = lanes(dtype.bytes() as u32),
            OpKind::Copy { .. } => bytes = [lo..lo + n, 0..0, 0..0, lo..lo + n],
            OpKind::Permute { size, lanes: from, .. } => {
                bytes = [0..i64::from(from * size), lanes(2), 0..0, lanes(size)];
            }
            OpKind::Pieces { first, count, .. } => {
                let pieces = plan.pieces.get(first as usize..(first + count) as usize).unwrap_or(&[]);
                let from = pieces.iter().filter_map(|p| Some(p.from? + p.bytes)).max();
                let to = pieces.iter().map(|p| p.to + p.bytes).max();
                bytes = [0..from.unwrap_or(0).into(), 0..0, 0..0, 0..to.unwrap_or(0).into()];
            }
            OpKind::Gather { limit, stride, .. } => {
                let reach = i64::from(limit.max(1) - 1) * i64::from(stride);
                bytes = [0..4, 0..0, lo..lo + n + reach, lo..lo + n];
            }
            OpKind::GatherTile { tile, .. } => {
                let size = plan.tiles.get(tile as usize).map_or(4, |t| t.size);
                bytes = [0..4, 0..0, 0..0, lanes(size)];
            }
            OpKind::Scatter { limit, stride, .. } => {
                let reach = i64::from(limit.max(1) - 1) * i64::from(stride);
                bytes = [lo..lo + n, 0..4, 0..0, lo..lo + n + reach];
            }
            OpKind::Fold { len, every, .. } => {
                if !every {
                    results = t.rows.div_ceil(len.max(1));
                }
                // The sum is kept where c says.
                arg(&op.c, t.rows, lanes(4), true);
            }
        }
        let [a, b, c, out] = bytes;
        arg(&op.a, t.rows, a, false);
        arg(&op.b, t.rows, b, false);
        arg(&op.c, t.rows, c, false);
        arg(&op.out, results, out, true);
    }
}

/// Bytes that a step touches.
#[derive(Default)]
struct Touched(Vec<Access>);

impl Touched {
    /// Adds a range of bytes of a space, together with the last one where they meet.
    fn range(&mut self, space: Space, from: i64, to: i64, write: bool) {
        let base = match space {
            Space::Memory => 0,
            Space::Scratch => SCRATCH,
            Space::Pool | Space::Weights => return,
        };
        let (from, to) = (base + from, base + to);
        match self.0.last_mut() {
            Some(last) if last.2 == write && from <= last.1 && last.0 <= to => {
                *last = (last.0.min(from), last.1.max(to), write);
            }
            _ if from < to => self.0.push((from, to, write)),
            _ => {}
        }
    }

    /// Adds bytes of each of so many rows. Rows that lie one after the other count as one range where the bytes are most of it.
    fn rows(&mut self, r: &Rows, count: u32, bytes: Range<i64>, write: bool) {
        if matches!(r.space, Space::Pool | Space::Weights) || bytes.is_empty() {
            return;
        }
        let mut n = 0;
        while n < count {
            let (even, step) = r.even(n);
            let even = even.min(count - n);
            let (first, last) = (r.at(n), r.at(n + even - 1));
            let dense = step.abs() <= 2 * (bytes.end - bytes.start);
            if dense || even == 1 {
                let (low, high) = (first.min(last), first.max(last));
                self.range(r.space, low + bytes.start, high + bytes.end, write);
            } else {
                for i in n..n + even {
                    self.range(r.space, r.at(i) + bytes.start, r.at(i) + bytes.end, write);
                }
            }
            n += even;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::TapeOp;

    /// A tape that copies bytes `lo .. lo + n` of four rows, 1024 bytes apart.
    fn copy(from: (Space, usize), to: (Space, usize), lo: u32, n: u32) -> Step {
        let rows = |(space, offset)| Arg::Rows(Rows::linear(space, offset, 1024));
        let op = TapeOp {
            kind: OpKind::Copy { size: 4 },
            a: rows(from),
            b: Arg::None,
            c: Arg::None,
            out: rows(to),
            lo,
            n,
        };
        Step::Tape(Tape {
            rows: 4,
            block: 4,
            grain: 1,
            slots: 0,
            ops: vec![op],
        })
    }

    fn starts(list: Vec<Step>) -> Vec<usize> {
        let lengths = vec![1; list.len()];
        let chain = ChainPlan {
            steps: list,
            ..ChainPlan::default()
        };
        steps(&Plan::default(), &chain, &lengths)
    }

    #[test]
    fn steps_wait_for_bytes_that_they_need_alone() {
        use Space::{Memory, Scratch};
        // Into scratch, out of it, the same beside it, then over what was read.
        let list = vec![
            copy((Memory, 0), (Scratch, 0), 0, 1024),
            copy((Scratch, 0), (Memory, 8192), 0, 1024),
            copy((Memory, 0), (Scratch, 4096), 0, 1024),
            copy((Scratch, 4096), (Memory, 16384), 0, 1024),
            copy((Memory, 32768), (Scratch, 0), 0, 1024),
        ];
        assert_eq!(starts(list), [0, 1, 0, 1, 2]);
        // Columns of the same rows, then one that overlaps both.
        let list = [(0, 256), (256, 256), (128, 256)].map(|(lo, n)| copy((Memory, 0), (Memory, 8192), lo, n));
        assert_eq!(starts(list.into()), [0, 0, 1]);
    }

    fn chain(accesses: &[Access], scratch: usize) -> ChainPlan {
        ChainPlan {
            accesses: accesses.to_vec(),
            scratch,
            ..ChainPlan::default()
        }
    }

    fn kernels(list: &[&[usize]]) -> Vec<Vec<BTreeSet<usize>>> {
        let rounds = |k: &&[usize]| k.iter().map(|&k| BTreeSet::from([k])).collect();
        list.iter().map(rounds).collect()
    }

    #[test]
    fn chains_of_the_same_rounds_have_scratch_of_their_own() {
        let all = [
            chain(&[(0, 4, true)], 100),
            chain(&[(4, 8, true)], 100),
            chain(&[(0, 8, false), (8, 12, true)], 100),
        ];
        let slots = chains(&all, &kernels(&[&[0, 1], &[0, 1], &[2]]));
        let got: Vec<_> = slots.into_iter().map(|s| (s.rounds, s.scratch)).collect();
        assert_eq!(got, [(0..2, 0), (0..2, 128), (2..3, 0)]);
    }

    #[test]
    fn chains_with_too_much_scratch_run_one_after_the_other() {
        let most = SCRATCH_BYTES * 3 / 4;
        let all = [
            chain(&[(0, 4, true)], most),
            chain(&[(4, 8, true)], most),
            chain(&[(8, 12, true)], 2 * most),
        ];
        let slots = chains(&all, &kernels(&[&[0, 1], &[0], &[0]]));
        let got: Vec<_> = slots.into_iter().map(|s| (s.rounds, s.scratch)).collect();
        assert_eq!(got, [(0..2, 0), (2..3, 0), (3..4, 0)]);
    }

    #[test]
    fn a_chain_that_nothing_waits_for_shares_a_later_launch() {
        let all = [
            chain(&[(0, 4, true)], 0),
            chain(&[(0, 4, false), (4, 8, true)], 0),
            chain(&[(8, 12, true)], 0),
            chain(&[(4, 12, false), (12, 16, true)], 0),
        ];
        // The third chain has the kernel of the second and may run before it.
        let slots = chains(&all, &kernels(&[&[0], &[1], &[1], &[2]]));
        let got: Vec<_> = slots.into_iter().map(|s| s.rounds.start).collect();
        assert_eq!(got, [0, 1, 1, 2]);
    }
}
