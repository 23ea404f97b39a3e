//! The longest path of least latencies through the operations of a partitioned program.
//!
//! Every value has, at the place of every kind of unit, a time for its first element, its first whole row (last axis) and
//! its last element: what the unit that computes it needs, and the way from there, a cycle for each position. Maps run on the VXM, products
//! on the MXM, products of a batch of vectors on either, reductions on the SXM or, folded over vectors, on the VXM; gathers, scatters and
//! rearrangements take place on the way. Of several units the least of each time counts, and of the hemispheres the nearer one.

use super::product::{Product, product};
use super::{dense_words, lanes, parallel};
use crate::partition::Partitioned;
use crate::tir::{Arg, IndexMap, MapId, MapNode, Op, TensorIr, ValueId};
use lockstep_graph::SideTable;
use lockstep_isa::{AluOp, DType, Dir, Place, Target};

/// Kinds of units at which a value can be met.
const UNITS: usize = 4;
const VXM: usize = 0;
const SXM: usize = 1;
const MXM: usize = 2;
const C2C: usize = 3;

/// Times of a value on belts at one place, in cycles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    /// First element.
    first: u64,
    /// First whole row.
    row: u64,
    /// Last element.
    last: u64,
    /// Cycles that all elements need after `base`; a share of them needs that share.
    work: u64,
    /// From where `work` counts.
    base: u64,
}

impl Times {
    fn at(cycle: u64) -> Times {
        Times {
            first: cycle,
            row: cycle,
            last: cycle,
            work: 0,
            base: cycle,
        }
    }

    /// What needs both. Of two rates either holds: the one that ends later.
    fn max(self, other: Times) -> Times {
        let slower = if self.base + self.work >= other.base + other.work {
            self
        } else {
            other
        };
        Times {
            first: self.first.max(other.first),
            row: self.row.max(other.row),
            last: self.last.max(other.last),
            ..slower
        }
    }

    fn min(self, other: Times) -> Times {
        Times {
            first: self.first.min(other.first),
            row: self.row.min(other.row),
            last: self.last.min(other.last),
            work: self.work.min(other.work),
            base: self.base.min(other.base),
        }
    }

    fn later(self, cycles: u64) -> Times {
        Times {
            first: self.first + cycles,
            row: self.row + cycles,
            last: self.last + cycles,
            base: self.base + cycles,
            ..self
        }
    }

    /// When `part` of `whole` equal shares can be there.
    fn share(&self, part: u64, whole: u64) -> u64 {
        if part >= whole {
            self.last
        } else {
            self.first.max(self.base + self.work * part / whole.max(1))
        }
    }
}

/// Times of a value at the units of each kind.
type Met = [Times; UNITS];

/// Least distances on a chip, in positions.
struct Line {
    /// Between units of two kinds.
    between: [[u64; UNITS]; UNITS],
    /// From a unit of each kind to the nearest slice.
    slice: [u64; UNITS],
}

impl Line {
    fn of(target: &Target) -> Line {
        let sides = |at: &dyn Fn(Dir) -> i32| [at(Dir::East), at(Dir::West)];
        let c2c = target.position.c2c as i32;
        let at: [[i32; 2]; UNITS] = [
            [0; 2],
            sides(&|d| target.sxm_position(d)),
            sides(&|d| target.mxm_position(d)),
            sides(&|d| d.sign() * c2c),
        ];
        let nearest = |to: &[i32], from: i32| to.iter().map(|&p| u64::from(p.abs_diff(from))).min().unwrap_or(0);
        let groups =
            [Dir::East, Dir::West].map(|hemi| (0..target.groups).map(move |group| Place { hemi, group, bank: 0 }));
        let slices: Vec<i32> = groups.into_iter().flatten().map(|g| target.mem_position(g)).collect();
        Line {
            between: at.map(|from| at.map(|to| nearest(&to, from[0]))),
            slice: at.map(|from| nearest(&slices, from[0])),
        }
    }

    /// A value that is at a unit of kind `from` in these times.
    fn from(&self, from: usize, t: Times) -> Met {
        self.between[from].map(|cycles| t.later(cycles))
    }

    /// A value that the slices hold and put on belts in this cycle.
    fn read(&self, cycle: u64) -> Met {
        self.slice.map(|cycles| Times::at(cycle + cycles))
    }
}

