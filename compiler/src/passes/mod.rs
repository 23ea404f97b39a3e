//! Passes over the tensor IR, one per file; [`TIR_PASSES`] is their order and reads as prose.
//!
//! A pass rebuilds the program value by value (`rebuild`), which shares equal operations and drops unused ones on the way.

mod absorb_shuffles;
mod axes;
mod cancel_shifts;
mod centre_sums;
mod compose_moves;
mod dead_code;
mod dedup;
mod defer_scales;
mod fold_consts;
mod fuse_maps;
mod interleave_states;
mod keep_stored;
mod legalize;
mod merge_contracts;
mod order_products;
pub mod precision;
mod push_moves;
mod rebuild;
mod round_once;
mod scale_weights;
mod share_tiles;
mod turn_products;

use crate::error::CompileError;
use crate::tir::{Phase, TensorIr};
pub(crate) use interleave_states::whole_name;
use lockstep_graph::{Verify, VerifyErrors};
use std::ops::Range;

/// Whether a pass changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed(pub bool);

/// What passes may ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassCx {
    /// Keep the rounding of the program as lowered.
    pub exact: bool,
    /// The roundings are those of a precision chosen by the user, and only what is stored needs them.
    pub narrowed: bool,
    /// Split no axis of a state.
    pub keep_states: bool,
    /// Lanes of the chip, where they are known.
    pub lanes: Option<usize>,
}

/// A pass.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Name on the command line, in dumps and in tests.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(&mut TensorIr, &PassCx) -> Result<Changed, CompileError>,
}

/// The passes in order; a name may occur more than once.
pub const TIR_PASSES: &[Pass] = &[
    Pass {
        name: "scale-weights",
        about: "scale the columns of integer weights instead of their product",
        run: scale_weights::run,
    },
    Pass {
        name: "dead-code",
        about: "drop values, constants and maps that nothing needs",
        run: dead_code::run,
    },
    Pass {
        name: "fold-consts",
        about: "materialise tiny constant expressions, make scalars immediates",
        run: fold_consts::run,
    },
    Pass {
        name: "absorb-shuffles",
        about: "permute the columns of weights instead of what they are multiplied into",
        run: absorb_shuffles::run,
    },
    Pass {
        name: "compose-moves",
        about: "join moves of moves, drop broadcasts that maps do themselves",
        run: compose_moves::run,
    },
    Pass {
        name: "push-moves",
        about: "split axes where reshapes need it and absorb permutations into axis numbers",
        run: push_moves::run,
    },
    Pass {
        name: "compose-moves",
        about: "join the moves that are left",
        run: compose_moves::run,
    },
    Pass {
        name: "fold-consts",
        about: "fold what the moves uncovered",
        run: fold_consts::run,
    },
    Pass {
        name: "fuse-maps",
        about: "merge elementwise producers into their users",
        run: fuse_maps::run,
    },
    Pass {
        name: "cancel-shifts",
        about: "join sums with integers, drop conversions of integers that change nothing",
        run: cancel_shifts::run,
    },
    Pass {
        name: "round-once",
        about: "scale and move what is rounded to bytes in as few operations as there are roundings",
        run: round_once::run,
    },
    Pass {
        name: "centre-sums",
        about: "centre the terms of sums of which the mean is taken away",
        run: centre_sums::run,
    },
    Pass {
        name: "defer-scales",
        about: "scale rows after their product with weights",
        run: defer_scales::run,
    },
    Pass {
        name: "turn-products",
        about: "move products before they are scaled",
        run: turn_products::run,
    },
    Pass {
        name: "fuse-maps",
        about: "merge the scales, and what became smaller, into what follows",
        run: fuse_maps::run,
    },
    Pass {
        name: "cancel-shifts",
        about: "cancel what met",
        run: cancel_shifts::run,
    },
    Pass {
        name: "round-once",
        about: "scale what met",
        run: round_once::run,
    },
    Pass {
        name: "merge-contracts",
        about: "join contracts of one value with constants",
        run: merge_contracts::run,
    },
    Pass {
        name: "keep-stored",
        about: "leave the weights of contracts as they are stored",
        run: keep_stored::run,
    },
    Pass {
        name: "legalize",
        about: "rewrite what later stages do not take",
        run: legalize::run,
    },
    Pass {
        name: "dedup",
        about: "share equal operations",
        run: dedup::run,
    },
    Pass {
        name: "share-tiles",
        about: "multiply the few rows of all batches by one tile",
        run: share_tiles::run,
    },
    Pass {
        name: "order-products",
        about: "multiply first what most waits for",
        run: order_products::run,
    },
    Pass {
        name: "interleave-states",
        about: "spread the rows of states that are multiplied by over banks",
        run: interleave_states::run,
    },
    Pass {
        name: "compose-moves",
        about: "join the moves that see the parts as one",
        run: compose_moves::run,
    },
    Pass {
        name: "dead-code",
        about: "drop what the passes left behind",
        run: dead_code::run,
    },
];

