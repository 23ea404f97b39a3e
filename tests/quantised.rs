//! Quantised exports of onnxruntime, QDQ and QOperator, through the whole line: integers on the matrix units, at most one quantisation step
//! from onnxruntime's floats with rounding between on 99.5 % of the elements. Models and goldens are made by tests/quantised/make.py.

#![allow(missing_docs, clippy::print_stdout)]

mod common;

use common::{array, golden, path};
use lockstep::files::{self, FileSource};
use lockstep::graph::Verified;
use lockstep::isa::DType;
use lockstep::{Chips, HostTensor, ImportOptions, LoadOptions, Options, Silent, TensorView, lookup, tensors};
use lockstep_compiler::tir::Op;
use std::sync::Arc;

/// Of so many elements one may be more than a step away.
const FAR: usize = 200;

/// A model by its file below tests/data/quantised, with the quantisation step of each output.
struct Model {
    name: &'static str,
    steps: &'static [f64],
}

const SMALL: &[f64] = &[0.065_770_633_518_695_83, 0.218_503_639_101_982_12];
const CLASSIFIER: &[f64] = &[0.016_516_944_393_515_587];

fn check(model: &Model, target: &str, chips: u16) {
    let what = format!("{} for {target} on {chips}", model.name);
    let file = path(&format!("tests/data/quantised/{}.onnx", model.name));
    let source = FileSource::open(&file).expect("the model");
    let graph = lockstep::import(&source, &ImportOptions::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let graph = Verified::new(graph, &()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let ir = lockstep_compiler::lower::lower(&graph).unwrap_or_else(|e| panic!("{what}: {e}"));
    let dtype = |v: &lockstep_compiler::tir::ValueData| ir.values[v.inputs[0]].ty.dtype;
    let mut products = ir.values.values().filter(|v| matches!(v.op, Op::Contract { .. }));
    assert!(
        products.all(|v| matches!(dtype(v), DType::I8 | DType::U8)),
        "{what}: a product of floats"
    );
    let options = Options {
        chips: Chips::Exactly(chips),
        ..Options::default()
    };
    let machine = files::target(target).expect("a target");
    let compiled = lockstep::compile(&graph, &machine, &options, &mut Silent).unwrap_or_else(|e| panic!("{what}: {e}"));
    let artifact = Arc::new(compiled.artifact.expect("an artifact"));
    lockstep::verify(&artifact).unwrap_or_else(|e| panic!("{what}: {e}"));
    let arrays = golden(&format!("tests/data/quantised/{}.golden.npz", model.name));
    let run = |backend: &str, input: &HostTensor| {
        let executor = lookup(backend).expect("an executor");
        let mut session = executor
            .load(Arc::clone(&artifact), &LoadOptions::default())
            .unwrap_or_else(|e| panic!("{what}: {backend}: {e}"));
        let views: [TensorView<'_>; 1] = [input.view()];
        let outputs = session
            .run(0, &views)
            .unwrap_or_else(|e| panic!("{what}: {backend}: {e}"));
        outputs.tensors.to_vec()
    };
    for case in 0..2 {
        let input = array(&arrays, &format!("run{case}.in0"));
        let found = run("sim", input);
        assert!(found == run("cpu", input), "{what}: sim and cpu differ");
        for (n, (found, step)) in found.iter().zip(model.steps).enumerate() {
            let wanted = tensors::to_f64(array(&arrays, &format!("run{case}.out{n}")));
            let found = tensors::to_f64(found);
            assert_eq!(found.len(), wanted.len(), "{what}");
            let steps = |(a, b): (&f64, &f64)| ((a - b) / step).abs().round() as u64;
            let off: Vec<u64> = found.iter().zip(&wanted).map(steps).collect();
            let far = off.iter().filter(|&&s| s > 1).count();
            let one = off.iter().filter(|&&s| s == 1).count();
            println!("{what}: output {n}: {one} of {} a step away, {far} more", off.len());
            assert!(
                far * FAR <= off.len(),
                "{what}: output {n}: {far} of {} elements",
                off.len()
            );
        }
    }
}

#[test]
fn small_qdq() {
    let model = Model {
        name: "small_qdq",
        steps: SMALL,
    };
    check(&model, "toy", 1);
    check(&model, "tsp-2020", 1);
}

#[test]
fn small_qoperator() {
    let model = Model {
        name: "small_qoperator",
        steps: SMALL,
    };
    check(&model, "toy", 1);
    check(&model, "tsp-2020", 2);
}

#[test]
#[ignore = "takes minutes"]
fn classifier_qdq() {
    let model = Model {
        name: "classifier_qdq",
        steps: CLASSIFIER,
    };
    check(&model, "tsp-2020", 1);
}

#[test]
#[ignore = "takes minutes"]
fn classifier_qoperator() {
    let model = Model {
        name: "classifier_qoperator",
        steps: CLASSIFIER,
    };
    check(&model, "tsp-2020", 1);
}
