//! A13 and A14: tiles and accumulator rows of the matrix units.

use super::queues::planes;
use super::report::Sink;
use super::structure::acc_walk;
use super::walk::Walk;
use super::{ChipCx, Invariant};
use crate::claim::Block;
use crate::op::Opcode;
use crate::run::{AccIn, Run};

/// What the planes of one chip hold.
struct Planes {
    /// Loads in the shadow tile, per hemisphere and plane.
    shadow: Vec<Vec<u32>>,
    /// Loads in the active tile.
    active: Vec<Vec<u32>>,
    per_hemisphere: usize,
}

impl Planes {
    fn range(&self, cx: &ChipCx<'_>, run: &Run) -> std::ops::Range<usize> {
        let (hemi, first, count) = planes(cx, run);
        let first = hemi * self.per_hemisphere + first as usize;
        first..(first + count as usize).min(self.shadow.len())
    }
}

/// Replays loads and swaps of all planes against the claimed blocks, then accumulator rows.
pub(super) fn check(cx: &ChipCx<'_>, sink: &mut Sink) {
    let per_hemisphere = cx.t.mxm.planes_per_hemisphere as usize;
    let mut state = Planes {
        shadow: vec![Vec::new(); 2 * per_hemisphere],
        active: vec![Vec::new(); 2 * per_hemisphere],
        per_hemisphere,
    };
    // A load in the cycle of a swap goes to the new shadow tile: products come first.
    let mut order: Vec<(u64, bool, u32)> = cx
        .sound()
        .filter_map(|(i, run)| match run.op {
            Opcode::LoadRow | Opcode::LoadCol => Some((cx.first(i), true, i)),
            Opcode::Mul => Some((cx.first(i), false, i)),
            _ => None,
        })
        .collect();
    order.sort_unstable();
    let mut used = vec![false; cx.runs.len()];
    for &(_, is_load, i) in &order {
        let sound = if is_load {
            load(cx, &mut state, i)
        } else {
            multiply(cx, &mut state, &mut used, i)
        };
        if let Err(what) = sound {
            sink.report(Invariant::Tiles, || cx.violation(Invariant::Tiles, i, None, what));
        }
    }
    for &(_, is_load, i) in &order {
        if is_load && !used[i as usize] {
            sink.report(Invariant::Tiles, || {
                let what = "no product multiplies by this tile block".to_string();
                cx.violation(Invariant::Tiles, i, None, what)
            });
        }
    }
    accumulators(cx, &order, sink);
}

/// Whether two runs of the MXM use the same matrix unit for the same dtype.
fn same_unit(cx: &ChipCx<'_>, a: &Run, b: &Run) -> bool {
    planes(cx, a) == planes(cx, b) && a.dtype == b.dtype
}

fn load(cx: &ChipCx<'_>, state: &mut Planes, i: u32) -> Result<(), String> {
    let run = &cx.runs[i as usize];
    let mut sound = Ok(());
    for plane in state.range(cx, run) {
        for &other in &state.shadow[plane] {
            let o = &cx.runs[other as usize];
            if !same_unit(cx, run, o) {
                sound = Err(format!("the shadow tile holds r{other} of another unit or dtype"));
            } else if !run.window.may_join(&o.window) {
                sound = Err(format!(
                    "window {:?} overlaps {:?} of r{other} in the shadow tile",
                    run.window, o.window
                ));
            }
        }
        state.shadow[plane].push(i);
    }
    sound
}

fn multiply(cx: &ChipCx<'_>, state: &mut Planes, used: &mut [bool], i: u32) -> Result<(), String> {
    let run = &cx.runs[i as usize];
    let cycle = cx.first(i);
    let mut sound = Ok(());
    let range = state.range(cx, run);
    if run.swap {
        for plane in range.clone() {
            let loads = std::mem::take(&mut state.shadow[plane]);
            for &l in &loads {
                let info = &cx.info[l as usize];
                let ready = cx.first(l) + info.last as u64 + info.latency as u64;
                if ready > cycle {
                    sound = Err(format!("swaps in r{l}, usable from @{ready}"));
                }
                used[l as usize] = true;
            }
            state.active[plane] = loads;
        }
    }
    let Some(first) = range.clone().next() else {
        return Err("no such plane".into());
    };
    let mut held: Vec<Block> = state.active[first]
        .iter()
        .map(|&load| Block {
            load,
            window: cx.runs[load as usize].window,
        })
        .collect();
    held.sort_by_key(|b| (b.window.n0, b.window.k0));
    let split = range.clone().any(|plane| state.active[plane] != state.active[first]);
    let foreign = held.iter().find(|b| !same_unit(cx, run, &cx.runs[b.load as usize]));
    if split {
        sound = Err("the planes of this unit hold different tiles".into());
    } else if let Some(b) = foreign {
        sound = Err(format!("the tile holds r{} of another unit or dtype", b.load));
    } else if held != cx.claims[i as usize].blocks {
        sound = Err(format!(
            "claims blocks {}, the tile holds {}",
            blocks_text(&cx.claims[i as usize].blocks),
            blocks_text(&held)
        ));
    }
    sound
}