/// The operations and what is known of them.
struct Paths<'a> {
    part: &'a Partitioned,
    ir: &'a TensorIr,
    target: &'a Target,
    constant: &'a SideTable<ValueId, bool>,
    line: Line,
    met: SideTable<ValueId, Met>,
}

/// Cycles from the start to the last write of the longest path.
pub(super) fn critical_path(part: &Partitioned, target: &Target, constant: &SideTable<ValueId, bool>) -> u64 {
    let ir = &part.ir;
    let mut paths = Paths {
        part,
        ir,
        target,
        constant,
        line: Line::of(target),
        met: SideTable::new(),
    };
    for v in ir.values.ids() {
        paths.met[v] = paths.complete(v, paths.times(v));
    }
    let ends = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next));
    let computed = |v: &ValueId| !constant[*v] && !matches!(ir.values[*v].op, Op::Input | Op::State(_));
    ends.filter(computed).map(|v| paths.written(v)).max().unwrap_or(0)
}

impl Paths<'_> {
    /// When a value can be read from a slice.
    fn written(&self, v: ValueId) -> u64 {
        let to_slices = (0..UNITS).map(|unit| self.met[v][unit].last + self.line.slice[unit]);
        to_slices.min().unwrap_or(0) + self.target.latency.write as u64
    }

    /// Times of operand `j` at the units of a kind.
    fn operand(&self, v: ValueId, j: usize, unit: usize) -> Times {
        let u = self.ir.values[v].inputs.get(j);
        u.map_or(Times::default(), |&u| self.met[u][unit])
    }

    /// The same times where there is one element or one row.
    fn complete(&self, v: ValueId, met: Met) -> Met {
        let ty = &self.ir.values[v].ty;
        let elements = ty.elements();
        let rows = elements / ty.shape.last().copied().unwrap_or(1).max(1);
        met.map(|mut t| {
            if rows <= 1 {
                t.row = t.row.max(t.last);
            }
            if elements <= 1 {
                t.first = t.first.max(t.last);
            }
            t.last = t.last.max(t.row);
            t
        })
    }

    fn times(&self, v: ValueId) -> Met {
        let (target, data) = (self.target, &self.ir.values[v]);
        let read = target.latency.read as u64;
        match &data.op {
            _ if self.constant[v] => self.line.read(read),
            Op::Input | Op::Const(_) | Op::State(_) => self.line.read(read),
            Op::Move { parts, .. } => self.at_each(|unit| self.moved(v, parts, unit)),
            Op::Map { nodes } if nodes.iter().all(|n| is_free(n.op)) => {
                self.at_each(|unit| map_times(target, nodes, &|j| self.operand(v, j, unit)))
            }
            Op::Map { nodes } => self
                .line
                .from(VXM, map_times(target, nodes, &|j| self.operand(v, j, VXM))),
            Op::Reduce { axes, .. } => self.reduced(v, axes),
            Op::Contract { contracted, .. } => match product(self.ir, target, v) {
                Some(p) => self.contracted(v, contracted, &p),
                None => self.at_each(|unit| self.operand(v, 0, unit).max(self.operand(v, 1, unit))),
            },
            Op::Gather => self.at_each(|unit| self.gathered(v, unit)),
            Op::Scatter { .. } => self.at_each(|unit| {
                let of = |j| self.operand(v, j, unit);
                let way = (target.latency.write + target.latency.index) as u64 + read;
                Times::at((of(1).last.max(of(2).last) + way).max(of(0).first))
            }),
            Op::Sort { axis, .. } => {
                let n = data.ty.shape.get(*axis as usize).copied().unwrap_or(1).max(1) as u64;
                let depth = (64 - (n - 1).leading_zeros()) as u64;
                let operands = self.operand(v, 0, VXM).max(self.operand(v, 1, VXM));
                let sorted = operands.later(depth * target.latency.alu_simple as u64);
                self.line.from(VXM, Times { work: 0, ..sorted })
            }
            Op::Transfer => self.line.from(C2C, self.transferred(v)),
        }
    }

    fn at_each(&self, times: impl Fn(usize) -> Times) -> Met {
        [times(VXM), times(SXM), times(MXM), times(C2C)]
    }

    fn moved(&self, v: ValueId, parts: &[MapId], unit: usize) -> Times {
        let mut t = Times {
            first: u64::MAX,
            work: u64::MAX,
            base: u64::MAX,
            ..Times::default()
        };
        // A share of the result takes no less than that share of one of the operands.
        for (j, &m) in parts.iter().enumerate() {
            let (x, elements) = (self.operand(v, j, unit), operand_elements(self.ir, v, j));
            let taken = taken(self.ir.maps.get(m));
            t.first = t.first.min(x.first);
            t.last = t.last.max(x.share(taken.min(elements), elements));
            t.work = t.work.min(if taken == elements { x.work } else { 0 });
            t.base = t.base.min(x.base);
        }
        t.first = t.first.min(t.last);
        t.base = t.base.min(t.first);
        let rows = parts.len() == 1 && same_rows(self.ir, v);
        Times {
            row: if rows { self.operand(v, 0, unit).row } else { t.first },
            ..t
        }
    }

    /// Over lanes on the SXM, or over vectors on the VXM, where every ALU may fold a share.
    fn reduced(&self, v: ValueId, axes: &[u8]) -> Met {
        let (ir, latency) = (self.ir, &self.target.latency);
        let data = &ir.values[v];
        let shape = data.inputs.first().map_or(&[][..], |&u| &ir.values[u].ty.shape);
        let n: u64 = axes.iter().map(|&a| shape[a as usize] as u64).product();
        let whole = data.ty.elements() == 1;
        let rows = axes.iter().any(|&a| a as usize + 1 == shape.len());
        let at = |unit: usize, latency: u64| {
            let x = self.operand(v, 0, unit);
            let first = if whole {
                x.last
            } else if rows {
                x.row
            } else {
                x.first
            };
            self.line.from(unit, Times { first, row: first, ..x }.later(latency))
        };
        let share = n.div_ceil((self.target.vxm.alus as u64).max(1)).saturating_sub(1);
        either(at(SXM, latency.reduce as u64), at(VXM, latency.fold as u64 + share))
    }

    fn gathered(&self, v: ValueId, unit: usize) -> Times {
        let (latency, data) = (&self.target.latency, &self.ir.values[v]);
        let table = data.inputs.first();
        let stored =
            table.is_some_and(|&u| matches!(self.ir.values[u].op, Op::Input | Op::State(_)) || self.constant[u]);
        let index = self.operand(v, 1, unit).later((latency.read + latency.index) as u64);
        let ready = if stored {
            0
        } else {
            self.operand(v, 0, unit).last + (latency.write + latency.read) as u64
        };
        Times {
            work: 0,
            ..index.max(Times::at(ready))
        }
    }

    fn transferred(&self, v: ValueId) -> Times {
        let (target, data) = (self.target, &self.ir.values[v]);
        let x = self.operand(v, 0, C2C);
        let links = data.inputs.first().map_or(1, |&u| {
            parallel(target, self.part, self.part.chip[u], self.part.chip[v])
        });
        let period = target.c2c.cycles_per_word as u64;
        // A vector of several words is assembled in SRAM.
        let assembled = if data.ty.dtype.words() > 1 {
            (target.latency.write + target.latency.read) as u64
        } else {
            0
        };
        let all = (dense_words(target, &data.ty).div_ceil(links).saturating_sub(1)) * period;
        let late = x.later(target.c2c.latency as u64 + assembled);
        Times {
            last: late.last.max(late.first + all),
            ..late.max(Times {
                work: all,
                base: late.first.saturating_sub(period),
                ..late
            })
        }
    }

    fn contracted(&self, v: ValueId, contracted: &[(u8, u8)], p: &Product) -> Met {
        let product = |unit: usize| {
            let operands = [self.operand(v, 0, unit), self.operand(v, 1, unit)];
            let t = if unit == VXM {
                self.on_vxm(v, contracted, p, operands)
            } else {
                self.on_mxm(v, contracted, p, operands)
            };
            self.line.from(unit, t)
        };
        if p.mxm == 0 && p.load == 0 {
            either(product(VXM), product(MXM))
        } else {
            product(MXM)
        }
    }

    /// When the operands of the first result, and those of its first row, are there.
    fn start(&self, v: ValueId, contracted: &[(u8, u8)], p: &Product, [left, right]: [Times; 2]) -> (u64, u64) {
        let (x, inputs) = (p.x, &self.ir.values[v].inputs);
        let last_axis = |j: usize, axis: u8| axis as usize + 1 == self.ir.values[inputs[j]].ty.rank();
        // One result needs a whole row of an operand whose rows are contracted, else its share of it.
        let one = |j: usize, t: Times, n: u64| {
            let rows = contracted
                .iter()
                .any(|pair| last_axis(j, if j == 0 { pair.0 } else { pair.1 }));
            if rows {
                t.row.max(t.share(1, x.batch * n))
            } else {
                t.share(1, x.batch * n)
            }
        };
        let start = one(0, left, x.rows).max(one(1, right, x.columns));
        // A row of the result needs the whole right matrix of its batch.
        (start, start.max(right.share(1, x.batch)))
    }

    fn on_vxm(&self, v: ValueId, contracted: &[(u8, u8)], p: &Product, operands: [Times; 2]) -> Times {
        let (start, row) = self.start(v, contracted, p, operands);
        let t = Times {
            first: start,
            row,
            last: operands[0].last.max(operands[1].last),
            work: 0,
            base: start,
        };
        t.later(self.target.latency.alu_mul as u64)
    }

    fn on_mxm(&self, v: ValueId, contracted: &[(u8, u8)], p: &Product, operands: [Times; 2]) -> Times {
        let (target, inputs) = (self.target, &self.ir.values[v].inputs);
        let [left, right] = operands;
        let (start, row) = self.start(v, contracted, p, operands);
        // Either operand is loaded; one that is computed passes the load queue as well.
        let load = target.latency.load as u64;
        let arrival = |j: usize, t: u64| if self.constant[inputs[j]] { 0 } else { t + load };
        let loaded = |of: fn(&Times) -> u64| {
            let (l, r) = (of(&left), of(&right));
            arrival(0, l).max(r).min(arrival(1, r).max(l))
        };
        let first = start.max(loaded(|t| t.first));
        // What does not fit the shadow tiles is loaded between products.
        let dtype: DType = self.ir.values[inputs[0]].ty.dtype;
        let shadow = 2 * target.mxm_units(dtype) as u64 * lanes(target) * dtype.words() as u64;
        let last = (first + p.busy(target, shadow))
            .max(loaded(|t| t.last))
            .max(left.last.max(right.last));
        let t = Times {
            first,
            row: row.max(first),
            last,
            work: p.dense,
            base: first.saturating_sub(p.period),
        };
        t.later(target.latency.mul as u64)
    }
}

