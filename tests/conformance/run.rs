//! One test through the whole line: import, lower, the interpreter; then compile, prove, simulate, and run by the cpu executor. What
//! the opencl executor is to repeat is kept: its kernels are built for many tests at once.

use crate::case::Case;
use crate::compare;
use crate::outcome::{Outcome, Record};
use lockstep::graph::{Graph, Verified};
use lockstep::isa::artifact::HostDType;
use lockstep::runtime::host_convert::{to_chip, to_host};
use lockstep::runtime::opencl::Kernels;
use lockstep::{
    Artifact, Chips, CompileError, CompileErrorKind, ConstInput, HostTensor, ImportError, ImportOptions, LoadOptions,
    Options, Session, Silent, TensorView, files, lookup,
};
use lockstep_compiler::lower::lower;
use lockstep_compiler::tir::TensorIr;
use lockstep_compiler::tir::eval::{Tensor, eval};
use lockstep_frontend::{ImportErrorKind, MemorySource};
use std::sync::Arc;

/// Which target a suite is compiled for.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// A built-in target.
    pub target: &'static str,
    /// Numbers of chips to compile for, one after the other.
    pub chips: &'static [u16],
}

/// Where a test goes whose inputs and outputs alone are more than one chip of its target holds.
const LARGE: Machine = Machine {
    target: "tsp-2020",
    chips: &[1, 2],
};

impl Machine {
    /// This machine, or the large one if the data of a test does not fit one chip of it.
    fn for_data(self, case: &Case) -> Machine {
        let (inputs, outputs) = match case.sets.first() {
            Some((inputs, outputs)) => (inputs.as_slice(), outputs.as_slice()),
            None => return self,
        };
        let bytes: usize = inputs.iter().chain(outputs).map(|t| t.bytes.len()).sum();
        match files::target(self.target) {
            Ok(target) if bytes as u64 > target.sram_bytes() => LARGE,
            _ => self,
        }
    }
}

/// An artifact of a test and the bits that it gave on the simulator.
pub struct Ran {
    artifact: Arc<Artifact>,
    bits: Vec<HostTensor>,
}

/// Runs a test. What the simulator and the cpu executor agree on goes into `ran`.
pub fn run(case: &Case, machine: Machine, ran: &mut Vec<Ran>) -> Record {
    let machine = machine.for_data(case);
    let mut record = Record {
        target: machine.target.to_string(),
        name: case.name.clone(),
        operator: case.operator(),
        opset: case.opset(),
        ..Record::default()
    };
    let (graph, ir, fixed) = match import(case) {
        Ok(found) => found,
        Err(outcome) => {
            record.all(&outcome);
            return record;
        }
    };
    record.fixed = fixed;
    record.eval = match interpret(case, &ir, &record.fixed) {
        Ok(ulp) => {
            record.ulp = record.ulp.max(ulp);
            Outcome::Passed
        }
        Err(message) => Outcome::failed("eval", message),
    };
    (record.sim, record.cpu) = (Outcome::Passed, Outcome::Passed);
    for &chips in machine.chips {
        execute(case, &graph, machine.target, chips, ran, &mut record);
        if !record.sim.passed() || !record.cpu.passed() {
            break;
        }
    }
    record
}

/// Imports and lowers with as few inputs fixed as it takes, of those that decide a shape or have no elements.
fn import(case: &Case) -> Result<(Verified<Graph>, TensorIr, Vec<String>), Outcome> {
    let first = import_with(case, &[]);
    let Err(outcome) = first else {
        return first.map(|(graph, ir)| (graph, ir, Vec::new()));
    };
    let inputs = case.sets.first().map_or(&[][..], |s| s.0.as_slice());
    let may: Vec<&HostTensor> = inputs
        .iter()
        .filter(|t| t.elements() == 0 || case.of_shape.contains(&t.name))
        .collect();
    for size in 1..=may.len() {
        for chosen in choices(may.len(), size) {
            let fixed: Vec<&HostTensor> = chosen.iter().map(|&i| may[i]).collect();
            if let Ok((graph, ir)) = import_with(case, &fixed) {
                return Ok((graph, ir, fixed.iter().map(|t| t.name.clone()).collect()));
            }
        }
    }
    Err(outcome)
}

