//! `dead-code`: drops values, constants and maps that no output and no state needs. Inputs stay.
//!
//! ```text
//! v1 = map exp(v0)
//! v2 = map neg(v0)     =>   v1 = map neg(v0)
//! output "y" = v2           output "y" = v1
//! ```

use super::rebuild::{keep, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::{ConstId, Op, TensorIr, map::MapTable};
use lockstep_graph::{EntityId, IdVec};

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    let changed = rebuild(ir, keep)?;
    // Tables keep what is used alone, in order of first use.
    let mut consts = IdVec::new();
    let mut new_const: Vec<Option<ConstId>> = vec![None; ir.consts.len()];
    let mut maps = MapTable::default();
    for (_, value) in ir.values.iter_mut() {
        match &mut value.op {
            Op::Const(k) => {
                let old = *k;
                *k = *new_const[old.index()].get_or_insert_with(|| consts.push(ir.consts[old].clone()));
            }
            Op::Move { parts, .. } => parts.iter_mut().for_each(|m| *m = maps.intern(ir.maps.get(*m).clone())),
            _ => {}
        }
    }
    ir.consts = consts;
    ir.maps = maps;
    Ok(changed)
}
