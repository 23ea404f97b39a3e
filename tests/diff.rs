//! `lockstep diff`: nothing between an artifact and itself, and the right causes between two that differ.

#![cfg(feature = "compile")]
#![allow(missing_docs)]

mod common;

use common::{Scratch, check, lockstep, silero, told};
use serde_json::Value;
use std::path::Path;

fn compile(dir: &Path, model: &str, out: &str, options: &[&str]) {
    let mut args = vec!["compile", model, "-o", out];
    args.extend(options);
    let done = lockstep(dir, &args);
    assert!(done.status.success(), "{}", told(&done));
}

/// The comparison as JSON.
fn diff(dir: &Path, a: &str, b: &str, by: &str) -> Value {
    let out = lockstep(dir, &["diff", a, b, "--by", by, "--json"]);
    assert!(out.status.success(), "{}", told(&out));
    serde_json::from_slice::<Value>(&out.stdout).expect("json")["diff"].take()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().expect("a list")
}

/// A figure of an entry or group: first, second.
fn figure(of: &Value, name: &str) -> Option<(f64, f64)> {
    let found = list(of, "figures").iter().find(|f| f["name"] == name)?;
    Some((found["a"].as_f64().unwrap_or(0.0), found["b"].as_f64().unwrap_or(0.0)))
}

fn changed(of: &Value, name: &str) -> f64 {
    figure(of, name).map_or(0.0, |(a, b)| b - a)
}

const BY: [&str; 4] = ["node", "chain", "unit", "chip"];

#[test]
fn an_artifact_does_not_differ_from_itself() {
    let dir = Scratch::new("diff-self");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    compile(&dir.0, model, "a.lks", &["--target", "toy", "--chips", "4"]);
    for by in BY {
        let out = lockstep(&dir.0, &["diff", "a.lks", "a.lks", "--by", by]);
        assert_eq!(out.status.code(), Some(0), "{}", told(&out));
        assert_eq!(String::from_utf8_lossy(&out.stdout), "no difference\n");
        let found = diff(&dir.0, "a.lks", "a.lks", by);
        assert_eq!(found["equal"], true);
        assert!(list(&found, "entries").is_empty() && list(&found, "properties").is_empty());
    }
}

#[test]
fn more_chips_are_more_transfers_and_the_parts_add_up() {
    let dir = Scratch::new("diff-chips");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    compile(&dir.0, model, "a.lks", &["--chips", "1"]);
    compile(&dir.0, model, "b.lks", &["--chips", "2"]);
    let busy: Vec<f64> = BY
        .iter()
        .map(|by| {
            let found = diff(&dir.0, "a.lks", "b.lks", by);
            let properties = list(&found, "properties");
            let chips = properties.iter().find(|p| p["name"] == "chips").expect("chips");
            assert_eq!((&chips["a"], &chips["b"]), (&"1".into(), &"2".into()));
            let entry = &list(&found, "entries")[0];
            let groups = list(entry, "groups");
            let sum = |name| groups.iter().map(|g| changed(g, name)).sum::<f64>();
            assert_eq!(sum("issues"), changed(entry, "issues"), "{by}");
            assert_eq!(sum("words sent"), changed(entry, "words sent"), "{by}");
            assert!(changed(entry, "words sent") > 0.0);
            if *by == "node" {
                // The critical path leads through the whole makespan.
                assert_eq!(sum("critical path"), changed(entry, "makespan"));
                let why = groups.iter().flat_map(|g| list(g, "why"));
                let why: Vec<&str> = why.filter_map(Value::as_str).collect();
                assert!(why.contains(&"chips c0 -> c1"), "{why:?}");
            }
            if *by == "unit" {
                let links = groups.iter().find(|g| g["name"] == "c2c").expect("links");
                assert_eq!((&links["in"], &links["why"][0]), (&"b".into(), &"only in B".into()));
            }
            sum("busy")
        })
        .collect();
    assert!(busy.iter().all(|b| *b == busy[0]), "{busy:?}");
    // The other way round, every change has the other sign.
    let back = diff(&dir.0, "b.lks", "a.lks", "unit");
    let entry = &list(&back, "entries")[0];
    let sum: f64 = list(entry, "groups").iter().map(|g| changed(g, "busy")).sum();
    assert_eq!(sum, -busy[0]);
}

#[test]
fn another_dtype_is_named() {
    let dir = Scratch::new("diff-dtype");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    compile(&dir.0, model, "a.lks", &["--chips", "1"]);
    compile(&dir.0, model, "b.lks", &["--chips", "1", "--precision", "f16"]);
    shrinks(&dir.0, "stft/Conv");
}

/// a.lks is in f32 and b.lks in f16: products cost a quarter, constants less, and the nodes and chains that shrink are named.
fn shrinks(dir: &Path, node: &str) {
    let found = diff(dir, "a.lks", "b.lks", "node");
    let entry = &list(&found, "entries")[0];
    assert!(changed(entry, "energy") < 0.0 && changed(entry, "SRAM over all chips, constants") < 0.0);
    let groups = list(entry, "groups");
    let group = groups
        .iter()
        .find(|g| g["name"].as_str().is_some_and(|n| n.contains(node)));
    let group = group.unwrap_or_else(|| panic!("{node} is not named"));
    assert!(changed(group, "busy") < 0.0, "{group}");
    let why: Vec<&str> = list(group, "why").iter().filter_map(Value::as_str).collect();
    assert!(
        why.iter().any(|w| w.starts_with("dtypes f32") && w.contains("f16")),
        "{why:?}"
    );
    assert!(why.contains(&"fewer cycles per product 8 -> 2"), "{why:?}");
    let found = diff(dir, "a.lks", "b.lks", "chain");
    let chains = list(&list(&found, "entries")[0], "groups");
    let shrunk = chains.iter().filter(|g| {
        let name = g["name"].as_str().unwrap_or_default();
        name.starts_with('h') && name.contains("contract") && name.contains(node) && changed(g, "busy") < 0.0
    });
    assert!(shrunk.count() > 0);
    // The largest change is the first.
    let sizes: Vec<f64> = chains.iter().map(|g| changed(g, "span").abs()).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
}

#[cfg(feature = "fetched-models")]
#[test]
fn minilm_in_f16_names_what_shrank() {
    let dir = Scratch::new("diff-minilm");
    let model = common::path("models/minilm");
    let model = model.to_str().expect("a path in UTF-8");
    let shape = ["--chips", "1", "--shape", "input_ids=1x128"];
    compile(&dir.0, model, "a.lks", &shape);
    compile(&dir.0, model, "b.lks", &[&shape[..], &["--precision", "f16"]].concat());
    shrinks(&dir.0, "encoder.layer.0.output.dense");
}

#[test]
fn wrong_uses() {
    let dir = Scratch::new("diff-wrong");
    dir.file("m.onnx", b"a model");
    check!(dir, "diff_of_a_model", "diff", "m.onnx", "m.onnx");
}
