//! Several entries over shared weights and state: one copy of each constant, and a state that one entry leaves and another finds.

#![cfg(feature = "compile")]
#![allow(missing_docs)]

mod common;

use common::{Scratch, lockstep};
use lockstep::graph::op::{Binary, Range, Reduce};
use lockstep::graph::{DType, Graph, GraphBuilder, Shape, ValueId, Verified, Weights};
use lockstep::isa::artifact::{HostDType, ValueKind};
use lockstep::{Artifact, Chips, CompileErrorKind, HostTensor, LoadOptions, Options, Silent, compile_entries, files};
use lockstep::{lookup, tensors, verify};
use lockstep_testkit::onnx::OnnxBuilder;
use std::collections::BTreeSet;
use std::sync::Arc;

const WIDTH: usize = 16;
const CONTEXT: usize = 24;

fn random(name: &str, shape: &[usize], seed: u64) -> HostTensor {
    let sizes: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
    tensors::random(name, HostDType::F32, &sizes, seed)
}

fn weight(b: &mut GraphBuilder, name: &str) -> ValueId {
    let data = random(name, &[WIDTH, WIDTH], 7).bytes;
    b.constant(name, DType::F32, Shape::from(&[WIDTH, WIDTH][..]), Weights::from(data))
        .expect("a weight")
}

/// Projects `n` rows, pushes them into a cache of the last rows, and gives the mean of the cache beside each projected row and
/// the number of rows seen so far.
fn cached(n: usize) -> Verified<Graph> {
    let mut b = GraphBuilder::new("cached", "main");
    let build = |b: &mut GraphBuilder| -> Result<(), lockstep::graph::OpError> {
        let x = b.input("x", DType::F32, &[n, WIDTH][..])?;
        let cache = b.input("cache", DType::F32, &[CONTEXT, WIDTH][..])?;
        let count = b.input("count", DType::F32, &[1][..])?;
        let (w, v) = (weight(b, "w"), weight(b, "v"));
        let row = b.matmul(x, w)?;
        let kept = Range {
            start: n,
            step: 1,
            len: CONTEXT - n,
        };
        let old = b.narrow(cache, 0, kept)?;
        let next = b.concat(&[old, row], 0)?;
        let mean = b.reduce(Reduce::Mean, next, &[0], true)?;
        let y = b.binary(Binary::Add, row, mean)?;
        let y = b.matmul(y, v)?;
        let seen = b.binary_scalar(Binary::Add, count, n as f64)?;
        b.output("y", y);
        b.output("next", next);
        b.output("seen", seen);
        b.state(1, 1);
        b.state(2, 2);
        Ok(())
    };
    build(&mut b).expect("a graph");
    Verified::new(b.finish(), &()).expect("a graph that holds")
}

fn compile(entries: &[(String, &Verified<Graph>)], target: &str, chips: u16) -> Arc<Artifact> {
    let target = files::target(target).expect("a target");
    let options = Options {
        chips: Chips::Exactly(chips),
        ..Options::default()
    };
    let compiled = compile_entries(entries, &target, &options, &mut Silent).expect("it compiles");
    let artifact = compiled.artifact.expect("an artifact");
    verify(&artifact).expect("it holds");
    Arc::new(artifact)
}

/// The same run after run in f64: rows through the weights, the cache, the count.
struct Reference {
    w: Vec<f64>,
    v: Vec<f64>,
    cache: Vec<f64>,
    count: f64,
}

impl Reference {
    fn new() -> Reference {
        let of = |name| tensors::to_f64(&random(name, &[WIDTH, WIDTH], 7));
        Reference {
            w: of("w"),
            v: of("v"),
            cache: vec![0.0; CONTEXT * WIDTH],
            count: 0.0,
        }
    }

    fn step(&mut self, x: &[f64]) -> Vec<f64> {
        let product = |row: &[f64], w: &[f64]| -> Vec<f64> {
            (0..WIDTH)
                .map(|n| (0..WIDTH).map(|k| row[k] * w[k * WIDTH + n]).sum())
                .collect()
        };
        let rows: Vec<Vec<f64>> = x.chunks(WIDTH).map(|row| product(row, &self.w)).collect();
        self.cache.drain(..rows.len() * WIDTH);
        self.cache.extend(rows.iter().flatten());
        self.count += rows.len() as f64;
        let mean = |n: usize| self.cache.iter().skip(n).step_by(WIDTH).sum::<f64>() / CONTEXT as f64;
        let mean: Vec<f64> = (0..WIDTH).map(mean).collect();
        let with_mean = |row: &Vec<f64>| -> Vec<f64> { row.iter().zip(&mean).map(|(a, b)| a + b).collect() };
        rows.iter().flat_map(|row| product(&with_mean(row), &self.v)).collect()
    }
}