fn blocks_text(blocks: &[Block]) -> String {
    let parts: Vec<String> = blocks
        .iter()
        .map(|b| {
            let w = b.window;
            format!("r{}[{}:{}, {}:{}]", b.load, w.k0, w.k1, w.n0, w.n1)
        })
        .collect();
    format!("{{{}}}", parts.join(" "))
}

/// State of one accumulator row of one plane.
#[derive(Clone, Copy)]
struct AccRow {
    run: u32,
    result: u32,
    ready: i64,
    read: bool,
}

/// A14: rows are read as claimed, after their latency, and none is overwritten or left unread.
fn accumulators(cx: &ChipCx<'_>, order: &[(u64, bool, u32)], sink: &mut Sink) {
    let rows = cx.t.mxm.acc_rows as usize;
    let n_planes = 2 * cx.t.mxm.planes_per_hemisphere as usize;
    let uses_rows = |run: &Run| run.acc_in == AccIn::Row || run.out.is_none();
    if !order.iter().any(|&(_, l, i)| !l && uses_rows(&cx.runs[i as usize])) {
        return;
    }
    let mut state: Vec<Option<AccRow>> = vec![None; n_planes * rows];
    let per = cx.t.mxm.planes_per_hemisphere as usize;
    let unread = |r: AccRow, row: usize, sink: &mut Sink| {
        sink.report(Invariant::Accumulators, || {
            let what = format!("result {} in accumulator row {row} is read by nobody", r.result);
            cx.violation(Invariant::Accumulators, r.run, None, what)
        });
    };
    for &(first_cycle, is_load, i) in order {
        let run = &cx.runs[i as usize];
        if is_load || !uses_rows(run) {
            continue;
        }
        let (hemi, first, count) = planes(cx, run);
        let units = (hemi * per + first as usize)..(hemi * per + first as usize + count as usize);
        let info = &cx.info[i as usize];
        let mut cycles = Walk::issues(run, first_cycle as i64).from(0);
        let (mut reads, mut writes) = (acc_walk(run, false).from(0), acc_walk(run, true).from(0));
        for n in 0..info.issues {
            let cycle = cycles.step();
            let (read, write) = (reads.step() as usize, writes.step() as usize);
            if let Some(claim) = cx.claims[i as usize].acc {
                let result = claim.first as u64 + n as u64;
                for plane in units.clone() {
                    let Some(cell) = state.get_mut(plane * rows + read) else {
                        continue;
                    };
                    let wrong = match cell {
                        Some(c) if c.run == claim.run && c.result as u64 == result => {
                            c.read = true;
                            (c.ready > cycle).then(|| format!("row {read} is usable from @{}", c.ready))
                        }
                        Some(c) => Some(format!(
                            "claims result {result} of r{} in accumulator row {read}, which holds result {} of r{}",
                            claim.run, c.result, c.run
                        )),
                        None => Some(format!("accumulator row {read} is not written")),
                    };
                    if let Some(what) = wrong {
                        sink.report(Invariant::Accumulators, || {
                            cx.violation(Invariant::Accumulators, i, Some(cycle as u64), what)
                        });
                        break;
                    }
                }
            }
            if run.out.is_none() {
                let row = AccRow {
                    run: i,
                    result: n,
                    ready: cycle + info.latency as i64,
                    read: false,
                };
                for (k, plane) in units.clone().enumerate() {
                    let Some(cell) = state.get_mut(plane * rows + write) else {
                        continue;
                    };
                    if let Some(old) = cell.replace(row)
                        && !old.read
                        && k == 0
                    {
                        unread(old, write, sink);
                    }
                }
            }
        }
    }
    for (n, row) in state.iter().enumerate() {
        if let Some(r) = row
            && !r.read
        {
            unread(*r, n % rows, sink);
        }
    }
}
