//! `lockstep report` of language models without weights: equal to that with weights, and plans of models that a node does not hold.

#![cfg(all(feature = "compile", feature = "sim"))]
#![allow(missing_docs)]

mod common;

use common::{Scratch, check, lockstep, path, told};
use serde_json::{Value, json};

/// A directory with the config.json of a tiny model alone, changed by some fields.
fn outline(dir: &Scratch, family: &str, fields: &[(&str, Value)]) {
    let text = std::fs::read_to_string(path("tests/data/llm").join(family).join("config.json")).expect("a config");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    for (key, value) in fields {
        config[*key] = value.clone();
    }
    std::fs::create_dir_all(dir.0.join("outline")).expect("a directory");
    dir.file("outline/config.json", config.to_string());
}

/// Too large for eight chips of the target `toy`.
fn large() -> Vec<(&'static str, Value)> {
    let sizes = [
        ("num_hidden_layers", 40),
        ("hidden_size", 256),
        ("intermediate_size", 512),
        ("head_dim", 32),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
    ];
    sizes.map(|(key, n)| (key, json!(n))).to_vec()
}

fn report(dir: &Scratch, model: &str, options: &[&str]) -> Value {
    let out = lockstep(&dir.0, &[&["report", model, "--json"], options].concat());
    assert!(out.status.success(), "{}", told(&out));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn without_weights_the_schedule_is_the_same() {
    let dir = Scratch::new("plan-same");
    for family in ["llama", "gemma2", "mixtral"] {
        outline(&dir, family, &[]);
        let whole = path("tests/data/llm").join(family).display().to_string();
        for options in [
            &["--target", "tsp-2020", "--weights", "int8"][..],
            &["--target", "toy", "--chips", "3"],
        ] {
            let (ours, theirs) = (report(&dir, "outline", options), report(&dir, &whole, options));
            let (ours, theirs) = (&ours["report"], &theirs["report"]);
            assert_eq!(ours["chips"], theirs["chips"], "{family} {options:?}");
            for key in [
                "makespan_cycles",
                "bound_cycles",
                "sram_bytes_per_chip",
                "link_words",
                "runs",
                "chains",
            ] {
                let of = |r: &Value| r["entries"][0][key].clone();
                assert!(!of(ours).is_null(), "{key}");
                assert_eq!(of(ours), of(theirs), "{family} {options:?} {key}");
            }
        }
    }
}

#[test]
fn a_large_model_is_planned_in_stages() {
    let dir = Scratch::new("plan-large");
    outline(&dir, "llama", &large());
    let plan = &report(&dir, "outline", &["--target", "toy", "--weights", "int8"])["plan"];
    let n = |v: &Value| v.as_u64().expect("a number");
    // What is stated of a token is the sum of what was scheduled.
    let parts: Vec<&Value> = [&plan["parts"], &plan["boundaries"]]
        .into_iter()
        .filter_map(Value::as_array)
        .flatten()
        .collect();
    let cycles = parts.iter().map(|p| n(&p["times"]) * n(&p["entry"]["makespan_cycles"]));
    assert_eq!(n(&plan["token_cycles"]), cycles.sum::<u64>());
    let stages = parts
        .iter()
        .filter(|p| p["part"].as_str().is_some_and(|name| name.starts_with("layer")));
    assert_eq!(n(&plan["stages"]), stages.clone().map(|p| n(&p["times"])).sum::<u64>());
    for part in stages {
        let chips = part["entry"]["sram_bytes_per_chip"].as_array().expect("chips");
        assert_eq!(chips.len() as u64, n(&plan["chips_per_stage"]));
    }
    let hops: u64 = plan["boundaries"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|b| n(&b["times"]))
        .sum();
    assert!(hops >= n(&plan["stages"]), "{hops} boundaries");
    let asked = &report(
        &dir,
        "outline",
        &["--target", "toy", "--weights", "int8", "--chips", "60"],
    )["plan"];
    assert!(n(&asked["chips"]) <= 60);
}

/// What `report outline --target toy`, with more options, says; see [`check`].
macro_rules! refused {
    ($dir:expr, $name:literal $(, $arg:expr)*) => {
        check!($dir, $name, "report", "outline", "--target", "toy" $(, $arg)*)
    };
}

#[test]
fn what_needs_weights_says_so() {
    let dir = Scratch::new("plan-errors");
    outline(&dir, "llama", &[]);
    check!(dir, "model_without_weights", "compile", "outline", "--target", "toy");
    refused!(dir, "buckets_without_weights", "--buckets", "16,32");
    refused!(dir, "page_without_weights", "--html", "page.html");
    #[cfg(feature = "generate")]
    refused!(dir, "error_without_weights", "--quantisation-error");
    outline(&dir, "llama", &[("hidden_size", Value::Null)]);
    refused!(dir, "config_without_a_size");
    outline(&dir, "llama", &[("model_type", json!("mamba"))]);
    refused!(dir, "unknown_model_type_without_weights");
    outline(&dir, "llama", &large());
    refused!(dir, "no_plan_on_few_chips", "--weights", "int8", "--chips", "9");
    refused!(dir, "no_room_for_stages", "--weights", "int8", "--chips", "20");
    refused!(dir, "plan_of_several_sequences", "--weights", "int8", "--batch", "2");
}
