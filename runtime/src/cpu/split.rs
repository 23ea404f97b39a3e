//! Divides the work of a plan over threads, once, when it is loaded.
//!
//! A chain with enough work is split: each thread takes a range of rows, or of columns where there are few rows, and
//! the threads meet only where a step needs what another thread computed. Smaller chains are given whole to one thread;
//! chains that touch the same rows go to the same thread, or the threads meet between them. None of it changes a bit of
//! a result: every output element is computed in one go by one thread.

use crate::cpu::plan::{Arg, BlockStep, ChainPlan, Multiply, OpKind, Plan, Rows, Space, Split, Step, Tape};
use lockstep_isa::AluOp;
use std::collections::BTreeSet;

/// Least work of a chain that is split, in nanoseconds.
const SPLIT_NS: f64 = 20_000.0;
/// Least work of a chain that another thread than the first may take.
const HAND_OVER_NS: f64 = 3_000.0;
/// Ranges remembered before the threads meet anyway.
const MOST_RANGES: usize = 2_048;
/// Estimated time of one multiply-add, of one byte of weights, and of one ALU operation on one lane.
const MAC_NS: f64 = 0.012;
const WEIGHT_BYTE_NS: f64 = 0.05;
const LANE_NS: f64 = 0.05;
const SLOW_LANE_NS: f64 = 0.4;

type Ranges = Vec<(i64, i64, bool)>;

/// Divides a plan over `threads`. `row_bytes` is the size of a scratch row.
pub fn split(plan: &mut Plan, threads: usize, row_bytes: usize) {
    if threads < 2 {
        return;
    }
    // What each thread has touched and how long it has worked since all threads met.
    let mut touched: Vec<Ranges> = vec![Vec::new(); threads];
    let mut busy = vec![0.0f64; threads];
    let meet = |touched: &mut Vec<Ranges>, busy: &mut Vec<f64>| {
        touched.iter_mut().for_each(Vec::clear);
        busy.fill(0.0);
    };
    let mut after_split = false;
    for chain in &mut plan.chains {
        let work: f64 = chain.steps.iter().map(|s| work(&s.0)).sum();
        let splits = work >= SPLIT_NS
            && chain.events.is_empty()
            && chain.steps.iter().any(|s| choose(&s.0, threads) != Split::Whole);
        if splits {
            chain.wait = after_split || busy.iter().any(|&b| b > 0.0);
            split_chain(chain, threads, row_bytes);
            meet(&mut touched, &mut busy);
            after_split = true;
            continue;
        }
        let conflicts: Vec<usize> = (0..threads)
            .filter(|&t| conflict(&touched[t], &chain.accesses))
            .collect();
        let ranges: usize = touched.iter().map(Vec::len).sum();
        chain.wait = after_split || conflicts.len() > 1 || ranges > MOST_RANGES;
        if chain.wait {
            meet(&mut touched, &mut busy);
        }
        after_split = false;
        chain.owner = match conflicts.first() {
            Some(&t) if !chain.wait => t,
            _ if work < HAND_OVER_NS => 0,
            _ => (0..threads).min_by(|&a, &b| busy[a].total_cmp(&busy[b])).unwrap_or(0),
        };
        touched[chain.owner].extend(&chain.accesses);
        busy[chain.owner] += work.max(1.0);
    }
}

/// Whether a chain with accesses `b` must come after one with accesses `a`.
fn conflict(a: &[(i64, i64, bool)], b: &[(i64, i64, bool)]) -> bool {
    a.iter()
        .any(|x| b.iter().any(|y| (x.2 || y.2) && x.0 < y.1 && y.0 < x.1))
}

fn split_chain(chain: &mut ChainPlan, threads: usize, row_bytes: usize) {
    let mut since: Vec<usize> = Vec::new();
    for i in 0..chain.steps.len() {
        let how = choose(&chain.steps[i].0, threads);
        let step = &chain.steps[i].0;
        let free = since.iter().all(|&j| {
            let (before, split, _) = &chain.steps[j];
            independent(before, *split, step, how, row_bytes)
        });
        if !free {
            since.clear();
        }
        since.push(i);
        let (_, split, wait) = &mut chain.steps[i];
        (*split, *wait) = (how, !free);
    }
}

/// How a step is best split.
fn choose(step: &Step, threads: usize) -> Split {
    let (rows, grain) = step.rows();
    let units = (rows / grain.max(1)) as usize;
    match step {
        Step::Multiply(m) => {
            let widest = m.blocks.iter().map(|b| b.n / 32).max().unwrap_or(0);
            if rows as usize >= 6 * threads {
                Split::Rows
            } else if widest as usize >= threads && columns_apart(m) {
                Split::Columns
            } else {
                Split::Whole
            }
        }
        Step::Tape(t) if units >= 2 * threads && writes_each_row_once(t) => Split::Rows,
        Step::Transpose(_) if units >= 2 * threads => Split::Rows,
        Step::Pack(p) => {
            let width = if p.columns { p.vectors } else { p.n };
            if width as usize >= 32 * threads {
                Split::Columns
            } else {
                Split::Whole
            }
        }
        _ => Split::Whole,
    }
}

