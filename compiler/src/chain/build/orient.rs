//! Which operand of a product is loaded.
//!
//! Of two operands computed at run time the right one is loaded, the left one streamed. Where the right one has few columns,
//! loading the left one takes fewer passes, although what is streamed then, and the result, must be transposed:
//!
//! ```text
//! v2[b,m,n] = contract v0, v1    =>    v3[b,n,m] = contract v1, v0
//!                                      v2 = move v3 {perm b,n,m}
//! ```

use crate::partition::cost::{Extents, extents};
use crate::tir::op::free_axes;
use crate::tir::{IndexMap, Op, TensorIr, Type, ValueData, ValueId};
use lockstep_isa::Target;

/// The product with its operands exchanged, and the map that shows its result as the product had it; `None` where that does
/// not pay. `ir` has the operands.
pub(crate) fn exchanged(ir: &TensorIr, data: &ValueData, target: &Target) -> Option<(ValueData, IndexMap)> {
    let (Op::Contract { batch, contracted, acc }, [a, b]) = (&data.op, &data.inputs[..]) else {
        return None;
    };
    let (left, right) = (&ir.values[*a].ty, &ir.values[*b].ty);
    if !pays(target, extents(batch, contracted, left, right), left) {
        return None;
    }
    let flip = |pairs: &[(u8, u8)]| pairs.iter().map(|&(l, r)| (r, l)).collect::<Vec<_>>();
    let rows = free_axes(left.rank(), batch, contracted, true).len();
    let columns = free_axes(right.rank(), batch, contracted, false).len();
    let n = batch.len();
    let shape = &data.ty.shape;
    let exchanged: Vec<usize> = [&shape[..n], &shape[n + rows..], &shape[n..n + rows]].concat();
    let perm: Vec<usize> = (0..n)
        .chain(n + columns..n + columns + rows)
        .chain(n..n + columns)
        .collect();
    let map = IndexMap::transpose(&exchanged, &perm);
    let value = ValueData {
        ty: Type::new(data.ty.dtype, &exchanged),
        op: Op::Contract {
            batch: flip(batch),
            contracted: flip(contracted),
            acc: *acc,
        },
        inputs: vec![*b, *a],
        origins: data.origins.clone(),
    };
    Some((value, map))
}

/// Whether the passes saved take longer than the transpositions of what is streamed and of the result.
fn pays(target: &Target, x: Extents, left: &Type) -> bool {
    let Some(rate) = target.mxm_rate(left.dtype) else {
        return false;
    };
    let lanes = u64::from(target.lanes).max(1);
    let units = 2 * u64::from(target.mxm_units(left.dtype)).max(1);
    // Batches side by side along the diagonal of a tile.
    let beside = |columns: u64| (lanes / x.depth.max(columns).max(1)).max(1);
    let vectors = |rows: u64, columns: u64| {
        x.batch.div_ceil(beside(columns)) * rows * x.depth.div_ceil(lanes) * columns.div_ceil(lanes)
    };
    let saved = vectors(x.rows, x.columns).saturating_sub(vectors(x.columns, x.rows));
    let across = x.batch.div_ceil(beside(x.rows)) * x.columns;
    let along = beside(x.rows) * (x.depth + x.rows);
    x.batch > 1 && across <= lanes && saved * u64::from(rate.cycles_per_vector) / units > 2 * across + along
}

/// Whether every user of a value is a product that streams it.
pub(crate) fn is_streamed(ir: &TensorIr, v: ValueId) -> bool {
    let ends = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next));
    let mut users = ir.values.values().filter(|d| d.inputs.contains(&v)).peekable();
    users.peek().is_some()
        && users.all(|d| matches!(d.op, Op::Contract { .. }) && d.inputs[0] == v && d.inputs[1] != v)
        && !ends.into_iter().any(|e| e == v)
}
