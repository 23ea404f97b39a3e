//! `lockstep report`: what the compiler found out about a schedule, as stored in the artifact.

mod html;
#[cfg(feature = "compile")]
mod plan;
#[cfg(all(feature = "compile", feature = "generate"))]
mod quantisation;

use super::{line, lines, print_json};
use crate::args::ReportVerb;
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::progress::Progress;
use crate::{subject, text};
use lockstep::Artifact;
use lockstep::files::{self, FileError};
use serde_json::{Value, json};
use std::io::Write;

/// Runs the verb.
///
/// # Errors
/// A subject that cannot be opened; an artifact whose report is no JSON.
pub fn run(verb: &ReportVerb) -> Outcome {
    #[cfg(feature = "compile")]
    if plan::run(verb)? {
        return Ok(());
    }
    let mut progress = Progress::new();
    #[cfg(all(feature = "compile", feature = "generate"))]
    let error = quantisation::measure(verb, &mut progress)?;
    let artifact = subject::open(&verb.subject, &mut progress)?;
    drop(progress);
    let value = of(&artifact)?;
    #[cfg(all(feature = "compile", feature = "generate"))]
    let value = quantisation::added(value, error);
    if let Some(path) = &verb.html {
        let page = html::page(&artifact, &value);
        files::write_renamed(path, |out| {
            out.write_all(page.as_bytes()).map_err(|source| FileError::Io {
                path: path.clone(),
                what: "write",
                source,
            })
        })?;
    }
    if verb.json {
        print_json(&json!({ "version": JSON_VERSION, "model": artifact.name, "report": value }));
        return Ok(());
    }
    if let Some(path) = &verb.html {
        lines(headline(&artifact.name, &value));
        line(format!("-> {}", path.display()));
        return Ok(());
    }
    lines(whole(&artifact.name, &value));
    Ok(())
}

/// The report as text.
fn whole(name: &str, report: &Value) -> Vec<String> {
    let mut out = headline(name, report);
    out.extend(body(report).into_iter().flat_map(Part::text));
    for one in entries(report) {
        out.extend(one.parts.into_iter().flat_map(Part::text));
    }
    out
}

/// A part of the report, as text or as HTML.
enum Part {
    Line(String),
    /// The first row is the head.
    Table(Vec<Vec<String>>),
    Gap,
}

impl Part {
    fn text(self) -> Vec<String> {
        match self {
            Part::Line(line) => vec![line],
            Part::Table(rows) => text::table(&rows),
            Part::Gap => vec![String::new()],
        }
    }
}

/// What there is to say about one entry.
struct EntryParts<'a> {
    value: &'a Value,
    parts: Vec<Part>,
}

/// The report of an artifact.
///
/// # Errors
/// A report that is no JSON.
pub fn of(artifact: &Artifact) -> Outcome<Value> {
    serde_json::from_str(&artifact.report).map_err(|e| {
        Failure::new(
            crate::diag::Code::Artifact,
            format!("the artifact's report is no json: {e}"),
        )
    })
}

/// A number of the report; 0 where it has none.
fn number(value: &Value, key: &str) -> f64 {
    value.get(key).and_then(Value::as_f64).unwrap_or(0.0)
}

