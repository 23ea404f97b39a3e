//! The boundary of two stages that are compiled apart: what one hands on arrives on all chips of the other.

use super::cuts::{Demand, StagePlan};
use super::plan::expand;
use super::search::Sharding;
use super::{Context, PartitionOptions, Partitioned};
use crate::CompileError;
use crate::tir::expr::Ex;
use crate::tir::{TirBuilder, Type};
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{DType, Target};
use std::ops::Range;

/// A program in which the first chip of `from` holds f32[rows, columns] and every chip of `to` gets it. Each end makes a copy of its own,
/// as the operations around a boundary do. The ranges of chips do not meet, `from` comes first.
///
/// # Errors
/// Chips that no links join.
pub fn boundary(
    rows: usize,
    columns: usize,
    from: u16,
    to: Range<u16>,
    target: &Target,
) -> Result<Partitioned, CompileError> {
    let mut b = TirBuilder::new("boundary");
    let shape = [rows, columns];
    let x = b.input("hidden", HostDType::F32, &shape, Type::new(DType::F32, &shape));
    let sent = b.map(&[x], |e, x| e.add(x[0], Ex::f32(1.0)))?;
    let got = b.map(&[sent], |e, x| e.mul(x[0], Ex::f32(0.5)))?;
    b.output("next", HostDType::F32, &shape, got);
    let ir = b.finish();
    let cx = Context::new(&ir, target, PartitionOptions::default());
    let mut shared = Sharding::whole(&cx);
    shared.degree = to.end.saturating_sub(to.start).max(1);
    let shardings = [Sharding::whole(&cx), shared];
    let stage = |first, degree, at: usize| StagePlan {
        first,
        degree,
        ops: at..at + 1,
        sharding: at,
    };
    let stages = [stage(from, 1, 0), stage(to.start, shardings[1].degree, 1)];
    expand(&cx, &Demand::new(&cx, &shardings), &stages, &shardings)
}
