//! `lockstep view`: an artifact's schedule as one html file to look at.

use super::{line, print_json};
use crate::args::ViewVerb;
use crate::diag::{JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::{subject, text};
use lockstep::files::{self, FileError};
use lockstep::isa::artifact::Entry;
use serde_json::json;
use std::io::Write;

/// Runs the verb.
///
/// # Errors
/// A subject that cannot be opened; a file that cannot be written.
pub fn run(verb: &ViewVerb) -> Outcome {
    let mut progress = Progress::new();
    let output = verb.output.clone();
    let output = output.unwrap_or_else(|| subject::default_output(&verb.subject.path, "html"));
    let artifact = subject::open(&verb.subject, &mut progress)?;
    progress.begin("view");
    let page = lockstep_view::page::html(&artifact);
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
        let entries = artifact.entries.iter();
        let entries = entries.map(|e| json!({ "entry": e.name, "makespan_cycles": e.makespan, "runs": runs(e) }));
        print_json(&json!({
            "version": JSON_VERSION, "view": output.display().to_string(), "bytes": length, "chips": artifact.n_chips,
            "entries": entries.collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    let all: usize = artifact.entries.iter().map(runs).sum();
    line(format!(
        "{} instructions -> {}, {}",
        text::count(all as u64),
        output.display(),
        text::bytes(length)
    ));
    Ok(())
}
