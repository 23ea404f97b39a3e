//! The page of supported operators, from the results of a full run.

use crate::outcome::Record;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Results of one operator.
#[derive(Default)]
struct Row {
    opsets: Vec<i64>,
    passed: usize,
    failed: usize,
    unsupported: usize,
    fixed: usize,
    large: usize,
    ulp: f64,
    reasons: Vec<String>,
}

/// The page as Markdown.
pub fn page(records: &[Record]) -> String {
    let of_test: BTreeMap<&str, &str> = records
        .iter()
        .filter_map(|r| Some((r.name.as_str(), r.operator.as_deref()?)))
        .collect();
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for r in records {
        let twin = r.name.split("_expanded").next().unwrap_or(&r.name);
        let operator = r.operator.as_deref().or_else(|| of_test.get(twin).copied());
        let row = rows.entry(operator.unwrap_or("(several)")).or_default();
        row.opsets.push(r.opset);
        row.fixed += usize::from(!r.fixed.is_empty());
        row.large += usize::from(r.target != "toy" && !r.target.is_empty());
        row.ulp = row.ulp.max(r.ulp);
        match r.outcome().class() {
            "passed" => row.passed += 1,
            "failed" => row.failed += 1,
            _ => row.unsupported += 1,
        }
        if !r.outcome().passed() {
            row.reasons.push(format!("`{}`: {}", r.name, r.outcome().reason()));
        }
    }
    let all = records.len();
    let passed = records.iter().filter(|r| r.outcome().passed()).count();
    let mut out = String::new();
    out += "# ONNX operators: what the backend suite says\n\n";
    out += "Written by `cargo test --release --test conformance -- --full --bless`; do not edit.\n\n";
    out += "Each test of the core list and of the two pytorch suites of onnx 1.22.0 is imported, lowered and interpreted, then compiled for `toy` on 1 and 2 chips, \
            proved, simulated and run by the cpu executor. *Large* counts the tests whose inputs and outputs alone are more than a chip of `toy` holds (2 MiB): \
            these are compiled for `tsp-2020`. *Passed* means: all three give the expected outputs at the official tolerance, and the simulator and the \
            cpu executor the same bits. *Fixed* counts the tests of which an operand that decides a shape was an input and was fixed at compile time. \
            The largest error is in units of the last place of the result's dtype (of f32 for f64).\n\n";
    let _ = writeln!(out, "{passed} of {all} tests pass.\n");
    out += "| operator | opsets | passed | failed | unsupported | fixed | large | largest error |\n|---|---|---|---|---|---|---|---|\n";
    for (operator, row) in &rows {
        let least = row.opsets.iter().filter(|&&o| o > 0).min().copied().unwrap_or(0);
        let most = row.opsets.iter().max().copied().unwrap_or(0);
        let range = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        let _ = writeln!(
            out,
            "| {operator} | {range} | {} | {} | {} | {} | {} | {:.1} |",
            row.passed, row.failed, row.unsupported, row.fixed, row.large, row.ulp
        );
    }
    out += "\n## What does not pass\n\n";
    for (operator, row) in rows.iter().filter(|(_, row)| !row.reasons.is_empty()) {
        let _ = writeln!(out, "- {operator}");
        for reason in &row.reasons {
            let _ = writeln!(out, "  - {}", reason.replace('|', "\\|"));
        }
    }
    out
}
