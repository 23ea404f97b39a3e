//! `dedup`: operations with equal operands and attributes become one.
//!
//! ```text
//! v1 = map exp(v0)          v1 = map exp(v0)
//! v2 = map exp(v0)     =>   v3 = map add(v1, v1)
//! v3 = map add(v1, v2)
//! ```

use super::rebuild::{keep, rebuild};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::TensorIr;

/// Runs the pass. The builder shares equal operations, so an unchanged rebuild is all there is to do.
pub(crate) fn run(ir: &mut TensorIr, _: &PassCx) -> Result<Changed, CompileError> {
    rebuild(ir, keep)
}
