//! `lockstep targets`: the built-in machines and a user's own.

use super::{line, lines, print_json};
use crate::args::{TargetsSub, TargetsVerb};
use crate::diag::{JSON_VERSION, Outcome};
use crate::text;
use lockstep::{Target, files};
use serde_json::json;

/// Runs the verb.
///
/// # Errors
/// A target that is unknown or wrong.
pub fn run(verb: &TargetsVerb) -> Outcome {
    match &verb.verb {
        TargetsSub::List { json } => list(*json),
        TargetsSub::Show { name, json, toml } => show(name, *json, *toml),
    }
}

fn list(as_json: bool) -> Outcome {
    let mut targets = Vec::new();
    for name in Target::builtin_names() {
        targets.push(files::target(name)?);
    }
    if as_json {
        let all: Vec<_> = targets
            .iter()
            .map(|t| {
                json!({
                    "name": t.name, "lanes": t.lanes, "clock_hz": t.clock_hz,
                    "sram_bytes": t.sram_bytes(), "max_chips": t.max_chips,
                })
            })
            .collect();
        print_json(&json!({ "version": JSON_VERSION, "targets": all }));
        return Ok(());
    }
    let mut rows = vec![text::row(["name", "lanes", "clock", "SRAM per chip", "most chips"])];
    for t in &targets {
        rows.push(vec![
            t.name.clone(),
            t.lanes.to_string(),
            format!("{} MHz", t.clock_hz / 1_000_000),
            text::bytes(t.sram_bytes()),
            t.max_chips.to_string(),
        ]);
    }
    lines(text::table(&rows));
    Ok(())
}

fn show(name: &str, as_json: bool, toml: bool) -> Outcome {
    let target = files::target(name)?;
    if toml {
        line(target.to_toml().trim_end());
        return Ok(());
    }
    let figures = target.figures();
    if as_json {
        let all: Vec<_> = figures
            .iter()
            .map(|f| json!({ "field": f.field, "value": f.value, "source": f.note }))
            .collect();
        print_json(&json!({ "version": JSON_VERSION, "name": target.name, "figures": all }));
        return Ok(());
    }
    line(format!("target {}", target.name));
    let mut rows = vec![text::row(["figure", "value", "source"])];
    rows.extend(figures.into_iter().map(|f| vec![f.field, f.value, f.note]));
    lines(text::table(&rows));
    Ok(())
}
