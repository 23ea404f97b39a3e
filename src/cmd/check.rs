//! `lockstep check`: what there is to know of a model before it is compiled.

use super::{line, lines, print_json};
use crate::args::CheckVerb;
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::subject::model;
use crate::text;
use lockstep::graph::{DType, Graph};
use lockstep::{Target, files};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Runs the verb.
///
/// # Errors
/// What importing the model reports: unbound symbols with the flags that bind them, everything that is not supported.
pub fn run(verb: &CheckVerb) -> Outcome {
    let mut progress = Progress::new();
    let entries = model::import(&verb.model, &verb.options, &mut progress)?.entries;
    drop(progress);
    // Weights and operators of all entries are the same.
    let Some((_, graph)) = entries.first() else {
        return Err(Failure::usage("the options leave no entry"));
    };
    let mut operators: BTreeMap<String, usize> = BTreeMap::new();
    for node in graph.nodes.values() {
        *operators.entry(node.op.name()).or_default() += 1;
    }
    let mut dtypes: BTreeMap<DType, usize> = BTreeMap::new();
    for value in graph.values.values() {
        *dtypes.entry(value.dtype).or_default() += 1;
    }
    let parameters: u64 = graph
        .consts
        .keys()
        .map(|&v| graph.values[v].shape.n_elements() as u64)
        .sum();
    let bytes = graph.const_bytes();
    let chips = chips(bytes)?;
    if verb.json {
        let ports = |names: Vec<(&str, String)>| -> Vec<Value> {
            names
                .into_iter()
                .map(|(name, ty)| json!({ "name": name, "type": ty }))
                .collect()
        };
        let dtypes: BTreeMap<&str, usize> = dtypes.iter().map(|(d, n)| (d.name(), *n)).collect();
        print_json(&json!({
            "version": JSON_VERSION, "name": graph.name, "inputs": ports(inputs(graph)), "outputs": ports(outputs(graph)),
            "operators": operators, "dtypes": dtypes, "parameters": parameters, "constant_bytes": bytes,
            "least_chips": chips.iter().cloned().collect::<BTreeMap<String, u64>>(),
        }));
        return Ok(());
    }
    line(format!("{}: every operator is supported", graph.name));
    let mut rows = Vec::new();
    rows.extend(
        inputs(graph)
            .into_iter()
            .map(|(name, ty)| text::row(["input", &format!("{name} {ty}")])),
    );
    rows.extend(
        outputs(graph)
            .into_iter()
            .map(|(name, ty)| text::row(["output", &format!("{name} {ty}")])),
    );
    let all: Vec<String> = operators.iter().map(|(name, n)| format!("{n} {name}")).collect();
    rows.push(text::row(["operators", &all.join(", ")]));
    let all: Vec<String> = dtypes
        .iter()
        .map(|(dtype, n)| format!("{dtype} ({n}{})", stand_in(*dtype)))
        .collect();
    rows.push(text::row(["dtypes", &all.join(", ")]));
    rows.push(text::row(["parameters", &text::count(parameters)]));
    rows.push(text::row(["constants", &text::bytes(bytes)]));
    for (target, n) in &chips {
        let plural = if *n == 1 { "chip" } else { "chips" };
        rows.push(text::row(["needs", &format!("at least {n} {plural} of {target}")]));
    }
    lines(text::table(&rows));
    Ok(())
}

/// What a chip computes in place of a dtype, where that loses something.
fn stand_in(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => ", computed as f32",
        DType::I64 | DType::U64 | DType::U32 => ", computed as i32",
        _ => "",
    }
}

fn inputs(graph: &Graph) -> Vec<(&str, String)> {
    graph
        .inputs
        .iter()
        .map(|i| (i.name.as_str(), graph.type_text(i.value)))
        .collect()
}

fn outputs(graph: &Graph) -> Vec<(&str, String)> {
    graph
        .outputs
        .iter()
        .map(|o| (o.name.as_str(), graph.type_text(o.value)))
        .collect()
}

/// The fewest chips of each built-in target whose memory holds the constants alone.
fn chips(bytes: u64) -> Outcome<Vec<(String, u64)>> {
    let mut all = Vec::new();
    for name in Target::builtin_names() {
        let target = files::target(name)?;
        all.push((name.to_string(), bytes.div_ceil(target.sram_bytes().max(1)).max(1)));
    }
    Ok(all)
}
