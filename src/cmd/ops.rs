//! `lockstep ops`: the operators that are imported, and which of a model's are not.

use super::{line, lines, print_json};
use crate::args::OpsVerb;
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::subject::model;
use lockstep::files::FileSource;
use lockstep_frontend::ImportErrorKind;
use lockstep_frontend::onnx::{MAX_OPSET, MIN_OPSET, ops};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Runs the verb.
///
/// # Errors
/// What reading and importing the model report, also that some of it is not supported.
pub fn run(verb: &OpsVerb) -> Outcome {
    let Some(path) = &verb.model else {
        return list(verb.json);
    };
    let source = FileSource::open(path)?;
    // Operators do not depend on sizes: the first entry stands for all.
    let options = model::import_options(&verb.options)?.into_iter().next();
    let options = options.map(|(_, options)| options).unwrap_or_default();
    let error = match lockstep::import(&source, &options) {
        Ok(graph) => {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            for node in graph.nodes.values() {
                *counts.entry(node.op.name()).or_default() += 1;
            }
            if verb.json {
                print_json(&json!({ "version": JSON_VERSION, "unsupported": [], "operators": counts }));
                return Ok(());
            }
            line("every operator is supported; imported, the model has");
            lines(counts.iter().map(|(name, n)| format!("{n:6}  {name}")));
            return Ok(());
        }
        Err(error) => error,
    };
    if let ImportErrorKind::Unsupported(found) = &*error.kind {
        if verb.json {
            let all: Vec<Value> = found
                .iter()
                .map(|op| {
                    json!({
                        "operator": op.op, "domain": op.domain, "opset": op.opset, "nodes": op.nodes,
                        "reason": op.reason, "help": op.help,
                    })
                })
                .collect();
            print_json(&json!({ "version": JSON_VERSION, "unsupported": all }));
        } else {
            for op in found {
                line(format!("{} (opset {}): {}", op.op, op.opset, op.reason));
                lines(op.nodes.iter().map(|node| format!("        {node}")));
            }
        }
    }
    Err(Failure::from(error))
}

/// All operators that there are importers for.
fn list(as_json: bool) -> Outcome {
    let names = ops::supported();
    if as_json {
        print_json(&json!({
            "version": JSON_VERSION, "least_opset": MIN_OPSET, "newest_opset": MAX_OPSET, "operators": names,
        }));
        return Ok(());
    }
    line(format!(
        "{} operators, of opsets {MIN_OPSET} to {MAX_OPSET}",
        names.len()
    ));
    lines(names.into_iter().map(|name| format!("  {name}")));
    Ok(())
}
