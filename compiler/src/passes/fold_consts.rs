//! `fold-consts`: constant expressions of few elements become constants, and constants of one element immediates of maps.
//!
//! Larger constant expressions stay as they are: they cost nothing at run time, and are materialised at the end.
//!
//! ```text
//! v1: f32[1] = const @two [2.0]
//! v2: f32[4] = map mul(v0, v1)      =>    v1: f32[4] = map mul(v0, 2.0)
//! ```

use super::rebuild::{keep, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::op::compute_dtype;
use crate::tir::print::host_dtype;
use crate::tir::{Arg, Op, TensorIr, consteval};
use lockstep_graph::Weights;

/// Most elements of a value that is materialised here.
const MAX_ELEMENTS: usize = 64;

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    rebuild(ir, |b, old, id, inputs| {
        let value = &old.values[id];
        let v = match &value.op {
            Op::Map { nodes: original } => {
                let mut nodes = original.clone();
                for (i, &v) in inputs.iter().enumerate() {
                    if b.is_const(v) && b.ty(v).elements() == 1 && !consteval::is_absent(b.ir(), v) {
                        let bits = consteval::tensor(b.ir(), v)?.bits()[0];
                        for node in &mut nodes {
                            let arity = node.op.arity();
                            node.args[..arity]
                                .iter_mut()
                                .filter(|a| **a == Arg::Operand(i as u32))
                                .for_each(|a| *a = Arg::Imm(bits));
                        }
                    }
                }
                // An operation whose arguments are all immediates now has no type of its own: such a map stays as it was.
                let dtypes: Vec<_> = inputs.iter().map(|&v| b.dtype(v)).collect();
                let same = (0..nodes.len())
                    .all(|at| compute_dtype(&nodes, at, &dtypes) == compute_dtype(original, at, &dtypes));
                match b.map_nodes(&value.ty.shape, inputs, nodes) {
                    Ok(v) if same && b.dtype(v) == value.ty.dtype => v,
                    _ => keep(b, old, id, inputs)?,
                }
            }
            _ => keep(b, old, id, inputs)?,
        };
        let value = &b.ir().values[v];
        let foldable = b.is_const(v) && value.ty.elements() <= MAX_ELEMENTS && !matches!(value.op, Op::Const(_));
        if !foldable {
            return Ok(v);
        }
        let ty = value.ty.clone();
        let data = match consteval::is_absent(b.ir(), v) {
            true => Weights::absent(ty.elements() * ty.dtype.bytes()),
            false => consteval::materialise(b.ir(), v)?.into(),
        };
        b.constant(&format!("folded.{v}"), ty.clone(), host_dtype(ty.dtype), data)
    })
}