/// All ways to choose `size` of `n`, in lexicographic order; of more than 6 only the whole.
fn choices(n: usize, size: usize) -> Vec<Vec<usize>> {
    (0u32..1 << n.min(6))
        .map(|bits| (0..n).filter(|&i| n > 6 || bits >> i & 1 == 1).collect::<Vec<_>>())
        .filter(|c| c.len() == size)
        .collect()
}

fn import_with(case: &Case, fixed: &[&HostTensor]) -> Result<(Verified<Graph>, TensorIr), Outcome> {
    let mut options = ImportOptions::default();
    for tensor in case.sets.iter().flat_map(|s| &s.0).rev() {
        let shape: Vec<usize> = tensor.shape.iter().map(|&n| n as usize).collect();
        if fixed.iter().any(|t| t.name == tensor.name) {
            let value = ConstInput::Tensor {
                dtype: graph_dtype(tensor.dtype),
                shape: lockstep::graph::Shape(shape),
                data: tensor.bytes.clone().into(),
            };
            options.const_inputs.insert(tensor.name.clone(), value);
        } else {
            options.shapes.insert(tensor.name.clone(), shape);
        }
    }
    let source = MemorySource::file("model.onnx", case.model.clone());
    let graph = lockstep::import(&source, &options).map_err(|e| import_outcome(&e))?;
    let graph = Verified::new(graph, &()).map_err(|e| Outcome::failed("graph", e.to_string()))?;
    let ir = lower(&graph).map_err(|e| compile_outcome("lower", &e))?;
    Ok((graph, ir))
}

fn import_outcome(error: &ImportError) -> Outcome {
    match &*error.kind {
        ImportErrorKind::Unsupported(ops) => {
            let mut reasons: Vec<String> = ops.iter().map(|op| format!("{}: {}", op.op, op.reason)).collect();
            reasons.dedup();
            Outcome::Unsupported(reasons.join("; "))
        }
        _ => Outcome::failed("import", error.to_string()),
    }
}

fn compile_outcome(stage: &str, error: &CompileError) -> Outcome {
    match &error.kind {
        CompileErrorKind::Unsupported(list) => {
            let mut reasons: Vec<&str> = list.iter().map(|u| u.what.as_str()).collect();
            reasons.dedup();
            Outcome::Unsupported(reasons.join("; "))
        }
        CompileErrorKind::DoesNotFit { .. } => Outcome::failed("fit", error.to_string()),
        _ => Outcome::failed(stage, error.to_string()),
    }
}

fn interpret(case: &Case, ir: &TensorIr, fixed: &[String]) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (inputs, wanted) in usable(case, fixed) {
        let mut given = Vec::new();
        for port in &ir.inputs {
            let tensor = inputs.iter().find(|t| t.name == port.name);
            let tensor = tensor.ok_or_else(|| format!("input {} has no data", port.name))?;
            let ty = ir.values[port.value].ty.clone();
            let bits = tensor
                .bytes
                .chunks_exact(tensor.dtype.bytes())
                .map(|b| lockstep::isa::scalar::widen(to_chip(b, port.host, ty.dtype), ty.dtype))
                .collect();
            given.push(Tensor::from_bits(ty, bits));
        }
        let outputs = eval(ir, &given, &mut []).map_err(|e| e.to_string())?;
        let found: Vec<HostTensor> = ir
            .outputs
            .iter()
            .zip(&outputs)
            .map(|(port, tensor)| HostTensor {
                name: port.name.clone(),
                dtype: port.host,
                shape: port.shape.iter().map(|&n| n as u64).collect(),
                bytes: tensor
                    .bits()
                    .iter()
                    .take(port.shape.iter().product())
                    .flat_map(|&bits| {
                        let wide = if tensor.ty.dtype.is_float() {
                            lockstep::isa::scalar::narrow_f32(f32::from_bits(bits), tensor.ty.dtype)
                        } else {
                            lockstep::isa::scalar::narrow_i32(bits as i32, tensor.ty.dtype)
                        };
                        to_host(wide, tensor.ty.dtype, port.host)
                            .into_iter()
                            .take(port.host.bytes())
                    })
                    .collect(),
            })
            .collect();
        worst = worst.max(compare_all(case, &found, wanted)?);
    }
    Ok(worst)
}

