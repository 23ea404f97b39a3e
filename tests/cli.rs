//! The command line's contract: exit codes and messages, each a snapshot; and the verbs on the shipped model.

#![cfg(all(feature = "compile", feature = "sim"))]
#![allow(missing_docs)]

mod common;

use common::{Scratch, check, lockstep, path, silero, told};
use lockstep::isa::artifact::HostDType;
use lockstep::tensors;
use lockstep_onnx_protobuf::DataType;
use lockstep_testkit::onnx::{OnnxBuilder, external};
use std::path::Path;

/// An ONNX graph with the input x f32[2,3].
fn builder() -> OnnxBuilder {
    OnnxBuilder::new("g").opset(17).input_f32("x", &["2", "3"])
}

/// A small model that compiles: y = relu(x).
fn relu() -> Vec<u8> {
    builder().node("Relu", &["x"], &["y"]).named("act").output("y").build()
}

#[test]
fn wrong_paths() {
    let dir = Scratch::new("paths");
    dir.file("notes.txt", "not a model");
    std::fs::create_dir(dir.0.join("empty")).expect("a directory");
    check!(dir, "missing_file", "compile", "missing.onnx");
    check!(dir, "unknown_file_type", "run", "notes.txt");
    check!(dir, "directory_without_model", "compile", "empty");
    check!(dir, "verify_missing_file", "verify", "missing.lks");
}

#[test]
fn wrong_targets() {
    let dir = Scratch::new("targets");
    dir.file("relu.onnx", relu());
    dir.file("bad.toml", "base = \"toy\"\nlanes = 33.5\n");
    dir.file("typo.toml", "base = \"toy\"\n[mem]\nrowz = 64\n");
    check!(dir, "unknown_target", "compile", "relu.onnx", "--target", "tsp-2021");
    check!(
        dir,
        "target_with_a_bad_field",
        "compile",
        "relu.onnx",
        "--target",
        "bad.toml"
    );
    check!(dir, "target_with_an_unknown_field", "targets", "show", "typo.toml");
    check!(
        dir,
        "missing_target_file",
        "compile",
        "relu.onnx",
        "--target",
        "none.toml"
    );
}

#[test]
fn wrong_models() {
    let dir = Scratch::new("models");
    let unsupported = builder()
        .node("NonZero", &["x"], &["p"])
        .named("a")
        .node("Unique", &["x"], &["q"])
        .named("b")
        .node("NonZero", &["x"], &["r"])
        .named("c");
    dir.file(
        "unsupported.onnx",
        unsupported.output("p").output("q").output("r").build(),
    );
    let weight = external(
        "w",
        DataType::Float,
        &[3],
        &[("location", "weights.bin"), ("length", "12")],
    );
    let add = builder()
        .init(weight)
        .node("Add", &["x", "w"], &["y"])
        .named("add")
        .output("y");
    dir.file("external.onnx", add.build());
    dir.file("garbage.onnx", b"this is no protobuf message");
    check!(dir, "unsupported_operators", "compile", "unsupported.onnx");
    check!(dir, "missing_external_data", "compile", "external.onnx");
    check!(dir, "garbage_model", "compile", "garbage.onnx");
    dir.file("relu.onnx", relu());
    check!(dir, "unknown_dimension", "compile", "relu.onnx", "--state", "z=x");
    check!(
        dir,
        "wrong_shape_option",
        "compile",
        "relu.onnx",
        "--shape",
        "x=2xthree"
    );
}

/// Numbers of three digits and more become N, and runs of spaces one: the sizes change with the compiler, the terms do not.
fn without_sizes(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words = line.split_whitespace().map(|word| {
            let large = word.len() > 2 && word.bytes().all(|b| b.is_ascii_digit());
            if large { "N" } else { word }
        });
        out += &words.collect::<Vec<_>>().join(" ");
        out.push('\n');
    }
    out
}

