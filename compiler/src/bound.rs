//! The lower bound on the makespan of a partitioned program: what no layout and no schedule can beat.
//!
//! `bound = max(resource bound, critical path)`, from the partitioned program and the target alone.
//!
//! **Resources**, per chip, the least that its operations can need:
//! - *mxm*: per contract the least unit-cycles over which operand is loaded and over P rows side by side in a vector:
//!   `rows / P * ceil(depth / (lanes / P)) * ceil(columns / (lanes / P))` vectors, whole blocks of a batch packed along the
//!   diagonal. Where the operand repeats elements (overlapping windows of a convolution), rows can share lanes and only
//!   columns count: `rows * columns * ceil(depth / lanes) / lanes`. A batch of vectors (depthwise) goes to the cheaper of MXM and VXM.
//! - *load*: words of the smaller operand of every contract, densely packed, over what tile loads may take.
//! - *vxm*: ALU operations of maps, every node on its own broadcast shape, densely packed, over the ALUs.
//! - *link*: words of transfers between two chips, densely packed, times the period, over their parallel links.
//!
//! **Critical path**: the longest path of least latencies (timing table, distance 0, values kept on belts wherever that is
//! possible). Every value has a time for its first element, its first whole row (last axis) and its last element; operations
//! that follow row by row pass each on, operations that need more wait for it: a contract for the row of its streamed operand
//! and, to complete a row, for the whole matrix of its loaded one; its last element for all of its products or for
//! the tile loads that cannot be prefetched; a transfer for its words.

use crate::partition::Partitioned;
use crate::partition::cost::{Extents, extents, stored_type};
use crate::tir::{Arg, MapNode, Op, TensorIr, Type, ValueId};
use lockstep_graph::SideTable;
use lockstep_isa::{AluOp, DType, Target};
use std::collections::BTreeMap;

/// Least busy cycles of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceBound {
    /// The resource, such as `c0.mxm` or `c0->c1`.
    pub name: String,
    /// Cycles.
    pub cycles: u64,
}

/// The bound and what it is made of, in cycles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// Every resource that is used, by chip, links last.
    pub resources: Vec<ResourceBound>,
    /// The busiest resource.
    pub resource: u64,
    /// The longest path.
    pub critical_path: u64,
    /// The larger of both.
    pub bound: u64,
    /// The plain roofline: multiply-adds over peak, or bytes of weights over the stream fabric, of all chips in use.
    pub roofline: u64,
}

impl Bound {
    /// Name of what binds: a resource or `critical path`.
    pub fn limit(&self) -> &str {
        let busiest = self.resources.iter().find(|r| r.cycles == self.resource);
        match busiest {
            Some(r) if self.resource >= self.critical_path => &r.name,
            _ => "critical path",
        }
    }
}

/// The bound of a partitioned program; `ir` is the whole program it was made from, for the roofline.
pub fn bound(ir: &TensorIr, part: &Partitioned, target: &Target) -> Bound {
    let constant = crate::partition::constants(&part.ir);
    let resources = resources(part, target, &constant);
    let resource = resources.iter().map(|r| r.cycles).max().unwrap_or(0);
    let critical_path = critical_path(part, target, &constant);
    Bound {
        resource,
        critical_path,
        bound: resource.max(critical_path),
        roofline: roofline(ir, target, part.n_chips),
        resources,
    }
}

fn lanes(target: &Target) -> u64 {
    (target.lanes as u64).max(1)
}

fn dense_words(target: &Target, ty: &Type) -> u64 {
    (ty.elements() as u64 * ty.dtype.bytes() as u64).div_ceil(lanes(target))
}

/// A contract as the bound sees it.
struct Product {
    x: Extents,
    /// Unit-cycles on the MXM, over all units of the chip; 0 where the VXM is cheaper.
    mxm: u64,
    /// The same for products that fill their columns: what a share of the results needs at least.
    dense: u64,
    /// ALU operations on vectors, where the VXM is cheaper.
    alu: u64,
    /// Words of the operand that is loaded at least.
    load: u64,
    /// The same for either operand loaded: a single row meets all words of its weights, or every weight the row.
    ways: [Way; 2],
    /// Matrix units of a hemisphere.
    units: u64,
}

