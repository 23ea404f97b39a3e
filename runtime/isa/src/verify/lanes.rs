//! A8: the live lanes of every run follow from those of its operands, by the rules of [`crate::run`].

use super::report::Sink;
use super::structure::{is_raw, operands};
use super::walk::Walk;
use super::{ChipCx, EntryCx, Invariant};
use crate::artifact::{ConstForm, Value, ValueKind};
use crate::claim::{MemClaim, Producer};
use crate::id::DType;
use crate::op::Opcode;
use crate::run::{AccIn, Run, Src};

type Range = (u16, u16);
type Check<T = ()> = Result<T, String>;

/// Most links that a bare word is followed over to the value that it is a part of.
const MAX_HOPS: usize = 8;

/// Live lanes of a run's results.
fn result_lanes(run: &Run) -> Range {
    match run.op {
        Opcode::Transpose => (0, run.issues() as u16),
        _ => (run.lo, run.hi),
    }
}

fn text(r: Range) -> String {
    format!("[{}, {})", r.0, r.1)
}

fn within(inner: Range, outer: Range) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

/// Bytes of a word (of the bytes of a value's vector) that hold live lanes, counted within the word; empty where none
/// does.
pub(super) fn live_bytes(lanes: u16, v: &Value, word: u32) -> Range {
    let size = v.dtype.bytes() as u32;
    let (lo, hi) = (v.lo as u32 * size, v.hi as u32 * size);
    let start = word * lanes as u32;
    let cut = |byte: u32| byte.saturating_sub(start).min(lanes as u32) as u16;
    (cut(lo), cut(hi))
}

/// Checks every run of a chip.
pub(super) fn check(entry: &EntryCx<'_>, cx: &ChipCx<'_>, sink: &mut Sink) {
    let mut order: Vec<(u64, u32)> = cx.sound().map(|(i, _)| (cx.first(i), i)).collect();
    order.sort_unstable();
    // Columns defined in the results of each product, as disjoint ascending ranges.
    let mut columns: Vec<Vec<Range>> = vec![Vec::new(); cx.runs.len()];
    for (_, i) in order {
        if let Err(what) = check_run(entry, cx, i, &mut columns) {
            sink.report(Invariant::Lanes, || cx.violation(Invariant::Lanes, i, None, what));
        }
    }
}

