//! Imports of the models that testkit builds, compared with recorded graphs and messages.

use lockstep_frontend::{ConstInput, ErrorClass, ImportOptions, MemorySource, import};
use lockstep_graph::{DType, Shape, Verified, Weights, print::print};
use lockstep_testkit::onnx::{OnnxBuilder, attr, external, tensor_f32};
use lockstep_testkit::onnx_cases::{CASES, build};

fn source(name: &str) -> MemorySource {
    MemorySource::file(&format!("{name}.onnx"), build(name).expect("a known case"))
}

fn options(dims: &[(&str, usize)]) -> ImportOptions {
    ImportOptions {
        dims: dims.iter().map(|(name, size)| (name.to_string(), *size)).collect(),
        ..ImportOptions::default()
    }
}

/// The graph as text, verified; or the message and its class.
fn text(source: &MemorySource, options: &ImportOptions) -> String {
    match import(source, options) {
        Ok(graph) => print(&Verified::new(graph, &()).expect("a verified graph")),
        Err(error) => format!("{:?} error: {error}", error.class()),
    }
}

fn case(name: &str, options: &ImportOptions) -> String {
    text(&source(name), options)
}

#[test]
fn plain_models() {
    for name in [
        "mlp",
        "conv_classifier",
        "conv_pad_same",
        "quantized_linear",
        "loop_unrolled",
        "function_call",
    ] {
        insta::assert_snapshot!(name, case(name, &ImportOptions::default()));
    }
}

#[test]
fn shape_arithmetic_goes_at_import() {
    insta::assert_snapshot!(
        "shape_arithmetic",
        case("shape_arithmetic", &options(&[("batch", 1), ("sequence", 6)]))
    );
}

#[test]
fn a_state_feeds_an_input() {
    let states = |from: &str, to: &str| ImportOptions {
        states: vec![(from.into(), to.into())],
        ..ImportOptions::default()
    };
    insta::assert_snapshot!("lstm_state", case("lstm_state", &states("hn", "h")));
    insta::assert_snapshot!("state_unknown", case("lstm_state", &states("hn", "state")));
    insta::assert_snapshot!("state_type", case("lstm_state", &states("y", "h")));
}

#[test]
fn a_condition_is_fixed_or_selected() {
    let mut fixed = ImportOptions::default();
    fixed
        .const_inputs
        .insert("sr".into(), ConstInput::parse("16000").unwrap());
    insta::assert_snapshot!("if_const", case("if_const", &fixed));
    insta::assert_snapshot!("if_selected", case("if_const", &ImportOptions::default()));
    fixed
        .const_inputs
        .insert("sr".into(), ConstInput::parse("0.5").unwrap());
    insta::assert_snapshot!("const_input_wrong", case("if_const", &fixed));
}

#[test]
fn unbound_dims_are_listed_together() {
    insta::assert_snapshot!("symbolic_dims", case("symbolic_dims", &ImportOptions::default()));
    insta::assert_snapshot!("dim_unknown", case("symbolic_dims", &options(&[("height", 3)])));
    let mut whole = options(&[("width", 5)]);
    whole.shapes.insert("b".into(), vec![2, 1]);
    whole.shapes.insert("c".into(), vec![7, 3]);
    insta::assert_snapshot!("symbolic_dims_bound", case("symbolic_dims", &whole));
    whole.shapes.insert("c".into(), vec![7, 4]);
    insta::assert_snapshot!("shape_conflict", case("symbolic_dims", &whole));
}

#[test]
fn everything_unsupported_is_named_at_once() {
    insta::assert_snapshot!("unsupported_ops", case("unsupported_ops", &ImportOptions::default()));
}

#[test]
fn a_shape_from_values_says_what_to_fix() {
    insta::assert_snapshot!("dynamic_reshape", case("dynamic_reshape", &ImportOptions::default()));
    let mut fixed = ImportOptions::default();
    let n = ConstInput::Tensor {
        dtype: DType::I64,
        shape: Shape::from([1]),
        data: Weights::from([3i64].as_slice()),
    };
    fixed.const_inputs.insert("n".into(), n);
    insta::assert_snapshot!("dynamic_reshape_fixed", case("dynamic_reshape", &fixed));
}

#[test]
fn external_data() {
    let file: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
    let model = || source("external_weight");
    insta::assert_snapshot!(
        "external_weight",
        text(&model().with("weights.bin", file.clone()), &ImportOptions::default())
    );
    insta::assert_snapshot!("external_missing", text(&model(), &ImportOptions::default()));
    insta::assert_snapshot!(
        "external_short",
        text(
            &model().with("weights.bin", file[..20].to_vec()),
            &ImportOptions::default()
        )
    );
    let escape = OnnxBuilder::new("escape")
        .init(external(
            "w",
            lockstep_onnx_protobuf::DataType::Float,
            &[1],
            &[("location", "../secret")],
        ))
        .node("Relu", &["w"], &["y"])
        .output("y");
    let escape = MemorySource::file("escape.onnx", escape.build()).with("../secret", vec![0; 4]);
    insta::assert_snapshot!("external_escape", text(&escape, &ImportOptions::default()));
}

