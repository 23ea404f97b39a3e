//! SmolLM2-135M from its GGUF file: token ids, and 32 greedy tokens of four prompts, as transformers gives them. Needs the file that
//! tests/fetch_models.py gets; feature `fetched-models`.

#![cfg(feature = "generate")]
#![allow(missing_docs)]

mod common;

use common::path;
use lockstep::files::{self, FileSource};
use lockstep::graph::Verified;
use lockstep::isa::DType;
use lockstep::language::{Decoder, Sampler, Sampling, Text};
use lockstep::{Artifact, Chips, LanguageModel, LanguageOptions, LoadOptions, Options, Silent, WeightFormat, lookup};
use serde_json::Value;
use std::sync::Arc;

fn import(prefill: Vec<usize>) -> LanguageModel {
    let source = FileSource::open(&path("models/smollm2-135m")).expect("the directory");
    let options = LanguageOptions {
        context: Some(96),
        prefill,
        ..LanguageOptions::default()
    };
    let model = lockstep::language_model(&source, &options);
    model.expect("it imports").expect("it is a decoder")
}

fn text(model: &LanguageModel) -> Text {
    Text::read(model.text.as_deref().unwrap_or_default()).expect("a tokenizer")
}

fn json(below: &str) -> Value {
    let text = std::fs::read_to_string(path(below)).expect("a golden");
    serde_json::from_str(&text).expect("JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(Value::as_u64).map(|id| id as u32).collect()
}

#[test]
fn token_ids() {
    let words = text(&import(Vec::new()));
    let cases = json("tests/data/smollm2-135m/golden_tokens.json");
    let cases = cases.as_array().expect("a list");
    assert_eq!(cases.len(), 42);
    for case in cases {
        let source = case["text"].as_str().expect("a text");
        assert_eq!(
            words.encode(source, false).expect("ids"),
            ids(&case["ids"]),
            "{source:?}"
        );
        assert_eq!(
            words.encode(source, true).expect("ids"),
            ids(&case["ids_special"]),
            "{source:?}"
        );
        // The golden keeps special tokens, which `decode` leaves out.
        let decoded = case["decoded"].as_str().expect("a text");
        if !decoded.contains("<|") {
            assert_eq!(words.decode(&ids(&case["ids"])).expect("text"), decoded, "{source:?}");
        }
    }
}

fn compile(target: &str, chips: u16, prefill: Vec<usize>) -> (Arc<Artifact>, Text) {
    compile_in(target, chips, import(prefill), None)
}

fn compile_in(target: &str, chips: u16, model: LanguageModel, precision: Option<DType>) -> (Arc<Artifact>, Text) {
    let words = text(&model);
    let graphs: Vec<_> = model
        .entries
        .into_iter()
        .map(|(name, graph)| (name, Verified::new(graph, &()).expect("a good graph")))
        .collect();
    let entries: Vec<_> = graphs.iter().map(|(name, graph)| (name.clone(), graph)).collect();
    let options = Options {
        chips: Chips::Exactly(chips),
        verify: true,
        precision,
        ..Options::default()
    };
    let target = files::target(target).expect("a target");
    let compiled = lockstep::compile_entries(&entries, &target, &options, &mut Silent).expect("it compiles");
    (Arc::new(compiled.artifact.expect("an artifact")), words)
}

fn greedy(artifact: &Arc<Artifact>, words: &Text, backend: &str, threads: usize, n: usize) {
    let golden = json("tests/data/smollm2-135m-f32/golden.json");
    let options = LoadOptions {
        threads,
        ..LoadOptions::default()
    };
    let session = lookup(backend)
        .expect("an executor")
        .load(Arc::clone(artifact), &options);
    let mut model = Decoder::new(artifact, session.expect("it loads")).expect("a language model");
    for (number, case) in golden["prompts"].as_array().expect("prompts").iter().enumerate() {
        let prompt = match number {
            3 => words.chat("What is 2 + 2? Answer briefly.").expect("a template"),
            _ => case["prompt"].as_str().expect("a prompt").to_owned(),
        };
        let prompt = words.encode(&prompt, false).expect("ids");
        assert_eq!(prompt, ids(&case["prompt_ids"]));
        model.reset();
        let mut sampler = Sampler::new(Sampling::default());
        let mut tokens = vec![sampler.choose(model.feed(&prompt).expect("it runs"))];
        while tokens.len() < n {
            let last = [tokens[tokens.len() - 1]];
            tokens.push(sampler.choose(model.feed(&last).expect("it runs")));
        }
        assert_eq!(tokens, ids(&case["greedy_ids"])[..n], "prompt {number}");
    }
}

#[test]
fn greedy_tokens_on_one_large_chip() {
    let (artifact, words) = compile("cpu", 1, Vec::new());
    greedy(&artifact, &words, "cpu", 1, 32);
    greedy(&artifact, &words, "cpu", 2, 4);
}

/// The first token of a text has elements whose squares binary16 does not hold.
#[test]
fn greedy_tokens_with_activations_of_16_bits() {
    let (artifact, words) = compile_in("cpu", 1, import(Vec::new()), Some(DType::F16));
    greedy(&artifact, &words, "cpu", 2, 32);
}

/// Decode takes no more cycles where matrices are integers with scales than where they are 16-bit floats.
#[test]
fn integers_are_no_slower_than_floats() {
    let cycles = [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Bf16].map(|weights| {
        let source = FileSource::open(&path("models/smollm2-135m")).expect("the directory");
        let options = LanguageOptions {
            context: Some(96),
            weights: Some(weights),
            ..LanguageOptions::default()
        };
        let model = lockstep::language_model(&source, &options);
        let model = model.expect("it imports").expect("it is a decoder");
        let (artifact, _) = compile_in("tsp-2020", 4, model, None);
        artifact.entries[0].makespan
    });
    assert!(cycles[0] <= cycles[2] && cycles[1] <= cycles[2], "{cycles:?}");
}

#[test]
fn greedy_tokens_on_four_chips() {
    let (artifact, words) = compile("tsp-2020", 4, Vec::new());
    greedy(&artifact, &words, "cpu", 2, 32);
}

#[cfg(feature = "opencl-device")]
#[test]
fn greedy_tokens_on_opencl() {
    let (artifact, words) = compile("tsp-2020", 4, Vec::new());
    greedy(&artifact, &words, "opencl", 1, 32);
}
