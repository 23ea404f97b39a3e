//! The pipeline: every stage in order, each a pure function of the one before.

use crate::bound::bound;
use crate::chain::ChainProgram;
use crate::chain::build::{Input, build_entries};
use crate::emit::{ArtifactInfo, emit};
use crate::lower::lower;
use crate::options::Options;
use crate::partition::{PartitionOptions, Partitioned, candidates_of_entries};
use crate::passes::{self, Dump, PassOptions, TIR_PASSES, precision};
use crate::report::{self, Report};
use crate::schedule::{Schedule, ScheduleOptions, schedule_entries};
use crate::tir::verify::Phase;
use crate::tir::{TensorIr, Type};
use crate::{CompileError, CompileErrorKind};
use lockstep_graph::{Graph, Verified, Verify, VerifyErrors};
use lockstep_isa::{Artifact, Target, verify};
use std::collections::{BTreeMap, BTreeSet};

/// What a compile gives.
#[derive(Default)]
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

/// Compiles a graph: an artifact with one entry, under the name that the graph gives it.
///
/// # Errors
/// See [`CompileErrorKind`].
pub fn compile(
    graph: &Verified<Graph>,
    target: &Target,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Compiled, CompileError> {
    compile_entries(&[(graph.entry.clone(), graph)], target, options, observer)
}

/// Compiles several graphs into the entries of one artifact, by name. Constants of equal bytes are stored once; states of
/// equal names are one state, which every entry reads and updates. All entries run on the same chips, and the first decides how
/// constants and states are spread: give the one whose speed counts most.
///
/// # Errors
/// See [`CompileErrorKind`]; `Options` where there is no entry, two have one name, or a state differs in shape or dtype.
pub fn compile_entries(
    entries: &[(String, &Verified<Graph>)],
    target: &Target,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Compiled, CompileError> {
    let mut cx = Driver { options, observer };
    let mut lowered = Vec::with_capacity(entries.len());
    for (name, graph) in entries {
        let Some(ir) = cx.lower(name, graph)? else {
            return Ok(Compiled::default());
        };
        lowered.push(ir);
    }
    check_entries(&lowered)?;
    let Some(irs) = cx.optimize(&lowered)? else {
        return Ok(Compiled::default());
    };
    let irs: Vec<&TensorIr> = irs.iter().collect();
    cx.observer.stage("partition");
    let wanted = PartitionOptions {
        chips: options.chips,
        exact: options.exact,
    };
    let parts = candidates_of_entries(&irs, target, &wanted)?;
    let first = parts.first().into_iter().flatten();
    if cx.after("partition", || text_of(first)) {
        return Ok(Compiled::default());
    }
    let best = cx.best(&parts, target)?;
    cx.observer.stage("bound");
    let per_entry = irs.iter().zip(best.parts).zip(best.chains.iter().zip(&best.timed));
    let report = Report::new(
        target,
        best.examined,
        per_entry
            .map(|((ir, part), (chains, timed))| report::entry(chains, timed, &bound(ir, part, target), part, target)),
    );
    cx.observer.stage("emit");
    let info = ArtifactInfo {
        name: entries.first().map(|(_, g)| g.name.clone()).unwrap_or_default(),
        report: report.to_json(),
        tokenizer: options.tokenizer.clone(),
    };
    let timed: Vec<_> = best.chains.iter().zip(&best.timed).collect();
    let artifact = emit(&timed, target, &info)?;
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

/// The best partition, with the chains and the schedule of every entry, and the makespans of all that were examined.
struct Best<'p> {
    parts: &'p [Partitioned],
    chains: Vec<ChainProgram>,
    timed: Vec<Schedule>,
    examined: Vec<report::Examined>,
}

impl Driver<'_> {
    /// Dumps after a stage if wanted; whether to stop there.
    fn after(&mut self, name: &str, text: impl FnOnce() -> String) -> bool {
        let wanted = |o: &Option<String>| o.as_deref().is_some_and(|n| n == name);
        if wanted(&self.options.dump_after) || self.options.dump_after.as_deref() == Some("all") {
            self.observer.dump(name, &text());
        }
        wanted(&self.options.stop_after)
    }

    /// The tensor IR of an entry; `None` where the options stop before.
    fn lower(&mut self, name: &str, graph: &Verified<Graph>) -> Result<Option<TensorIr>, CompileError> {
        if self.after("import", || lockstep_graph::print::print(graph)) {
            return Ok(None);
        }
        self.observer.stage("lower");
        let mut ir = lower(graph)?;
        name.clone_into(&mut ir.name);
        check(&ir, "lower")?;
        let stopped = self.after("lower", || ir.to_string());
        Ok((!stopped).then_some(ir))
    }

    /// The entries optimised; `None` where the options stop before. The passes may split the axes of a state; where they would split
    /// them differently in two entries, states keep their shapes.
    fn optimize(&mut self, lowered: &[TensorIr]) -> Result<Option<Vec<TensorIr>>, CompileError> {
        self.observer.stage("optimize");
        let mut done = self.passes(lowered, false)?;
        if !states_agree(&done.0) {
            done = self.passes(lowered, true)?;
        }
        let (irs, dumps) = done;
        for dump in dumps {
            self.observer.dump(dump.pass, &dump.text);
        }
        let stop = self.options.stop_after.as_deref();
        let stopped = TIR_PASSES.iter().any(|p| Some(p.name) == stop) || self.after("optimize", || text_of(&irs));
        Ok((!stopped).then_some(irs))
    }

    fn passes(&self, lowered: &[TensorIr], keep_states: bool) -> Result<(Vec<TensorIr>, Vec<Dump>), CompileError> {
        let options = self.options;
        let is_pass = |name: &&String| TIR_PASSES.iter().any(|p| p.name == **name);
        let wanted = PassOptions {
            dump_after: options.dump_after.iter().filter(is_pass).cloned().collect(),
            stop_after: options.stop_after.iter().find(is_pass).cloned(),
            verify: options.verify_passes,
            exact: options.exact,
            keep_states,
        };
        let mut irs = lowered.to_vec();
        let mut dumps = Vec::new();
        for ir in &mut irs {
            if let Some(dtype) = options.precision {
                precision::run(ir, dtype)?;
            }
            dumps.extend(passes::run_all(ir, &wanted)?);
        }
        Ok((irs, dumps))
    }

    /// Schedules the most promising partitions and keeps the one with the least makespan over all entries, on ties the
    /// earlier.
    fn best<'p>(&mut self, candidates: &'p [Vec<Partitioned>], target: &Target) -> Result<Best<'p>, CompileError> {
        let options = ScheduleOptions {
            serial: self.options.serial,
        };
        let mut best: Option<(u64, Best<'p>)> = None;
        let mut examined = Vec::new();
        let mut refused = None;
        for parts in candidates {
            if examined.len() >= SCHEDULED {
                break;
            }
            self.observer.stage("chains");
            let inputs: Vec<Input<'_>> = parts.iter().map(|part| input(part, target)).collect();
            let chains = build_entries(&inputs)?;
            self.observer.stage("schedule");
            match schedule_entries(&chains.iter().collect::<Vec<_>>(), target, &options) {
                Ok(timed) => {
                    let makespan = timed.iter().map(|t| t.makespan).sum();
                    examined.push(report::Examined {
                        description: parts.first().map(|p| p.description.clone()).unwrap_or_default(),
                        makespan,
                    });
                    if best.as_ref().is_none_or(|(least, _)| makespan < *least) {
                        let found = Best {
                            parts,
                            chains,
                            timed,
                            examined: Vec::new(),
                        };
                        best = Some((makespan, found));
                    }
                }
                Err(e) if matches!(e.kind, CompileErrorKind::DoesNotFit { .. }) => refused = refused.or(Some(e)),
                Err(e) => return Err(e),
            }
        }
        match (best, refused) {
            (Some((_, best)), _) => Ok(Best { examined, ..best }),
            (None, Some(error)) => Err(error),
            (None, None) => Err(CompileError::internal("partition", "no candidate")),
        }
    }
}