/// What a product needs with one of its operands loaded.
#[derive(Clone, Copy, Default)]
struct Way {
    /// Unit-cycles on the MXM, over all units of the chip.
    mxm: u64,
    /// Words loaded.
    words: u64,
    /// Tiles loaded.
    tiles: u64,
}

impl Product {
    /// Least cycles of products and of the loads that do not fit `shadow` words, with the better operand loaded. A unit loads a tile
    /// after the swap before it and swaps it in a load's latency after its last vector: latencies of one unit's tiles add up,
    /// but for the two that it holds at the start.
    fn busy(&self, target: &Target, shadow: u64) -> u64 {
        let per_cycle = 2 * (target.mxm.load_words_per_cycle as u64).max(1);
        let units = 2 * self.units.max(1);
        let way = |way: &Way| {
            let loads = way.words.saturating_sub(shadow) / per_cycle;
            let turns = (way.tiles / units).saturating_sub(2) * target.latency.load as u64;
            way.mxm.max(loads).max(loads / self.units.max(1) + turns)
        };
        self.ways.iter().map(way).min().unwrap_or(0)
    }
}

fn product(ir: &TensorIr, target: &Target, v: ValueId) -> Option<Product> {
    let data = &ir.values[v];
    let (Op::Contract { batch, contracted, .. }, [a, b]) = (&data.op, data.inputs.as_slice()) else {
        return None;
    };
    let left = &ir.values[*a].ty;
    let (right, shared) = &stored(ir, *b);
    let shared = *shared;
    let x = extents(batch, contracted, left, right);
    let alu = (x.batch * x.rows * x.columns * x.depth).div_ceil(lanes(target));
    let none = Product {
        x,
        mxm: 0,
        dense: 0,
        alu,
        load: 0,
        ways: [Way::default(); 2],
        units: 0,
    };
    let Some(rate) = target.mxm_rate(left.dtype) else {
        return Some(none);
    };
    let units = 2 * (target.mxm_units(left.dtype) as u64).max(1);
    let cycles = |vectors: u64| vectors * rate.cycles_per_vector as u64 / units;
    let dense = cycles(columns_only(target, x));
    let turned = Extents {
        rows: x.columns,
        columns: x.rows,
        ..x
    };
    let both = if repeats(ir, *a) || repeats(ir, *b) {
        [columns_only(target, x); 2]
    } else {
        [passes(target, x), passes(target, turned)]
    };
    let vectors = both[0].min(both[1]);
    let on_vxm = x.batch > 1 && (x.rows == 1 || x.columns == 1);
    if on_vxm && alu / (target.vxm.alus as u64).max(1) < cycles(vectors) {
        return Some(none);
    }
    let n = lanes(target);
    let way = |vectors: u64, x: Extents, loaded: &Type, shared: u64| Way {
        mxm: cycles(vectors),
        words: (x.batch * x.depth * x.columns * loaded.dtype.bytes() as u64).div_ceil(n * shared),
        // Densely packed: windows of several batches or columns share a tile.
        tiles: x.batch * x.depth * x.columns / (n * n),
    };
    let words = |of: u64, ty: &Type| (x.batch * x.depth * of * ty.dtype.bytes() as u64).div_ceil(n);
    Some(Product {
        x,
        mxm: cycles(vectors),
        dense,
        alu: 0,
        load: words(x.rows, left).min(words(x.columns, right) / shared),
        ways: [way(both[0], x, right, shared), way(both[1], turned, left, 1)],
        units: target.mxm_units(left.dtype) as u64,
    })
}

