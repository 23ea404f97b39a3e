//! The pipeline: every stage in order, each a pure function of the one before.

use crate::bound::bound;
use crate::chain::ChainProgram;
use crate::chain::build::{Input, MOST_NODES, build_entries};
use crate::emit::{ArtifactInfo, emit};
use crate::lower::lower;
use crate::options::Options;
use crate::partition::{Chips, MOST_SPREAD, PartitionOptions, Partitioned, boundary, candidates_of_entries};
use crate::passes::{self, FUSION, PassOptions, TIR_PASSES, precision, whole_name};
use crate::report::{self, EntryReport, Report};
use crate::rewrite::{self, RewriteOptions, StageGain};
use crate::schedule::{Schedule, ScheduleOptions, schedule_entries};
use crate::throughput::figures;
use crate::tir::verify::Phase;
use crate::tir::{TensorIr, Type};
use crate::{CompileError, CompileErrorKind};
use lockstep_graph::{Graph, Verified, Verify, VerifyErrors};
use lockstep_isa::{Artifact, Target, verify};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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

/// How often the banks of the best schedule are chosen again.
const ROUNDS: usize = 2;
/// Most chains of a schedule for which that is done.
const REFINED: usize = 10_000;

/// Partitions that are scheduled for real before one is chosen.
const SCHEDULED: usize = 3;
/// Nodes of chains up to which more partitions are scheduled: those of small programs cost next to nothing.
const AT_EASE: usize = 60_000;
/// A partition that takes this many times the instructions of the best one found is not scheduled.
const SPRAWL: usize = 4;
/// Partitions that the scheduler finds no room for before the program is spread over more chips.
const REFUSED: usize = 4;

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
    let mut cx = Driver {
        options,
        observer,
        spread: 0,
    };
    let Some((best, report)) = cx.scheduled(entries, target)? else {
        return Ok(Compiled::default());
    };
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

/// The report of a compile, which makes no artifact: nothing asks what constants hold, so that their data may be absent. `None` where the
/// options stop the compile before it is made.
///
/// # Errors
/// As [`compile_entries`].
pub fn report_entries(
    entries: &[(String, &Verified<Graph>)],
    target: &Target,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Option<Report>, CompileError> {
    let mut cx = Driver {
        options,
        observer,
        spread: 0,
    };
    Ok(cx.scheduled(entries, target)?.map(|(_, report)| report))
}

/// The report of what a stage hands on to the next: f32[rows, columns] from a chip to all of some others, which come after it.
///
/// # Errors
/// Chips that no links join.
pub fn report_boundary(
    (rows, columns): (usize, usize),
    from: u16,
    to: Range<u16>,
    target: &Target,
) -> Result<EntryReport, CompileError> {
    let part = boundary(rows, columns, from, to, target)?;
    let chains = build_entries(&[input(&part, target)], MOST_NODES)?;
    let once = ScheduleOptions {
        serial: false,
        rounds: 0,
    };
    let timed = schedule_entries(&chains.iter().collect::<Vec<_>>(), target, &once)?;
    let (Some(chains), Some(timed)) = (chains.first(), timed.first()) else {
        return Err(CompileError::internal("schedule", "a boundary without a schedule"));
    };
    let bound = bound(&part.ir, &part, target);
    Ok(report::entry(chains, timed, &bound, &part, target, Vec::new()))
}

struct Driver<'a> {
    options: &'a Options,
    observer: &'a mut dyn Observer,
    /// How far partitions spread beyond what they need by estimate.
    spread: u32,
}

/// The tensor IR of every entry, and what each stage of rewrites gained.
struct Program {
    irs: Vec<TensorIr>,
    gains: Vec<Vec<StageGain>>,
    /// Whether the axes of states were left alone.
    keep_states: bool,
}

/// The best partition, with the chains and the schedule of every entry, and all that were looked at.
struct Best {
    program: Program,
    parts: Vec<Partitioned>,
    chains: Vec<ChainProgram>,
    timed: Vec<Schedule>,
    /// Makespan over all entries, cycles.
    makespan: u64,
    /// Cycles that the objective makes least, over all entries.
    cost: u64,
    examined: Vec<report::Examined>,
}

