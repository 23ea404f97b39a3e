//! The report as one HTML page: the text's figures, and plots of SRAM, utilisation, energy and the roofline. No script, no network.

use super::{BYTES, Part, body, entries, headline, list, number, word};
use crate::text;
use lockstep::Artifact;
use lockstep_view::chart::{self, Axis, Bar, Bars, Line, Point, Scatter, escape};
use lockstep_view::roofline;
use serde_json::Value;

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2.5rem}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:1rem 0}\
.wide{overflow-x:auto}th,td{padding:.15rem .9rem .15rem 0;text-align:left;vertical-align:top}th{border-bottom:1px solid #8b949e}\
td.n,th.n{text-align:right;white-space:nowrap}svg{max-width:100%;height:auto;display:block;margin:1rem 0}\
@media print{body{max-width:none;margin:0}svg,tr{break-inside:avoid}}";

/// The page.
pub fn page(artifact: &Artifact, report: &Value) -> String {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n");
    out += "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n";
    let title = format!("{} for {}", artifact.name, artifact.target.name);
    out += &format!(
        "<title>{}</title>\n<style>{STYLE}\n{}</style>\n",
        escape(&title),
        chart::STYLE
    );
    out += &format!("<h1>{}</h1>\n", escape(&title));
    for line in headline(&artifact.name, report) {
        out += &format!("<p>{}</p>\n", escape(&line));
    }
    for part in body(report) {
        out += &html(&part);
    }
    for (i, one) in entries(report).into_iter().enumerate() {
        let name = word(one.value, "entry");
        out += &format!("<h2>entry {}</h2>\n", escape(name));
        let index = artifact.entries.iter().position(|e| e.name == name).unwrap_or(i);
        out += &sram(one.value).svg(false);
        out += &utilisation(one.value).svg(false);
        out += &energy(one.value).svg(false);
        out += &roof(artifact, index).svg(false);
        for part in &one.parts {
            out += &html(part);
        }
    }
    out + "</html>\n"
}

fn html(part: &Part) -> String {
    match part {
        Part::Line(line) => format!("<p>{}</p>\n", escape(line)),
        Part::Gap => String::new(),
        Part::Table(rows) => {
            let numeric = |c: usize| {
                let mut cells = rows.iter().skip(1).filter_map(|r| r.get(c)).peekable();
                // A number, in groups of three, with a unit at most.
                let number = |s: &str| s.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !s.contains(':');
                cells.peek().is_some() && cells.all(|s| number(s) || s == "not scheduled")
            };
            let row = |cells: &Vec<String>, tag: &str| {
                let cell = |(c, text): (usize, &String)| {
                    let class = if numeric(c) { " class=\"n\"" } else { "" };
                    format!("<{tag}{class}>{}</{tag}>", escape(text))
                };
                let cells: String = cells.iter().enumerate().map(cell).collect();
                format!("<tr>{cells}</tr>\n")
            };
            let all: String = rows
                .iter()
                .enumerate()
                .map(|(i, cells)| row(cells, if i == 0 { "th" } else { "td" }))
                .collect();
            format!("<div class=\"wide\"><table>\n{all}</table></div>\n")
        }
    }
}

fn bytes(value: f64) -> String {
    text::bytes(value.max(0.0) as u64)
}

fn sram(entry: &Value) -> Bars {
    const MIB: f64 = 1_048_576.0;
    let chips = list(entry, "sram_bytes_per_chip");
    let large = chips.iter().any(|c| number(c, "capacity") >= MIB);
    let (name, unit) = if large { ("MiB", MIB) } else { ("KiB", 1024.0) };
    Bars {
        title: format!("SRAM per chip by kind, {name}; the mark is what the chip has"),
        series: BYTES.iter().map(|(_, name)| (*name).to_owned()).collect(),
        bars: chips
            .iter()
            .enumerate()
            .map(|(c, chip)| Bar {
                label: format!("c{c}"),
                parts: BYTES.iter().map(|(key, _)| number(chip, key)).collect(),
                limit: Some(number(chip, "capacity")),
            })
            .collect(),
        most: None,
        unit,
        show: bytes,
    }
}

/// Bars of one part each, from the numbers of an object.
fn shares(title: &str, object: Option<&Value>, factor: f64, most: Option<f64>, show: fn(f64) -> String) -> Bars {
    let all = object.and_then(Value::as_object).into_iter().flatten();
    Bars {
        title: title.into(),
        series: vec![String::new()],
        bars: all
            .filter(|(name, _)| *name != "total")
            .map(|(name, value)| Bar {
                label: name.clone(),
                parts: vec![factor * value.as_f64().unwrap_or(0.0)],
                limit: None,
            })
            .collect(),
        most,
        unit: 1.0,
        show,
    }
}

fn utilisation(entry: &Value) -> Bars {
    let title = "Share of the makespan in which the units of a kind are busy, per cent";
    shares(title, entry.get("utilisation"), 100.0, Some(100.0), |v| {
        format!("{v:.1} %")
    })
}

fn energy(entry: &Value) -> Bars {
    let title = format!(
        "Energy of a run by event, {:.3} microjoules in all",
        entry.get("energy_microjoules").map_or(0.0, |e| number(e, "total"))
    );
    shares(&title, entry.get("energy_microjoules"), 1.0, None, |v| {
        format!("{v:.3} uJ")
    })
}

/// Every operation that computes something under what memory and units allow.
fn roof(artifact: &Artifact, entry: usize) -> Scatter {
    let (ops, roof) = roofline::of(artifact, entry);
    let mut points = Vec::new();
    let mut range = (f64::INFINITY, 0.0f64);
    for op in ops
        .iter()
        .filter(|op| op.products + op.alu > 0 && op.bytes > 0 && op.cycles > 0)
    {
        let work = (op.products + op.alu) as f64;
        let x = work / op.bytes as f64;
        range = (range.0.min(x), range.1.max(x));
        points.push(Point {
            x,
            y: work / op.cycles as f64,
            series: usize::from(op.products == 0),
            large: false,
            label: None,
            about: format!(
                "{} {}: {} operations, {} of SRAM, {} cycles",
                op.op,
                op.nodes.join(", "),
                text::count(op.products + op.alu),
                text::bytes(op.bytes),
                text::count(op.cycles)
            ),
        });
    }
    // Each roof rises with the memory's rate up to the peak of its unit.
    let under = |peak: f64, series: usize| {
        let corner = peak / roof.bytes.max(1.0);
        let (lo, hi) = (range.0.min(corner / 2.0), range.1.max(corner * 2.0));
        Line {
            points: vec![(lo, lo * roof.bytes), (corner, peak), (hi, peak)],
            series,
        }
    };
    Scatter {
        title: format!(
            "Roofline: {} operations over {} {}",
            points.len(),
            artifact.n_chips,
            if artifact.n_chips == 1 { "chip" } else { "chips" }
        ),
        x: Axis::new("operations per byte of SRAM traffic", true),
        y: Axis::new("operations per cycle, from its first issue to its end", true),
        points,
        lines: vec![under(roof.products, 0), under(roof.alu, 1)],
        series: vec![
            format!("with products; roof of the matrix units in {}", roof.dtype),
            "ALU operations alone; roof of the VXM".into(),
        ],
    }
}
