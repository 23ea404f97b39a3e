//! `lockstep generate`, from text to text: on a tiny model with a tokenizer of numbered words, and its error messages.

#![cfg(all(feature = "compile", feature = "sim", feature = "generate"))]
#![allow(missing_docs)]

mod common;

use common::{Scratch, check, lockstep, path, tiny_llama, told};
use serde_json::{Value, json};

fn golden() -> (String, Vec<u64>) {
    let text = std::fs::read_to_string(path("tests/data/llm/llama/golden.json")).expect("a golden");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    let list = |key: &str| -> Vec<u64> {
        all[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .collect()
    };
    (words(&list("prompt")), list("greedy"))
}

fn words(ids: &[u64]) -> String {
    ids.iter().map(|id| format!("w{id}")).collect::<Vec<_>>().join(" ")
}

const OPTIONS: [&str; 6] = ["--target", "toy", "--context", "32", "--prefill-chunks", "4"];

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_text_behind_a_token() {
    use std::io::Read;
    use std::process::{Command, Stdio};

    let dir = Scratch::new("generate-interrupt");
    let config = tiny_llama(&dir, true).join("config.json");
    let text = std::fs::read_to_string(&config).expect("a config");
    let longer = text.replace("\"max_position_embeddings\": 32", "\"max_position_embeddings\": 8192");
    assert_ne!(text, longer);
    std::fs::write(&config, longer).expect("a file");
    let options = ["--target", "cpu", "--context", "8192", "--backend", "sim", "--stats"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
        .args(["generate", "tiny", "--prompt", "w5", "--max-tokens", "100000"])
        .args(options)
        .current_dir(&dir.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command line starts");
    let mut out = child.stdout.take().expect("a pipe");
    let mut text = vec![0];
    out.read_exact(&mut text).expect("a first piece of text");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill starts").success());
    out.read_to_end(&mut text).expect("the rest");
    let text = String::from_utf8(text).expect("text");
    assert_eq!(child.wait().expect("an end").code(), Some(130), "{text}");
    assert!(text.contains("ended by interrupt"), "{text}");
    assert!(text.contains("cycles per token"), "{text}");
}

/// Integers with a scale per channel: the same text from every executor, and logits near those of the floats, so most of the same tokens.
#[test]
fn integer_weights() {
    let dir = Scratch::new("generate-integers");
    tiny_llama(&dir, true);
    let (prompt, greedy) = golden();
    let mut all = Vec::new();
    for backend in ["cpu", "sim"] {
        let rest = [
            "generate",
            "tiny",
            "--prompt",
            &prompt,
            "--weights",
            "int8",
            "--backend",
            backend,
        ];
        let out = lockstep(
            &dir.0,
            &[&rest[..], &["--max-tokens", "16", "--json"], &OPTIONS[..]].concat(),
        );
        let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let tokens = tokens(&told);
        assert_eq!(tokens.len(), 16, "{told}");
        all.push(tokens);
    }
    assert_eq!(all[0], all[1]);
    let same = all[0].iter().zip(&greedy).take_while(|(a, b)| a == b).count();
    assert!(same >= 4, "{:?} {greedy:?}", all[0]);
}

/// The token ids that `generate --json` told of.
fn tokens(told: &Value) -> Vec<u64> {
    let ids = told["tokens"].as_array().into_iter().flatten();
    ids.filter_map(Value::as_u64).collect()
}

#[test]
fn text_in_text_out() {
    let dir = Scratch::new("generate");
    tiny_llama(&dir, true);
    let compile = [&["compile", "tiny", "-o", "tiny.lks", "--buckets", "12"], &OPTIONS[..]].concat();
    let out = lockstep(&dir.0, &compile);
    assert!(out.status.success(), "{}", told(&out));
    let (prompt, greedy) = golden();
    // From the artifact and from the directory, on both executors.
    let from_artifact = vec!["generate", "tiny.lks"];
    let from_model = [&["generate", "tiny"], &OPTIONS[..]].concat();
    for (subject, backend) in [(&from_artifact, "cpu"), (&from_artifact, "sim"), (&from_model, "cpu")] {
        let rest = [
            "--prompt",
            &prompt,
            "--max-tokens",
            "16",
            "--backend",
            backend,
            "--json",
        ];
        let out = lockstep(&dir.0, &[&subject[..], &rest].concat());
        assert!(out.status.success(), "{}", told(&out));
        let told: Value = serde_json::from_slice(&out.stdout).expect("JSON");
        let tokens = tokens(&told);
        assert_eq!(tokens, greedy, "{backend}");
        assert_eq!(told["text"], words(&greedy));
        assert_eq!(told["end"], "length");
    }
    // A seed gives the same text again, another seed another one.
    let draw = |seed: &str| {
        let rest = [
            "generate",
            "tiny.lks",
            "--prompt",
            &prompt,
            "--temperature",
            "3",
            "--seed",
            seed,
        ];
        String::from_utf8_lossy(&lockstep(&dir.0, &rest).stdout).into_owned()
    };
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
    // The text as it comes; the context ends it.
    let out = lockstep(&dir.0, &["generate", "tiny.lks", "--prompt", &prompt]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.starts_with(&words(&greedy[..4])), "{text}");
    assert!(
        text.contains("[the context of 32 positions is full; compile with a larger --context]"),
        "{text}"
    );
    // The chat format.
    let rest = [
        "generate",
        "tiny.lks",
        "--prompt",
        " w5 ",
        "--chat",
        "--max-tokens",
        "1",
        "--json",
    ];
    let told: Value = serde_json::from_slice(&lockstep(&dir.0, &rest).stdout).expect("JSON");
    assert_eq!(told["prompt_tokens"], json!([0, 9, 5, 10]));
}

#[test]
fn errors() {
    let dir = Scratch::new("generate-errors");
    let tiny = tiny_llama(&dir, true);
    let long = words(&[7; 33]);
    let compile = ["--target", "toy", "--context", "32"];
    let out = lockstep(&dir.0, &[&["compile", "tiny", "-o", "tiny.lks"], &compile[..]].concat());
    assert!(out.status.success(), "{}", told(&out));
    check!(
        dir,
        "prompt_longer_than_the_context",
        "generate",
        "tiny.lks",
        "--prompt",
        &long
    );
    check!(dir, "empty_prompt", "generate", "tiny.lks", "--prompt", "");
    check!(dir, "context_beyond_the_model", "compile", "tiny", "--context", "64");
    check!(
        dir,
        "prefill_chunk_beyond_the_context",
        "compile",
        "tiny",
        "--context",
        "8",
        "--prefill-chunks",
        "16"
    );
    check!(dir, "dim_of_a_language_model", "compile", "tiny", "--dim", "batch=1");
    dir.file(
        "relu.onnx",
        lockstep_testkit::onnx::OnnxBuilder::new("g")
            .opset(17)
            .input_f32("x", &["2"])
            .node("Relu", &["x"], &["y"])
            .output("y")
            .build(),
    );
    check!(
        dir,
        "context_of_another_model",
        "compile",
        "relu.onnx",
        "--context",
        "8"
    );
    lockstep(&dir.0, &["compile", "relu.onnx", "--target", "toy", "-o", "relu.lks"]);
    check!(
        dir,
        "generate_from_another_model",
        "generate",
        "relu.lks",
        "--prompt",
        "x"
    );
    std::fs::remove_file(tiny.join("tokenizer.json")).expect("it goes");
    let out = lockstep(&dir.0, &[&["compile", "tiny", "-o", "mute.lks"], &compile[..]].concat());
    assert!(out.status.success(), "{}", told(&out));
    check!(
        dir,
        "artifact_without_tokenizer",
        "generate",
        "mute.lks",
        "--prompt",
        "w1"
    );
    let config = std::fs::read_to_string(tiny.join("config.json")).expect("a config");
    std::fs::write(
        tiny.join("config.json"),
        config.replace("\"hidden_size\": 32", "\"hidden_size\": 64"),
    )
    .expect("a file");
    check!(dir, "weights_of_another_shape", "compile", "tiny");
    std::fs::write(tiny.join("config.json"), config.replace("\"llama\"", "\"mamba\"")).expect("a file");
    check!(dir, "unknown_model_type", "compile", "tiny");
}