/// Whether a value repeats elements of what it is made of.
fn repeats(ir: &TensorIr, v: ValueId) -> bool {
    let data = &ir.values[v];
    let from: usize = data.inputs.iter().map(|&u| ir.values[u].ty.elements()).sum();
    matches!(data.op, Op::Move { .. }) && data.ty.elements() > from
}

/// Vectors where every column is in use.
fn columns_only(target: &Target, x: Extents) -> u64 {
    (x.batch * x.rows * x.columns * x.depth.div_ceil(lanes(target))).div_ceil(lanes(target))
}

/// Vectors with the columns loaded, over all ways to put rows of a batch, or batches, side by side.
fn passes(target: &Target, x: Extents) -> u64 {
    let n = lanes(target);
    let diagonal = (n / x.depth.max(x.columns).max(1)).max(1);
    let batches = x.batch.div_ceil(diagonal) * x.rows;
    let rows = (1..=n).take_while(|&p| p == 1 || p <= x.rows).map(|p| {
        let window = n / p;
        x.batch * x.rows.div_ceil(p) * x.depth.div_ceil(window) * x.columns.div_ceil(window)
    });
    let plain = x.depth.div_ceil(n) * x.columns.div_ceil(n);
    rows.min().unwrap_or(u64::MAX).min(batches * plain)
}

fn resources(part: &Partitioned, target: &Target, constant: &SideTable<ValueId, bool>) -> Vec<ResourceBound> {
    let n = part.n_chips as usize;
    let (mut mxm, mut load, mut alu) = (vec![0u64; n], vec![0u64; n], vec![0u64; n]);
    let mut links: BTreeMap<(u16, u16), u64> = BTreeMap::new();
    for (v, data) in part.ir.values.iter().filter(|(v, _)| !constant[*v]) {
        let chip = part.chip[v] as usize;
        match &data.op {
            Op::Contract { .. } => {
                if let Some(p) = product(&part.ir, target, v) {
                    mxm[chip] += p.mxm;
                    load[chip] += p.load;
                    alu[chip] += p.alu;
                }
            }
            Op::Map { nodes } => alu[chip] += alu_vectors(target, &part.ir, v, nodes),
            Op::Transfer => {
                if let Some(&u) = data.inputs.first() {
                    *links.entry((part.chip[u], part.chip[v])).or_default() += dense_words(target, &data.ty);
                }
            }
            _ => {}
        }
    }
    let loads = 2 * (target.mxm.load_words_per_cycle as u64).max(1);
    let alus = (target.vxm.alus as u64).max(1);
    let mut all = Vec::new();
    for chip in 0..n {
        let of = [
            ("mxm", mxm[chip]),
            ("load", load[chip] / loads),
            ("vxm", alu[chip] / alus),
        ];
        all.extend(of.map(|(name, cycles)| ResourceBound {
            name: format!("c{chip}.{name}"),
            cycles,
        }));
    }
    for ((from, to), words) in links {
        let cycles = words / parallel(target, part, from, to) * target.c2c.cycles_per_word as u64;
        all.push(ResourceBound {
            name: format!("c{from}->c{to}"),
            cycles,
        });
    }
    all.retain(|r| r.cycles > 0);
    all
}

fn parallel(target: &Target, part: &Partitioned, from: u16, to: u16) -> u64 {
    let links = target
        .topology
        .links_between(from, to, target.c2c.local_links, target.n_links(), part.n_chips);
    links.len().max(1) as u64
}

/// Shape of every node of a map: the broadcast of what it depends on.
fn alu_vectors(target: &Target, ir: &TensorIr, v: ValueId, nodes: &[MapNode]) -> u64 {
    let data = &ir.values[v];
    let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
    let mut total = 0;
    for node in nodes {
        let mut shape = vec![1; data.ty.rank()];
        let mut widen = |with: &[usize]| shape.iter_mut().zip(with).for_each(|(n, &w)| *n = (*n).max(w));
        for arg in &node.args[..node.op.arity()] {
            match arg {
                Arg::Operand(i) => {
                    if let Some(&u) = data.inputs.get(*i as usize) {
                        widen(&ir.values[u].ty.shape);
                    }
                }
                Arg::Node(k) => widen(shapes.get(*k as usize).map_or(&[], |s| s.as_slice())),
                Arg::Imm(_) => {}
            }
        }
        let elements: usize = shape.iter().product();
        // Conversions may come free with a port, coordinates may be constants.
        if !matches!(node.op, AluOp::Cvt | AluOp::Iota | AluOp::Copy) {
            total += node.op.cost() as u64 * (elements as u64).div_ceil(lanes(target));
        }
        shapes.push(shape);
    }
    total
}

