//! The cost model of the partitioner: cycles and SRAM bytes of operations before layout and schedule exist.
//!
//! Figures serve to choose between partitions, so they err alike for all of them: the last axes lie in lanes, small rows
//! are packed, every dependent operation pays a fixed chain latency.

use super::dist::{Dist, Split};
use super::fabric::Load;
use crate::tir::{Combiner, Op, TensorIr, Type, ValueId};
use lockstep_isa::{AluOp, DType, Target};

/// Cycles from the first read to the first readable write of a chain without a product: read, cross the chip, a few ALU
/// operations, write (worked out for the published latencies and distances).
pub(super) const CHAIN_CYCLES: u64 = 120;
/// The same with a product: twice across the chip and the MXM's latency.
pub(super) const MXM_CHAIN_CYCLES: u64 = 220;
/// Vectors per cycle that four-byte operands can move through one unit: two operands and a result over the eight quads of
/// a direction.
const QUADS_PER_CYCLE: u64 = 4;

/// Vectors of a tensor whose last axes lie in lanes; as many whole rows to a vector as fit.
pub(super) fn vectors(target: &Target, ty: &Type) -> u64 {
    let lanes = (target.lanes as usize).max(1);
    let last = ty.shape.last().copied().unwrap_or(1);
    if last == 0 || ty.elements() == 0 {
        return 0;
    }
    let rows = ty.elements() / last;
    let pack = (lanes / last).max(1);
    (rows.div_ceil(pack) * last.div_ceil(lanes)) as u64
}

/// Words of a tensor on a link or in SRAM.
pub(super) fn words(target: &Target, ty: &Type) -> u64 {
    vectors(target, ty) * ty.dtype.words() as u64
}

/// SRAM bytes of a value that a run computes: whole vectors.
pub(super) fn value_bytes(target: &Target, ty: &Type) -> u64 {
    words(target, ty) * target.word_bytes() as u64
}

/// SRAM bytes of a constant or a state: trailing axes in the lanes as layouts have them, padded to full lanes.
pub(super) fn row_bytes(target: &Target, ty: &Type) -> u64 {
    let lanes = (target.lanes as usize).max(1);
    let layout =
        crate::layout::choose::default_layout(&ty.shape, lanes, &crate::layout::choose::Rows::single(usize::MAX));
    (layout.n_vectors() * ty.dtype.bytes()) as u64 * target.word_bytes() as u64
}

/// The type that a constant has in SRAM: where it is integers times scales, its tiles hold a byte of integers for each element, or
/// less.
pub(crate) fn stored_type(ir: &TensorIr, v: ValueId) -> Type {
    let ty = ir.values[v].ty.clone();
    let unmoved = |mut at: ValueId| {
        while let (Op::Move { .. }, Some(&u)) = (&ir.values[at].op, ir.values[at].inputs.first()) {
            at = u;
        }
        &ir.values[at]
    };
    let widens = |u: &ValueId| {
        let data = unmoved(*u);
        let narrow = data.inputs.first().is_some_and(|&u| ir.values[u].ty.dtype == DType::I8);
        let cvt = matches!(&data.op, Op::Map { nodes } if matches!(nodes[..], [n] if n.op == AluOp::Cvt));
        cvt && narrow
    };
    let data = unmoved(v);
    let scaled = match &data.op {
        Op::Map { nodes } => matches!(nodes.last(), Some(n) if n.op == AluOp::Mul) && data.inputs.iter().any(widens),
        _ => false,
    };
    match scaled && ty.dtype == DType::F32 {
        true => Type { dtype: DType::I8, ..ty },
        false => ty,
    }
}

/// Bytes of the elements alone.
pub(super) fn exact_bytes(ty: &Type) -> u64 {
    (ty.elements() * ty.dtype.bytes()) as u64
}

/// The extents of a contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    /// Product of the batch axes.
    pub batch: u64,
    /// Product of the left free axes.
    pub rows: u64,
    /// Product of the right free axes.
    pub columns: u64,
    /// Product of the contracted axes.
    pub depth: u64,
}

/// Extents of a contract from its operands' types.
pub(crate) fn extents(batch: &[(u8, u8)], contracted: &[(u8, u8)], left: &Type, right: &Type) -> Extents {
    let of = |ty: &Type, axes: &mut dyn Iterator<Item = u8>| -> u64 {
        axes.filter_map(|a| ty.shape.get(a as usize))
            .map(|&n| n as u64)
            .product()
    };
    let (b, k) = (
        of(left, &mut batch.iter().map(|p| p.0)),
        of(left, &mut contracted.iter().map(|p| p.0)),
    );
    let shared = (b * k).max(1);
    Extents {
        batch: b,
        depth: k,
        rows: left.elements() as u64 / shared,
        columns: right.elements() as u64 / shared,
    }
}

