//! `lockstep compile`: a model to an artifact.

use super::{line, lines, print_json};
use crate::args::CompileVerb;
use crate::cmd::report;
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::subject::{
    self,
    model::{self, Stages},
};
use crate::text;
use lockstep::files::{self, FileError};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Runs the verb.
///
/// # Errors
/// What importing, compiling and writing report.
pub fn run(verb: &CompileVerb) -> Outcome {
    let mut progress = Progress::new();
    let output = verb
        .output
        .clone()
        .unwrap_or_else(|| subject::default_output(&verb.model, "lks"));
    let dump_after = match (&verb.dump_after, &verb.emit_ir) {
        (_, Some(_)) => Some("all".to_owned()),
        (name, None) => name.clone(),
    };
    let stages = Stages {
        dump_after,
        stop_after: verb.stop_after.clone(),
    };
    if let Some(dir) = &verb.emit_ir {
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::usage(format!("{dir:?}: cannot create the directory: {e}")))?;
    }
    let mut dumped = Vec::new();
    let mut count = 0;
    let mut problem = None;
    let mut sink = |name: &str, text: &str| {
        if verb.dump_after.as_deref().is_some_and(|n| n == name || n == "all") {
            dumped.push((name.to_owned(), text.to_owned()));
        }
        if let Some(dir) = &verb.emit_ir {
            let path = dir.join(format!("{count:02}-{name}.txt"));
            count += 1;
            problem = write_text(&path, text).err().or(problem.take());
        }
    };
    let compiled = model::compile(&verb.model, &verb.options, stages, &mut progress, &mut sink)?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    if let (Some(name), true) = (&verb.dump_after, dumped.is_empty()) {
        let known: Vec<&str> = progress.timings().iter().map(|(n, _)| n.as_str()).collect();
        return Err(Failure::usage(format!(
            "--dump-after {name:?} is no pass or stage; this compile ran {}",
            known.join(", ")
        )));
    }
    let Some(artifact) = compiled.artifact else {
        drop(progress);
        return stopped(verb, &dumped);
    };
    if let (Some(dir), Some(text)) = (&verb.emit_ir, schedule_text(&artifact)) {
        write_text(&dir.join(format!("{count:02}-sched.txt")), &text)?;
    }
    if let Some(name) = &verb.stop_after {
        return Err(Failure::usage(format!("--stop-after {name:?} is no pass or stage")));
    }
    progress.begin("write");
    let length = files::write_artifact(&output, &artifact)?;
    progress.end();
    let timings = progress.timings().to_vec();
    drop(progress);

    let value: Value = serde_json::from_str(&artifact.report).unwrap_or_default();
    if verb.json {
        let times: Vec<Value> = timings
            .iter()
            .map(|(name, t)| json!({ "stage": name, "seconds": t.as_secs_f64() }))
            .collect();
        let mut out = json!({
            "version": JSON_VERSION,
            "artifact": output.display().to_string(),
            "bytes": length,
            "chips": artifact.n_chips,
            "target": artifact.target.name,
            "cycles": artifact.entries.iter().map(|e| json!({ "entry": e.name, "makespan_cycles": e.makespan })).collect::<Vec<_>>(),
            "verified": !verb.options.no_verify,
            "report": value,
        });
        if verb.timings {
            out["timings"] = json!(times);
        }
        if !dumped.is_empty() {
            out["dumps"] = dumps_json(&dumped);
        }
        print_json(&out);
        return Ok(());
    }
    print_dumps(&dumped);
    lines(report::headline(&artifact.name, &value));
    line(format!(
        "{} -> {}, {}",
        if verb.options.no_verify {
            "not verified"
        } else {
            "verified"
        },
        output.display(),
        text::bytes(length)
    ));
    if verb.timings {
        let mut rows = vec![text::row(["stage", "seconds"])];
        rows.extend(
            timings
                .iter()
                .map(|(name, t)| vec![name.clone(), format!("{:.3}", t.as_secs_f64())]),
        );
        lines(text::table(&rows));
    }
    Ok(())
}

fn stopped(verb: &CompileVerb, dumped: &[(String, String)]) -> Outcome {
    if verb.json {
        print_json(&json!({
            "version": JSON_VERSION, "stopped_after": verb.stop_after, "dumps": dumps_json(dumped),
        }));
    } else {
        print_dumps(dumped);
        line(format!(
            "stopped after {}",
            verb.stop_after.as_deref().unwrap_or("a stage")
        ));
    }
    Ok(())
}

fn print_dumps(dumped: &[(String, String)]) {
    for (name, text) in dumped {
        line(format!("; after {name}"));
        line(text.trim_end());
    }
}

fn dumps_json(dumped: &[(String, String)]) -> Value {
    dumped
        .iter()
        .map(|(name, text)| json!({ "stage": name, "text": text }))
        .collect()
}

fn schedule_text(artifact: &lockstep::Artifact) -> Option<String> {
    let mut out = String::new();
    for entry in 0..artifact.entries.len() {
        lockstep::isa::disasm::disassemble(artifact, entry, &mut out).ok()?;
    }
    Some(out)
}

fn write_text(path: &Path, text: &str) -> Outcome {
    files::write_renamed(path, |out| {
        out.write_all(text.as_bytes()).map_err(|source| FileError::Io {
            path: path.to_owned(),
            what: "write",
            source,
        })
    })?;
    Ok(())
}
