//! The result of a sweep: a row per combination and entry, as CSV, table and JSON, and which rows are on the Pareto front.

use super::vary::Combination;
use crate::diag::{Failure, Outcome};
use crate::text;
use serde_json::{Map, Value, json};

/// Columns after the keys: name in CSV and JSON, path in the report of an entry.
const FIGURES: [(&str, &[&str]); 12] = [
    ("makespan_cycles", &["makespan_cycles"]),
    ("microseconds", &["microseconds"]),
    ("bound_cycles", &["bound_cycles"]),
    ("roofline_cycles", &["roofline_cycles"]),
    ("makespan_over_bound", &["makespan_over_bound"]),
    ("energy_microjoules", &["energy_microjoules", "total"]),
    ("mxm_mul_utilisation", &["utilisation", "mxm_mul"]),
    ("vxm_utilisation", &["utilisation", "vxm"]),
    ("mem_utilisation", &["utilisation", "mem"]),
    ("c2c_utilisation", &["utilisation", "c2c"]),
    ("chains", &["chains"]),
    ("runs", &["runs"]),
];

/// A combination and an entry, or why there is none.
#[derive(Clone, Debug)]
pub struct Row {
    values: Vec<(String, String)>,
    entry: String,
    /// Chips in use.
    chips: Option<u64>,
    /// By [`FIGURES`]; null where the report has none.
    figures: Vec<Value>,
    /// Words sent over all links.
    words: Option<u64>,
    /// Largest sum of bytes on a chip.
    sram: Option<u64>,
    /// Whether no other row of this entry is better in all objectives.
    pub front: bool,
    /// Why there is no schedule.
    reason: String,
}

/// What may be minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Microseconds of the schedule.
    Latency,
    /// Its cycles.
    Cycles,
    /// Microjoules of a run.
    Energy,
    /// Chips in use.
    Chips,
    /// Bytes on the fullest chip.
    Sram,
}

impl Objective {
    const ALL: [Objective; 5] = [
        Objective::Latency,
        Objective::Cycles,
        Objective::Energy,
        Objective::Chips,
        Objective::Sram,
    ];

    /// As given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Objective::Latency => "latency",
            Objective::Cycles => "cycles",
            Objective::Energy => "energy",
            Objective::Chips => "chips",
            Objective::Sram => "sram",
        }
    }

    /// The name of an axis.
    pub fn axis(self) -> &'static str {
        match self {
            Objective::Latency => "latency, microseconds",
            Objective::Cycles => "makespan, cycles",
            Objective::Energy => "energy of a run, microjoules",
            Objective::Chips => "chips",
            Objective::Sram => "bytes on the fullest chip",
        }
    }
}

/// Objectives by name.
///
/// # Errors
/// A name that is not known or given twice; fewer than two.
pub fn objectives(names: &[String]) -> Outcome<Vec<Objective>> {
    let known = || Objective::ALL.map(Objective::name).join(", ");
    let mut out: Vec<Objective> = Vec::new();
    for name in names {
        match Objective::ALL.into_iter().find(|o| o.name() == name) {
            Some(o) if !out.contains(&o) => out.push(o),
            Some(_) => return Err(Failure::usage(format!("--pareto: {name} is given twice"))),
            None => {
                let known = known();
                return Err(Failure::usage(format!(
                    "--pareto: {name:?} is not known; allowed are {known}"
                )));
            }
        }
    }
    if out.len() < 2 {
        return Err(Failure::usage(format!("--pareto needs at least two of {}", known())));
    }
    Ok(out)
}