fn cycles(value: &Value, key: &str) -> String {
    text::count(value.get(key).and_then(Value::as_u64).unwrap_or(0))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

/// The first lines: model, target, chips, cycles, bound.
pub fn headline(name: &str, report: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let entries = list(report, "entries");
    let n = number(report, "chips");
    let chips = if n == 1.0 { "chip" } else { "chips" };
    for one in entries {
        let entry = match entries {
            [_] => String::new(),
            _ => format!(" entry {}", word(one, "entry")),
        };
        out.push(format!(
            "{name}{entry} for {} on {n} {chips}: {} cycles, {}",
            word(report, "target"),
            cycles(one, "makespan_cycles"),
            text::microseconds(number(one, "microseconds"))
        ));
    }
    for one in entries {
        let entry = match entries {
            [_] => String::new(),
            _ => format!("entry {}: ", word(one, "entry")),
        };
        out.push(format!(
            "{entry}bound {} cycles ({}), roofline {}; makespan / bound {:.2}, bound / roofline {:.2}",
            cycles(one, "bound_cycles"),
            word(one, "bound_limit"),
            cycles(one, "roofline_cycles"),
            number(one, "makespan_over_bound"),
            number(one, "bound_over_roofline")
        ));
    }
    out
}

/// What there is to say about all entries together.
fn body(report: &Value) -> Vec<Part> {
    let mut out = vec![Part::Line(format!("partition: {}", word(report, "partition")))];
    out.push(Part::Line(format!("why so many chips: {}", word(report, "why"))));
    let head = ["partition examined", "modelled", "bound", "makespan", "interval"];
    let mut rows = vec![text::row(head)];
    for one in list(report, "examined") {
        let scheduled = |key: &str| {
            let found = one.get(key).and_then(Value::as_u64);
            found.map_or("not scheduled".into(), text::count)
        };
        rows.push(vec![
            word(one, "partition").to_owned(),
            cycles(one, "modelled_cycles"),
            cycles(one, "bound_cycles"),
            scheduled("makespan_cycles"),
            scheduled("interval_cycles"),
        ]);
    }
    out.push(Part::Table(rows));
    if let Some(trial) = report.get("rewrites").filter(|t| t.is_object()) {
        let kept = number(trial, "with_cycles") <= number(trial, "without_cycles");
        out.push(Part::Line(format!(
            "rewrites: {} cycles with them, {} without; {}",
            cycles(trial, "with_cycles"),
            cycles(trial, "without_cycles"),
            if kept { "kept" } else { "left out" }
        )));
    }
    #[cfg(all(feature = "compile", feature = "generate"))]
    if let Some(error) = report.get(quantisation::KEY) {
        out.extend(quantisation::parts(error));
    }
    out.push(Part::Gap);
    out
}

fn entries(report: &Value) -> Vec<EntryParts<'_>> {
    let entries = list(report, "entries");
    let one = |value| {
        let mut parts = Vec::new();
        if entries.len() > 1 {
            parts.push(Part::Gap);
            parts.push(Part::Line(format!(
                "entry {}: {} cycles, {}",
                word(value, "entry"),
                cycles(value, "makespan_cycles"),
                word(value, "partition")
            )));
        }
        parts.extend(entry(value));
        EntryParts { value, parts }
    };
    entries.iter().map(one).collect()
}

/// Kinds of bytes in SRAM: key in the report, and in words.
const BYTES: [(&str, &str); 5] = [
    ("const", "const"),
    ("state", "state"),
    ("scratch", "scratch"),
    ("lane_padding", "lane padding"),
    ("text", "text"),
];

