//! `lockstep report --quantisation-error`: what narrower weights cost, layer by layer.

#![cfg(all(feature = "compile", feature = "sim", feature = "generate"))]
#![allow(missing_docs)]

mod common;

use common::{Scratch, check, lockstep, path, silero, tiny_llama, told};
use lockstep::files::FileSource;
use lockstep::graph::{Graph, Verified};
use lockstep::isa::DType;
use lockstep::quantisation::{Distance, QuantisationError, compare};
use lockstep::{Checkpoint, WeightFormat};
use serde_json::Value;
use std::path::Path;

const TOKENS: [u32; 6] = [3, 60, 17, 41, 8, 29];

fn layers(model: &Path, weights: Option<WeightFormat>) -> Verified<Graph> {
    let source = FileSource::open(model).expect("a directory");
    let model = Checkpoint::read(&source).expect("it imports").expect("it is a decoder");
    let graph = model.layers(TOKENS.len(), weights).expect("it imports");
    Verified::new(graph, &()).expect("a good graph")
}

fn error(family: &str, weights: Option<WeightFormat>, precision: Option<DType>) -> QuantisationError {
    let model = path("tests/data/llm").join(family);
    let reference = layers(&model, Some(WeightFormat::F32));
    compare(&reference, &layers(&model, weights), precision, &TOKENS).expect("it runs")
}

#[test]
fn weights_that_are_the_same_have_no_error() {
    for family in ["llama", "gpt2", "qwen3_moe"] {
        for weights in [None, Some(WeightFormat::F32)] {
            let error = error(family, weights, None);
            assert_eq!(error.same_next, TOKENS.len());
            assert_eq!(error.outputs.len(), 4);
            for d in error.outputs {
                assert_eq!((d.relative_rms, d.largest, d.cosine), (0.0, 0.0, 1.0), "{family}");
            }
        }
    }
}

#[test]
fn the_narrower_the_weights_the_larger_the_error() {
    let formats = [
        WeightFormat::F16,
        WeightFormat::Bf16,
        WeightFormat::Int8,
        WeightFormat::Int4,
    ];
    // The first formats hold the weights of a family as they are: those of GPT-2 are stored as f32, of Mistral as f16, of the others as bf16.
    for (family, exact) in [("gpt2", 0), ("mistral", 1), ("llama", 2), ("gemma2", 2), ("mixtral", 2)] {
        let errors = formats.map(|format| error(family, Some(format), None).outputs);
        for output in 0..errors[0].len() {
            let figures = |of: fn(&Distance) -> f64| errors.iter().map(|e| of(&e[output])).collect::<Vec<_>>();
            let (relative, cosine) = (figures(|d| d.relative_rms), figures(|d| d.cosine));
            let what = format!("{family}: {relative:?} {cosine:?}");
            assert!(relative[..exact].iter().all(|&x| x == 0.0), "{what}");
            assert!(relative[exact] > 0.0 && cosine[exact] < 1.0, "{what}");
            assert!(relative[exact..].is_sorted_by(|a, b| a < b), "{what}");
            assert!(cosine[exact..].is_sorted_by(|a, b| a > b), "{what}");
        }
    }
}

#[test]
fn activations_of_16_bits_add_to_it() {
    let weights = Some(WeightFormat::Bf16);
    let (wide, narrow) = (
        error("llama", weights, None),
        error("llama", weights, Some(DType::BF16)),
    );
    for (wide, narrow) in wide.outputs.iter().zip(&narrow.outputs) {
        assert!(wide.relative_rms < narrow.relative_rms, "{wide:?} {narrow:?}");
    }
}