/// The data sets whose fixed inputs have the values of the first.
fn usable<'a>(case: &'a Case, fixed: &'a [String]) -> impl Iterator<Item = (&'a [HostTensor], &'a [HostTensor])> {
    let same = move |inputs: &[HostTensor]| {
        let first = &case.sets[0].0;
        let wanted = |t: &&HostTensor| fixed.contains(&t.name);
        inputs.iter().zip(first).all(|(a, b)| a.shape == b.shape)
            && inputs.iter().filter(wanted).eq(first.iter().filter(wanted))
    };
    let sets = case.sets.iter().filter(move |s| same(&s.0));
    sets.map(|s| (s.0.as_slice(), s.1.as_slice()))
}

fn compare_all(case: &Case, found: &[HostTensor], wanted: &[HostTensor]) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for want in wanted {
        let tensor = found.iter().find(|t| t.name == want.name);
        let tensor = tensor.ok_or_else(|| format!("output {} is missing", want.name))?;
        let ulp =
            compare::check(tensor, want, case.rtol, case.atol).map_err(|e| format!("output {} {e}", want.name))?;
        worst = worst.max(ulp);
    }
    Ok(worst)
}

fn compile(graph: &Verified<Graph>, target: &str, chips: Chips) -> Result<Arc<Artifact>, CompileError> {
    let options = Options {
        chips,
        verify: true,
        ..Options::default()
    };
    let machine = files::target(target).map_err(|e| CompileError::options(e.to_string()))?;
    let compiled = lockstep::compile(graph, &machine, &options, &mut Silent)?;
    let entries = compiled.report.iter().flat_map(|r| &r.entries);
    let mut broken = entries.filter(|e| e.bound.bound > e.makespan);
    if let Some(entry) = broken.next() {
        let (bound, makespan) = (entry.bound.bound, entry.makespan);
        return Err(CompileError::internal(
            "bound",
            format!("{makespan} cycles, no less than {bound} possible"),
        ));
    }
    let artifact = compiled.artifact;
    artifact
        .map(Arc::new)
        .ok_or_else(|| CompileError::internal("emit", "no artifact"))
}

/// Compiles for a number of chips (for as many as the model can use, or needs) and runs on the executors.
fn execute(case: &Case, graph: &Verified<Graph>, target: &str, chips: u16, ran: &mut Vec<Ran>, record: &mut Record) {
    let mut made = compile(graph, target, Chips::Exactly(chips));
    let refused = |e: &CompileError| match e.kind {
        CompileErrorKind::Options(_) => chips > 1,
        CompileErrorKind::DoesNotFit { .. } => true,
        _ => false,
    };
    if made.as_ref().is_err_and(refused) {
        made = compile(graph, target, Chips::Auto);
    }
    let artifact = match made {
        Ok(artifact) => artifact,
        Err(error) => {
            let outcome = compile_outcome("compile", &error);
            (record.sim, record.cpu) = (outcome.clone(), outcome);
            return;
        }
    };
    record.chips.push(artifact.n_chips);
    let mut results = Vec::new();
    for backend in ["sim", "cpu"] {
        let session = lookup(backend).and_then(|e| e.load(Arc::clone(&artifact), &LoadOptions::default()));
        let outcome = session
            .map_err(|e| format!("load: {e}"))
            .and_then(|mut s| run_on(case, &artifact, s.as_mut(), &record.fixed));
        let (outcome, bits) = match outcome {
            Ok((ulp, bits)) => {
                record.ulp = record.ulp.max(ulp);
                (Outcome::Passed, Some(bits))
            }
            Err(message) => (Outcome::failed(backend, message), None),
        };
        match backend {
            "sim" => record.sim = outcome,
            _ => record.cpu = outcome,
        }
        results.push(bits);
    }
    let [Some(sim), Some(cpu)] = results.as_slice() else {
        return;
    };
    if sim != cpu {
        record.cpu = Outcome::failed("cpu", "the bits differ from the simulator's");
    }
    if let Some(bits) = results.into_iter().flatten().next() {
        ran.push(Ran { artifact, bits });
    }
}