#[test]
fn a_model_that_does_not_fit() {
    let dir = Scratch::new("fit");
    dir.file("tiny.toml", "base = \"toy\"\nname = \"tiny\"\n[mem]\nrows = 128\n");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let out = lockstep(&dir.0, &["compile", model, "--target", "tiny.toml", "--chips", "1"]);
    assert_eq!(out.status.code(), Some(4), "{}", told(&out));
    insta::with_settings!({ snapshot_path => "cases/error", prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("does_not_fit", without_sizes(&told(&out)));
    });
}

#[test]
fn wrong_artifacts() {
    let dir = Scratch::new("artifacts");
    let mut bytes = std::fs::read(path("runtime/isa/tests/data/v3.artifact")).expect("the golden artifact");
    dir.file("short.lks", &bytes[..200]);
    dir.file("garbage.lks", b"not an artifact at all");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    dir.file("damaged.lks", &bytes);
    bytes[middle] ^= 0x40;
    bytes[8] = 9;
    dir.file("version9.lks", &bytes);
    check!(dir, "short_artifact", "verify", "short.lks");
    check!(dir, "no_artifact", "verify", "garbage.lks");
    check!(
        dir,
        "artifact_of_another_version",
        "run",
        "version9.lks",
        "--random",
        "1"
    );
    let out = lockstep(&dir.0, &["verify", "damaged.lks"]);
    assert_eq!(out.status.code(), Some(5), "{}", told(&out));
}

#[test]
fn wrong_inputs() {
    let dir = Scratch::new("inputs");
    dir.file("relu.onnx", relu());
    let made = lockstep(&dir.0, &["compile", "relu.onnx", "--target", "toy"]);
    assert!(made.status.success(), "{}", told(&made));
    let npy = |dtype, shape: &[u64]| tensors::write_npy(&tensors::random("x", dtype, shape, 1)).expect("an array");
    dir.file("ints.npy", npy(HostDType::I64, &[2, 3]));
    dir.file("shape.npy", npy(HostDType::F32, &[3, 3]));
    dir.file("good.npy", npy(HostDType::F32, &[2, 3]));
    check!(dir, "input_missing", "run", "relu.lks");
    check!(dir, "input_of_unknown_name", "run", "relu.lks", "--input", "z=1");
    check!(dir, "input_of_wrong_dtype", "run", "relu.lks", "--input", "x=@ints.npy");
    check!(
        dir,
        "input_of_wrong_shape",
        "run",
        "relu.lks",
        "--input",
        "x=@shape.npy"
    );
    check!(
        dir,
        "input_of_wrong_shape_for_steps",
        "run",
        "relu.lks",
        "--input",
        "x=@shape.npy",
        "--steps",
        "0"
    );
    check!(
        dir,
        "unknown_backend",
        "run",
        "relu.lks",
        "--input",
        "x=@good.npy",
        "--backend",
        "gpu"
    );
    check!(
        dir,
        "compile_option_for_an_artifact",
        "run",
        "relu.lks",
        "--chips",
        "2",
        "--random",
        "1"
    );
    check!(dir, "stage_of_an_artifact", "inspect", "relu.lks", "--stage", "tir");
    check!(
        dir,
        "chip_that_does_not_exist",
        "inspect",
        "relu.lks",
        "--section",
        "chips",
        "--chip",
        "7"
    );
}

#[test]
fn checks_fail_with_code_1_and_hold_with_0() {
    let dir = Scratch::new("check");
    dir.file("relu.onnx", relu());
    let x = lockstep::HostTensor::from_f32("x", &[2, 3], &[-1.0, 0.0, 1.0, 2.0, -2.0, 0.5]);
    let y = lockstep::HostTensor::from_f32("y", &[2, 3], &[0.0, 0.0, 1.0, 2.0, 0.0, 0.5]);
    let wrong = lockstep::HostTensor::from_f32("y", &[2, 3], &[0.0, 0.0, 1.0, 2.0, 0.0, 0.75]);
    dir.file("good.npz", tensors::write_npz(&[x.clone(), y]).expect("an npz"));
    dir.file("bad.npz", tensors::write_npz(&[x, wrong]).expect("an npz"));
    for backend in ["cpu", "sim"] {
        let run = |golden| {
            lockstep(
                &dir.0,
                &[
                    "run",
                    "relu.onnx",
                    "--target",
                    "toy",
                    "--backend",
                    backend,
                    "--check",
                    golden,
                    "--digest",
                ],
            )
        };
        let good = run("good.npz");
        assert_eq!(good.status.code(), Some(0), "{}", told(&good));
        let bad = run("bad.npz");
        assert_eq!(bad.status.code(), Some(1), "{}", told(&bad));
        assert!(told(&bad).contains("1 of 6 elements differ"), "{}", told(&bad));
    }
}

