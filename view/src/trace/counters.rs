//! What the counters of a trace show: bytes of SRAM in use, and the share of the units of a kind that issue.

use super::unit;
use lockstep_isa::artifact::ValueKind;
use lockstep_isa::disasm::Line;
use lockstep_isa::{Artifact, Opcode, Run, Target};
use std::collections::{BTreeMap, BTreeSet};

/// Most windows that a run is divided into.
const WINDOWS: u64 = 512;

/// Busy cycles of each kind of unit on one chip, window by window.
pub(crate) struct Utilisation {
    /// Cycles of a window.
    width: u64,
    makespan: u64,
    busy: [Vec<u64>; 6],
}

impl Utilisation {
    /// Nothing is busy yet.
    pub(crate) fn new(makespan: u64) -> Utilisation {
        let width = makespan.div_ceil(WINDOWS).max(1);
        let n = makespan.div_ceil(width) as usize;
        Utilisation {
            width,
            makespan,
            busy: std::array::from_fn(|_| vec![0; n]),
        }
    }

    /// Adds the issues of a run, each with its occupancy. As in the report, an operation that takes
    /// four ALUs counts four times, and receives do not count.
    pub(crate) fn add(&mut self, target: &Target, line: &Line<'_>) {
        let run = line.run;
        let cost = match run.op {
            Opcode::Recv => return,
            Opcode::Alu => u64::from(run.alu.cost()),
            _ => 1,
        };
        let occupancy = u64::from(target.occupancy(run.op, run.dtype));
        self.spread(unit(run.op), run, run.dims.len(), line.cycle, (occupancy, cost));
    }

    /// Adds the issues of the innermost `depth` dimensions, the first of which is in cycle `at`; each takes so many cycles on so many
    /// units. What lies in one window is added at once.
    fn spread(&mut self, kind: usize, run: &Run, depth: usize, at: u64, (cycles, cost): (u64, u64)) {
        let inner = run.dims.get(..depth).unwrap_or(&[]);
        let issues: u64 = inner.iter().map(|d| u64::from(d.count)).product();
        let span: u64 = inner
            .iter()
            .map(|d| (u64::from(d.count).saturating_sub(1)) * u64::from(d.stride))
            .sum();
        let end = at.saturating_add(span).saturating_add(cycles);
        let next = (at / self.width).saturating_add(1).saturating_mul(self.width);
        match inner.last() {
            _ if end <= next => self.put(kind, at, issues * cycles * cost),
            Some(dim) => {
                for i in 0..u64::from(dim.count) {
                    let at = at.saturating_add(i * u64::from(dim.stride));
                    self.spread(kind, run, depth - 1, at, (cycles, cost));
                }
            }
            None => {
                let mut at = at;
                while at < end {
                    let until = end.min((at / self.width).saturating_add(1).saturating_mul(self.width));
                    self.put(kind, at, (until - at) * cost);
                    at = until;
                }
            }
        }
    }

    fn put(&mut self, kind: usize, cycle: u64, busy: u64) {
        let window = usize::try_from(cycle / self.width).unwrap_or(usize::MAX);
        if let Some(sum) = self.busy[kind].get_mut(window) {
            *sum = sum.saturating_add(busy);
        }
    }

    /// First cycle of every window and the share of the units that are busy in it, in per cent; and 0 at the end.
    pub(crate) fn samples(&self, kind: usize, units: u64) -> Vec<(u64, f64)> {
        let mut out: Vec<(u64, f64)> = Vec::new();
        for (i, &busy) in self.busy[kind].iter().enumerate() {
            let start = i as u64 * self.width;
            let cycles = self.width.min(self.makespan - start) * units.max(1);
            out.push((start, 100.0 * busy as f64 / cycles as f64));
        }
        out.push((self.makespan, 0.0));
        out
    }
}

/// Bytes of a chip's SRAM that hold something, as they change: text, constants, states and inputs from the start, a computed value from
/// its first write to its last read, an output to the end. Values count whole, lane padding included.
pub(crate) fn sram(artifact: &Artifact, entry: usize, chip: u16) -> Vec<(u64, u64)> {
    let Some(e) = artifact.entries.get(entry) else {
        return Vec::new();
    };
    let Some(c) = e.chips.get(chip as usize) else {
        return Vec::new();
    };
    let program = artifact.programs.get(c.program as usize);
    // First and last cycle in which each value is touched.
    let mut touched: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let runs = program.map_or(&[][..], |p| &p.runs);
    for (run, claims) in runs.iter().zip(&c.claims) {
        let Some(mem) = claims.mem else { continue };
        let start = c.start.saturating_add(u64::from(run.cycle));
        let end = start.saturating_add(u64::from(run.last_offset()) + 1);
        let t = touched.entry(mem.value).or_insert((start, end));
        *t = (t.0.min(start), t.1.max(end));
    }
    let outputs: BTreeSet<u32> = e.outputs.iter().flat_map(|o| &o.nests).map(|n| n.value).collect();
    let mut always = program.map_or(0, |p| p.text_bytes());
    let mut changes: BTreeMap<u64, i128> = BTreeMap::new();
    for (i, v) in e.values.iter().enumerate().filter(|(_, v)| v.chip == chip) {
        let i = i as u32;
        let bytes = u64::from(v.n_vectors) * u64::from(v.dtype.words()) * artifact.target.word_bytes() as u64;
        let (first, last) = match (v.kind, touched.get(&i)) {
            // It lies on the state that it replaces.
            (ValueKind::NextState(_), _) => continue,
            (ValueKind::Const(_) | ValueKind::State(_), _) | (ValueKind::Input, None) => {
                always = always.saturating_add(bytes);
                continue;
            }
            (ValueKind::Input, Some(t)) => (0, t.1),
            (ValueKind::Computed, Some(t)) => *t,
            (ValueKind::Computed, None) => continue,
        };
        let last = if outputs.contains(&i) {
            e.makespan.max(last)
        } else {
            last
        };
        *changes.entry(first).or_default() += i128::from(bytes);
        *changes.entry(last).or_default() -= i128::from(bytes);
    }
    let mut now = i128::from(always);
    let mut out = vec![(0, always)];
    for (cycle, change) in changes {
        now += change;
        let bytes = u64::try_from(now).unwrap_or(0);
        match out.last_mut() {
            Some(last) if last.0 == cycle => last.1 = bytes,
            Some(last) if last.1 == bytes => {}
            _ => out.push((cycle, bytes)),
        }
    }
    out
}