fn input<'a>(part: &'a Partitioned, target: &'a Target) -> Input<'a> {
    Input {
        ir: &part.ir,
        chip: &part.chip,
        n_chips: part.n_chips,
        input_copies: &part.input_copies,
        target,
    }
}

/// Programs one after another.
fn text_of<'a, T: ToString + 'a>(all: impl IntoIterator<Item = &'a T>) -> String {
    all.into_iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

/// Whether every state has one type in all programs that have it.
fn states_agree(irs: &[TensorIr]) -> bool {
    let mut types: BTreeMap<&str, &Type> = BTreeMap::new();
    let mut all = irs.iter().flat_map(|ir| ir.states.values());
    all.all(|s| *types.entry(&s.name).or_insert(&s.ty) == &s.ty)
}

/// Entries have names of their own, and agree on the states that they share.
fn check_entries(irs: &[TensorIr]) -> Result<(), CompileError> {
    if irs.is_empty() {
        return Err(CompileError::options("a model has at least one entry, none was given"));
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut states: BTreeMap<&str, (&str, &Type)> = BTreeMap::new();
    for ir in irs {
        if !names.insert(&ir.name) {
            return Err(CompileError::options(format!(
                "two entries have the name {:?}; names must differ",
                ir.name
            )));
        }
        for state in ir.states.values() {
            let (entry, ty) = *states.entry(&state.name).or_insert((&ir.name, &state.ty));
            if *ty != state.ty {
                return Err(CompileError::options(format!(
                    "state {:?} is {} in entry {:?} and {ty} in entry {entry:?}; it must be the same in all",
                    state.name, state.ty, ir.name
                )));
            }
        }
    }
    Ok(())
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