/// One weight of the second layer becomes 1: the first layer shows nothing, what follows does.
#[test]
fn an_error_shows_where_it_arises() {
    let dir = Scratch::new("quantisation-disturbed");
    let model = tiny_llama(&dir, false);
    let file = model.join("model.safetensors");
    let mut bytes = std::fs::read(&file).expect("weights");
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("a length")) as usize;
    let index: Value = serde_json::from_slice(&bytes[8..head]).expect("JSON");
    let entry = &index["model.layers.1.mlp.down_proj.weight"];
    assert_eq!(entry["dtype"], "BF16");
    let at = head + entry["data_offsets"][0].as_u64().expect("an offset") as usize;
    bytes[at..at + 2].copy_from_slice(&[0x80, 0x3f]);
    let reference = layers(&path("tests/data/llm/llama"), None);
    std::fs::write(&file, bytes).expect("a file");
    let error = compare(&reference, &layers(&model, None), None, &TOKENS).expect("it runs");
    assert_eq!((error.outputs[0].relative_rms, error.outputs[0].largest), (0.0, 0.0));
    for d in &error.outputs[1..] {
        assert!(d.relative_rms > 0.0 && d.largest > 0.0 && d.cosine < 1.0, "{d:?}");
    }
}

#[test]
fn the_report_states_it() {
    let dir = Scratch::new("quantisation-report");
    tiny_llama(&dir, true);
    let report = |more: &[&str]| {
        let options = ["report", "tiny", "--target", "toy", "--weights", "int8"];
        let out = lockstep(&dir.0, &[&options, more].concat());
        assert!(out.status.success(), "{}", told(&out));
        String::from_utf8(out.stdout).expect("text")
    };
    let json: Value =
        serde_json::from_str(&report(&["--json", "--quantisation-error", "--prompt", "w5 w60 w7"])).expect("JSON");
    let error = &json["report"]["quantisation_error"];
    assert_eq!(
        (&error["weights"], &error["prompt"]),
        (&"int8".into(), &"w5 w60 w7".into())
    );
    assert_eq!(error["tokens"], serde_json::json!([5, 60, 7]));
    assert!(error["precision"].is_null());
    let outputs = error["outputs"].as_array().expect("a list");
    assert_eq!(outputs.len(), 4);
    for output in outputs {
        let of = |key: &str| output[key].as_f64().expect("a number");
        assert!(
            of("relative_rms_error") > 0.0 && of("relative_rms_error") < 0.1,
            "{output}"
        );
        assert!(of("largest_error") > 0.0 && of("cosine_similarity") > 0.99, "{output}");
    }
    assert!(json["report"]["entries"][0]["makespan_cycles"].as_u64().is_some());
    let text = report(&["--quantisation-error", "--precision", "bf16"]);
    let line = "quantisation error: int8 weights and bf16 activations against f32, over 15 tokens of \"The timetable";
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains("layer.1 ") && text.contains("the most likely next token is the same behind"),
        "{text}"
    );
    assert!(!report(&[]).contains("quantisation"));
    report(&["--quantisation-error", "--html", "page.html"]);
    let page = std::fs::read_to_string(dir.0.join("page.html")).expect("a page");
    assert!(page.contains("<td>layer.1</td><td class=\"n\">"), "{page}");
    std::fs::remove_file(dir.0.join("tiny/tokenizer.json")).expect("it goes");
    let text = report(&["--quantisation-error"]);
    assert!(
        text.contains("over 16 tokens spread over the vocabulary, for the model has no tokenizer"),
        "{text}"
    );
}

#[test]
fn what_it_needs_is_said() {
    let dir = Scratch::new("quantisation-errors");
    tiny_llama(&dir, true);
    let long = "w5 ".repeat(33);
    let compiled = lockstep(&dir.0, &["compile", "tiny", "--target", "toy", "-o", "tiny.lks"]);
    assert!(compiled.status.success(), "{}", told(&compiled));
    std::fs::copy(silero(), dir.0.join("silero.onnx")).expect("a copy");
    macro_rules! refused {
        ($name:literal, $model:literal $(, $arg:expr)*) => {
            check!(dir, $name, "report", $model, "--quantisation-error" $(, $arg)*)
        };
    }
    refused!("error_of_an_artifact", "tiny.lks");
    refused!("error_of_no_language_model", "silero.onnx");
    refused!("error_on_a_long_prompt", "tiny", "--prompt", &long);
    refused!("error_on_an_empty_prompt", "tiny", "--prompt", "");
    std::fs::remove_file(dir.0.join("tiny/tokenizer.json")).expect("it goes");
    refused!("error_on_a_prompt_without_tokenizer", "tiny", "--prompt", "w5");
}