/// The best partition of a program, and all that were looked at.
struct Found {
    best: Scheduled,
    examined: Vec<report::Examined>,
}

impl Found {
    fn of(self, program: Program) -> Best {
        Best {
            program,
            parts: self.best.parts,
            chains: self.best.chains,
            timed: self.best.timed,
            makespan: self.best.makespan,
            cost: self.best.cost,
            examined: self.examined,
        }
    }
}

/// A partition with its schedule.
struct Scheduled {
    parts: Vec<Partitioned>,
    chains: Vec<ChainProgram>,
    timed: Vec<Schedule>,
    makespan: u64,
    cost: u64,
}

impl Program {
    fn new(done: Vec<Optimized>, keep_states: bool) -> Program {
        let (irs, gains) = done.into_iter().map(|o| (o.ir, o.gains)).unzip();
        Program {
            irs,
            gains,
            keep_states,
        }
    }
}

/// An entry after the passes and the rewrites.
struct Optimized {
    ir: TensorIr,
    gains: Vec<StageGain>,
    /// Programs as text, by pass or stage.
    dumps: Vec<(&'static str, String)>,
    /// Whether the options stop here.
    stopped: bool,
}

impl Driver<'_> {
    /// All stages up to the schedule, and what there is to say about it; `None` where the options stop before.
    fn scheduled(
        &mut self,
        entries: &[(String, &Verified<Graph>)],
        target: &Target,
    ) -> Result<Option<(Best, Report)>, CompileError> {
        let mut lowered = Vec::with_capacity(entries.len());
        for (name, graph) in entries {
            let Some(ir) = self.lower(name, graph)? else {
                return Ok(None);
            };
            lowered.push(ir);
        }
        check_entries(&lowered)?;
        let Some(rewritten) = self.optimize(&lowered, target)? else {
            return Ok(None);
        };
        let Some(with) = self.place(rewritten, target)? else {
            return Ok(None);
        };
        let (mut best, mut trial) = self.without_rewrites(&lowered, target, with)?;
        self.refine(&mut best, trial.as_mut(), target)?;
        self.observer.stage("bound");
        let per_entry = best
            .program
            .irs
            .iter()
            .zip(&best.parts)
            .zip(best.chains.iter().zip(&best.timed));
        let reports = per_entry
            .zip(best.program.gains.iter())
            .map(|(((ir, part), (chains, timed)), gains)| {
                let bound = bound(ir, part, target);
                report::entry(chains, timed, &bound, part, target, gains.clone())
            });
        let examined = std::mem::take(&mut best.examined);
        let report = Report::new(target, self.options, examined, trial, reports);
        Ok(Some((best, report)))
    }

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
        check(&ir, "lower", Phase::Lowered)?;
        let stopped = self.after("lower", || ir.to_string());
        Ok((!stopped).then_some(ir))
    }

    /// The entries optimised, with what each stage of rewrites gained; `None` where the options stop before. The passes may split the
    /// axes of a state; where they would split them differently in two entries, states keep their shapes.
    fn optimize(&mut self, lowered: &[TensorIr], target: &Target) -> Result<Option<Program>, CompileError> {
        self.observer.stage("optimize");
        let pass = |name: &Option<String>| name.clone().filter(|n| TIR_PASSES.iter().any(|p| p.name == n));
        let mut wanted = PassOptions {
            dump_after: pass(&self.options.dump_after).into_iter().collect(),
            stop_after: pass(&self.options.stop_after),
            verify: self.options.verify_passes,
            exact: self.options.exact,
            narrowed: self.options.precision.is_some(),
            keep_states: false,
            lanes: Some(target.lanes as usize),
        };
        // Rules fold factors into constants, and entries share those as they are.
        let limit = if lowered.len() > 1 {
            Some(0)
        } else {
            self.options.stop_after_rewrite
        };
        let mut done = self.rewritten(lowered, target, &wanted, limit)?;
        if !states_agree(done.iter().map(|o| &o.ir)) {
            wanted.keep_states = true;
            done = self.rewritten(lowered, target, &wanted, limit)?;
        }
        for (name, text) in done.iter().flat_map(|o| &o.dumps) {
            self.observer.dump(name, text);
        }
        let stopped = done.iter().any(|o| o.stopped) || self.after("optimize", || text_of(done.iter().map(|o| &o.ir)));
        Ok((!stopped).then(|| Program::new(done, wanted.keep_states)))
    }

    /// The same without rewrites, where that is faster: rules go by a model that does not see which operations overlap. The best
    /// partition alone is tried.
    fn without_rewrites(
        &mut self,
        lowered: &[TensorIr],
        target: &Target,
        with: Best,
    ) -> Result<(Best, Option<report::Trial>), CompileError> {
        if lowered.len() > 1 || self.options.draft {
            return Ok((with, None));
        }
        let wanted = PassOptions {
            exact: self.options.exact,
            narrowed: self.options.precision.is_some(),
            keep_states: with.program.keep_states,
            lanes: Some(target.lanes as usize),
            ..PassOptions::default()
        };
        let plain = Program::new(self.rewritten(lowered, target, &wanted, Some(0))?, wanted.keep_states);
        if text_of(&plain.irs) == text_of(&with.program.irs) {
            return Ok((with, None));
        }
        self.observer.stage("partition");
        let like = with.parts.first().map(Partitioned::shape);
        let mut candidates = self.candidates(&plain.irs, target)?;
        candidates.retain(|parts| parts.first().map(Partitioned::shape) == like);
        candidates.truncate(1);
        if candidates.is_empty() {
            return Ok((with, None));
        }
        let without = match self.best(&plain, candidates, target) {
            Ok(best) => best.of(plain),
            Err(e) if matches!(e.kind, CompileErrorKind::DoesNotFit { .. }) => return Ok((with, None)),
            Err(e) => return Err(e),
        };
        let trial = report::Trial {
            with: with.cost,
            without: without.cost,
        };
        if without.cost < with.cost {
            let Best {
                mut examined, makespan, ..
            } = with;
            let chosen = examined.iter_mut().find(|e| e.makespan == Some(makespan));
            if let (Some(chosen), Some(one)) = (chosen, without.examined.first()) {
                chosen.clone_from(one);
            }
            return Ok((Best { examined, ..without }, Some(trial)));
        }
        Ok((with, Some(trial)))
    }

    /// Schedules the best once more, with banks chosen by the schedule found.
    fn refine(
        &mut self,
        best: &mut Best,
        trial: Option<&mut report::Trial>,
        target: &Target,
    ) -> Result<(), CompileError> {
        let n_chains: usize = best.chains.iter().map(|c| c.chains.len()).sum();
        if self.options.serial || self.options.draft || n_chains > REFINED {
            return Ok(());
        }
        self.observer.stage("schedule");
        let options = ScheduleOptions {
            serial: false,
            rounds: ROUNDS,
        };
        let timed = schedule_entries(&best.chains.iter().collect::<Vec<_>>(), target, &options)?;
        let (makespan, interval) = figures(&best.parts, &timed, target);
        let cost = self.options.optimize.cost(makespan, interval);
        if cost > best.cost {
            return Ok(());
        }
        let chosen = best.examined.iter_mut().find(|e| e.makespan == Some(best.makespan));
        if let Some(chosen) = chosen {
            (chosen.makespan, chosen.interval) = (Some(makespan), Some(interval));
        }
        if let Some(trial) = trial {
            let side = if trial.with <= trial.without {
                &mut trial.with
            } else {
                &mut trial.without
            };
            *side = cost;
        }
        (best.timed, best.makespan, best.cost) = (timed, makespan, cost);
        Ok(())
    }

    /// The best partition of a program, scheduled; `None` where the options stop before. Where the scheduler finds no room for what fits by
    /// estimate, the program is spread over more chips.
    fn place(&mut self, program: Program, target: &Target) -> Result<Option<Best>, CompileError> {
        let mut refused: Option<CompileError> = None;
        loop {
            self.observer.stage("partition");
            let candidates = match self.candidates(&program.irs, target) {
                Ok(found) => found,
                Err(_) if refused.is_some() && self.spread < MOST_SPREAD => {
                    self.spread += 1;
                    continue;
                }
                Err(e) => return Err(refused.unwrap_or(e)),
            };
            let first = candidates.first().into_iter().flatten();
            if self.after("partition", || text_of(first)) {
                return Ok(None);
            }
            match self.best(&program, candidates, target) {
                Ok(best) => return Ok(Some(best.of(program))),
                Err(e)
                    if matches!(e.kind, CompileErrorKind::DoesNotFit { .. })
                        && self.options.chips == Chips::Auto
                        && self.spread < MOST_SPREAD =>
                {
                    refused = refused.or(Some(e));
                    self.spread += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Partitions of all entries together, most promising first.
    fn candidates(&self, irs: &[TensorIr], target: &Target) -> Result<Vec<Vec<Partitioned>>, CompileError> {
        let wanted = PartitionOptions {
            chips: self.options.chips,
            optimize: self.options.optimize,
            exact: self.options.exact,
            spread: self.spread,
        };
        candidates_of_entries(&irs.iter().collect::<Vec<_>>(), target, &wanted)
    }

    /// Every entry through the passes, with the rewrites between those that canonicalise and those that fuse.
    fn rewritten(
        &self,
        lowered: &[TensorIr],
        target: &Target,
        wanted: &PassOptions,
        limit: Option<usize>,
    ) -> Result<Vec<Optimized>, CompileError> {
        let options = self.options;
        let named = |name: &Option<String>, n: &str| name.as_deref() == Some(n);
        let mut all = Vec::with_capacity(lowered.len());
        for ir in lowered {
            let mut one = Optimized {
                ir: ir.clone(),
                gains: Vec::new(),
                dumps: Vec::new(),
                stopped: wanted.stop_after.is_some(),
            };
            let ir = &mut one.ir;
            if let Some(dtype) = options.precision {
                precision::run(ir, dtype)?;
            }
            let lowered = rewrite::estimate(ir, target);
            let dumps = passes::run_part(ir, wanted, 0..FUSION)?;
            one.dumps.extend(dumps.into_iter().map(|d| (d.pass, d.text)));
            one.gains.push(StageGain {
                stage: "canonicalise".into(),
                cycles_before: lowered,
                cycles_after: rewrite::estimate(ir, target),
            });
            if wanted.last().is_none_or(|last| last >= FUSION) {
                let limits = RewriteOptions {
                    exact: options.exact,
                    stop_after: limit,
                };
                for stage in rewrite::run(ir, target, &limits)?.stages {
                    let gained = stage.cycles_before.saturating_sub(stage.cycles_after);
                    let before = one.gains.last().map_or(0, |g| g.cycles_after);
                    one.gains.push(StageGain {
                        stage: stage.stage,
                        cycles_before: before,
                        cycles_after: before.saturating_sub(gained),
                    });
                }
                if named(&options.dump_after, "rewrite") || named(&options.dump_after, "all") {
                    one.dumps.push(("rewrite", ir.to_string()));
                }
                one.stopped |= named(&options.stop_after, "rewrite");
            }
            if !named(&options.stop_after, "rewrite") {
                let before = rewrite::estimate(ir, target);
                let dumps = passes::run_part(ir, wanted, FUSION..TIR_PASSES.len())?;
                one.dumps.extend(dumps.into_iter().map(|d| (d.pass, d.text)));
                one.gains.push(StageGain {
                    stage: "fuse".into(),
                    cycles_before: before,
                    cycles_after: rewrite::estimate(ir, target),
                });
            }
            if !one.stopped {
                check(ir, "optimize", Phase::Legal)?;
            }
            all.push(one);
        }
        Ok(all)
    }

    /// Schedules the most promising partitions and keeps the one with the least cost over all entries, on ties the
    /// earlier. One whose bound (shared by as many users as there are stages) is no less than a cost found needs no schedule.
    fn best(
        &mut self,
        program: &Program,
        candidates: Vec<Vec<Partitioned>>,
        target: &Target,
    ) -> Result<Found, CompileError> {
        let options = ScheduleOptions {
            serial: self.options.serial,
            rounds: 0,
        };
        let mut best: Option<Scheduled> = None;
        let mut examined: Vec<report::Examined> = Vec::new();
        let mut refused = None;
        let mut n_refused = 0;
        let (mut scheduled, mut nodes) = (0, 0);
        let (most, at_ease) = if self.options.draft {
            (1, 0)
        } else {
            (SCHEDULED, AT_EASE)
        };
        for parts in candidates {
            let free = self.options.chips == Chips::Auto;
            if free && best.is_none() && n_refused == REFUSED {
                break;
            }
            let bounds = program
                .irs
                .iter()
                .zip(&parts)
                .map(|(ir, part)| bound(ir, part, target).bound);
            let mut one = report::Examined {
                description: parts.first().map(|p| p.description.clone()).unwrap_or_default(),
                chips: parts.first().map_or(0, |p| p.n_chips),
                modelled: parts.iter().map(|p| p.modelled_cycles).fold(0, u64::saturating_add),
                bound: bounds.sum(),
                makespan: None,
                interval: None,
            };
            let stages = parts.first().map_or(1, |p| p.stages.len().max(1)) as u64;
            let least = self.options.optimize.cost(one.bound, one.bound / stages);
            if (scheduled < most || nodes < at_ease) && best.as_ref().is_none_or(|b| least < b.cost) {
                self.observer.stage("chains");
                let inputs: Vec<Input<'_>> = parts.iter().map(|part| input(part, target)).collect();
                let most = best.as_ref().map(|b| SPRAWL * n_nodes(&b.chains));
                let chains = match build_entries(&inputs, most.unwrap_or(MOST_NODES).min(MOST_NODES)) {
                    Ok(chains) => chains,
                    Err(e) if matches!(e.kind, CompileErrorKind::DoesNotFit { .. }) => {
                        if best.is_some() {
                            scheduled += 1;
                            examined.push(one);
                        } else {
                            refused = refused.or(Some(e));
                            n_refused += 1;
                        }
                        continue;
                    }
                    Err(e) => return Err(e),
                };
                self.observer.stage("schedule");
                match schedule_entries(&chains.iter().collect::<Vec<_>>(), target, &options) {
                    Ok(timed) => {
                        scheduled += 1;
                        nodes += n_nodes(&chains);
                        let (makespan, interval) = figures(&parts, &timed, target);
                        let cost = self.options.optimize.cost(makespan, interval);
                        (one.makespan, one.interval) = (Some(makespan), Some(interval));
                        if best.as_ref().is_none_or(|b| cost < b.cost) {
                            best = Some(Scheduled {
                                parts,
                                chains,
                                timed,
                                makespan,
                                cost,
                            });
                        }
                    }
                    Err(e) if matches!(e.kind, CompileErrorKind::DoesNotFit { .. }) => {
                        refused = refused.or(Some(e));
                        n_refused += 1;
                        continue;
                    }
                    Err(e) => return Err(e),
                }
            }
            examined.push(one);
        }
        match (best, refused) {
            (Some(best), _) => Ok(Found { best, examined }),
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

/// Instructions of all entries, about.
fn n_nodes(entries: &[ChainProgram]) -> usize {
    entries.iter().map(ChainProgram::n_nodes).sum()
}

/// Programs one after another.
fn text_of<'a, T: ToString + 'a>(all: impl IntoIterator<Item = &'a T>) -> String {
    all.into_iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

/// Whether every state has one type, and is whole or in the same parts, in all programs that have it.
fn states_agree<'a>(irs: impl Iterator<Item = &'a TensorIr>) -> bool {
    let mut types: BTreeMap<&str, Vec<(&str, &Type)>> = BTreeMap::new();
    for ir in irs {
        let mut own: BTreeMap<&str, Vec<(&str, &Type)>> = BTreeMap::new();
        for s in ir.states.values() {
            own.entry(whole_name(&s.name)).or_default().push((&s.name, &s.ty));
        }
        for (name, parts) in own {
            if types.entry(name).or_insert_with(|| parts.clone()) != &parts {
                return false;
            }
        }
    }
    true
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
fn check(ir: &TensorIr, pass: &'static str, phase: Phase) -> Result<(), CompileError> {
    let mut errors = VerifyErrors::new();
    ir.verify(&phase, &mut errors);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(CompileError::internal(pass, errors.to_string()))
    }
}