/// What there is to say about one entry.
fn entry(report: &Value) -> Vec<Part> {
    let mut out = vec![Part::Line(format!(
        "bound: resources {} cycles, critical path {} cycles",
        cycles(report, "bound_resource_cycles"),
        cycles(report, "bound_critical_path_cycles")
    ))];
    out.extend(throughput(report).map(Part::Line));
    out.push(Part::Line(format!(
        "program: {} chains, {} runs",
        cycles(report, "chains"),
        cycles(report, "runs")
    )));
    out.extend(gains(report).into_iter().map(Part::Line));

    out.push(Part::Gap);
    let mut head = vec!["chip".to_owned()];
    head.extend(BYTES.iter().map(|(_, name)| (*name).to_owned()));
    head.extend(text::row(["sum", "SRAM"]));
    let mut rows = vec![head];
    for (c, chip) in list(report, "sram_bytes_per_chip").iter().enumerate() {
        let of = |key: &str| chip.get(key).and_then(Value::as_u64).unwrap_or(0);
        let mut row = vec![format!("c{c}")];
        row.extend(BYTES.iter().map(|(k, _)| text::bytes(of(k))));
        row.push(text::bytes(BYTES.iter().map(|(k, _)| of(k)).sum()));
        row.push(text::bytes(of("capacity")));
        rows.push(row);
    }
    out.push(Part::Table(rows));

    out.push(Part::Gap);
    let mut rows = vec![text::row(["unit", "busy"])];
    if let Some(units) = report.get("utilisation").and_then(Value::as_object) {
        for (unit, share) in units {
            rows.push(vec![
                unit.clone(),
                format!("{:.1} %", 100.0 * share.as_f64().unwrap_or(0.0)),
            ]);
        }
    }
    out.push(Part::Table(rows));

    let links = list(report, "link_words");
    if !links.is_empty() {
        out.push(Part::Gap);
        let mut rows = vec![text::row(["link", "words"])];
        rows.extend(links.iter().map(|l| {
            vec![
                format!("c{}.c2c{}", cycles(l, "chip"), cycles(l, "link")),
                cycles(l, "words"),
            ]
        }));
        out.push(Part::Table(rows));
    }

    out.push(Part::Gap);
    let mut rows = vec![text::row(["energy per run", "microjoules"])];
    if let Some(kinds) = report.get("energy_microjoules").and_then(Value::as_object) {
        let (sum, each): (Vec<_>, Vec<_>) = kinds.iter().partition(|(kind, _)| *kind == "total");
        for (kind, value) in each.into_iter().chain(sum) {
            rows.push(vec![kind.clone(), format!("{:.3}", value.as_f64().unwrap_or(0.0))]);
        }
    }
    out.push(Part::Table(rows));

    out.push(Part::Gap);
    let mut rows = vec![text::row(["critical path", "from", "to", "waited for", "nodes"])];
    const SHOWN: usize = 40;
    let steps = list(report, "critical_path");
    for step in steps.iter().take(SHOWN) {
        let nodes: Vec<&str> = list(step, "nodes").iter().filter_map(Value::as_str).collect();
        rows.push(vec![
            word(step, "op").to_owned(),
            format!("{}", number(step, "start")),
            format!("{}", number(step, "end")),
            word(step, "waited_for").to_owned(),
            nodes.join(", "),
        ]);
    }
    out.push(Part::Table(rows));
    if steps.len() > SHOWN {
        let more = steps.len() - SHOWN;
        out.push(Part::Line(format!("and {more} more steps (all with --json)")));
    }
    out
}

/// Runs per second for one user and for all, and what limits them; nothing where the report does not say.
fn throughput(report: &Value) -> Option<String> {
    let (users, interval) = (number(report, "users_in_flight"), number(report, "interval_cycles"));
    let stages: Vec<u64> = list(report, "stage_cycles").iter().filter_map(Value::as_u64).collect();
    let longest = stages.iter().copied().max()?;
    let slowest = stages.iter().position(|&s| s == longest)?;
    let limit = match (users == 1.0, interval <= longest as f64) {
        (true, _) => "a run at a time".to_owned(),
        (_, true) => format!("a run occupies stage {slowest} of {} longest", stages.len()),
        _ => "all users have a run in flight".to_owned(),
    };
    let s = if users == 1.0 { "" } else { "s" };
    Some(format!(
        "runs per second: {:.0} for one user, {:.0} over {users} user{s} in flight, one every {} cycles: {limit}",
        number(report, "runs_per_second"),
        number(report, "runs_per_second_of_all"),
        cycles(report, "interval_cycles")
    ))
}

/// What each rewrite stage gained, where the report says.
fn gains(report: &Value) -> Vec<String> {
    list(report, "rewrites")
        .iter()
        .map(|g| {
            format!(
                "rewrite {}: modelled {} -> {} cycles",
                word(g, "stage"),
                cycles(g, "cycles_before"),
                cycles(g, "cycles_after")
            )
        })
        .collect()
}