#[test]
fn a_state_is_carried_between_entries() {
    let (one, many) = (cached(1), cached(8));
    for (target, chips) in [("tsp-2020", 1), ("toy", 1), ("toy", 2), ("toy", 3)] {
        let artifact = compile(&[("decode".into(), &one), ("prefill".into(), &many)], target, chips);
        let mut sim = lookup("sim")
            .expect("sim")
            .load(artifact.clone(), &LoadOptions::default())
            .expect("it loads");
        let mut cpu = lookup("cpu")
            .expect("cpu")
            .load(artifact.clone(), &LoadOptions::default())
            .expect("it loads");
        for round in 0..2 {
            let mut reference = Reference::new();
            for (step, entry) in [1, 0, 0, 1, 0].into_iter().enumerate() {
                let x = random("x", &[[1, 8][entry], WIDTH], step as u64);
                let got = sim.run(entry, &[x.view()]).expect("it runs");
                assert_eq!(got.cycles, Some(artifact.entries[entry].makespan), "{target} x {chips}");
                let got: Vec<HostTensor> = got.tensors.to_vec();
                let same = cpu.run(entry, &[x.view()]).expect("it runs");
                assert!(
                    got.iter().zip(same.tensors).all(|(a, b)| a.bytes == b.bytes),
                    "sim and cpu differ"
                );
                let want = reference.step(&tensors::to_f64(&x));
                for (name, want) in [
                    ("y", &want),
                    ("next", &reference.cache),
                    ("seen", &vec![reference.count]),
                ] {
                    let got = got.iter().find(|t| t.name == name).expect("the output");
                    let error = tensors::to_f64(got)
                        .iter()
                        .zip(want)
                        .map(|(a, b)| (a - b).abs())
                        .fold(0.0, f64::max);
                    assert!(
                        error < 1e-4,
                        "{target} x {chips}, round {round}, step {step}: {name} is off by {error}"
                    );
                }
            }
            sim.reset_state();
            cpu.reset_state();
        }
    }
}

/// Adds up a state of 24 elements, read as rows of `width`: an entry would split its axis there.
fn in_rows(width: usize) -> Verified<Graph> {
    let mut b = GraphBuilder::new("rows", "main");
    let build = |b: &mut GraphBuilder| -> Result<(), lockstep::graph::OpError> {
        let x = b.input("x", DType::F32, &[24][..])?;
        let sum = b.input("sum", DType::F32, &[24][..])?;
        let next = b.binary(Binary::Add, sum, x)?;
        let rows = b.reshape(next, &[24 / width, width][..])?;
        let rows = b.transpose(rows, &[1, 0])?;
        let y = b.reduce(Reduce::Sum, rows, &[0], false)?;
        b.output("y", y);
        b.output("next", next);
        b.state(1, 1);
        Ok(())
    };
    build(&mut b).expect("a graph");
    Verified::new(b.finish(), &()).expect("a graph that holds")
}

#[test]
fn entries_that_read_a_state_in_different_shapes_agree() {
    let (a, b) = (in_rows(4), in_rows(6));
    let artifact = compile(&[("a".into(), &a), ("b".into(), &b)], "toy", 1);
    let mut session = lookup("sim")
        .expect("sim")
        .load(artifact, &LoadOptions::default())
        .expect("it loads");
    let mut sum = [0.0; 24];
    for (step, entry) in [0, 1, 1, 0].into_iter().enumerate() {
        let x = random("x", &[24], step as u64);
        sum.iter_mut().zip(tensors::to_f64(&x)).for_each(|(s, x)| *s += x);
        let got = session.run(entry, &[x.view()]).expect("it runs");
        let y = tensors::to_f64(got.get("y").expect("the output"));
        let want: Vec<f64> = sum.chunks([4, 6][entry]).map(|row| row.iter().sum()).collect();
        let error = y.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(y.len() == want.len() && error < 1e-5, "step {step} is off by {error}");
    }
}