/// Whether any two blocks of a product have the same columns or none in common, so that threads may share columns out.
fn columns_apart(m: &Multiply) -> bool {
    let same = |a: &BlockStep, b: &BlockStep| a.n0 == b.n0 && a.n == b.n;
    let apart = |a: &BlockStep, b: &BlockStep| a.n0 + a.n <= b.n0 || b.n0 + b.n <= a.n0;
    let pair = |a: &BlockStep| m.blocks.iter().all(|b| same(a, b) || apart(a, b));
    m.blocks.iter().all(pair)
}

/// Whether no two rows of a tape write the same place, so that their order does not matter.
fn writes_each_row_once(t: &Tape) -> bool {
    t.ops.iter().all(|o| match (&o.kind, &o.out) {
        (OpKind::Scatter { .. }, _) => false,
        (OpKind::Fold { every: false, .. }, _) => true,
        (_, Arg::Rows(r)) if r.counts[0] == u32::MAX => r.strides[0] != 0 || t.rows == 1,
        (_, Arg::Rows(r)) => {
            let places: BTreeSet<i64> = (0..t.rows).map(|n| r.at(n)).collect();
            places.len() == t.rows as usize
        }
        _ => true,
    })
}

/// Whether a thread may do its share of `b` while another still does its share of `a`.
fn independent(a: &Step, split_a: Split, b: &Step, split_b: Split, row_bytes: usize) -> bool {
    match (a, b) {
        _ if split_a == Split::Whole && split_b == Split::Whole => true,
        (Step::Pack(_), Step::Pack(_)) => true,
        _ if split_a == Split::Rows && split_b == Split::Rows => {
            a.rows() == b.rows() && by_row(a, row_bytes) && by_row(b, row_bytes)
        }
        (Step::Multiply(a), Step::Multiply(b)) if split_a == split_b => same_columns(a, b),
        _ => false,
    }
}

/// Whether row n of a step uses of scratch no other row than n, apart from panels packed before.
fn by_row(step: &Step, row_bytes: usize) -> bool {
    let own = |r: &Rows| r.space != Space::Scratch || (r.first == 0 && r.strides[0] == row_bytes as i64);
    let arg = |a: &Arg| match a {
        Arg::Rows(r) => own(r),
        _ => true,
    };
    match step {
        Step::Tape(t) => t
            .ops
            .iter()
            .all(|o| arg(&o.a) && arg(&o.b) && arg(&o.c) && arg(&o.out) && !emits_less(t, &o.kind)),
        Step::Multiply(m) => own(&m.x) && own(&m.acc) && m.copy.as_ref().is_none_or(|(r, ..)| own(r)),
        _ => false,
    }
}

/// Whether an operation has fewer result rows than the tape has rows.
fn emits_less(tape: &Tape, kind: &OpKind) -> bool {
    matches!(kind, OpKind::Fold { every: false, .. }) && tape.rows > 1
}

/// Whether both products, split by columns, give each thread the same columns, and the second needs of the first
/// nothing else.
fn same_columns(a: &Multiply, b: &Multiply) -> bool {
    let columns = |m: &Multiply| -> Vec<(u32, u32)> { m.blocks.iter().map(|b| (b.n0, b.n)).collect() };
    let scratch_x = |m: &Multiply| m.x.space == Space::Scratch;
    columns(a) == columns(b) && !scratch_x(b) && b.copy.is_none()
}

/// Estimated nanoseconds of a step.
fn work(step: &Step) -> f64 {
    match step {
        Step::Multiply(m) => {
            let block = |b: &BlockStep| {
                let weights = b.n as f64 * b.k as f64;
                let macs = weights * m.rows as f64 * MAC_NS;
                macs.max(weights * b.dtype.bytes() as f64 * WEIGHT_BYTE_NS)
            };
            m.blocks.iter().map(block).sum()
        }
        Step::Tape(t) => {
            let op = |o: &crate::cpu::plan::TapeOp| {
                let slow = matches!(
                    o.kind,
                    OpKind::Permute { .. }
                        | OpKind::Map {
                            op: AluOp::Exp | AluOp::Log | AluOp::Tanh | AluOp::Erf | AluOp::Sin | AluOp::Cos,
                            ..
                        }
                );
                o.n as f64 * if slow { SLOW_LANE_NS } else { LANE_NS }
            };
            t.rows as f64 * t.ops.iter().map(op).sum::<f64>()
        }
        Step::Pack(p) => p.vectors as f64 * p.n as f64 * SLOW_LANE_NS,
        Step::Transpose(t) => t.rows as f64 * t.n as f64 * SLOW_LANE_NS,
    }
}
