//! A5, A6 and A7: every operand meets the result that it claims, on a slot that nobody replaced, and every result is
//! taken.
//!
//! In belt coordinates (cycle - position eastward, cycle + position westward) a slot is one number. All drives and
//! takes of four neighbouring streams are sorted by slot and by position downstream; one sweep then sees each slot as
//! its words move along. What an ALU forwards is a belt of length zero.

use super::report::Sink;
use super::structure::{belt_groups, operands, result_dtype, taken};
use super::walk::Walk;
use super::{ChipCx, Invariant};
use crate::claim::Producer;
use crate::id::{Dir, Stream};
use crate::op::UnitKind;
use crate::run::{Operand, Queue, Run, Src};

/// Streams that are swept together; the widest vector.
const BLOCK: u8 = 4;
/// Number of stream blocks in one direction.
const BLOCKS: usize = 64;
const NONE: u32 = u32::MAX;

/// One drive of a slot, or one take from it.
///
/// `key` is slot | position downstream | drive (1) or take (0) | words of the block: at one position takes come before
/// drives, as the machine orders them.
#[derive(Clone, Copy)]
struct Event {
    key: u64,
    /// The driving run, or the run that the taker claims.
    run: u32,
    /// The taker.
    taker: u32,
}

/// A run's part in a block: its results, or an operand with the claimed producer.
#[derive(Clone, Copy)]
struct Part {
    run: u32,
    claimed: u32,
    walk: Walk,
    count: u32,
    position: i32,
    mask: u8,
}

struct Block {
    dir: Dir,
    parts: Vec<Part>,
}

/// Where an operand or result travels: block, direction, words of the block, position of the unit.
fn lane_of(stream: Stream, words: u16) -> (usize, u8) {
    let mask = ((1u16 << words) - 1) << (stream.index % BLOCK);
    let block = stream.dir as usize * BLOCKS + (stream.index / BLOCK) as usize;
    (block, mask as u8)
}

fn forward_block(alu: u8) -> usize {
    2 * BLOCKS + alu as usize
}

/// Checks all operands of a chip.
pub(super) fn check(cx: &ChipCx<'_>, sink: &mut Sink) {
    let n_blocks = 2 * BLOCKS + cx.t.vxm.alus as usize;
    let mut blocks: Vec<Block> = (0..n_blocks)
        .map(|b| Block {
            dir: if b / BLOCKS == 1 { Dir::West } else { Dir::East },
            parts: Vec::new(),
        })
        .collect();
    let mut takes: Vec<(u32, u32, u32)> = Vec::new();
    for (i, run) in cx.sound() {
        drives(cx, i, run, &mut blocks);
        let claims = &cx.claims[i as usize];
        operands(run, |slot, o| {
            let Some(&claim) = claims.operands.get(slot) else {
                return;
            };
            match meet(cx, i, run, slot, o, claim) {
                Ok((block, part)) => {
                    takes.push((claim.run, claim.first, part.count));
                    if let Some(b) = blocks.get_mut(block) {
                        b.parts.push(part);
                    }
                }
                Err((cycle, what)) => {
                    // The claimed results count as taken, so that one wrong operand is reported once.
                    takes.push((claim.run, claim.first, taken(run, slot)));
                    sink.report(Invariant::Operands, || {
                        cx.violation(Invariant::Operands, i, cycle, what)
                    });
                }
            }
        });
    }
    let mut events = Vec::new();
    for block in &blocks {
        sweep(cx, block, &mut events, sink);
    }
    check_taken(cx, takes, sink);
}

/// Adds the results of a run to the blocks on which they travel.
fn drives(cx: &ChipCx<'_>, i: u32, run: &Run, blocks: &mut [Block]) {
    let info = &cx.info[i as usize];
    if info.visible == 0 {
        return;
    }
    let part = Part {
        run: i,
        claimed: NONE,
        walk: Walk::results(cx.t, run, cx.first(i) as i64),
        count: info.visible,
        position: info.position,
        mask: 1,
    };
    if let Some(s) = run.out {
        let (block, mask) = lane_of(s, result_dtype(run).words());
        if let Some(b) = blocks.get_mut(block) {
            b.parts.push(Part { mask, ..part });
        }
    }
    if let Queue::Alu(alu) = run.queue
        && let Some(b) = blocks.get_mut(forward_block(alu))
    {
        b.parts.push(Part { position: 0, ..part });
    }
}

