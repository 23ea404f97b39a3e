//! The real models, from file to numbers: compiled for every target, proved, simulated, run on every SIMD level and compared with their
//! own framework. Needs the files that tests/fetch_models.py gets, in models/; feature `fetched-models`.
//!
//! What is checked of each: the simulator counts the cycles that the schedule says; the cpu executor gives the simulator's bits at 1
//! and 2 threads and at every SIMD level of this machine; both are within the tolerance of the golden.

#![allow(missing_docs, clippy::print_stdout)]

mod common;

use common::{array, golden, largest_error, path};
use lockstep::files::{self, FileSource};
use lockstep::graph::Verified;
use lockstep::{
    Artifact, Chips, ConstInput, Graph, HostTensor, ImportOptions, LoadOptions, Options, Silent, Simd, TensorView,
    lookup,
};
use std::sync::Arc;

/// A model, its options, and the cases of a golden file that these fit.
struct Model {
    path: &'static str,
    dims: &'static [(&'static str, usize)],
    shapes: &'static [(&'static str, &'static [usize])],
    consts: &'static [(&'static str, &'static str)],
    golden: &'static str,
    /// Inputs of each case in the order of the model, then its outputs.
    cases: &'static [(&'static [&'static str], &'static [&'static str])],
    tolerance: f64,
    /// Targets and numbers of chips; 0 is auto.
    on: &'static [(&'static str, u16)],
}

/// Every machine that a model of any size is compiled for.
const ALL: &[(&str, u16)] = &[
    ("tsp-2020", 1),
    ("tsp-2020", 2),
    ("tsp-2020", 4),
    ("tsp-2020", 8),
    ("lpx-2026", 1),
    ("cpu", 1),
];

/// The same, and the small target on as many chips as are best.
const ALL_AND_TOY: &[(&str, u16)] = &[
    ("tsp-2020", 1),
    ("tsp-2020", 2),
    ("tsp-2020", 4),
    ("tsp-2020", 8),
    ("lpx-2026", 1),
    ("cpu", 1),
    ("toy", 0),
];

const SILERO: Model = Model {
    path: "models/silero-vad/silero_vad_openvino_16k.onnx",
    dims: &[],
    shapes: &[],
    consts: &[],
    golden: "tests/data/silero-vad/silero_vad_openvino_16k.golden.npz",
    cases: &[
        (&["rand.in0", "rand.in1"], &["rand.out0", "rand.out1"]),
        (&["speech.in0", "speech.in1"], &["speech.out0", "speech.out1"]),
    ],
    tolerance: 1e-4,
    on: ALL_AND_TOY,
};

const SILERO_SEQUENCE: Model = Model {
    path: "models/silero-vad/silero_vad_16k_sequence.onnx",
    dims: &[("sequence_length", 64)],
    golden: "tests/data/silero-vad/silero_vad_16k_sequence.golden.npz",
    cases: &[(
        &["speech.in0", "speech.in1", "speech.in2"],
        &["speech.out0", "speech.out1", "speech.out2"],
    )],
    ..SILERO
};

const SILERO_IFLESS: Model = Model {
    path: "models/silero-vad/silero_vad_op18_ifless.onnx",
    dims: &[("batch", 1), ("sequence", 576)],
    consts: &[("sr", "16000")],
    golden: "tests/data/silero-vad/silero_vad_op18_ifless.golden.npz",
    cases: &[
        (&["rand.in0", "rand.in2"], &["rand.out0", "rand.out1"]),
        (&["speech.in0", "speech.in2"], &["speech.out0", "speech.out1"]),
    ],
    ..SILERO
};

/// Nested branches on the sampling rate, which is fixed.
const SILERO_BRANCHES: Model = Model {
    path: "models/silero-vad/silero_vad.onnx",
    shapes: &[("input", &[1, 576]), ("state", &[2, 1, 128])],
    consts: &[("sr", "16000")],
    golden: "tests/data/silero-vad/silero_vad.golden.npz",
    on: ALL,
    ..SILERO
};

const SILERO_OPSET_15: Model = Model {
    path: "models/silero-vad/silero_vad_16k_op15.onnx",
    golden: "tests/data/silero-vad/silero_vad_16k_op15.golden.npz",
    ..SILERO_BRANCHES
};

