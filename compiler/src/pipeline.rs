//! The pipeline: every stage in order, each a pure function of the one before.

use crate::bound::bound;
use crate::chain::ChainProgram;
use crate::chain::build::{Input, build};
use crate::emit::{ArtifactInfo, emit};
use crate::lower::lower;
use crate::options::Options;
use crate::partition::{PartitionOptions, Partitioned, candidates};
use crate::passes::{self, PassOptions, TIR_PASSES, precision};
use crate::report::{self, Report};
use crate::schedule::{Schedule, ScheduleOptions, schedule};
use crate::tir::TensorIr;
use crate::tir::verify::Phase;
use crate::{CompileError, CompileErrorKind};
use lockstep_graph::{Graph, Verified, Verify, VerifyErrors};
use lockstep_isa::{Artifact, Target, verify};

/// What a compile gives.
pub struct Compiled {
    /// The artifact; `None` where the options stopped the compile before it was made.
    pub artifact: Option<Artifact>,
    /// What there is to say about it.
    pub report: Option<Report>,
}

/// Told what the compiler does; times it, prints it, or ignores it.
pub trait Observer {
    /// A stage or pass begins.
    fn stage(&mut self, name: &str);
    /// The text of the program after a pass or stage that the options name.
    fn dump(&mut self, name: &str, text: &str);
}

/// Ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn stage(&mut self, _: &str) {}
    fn dump(&mut self, _: &str, _: &str) {}
}

/// Partitions that are scheduled for real before one is chosen.
const SCHEDULED: usize = 3;

/// Compiles a graph.
///
/// # Errors
/// See [`CompileErrorKind`].
pub fn compile(
    graph: &Verified<Graph>,
    target: &Target,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Compiled, CompileError> {
    let stopped = Ok(Compiled {
        artifact: None,
        report: None,
    });
    let mut cx = Driver { options, observer };
    if cx.after("import", || lockstep_graph::print::print(graph)) {
        return stopped;
    }
    cx.observer.stage("lower");
    let mut ir = lower(graph)?;
    check(&ir, "lower")?;
    if cx.after("lower", || ir.to_string()) {
        return stopped;
    }
    cx.observer.stage("optimize");
    if let Some(dtype) = options.precision {
        precision::run(&mut ir, dtype)?;
    }
    let wanted = PassOptions {
        dump_after: options
            .dump_after
            .iter()
            .filter(|n| TIR_PASSES.iter().any(|p| p.name == **n))
            .cloned()
            .collect(),
        stop_after: options
            .stop_after
            .iter()
            .find(|n| TIR_PASSES.iter().any(|p| p.name == **n))
            .cloned(),
        verify: options.verify_passes,
        exact: options.exact,
    };
    for dump in passes::run_all(&mut ir, &wanted)? {
        cx.observer.dump(dump.pass, &dump.text);
    }
    if wanted.stop_after.is_some() || cx.after("optimize", || ir.to_string()) {
        return stopped;
    }
    cx.observer.stage("partition");
    let wanted = PartitionOptions {
        chips: options.chips,
        exact: options.exact,
    };
    let parts = candidates(&ir, target, &wanted)?;
    if cx.after("partition", || {
        parts.first().map(ToString::to_string).unwrap_or_default()
    }) {
        return stopped;
    }
    cx.observer.stage("schedule");
    let Some((part, chains, timed, examined)) = cx.best(&parts, target)? else {
        return Err(CompileError::internal("partition", "no candidate"));
    };
    cx.observer.stage("bound");
    let bound = bound(&ir, part, target);
    let report = report::report(&ir, part, &chains, &timed, &bound, target, examined);
    cx.observer.stage("emit");
    let info = ArtifactInfo {
        name: graph.name.clone(),
        report: report.to_json(),
    };
    let artifact = emit(&[(&chains, &timed)], target, &info)?;
    if options.verify {
        cx.observer.stage("verify");
        verify::verify(&artifact).map_err(|e| CompileError::internal("verify", e.to_string()))?;
    }
    Ok(Compiled {
        artifact: Some(artifact),
        report: Some(report),
    })
}

struct Driver<'a> {
    options: &'a Options,
    observer: &'a mut dyn Observer,
}

/// What scheduling a partition gives: the partition, its chains, their schedule, and the makespans of all that were examined.
type Best<'p> = (&'p Partitioned, ChainProgram, Schedule, Vec<report::Examined>);

impl Driver<'_> {
    /// Dumps after a stage if wanted; whether to stop there.
    fn after(&mut self, name: &str, text: impl FnOnce() -> String) -> bool {
        let wanted = |o: &Option<String>| o.as_deref().is_some_and(|n| n == name);
        if wanted(&self.options.dump_after) || self.options.dump_after.as_deref() == Some("all") {
            self.observer.dump(name, &text());
        }
        wanted(&self.options.stop_after)
    }

    /// Schedules the most promising partitions and keeps the one with the least makespan, on ties the earlier.
    fn best<'p>(&mut self, parts: &'p [Partitioned], target: &Target) -> Result<Option<Best<'p>>, CompileError> {
        let mut best: Option<(usize, ChainProgram, Schedule)> = None;
        let mut examined = Vec::new();
        let mut refused = None;
        for (n, part) in parts.iter().enumerate() {
            if examined.len() >= SCHEDULED {
                break;
            }
            let input = Input {
                ir: &part.ir,
                chip: &part.chip,
                n_chips: part.n_chips,
                input_copies: &part.input_copies,
                target,
            };
            let chains = build(&input)?;
            match schedule(
                &chains,
                target,
                &ScheduleOptions {
                    serial: self.options.serial,
                },
            ) {
                Ok(timed) => {
                    examined.push(report::Examined {
                        description: part.description.clone(),
                        makespan: timed.makespan,
                    });
                    if best.as_ref().is_none_or(|b| timed.makespan < b.2.makespan) {
                        best = Some((n, chains, timed));
                    }
                }
                Err(e) if matches!(e.kind, CompileErrorKind::DoesNotFit { .. }) => refused = refused.or(Some(e)),
                Err(e) => return Err(e),
            }
        }
        match (best, refused) {
            (Some((n, chains, timed)), _) => Ok(Some((&parts[n], chains, timed, examined))),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

/// Checks the invariants of the IR after a stage.
fn check(ir: &TensorIr, pass: &'static str) -> Result<(), CompileError> {
    let mut errors = VerifyErrors::new();
    ir.verify(&Phase::Lowered, &mut errors);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(CompileError::internal(pass, errors.to_string()))
    }
}