#[test]
fn weights_are_not_copied() {
    let big = OnnxBuilder::new("big")
        .input_f32("x", &["1", "64"])
        .init_ramp("w", &[64, 64])
        .node("MatMul", &["x", "w"], &["y"])
        .output("y");
    let bytes = bytes::Bytes::from(big.build());
    let range = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
    let graph = import(
        &MemorySource::file("big.onnx", bytes.clone()),
        &ImportOptions::default(),
    )
    .unwrap();
    let weight = graph.consts.values().next().unwrap();
    assert!(range.contains(&(weight.data.bytes().as_ptr() as usize)));
}

#[test]
fn what_is_no_model() {
    let none = ImportOptions::default();
    let mut out = String::new();
    let empty = MemorySource::directory("models");
    let two = MemorySource::directory("models").with("a.onnx", "").with("b.onnx", "");
    let unknown = MemorySource::directory("models").with("config.json", r#"{"model_type": "mamba"}"#);
    let weightless = MemorySource::directory("models").with("config.json", r#"{"model_type": "bert", "vocab_size": 1, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4, "max_position_embeddings": 4}"#);
    let broken = MemorySource::directory("models").with("config.json", "{");
    let garbage = MemorySource::file("x.onnx", "hello world");
    let nothing = MemorySource::file("x.onnx", "");
    for source in [empty, two, unknown, weightless, broken, garbage, nothing] {
        out += &text(&source, &none);
        out.push('\n');
    }
    insta::assert_snapshot!("no_model", out);
}

#[test]
fn malformed_models_are_errors() {
    let x = |builder: OnnxBuilder| builder.input_f32("x", &["2", "3"]);
    let models = [
        x(OnnxBuilder::new("undefined"))
            .node("Add", &["x", "ghost"], &["y"])
            .output("y"),
        x(OnnxBuilder::new("no_output")).node("Relu", &["x"], &["y"]),
        x(OnnxBuilder::new("lost_output"))
            .node("Relu", &["x"], &["y"])
            .output("z"),
        x(OnnxBuilder::new("misfit"))
            .node("MatMul", &["x", "x"], &["y"])
            .output("y"),
        x(OnnxBuilder::new("axis"))
            .node_with("Softmax", &["x"], &["y"], vec![attr::int("axis", 2)])
            .output("y"),
        x(OnnxBuilder::new("short"))
            .init(tensor_f32("w", &[2, 2], &[1.0]))
            .node("MatMul", &["w", "x"], &["y"])
            .output("y"),
        x(OnnxBuilder::new("huge"))
            .init(tensor_f32("w", &[i64::MAX, i64::MAX], &[1.0]))
            .node("MatMul", &["w", "x"], &["y"])
            .output("y"),
        x(OnnxBuilder::new("negative"))
            .init(tensor_f32("w", &[-1], &[1.0]))
            .node("Add", &["w", "x"], &["y"])
            .output("y"),
        x(OnnxBuilder::new("twice"))
            .node("Relu", &["x"], &["y"])
            .output("y")
            .output("y"),
        x(OnnxBuilder::new("operands")).node("Add", &["x"], &["y"]).output("y"),
        x(OnnxBuilder::new("new"))
            .opset(99)
            .node("Relu", &["x"], &["y"])
            .output("y"),
        x(OnnxBuilder::new("slice"))
            .init(tensor_f32("f", &[1], &[1.0]))
            .node("Slice", &["x", "f", "f"], &["y"])
            .output("y"),
        x(OnnxBuilder::new("nameless"))
            .input_f32("", &["2"])
            .node("Relu", &["x"], &["y"])
            .output("y"),
        OnnxBuilder::new("decay")
            .opset(27)
            .input_f32("q", &["1", "2", "4"])
            .input_f32("d", &["2", "4"])
            .node_with(
                "LinearAttention",
                &["q", "q", "q", "", "d"],
                &["y", "state"],
                vec![
                    attr::int("q_num_heads", 1),
                    attr::int("kv_num_heads", 1),
                    attr::string("update_rule", "gated"),
                ],
            )
            .output("y"),
    ];
    let mut out = String::new();
    for model in models {
        let name = model.clone().graph().name;
        out += &text(
            &MemorySource::file(&format!("{name}.onnx"), model.build()),
            &ImportOptions::default(),
        );
        out.push('\n');
    }
    insta::assert_snapshot!("malformed", out);
}

#[test]
fn truncated_files_never_panic() {
    for (name, build) in CASES {
        let bytes = build().build();
        for len in (0..bytes.len()).step_by(7) {
            let source = MemorySource::file("cut.onnx", bytes[..len].to_vec());
            if let Err(error) = import(&source, &ImportOptions::default()) {
                assert!(matches!(error.class(), ErrorClass::Model | ErrorClass::Usage), "{name}");
            }
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let options = options(&[]);
    for (_, build) in CASES {
        let bytes = build().build();
        for at in 0..bytes.len() {
            for flip in [0x01, 0x40, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                let _ = import(&MemorySource::file("flip.onnx", changed), &options);
            }
        }
    }
}

#[test]
fn every_case_has_a_name_of_its_own() {
    assert!(CASES.windows(2).all(|pair| pair[0].0 < pair[1].0));
}