/// The export with f16 weights.
const SILERO_HALF: Model = Model {
    path: "models/silero-vad/silero_vad_half.onnx",
    shapes: &[("input", &[1, 576]), ("state", &[2, 1, 128])],
    golden: "tests/data/silero-vad/silero_vad_half.golden.npz",
    on: ALL,
    ..SILERO
};

const CLASSIFIER: Model = Model {
    path: "models/ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    shapes: &[("x", &[2, 3, 48, 192])],
    golden: "tests/data/ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.golden.npz",
    cases: &[(&["rand.in0"], &["rand.out0"])],
    tolerance: 1e-3,
    on: ALL,
    ..SILERO
};

/// The golden's first image alone.
const CLASSIFIER_ONE: Model = Model {
    shapes: &[("x", &[1, 3, 48, 192])],
    ..CLASSIFIER
};

/// Small SRAM, few lanes: many chips.
const CLASSIFIER_ON_TOY: Model = Model {
    on: &[("toy", 0)],
    ..CLASSIFIER_ONE
};

/// The text line recogniser, at the width of its first golden.
const RECOGNISER: Model = Model {
    path: "models/ppocr-v4/ch_PP-OCRv4_rec_infer.onnx",
    shapes: &[("x", &[1, 3, 48, 160])],
    golden: "tests/data/ppocr-v4/ch_PP-OCRv4_rec_infer.golden.npz",
    on: &[("tsp-2020", 1)],
    ..CLASSIFIER
};

/// A whole line of text.
const RECOGNISER_LINE: Model = Model {
    shapes: &[("x", &[1, 3, 48, 546])],
    cases: &[(&["line.in0"], &["line.out0"])],
    ..RECOGNISER
};

const DETECTOR: Model = Model {
    path: "models/ppocr-v4/ch_PP-OCRv4_det_infer.onnx",
    shapes: &[("x", &[1, 3, 64, 96])],
    golden: "tests/data/ppocr-v4/ch_PP-OCRv4_det_infer.golden.npz",
    ..RECOGNISER
};

const WAKE_SPECTROGRAM: Model = Model {
    path: "models/openwakeword/melspectrogram.onnx",
    shapes: &[("input", &[1, 17280])],
    golden: "tests/data/openwakeword/melspectrogram.golden.npz",
    cases: &[(&["rand.in0"], &["rand.out0"]), (&["speech.in0"], &["speech.out0"])],
    on: &[("tsp-2020", 1)],
    ..CLASSIFIER
};

const WAKE_EMBEDDING: Model = Model {
    path: "models/openwakeword/embedding_model.onnx",
    shapes: &[("input_1", &[2, 76, 32, 1])],
    golden: "tests/data/openwakeword/embedding_model.golden.npz",
    on: &[("tsp-2020", 1)],
    ..CLASSIFIER
};

const WAKE_HEAD: Model = Model {
    path: "models/openwakeword/alexa_v0.1.onnx",
    shapes: &[],
    golden: "tests/data/openwakeword/alexa_v0.1.golden.npz",
    tolerance: 1e-4,
    on: ALL,
    ..CLASSIFIER
};

const MINILM: Model = Model {
    path: "models/minilm",
    dims: &[("batch", 1), ("sequence", 128)],
    golden: "tests/data/minilm/golden_1x128.npz",
    cases: &[
        (&["rand.in0", "rand.in1", "rand.in2"], &["rand.out0"]),
        (&["padded.in0", "padded.in1", "padded.in2"], &["padded.out0"]),
    ],
    on: ALL,
    ..SILERO
};

const MINILM_TEXT: Model = Model {
    dims: &[("batch", 3), ("sequence", 12)],
    golden: "tests/data/minilm/golden_torch.npz",
    cases: &[(
        &["input_ids", "attention_mask", "token_type_ids"],
        &["last_hidden_state"],
    )],
    ..MINILM
};

