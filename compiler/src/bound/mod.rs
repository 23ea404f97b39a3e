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
//! **Critical path**: the longest path of least latencies (timing table, and the least distance between units of the kinds that
//! operations need; values kept on belts wherever that is possible; `path.rs`). Every value has a time for its first element, its
//! first whole row (last axis) and its last element; operations that follow row by row pass each on, operations that need more wait
//! for it: a contract for the row of its streamed operand and, to complete a row, for the whole matrix of its loaded one; its last
//! element for all of its products or for the tile loads that cannot be prefetched; a transfer for its words.

mod path;
mod product;

use crate::partition::Partitioned;
use crate::partition::cost::stored_type;
use crate::tir::{Arg, MapNode, Op, TensorIr, Type, ValueId};
use lockstep_graph::SideTable;
use lockstep_isa::{AluOp, Target};
use path::critical_path;
use product::product;
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
    use super::product::{columns_only, passes};
    use super::*;
    use crate::partition::cost::Extents;
    use crate::partition::{PartitionOptions, partition};
    use crate::tir::{ReduceOp, TirBuilder};
    use lockstep_isa::DType;
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
        // From the nearest slice to the MXM and back is 5 positions.
        assert_eq!(bound.critical_path, 20 + 5 + 4 * 30 + 5 + 20);
        assert_eq!((bound.bound, bound.limit()), (bound.critical_path, "critical path"));
    }

    #[test]
    fn a_path_goes_from_unit_to_unit() {
        let mut b = TirBuilder::new("path");
        let x = b.input("x", HostDType::F32, &[1, 320], Type::new(DType::F32, &[1, 320]));
        let (v, w) = (weight(&mut b, "v", &[320, 320]), weight(&mut b, "w", &[320, 320]));
        let x = b.contract(x, v, &[], &[(1, 0)]).expect("contract");
        let x = b.map(&[x], |e, a| e.exp(a[0])).expect("exp");
        let x = b.contract(x, w, &[], &[(1, 0)]).expect("contract");
        b.output("y", HostDType::F32, &[1, 320], x);
        let bound = bound_of(&b.finish(), &tsp());
        // The VXM is 48 positions from the MXM.
        assert_eq!(bound.critical_path, 20 + 5 + 30 + 48 + 20 + 48 + 30 + 5 + 20);
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