/// A5: the claimed results exist, have the operand's dtype, and pass by in exactly the cycles of the issues.
fn meet(
    cx: &ChipCx<'_>,
    i: u32,
    run: &Run,
    slot: usize,
    o: Operand,
    claim: Producer,
) -> Result<(usize, Part), (Option<u64>, String)> {
    let name = slot_name(run, slot);
    let fail = |what: String| Err((None, format!("{name} {what}")));
    let count = taken(run, slot);
    let Some(from) = cx.sound_run(claim.run) else {
        return fail(format!("claims r{}, which is malformed", claim.run));
    };
    let info = &cx.info[claim.run as usize];
    if claim.first as u64 + count as u64 > info.visible as u64 {
        return fail(format!(
            "claims results {}.. of r{}, which has {}",
            claim.first, claim.run, info.visible
        ));
    }
    let dtype = result_dtype(from);
    let word_taker =
        matches!(run.op, crate::op::Opcode::Send) || (run.op == crate::op::Opcode::Write && run.words == 1);
    let fits = dtype == o.dtype || (word_taker && dtype.words() == 1 && o.dtype.words() == 1);
    if !fits {
        return fail(format!("is {}, r{} produces {dtype}", o.dtype, claim.run));
    }
    let here = cx.info[i as usize].position;
    let (block, mask, position, distance) = match o.src {
        Src::Stream(s) => {
            if from.out != Some(s) {
                let out = from.out.map_or("no stream".to_string(), |s| s.to_string());
                return fail(format!("is on {s}, r{} drives {out}", claim.run));
            }
            let distance = (here - info.position) * s.dir.sign();
            if distance <= 0 {
                return fail(format!(
                    "is on {s}, but r{} sits at position {}, not upstream of {here}",
                    claim.run, info.position
                ));
            }
            let (block, mask) = lane_of(s, dtype.words());
            (block, mask, here, distance)
        }
        Src::Alu(alu) => {
            if from.queue != Queue::Alu(alu) || from.op.unit() != UnitKind::Vxm {
                return fail(format!("is ALU {alu}, r{} issues elsewhere", claim.run));
            }
            (forward_block(alu), 1, 1, 0)
        }
        _ => return fail("has no producer".into()),
    };
    let walk = Walk::issues(run, cx.first(i) as i64 - o.delay as i64);
    let mut mine = walk.from(0);
    let mut theirs = Walk::results(cx.t, from, cx.first(claim.run) as i64).from(claim.first);
    for n in 0..count {
        let (at, passes) = (mine.step(), theirs.step() + distance as i64);
        if at != passes {
            let result = claim.first + n;
            let what = format!(
                "{name} is taken @{at}, result {result} of r{} passes @{passes}",
                claim.run
            );
            return Err((Some(at.max(0) as u64 + o.delay as u64), what));
        }
    }
    // On the belt of a forward the taker sits one step, and so one cycle, downstream.
    let hop = matches!(o.src, Src::Alu(_)) as i64;
    let part = Part {
        run: i,
        claimed: claim.run,
        walk: Walk {
            base: walk.base + hop,
            ..walk
        },
        count,
        position,
        mask,
    };
    Ok((block, part))
}

fn slot_name(run: &Run, slot: usize) -> String {
    match run.op {
        crate::op::Opcode::LoadRow | crate::op::Opcode::LoadCol if slot < belt_groups(run) as usize => {
            format!("belt group {slot}")
        }
        _ => format!("operand {slot}"),
    }
}

/// A6: as the words of each slot move downstream, every taker finds the result that it claims.
fn sweep(cx: &ChipCx<'_>, block: &Block, events: &mut Vec<Event>, sink: &mut Sink) {
    if block.parts.is_empty() {
        return;
    }
    events.clear();
    let sign = block.dir.sign() as i64;
    for p in &block.parts {
        let downstream = p.position as i64 * sign;
        let drive = (p.claimed == NONE) as u64;
        let low = ((downstream + (1 << 15)) as u64) << 5 | drive << 4 | p.mask as u64;
        let mut steps = p.walk.from(0);
        let (run, taker) = if drive == 1 { (p.run, NONE) } else { (p.claimed, p.run) };
        for _ in 0..p.count {
            let slot = steps.step() - downstream + (1 << 17);
            events.push(Event {
                key: (slot as u64) << 21 | low,
                run,
                taker,
            });
        }
    }
    events.sort_unstable_by_key(|e| e.key);
    let mut slot = u64::MAX;
    let mut words = [(NONE, 0u64); BLOCK as usize];
    for e in events.iter() {
        if e.key >> 21 != slot {
            slot = e.key >> 21;
            words = [(NONE, 0); BLOCK as usize];
        }
        let position = e.key >> 5 & 0xffff;
        let is_drive = e.key & 16 != 0;
        for (w, word) in words.iter_mut().enumerate() {
            if e.key >> w & 1 == 0 {
                continue;
            }
            let before = *word;
            if is_drive {
                *word = (e.run, position);
            }
            let wrong = if is_drive {
                before.0 != NONE && before.1 == position
            } else {
                before.0 != e.run
            };
            if wrong {
                let at = position as i64 - (1 << 15);
                let cycle = slot as i64 - (1 << 17) + at;
                report_slot(cx, e, before.0, cycle, sink);
                break;
            }
        }
    }
}

fn report_slot(cx: &ChipCx<'_>, e: &Event, found: u32, cycle: i64, sink: &mut Sink) {
    let run = if e.taker == NONE { e.run } else { e.taker };
    sink.report(Invariant::Slots, || {
        let what = if e.taker == NONE {
            format!("drives a belt slot that r{found} drives at the same position and cycle")
        } else if found == NONE {
            format!("takes a result of r{}, the slot carries nothing", e.run)
        } else {
            format!("takes a result of r{}, the slot carries one of r{found}", e.run)
        };
        cx.violation(Invariant::Slots, run, Some(cycle.max(0) as u64), what)
    });
}

/// A7: the results taken of every run cover all that it puts on a belt.
fn check_taken(cx: &ChipCx<'_>, mut takes: Vec<(u32, u32, u32)>, sink: &mut Sink) {
    takes.sort_unstable();
    let mut takes = takes.into_iter().peekable();
    for i in 0..cx.runs.len() as u32 {
        let mut covered = 0u64;
        let mut gap = None;
        while let Some((_, first, count)) = takes.next_if(|t| t.0 <= i) {
            if first as u64 > covered && gap.is_none() {
                gap = Some(covered);
            }
            covered = covered.max(first as u64 + count as u64);
        }
        if cx.sound_run(i).is_none() {
            continue;
        }
        let visible = cx.info[i as usize].visible as u64;
        if gap.is_none() && covered < visible {
            gap = Some(covered);
        }
        if let Some(n) = gap {
            sink.report(Invariant::Taken, || {
                cx.violation(
                    Invariant::Taken,
                    i,
                    None,
                    format!("result {n} of {visible} is taken by nobody"),
                )
            });
        }
    }
}