impl Row {
    /// The rows of a compile: one per entry of its report.
    pub fn of_report(one: &Combination, report: &Value) -> Vec<Row> {
        let entries = report["entries"].as_array().map_or(&[][..], Vec::as_slice);
        let row = |entry: &Value| {
            let at = |path: &[&str]| path.iter().fold(entry, |v, key| &v[*key]).clone();
            let sum = |chip: &Value| {
                let kinds = ["const", "state", "scratch", "lane_padding", "text"];
                kinds.iter().filter_map(|k| chip[*k].as_u64()).sum::<u64>()
            };
            let chips = entry["sram_bytes_per_chip"].as_array();
            let links = entry["link_words"].as_array();
            Row {
                values: one.values.clone(),
                entry: entry["entry"].as_str().unwrap_or_default().to_owned(),
                chips: report["chips"].as_u64(),
                figures: FIGURES.iter().map(|(_, path)| at(path)).collect(),
                words: links.map(|l| l.iter().filter_map(|one| one["words"].as_u64()).sum()),
                sram: chips.and_then(|c| c.iter().map(sum).max()),
                front: false,
                reason: String::new(),
            }
        };
        entries.iter().map(row).collect()
    }

    /// The row of a combination that does not compile.
    pub fn of_failure(one: &Combination, reason: &str) -> Row {
        Row {
            values: one.values.clone(),
            entry: String::new(),
            chips: None,
            figures: vec![Value::Null; FIGURES.len()],
            words: None,
            sram: None,
            front: false,
            reason: reason.to_owned(),
        }
    }

    fn figure(&self, name: &str) -> Option<f64> {
        let i = FIGURES.iter().position(|(n, _)| *n == name)?;
        self.figures.get(i)?.as_f64()
    }

    /// The value of an objective; `None` where there is no schedule.
    pub fn objective(&self, objective: Objective) -> Option<f64> {
        match objective {
            Objective::Latency => self.figure("microseconds"),
            Objective::Cycles => self.figure("makespan_cycles"),
            Objective::Energy => self.figure("energy_microjoules"),
            Objective::Chips => self.chips.map(|n| n as f64),
            Objective::Sram => self.sram.map(|n| n as f64),
        }
    }

    /// Keys, values and entry in words.
    pub fn label(&self) -> String {
        let values = self.values.iter().map(|(k, v)| format!("{k}={v}"));
        values.collect::<Vec<_>>().join(" ")
    }

    /// The entry; empty where there is no schedule.
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// As JSON.
    pub fn to_value(&self) -> Value {
        let vary: Map<String, Value> = self.values.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let mut out = json!({
            "vary": vary, "compiles": self.reason.is_empty(), "entry": self.entry, "chips_in_use": self.chips,
            "link_words": self.words, "sram_bytes_of_the_fullest_chip": self.sram, "pareto": self.front, "reason": self.reason,
        });
        for ((name, _), figure) in FIGURES.iter().zip(&self.figures) {
            out[*name] = figure.clone();
        }
        out
    }
}

/// Marks the rows that no other row of the same entry beats: none is at least as good in all objectives and better in one.
pub fn mark_front(rows: &mut [Row], objectives: &[Objective]) {
    let costs: Vec<Option<Vec<f64>>> = rows
        .iter()
        .map(|row| objectives.iter().map(|o| row.objective(*o)).collect())
        .collect();
    let beats = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(x, y)| x <= y) && a != b;
    let front: Vec<bool> = rows
        .iter()
        .zip(&costs)
        .map(|(row, cost)| {
            let Some(cost) = cost else { return false };
            let mut others = rows.iter().zip(&costs).filter(|(other, _)| other.entry == row.entry);
            !others.any(|(_, other)| other.as_ref().is_some_and(|o| beats(o, cost)))
        })
        .collect();
    for (row, front) in rows.iter_mut().zip(front) {
        row.front = front;
    }
}

