//! `legalize`: rewrites what later stages do not take.
//!
//! - a `contract` over no axes is an outer product: a map over operands with unit axes
//! - a `sort` along a unit axis is its payload
//!
//! ```text
//! v2: f32[4,3] = contract v0, v1 over()    =>    v2 = move v0{reshape}   ; [4,1]
//!                                                v3 = move v1{reshape}   ; [1,3]
//!                                                v4 = map mul(v2, v3)
//! ```

use super::rebuild::{keep, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::op::free_axes;
use crate::tir::{Op, TensorIr, TirBuilder, ValueId};

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    rebuild(ir, |b, old, id, inputs| match &old.values[id].op {
        Op::Contract { batch, contracted, .. } if contracted.is_empty() => outer_product(b, batch, inputs),
        Op::Sort { axis, .. } if old.values[id].ty.shape[usize::from(*axis)] == 1 => Ok(inputs[1]),
        _ => keep(b, old, id, inputs),
    })
}

fn outer_product(b: &mut TirBuilder, batch: &[(u8, u8)], inputs: &[ValueId]) -> Result<ValueId, CompileError> {
    let (sl, sr) = (b.shape(inputs[0]).to_vec(), b.shape(inputs[1]).to_vec());
    let (fl, fr) = (
        free_axes(sl.len(), batch, &[], true),
        free_axes(sr.len(), batch, &[], false),
    );
    let pl: Vec<usize> = batch
        .iter()
        .map(|p| usize::from(p.0))
        .chain(fl.iter().copied())
        .collect();
    let pr: Vec<usize> = batch
        .iter()
        .map(|p| usize::from(p.1))
        .chain(fr.iter().copied())
        .collect();
    let left = b.transpose(inputs[0], &pl)?;
    let right = b.transpose(inputs[1], &pr)?;
    let mut shape_l: Vec<usize> = pl.iter().map(|&a| sl[a]).collect();
    shape_l.extend(fr.iter().map(|_| 1));
    let mut shape_r: Vec<usize> = pr.iter().map(|&a| sr[a]).collect();
    shape_r.splice(batch.len()..batch.len(), fl.iter().map(|_| 1));
    let (left, right) = (b.reshape(left, &shape_l)?, b.reshape(right, &shape_r)?);
    b.map(&[left, right], |e, x| e.mul(x[0], x[1]))
}