/// Times of a value on belts, in cycles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    /// First element.
    first: u64,
    /// First whole row.
    row: u64,
    /// Last element.
    last: u64,
    /// Cycles that all elements need after the first; a share of them needs that share.
    work: u64,
}

impl Times {
    fn at(cycle: u64) -> Times {
        Times {
            first: cycle,
            row: cycle,
            last: cycle,
            work: 0,
        }
    }

    fn max(self, other: Times) -> Times {
        Times {
            first: self.first.max(other.first),
            row: self.row.max(other.row),
            last: self.last.max(other.last),
            work: self.work.max(other.work),
        }
    }

    fn later(self, cycles: u64) -> Times {
        Times {
            first: self.first + cycles,
            row: self.row + cycles,
            last: self.last + cycles,
            ..self
        }
    }

    /// When `part` of `whole` equal shares can be there.
    fn share(&self, part: u64, whole: u64) -> u64 {
        if part >= whole {
            self.last
        } else {
            self.first + self.work * part / whole.max(1)
        }
    }
}

fn critical_path(part: &Partitioned, target: &Target, constant: &SideTable<ValueId, bool>) -> u64 {
    let ir = &part.ir;
    let mut times: SideTable<ValueId, Times> = SideTable::new();
    for (v, data) in ir.values.iter() {
        let of = |j: usize| data.inputs.get(j).map_or(Times::default(), |&u| times[u]);
        let read = target.latency.read as u64;
        let mut t = match &data.op {
            _ if constant[v] => Times::at(read),
            Op::Input | Op::Const(_) | Op::State(_) => Times::at(read),
            Op::Move { parts, .. } => {
                let mut t = Times {
                    first: u64::MAX,
                    ..Times::default()
                };
                for (j, &m) in parts.iter().enumerate() {
                    let (x, elements) = (of(j), operand_elements(ir, v, j));
                    let taken = taken(ir.maps.get(m));
                    t.first = t.first.min(x.first);
                    t.last = t.last.max(x.share(taken.min(elements), elements));
                    t.work = t.work.max(if taken == elements { x.work } else { 0 });
                }
                t.first = t.first.min(t.last);
                let rows = parts.len() == 1 && same_rows(ir, v);
                Times {
                    row: if rows { of(0).row } else { t.first },
                    ..t
                }
            }
            Op::Map { nodes } => map_times(target, data.ty.rank(), nodes, &of),
            Op::Reduce { axes, .. } => {
                let x = of(0);
                let shape = &ir.values[data.inputs[0]].ty.shape;
                let n: usize = axes.iter().map(|&a| shape[a as usize]).product();
                let latency =
                    (target.latency.reduce as u64).min(target.latency.fold as u64 + n.saturating_sub(1) as u64);
                let whole = data.ty.elements() == 1;
                let rows = axes.iter().any(|&a| a as usize + 1 == shape.len());
                let first = if whole {
                    x.last
                } else if rows {
                    x.row
                } else {
                    x.first
                };
                Times { first, row: first, ..x }.later(latency)
            }
            Op::Contract { contracted, .. } => match product(ir, target, v) {
                Some(p) => contract_times(target, ir, v, contracted, &p, of(0), of(1), constant),
                None => of(0).max(of(1)),
            },
            Op::Gather => {
                let index = of(1).later(read + target.latency.index as u64);
                let table = of(0);
                let stored =
                    matches!(ir.values[data.inputs[0]].op, Op::Input | Op::State(_)) || constant[data.inputs[0]];
                let ready = if stored {
                    0
                } else {
                    table.last + target.latency.write as u64 + read
                };
                Times {
                    first: index.first.max(ready),
                    row: index.row.max(ready),
                    last: index.last.max(ready),
                    work: 0,
                }
            }
            Op::Scatter { .. } => {
                let at = of(1).last.max(of(2).last) + (target.latency.write + target.latency.index) as u64 + read;
                Times::at(at.max(of(0).first))
            }
            Op::Sort { axis, .. } => {
                let n = data.ty.shape.get(*axis as usize).copied().unwrap_or(1).max(1) as u64;
                let depth = (64 - (n - 1).leading_zeros()) as u64;
                Times {
                    work: 0,
                    ..of(0).max(of(1)).later(depth * target.latency.alu_simple as u64)
                }
            }
            Op::Transfer => {
                let x = of(0);
                let links = data
                    .inputs
                    .first()
                    .map_or(1, |&u| parallel(target, part, part.chip[u], part.chip[v]));
                let period = target.c2c.cycles_per_word as u64;
                let over = |words: u64| (words.div_ceil(links).saturating_sub(1)) * period;
                // A vector of several words is assembled in SRAM.
                let words = data.ty.dtype.words() as u64;
                let assembled = if words > 1 {
                    (target.latency.write + target.latency.read) as u64
                } else {
                    0
                };
                let latency = target.c2c.latency as u64 + assembled;
                let all = over(dense_words(target, &data.ty));
                let late = x.later(latency);
                Times {
                    last: late.last.max(late.first + all),
                    work: x.work.max(all),
                    ..late
                }
            }
        };
        let elements = data.ty.elements();
        let rows = elements / data.ty.shape.last().copied().unwrap_or(1).max(1);
        if rows <= 1 {
            t.row = t.row.max(t.last);
        }
        if elements <= 1 {
            t.first = t.first.max(t.last);
        }
        t.last = t.last.max(t.row);
        times[v] = t;
    }
    let ends = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next));
    let computed = |v: &ValueId| !constant[*v] && !matches!(ir.values[*v].op, Op::Input | Op::State(_));
    ends.filter(computed)
        .map(|v| times[v].last + target.latency.write as u64)
        .max()
        .unwrap_or(0)
}