/// Whether every part of a move is the whole operand in linear order.
pub(super) fn is_reshape(ir: &TensorIr, op: &Op, ins: &[Type], out: &Type) -> bool {
    let Op::Move { parts, .. } = op else { return false };
    match (parts.as_slice(), ins) {
        ([map], [operand]) => {
            let linear = |v: &crate::tir::View| v.offset == 0 && v.is_total() && is_contiguous(v);
            operand.elements() == out.elements() && ir.maps.get(*map).views.iter().all(linear)
        }
        _ => false,
    }
}

/// Whether a move is read in place: a reshape, windows that repeat elements, or rows of its operand at other places.
pub(super) fn in_place(ir: &TensorIr, op: &Op, ins: &[Type], out: &Type) -> bool {
    let (Op::Move { parts, .. }, [operand]) = (op, ins) else {
        return false;
    };
    let channels = operand.shape.last().copied().unwrap_or(1);
    let views = parts.iter().flat_map(|&m| &ir.maps.get(m).views);
    out.elements() > operand.elements()
        || views.into_iter().all(|v| v.keeps_last(channels))
        || is_reshape(ir, op, ins, out)
}

fn is_contiguous(view: &crate::tir::View) -> bool {
    let want = crate::tir::View::contiguous(&view.shape).strides;
    view.shape
        .iter()
        .zip(&view.strides)
        .zip(want)
        .all(|((&n, &s), w)| n == 1 || s == w)
}

/// Cycles of one operation on one chip, from operands ready to result ready, with operands and result of these types.
pub(super) fn op_cycles(target: &Target, ir: &TensorIr, op: &Op, ins: &[Type], out: &Type) -> u64 {
    let out_vectors = vectors(target, out);
    let in_vectors: u64 = ins.iter().map(|t| vectors(target, t)).sum();
    match op {
        Op::Input | Op::Const(_) | Op::State(_) | Op::Transfer => 0,
        Op::Move { .. } if is_reshape(ir, op, ins, out) => 0,
        Op::Move { .. } => CHAIN_CYCLES + out_vectors.div_ceil(QUADS_PER_CYCLE),
        Op::Map { nodes } => {
            let alus: u64 = nodes.iter().map(|n| n.op.cost() as u64).sum();
            let passes = alus.div_ceil((target.vxm.alus as u64).max(1)).max(1);
            let moved = (in_vectors + out_vectors).div_ceil(2 * QUADS_PER_CYCLE);
            CHAIN_CYCLES * passes + moved.max(out_vectors * alus / (target.vxm.alus as u64).max(1))
        }
        Op::Reduce { .. } => CHAIN_CYCLES + target.latency.reduce as u64 + in_vectors.div_ceil(2),
        Op::Contract { batch, contracted, .. } => match ins {
            [left, right] => {
                let x = extents(batch, contracted, left, right);
                contract_cycles(target, left.dtype, right.dtype, x)
            }
            _ => 0,
        },
        Op::Gather => CHAIN_CYCLES + out_vectors.max(ins.get(1).map_or(0, |t| t.elements() as u64)),
        Op::Scatter { combiner } => {
            let updates = ins.get(2).map_or(0, |t| vectors(target, t));
            let each = if *combiner == Combiner::Replace {
                1
            } else {
                CHAIN_CYCLES
            };
            CHAIN_CYCLES + updates * each
        }
        Op::Sort { axis, .. } => {
            let n = out.shape.get(*axis as usize).copied().unwrap_or(1).max(1) as u64;
            let stages = (64 - n.leading_zeros() as u64).pow(2) / 2 + 1;
            stages * (CHAIN_CYCLES + in_vectors)
        }
    }
}

/// Cycles of a contract: the better operand loaded, small batches packed, products and tile loads overlapped.
fn contract_cycles(target: &Target, dtype: DType, stored: DType, x: Extents) -> u64 {
    let lanes = (target.lanes as u64).max(1);
    let on_vxm = MXM_CHAIN_CYCLES + (x.rows * x.columns * x.depth * x.batch.div_ceil(lanes)).div_ceil(QUADS_PER_CYCLE);
    let Some(rate) = target.mxm_rate(dtype) else {
        return on_vxm;
    };
    let units = 2 * target.mxm_units(dtype).max(1) as u64;
    let load = 2 * (target.mxm.load_words_per_cycle as u64).max(1);
    let pass = |rows: u64, columns: u64, words: u64| {
        let pack = (lanes / columns.max(x.depth).max(1)).clamp(1, x.batch.max(1));
        let batches = x.batch.div_ceil(pack);
        let tiles = batches * x.depth.div_ceil(lanes) * columns.div_ceil(lanes);
        let products = tiles * rows * rate.cycles_per_vector as u64 / units;
        let loads = batches * x.depth.div_ceil(lanes) * columns * pack * words / load;
        products.max(loads)
    };
    let right = pass(x.rows, x.columns, stored.words() as u64);
    let best = right.min(pass(x.columns, x.rows, dtype.words() as u64)) + MXM_CHAIN_CYCLES;
    if x.batch >= lanes / 4 { best.min(on_vxm) } else { best }
}