/// The JSON that a verb prints.
fn json(dir: &Path, args: &[&str]) -> serde_json::Value {
    let out = lockstep(dir, args);
    assert!(out.status.success(), "{args:?}: {}", told(&out));
    let value: serde_json::Value = serde_json::from_slice(&out.stdout).expect("json on stdout");
    assert_eq!(value["version"], 1, "{args:?}");
    value
}

#[test]
fn every_verb_works_on_the_shipped_model() {
    let dir = Scratch::new("verbs");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let compile = [
        "compile",
        model,
        "--target",
        "toy",
        "--chips",
        "2",
        "--state",
        "stateN=state",
        "-o",
        "vad.lks",
        "--json",
        "--timings",
    ];
    let compiled = json(&dir.0, &compile);
    let cycles = &compiled["cycles"][0]["makespan_cycles"];
    assert!(cycles.as_u64().is_some_and(|c| c > 0));

    let verified = json(&dir.0, &["verify", "vad.lks", "--json"]);
    assert_eq!(&verified["summary"]["entries"][0]["makespan_cycles"], cycles);
    let report = json(&dir.0, &["report", "vad.lks", "--json"]);
    assert_eq!(&report["report"]["entries"][0]["makespan_cycles"], cycles);
    assert_eq!(report["report"]["optimize"], "latency");
    let figure = |key: &str| report["report"]["entries"][0][key].as_f64().expect("a number");
    assert!(figure("users_in_flight") >= 1.0 && figure("interval_cycles") <= figure("makespan_cycles"));
    assert!(figure("runs_per_second_of_all") >= figure("runs_per_second"));

    // Three steps with carried state, on both executors and with two threads: one digest.
    let input = tensors::random("input", HostDType::F32, &[3, 576], 5);
    dir.file("steps.npy", tensors::write_npy(&input).expect("an array"));
    let run = |more: &[&str]| {
        let mut args = vec![
            "run",
            "vad.lks",
            "--input",
            "input=@steps.npy",
            "--steps",
            "0",
            "--digest",
            "--json",
        ];
        args.extend(more);
        json(&dir.0, &args)
    };
    let cpu = run(&["--output", "out.npz"]);
    let sim = run(&["--backend", "sim"]);
    assert_eq!(cpu["steps"], 3);
    assert_eq!(&sim["cycles_per_step"], cycles);
    for other in [sim, run(&["--threads", "2"]), run(&["--simd", "scalar"])] {
        assert_eq!(cpu["digest"], other["digest"]);
    }
    let saved = std::fs::read(dir.0.join("out.npz")).expect("the outputs");
    let saved = tensors::read_npz("out.npz", &saved).expect("the outputs");
    assert_eq!(saved[0].shape, [3, 1]);

    for section in ["header", "io", "memory", "chips", "queues", "links", "provenance"] {
        let shown = json(&dir.0, &["inspect", "vad.lks", "--section", section, "--json"]);
        let result = &shown["result"];
        assert!(
            result.is_object() || result.as_array().is_some_and(|a| !a.is_empty()),
            "{section}: {shown}"
        );
        assert!(
            lockstep(&dir.0, &["inspect", "vad.lks", "--section", section])
                .status
                .success()
        );
    }
    for stage in ["graph", "tir", "part", "sched"] {
        let out = lockstep(
            &dir.0,
            &["inspect", model, "--target", "toy", "--chips", "2", "--stage", stage],
        );
        assert!(
            out.status.success() && out.stdout.len() > 1000,
            "{stage}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    let window = json(
        &dir.0,
        &[
            "inspect", "vad.lks", "--stage", "sched", "--chip", "1", "--cycle", "0..200", "--json",
        ],
    );
    let runs = window["result"]["runs"].as_array().expect("runs");
    assert!(
        !runs.is_empty()
            && runs
                .iter()
                .all(|r| r["chip"] == 1 && r["cycle"].as_u64().is_some_and(|c| c < 200))
    );

    let bench = json(&dir.0, &["bench", "vad.lks", "--runs", "5", "--warmup", "2", "--json"]);
    assert_eq!(bench["allocations"], 0, "a run allocates nothing");
    json(&dir.0, &["targets", "list", "--json"]);
    json(&dir.0, &["targets", "show", "toy", "--json"]);
}

#[test]
fn a_printed_target_is_a_target_file() {
    let dir = Scratch::new("target-file");
    dir.file("relu.onnx", relu());
    let shown = lockstep(&dir.0, &["targets", "show", "toy", "--toml"]);
    dir.file("mine.toml", &shown.stdout);
    let mut cycles = Vec::new();
    for target in ["toy", "mine.toml"] {
        let out = json(&dir.0, &["compile", "relu.onnx", "--target", target, "--json"]);
        cycles.push(out["cycles"].clone());
    }
    assert_eq!(cycles[0], cycles[1]);
}

/// For one user the chips share every operation; for several each has a stage, and the next run begins sooner.
#[test]
fn partitions_are_chosen_for_one_user_or_for_many() {
    let dir = Scratch::new("optimize");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let report = |optimize: &str| {
        let options = ["--target", "toy", "--chips", "2", "--optimize", optimize, "--json"];
        json(&dir.0, &[&["report", model], &options[..]].concat())["report"].clone()
    };
    let (one, many) = (report("latency"), report("throughput"));
    let figure = |report: &serde_json::Value, key: &str| report["entries"][0][key].as_f64().expect("a number");
    assert_eq!(
        (&one["optimize"], &many["optimize"]),
        (&"latency".into(), &"throughput".into())
    );
    assert!(figure(&one, "makespan_cycles") < figure(&many, "makespan_cycles"));
    assert!(figure(&one, "runs_per_second_of_all") < figure(&many, "runs_per_second_of_all"));
    assert!(figure(&many, "users_in_flight") == 2.0 && figure(&many, "runs_per_second") > 0.0);
    let why = many["why"].as_str().expect("a reason");
    assert!(
        why.contains("the most runs per second over all users in flight"),
        "{why}"
    );
}

#[test]
fn the_report_as_a_page_has_the_figures_of_the_text() {
    let dir = Scratch::new("report-html");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let compile = ["compile", model, "--target", "toy", "--chips", "2", "-o", "vad.lks"];
    assert!(lockstep(&dir.0, &compile).status.success());
    let text = lockstep(&dir.0, &["report", "vad.lks"]);
    let out = lockstep(&dir.0, &["report", "vad.lks", "--html", "r.html"]);
    assert!(out.status.success(), "{}", told(&out));
    let page = std::fs::read_to_string(dir.0.join("r.html")).expect("the page");
    // Tags and entities gone, every word of the text stands in the page, in the same order.
    let mut words = String::new();
    let mut inside = false;
    for c in page.split("<h1>").nth(1).expect("a head").chars() {
        match c {
            '<' => inside = true,
            '>' => {
                inside = false;
                words.push(' ');
            }
            c if !inside => words.push(c),
            _ => {}
        }
    }
    let words = words.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&");
    let mut words = words.split_whitespace();
    for word in String::from_utf8_lossy(&text.stdout).split_whitespace() {
        assert!(
            words.any(|w| w == word),
            "{word:?} is not in the page, or not in its place"
        );
    }
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(
        page.matches("<circle").count() > 20,
        "every operation is on the roofline"
    );
    for outside in ["http:", "https:", "<script", "<link", "@import", "url("] {
        let found = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(outside), "{outside}");
    }
}