/// Builds the kernels of all these artifacts; what does not build fails again where it is loaded.
pub fn build<'a>(kernels: &mut Kernels, ran: impl Iterator<Item = &'a Ran>) {
    let artifacts: Vec<Arc<Artifact>> = ran.map(|r| Arc::clone(&r.artifact)).collect();
    let _ = kernels.add(&artifacts, &LoadOptions::default());
}

/// Runs what the other executors ran on an OpenCL device and compares the bits.
pub fn repeat(case: &Case, fixed: &[String], ran: &[Ran], kernels: &mut Kernels) -> Outcome {
    for Ran { artifact, bits } in ran {
        let session = kernels.load(Arc::clone(artifact), None, &LoadOptions::default());
        let found = session
            .map_err(|e| format!("load: {e}"))
            .and_then(|mut s| run_on(case, artifact, &mut s, fixed));
        match found {
            Ok((_, found)) if found == *bits => {}
            Ok(_) => {
                let chips = artifact.n_chips;
                return Outcome::failed(
                    "opencl",
                    format!("the bits on {chips} chips differ from the simulator's"),
                );
            }
            Err(message) => return Outcome::failed("opencl", message),
        }
    }
    match ran.is_empty() {
        true => Outcome::failed("opencl", "there is nothing to compare with"),
        false => Outcome::Passed,
    }
}

fn run_on(
    case: &Case,
    artifact: &Artifact,
    session: &mut dyn Session,
    fixed: &[String],
) -> Result<(f64, Vec<HostTensor>), String> {
    let entry = &artifact.entries[0];
    let (mut worst, mut all) = (0.0f64, Vec::new());
    for (inputs, wanted) in usable(case, fixed) {
        let mut views: Vec<TensorView<'_>> = Vec::new();
        for port in &entry.inputs {
            let tensor = inputs.iter().find(|t| t.name == port.name);
            views.push(tensor.ok_or_else(|| format!("input {} has no data", port.name))?.view());
        }
        let outputs = session.run(0, &views).map_err(|e| e.to_string())?;
        if outputs.cycles.is_some_and(|c| c != entry.makespan) {
            return Err(format!("{:?} cycles, scheduled {}", outputs.cycles, entry.makespan));
        }
        worst = worst.max(compare_all(case, outputs.tensors, wanted)?);
        all.extend(outputs.tensors.iter().cloned());
    }
    Ok((worst, all))
}

fn graph_dtype(dtype: HostDType) -> lockstep::graph::DType {
    use lockstep::graph::DType;
    match dtype {
        HostDType::F32 => DType::F32,
        HostDType::F16 => DType::F16,
        HostDType::BF16 => DType::Bf16,
        HostDType::F64 => DType::F64,
        HostDType::I8 => DType::I8,
        HostDType::I16 => DType::I16,
        HostDType::I32 => DType::I32,
        HostDType::I64 => DType::I64,
        HostDType::U8 => DType::U8,
        HostDType::U16 => DType::U16,
        HostDType::U32 => DType::U32,
        HostDType::U64 => DType::U64,
        HostDType::Bool => DType::Bool,
    }
}
