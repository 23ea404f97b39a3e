//! A program through the whole line, compared with the interpreter.
//!
//! Passes, rewrites, partition, chains, schedule, emit; then the artifact is verified, simulated and run by the cpu executor. All of
//! them have to agree: the makespan with the simulator's cycles, the bits of the executors with each other, and the results
//! with `tir::eval` within the tolerance of each value.

use crate::program::Program;
use lockstep_compiler::chain::ChainProgram;
use lockstep_compiler::chain::build::{Input, build};
use lockstep_compiler::emit::{ArtifactInfo, emit};
use lockstep_compiler::partition::{Chips, PartitionOptions, candidates};
use lockstep_compiler::passes::{FUSION, PassOptions, TIR_PASSES, run_part};
use lockstep_compiler::rewrite::{self, RewriteOptions};
use lockstep_compiler::schedule::{Schedule, ScheduleOptions, schedule};
use lockstep_compiler::tir::consteval;
use lockstep_compiler::tir::eval::{Data, Tensor, eval};
use lockstep_compiler::tir::print::host_dtype;
use lockstep_compiler::{CompileError, CompileErrorKind};
use lockstep_isa::{Artifact, Target, verify};
use lockstep_runtime::{HostTensor, LoadOptions, lookup};
use std::sync::Arc;

/// How far rules may move a float result, relative to the largest magnitude among its ancestors.
const REWRITTEN: f32 = 4e-5;

/// How a program is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// A built-in target.
    pub target: &'static str,
    /// Chips; fewer where the program has not as many weights to hold.
    pub chips: u16,
    /// Every chain after the one before it.
    pub serial: bool,
}

/// What became of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All agree, on this many chips and cycles.
    Agrees(u16, u64),
    /// It does not fit the target.
    DoesNotFit,
}

/// A program on its cycles, before it is emitted.
#[derive(Clone, Debug)]
pub struct Timed {
    /// The target.
    pub target: Target,
    /// The chains.
    pub chains: ChainProgram,
    /// Their schedule.
    pub schedule: Schedule,
}

/// Schedules a program; `None` where it does not fit.
///
/// # Errors
/// What went wrong, in words.
pub fn timed(program: &Program, setting: Setting) -> Result<Option<Timed>, String> {
    let target = Target::builtin(setting.target).ok_or_else(|| format!("no target {}", setting.target))?;
    let target = target.map_err(|e| e.to_string())?;
    let told = |stage: &'static str| move |e: CompileError| format!("{stage}: {e}");
    let mut ir = program.tir(false).map_err(told("build"))?;
    let options = PassOptions {
        verify: true,
        exact: program.jumps(),
        ..PassOptions::default()
    };
    run_part(&mut ir, &options, 0..FUSION).map_err(told("passes"))?;
    let rules = RewriteOptions {
        exact: program.jumps(),
        stop_after: None,
    };
    rewrite::run(&mut ir, &target, &rules).map_err(told("rewrite"))?;
    run_part(&mut ir, &options, FUSION..TIR_PASSES.len()).map_err(told("passes"))?;
    let mut chips = setting.chips;
    let part = loop {
        match candidates(
            &ir,
            &target,
            &PartitionOptions {
                chips: Chips::Exactly(chips),
                ..PartitionOptions::default()
            },
        ) {
            Ok(found) => break found.into_iter().next(),
            Err(e) if chips > 1 && matches!(e.kind, CompileErrorKind::Options(_)) => chips -= 1,
            Err(e) if matches!(e.kind, CompileErrorKind::DoesNotFit { .. }) => return Ok(None),
            Err(e) => return Err(told("partition")(e)),
        }
    };
    let part = part.ok_or("partition: no candidate")?;
    let input = Input {
        ir: &part.ir,
        chip: &part.chip,
        n_chips: part.n_chips,
        input_copies: &part.input_copies,
        target: &target,
    };
    let chains = build(&input).map_err(told("chains"))?;
    match schedule(
        &chains,
        &target,
        &ScheduleOptions {
            serial: setting.serial,
            rounds: 0,
        },
    ) {
        Ok(schedule) => Ok(Some(Timed {
            target,
            chains,
            schedule,
        })),
        Err(e) if matches!(e.kind, CompileErrorKind::DoesNotFit { .. }) => Ok(None),
        Err(e) => Err(told("schedule")(e)),
    }
}

/// Compiles a program; the artifact, verified, and the schedule's makespan. `None` where it does not fit.
///
/// # Errors
/// What went wrong, in words.
pub fn compile(program: &Program, setting: Setting) -> Result<Option<(Artifact, u64)>, String> {
    let Some(t) = timed(program, setting)? else {
        return Ok(None);
    };
    let info = ArtifactInfo::default();
    let artifact = emit(&[(&t.chains, &t.schedule)], &t.target, &info).map_err(|e| format!("emit: {e}"))?;
    verify::verify(&artifact).map_err(|e| format!("verify: {e}"))?;
    Ok(Some((artifact, t.schedule.makespan)))
}

