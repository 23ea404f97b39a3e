//! `lockstep run`: execute an artifact, or a model that is compiled first.

use super::{lines, print_json};
use crate::args::{ExecArgs, RunVerb, SimdArg};
use crate::diag::{Code, Failure, JSON_VERSION, Outcome};
use crate::feed::{gather, join, slice, steps};
use crate::golden::{Compared, Golden};
use crate::progress::Progress;
use crate::{subject, text};
use lockstep::files::{self, FileError};
use lockstep::isa::artifact::HostTensor as Signature;
use lockstep::runtime::host_tensor::describe;
use lockstep::{Artifact, Executor, HostTensor, LoadOptions, Session, Simd, TensorView, lookup, tensors};
#[cfg(feature = "opencl")]
use lockstep::{
    files::KernelCache,
    runtime::opencl::{KernelStore, OpenCl},
};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs the verb.
///
/// # Errors
/// What opening, loading and running report; inputs that do not fit; outputs beyond the tolerance of `--check`.
pub fn run(verb: &RunVerb) -> Outcome {
    let mut progress = Progress::new();
    let artifact = Arc::new(subject::open(&verb.subject, &mut progress)?);
    let golden = match &verb.check {
        Some(path) => Some(Golden::read(path, verb.case.as_deref())?),
        None => None,
    };
    let (entry, given, steps) = choose(verb, &artifact, golden.as_ref())?;
    let signature = &artifact.entries[entry];
    progress.begin("load");
    let mut session = load(&verb.exec, &artifact)?;
    progress.begin("run");
    let done = execute(session.as_mut(), entry, &signature.inputs, &given, steps, verb.steps)?;
    progress.end();
    drop(progress);

    if let Some(path) = &verb.output {
        let bytes = tensors::write_npz(&done.outputs)?;
        files::write_renamed(path, |out| {
            out.write_all(&bytes).map_err(|source| FileError::Io {
                path: path.clone(),
                what: "write",
                source,
            })
        })?;
    }
    let checks = golden
        .as_ref()
        .map(|g| g.compare(&done.outputs, verb.rtol, verb.atol))
        .transpose()?;
    let digest = verb.digest.then(|| digest(&done.outputs));
    if verb.json {
        print_json(&json!({
            "version": JSON_VERSION,
            "backend": verb.exec.backend,
            "entry": signature.name,
            "steps": steps,
            "cycles_per_step": done.cycles,
            "schedule_cycles": signature.makespan,
            "seconds": done.time.as_secs_f64(),
            "outputs": done.outputs.iter().map(summary_json).collect::<Vec<_>>(),
            "digest": digest,
            "check": checks.as_ref().map(|all| all.iter().map(Compared::json).collect::<Vec<_>>()),
        }));
    } else {
        let mut out: Vec<String> = done.outputs.iter().map(summary).collect();
        let per = if steps == 1 {
            String::new()
        } else {
            format!(" for {steps} steps")
        };
        let cycles = done
            .cycles
            .map_or(String::new(), |c| format!(", {} cycles simulated", text::count(c)));
        out.push(format!(
            "{}{per} on {}{cycles}",
            text::microseconds(done.time.as_secs_f64() * 1e6),
            verb.exec.backend
        ));
        out.extend(digest.iter().map(|d| format!("digest {d}")));
        out.extend(checks.iter().flatten().map(Compared::text));
        lines(out);
    }
    let failed = checks.iter().flatten().filter(|c| c.wrong > 0).count();
    if failed > 0 {
        return Err(Failure::new(
            Code::Check,
            format!(
                "{failed} of {} outputs differ by more than {} + {} * |expected|",
                done.outputs.len(),
                verb.atol,
                verb.rtol
            ),
        ));
    }
    Ok(())
}

/// The entry to run with its inputs and their number of steps: the one that the options name, or the first whose shapes the
/// inputs have, in one step if there is such an entry.
fn choose(verb: &RunVerb, artifact: &Artifact, golden: Option<&Golden>) -> Outcome<(usize, Vec<HostTensor>, u64)> {
    let with = |entry: usize| -> Outcome<(usize, Vec<HostTensor>, u64)> {
        let given = gather(verb, artifact, entry, golden)?;
        let steps = steps(&artifact.entries[entry].inputs, &given, verb.steps)?;
        Ok((entry, given, steps))
    };
    if verb.exec.entry.is_some() || artifact.entries.len() == 1 {
        return with(subject::entry(artifact, verb.exec.entry.as_deref())?);
    }
    let mut fits = Vec::new();
    let mut refused = Vec::new();
    for entry in 0..artifact.entries.len() {
        match with(entry) {
            Ok(one) => fits.push(one),
            Err(e) => refused.push(format!("{}: {}", artifact.entries[entry].name, e.message)),
        }
    }
    let best = fits.into_iter().min_by_key(|(entry, _, steps)| (*steps > 1, *entry));
    best.ok_or_else(|| Failure::usage(format!("no entry takes these inputs; {}", refused.join("; "))))
}

