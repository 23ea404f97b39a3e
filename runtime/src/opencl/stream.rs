//! The launches of an entry, from the steps of its plan.

use super::driver::Device;
use super::work::{Kernel, Shape, Work};
use super::{prelude, step, tape};
use crate::plan::{Arg, ChainPlan, OpKind, Plan, Step, Tape, TapeOp};
use std::collections::BTreeMap;
use std::ops::Range;

/// Kernels, each once, and the launches of all entries.
pub struct Stream {
    shape: Shape,
    /// Kernels in the order in which they were first needed, with the entry and chain that needed them.
    pub kernels: Vec<(Kernel, usize, u32)>,
    ids: BTreeMap<String, usize>,
    /// Launches of all entries.
    pub launches: Vec<Launch>,
    /// Launches of each entry.
    pub entries: Vec<Range<usize>>,
}

/// A launch.
pub struct Launch {
    /// Index of its kernel.
    pub kernel: usize,
    /// What it does.
    pub work: Work,
    /// Its chain.
    pub chain: u32,
    /// Kind of its step, as [`Step::kind`] has it.
    pub kind: &'static str,
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
            launches: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Adds the launches of an entry. `pool` are the constants made at load.
    pub fn entry(&mut self, plan: &Plan, pool: &[u8]) {
        let first = self.launches.len();
        for (c, chain) in plan.chains.iter().enumerate() {
            self.chain(plan, pool, c as u32, chain);
        }
        self.entries.push(first..self.launches.len());
    }

    fn chain(&mut self, plan: &Plan, pool: &[u8], c: u32, chain: &ChainPlan) {
        if chain.events.is_empty() {
            for step in &chain.steps {
                let rows = match step {
                    Step::Pack(_) => (0, 1),
                    _ => (0, step.rows().0),
                };
                self.step(plan, pool, c, step, rows);
            }
        }
        for &(s, row) in &chain.events {
            if let Some(step) = chain.steps.get(s as usize) {
                self.step(plan, pool, c, step, (row, row + 1));
            }
        }
    }

    fn step(&mut self, plan: &Plan, pool: &[u8], c: u32, step: &Step, rows: (u32, u32)) {
        let kind = step.kind();
        let mut add = |(kernel, work): (Kernel, Work)| {
            let next = self.kernels.len();
            let id = *self.ids.entry(kernel.text.clone()).or_insert(next);
            if id == next {
                self.kernels.push((kernel, self.entries.len(), c));
            }
            self.launches.push(Launch {
                kernel: id,
                work,
                chain: c,
                kind,
            });
        };
        match step {
            Step::Tape(t) => add(tape::tape(&self.shape, plan, pool, t, rows)),
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
                    add(tape::tape(&self.shape, plan, pool, &copy, rows));
                }
                for b in &m.blocks {
                    add(step::multiply(&self.shape, m, b, rows));
                }
            }
            Step::Pack(p) => add(step::pack(&self.shape, p)),
            Step::Transpose(t) => add(step::transpose(&self.shape, t, rows)),
        }
    }

    /// The text before the kernels.
    pub fn prelude(&self) -> String {
        prelude::text(self.shape.items) + &step::prelude(self.shape.width)
    }

    /// The text of a kernel, by its index.
    pub fn text(&self, i: usize) -> String {
        let body = self.kernels.get(i).map_or("", |(k, ..)| k.text.as_str());
        format!(
            "__kernel void k{i}(__global uchar *mem, __global uchar *scr, __global const uchar *pool, \
             __global const uchar *wts, __global const long *par, const ulong base) {{\n    \
             __global const long *P = par + par[base + get_group_id(2)];\n{body}}}\n"
        )
    }
}
