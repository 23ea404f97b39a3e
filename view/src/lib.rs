//! What people look at: everything here is read from an [`Artifact`](lockstep_isa::Artifact) and nothing else.
//!
//! Like the runtime, this crate knows neither graph nor compiler, so an artifact that something else wrote can be looked at too.

pub mod chart;
pub mod diff;
pub mod flow;
pub mod page;
pub mod roofline;
pub mod trace;