/// A value that one of two units computes.
fn either(a: Met, b: Met) -> Met {
    std::array::from_fn(|unit| a[unit].min(b[unit]))
}

/// Conversions may come free with a port, coordinates may be constants.
fn is_free(op: AluOp) -> bool {
    matches!(op, AluOp::Cvt | AluOp::Iota | AluOp::Copy)
}

/// Elements of operand `j` of a value.
fn operand_elements(ir: &TensorIr, v: ValueId, j: usize) -> u64 {
    ir.values[v]
        .inputs
        .get(j)
        .map_or(0, |&u| ir.values[u].ty.elements() as u64)
}

/// Elements of the operand that a map takes, where that is plain; half of them or fewer where it may repeat some.
fn taken(map: &IndexMap) -> u64 {
    let [view] = map.views.as_slice() else { return 0 };
    (0..view.shape.len())
        .filter(|&d| view.strides[d] != 0)
        .map(|d| view.hi[d].saturating_sub(view.lo[d]) as u64)
        .product()
}

/// Whether rows of a move are rows of its operand.
fn same_rows(ir: &TensorIr, v: ValueId) -> bool {
    let data = &ir.values[v];
    let (Op::Move { parts, .. }, Some(&u)) = (&data.op, data.inputs.first()) else {
        return false;
    };
    let map = ir.maps.get(parts[0]);
    let last = |shape: &[usize]| shape.last().copied().unwrap_or(1);
    let [view] = map.views.as_slice() else { return false };
    last(&data.ty.shape) == last(&ir.values[u].ty.shape)
        && view.is_total()
        && view.strides.last().is_none_or(|&s| s == 1)
        && view.offset == 0
}

fn map_times(target: &Target, nodes: &[MapNode], of: &dyn Fn(usize) -> Times) -> Times {
    let mut at: Vec<Times> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut t = Times::default();
        for arg in &node.args[..node.op.arity()] {
            match arg {
                Arg::Operand(i) => t = t.max(of(*i as usize)),
                Arg::Node(k) => t = t.max(at.get(*k as usize).copied().unwrap_or_default()),
                Arg::Imm(_) => {}
            }
        }
        let latency = target.alu_latency(node.op.latency_key()) as u64;
        at.push(t.later(if is_free(node.op) { 0 } else { latency }));
    }
    at.last().copied().unwrap_or_default()
}