/// The rows as CSV; numbers are written as the JSON report writes them.
///
/// # Errors
/// What the writer reports.
pub fn csv(keys: &[&str], rows: &[Row]) -> Outcome<Vec<u8>> {
    let failed = |e: csv::Error| Failure::usage(format!("cannot write csv: {e}"));
    let mut out = csv::Writer::from_writer(Vec::new());
    let more = [
        "chips_in_use",
        "link_words",
        "sram_bytes_of_the_fullest_chip",
        "pareto",
        "reason",
    ];
    let head = keys.iter().copied().chain(["compiles", "entry"]);
    let head = head.chain(FIGURES.iter().map(|(n, _)| *n)).chain(more);
    out.write_record(head).map_err(failed)?;
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        value => value.to_string(),
    };
    let number = |n: Option<u64>| n.map_or(String::new(), |n| n.to_string());
    for row in rows {
        let mut cells: Vec<String> = row.values.iter().map(|(_, v)| v.clone()).collect();
        cells.push(row.reason.is_empty().to_string());
        cells.push(row.entry.clone());
        cells.extend(row.figures.iter().map(cell));
        cells.extend([number(row.chips), number(row.words), number(row.sram)]);
        cells.extend([row.front.to_string(), row.reason.clone()]);
        out.write_record(&cells).map_err(failed)?;
    }
    out.into_inner()
        .map_err(|e| Failure::usage(format!("cannot write csv: {e}")))
}

/// The rows as a table.
pub fn table(keys: &[&str], rows: &[Row]) -> Vec<String> {
    let several = rows.iter().any(|r| r.entry != "main" && !r.entry.is_empty());
    let mut head: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
    if several {
        head.push("entry".into());
    }
    head.extend(
        [
            "cycles",
            "latency",
            "over bound",
            "energy",
            "chips used",
            "fullest chip",
            "front",
        ]
        .map(String::from),
    );
    let width = head.len();
    let mut out = vec![head];
    let mut reasons = Vec::new();
    for row in rows {
        let mut cells: Vec<String> = row.values.iter().map(|(_, v)| v.clone()).collect();
        if several {
            cells.push(row.entry.clone());
        }
        if row.reason.is_empty() {
            let figure = |name| row.figure(name).unwrap_or(0.0);
            cells.push(text::count(figure("makespan_cycles") as u64));
            cells.push(text::microseconds(figure("microseconds")));
            cells.push(format!("{:.2}", figure("makespan_over_bound")));
            cells.push(format!("{:.2} uJ", figure("energy_microjoules")));
            cells.push(row.chips.map_or(String::new(), text::count));
            cells.push(row.sram.map_or(String::new(), text::bytes));
            cells.push(if row.front { "*".into() } else { String::new() });
        } else {
            reasons.push(format!("{}: {}", row.label(), row.reason));
            cells.resize(width, String::new());
            let first = width.saturating_sub(7);
            if let Some(cell) = cells.get_mut(first) {
                "-".clone_into(cell);
            }
        }
        out.push(cells);
    }
    let mut lines = text::table(&out);
    if !reasons.is_empty() {
        lines.push(String::new());
        lines.extend(reasons);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(entry: &str, us: f64, uj: f64) -> Row {
        let mut figures = vec![Value::Null; FIGURES.len()];
        for (name, value) in [("microseconds", us), ("energy_microjoules", uj)] {
            let i = FIGURES.iter().position(|(n, _)| *n == name).expect("a figure");
            figures[i] = json!(value);
        }
        Row {
            values: Vec::new(),
            entry: entry.into(),
            chips: Some(1),
            figures,
            words: None,
            sram: None,
            front: false,
            reason: String::new(),
        }
    }

    #[test]
    fn the_front_is_what_nothing_beats() {
        let mut rows = [
            row("a", 1.0, 9.0),
            row("a", 2.0, 5.0),
            row("a", 2.0, 5.0),
            row("a", 3.0, 5.0),
            row("a", 9.0, 1.0),
            row("b", 9.0, 9.0),
        ];
        mark_front(&mut rows, &[Objective::Latency, Objective::Energy]);
        assert_eq!(rows.map(|r| r.front), [true, true, true, false, true, true]);
    }

    #[test]
    fn objectives_are_checked() {
        let names = |all: &[&str]| objectives(&all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["chips", "sram"]).expect("two").len(), 2);
        assert!(names(&["latency"]).is_err() && names(&["latency", "latency"]).is_err());
        assert!(
            names(&["latency", "speed"])
                .expect_err("unknown")
                .message
                .contains("latency, cycles, energy, chips, sram")
        );
    }
}