#[test]
fn constants_and_states_lie_once() {
    let (one, many) = (cached(1), cached(8));
    let both = compile(&[("decode".into(), &one), ("prefill".into(), &many)], "tsp-2020", 1);
    let alone = compile(&[("decode".into(), &one)], "tsp-2020", 1);
    assert_eq!(both.states.len(), 2);
    let homes = |entry: usize, wanted: fn(&ValueKind) -> bool| -> BTreeSet<String> {
        let values = both.entries[entry].values.iter().filter(|v| wanted(&v.kind));
        values
            .map(|v| format!("{:?} {:?} {} {}", v.kind, v.place, v.base, v.n_vectors))
            .collect()
    };
    let states = homes(0, |k| matches!(k, ValueKind::State(_)));
    assert_eq!(states, homes(1, |k| matches!(k, ValueKind::State(_))));
    let consts: fn(&ValueKind) -> bool = |k| matches!(k, ValueKind::Const(_));
    let shared = homes(0, consts).intersection(&homes(1, consts)).count();
    assert!(shared >= 2 * WIDTH.div_ceil(16), "{shared} constants are shared");
    let (w, a) = (both.weights_range.1, alone.weights_range.1);
    assert!(w < a + a / 4, "{w} bytes of weights for two entries, {a} for one");
}

#[test]
fn entries_that_contradict_each_other_are_refused() {
    let target = files::target("toy").expect("a target");
    let (a, b) = (cached(1), cached(2));
    let refuse = |entries: &[(String, &Verified<Graph>)]| -> String {
        match compile_entries(entries, &target, &Options::default(), &mut Silent).map(|_| ()) {
            Err(e) if matches!(e.kind, CompileErrorKind::Options(_)) => e.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refuse(&[]), "a model has at least one entry, none was given");
    assert_eq!(
        refuse(&[("a".into(), &a), ("a".into(), &b)]),
        "two entries have the name \"a\"; names must differ"
    );
    let mut other = GraphBuilder::new("other", "main");
    let count = other.input("count", DType::F32, &[2][..]).expect("an input");
    let seen = other.binary_scalar(Binary::Add, count, 1.0).expect("a sum");
    other.output("seen", seen);
    other.state(0, 0);
    let other = Verified::new(other.finish(), &()).expect("a graph that holds");
    assert_eq!(
        refuse(&[("a".into(), &a), ("b".into(), &other)]),
        "state \"count\" is f32[2] in entry \"b\" and f32[1] in entry \"a\"; it must be the same in all"
    );
}

#[test]
fn a_list_of_sizes_gives_an_entry_for_each() {
    let dir = Scratch::new("entries");
    let model = OnnxBuilder::new("dims")
        .input_f32("x", &["n", "m"])
        .node("Tanh", &["x"], &["y"])
        .output("y");
    dir.file("m.onnx", model.build());
    let done = lockstep(
        &dir.0,
        &[
            "compile", "m.onnx", "--dim", "n=1,4", "--dim", "m=2,3", "--target", "toy", "-o", "a.lks", "--json",
        ],
    );
    assert!(done.status.success(), "{}", common::told(&done));
    let out: serde_json::Value = serde_json::from_slice(&done.stdout).expect("json");
    let names: Vec<&str> = out["cycles"]
        .as_array()
        .expect("entries")
        .iter()
        .filter_map(|e| e["entry"].as_str())
        .collect();
    assert_eq!(names, ["n=1,m=2", "n=1,m=3", "n=4,m=2", "n=4,m=3"]);
    // The entry whose shapes the inputs have.
    let run = |more: &[&str]| {
        let mut args = vec!["run", "a.lks", "--json", "--backend", "sim"];
        args.extend(more);
        lockstep(&dir.0, &args)
    };
    let given = random("x", &[4, 3], 1);
    dir.file("x.npz", tensors::write_npz(&[given]).expect("an npz"));
    let done = run(&["--inputs", "x.npz"]);
    assert!(done.status.success(), "{}", common::told(&done));
    let out: serde_json::Value = serde_json::from_slice(&done.stdout).expect("json");
    assert_eq!(out["entry"], "n=4,m=3");
    let done = run(&["--random", "1", "--entry", "n=4,m=2"]);
    let out: serde_json::Value = serde_json::from_slice(&done.stdout).expect("json");
    assert_eq!(out["entry"], "n=4,m=2");
    let wrong = random("x", &[5, 3], 1);
    dir.file("x.npz", tensors::write_npz(&[wrong]).expect("an npz"));
    let done = run(&["--inputs", "x.npz"]);
    assert_eq!(done.status.code(), Some(2));
    let told = common::told(&done);
    assert!(
        told.contains("no entry takes these inputs") && told.contains("n=1,m=3"),
        "{told}"
    );
}
