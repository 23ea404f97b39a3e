//! A tiny model of every decoder family gives the logits and the greedy tokens that transformers gives: tests/llm/make_models.py made both.

#![cfg(all(feature = "compile", feature = "sim", feature = "generate"))]
#![allow(missing_docs)]

mod common;

use common::path;
use lockstep::files::{self, FileSource};
use lockstep::graph::Verified;
use lockstep::language::{Decoder, Sampler, Sampling};
use lockstep::{
    Artifact, Checkpoint, Chips, Graph, LanguageModel, LanguageOptions, LoadOptions, Options, Silent, WeightFormat,
    evaluate, lookup,
};
use lockstep_compiler::lower::lower;
use lockstep_compiler::tir::eval::{Tensor, eval};
use lockstep_frontend::hf::MODEL_TYPES;
use serde_json::Value;
use std::sync::Arc;

/// All but the encoder.
fn families() -> impl Iterator<Item = &'static str> {
    MODEL_TYPES.iter().copied().filter(|&family| family != "bert")
}

/// Most that a logit may be off.
const TOLERANCE: f32 = 1e-4;

/// What transformers gives.
struct Golden {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    /// After every position but that of the last token.
    logits: Vec<Vec<f32>>,
}

impl Golden {
    fn read(family: &str) -> Golden {
        let text = std::fs::read_to_string(path("tests/data/llm").join(family).join("golden.json")).expect("a golden");
        let all: Value = serde_json::from_str(&text).expect("JSON");
        let list = |v: &Value| v.as_array().expect("a list").clone();
        let ids = |key: &str| {
            list(&all[key])
                .iter()
                .map(|v| v.as_u64().expect("an id") as u32)
                .collect()
        };
        let row = |v: &Value| list(v).iter().map(|v| v.as_f64().expect("a number") as f32).collect();
        Golden {
            prompt: ids("prompt"),
            greedy: ids("greedy"),
            logits: list(&all["logits"]).iter().map(row).collect(),
        }
    }

    /// Prompt and answer.
    fn all(&self) -> Vec<u32> {
        [&self.prompt[..], &self.greedy[..]].concat()
    }

    #[track_caller]
    fn check(&self, what: &str, position: usize, logits: &[f32]) {
        let wanted = &self.logits[position];
        assert_eq!(logits.len(), wanted.len(), "{what}");
        let error = logits
            .iter()
            .zip(wanted)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(
            error <= TOLERANCE,
            "{what}: a logit at position {position} is off by {error}"
        );
        if position + 1 >= self.prompt.len() {
            let token = Sampler::new(Sampling::default()).choose(logits);
            assert_eq!(
                token,
                self.greedy[position + 1 - self.prompt.len()],
                "{what} at {position}"
            );
        }
    }
}

fn import(family: &str, options: &LanguageOptions) -> LanguageModel {
    let source = FileSource::open(&path("tests/data/llm").join(family)).expect("a directory");
    let model = lockstep::language_model(&source, options);
    model.expect("it imports").expect("it is a decoder")
}

/// The tensor IR of the decode entry, interpreted token by token.
#[test]
fn eval_gives_the_goldens() {
    for family in families() {
        let golden = Golden::read(family);
        let model = import(family, &LanguageOptions::default());
        let (_, graph) = model.entries.into_iter().next().expect("an entry");
        let ir = lower(&Verified::new(graph, &()).expect("a good graph")).expect("it lowers");
        let mut states: Vec<Tensor> = ir.states.values().map(|s| Tensor::zeros(&s.ty)).collect();
        for (position, &token) in golden.all().iter().enumerate().take(golden.logits.len()) {
            let inputs = [
                Tensor::i32(&[1, 1], vec![token as i32]),
                Tensor::i32(&[1], vec![position as i32]),
            ];
            let outputs = eval(&ir, &inputs, &mut states).expect("it runs");
            golden.check(family, position, &outputs[0].to_f32());
        }
    }
}