/// Bytes of instruction text of one operation, from the counts of the worked layer: about 20 runs per tile pass, 15 per
/// row-wise operation, 40 bytes each.
pub(super) fn text_bytes(target: &Target, op: &Op, ins: &[Type], out: &Type) -> u64 {
    let lanes = (target.lanes as u64).max(1);
    let runs = match (op, ins) {
        (Op::Input | Op::Const(_) | Op::State(_), _) => 0,
        (Op::Contract { batch, contracted, .. }, [left, right]) => {
            let x = extents(batch, contracted, left, right);
            let pack = (lanes / x.columns.max(x.depth).max(1)).clamp(1, x.batch.max(1));
            let blocks = x.rows.div_ceil((target.mxm.acc_rows as u64).max(1));
            x.batch.div_ceil(pack) * blocks * x.columns.div_ceil(lanes) * (12 + 20 * x.depth.div_ceil(lanes))
        }
        (Op::Sort { .. }, _) => 400,
        (Op::Map { nodes }, _) => 4 + 2 * nodes.len() as u64,
        (Op::Transfer, _) => 4 * out.dtype.words() as u64,
        _ => 15,
    };
    40 * runs
}

/// Cycles of moving `words` over `hops` links one after another, with `parallel` links in each hop.
pub(super) fn transfer_cycles(target: &Target, words: u64, hops: u64, parallel: u64) -> u64 {
    let each = target.c2c.latency as u64 + CHAIN_CYCLES / 2;
    words.div_ceil(parallel.max(1)) * target.c2c.cycles_per_word as u64 + hops * each
}

/// Cycles of turning one distribution of a value into another inside a group with this load; `u64::MAX` where there is no
/// way.
pub(super) fn convert_cycles(target: &Target, ty: &Type, from: &Dist, to: &Dist, members: u64, load: Load) -> u64 {
    let each = words(target, &from.largest(ty));
    match (from, to) {
        (a, b) if a == b => 0,
        (Dist::Whole, Dist::Whole) => 0,
        (Dist::Whole, Dist::Split(_)) => vectors(target, &to.largest(ty)) / QUADS_PER_CYCLE,
        (Dist::Split(_), Dist::Whole) => transfer_cycles(target, each * load.gather, load.hops, load.overlap),
        (Dist::Split(_), Dist::Split(_)) => {
            transfer_cycles(
                target,
                each.div_ceil(members.max(1)) * load.scatter,
                load.hops,
                load.overlap,
            ) + CHAIN_CYCLES
        }
        (Dist::Partial(_), Dist::Split(_)) => {
            transfer_cycles(
                target,
                words(target, &to.largest(ty)) * load.scatter,
                load.hops,
                load.overlap,
            ) + CHAIN_CYCLES
        }
        (Dist::Partial(_), Dist::Whole) => {
            let direct = transfer_cycles(target, each * load.gather, load.hops, load.overlap) + CHAIN_CYCLES;
            match scatter_split(target, ty, members as usize).map(Dist::Split) {
                Some(split) => direct.min(
                    convert_cycles(target, ty, from, &split, members, load)
                        + convert_cycles(target, ty, &split, &Dist::Whole, members, load),
                ),
                None => direct,
            }
        }
        (_, Dist::Partial(_)) => u64::MAX,
    }
}

/// The split along which partial sums are scattered: whole vectors to each member, rows if there are enough, else blocks
/// of lanes; `None` where the tensor is too small.
pub(super) fn scatter_split(target: &Target, ty: &Type, members: usize) -> Option<Split> {
    let last = ty.rank().checked_sub(1)?;
    (0..last)
        .find_map(|a| Split::even(a, ty.shape[a], members))
        .or_else(|| Split::in_units(last, ty.shape[last], members, target.lanes as usize))
}

/// Types of the operands of a value.
pub(super) fn operand_types(ir: &TensorIr, v: ValueId) -> Vec<Type> {
    ir.values[v].inputs.iter().map(|&u| ir.values[u].ty.clone()).collect()
}
