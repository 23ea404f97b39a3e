//! `lockstep verify`: proves an artifact from its instructions and claims.

use super::{line, lines, print_json};
use crate::args::VerifyVerb;
use crate::diag::{Code, Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::text;
use lockstep::isa::artifact::check_hashes;
use lockstep::isa::verify::VerifySummary;
use lockstep::{Target, files};
use serde_json::{Value, json};

/// Runs the verb.
///
/// # Errors
/// An artifact that cannot be read, or that is rejected: a section's blake3 hash differs, or an invariant is broken.
pub fn run(verb: &VerifyVerb) -> Outcome {
    let mut progress = Progress::new();
    progress.begin("load");
    let artifact = files::read_artifact(&verb.path)?;
    progress.begin("hashes");
    let bytes = files::map_file(&verb.path)?;
    check_hashes(bytes.as_ref()).map_err(|e| Failure::new(Code::Check, e.to_string()))?;
    progress.begin("verify");
    let summary = lockstep::verify(&artifact).map_err(Failure::from)?;
    progress.end();
    drop(progress);
    if verb.json {
        print_json(&json!({ "version": JSON_VERSION, "sound": true, "summary": value(&summary) }));
        return Ok(());
    }
    line(format!(
        "{}: sound, for {} on {} {}",
        artifact.name,
        artifact.target.name,
        artifact.n_chips,
        if artifact.n_chips == 1 { "chip" } else { "chips" }
    ));
    lines(summary_lines(&summary, &artifact.target));
    Ok(())
}

/// What was proved, as text.
pub fn summary_lines(summary: &VerifySummary, target: &Target) -> Vec<String> {
    let mut out = Vec::new();
    for e in &summary.entries {
        let us = e.makespan as f64 * 1e6 / target.clock_hz.max(1) as f64;
        out.push(format!(
            "entry {}: {} cycles ({}), {} chains, {} runs, {} issues",
            e.name,
            text::count(e.makespan),
            text::microseconds(us),
            text::count(e.chains),
            text::count(e.runs),
            text::count(e.events)
        ));
    }
    for (chip, (data, code)) in summary.data_bytes.iter().zip(&summary.text_bytes).enumerate() {
        out.push(format!(
            "c{chip}: {} of values, {} of instructions, {} of SRAM",
            text::bytes(*data),
            text::bytes(*code),
            text::bytes(target.sram_bytes())
        ));
    }
    out
}

/// What was proved, as JSON.
fn value(summary: &VerifySummary) -> Value {
    let entries: Vec<Value> = summary
        .entries
        .iter()
        .map(|e| {
            let busy: Vec<Value> = e
                .busy
                .iter()
                .map(|b| {
                    json!({
                        "mem": b.mem, "mxm_load": b.mxm_load, "mxm_mul": b.mxm_mul, "vxm": b.vxm,
                        "sxm": b.sxm, "c2c_send": b.c2c_send, "c2c_recv": b.c2c_recv,
                    })
                })
                .collect();
            json!({
                "name": e.name, "makespan_cycles": e.makespan, "runs": e.runs, "issues": e.events,
                "chains": e.chains, "busy_cycles_per_chip": busy,
            })
        })
        .collect();
    json!({
        "entries": entries,
        "data_bytes_per_chip": summary.data_bytes,
        "text_bytes_per_chip": summary.text_bytes,
    })
}