/// Compiles and runs a program, twice where it has state.
///
/// # Errors
/// What disagrees, in words.
pub fn check(program: &Program, setting: Setting) -> Result<Outcome, String> {
    let Some((artifact, makespan)) = compile(program, setting)? else {
        return Ok(Outcome::DoesNotFit);
    };
    let chips = artifact.n_chips;
    let artifact = Arc::new(artifact);
    let load = |name: &str| {
        let executor = lookup(name).map_err(|e| format!("{name}: {e}"))?;
        executor
            .load(artifact.clone(), &LoadOptions::default())
            .map_err(|e| format!("{name}: load: {e}"))
    };
    let (mut sim, mut cpu) = (load("sim")?, load("cpu")?);
    let oracle = program.tir(true).map_err(|e| format!("eval: {e}"))?;
    let mut states: Vec<Tensor> = oracle.states.values().map(|s| Tensor::zeros(&s.ty)).collect();
    let known = program.known().map_err(|e| format!("build: {e}"))?;
    let rounding = if program.jumps() { 0.0 } else { REWRITTEN };
    let runs = if states.is_empty() { 1 } else { 2 };
    for run in 0..runs {
        let inputs = program.inputs(run);
        let all = eval(&oracle, &inputs, &mut states).map_err(|e| format!("eval: {e}"))?;
        let by_port: Vec<HostTensor> = artifact.entries[0]
            .inputs
            .iter()
            .filter_map(|port| {
                let at = oracle.inputs.iter().position(|p| p.name == port.name)?;
                Some(tensor(&port.name, &inputs[at], &oracle.inputs[at].shape))
            })
            .collect();
        let views: Vec<_> = by_port.iter().map(HostTensor::view).collect();
        let simulated = sim.run(0, &views).map_err(|e| format!("sim: {e}"))?;
        if simulated.cycles != Some(makespan) {
            return Err(format!("sim: {:?} cycles, scheduled {makespan}", simulated.cycles));
        }
        let computed = cpu.run(0, &views).map_err(|e| format!("cpu: {e}"))?;
        let magnitude = magnitudes(program, &all);
        for (i, &v) in program.outputs.iter().enumerate() {
            let name = format!("v{v}");
            let (got, other) = match (simulated.tensors.get(i), computed.tensors.get(i)) {
                (Some(a), Some(b)) if a.name == name && b.name == name => (a, b),
                _ => return Err(format!("run {run}: output {i} is not {name}")),
            };
            if got.bytes != other.bytes {
                let size = got.dtype.bytes();
                let at = got
                    .bytes
                    .chunks(size)
                    .zip(other.bytes.chunks(size))
                    .position(|(a, b)| a != b);
                return Err(format!("run {run}: {name} element {at:?}: sim and cpu differ"));
            }
            let got = decode(got, &all[v]);
            let tolerance = known[v].tolerance.max(rounding);
            compare(&got, &all[v], tolerance, magnitude[v]).map_err(|e| format!("run {run}: {name} {e}"))?;
        }
    }
    Ok(Outcome::Agrees(chips, makespan))
}

/// The largest magnitude of each value and its ancestors.
fn magnitudes(program: &Program, all: &[Tensor]) -> Vec<f32> {
    let mut out: Vec<f32> = Vec::new();
    for (step, tensor) in program.steps.iter().zip(all) {
        let own = tensor
            .to_f32()
            .iter()
            .map(|x| x.abs())
            .filter(|x| x.is_finite())
            .fold(0.0, f32::max);
        out.push(step.args.iter().map(|&a| out[a]).fold(own, f32::max));
    }
    out
}

fn tensor(name: &str, data: &Tensor, shape: &[usize]) -> HostTensor {
    HostTensor {
        name: name.to_string(),
        dtype: host_dtype(data.ty.dtype),
        shape: shape.iter().map(|&n| n as u64).collect(),
        bytes: consteval::to_bytes(data),
    }
}

fn decode(got: &HostTensor, like: &Tensor) -> Tensor {
    let size = got.dtype.bytes();
    let bits = |b: &[u8]| {
        let raw = b.iter().rev().fold(0u32, |all, &byte| all << 8 | byte as u32);
        lockstep_isa::scalar::widen(raw, like.ty.dtype)
    };
    Tensor::from_bits(like.ty.clone(), got.bytes.chunks(size).map(bits).collect())
}

fn compare(got: &Tensor, want: &Tensor, tolerance: f32, magnitude: f32) -> Result<(), String> {
    let (got_bits, want_bits) = (got.bits(), want.bits());
    if got_bits.len() != want_bits.len() {
        return Err(format!("has {} elements, expected {}", got_bits.len(), want_bits.len()));
    }
    for (i, (&a, &b)) in got_bits.iter().zip(&want_bits).enumerate() {
        let same = match &want.data {
            Data::I(_) => a == b,
            Data::F(_) => {
                let (x, y) = (f32::from_bits(a), f32::from_bits(b));
                let near = tolerance > 0.0 && (x - y).abs() <= tolerance * (1.0 + magnitude);
                a == b || (x.is_nan() && y.is_nan()) || near || (tolerance > 0.0 && !y.is_finite())
            }
        };
        if !same {
            let show = |bits: u32| match &want.data {
                Data::I(_) => format!("{}", bits as i32),
                Data::F(_) => format!("{}", f32::from_bits(bits)),
            };
            return Err(format!(
                "element {i}: {}, expected {} (tolerance {tolerance} of {magnitude})",
                show(a),
                show(b)
            ));
        }
    }
    Ok(())
}
