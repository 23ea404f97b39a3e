//! `lockstep bench`: how long a run takes on this machine, what it allocates and what it moves.

use super::{lines, print_json};
use crate::args::BenchVerb;
use crate::cmd::run::load;
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::{alloc, subject, text};
use lockstep::isa::Opcode;
use lockstep::{Artifact, Session, TensorView, tensors};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Runs the verb.
///
/// # Errors
/// What opening, loading and running report.
pub fn run(verb: &BenchVerb) -> Outcome {
    let mut progress = Progress::new();
    let start = Instant::now();
    let artifact = Arc::new(subject::open(&verb.subject, &mut progress)?);
    // Of a model that is compiled here there is no file to read.
    let read_time = match subject::kind(&verb.subject.path)? {
        subject::Kind::Artifact => start.elapsed().as_secs_f64(),
        subject::Kind::Model => 0.0,
    };
    let entry = subject::entry(&artifact, verb.exec.entry.as_deref())?;
    progress.begin("load");
    let start = Instant::now();
    let mut session = load(&verb.exec, &artifact)?;
    let load_time = read_time + start.elapsed().as_secs_f64();
    let inputs: Vec<_> = artifact.entries[entry]
        .inputs
        .iter()
        .map(|w| tensors::random(&w.name, w.dtype, &w.shape, 0))
        .collect();
    let views: Vec<TensorView<'_>> = inputs.iter().map(|t| t.view()).collect();
    progress.begin("warm up");
    for _ in 0..verb.warmup {
        session.run(entry, &views)?;
    }
    // The progress line allocates.
    drop(progress);
    let mut times = Vec::with_capacity(verb.runs as usize);
    let (ran, allocations) = alloc::count(|| -> Outcome {
        for _ in 0..verb.runs {
            let start = Instant::now();
            session.run(entry, &views)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(())
    });
    ran?;
    times.sort_by(f64::total_cmp);
    let parts = match verb.profile {
        true => parts(&artifact, entry, session.as_mut(), &views, verb.runs)?,
        false => Vec::new(),
    };
    let at = |q: f64| times[((times.len() - 1) as f64 * q).round() as usize];
    let enqueues = session.enqueues(entry);
    let per_enqueue = enqueues.filter(|&n| n > 0).map(|n| at(0.5) / n as f64);
    let moved = moved(&artifact, entry);
    if verb.json {
        print_json(&json!({
            "version": JSON_VERSION,
            "backend": verb.exec.backend,
            "threads": session.device().is_none().then_some(verb.exec.threads),
            "device": session.device(),
            "runs": verb.runs,
            "load_microseconds": load_time * 1e6,
            "read_microseconds": read_time * 1e6,
            "microseconds": { "min": at(0.0), "p50": at(0.5), "p99": at(0.99), "max": at(1.0) },
            "allocations": allocations,
            "enqueues_per_run": enqueues,
            "microseconds_per_enqueue": per_enqueue,
            "parts": parts.iter().map(Part::json).collect::<Vec<_>>(),
            "sram_bytes_per_run": { "read": moved.read, "written": moved.written },
            "link_bytes_per_run": moved.sent,
            "multiply_adds_per_run": moved.macs,
        }));
        return Ok(());
    }
    let place = match session.device() {
        Some(device) => device.to_owned(),
        None => format!("{} threads", verb.exec.threads),
    };
    let mut out = vec![format!(
        "{} on {}, {place}: {} runs after {} to warm up, loaded in {}, {} of it to read and check the file",
        artifact.name,
        verb.exec.backend,
        verb.runs,
        verb.warmup,
        text::microseconds(load_time * 1e6),
        text::microseconds(read_time * 1e6)
    )];
    for (name, q) in [("min", 0.0), ("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        out.push(format!("{name}  {}", text::microseconds(at(q))));
    }
    out.push(format!("allocations while running: {allocations}"));
    if let (Some(n), Some(each)) = (enqueues, per_enqueue) {
        out.push(format!("enqueues per run: {n}, {each:.2} us each at p50"));
    }
    let seconds = at(0.5) * 1e-6;
    out.push(format!(
        "multiply-adds per run: {} ({:.1} GFLOP/s at p50)",
        text::count(moved.macs),
        2.0 * moved.macs as f64 / seconds / 1e9
    ));
    out.push(format!(
        "bytes per run as scheduled: {} read, {} written, {} over links",
        text::bytes(moved.read),
        text::bytes(moved.written),
        text::bytes(moved.sent)
    ));
    if !parts.is_empty() {
        let all: f64 = parts.iter().map(|p| p.microseconds).sum();
        out.push(format!("{:>10}  {:>5}  {:>6}  part", "time", "share", "steps"));
        for p in &parts {
            let (time, share) = (text::microseconds(p.microseconds), p.microseconds / all * 100.0);
            out.push(format!(
                "{time:>10}  {share:>4.1}%  {:>6}  {} {}",
                p.steps, p.operation, p.kind
            ));
        }
    }
    lines(out);
    Ok(())
}

/// Steps of one kind for one kind of operation, over a run.
struct Part {
    operation: String,
    kind: &'static str,
    steps: usize,
    microseconds: f64,
}

impl Part {
    fn json(&self) -> serde_json::Value {
        json!({
            "operation": self.operation,
            "kind": self.kind,
            "steps": self.steps,
            "microseconds": self.microseconds,
        })
    }
}

/// Where the time of a run goes on the calling thread: the least of several runs for each step, the longest part first.
fn parts(
    artifact: &Artifact,
    entry: usize,
    session: &mut dyn Session,
    inputs: &[TensorView<'_>],
    runs: u32,
) -> Result<Vec<Part>, Failure> {
    let mut best = session.profile(entry, inputs)?;
    for _ in 1..runs {
        let times = session.profile(entry, inputs)?;
        for (b, t) in best.iter_mut().zip(&times) {
            b.nanoseconds = b.nanoseconds.min(t.nanoseconds);
        }
    }
    let e = &artifact.entries[entry];
    let operation = |chain: Option<u32>| {
        let chain = chain.and_then(|c| e.chains.get(c as usize));
        let origin = chain.and_then(|c| e.origins.get(c.origin as usize));
        let op = origin.and_then(|o| o.op.split(' ').next());
        op.unwrap_or("host").to_owned()
    };
    let mut sums: BTreeMap<(String, &'static str), (usize, u64)> = BTreeMap::new();
    for t in &best {
        let sum = sums.entry((operation(t.chain), t.kind)).or_default();
        *sum = (sum.0 + 1, sum.1 + t.nanoseconds);
    }
    let mut parts: Vec<Part> = sums
        .into_iter()
        .map(|((operation, kind), (steps, nanoseconds))| Part {
            operation,
            kind,
            steps,
            microseconds: nanoseconds as f64 / 1e3,
        })
        .collect();
    parts.sort_by(|a, b| b.microseconds.total_cmp(&a.microseconds));
    Ok(parts)
}

/// What the instructions of an entry move and compute, over all chips.
struct Moved {
    read: u64,
    written: u64,
    sent: u64,
    macs: u64,
}

fn moved(artifact: &Artifact, entry: usize) -> Moved {
    let word = artifact.target.word_bytes() as u64;
    let mut m = Moved {
        read: 0,
        written: 0,
        sent: 0,
        macs: 0,
    };
    for chip in &artifact.entries[entry].chips {
        let Some(program) = artifact.programs.get(chip.program as usize) else {
            continue;
        };
        for (run, claims) in program.runs.iter().zip(&chip.claims) {
            let issues = u64::from(run.issues());
            let bytes = issues
                * u64::from(if run.words > 0 {
                    u16::from(run.words)
                } else {
                    run.dtype.words()
                })
                * word;
            match run.op {
                Opcode::Read | Opcode::Gather => m.read += bytes,
                Opcode::Write | Opcode::Scatter => m.written += bytes,
                Opcode::Send => m.sent += issues * word,
                Opcode::Mul => {
                    let cells = |b: &lockstep::isa::claim::Block| {
                        let w = b.window;
                        u64::from(w.n1.saturating_sub(w.n0)) * u64::from(w.k1.saturating_sub(w.k0))
                    };
                    m.macs += issues * claims.blocks.iter().map(cells).sum::<u64>();
                }
                _ => {}
            }
        }
    }
    m
}
