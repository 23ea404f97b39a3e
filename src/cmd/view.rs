//! `lockstep view`: the schedule of an artifact, or of two, as one html file to look at.

use super::{line, print_json};
use crate::args::ViewVerb;
use crate::diag::{JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::{subject, text};
use lockstep::Artifact;
use lockstep::files::{self, FileError};
use lockstep::isa::artifact::Entry;
use serde_json::{Value, json};
use std::io::Write;

/// Runs the verb.
///
/// # Errors
/// A subject that cannot be opened; a file that cannot be written.
pub fn run(verb: &ViewVerb) -> Outcome {
    let mut progress = Progress::new();
    let output = verb.output.clone();
    let output = output.unwrap_or_else(|| subject::default_output(&verb.subject.path, "html"));
    let mut artifacts = vec![subject::open(&verb.subject, &mut progress)?];
    if let Some(other) = &verb.other {
        artifacts.push(files::read_artifact(other)?);
    }
    progress.begin("view");
    let page = lockstep_view::page::html(&artifacts.iter().collect::<Vec<_>>());
    progress.begin("write");
    let length = files::write_renamed(&output, |out| {
        out.write_all(page.as_bytes()).map_err(|source| FileError::Io {
            path: output.clone(),
            what: "write",
            source,
        })
    })?;
    progress.end();
    drop(progress);
    let runs = |e: &Entry| e.chips.iter().map(|c| c.claims.len()).sum::<usize>();
    if verb.json {
        let entry = |e: &Entry| json!({ "entry": e.name, "makespan_cycles": e.makespan, "runs": runs(e) });
        let one = |a: &Artifact| {
            let entries: Vec<Value> = a.entries.iter().map(entry).collect();
            json!({ "model": a.name, "target": a.target.name, "chips": a.n_chips, "entries": entries })
        };
        print_json(&json!({
            "version": JSON_VERSION, "view": output.display().to_string(), "bytes": length,
            "artifacts": artifacts.iter().map(one).collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    let all: usize = artifacts.iter().flat_map(|a| &a.entries).map(runs).sum();
    line(format!(
        "{} instructions -> {}, {}",
        text::count(all as u64),
        output.display(),
        text::bytes(length)
    ));
    Ok(())
}