fn check_run(entry: &EntryCx<'_>, cx: &ChipCx<'_>, i: u32, columns: &mut [Vec<Range>]) -> Check {
    let run = &cx.runs[i as usize];
    let claims = &cx.claims[i as usize];
    let lanes = cx.t.lanes;
    let all: Range = (0, lanes);
    let mut seen: Vec<(Range, Producer)> = Vec::with_capacity(claims.operands.len());
    if run.op != Opcode::Recv {
        for &p in &claims.operands {
            // A malformed producer is reported on its own and as an operand.
            let Some(from) = cx.sound_run(p.run) else {
                return Ok(());
            };
            if is_raw(from) && !takes_words(run) {
                return Err(format!("r{} carries bare words, only write and send take those", p.run));
            }
            seen.push((result_lanes(from), p));
        }
    }
    let operand = |k: usize| seen.get(k).map_or(all, |s| s.0);
    let value = claims
        .mem
        .and_then(|m| Some((m, cx.entry.values.get(m.value as usize)?)));
    let expect = |expected: Range, of: &str| {
        if (run.lo, run.hi) == expected {
            Ok(())
        } else {
            Err(format!(
                "live lanes {}, those {of} are {}",
                text((run.lo, run.hi)),
                text(expected)
            ))
        }
    };
    // Gather and scatter move whole vectors, whatever their words.
    let word_access = matches!(run.op, Opcode::Read | Opcode::Write) && (run.words as u16) < run.dtype.words();
    match run.op {
        Opcode::Read if word_access => expect(all, "of a word")?,
        Opcode::Read | Opcode::Gather => {
            if let Some((m, v)) = value {
                expect((v.lo, v.hi), &format!("of v{}", m.value))?;
            }
            if run.op == Opcode::Gather {
                index_lane(operand(0))?;
            }
        }
        Opcode::Write | Opcode::Scatter => {
            let Some((m, v)) = value else { return Ok(()) };
            let raw = match seen.first() {
                Some((_, p)) if run.op == Opcode::Write => cx.sound_run(p.run).filter(|r| is_raw(r)).map(|_| *p),
                _ => None,
            };
            if word_access {
                expect(all, "of a word")?;
            } else {
                expect((v.lo, v.hi), &format!("of v{}", m.value))?;
            }
            match raw {
                Some(p) => written_words(entry, cx, i, run, p, m, v)?,
                None if word_access => {
                    if let Some((_, p)) = seen.first() {
                        written_words(entry, cx, i, run, *p, m, v)?;
                    }
                }
                None => expect(operand(0), "of operand a")?,
            }
            if run.op == Opcode::Scatter {
                index_lane(operand(1))?;
            }
        }
        Opcode::Send | Opcode::Recv => expect(all, "of a word")?,
        Opcode::Alu => {
            let both = seen.iter().fold(all, |a, (b, _)| (a.0.max(b.0), a.1.min(b.1)));
            expect(both, "that all operands have in common")?;
        }
        Opcode::Fold | Opcode::Transpose | Opcode::Reduce => expect(operand(0), "of operand a")?,
        Opcode::Permute => {
            expect(operand(1), "of the map")?;
            if let Some((_, p)) = seen.get(1) {
                constant_map(cx, i, run, *p, operand(0))?;
            }
        }
        Opcode::LoadRow | Opcode::LoadCol => {
            let w = run.window;
            let window = match run.op {
                Opcode::LoadRow => (w.n0, w.n1),
                _ => (w.k0, w.k1),
            };
            expect(window, "of the window")?;
            for (r, p) in &seen {
                if !within(window, *r) {
                    return Err(format!(
                        "window {} lies not within the live lanes {} of r{}",
                        text(window),
                        text(*r),
                        p.run
                    ));
                }
            }
        }
        Opcode::Mul => {
            let mut defined: Vec<Range> = claims.blocks.iter().map(|b| (b.window.n0, b.window.n1)).collect();
            match (run.acc_in, claims.acc) {
                (AccIn::Stream, _) => defined.push(operand(1)),
                (AccIn::Row, Some(acc)) => defined.extend(columns.get(acc.run as usize).into_iter().flatten().copied()),
                _ => {}
            }
            let defined = merge(defined);
            let hull = match (defined.first(), defined.last()) {
                (Some(a), Some(b)) => (a.0, b.1),
                _ => return Err("no column of the result is defined".into()),
            };
            if run.out.is_some() && defined.len() > 1 {
                return Err(format!(
                    "columns {} of a result on a stream have gaps",
                    defined.iter().map(|&r| text(r)).collect::<Vec<_>>().join(" ")
                ));
            }
            columns[i as usize] = defined;
            expect(hull, "of its columns")?;
            for b in &claims.blocks {
                let k = (b.window.k0, b.window.k1);
                if !within(k, operand(0)) {
                    return Err(format!(
                        "k window {} of r{} lies not within the live lanes {} of x",
                        text(k),
                        b.load,
                        text(operand(0))
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Whether a run moves words without looking into them.
fn takes_words(run: &Run) -> bool {
    run.op == Opcode::Send || (run.op == Opcode::Write && run.words == 1)
}

fn index_lane(r: Range) -> Check {
    if r.0 == 0 {
        return Ok(());
    }
    Err(format!("lane 0 of the index is not live, its lanes are {}", text(r)))
}

/// Sorted, disjoint union of ranges.
fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for r in ranges {
        match out.last_mut() {
            Some(last) if r.0 <= last.1 => last.1 = last.1.max(r.1),
            _ => out.push(r),
        }
    }
    out
}

/// Every lane that a constant map names is live in x.
fn constant_map(cx: &ChipCx<'_>, i: u32, run: &Run, p: Producer, x: Range) -> Check {
    let read = &cx.runs[p.run as usize];
    let Some(m) = cx.claims[p.run as usize].mem.filter(|_| read.op == Opcode::Read) else {
        return Ok(());
    };
    let Some(v) = cx.entry.values.get(m.value as usize) else {
        return Ok(());
    };
    let ValueKind::Const(c) = v.kind else {
        return Ok(());
    };
    let Some(c) = cx.art.consts.get(c as usize) else {
        return Ok(());
    };
    if v.dtype != DType::U16 || c.form != ConstForm::Rows {
        return Ok(());
    }
    let row = (v.hi - v.lo) as usize * 2;
    let bytes = cx.art.weight_bytes();
    let elements = Walk::over(read, m.base as i64, m.strides.map(i64::from));
    let mut steps = elements.from(p.first);
    let mut last = None;
    for _ in 0..cx.info[i as usize].issues {
        let e = steps.step();
        if last == Some(e) {
            continue;
        }
        last = Some(e);
        let at = c.offset as usize + e.max(0) as usize * row;
        let Some(map) = bytes.get(at..at.saturating_add(row)) else {
            return Err("its map lies outside the weights".into());
        };
        for (l, pair) in map.chunks_exact(2).enumerate() {
            let lane = u16::from_le_bytes([pair[0], pair[1]]);
            if lane != 0xffff && !(x.0..x.1).contains(&lane) {
                return Err(format!(
                    "the map of lane {} names lane {lane}, live in x are {}",
                    v.lo as usize + l,
                    text(x)
                ));
            }
        }
    }
    debug_assert!(run.op == Opcode::Permute);
    Ok(())
}

/// Bare words that are written hold every live byte of the words of the value that they become, at the same place of
/// the vector.
fn written_words(
    entry: &EntryCx<'_>,
    cx: &ChipCx<'_>,
    i: u32,
    run: &Run,
    p: Producer,
    m: MemClaim,
    v: &Value,
) -> Check {
    let per_vector = if run.words as u16 == v.dtype.words() {
        1
    } else {
        v.dtype.words() as i64
    };
    let mut elements = Walk::over(run, m.base as i64, m.strides.map(i64::from)).from(0);
    for n in 0..cx.info[i as usize].issues {
        let e = elements.step();
        let word = e.rem_euclid(per_vector) as u32;
        let needed = live_bytes(cx.t.lanes, v, word);
        let Some(found) = source_bytes(entry, cx.chip, p.run, p.first.saturating_add(n)) else {
            return Err(format!("no source of word {e} of v{} is found", m.value));
        };
        if !within(needed, found.bytes) {
            return Err(format!(
                "word {e} of v{} needs live bytes {}, the word written has {}",
                m.value,
                text(needed),
                text(found.bytes)
            ));
        }
        if let Some((words, from)) = found.part
            && (words as i64, from) != (per_vector, word)
        {
            return Err(format!(
                "word {word} of {per_vector} of a vector of v{} gets word {from} of {words}",
                m.value
            ));
        }
    }
    Ok(())
}

/// Where a bare word comes from.
struct Source {
    /// Its live bytes.
    bytes: Range,
    /// Words of the vector that it was read from and its place among them, where it was read as a word.
    part: Option<(u16, u32)>,
}

/// Follows result `n` of a run back over links to where its bytes have a type.
fn source_bytes(entry: &EntryCx<'_>, chip: u16, run: u32, n: u32) -> Option<Source> {
    let (mut chip, mut id, mut n) = (chip, run, n);
    for _ in 0..MAX_HOPS {
        let cx = entry.chips.get(chip as usize)?;
        let run = cx.sound_run(id)?;
        let claims = &cx.claims[id as usize];
        if run.op == Opcode::Recv {
            let crate::run::Queue::Recv(link) = run.queue else {
                return None;
            };
            let peer =
                cx.t.topology
                    .peer(chip, link, cx.t.c2c.local_links, entry.chips.len() as u16)?;
            let sent = claims.operands.first()?;
            let from = entry.chips.get(peer.chip as usize)?;
            from.sound_run(sent.run).filter(|s| s.op == Opcode::Send)?;
            let word = from.claims[sent.run as usize].operands.first()?;
            let issue = sent.first.checked_add(n)?;
            (chip, id, n) = (peer.chip, word.run, word.first.checked_add(issue)?);
            continue;
        }
        if n >= cx.info[id as usize].visible {
            return None;
        }
        if !is_raw(run) {
            return Some(Source {
                bytes: result_lanes(run),
                part: None,
            });
        }
        let m = claims.mem?;
        let v = cx.entry.values.get(m.value as usize)?;
        let e = Walk::over(run, m.base as i64, m.strides.map(i64::from)).at(n);
        let words = v.dtype.words();
        let word = e.rem_euclid(words as i64) as u32;
        return Some(Source {
            bytes: live_bytes(cx.t.lanes, v, word),
            part: Some((words, word)),
        });
    }
    None
}

/// Weight tiles in panels are read by `load.row` and `gather` alone.
pub(super) fn check_tile_consts(cx: &ChipCx<'_>, sink: &mut Sink) {
    for (i, run) in cx.sound() {
        let claims = &cx.claims[i as usize];
        operands(run, |slot, o| {
            if run.op == Opcode::LoadRow || !matches!(o.src, Src::Stream(_)) {
                return;
            }
            let Some(p) = claims.operands.get(slot) else {
                return;
            };
            let Some(from) = cx.sound_run(p.run) else {
                return;
            };
            let tile = from.op == Opcode::Read
                && cx.claims[p.run as usize].mem.is_some_and(|m| {
                    let v = cx.entry.values.get(m.value as usize);
                    v.is_some_and(|v| match v.kind {
                        ValueKind::Const(c) => cx
                            .art
                            .consts
                            .get(c as usize)
                            .is_some_and(|c| matches!(c.form, ConstForm::Tile { .. })),
                        _ => false,
                    })
                });
            if tile {
                sink.report(Invariant::Values, || {
                    let what = format!(
                        "takes a row of a weight tile from r{}, only load.row and gather may",
                        p.run
                    );
                    cx.violation(Invariant::Values, i, None, what)
                });
            }
        });
    }
}
