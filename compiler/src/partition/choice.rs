//! The table of ways in which the chips of a stage can share one operation.
//!
//! | operation | split of the result | operands | partial result |
//! |---|---|---|---|
//! | map | any axis | split alike, whole where they broadcast | |
//! | reduce | an axis that stays | split alike | operand split along a reduced axis |
//! | contract | batch axis | both split | operands split along a contracted axis |
//! | | free axis of an operand | that one split, the other whole | |
//! | move | where the map keeps the parts apart | split or whole, per part | |
//! | gather | axis of the indices | indices split | |
//! | | axis of the rows | table split | |
//! | scatter | axis of the rows | tensor and updates split | |
//! | sort | any but the sorted axis | split alike | |
//!
//! Everything can also be done by all members on whole operands.

use super::dist::{Dist, Split};
use super::moves;
use crate::tir::{Op, ReduceOp, TensorIr, ValueId};

/// One way to compute a value: how the operands must lie and how the result then lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) out: Dist,
    pub(super) ins: Vec<Dist>,
}

/// Where an axis of a contract's result comes from.
enum From {
    Batch(usize, usize),
    Left(usize),
    Right(usize),
}

fn contract_axes(batch: &[(u8, u8)], contracted: &[(u8, u8)], left: usize, right: usize) -> Vec<From> {
    let mut axes: Vec<From> = batch
        .iter()
        .map(|&(l, r)| From::Batch(l as usize, r as usize))
        .collect();
    let bound = |pairs: &[(u8, u8)], side: usize, a: usize| {
        pairs.iter().any(|p| a == if side == 0 { p.0 } else { p.1 } as usize)
    };
    let free =
        |side: usize, rank: usize| (0..rank).filter(move |&a| !bound(batch, side, a) && !bound(contracted, side, a));
    axes.extend(free(0, left).map(From::Left));
    axes.extend(free(1, right).map(From::Right));
    axes
}

/// How operands must lie so that each member computes its part of the result alone; `None` where it cannot.
pub(super) fn behind(ir: &TensorIr, v: ValueId, split: &Split) -> Option<Vec<Dist>> {
    let data = &ir.values[v];
    let shape_of = |j: usize| -> &[usize] { &ir.values[data.inputs[j]].ty.shape };
    let at = |axis: usize| {
        Dist::Split(Split {
            axis: axis as u8,
            bounds: split.bounds.clone(),
        })
    };
    let a = split.axis();
    match &data.op {
        Op::Input | Op::Const(_) | Op::State(_) => Some(Vec::new()),
        Op::Transfer => None,
        Op::Map { .. } => Some(
            (0..data.inputs.len())
                .map(|j| if shape_of(j)[a] == 1 { Dist::Whole } else { at(a) })
                .collect(),
        ),
        Op::Reduce { axes, .. } => (!axes.contains(&split.axis)).then(|| vec![at(a)]),
        Op::Contract { batch, contracted, .. } => {
            match contract_axes(batch, contracted, shape_of(0).len(), shape_of(1).len()).get(a)? {
                From::Batch(l, r) => Some(vec![at(*l), at(*r)]),
                From::Left(l) => Some(vec![at(*l), Dist::Whole]),
                From::Right(r) => Some(vec![Dist::Whole, at(*r)]),
            }
        }
        Op::Move { parts, .. } => parts
            .iter()
            .enumerate()
            .map(|(j, &m)| {
                let (map, shape) = (ir.maps.get(m), shape_of(j));
                let Some(found) = moves::split_behind(map, shape, split) else {
                    return Some(Dist::Whole);
                };
                (0..split.members())
                    .all(|r| local_map(ir, m, shape, split, Some(&found), r).is_some())
                    .then_some(())?;
                Some(Dist::Split(found))
            })
            .collect(),
        Op::Gather => {
            let n = shape_of(1).len();
            Some(if a < n {
                vec![Dist::Whole, at(a)]
            } else {
                vec![at(a - n + 1), Dist::Whole]
            })
        }
        Op::Scatter { .. } => (a > 0).then(|| vec![at(a), Dist::Whole, at(shape_of(1).len() + a - 1)]),
        Op::Sort { axis, .. } => (*axis != split.axis).then(|| vec![at(a); data.inputs.len()]),
    }
}