const MINILM_INT8: Model = Model {
    path: "models/minilm-int8/model.onnx",
    dims: &[("batch", 1), ("sequence", 16)],
    golden: "tests/data/minilm/model_int8.golden.npz",
    cases: &[(&["rand.in0", "rand.in1", "rand.in2"], &["rand.out0"])],
    ..MINILM
};

const MINILM_INT8_TEXT: Model = Model {
    dims: &[("batch", 2), ("sequence", 12)],
    cases: &[(&["text.in0", "text.in1", "text.in2"], &["text.out0"])],
    ..MINILM_INT8
};

fn import(model: &Model) -> Verified<Graph> {
    let source = FileSource::open(&path(model.path)).expect("the model; python3 tests/fetch_models.py gets it");
    let options = ImportOptions {
        dims: model.dims.iter().map(|(n, v)| (n.to_string(), *v)).collect(),
        shapes: model.shapes.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect(),
        const_inputs: model
            .consts
            .iter()
            .map(|(n, v)| (n.to_string(), ConstInput::parse(v).expect("a literal")))
            .collect(),
        ..ImportOptions::default()
    };
    let graph = lockstep::import(&source, &options).unwrap_or_else(|e| panic!("{}: {e}", model.path));
    Verified::new(graph, &()).unwrap_or_else(|e| panic!("{}: {e}", model.path))
}

/// An array as an input or output of the compiled shape: the first rows of a larger batch.
fn fitted(tensor: &HostTensor, shape: &[u64]) -> HostTensor {
    if tensor.shape == shape {
        return tensor.clone();
    }
    assert_eq!(
        tensor.shape[1..],
        shape[1..],
        "{}: only the batch may be larger",
        tensor.name
    );
    let n = shape.iter().product::<u64>() as usize * tensor.dtype.bytes();
    HostTensor {
        shape: shape.to_vec(),
        bytes: tensor.bytes[..n].to_vec(),
        ..tensor.clone()
    }
}

fn run(
    artifact: &Arc<Artifact>,
    backend: &str,
    options: &LoadOptions,
    inputs: &[HostTensor],
) -> (Vec<HostTensor>, Option<u64>) {
    let executor = lookup(backend).expect("an executor");
    let mut session = executor
        .load(Arc::clone(artifact), options)
        .unwrap_or_else(|e| panic!("{backend}: {e}"));
    let views: Vec<TensorView<'_>> = inputs.iter().map(HostTensor::view).collect();
    let outputs = session.run(0, &views).unwrap_or_else(|e| panic!("{backend}: {e}"));
    (outputs.tensors.to_vec(), outputs.cycles)
}

/// SIMD levels of this machine.
fn levels() -> Vec<Simd> {
    let mut all = vec![Simd::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(Simd::Avx2);
        }
        if is_x86_feature_detected!("avx512f") {
            all.push(Simd::Avx512);
        }
    }
    all
}

/// Compiles for one machine, proves, runs everywhere and compares.
fn check_on(model: &Model, graph: &Verified<Graph>, target: &str, chips: Chips) {
    let what = format!("{} for {target} on {chips:?}", model.path);
    let options = Options {
        chips,
        ..Options::default()
    };
    let machine = files::target(target).expect("a target");
    let compiled = lockstep::compile(graph, &machine, &options, &mut Silent).unwrap_or_else(|e| panic!("{what}: {e}"));
    for entry in compiled.report.iter().flat_map(|r| &r.entries) {
        assert!(entry.bound.bound <= entry.makespan, "{what}: {:?}", entry.bound);
    }
    let artifact = Arc::new(compiled.artifact.expect("an artifact"));
    let proof = lockstep::verify(&artifact).unwrap_or_else(|e| panic!("{what}: {e}"));
    let entry = &artifact.entries[0];
    assert_eq!(proof.entries[0].makespan, entry.makespan, "{what}");
    println!("{what}: {} chips, {} cycles", artifact.n_chips, entry.makespan);
    let arrays = golden(model.golden);
    for (inputs, outputs) in model.cases {
        let wanted = entry.inputs.iter().zip(*inputs);
        let given: Vec<HostTensor> = wanted.map(|(w, name)| fitted(array(&arrays, name), &w.shape)).collect();
        assert_eq!(given.len(), entry.inputs.len(), "{what}: inputs of the golden");
        let (simulated, cycles) = run(&artifact, "sim", &LoadOptions::default(), &given);
        assert_eq!(cycles, Some(entry.makespan), "{what}: simulated cycles");
        for (found, name) in simulated.iter().zip(*outputs) {
            let error = largest_error(found, &fitted(array(&arrays, name), &found.shape));
            println!("  {name}: largest error {error:.2e}");
            assert!(
                error <= model.tolerance,
                "{what}: {name}: error {error:e} over {:e}",
                model.tolerance
            );
        }
        for simd in levels() {
            for threads in [1, 2] {
                let options = LoadOptions {
                    threads,
                    simd: Some(simd),
                    ..LoadOptions::default()
                };
                let (found, _) = run(&artifact, "cpu", &options, &given);
                assert!(
                    found == simulated,
                    "{what}: {simd:?} with {threads} threads differs from the simulator"
                );
            }
        }
    }
}

