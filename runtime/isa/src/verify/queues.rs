//! A3 and A4: who holds which queue when, and how many words tile loads take.

use super::report::Sink;
use super::structure::{alu_cost, hemi_index};
use super::walk::Walk;
use super::{ChipCx, Invariant};
use crate::op::Opcode;
use crate::run::{Queue, Run};

/// A run and the cycles [start, end) during which it holds a queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hold {
    resource: u32,
    start: u64,
    end: u64,
    run: u32,
}

/// Matrix planes that a run of the MXM occupies: hemisphere, first plane, number of planes.
pub(super) fn planes(cx: &ChipCx<'_>, run: &Run) -> (usize, u8, u8) {
    match run.queue {
        Queue::MxmLoad(h, p) | Queue::MxmMul(h, p) => {
            let n = cx.t.mxm_rate(run.dtype).map_or(1, |r| r.planes.max(1));
            (hemi_index(h), p, n)
        }
        _ => (0, 0, 0),
    }
}

/// Every run holds its queue alone; a matrix unit of several planes and an operation of four ALUs hold all of theirs.
pub(super) fn check(cx: &ChipCx<'_>, sink: &mut Sink) {
    let mut holds = Vec::with_capacity(cx.runs.len());
    for (i, run) in cx.sound() {
        let info = &cx.info[i as usize];
        if let Some(what) = crowded(run, info.occupancy) {
            sink.report(Invariant::Queues, || cx.violation(Invariant::Queues, i, None, what));
        }
        let start = cx.first(i);
        let end = start + info.last as u64 + info.occupancy as u64;
        let mut hold = |resource: u32| {
            holds.push(Hold {
                resource,
                start,
                end,
                run: i,
            })
        };
        let (kind, n) = match run.queue {
            Queue::Mem(p) => (0, p.dense(cx.t.groups, cx.t.banks) as u32),
            Queue::MxmLoad(..) | Queue::MxmMul(..) => {
                let (hemi, first, count) = planes(cx, run);
                let kind = if matches!(run.queue, Queue::MxmLoad(..)) { 1 } else { 2 };
                for plane in first..first + count {
                    hold(kind << 24 | (hemi as u32) << 8 | plane as u32);
                }
                continue;
            }
            Queue::Alu(i) => {
                for alu in i..i + alu_cost(run) {
                    hold(3 << 24 | alu as u32);
                }
                continue;
            }
            Queue::Sxm(h) => (4, h as u32),
            Queue::Send(l) => (5, l as u32),
            Queue::Recv(l) => (6, l as u32),
        };
        hold(kind << 24 | n);
    }
    holds.sort_unstable();
    let mut holder: Option<Hold> = None;
    for h in holds {
        if let Some(before) = holder
            && before.resource == h.resource
        {
            if h.start < before.end {
                sink.report(Invariant::Queues, || {
                    let what = format!("r{} holds the queue until @{}", before.run, before.end);
                    cx.violation(Invariant::Queues, h.run, Some(h.start), what)
                });
            }
            if h.end <= before.end {
                continue;
            }
        }
        holder = Some(h);
    }
    check_loads(cx, sink);
}

/// Issues of one run are at least its occupancy apart.
fn crowded(run: &Run, occupancy: u32) -> Option<String> {
    let mut reach = 0u64;
    for dim in run.dims.iter().filter(|d| d.count > 1) {
        let least = reach + occupancy as u64;
        if (dim.stride as u64) < least {
            return Some(format!(
                "issues are {} cycles apart, at least {occupancy} are needed",
                (dim.stride as u64).saturating_sub(reach)
            ));
        }
        reach += (dim.count as u64 - 1) * dim.stride as u64;
    }
    None
}

/// Tile loads of a hemisphere take no more words in one cycle than its load ports have.
fn check_loads(cx: &ChipCx<'_>, sink: &mut Sink) {
    let mut takes: Vec<(u8, i64, u32, u32)> = Vec::new();
    for (i, run) in cx.sound() {
        if !matches!(run.op, Opcode::LoadRow | Opcode::LoadCol) {
            continue;
        }
        let (hemi, _, _) = planes(cx, run);
        let issues = cx.info[i as usize].issues;
        let mut steps = Walk::issues(run, cx.first(i) as i64).from(0);
        let mut left = run.load_vectors();
        let scales = if run.is_scaled() { run.b.dtype.words() as u32 } else { 0 };
        for _ in 0..issues {
            let vectors = left.min(run.belts as u32);
            left -= vectors;
            takes.push((
                hemi as u8,
                steps.step(),
                vectors * run.a.dtype.words() as u32 + scales,
                i,
            ));
        }
    }
    takes.sort_unstable();
    let limit = cx.t.mxm.load_words_per_cycle as u32;
    for group in takes.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
        let words: u32 = group.iter().map(|g| g.2).sum();
        if words > limit {
            let (_, cycle, _, run) = group[group.len() - 1];
            sink.report(Invariant::LoadWords, || {
                let what =
                    format!("tile loads of this hemisphere take {words} words in one cycle, {limit} are possible");
                cx.violation(Invariant::LoadWords, run, Some(cycle as u64), what)
            });
        }
    }
}