/// Elements of operand `j` of a value.
fn operand_elements(ir: &TensorIr, v: ValueId, j: usize) -> u64 {
    ir.values[v]
        .inputs
        .get(j)
        .map_or(0, |&u| ir.values[u].ty.elements() as u64)
}

/// Elements of the operand that a map takes, where that is plain; half of them or fewer where it may repeat some.
fn taken(map: &crate::tir::IndexMap) -> u64 {
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

fn map_times(target: &Target, rank: usize, nodes: &[MapNode], of: &dyn Fn(usize) -> Times) -> Times {
    debug_assert!(rank <= u8::MAX as usize);
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
        let free = matches!(node.op, AluOp::Cvt | AluOp::Iota | AluOp::Copy);
        at.push(t.later(if free {
            0
        } else {
            target.alu_latency(node.op.latency_key()) as u64
        }));
    }
    at.last().copied().unwrap_or_default()
}

#[expect(clippy::too_many_arguments, reason = "one operation with all that is known of it")]
fn contract_times(
    target: &Target,
    ir: &TensorIr,
    v: ValueId,
    contracted: &[(u8, u8)],
    p: &Product,
    left: Times,
    right: Times,
    constant: &SideTable<ValueId, bool>,
) -> Times {
    let data = &ir.values[v];
    let x = p.x;
    let last_axis = |j: usize, axis: u8| axis as usize + 1 == ir.values[data.inputs[j]].ty.rank();
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
    let row = start.max(right.share(1, x.batch));
    if p.mxm == 0 && p.load == 0 {
        let latency = target.latency.alu_mul as u64;
        let last = left.last.max(right.last);
        return Times {
            first: start + latency,
            row: row + latency,
            last: last + latency,
            work: 0,
        };
    }
    // Either operand is loaded; one that is computed passes the load queue as well.
    let load = target.latency.load as u64;
    let arrival = |j: usize, t: u64| if constant[data.inputs[j]] { 0 } else { t + load };
    let loaded = |of: fn(&Times) -> u64| {
        let (l, r) = (of(&left), of(&right));
        arrival(0, l).max(r).min(arrival(1, r).max(l))
    };
    let mul = target.latency.mul as u64;
    let first = start.max(loaded(|t| t.first));
    // What does not fit the shadow tiles is loaded between products.
    let dtype: DType = ir.values[data.inputs[0]].ty.dtype;
    let shadow = 2 * target.mxm_units(dtype) as u64 * lanes(target) * dtype.words() as u64;
    let last = (first + p.busy(target, shadow).saturating_sub(1))
        .max(loaded(|t| t.last))
        .max(left.last.max(right.last));
    Times {
        first: first + mul,
        row: row.max(first) + mul,
        last: last + mul,
        work: p.dense,
    }
}