/// The tensor IR of prefill and decode for two sequences: a chunk, a chunk that is filled up, then token by token.
#[test]
fn eval_of_chunks_gives_the_goldens() {
    for family in families() {
        let golden = Golden::read(family);
        let options = LanguageOptions {
            batch: 2,
            prefill: vec![5],
            ..LanguageOptions::default()
        };
        let irs: Vec<_> = import(family, &options)
            .entries
            .into_iter()
            .map(|(_, graph)| lower(&Verified::new(graph, &()).expect("a good graph")).expect("it lowers"))
            .collect();
        let mut states: Vec<Tensor> = irs[0].states.values().map(|s| Tensor::zeros(&s.ty)).collect();
        let all = golden.all();
        let mut at = 0;
        while at < golden.logits.len() {
            let n = [5, 3, 1][at.div_ceil(5).min(2)];
            let (entry, width) = if n == 1 { (0, 1) } else { (1, 5) };
            // The other sequence has the same tokens.
            let mut tokens: Vec<i32> = all[at..at + n].iter().map(|&t| t as i32).collect();
            tokens.resize(width, 1);
            let tokens = [&tokens[..], &tokens[..]].concat();
            let mut inputs = vec![Tensor::i32(&[2, width], tokens), Tensor::i32(&[2], vec![at as i32; 2])];
            if entry == 1 {
                inputs.push(Tensor::i32(&[2], vec![n as i32 - 1; 2]));
            }
            let outputs = eval(&irs[entry], &inputs, &mut states).expect("it runs");
            let logits = outputs[0].to_f32();
            let (first, second) = logits.split_at(logits.len() / 2);
            golden.check(family, at + n - 1, first);
            golden.check(family, at + n - 1, second);
            at += n;
        }
    }
}

/// All tokens in one run that shows what the layers hand on.
#[test]
fn eval_of_layers_gives_the_goldens() {
    for family in families() {
        let golden = Golden::read(family);
        let all = golden.all();
        let n = golden.logits.len();
        let source = FileSource::open(&path("tests/data/llm").join(family)).expect("a directory");
        let model = Checkpoint::read(&source).expect("it imports").expect("it is a decoder");
        let graph = Verified::new(model.layers(n, None).expect("it imports"), &()).expect("a good graph");
        let tokens = all[..n].iter().map(|&t| t as i32).collect();
        let inputs = [Tensor::i32(&[1, n], tokens), Tensor::i32(&[1], vec![0])];
        let outputs = evaluate(&graph, None, &inputs).expect("it runs");
        let (logits, before) = outputs.split_last().expect("outputs");
        let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = ["layer.0", "layer.1", "layer.2"];
        assert_eq!(names, [&wanted[..names.len() - 1], &["norm"]].concat(), "{family}");
        let logits = &logits.1;
        for (position, logits) in logits.chunks(logits.len() / n).enumerate() {
            golden.check(family, position, logits);
        }
    }
}

/// All entries of a model.
fn verified(model: LanguageModel) -> Vec<(String, Verified<Graph>)> {
    let entries = model.entries.into_iter();
    let verified = |graph| Verified::new(graph, &()).expect("a good graph");
    entries.map(|(name, graph)| (name, verified(graph))).collect()
}

/// Entries compiled for `toy` chips.
fn artifact(family: &str, graphs: &[(String, Verified<Graph>)], chips: u16) -> Arc<Artifact> {
    let entries: Vec<_> = graphs.iter().map(|(name, graph)| (name.clone(), graph)).collect();
    let target = files::target("toy").expect("a target");
    let options = Options {
        chips: Chips::Exactly(chips),
        verify: true,
        ..Options::default()
    };
    let compiled = lockstep::compile_entries(&entries, &target, &options, &mut Silent);
    let compiled = compiled.unwrap_or_else(|e| panic!("{family} on {chips} chips: {e}"));
    Arc::new(compiled.artifact.expect("an artifact"))
}

/// An artifact on an executor.
fn decoder(artifact: &Arc<Artifact>, backend: &str) -> Decoder {
    let session = lookup(backend)
        .expect("an executor")
        .load(Arc::clone(artifact), &LoadOptions::default());
    Decoder::new(artifact, session.expect("it loads")).expect("a language model")
}