/// Index in [`TIR_PASSES`] at which fusion begins: the passes before it canonicalise, and rewrites come between.
pub const FUSION: usize = 8;

/// Options of [`run_all`].
#[derive(Clone, Debug, Default)]
pub struct PassOptions {
    /// Passes after which the program is dumped (every occurrence).
    pub dump_after: Vec<String>,
    /// Stop after the last occurrence of this pass.
    pub stop_after: Option<String>,
    /// Check all invariants after every pass.
    pub verify: bool,
    /// Keep the rounding of the program as lowered.
    pub exact: bool,
    /// The roundings are those of a precision chosen by the user, and only what is stored needs them.
    pub narrowed: bool,
    /// Split no axis of a state.
    pub keep_states: bool,
    /// Lanes of the chip: what shares vectors is placed by them.
    pub lanes: Option<usize>,
}

impl PassOptions {
    /// Index of the pass to stop after: its last occurrence.
    pub fn last(&self) -> Option<usize> {
        let name = self.stop_after.as_ref()?;
        TIR_PASSES.iter().rposition(|p| p.name == name)
    }
}

/// A program as text after a pass.
#[derive(Clone, Debug)]
pub struct Dump {
    /// Name of the pass.
    pub pass: &'static str,
    /// The program.
    pub text: String,
}

/// Runs [`TIR_PASSES`] in order; the dumps that were asked for.
///
/// # Errors
/// If an option names no pass, or a pass breaks an invariant (a bug).
pub fn run_all(ir: &mut TensorIr, options: &PassOptions) -> Result<Vec<Dump>, CompileError> {
    run_part(ir, options, 0..TIR_PASSES.len())
}

/// Runs a part of [`TIR_PASSES`], as [`run_all`].
///
/// # Errors
/// As [`run_all`].
pub fn run_part(ir: &mut TensorIr, options: &PassOptions, part: Range<usize>) -> Result<Vec<Dump>, CompileError> {
    for name in options.dump_after.iter().chain(&options.stop_after) {
        if !TIR_PASSES.iter().any(|p| p.name == name) {
            let names: Vec<&str> = TIR_PASSES.iter().map(|p| p.name).collect();
            return Err(CompileError::options(format!(
                "no pass is named {name}, allowed: {}",
                names.join(", ")
            )));
        }
    }
    let end = options.last().map_or(TIR_PASSES.len(), |at| at + 1);
    let cx = PassCx {
        exact: options.exact,
        narrowed: options.narrowed,
        keep_states: options.keep_states,
        lanes: options.lanes,
    };
    let mut dumps = Vec::new();
    for pass in TIR_PASSES.iter().take(end.min(part.end)).skip(part.start) {
        (pass.run)(ir, &cx)?;
        tracing::debug!(pass = pass.name, values = ir.values.len(), "pass");
        if options.verify || cfg!(debug_assertions) {
            check(ir, pass.name)?;
        }
        if options.dump_after.iter().any(|name| name == pass.name) {
            dumps.push(Dump {
                pass: pass.name,
                text: ir.to_string(),
            });
        }
    }
    Ok(dumps)
}

fn check(ir: &TensorIr, pass: &'static str) -> Result<(), CompileError> {
    let mut errors = VerifyErrors::new();
    ir.verify(&Phase::Legal, &mut errors);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(CompileError::internal(pass, errors.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fusion_begins_with_maps() {
        assert_eq!(TIR_PASSES[FUSION].name, "fuse-maps");
        assert!(TIR_PASSES[..FUSION].iter().all(|p| p.name != "fuse-maps"));
    }
}