/// Loads an artifact into the executor that the options name.
///
/// # Errors
/// What [`lookup`] and the executor report.
pub fn load(exec: &ExecArgs, artifact: &Arc<Artifact>) -> Outcome<Box<dyn Session>> {
    let options = LoadOptions {
        threads: exec.threads as usize,
        simd: exec.simd.map(|s| match s {
            SimdArg::Avx512 => Simd::Avx512,
            SimdArg::Avx2 => Simd::Avx2,
            SimdArg::Scalar => Simd::Scalar,
        }),
        ..LoadOptions::default()
    };
    Ok(executor(exec)?.load(Arc::clone(artifact), &options)?)
}

/// The executor that the options name.
fn executor(exec: &ExecArgs) -> Outcome<Box<dyn Executor>> {
    let flags = [
        ("--device", exec.device.is_some()),
        ("--no-command-buffer", exec.no_command_buffer),
    ];
    if let Some((flag, _)) = flags.iter().find(|(_, given)| *given && exec.backend != "opencl") {
        return Err(Failure::usage(format!(
            "{flag} is for --backend opencl, which runs on devices; {} does not",
            exec.backend
        )));
    }
    #[cfg(feature = "opencl")]
    if exec.backend == "opencl" {
        let store = KernelCache::of_user().map(|cache| Arc::new(cache) as Arc<dyn KernelStore>);
        return Ok(Box::new(OpenCl {
            device: exec.device,
            store,
            enqueue_each: exec.no_command_buffer,
        }));
    }
    Ok(lookup(&exec.backend)?)
}

/// What a run gave.
struct Done {
    outputs: Vec<HostTensor>,
    cycles: Option<u64>,
    time: Duration,
}

fn execute(
    session: &mut dyn Session,
    entry: usize,
    wanted: &[Signature],
    given: &[HostTensor],
    steps: u64,
    axis: Option<usize>,
) -> Outcome<Done> {
    let axis = axis.unwrap_or(0);
    let mut parts: Vec<Vec<HostTensor>> = Vec::new();
    let mut cycles = None;
    let mut time = Duration::ZERO;
    for step in 0..steps {
        let mut own = Vec::with_capacity(given.len());
        for (w, tensor) in wanted.iter().zip(given) {
            own.push(if tensor.shape == w.shape {
                None
            } else {
                Some(slice(tensor, axis, step * w.shape[axis], w.shape[axis]))
            });
        }
        let views: Vec<TensorView<'_>> = own
            .iter()
            .zip(given)
            .map(|(o, t)| o.as_ref().unwrap_or(t).view())
            .collect();
        let start = Instant::now();
        let outputs = session.run(entry, &views)?;
        time += start.elapsed();
        cycles = outputs.cycles.or(cycles);
        parts.push(outputs.tensors.to_vec());
    }
    let outputs = if parts.len() == 1 {
        parts.remove(0)
    } else {
        join(&parts, axis)
    };
    Ok(Done { outputs, cycles, time })
}

/// blake3 over names, dtypes, shapes and bytes of the outputs.
fn digest(outputs: &[HostTensor]) -> String {
    let mut hash = blake3::Hasher::new();
    for o in outputs {
        hash.update(format!("{} {}\n", o.name, describe(o.dtype, &o.shape)).as_bytes());
        hash.update(&o.bytes);
    }
    hash.finalize().to_hex().to_string()
}

/// Least, largest and mean element, and the first few.
fn figures(tensor: &HostTensor) -> (f64, f64, f64, Vec<f64>) {
    let all = tensors::to_f64(tensor);
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
    (least, most, mean, all.into_iter().take(6).collect())
}

fn summary(tensor: &HostTensor) -> String {
    let (least, most, mean, first) = figures(tensor);
    let more = if tensor.elements() > first.len() { ", .." } else { "" };
    let first = first.iter().map(|x| format!("{x:.6}")).collect::<Vec<_>>().join(", ");
    let shape = describe(tensor.dtype, &tensor.shape);
    if tensor.elements() <= 6 {
        return format!("{} {shape}: {first}", tensor.name);
    }
    format!(
        "{} {shape}: {first}{more} (least {least:.6}, most {most:.6}, mean {mean:.6})",
        tensor.name
    )
}

fn summary_json(tensor: &HostTensor) -> Value {
    let (least, most, mean, first) = figures(tensor);
    json!({
        "name": tensor.name, "dtype": tensor.dtype.name(), "shape": tensor.shape,
        "least": least, "most": most, "mean": mean, "first": first,
    })
}
