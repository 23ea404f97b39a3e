//! `lockstep trace`: a schedule as a file for trace viewers.

use super::{line, print_json};
use crate::args::{TraceFormat, TraceVerb};
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::{subject, text};
use lockstep::files::{self, FileError};
use lockstep_view::trace::{self, Format, Summary};
use serde_json::json;
use std::path::Path;

/// Runs the verb.
///
/// # Errors
/// An output whose extension says no format; a subject that cannot be opened; no such entry; what writing reports.
pub fn run(verb: &TraceVerb) -> Outcome {
    let format = format(verb)?;
    let extension = if format == Format::Chrome { "json" } else { "pftrace" };
    let output = verb.output.clone();
    let output = output.unwrap_or_else(|| subject::default_output(&verb.subject.path, extension));
    let mut progress = Progress::new();
    let artifact = subject::open(&verb.subject, &mut progress)?;
    let entry = subject::entry(&artifact, verb.entry.as_deref())?;
    progress.begin("write");
    let mut sum = Summary::default();
    let bytes = files::write_renamed(&output, |out| {
        sum = trace::write(&artifact, entry, format, out).map_err(|source| FileError::Io {
            path: output.clone(),
            what: "write",
            source,
        })?;
        Ok(())
    })?;
    progress.end();
    drop(progress);
    let name = artifact.entries.get(entry).map_or("", |e| &e.name);
    if verb.json {
        print_json(&json!({
            "version": JSON_VERSION, "model": artifact.name, "entry": name, "trace": output.display().to_string(),
            "bytes": bytes, "chips": artifact.n_chips, "tracks": sum.tracks, "slices": sum.slices, "flows": sum.flows,
            "samples": sum.samples,
        }));
        return Ok(());
    }
    line(format!(
        "{} runs on {} queues of {} {}, {} receives -> {}, {}",
        text::count(sum.slices),
        text::count(sum.tracks),
        artifact.n_chips,
        if artifact.n_chips == 1 { "chip" } else { "chips" },
        text::count(sum.flows),
        output.display(),
        text::bytes(bytes)
    ));
    Ok(())
}

/// The format: as asked for, or by the extension of the output.
fn format(verb: &TraceVerb) -> Outcome<Format> {
    match (verb.format, &verb.output) {
        (Some(TraceFormat::Perfetto), _) | (None, None) => Ok(Format::Perfetto),
        (Some(TraceFormat::Chrome), _) => Ok(Format::Chrome),
        (None, Some(path)) => by_extension(path).ok_or_else(|| {
            Failure::usage(format!(
                "{path:?}: the extension says no format; expected .pftrace, .perfetto-trace or .json, or --format"
            ))
        }),
    }
}

fn by_extension(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "pftrace" | "perfetto-trace" => Some(Format::Perfetto),
        "json" => Some(Format::Chrome),
        _ => None,
    }
}