/// Splits of the result that follow from a split of operand `j`.
pub(super) fn ahead(ir: &TensorIr, v: ValueId, j: usize, split: &Split) -> Vec<Split> {
    let data = &ir.values[v];
    if let Op::Move { parts, .. } = &data.op {
        let operand = &ir.values[data.inputs[j]].ty.shape;
        return moves::splits_ahead(ir.maps.get(parts[j]), operand, split);
    }
    (0..data.ty.rank())
        .filter_map(|a| {
            let out = Split {
                axis: a as u8,
                bounds: split.bounds.clone(),
            };
            if !out.tiles(data.ty.shape[a]) {
                return None;
            }
            let ins = behind(ir, v, &out)?;
            (ins.get(j)? == &Dist::Split(split.clone())).then_some(out)
        })
        .collect()
}

/// The way that gives partial results from a split of operand `j`; `None` where the operation has none.
pub(super) fn partial(ir: &TensorIr, v: ValueId, j: usize, split: &Split) -> Option<Choice> {
    let data = &ir.values[v];
    match &data.op {
        Op::Reduce { op, axes } if axes.contains(&split.axis) && data.ty.dtype == data.ty.dtype.widened() => {
            Some(Choice {
                out: Dist::Partial(*op),
                ins: vec![Dist::Split(split.clone())],
            })
        }
        Op::Contract { contracted, .. } => {
            let &(l, r) = contracted
                .iter()
                .find(|p| split.axis == if j == 0 { p.0 } else { p.1 })?;
            let at = |axis| {
                Dist::Split(Split {
                    axis,
                    bounds: split.bounds.clone(),
                })
            };
            Some(Choice {
                out: Dist::Partial(ReduceOp::Add),
                ins: vec![at(l), at(r)],
            })
        }
        _ => None,
    }
}

/// Whether splitting what is summed changes rounding.
pub(super) fn rounds(ir: &TensorIr, v: ValueId) -> bool {
    let data = &ir.values[v];
    let sums = match &data.op {
        Op::Reduce { op, .. } => matches!(op, ReduceOp::Add | ReduceOp::Mul),
        Op::Contract { .. } => true,
        _ => false,
    };
    sums && data.ty.dtype.is_float()
}

/// Splits to start from: even parts of every axis of contracts (of results and of contracted axes), of gathered tables,
/// and of the longest axis of everything else.
pub(super) fn seeds(ir: &TensorIr, v: ValueId, n: usize) -> Vec<(ValueId, Split)> {
    let data = &ir.values[v];
    let even = |of: ValueId, axis: usize| Split::even(axis, ir.values[of].ty.shape[axis], n).map(|s| (of, s));
    match &data.op {
        Op::Contract { contracted, .. } => (0..data.ty.rank())
            .filter_map(|a| even(v, a))
            .chain(contracted.iter().filter_map(|&(l, _)| even(data.inputs[0], l as usize)))
            .collect(),
        Op::Gather => (0..data.ty.rank()).filter_map(|a| even(v, a)).collect(),
        Op::Map { .. } | Op::Reduce { .. } | Op::Sort { .. } => (0..data.ty.rank())
            .filter_map(|a| even(v, a))
            .max_by_key(|(_, s)| (s.bounds.last().copied(), std::cmp::Reverse(s.axis)))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

/// The map of one part of a move for a member: its part of the output, over its part of the operand where that is split.
/// `None` where three views do not suffice.
pub(super) fn local_map(
    ir: &TensorIr,
    map: crate::tir::MapId,
    operand: &[usize],
    split: &Split,
    behind: Option<&Split>,
    rank: usize,
) -> Option<crate::tir::IndexMap> {
    let (lo, hi) = split.range(rank);
    let local = moves::narrow_output(ir.maps.get(map), split.axis(), lo, hi);
    match behind {
        None => Some(local),
        Some(s) => {
            let (lo, hi) = s.range(rank);
            moves::rebase(&local, operand, s.axis(), lo, hi)
        }
    }
}