/// The type that a constant has in SRAM, and how many of its elements may share one: of integers with scales it may be two.
fn stored(ir: &TensorIr, v: ValueId) -> (Type, u64) {
    let ty = stored_type(ir, v);
    let shared = if ty == ir.values[v].ty { 1 } else { 2 };
    (ty, shared)
}

/// Multiply-adds over peak, or bytes of weights over the fabric, of `n_chips` chips.
fn roofline(ir: &TensorIr, target: &Target, n_chips: u16) -> u64 {
    let constant = crate::partition::constants(ir);
    let chips = n_chips.max(1) as u128;
    // Cycles of one chip, in units of 1/2^20 so that sums do not lose small terms.
    let (mut cycles, mut bytes) = (0u128, 0u128);
    for (v, data) in ir.values.iter().filter(|(v, _)| !constant[*v]) {
        let Some(p) = product(ir, target, v) else { continue };
        let x = p.x;
        let macs = x.batch as u128 * x.rows as u128 * x.columns as u128 * x.depth as u128;
        let dtype = ir.values[data.inputs[0]].ty.dtype;
        let n = lanes(target) as u128;
        if let Some(rate) = target.mxm_rate(dtype) {
            let peak = 2 * (target.mxm_units(dtype) as u128).max(1) * n * n;
            cycles += ((macs * rate.cycles_per_vector as u128) << 20) / peak;
        }
        let weights = data.inputs.iter().filter(|&&u| constant[u]);
        let least = weights
            .map(|&u| stored(ir, u))
            .map(|(ty, shared)| (ty.elements() * ty.dtype.bytes()) as u64 / shared);
        bytes += least.map(u128::from).sum::<u128>();
    }
    let fabric = 2 * target.streams as u128 * target.lanes as u128;
    ((cycles / chips) >> 20).max(bytes / fabric.max(1) / chips) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::{PartitionOptions, partition};
    use crate::tir::{ReduceOp, TirBuilder};
    use lockstep_isa::artifact::HostDType;

    fn weight(b: &mut TirBuilder, name: &str, shape: &[usize]) -> ValueId {
        b.const_f32(name, shape, &vec![0.5; shape.iter().product()])
            .expect("constant")
    }

    /// Products of one encoder layer of 384 with 12 heads on 128 tokens.
    fn encoder() -> TensorIr {
        let mut b = TirBuilder::new("encoder");
        let x = b.input("x", HostDType::F32, &[128, 384], Type::new(DType::F32, &[128, 384]));
        let w = weight(&mut b, "qkv", &[384, 1152]);
        let qkv = b.contract(x, w, &[], &[(1, 0)]).expect("qkv");
        let head = |b: &mut TirBuilder, n: usize| {
            let part = b.narrow_axis(qkv, 1, n * 384, 384).expect("narrow");
            b.reshape(part, &[128, 12, 32]).expect("heads")
        };
        let (q, k, v) = (head(&mut b, 0), head(&mut b, 1), head(&mut b, 2));
        let s = b.contract(q, k, &[(1, 1)], &[(2, 2)]).expect("scores");
        let m = b.reduce(ReduceOp::Max, s, &[2]).expect("max");
        let p = b.map(&[s, m], |e, a| e.exp(e.sub(a[0], a[1]))).expect("exp");
        let o = b.contract(p, v, &[(0, 1)], &[(2, 0)]).expect("values");
        let o = b.transpose(o, &[1, 0, 2]).expect("merge");
        let o = b.reshape(o, &[128, 384]).expect("merge");
        let w = weight(&mut b, "o", &[384, 384]);
        let y = b.contract(o, w, &[], &[(1, 0)]).expect("o");
        let w = weight(&mut b, "up", &[384, 1536]);
        let y = b.contract(y, w, &[], &[(1, 0)]).expect("up");
        let w = weight(&mut b, "down", &[1536, 384]);
        let y = b.contract(y, w, &[], &[(1, 0)]).expect("down");
        b.output("y", HostDType::F32, &[128, 384], y);
        b.finish()
    }

    fn bound_of(ir: &TensorIr, target: &Target) -> Bound {
        let part = partition(
            ir,
            target,
            &PartitionOptions {
                chips: crate::partition::Chips::Exactly(1),
                exact: true,
                ..PartitionOptions::default()
            },
        );
        bound(ir, &part.expect("fits"), target)
    }

    fn tsp() -> Target {
        Target::builtin("tsp-2020").expect("builtin").expect("parses")
    }

    #[test]
    fn an_encoder_layer_needs_at_least_its_passes() {
        let bound = bound_of(&encoder(), &tsp());
        let mxm = bound.resources.iter().find(|r| r.name == "c0.mxm").expect("used");
        // 8, 4, 10 and 10 passes of 128 rows for the projections; scores with ten rows of 32 lanes side by side; values with
        // the probabilities of two heads loaded and 32 rows streamed.
        let vectors = (8 + 4 + 10 + 10) * 128 + 12 * 13 * 4 + 6 * 32;
        assert_eq!(mxm.cycles, vectors * 8 / 2);
        assert_eq!(bound.bound, mxm.cycles);
        assert_eq!(bound.limit(), "c0.mxm");
        assert_eq!(bound.roofline, 9_338);
    }

    #[test]
    fn one_row_is_bound_by_its_path() {
        let mut b = TirBuilder::new("vector");
        let mut x = b.input("x", HostDType::F32, &[1, 320], Type::new(DType::F32, &[1, 320]));
        for i in 0..4 {
            let w = weight(&mut b, &format!("w{i}"), &[320, 320]);
            x = b.contract(x, w, &[], &[(1, 0)]).expect("contract");
        }
        b.output("y", HostDType::F32, &[1, 320], x);
        let bound = bound_of(&b.finish(), &tsp());
        assert_eq!(bound.critical_path, 20 + 4 * (30 + 3) + 20);
        assert_eq!((bound.bound, bound.limit()), (bound.critical_path, "critical path"));
    }

    #[test]
    fn packed_pixels_and_overlapping_windows_lower_the_bound() {
        let target = tsp();
        let x = Extents {
            batch: 1,
            rows: 1000,
            columns: 64,
            depth: 64,
        };
        assert_eq!(passes(&target, x), 200);
        assert_eq!(
            passes(
                &target,
                Extents {
                    batch: 1,
                    rows: 128,
                    columns: 1152,
                    depth: 384
                }
            ),
            8 * 128
        );
        assert_eq!(
            columns_only(
                &target,
                Extents {
                    batch: 1,
                    rows: 1000,
                    columns: 64,
                    depth: 576
                }
            ),
            400
        );
    }
}