fn check(model: &Model) {
    let graph = import(model);
    for &(target, chips) in model.on {
        let chips = if chips == 0 { Chips::Auto } else { Chips::Exactly(chips) };
        check_on(model, &graph, target, chips);
    }
}

macro_rules! models {
    ($($(#[$meta:meta])* $name:ident: $model:ident),* $(,)?) => {
        $(#[test] $(#[$meta])* fn $name() { check(&$model); })*
    };
}

// What takes minutes: cargo test --release --features fetched-models --test models -- --ignored
models! {
    #[ignore = "takes minutes"]
    recogniser_of_a_line: RECOGNISER_LINE,
}

models! {
    silero: SILERO,
    silero_sequence: SILERO_SEQUENCE,
    silero_without_if: SILERO_IFLESS,
    silero_with_branches: SILERO_BRANCHES,
    silero_opset_15: SILERO_OPSET_15,
    silero_half: SILERO_HALF,
    classifier: CLASSIFIER,
    classifier_one_image: CLASSIFIER_ONE,
    classifier_on_toy: CLASSIFIER_ON_TOY,
    recogniser: RECOGNISER,
    detector: DETECTOR,
    wake_spectrogram: WAKE_SPECTROGRAM,
    wake_embedding: WAKE_EMBEDDING,
    wake_head: WAKE_HEAD,
    minilm: MINILM,
    minilm_text: MINILM_TEXT,
    minilm_int8: MINILM_INT8,
    minilm_int8_text: MINILM_INT8_TEXT,
}

/// The error that 16-bit activations cost, as printed by this test; the tolerance is what users are told.
#[test]
fn half_precision() {
    for (model, dtype, tolerance) in [
        (&SILERO, lockstep::isa::DType::F16, 5e-3),
        (&SILERO, lockstep::isa::DType::BF16, 5e-2),
        (&MINILM, lockstep::isa::DType::F16, 2e-2),
        (&MINILM, lockstep::isa::DType::BF16, 1.5e-1),
    ] {
        let graph = import(model);
        let options = Options {
            chips: Chips::Exactly(1),
            precision: Some(dtype),
            ..Options::default()
        };
        let target = files::target("tsp-2020").expect("a target");
        let compiled =
            lockstep::compile(&graph, &target, &options, &mut Silent).unwrap_or_else(|e| panic!("{}: {e}", model.path));
        let artifact = Arc::new(compiled.artifact.expect("an artifact"));
        lockstep::verify(&artifact).unwrap_or_else(|e| panic!("{} in {dtype}: {e}", model.path));
        let arrays = golden(model.golden);
        for (inputs, outputs) in model.cases {
            let given: Vec<HostTensor> = inputs.iter().map(|n| array(&arrays, n).clone()).collect();
            let (found, _) = run(&artifact, "cpu", &LoadOptions::default(), &given);
            for (found, name) in found.iter().zip(*outputs) {
                let error = largest_error(found, array(&arrays, name));
                println!(
                    "{} in {dtype}, {name}: largest error {error:.2e}, {} cycles",
                    model.path, artifact.entries[0].makespan
                );
                assert!(error <= tolerance, "{} in {dtype}: {name}: error {error:e}", model.path);
            }
        }
    }
}
