//! `lockstep sweep`: rows equal what single compiles report, in any number of jobs; what does not fit has its reason.

#![cfg(feature = "compile")]
#![allow(missing_docs)]

mod common;

use common::{Scratch, check, lockstep, silero, told};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The rows of a CSV file by column.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_path(path).expect("the file");
    let head: Vec<String> = reader.headers().expect("a head").iter().map(str::to_owned).collect();
    let rows = reader.records().map(|r| r.expect("a row"));
    rows.map(|row| head.iter().cloned().zip(row.iter().map(str::to_owned)).collect())
        .collect()
}

fn sweep(dir: &Path, args: &[&str]) -> std::process::Output {
    let mut all = vec!["sweep"];
    all.extend(args);
    let out = lockstep(dir, &all);
    assert!(out.status.success(), "{}", told(&out));
    out
}

/// Compares a row with the report of a compile for a target file, figure by figure, as text.
fn equals_a_single_compile(dir: &Path, model: &str, row: &BTreeMap<String, String>, options: &[&str]) {
    let mut args = vec!["compile", model, "-o", "one.lks"];
    args.extend(options);
    let out = lockstep(dir, &args);
    if row["compiles"] == "false" {
        assert_eq!(out.status.code(), Some(4), "{}", told(&out));
        // Only the target's name may differ.
        let reason = row["reason"].split_once(": ").expect("a reason").1;
        assert!(told(&out).contains(reason), "{reason}\n{}", told(&out));
        return;
    }
    assert!(out.status.success(), "{}", told(&out));
    let out = lockstep(dir, &["report", "one.lks", "--json"]);
    let report: Value = serde_json::from_slice::<Value>(&out.stdout).expect("json")["report"].take();
    let entry = &report["entries"][0];
    for key in [
        "makespan_cycles",
        "microseconds",
        "bound_cycles",
        "roofline_cycles",
        "makespan_over_bound",
        "chains",
        "runs",
    ] {
        assert_eq!(row[key], entry[key].to_string(), "{key}");
    }
    assert_eq!(
        row["energy_microjoules"],
        entry["energy_microjoules"]["total"].to_string()
    );
    for unit in ["mxm_mul", "vxm", "mem", "c2c"] {
        assert_eq!(
            row[&format!("{unit}_utilisation")],
            entry["utilisation"][unit].to_string()
        );
    }
    assert_eq!(row["chips_in_use"], report["chips"].to_string());
}

#[test]
fn rows_are_what_single_compiles_report() {
    let dir = Scratch::new("sweep");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let vary = [
        "--target",
        "toy",
        "--vary",
        "chips=1,2,4",
        "--vary",
        "mem.rows=512,1024",
        "--vary",
        "c2c.latency=228,400",
    ];
    let args = |more: &[&'static str]| [&[model][..], &vary[..], more].concat();
    let out = sweep(&dir.0, &args(&["-o", "out", "--jobs", "2"]));
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(shown.contains("does not fit") && shown.contains("sweep.svg"), "{shown}");
    let found = rows(&dir.0.join("out/sweep.csv"));
    assert_eq!(found.len(), 12);
    let failed = found.iter().filter(|r| r["compiles"] == "false").count();
    assert!(failed > 0 && failed < 12, "{failed}");
    for row in &found {
        let file = format!(
            "base = \"toy\"\n[mem]\nrows = {}\n[c2c]\nlatency = {}\n",
            row["mem.rows"], row["c2c.latency"]
        );
        dir.file("one.toml", file);
        equals_a_single_compile(&dir.0, model, row, &["--target", "one.toml", "--chips", &row["chips"]]);
    }
    // The order of the rows is that of the keys, however many jobs there are.
    sweep(&dir.0, &args(&["-o", "again.csv", "--jobs", "1"]));
    let read = |name: &str| std::fs::read(dir.0.join(name)).expect("the file");
    assert_eq!(read("out/sweep.csv"), read("again.csv"));
    let order: Vec<&str> = found.iter().map(|r| r["chips"].as_str()).collect();
    assert_eq!(order, ["1", "1", "1", "1", "2", "2", "2", "2", "4", "4", "4", "4"]);

    // Nothing beats the front, and something beats every other row.
    let cost = |r: &BTreeMap<String, String>| -> Option<(f64, f64)> {
        Some((r["microseconds"].parse().ok()?, r["energy_microjoules"].parse().ok()?))
    };
    for row in &found {
        let Some((us, uj)) = cost(row) else {
            assert_eq!(row["pareto"], "false");
            continue;
        };
        let beaten = found
            .iter()
            .filter_map(cost)
            .any(|(a, b)| a <= us && b <= uj && (a, b) != (us, uj));
        assert_eq!(row["pareto"], (!beaten).to_string(), "{row:?}");
    }
    let svg = String::from_utf8(read("out/sweep.svg")).expect("text");
    assert_eq!(svg.matches("<circle").count(), 12 - failed);
    assert!(svg.contains("latency, microseconds") && svg.contains("energy of a run"));
}

#[test]
fn wrong_uses() {
    let dir = Scratch::new("sweep-wrong");
    let model = silero();
    dir.file("m.onnx", std::fs::read(model).expect("the model"));
    check!(
        dir,
        "sweep_of_an_unknown_figure",
        "sweep",
        "m.onnx",
        "--target",
        "toy",
        "--vary",
        "mem.rowz=1,2"
    );
    check!(
        dir,
        "sweep_of_a_wrong_value",
        "sweep",
        "m.onnx",
        "--target",
        "toy",
        "--vary",
        "lanes=32,33"
    );
    check!(
        dir,
        "sweep_against_an_option",
        "sweep",
        "m.onnx",
        "--chips",
        "2",
        "--vary",
        "chips=1,2"
    );
    check!(
        dir,
        "sweep_for_an_unknown_objective",
        "sweep",
        "m.onnx",
        "--vary",
        "chips=1",
        "--pareto",
        "latency,beauty"
    );
}

/// The bar of the project: twelve combinations in a minute. Every fourth row is compared with a single compile.
#[cfg(feature = "fetched-models")]
#[test]
fn twelve_combinations_of_minilm() {
    let dir = Scratch::new("sweep-minilm");
    let model = common::path("models/minilm");
    let model = model.to_str().expect("a path in UTF-8");
    let begun = std::time::Instant::now();
    let vary = [
        "--vary",
        "chips=1,2,4",
        "--vary",
        "link_gbps=50,100",
        "--vary",
        "sram_mib=110,220",
    ];
    let shape = ["--shape", "input_ids=1x128"];
    sweep(&dir.0, &[&[model][..], &shape, &vary, &["-o", "out.csv"]].concat());
    println!("12 combinations in {:.1} s", begun.elapsed().as_secs_f64());
    let found = rows(&dir.0.join("out.csv"));
    assert_eq!(found.len(), 12);
    assert_eq!(found.iter().filter(|r| r["compiles"] == "false").count(), 2);
    for row in found.iter().step_by(4) {
        let (mib, gbps): (u32, u32) = (
            row["sram_mib"].parse().expect("a size"),
            row["link_gbps"].parse().expect("a rate"),
        );
        let (banks, cycles) = (mib * 4096 / 220, if gbps == 50 { 47 } else { 24 });
        dir.file(
            "one.toml",
            format!("base = \"tsp-2020\"\n[mem]\nrows = {banks}\n[c2c]\ncycles_per_word = {cycles}\n"),
        );
        let options = [
            "--target",
            "one.toml",
            "--chips",
            &row["chips"],
            "--shape",
            "input_ids=1x128",
        ];
        equals_a_single_compile(&dir.0, model, row, &options);
    }
}
