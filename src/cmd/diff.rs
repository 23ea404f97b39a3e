//! `lockstep diff`: two artifacts side by side.

use super::{lines, print_json};
use crate::args::{DiffBy, DiffVerb};
use crate::diag::{JSON_VERSION, Outcome};
use crate::subject::{self, Kind};
use crate::text;
use lockstep::{Artifact, files};
use lockstep_view::diff::{By, Diff, EntryDiff, Figure, Group, Moved};
use serde_json::json;
use std::path::Path;

/// Lines of a table that are shown; JSON has all.
const SHOWN: usize = 25;
/// Tensors that are shown.
const TENSORS: usize = 10;
/// Reasons of a line that are shown.
const REASONS: usize = 4;

/// Runs the verb.
///
/// # Errors
/// A file that is no artifact.
pub fn run(verb: &DiffVerb) -> Outcome {
    let (a, b) = (open(&verb.a)?, open(&verb.b)?);
    let by = match verb.by {
        DiffBy::Node => By::Node,
        DiffBy::Chain => By::Chain,
        DiffBy::Unit => By::Unit,
        DiffBy::Chip => By::Chip,
    };
    let diff = Diff::of(&a, &b, by);
    if verb.json {
        let (a, b) = (verb.a.display().to_string(), verb.b.display().to_string());
        print_json(&json!({ "version": JSON_VERSION, "a": a, "b": b, "diff": diff.to_value() }));
        return Ok(());
    }
    if diff.is_empty() {
        lines(["no difference".to_owned()]);
        return Ok(());
    }
    let mut out = vec![
        format!("A  {}", verb.a.display()),
        format!("B  {}", verb.b.display()),
        String::new(),
    ];
    if !diff.properties.is_empty() {
        let mut rows = vec![text::row(["property", "A", "B"])];
        let all = diff.properties.iter();
        rows.extend(all.map(|p| vec![p.name.clone(), p.a.clone(), p.b.clone()]));
        out.extend(text::table(&rows));
    }
    let head = verb.by.head();
    for one in &diff.entries {
        if out.last().is_some_and(|l| !l.is_empty()) {
            out.push(String::new());
        }
        out.extend(entry(one, head));
    }
    lines(out);
    Ok(())
}

fn open(path: &Path) -> Outcome<Artifact> {
    if subject::kind(path)? == Kind::Model {
        let message = format!("{path:?} is a model; diff compares artifacts, so compile it first");
        return Err(crate::diag::Failure::usage(message));
    }
    Ok(files::read_artifact(path)?)
}

fn entry(diff: &EntryDiff, head: &str) -> Vec<String> {
    let mut out = vec![format!("entry {}", diff.name)];
    let mut rows = vec![text::row(["total", "A", "B", "change", ""])];
    rows.extend(diff.figures.iter().map(|f| {
        let name = if f.unit.is_empty() || f.unit == "bytes" {
            f.name.clone()
        } else {
            format!("{}, {}", f.name, f.unit)
        };
        vec![name, number(f, f.a), number(f, f.b), change(f), share(f)]
    }));
    if rows.len() > 1 {
        out.extend(text::table(&rows));
    }
    for p in &diff.signature {
        out.push(format!("{}: {} -> {}", p.name, or_none(&p.a), or_none(&p.b)));
    }
    if diff.runs != [0, 0] {
        let [a, b] = diff.runs.map(text::count);
        out.push(format!(
            "{a} runs of A and {b} of B are not in the other in the same cycle"
        ));
    }
    if !diff.groups.is_empty() {
        out.push(String::new());
        out.extend(groups(&diff.groups, head));
    }
    if !diff.moved.is_empty() {
        out.push(String::new());
        out.extend(moved(&diff.moved));
    }
    out
}

fn groups(all: &[Group], head: &str) -> Vec<String> {
    let figure = |g: &Group, name: &str| -> [String; 2] {
        let found = g.figures.iter().find(|f| f.name == name);
        found.map_or([String::new(), String::new()], |f| {
            [format!("{} -> {}", number(f, f.a), number(f, f.b)), change(f)]
        })
    };
    // Cycles on the critical path sum to the makespan; where a grouping has none, the time from first to last cycle stands there.
    let has_path = all.iter().any(|g| g.figures.iter().any(|f| f.name == "critical path"));
    let time = if has_path { "critical path" } else { "span" };
    let mut rows = vec![text::row([head, time, "change", "busy", "change", "why"])];
    for g in all.iter().take(SHOWN) {
        let mut row = vec![g.name.clone()];
        row.extend(figure(g, time));
        row.extend(figure(g, "busy"));
        row.push(g.why.iter().take(REASONS).cloned().collect::<Vec<_>>().join("; "));
        rows.push(row);
    }
    let mut out = text::table(&rows);
    out.extend(more(all.len(), SHOWN));
    out
}

fn moved(all: &[Moved]) -> Vec<String> {
    let side = |banks: &[(String, u64)]| {
        let chips = Moved::per_chip(banks);
        let one = |(chip, bytes): (&String, &u64)| {
            let of = banks.iter().filter(|(b, _)| b.split('.').next() == Some(chip)).count();
            let plural = if of == 1 { "bank" } else { "banks" };
            format!("{chip} {} in {of} {plural}", text::bytes(*bytes))
        };
        match (banks, chips.len()) {
            ([], _) => "nowhere".to_owned(),
            ([(bank, bytes)], _) => format!("{bank} {}", text::bytes(*bytes)),
            (_, 1..=3) => chips.iter().map(one).collect::<Vec<_>>().join(", "),
            (_, n) => format!("{n} chips, {}", text::bytes(chips.values().sum())),
        }
    };
    let mut rows = vec![text::row(["tensor", "A", "B"])];
    let named = all.iter().take(TENSORS);
    rows.extend(named.map(|m| vec![m.tensor.clone(), side(&m.a), side(&m.b)]));
    let mut out = text::table(&rows);
    out.extend(more(all.len(), TENSORS));
    out
}

fn more(n: usize, shown: usize) -> Option<String> {
    (n > shown).then(|| format!("and {} more (all with --json)", n - shown))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

fn number(figure: &Figure, value: Option<f64>) -> String {
    match value {
        None => "none".into(),
        Some(v) if figure.unit == "bytes" => text::bytes(v as u64),
        Some(v) if v.fract() != 0.0 || figure.unit.starts_with("micro") => format!("{v:.2}"),
        Some(v) => text::count(v as u64),
    }
}

/// The change with its sign.
fn change(figure: &Figure) -> String {
    let by = figure.change();
    let sign = if by < 0.0 { "-" } else { "+" };
    format!("{sign}{}", number(figure, Some(by.abs())))
}

fn share(figure: &Figure) -> String {
    match figure.a {
        Some(a) if a > 0.0 => format!("{:+.1} %", 100.0 * figure.change() / a),
        _ => String::new(),
    }
}