/// Compiled for `toy` chips: prefill and decode on the cpu executor.
fn compiled(family: &str, chips: u16) {
    let golden = Golden::read(family);
    let options = LanguageOptions {
        prefill: vec![4],
        ..LanguageOptions::default()
    };
    let model = import(family, &options);
    let artifact = artifact(family, &verified(model), chips);
    let load = |name: &str| decoder(&artifact, name);
    let what = format!("{family} on {chips} chips");
    let all = golden.all();
    // Prefill, then token by token.
    let mut cpu = load("cpu");
    let n = golden.prompt.len();
    golden.check(&what, n - 1, cpu.feed(&golden.prompt).expect("it runs"));
    for position in n..golden.logits.len() {
        golden.check(&what, position, cpu.feed(&all[position..=position]).expect("it runs"));
    }
    // The simulator has the same bits.
    let (mut cpu, mut sim) = (load("cpu"), load("sim"));
    for position in 0..4 {
        let token = &all[position..=position];
        let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        let (a, b) = (
            bits(cpu.feed(token).expect("it runs")),
            bits(sim.feed(token).expect("it runs")),
        );
        assert_eq!(a, b, "{what}: sim and cpu differ");
    }
}

/// Integer weights on three `toy` chips: the logits of the integers times their scales, as the interpreter has them, and the same bits
/// from the simulator.
fn quantised(family: &str, weights: WeightFormat) {
    let golden = Golden::read(family);
    let options = LanguageOptions {
        weights: Some(weights),
        prefill: vec![4],
        ..LanguageOptions::default()
    };
    let model = import(family, &options);
    let graphs = verified(model);
    let ir = lower(&graphs[0].1).expect("it lowers");
    let mut states: Vec<Tensor> = ir.states.values().map(|s| Tensor::zeros(&s.ty)).collect();
    let artifact = artifact(family, &graphs, 3);
    let load = |name: &str| decoder(&artifact, name);
    let (mut cpu, mut sim, mut wide) = (load("cpu"), load("sim"), load("cpu"));
    for (position, &token) in golden.prompt.iter().enumerate() {
        let inputs = [
            Tensor::i32(&[1, 1], vec![token as i32]),
            Tensor::i32(&[1], vec![position as i32]),
        ];
        let wanted = eval(&ir, &inputs, &mut states).expect("it runs")[0].to_f32();
        let logits = cpu.feed(&[token]).expect("it runs").to_vec();
        for (a, b) in logits.iter().zip(&wanted) {
            assert!(
                (a - b).abs() <= TOLERANCE,
                "{family} at {position}: {a}, by the interpreter {b}"
            );
        }
        if position < 3 {
            let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
            assert_eq!(
                bits(&logits),
                bits(sim.feed(&[token]).expect("it runs")),
                "{family}: sim and cpu differ"
            );
        }
        if position + 1 == golden.prompt.len() {
            let chunk = wide.feed(&golden.prompt).expect("it runs");
            for (a, b) in chunk.iter().zip(&wanted) {
                assert!(
                    (a - b).abs() <= TOLERANCE,
                    "{family} by chunks: {a}, by the interpreter {b}"
                );
            }
        }
    }
}

#[test]
fn integers_of_four_bits() {
    for family in ["llama", "gpt2", "qwen3_moe", "gemma2"] {
        quantised(family, WeightFormat::Int4);
    }
}

#[test]
fn integers_of_eight_bits() {
    quantised("llama", WeightFormat::Int8);
}

macro_rules! families {
    ($($family:ident),*) => {$(
        mod $family {
            #[test]
            fn on_one_chip() {
                super::compiled(stringify!($family), 1);
            }

            #[test]
            fn on_three_chips() {
                super::compiled(stringify!($family), 3);
            }
        }
    )*};
}

families!(
    llama,
    mistral,
    qwen2,
    qwen3,
    gemma2,
    gemma3_text,
    gpt2,
    mixtral,
    qwen3_moe
);
