//! A tiny Llama written as GGUF imports as the same graph that its Hugging Face directory gives; damaged files are errors.

use super::*;
use crate::{ImportOptions, MemorySource, safetensors};
use lockstep_graph::print::print;
use std::path::Path;

const LAYER_NAMES: &[(&str, &str)] = &[("ffn_norm", "post_attention_layernorm")];

/// The tiny Llama of the tests without its rope scaling, as a directory.
fn directory() -> MemorySource {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/llm/llama");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file");
    let mut config: Json = serde_json::from_slice(&read("config.json")).expect("JSON");
    config["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 1000.0 });
    MemorySource::directory("tiny")
        .with("config.json", config.to_string())
        .with("model.safetensors", read("model.safetensors"))
}

struct Writer(Vec<u8>);

impl Writer {
    fn int(&mut self, value: u64, size: usize) {
        self.0.extend_from_slice(&value.to_le_bytes()[..size]);
    }

    fn text(&mut self, text: &str) {
        self.int(text.len() as u64, 8);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn key_text(&mut self, key: &str, value: &str) {
        self.text(key);
        self.int(8, 4);
        self.text(value);
    }

    fn key_int(&mut self, key: &str, value: u64) {
        self.text(key);
        self.int(4, 4);
        self.int(value, 4);
    }

    fn key_float(&mut self, key: &str, value: f32) {
        self.text(key);
        self.int(6, 4);
        self.int(u64::from(value.to_bits()), 4);
    }
}

/// The inverse of [`split_halves`].
fn join_halves(data: &[u8], shape: &Shape, heads: usize) -> Vec<u8> {
    let row = shape[1] * 2;
    let half = shape[0] / heads / 2;
    let mut out = vec![0; data.len()];
    for head in 0..heads {
        for side in 0..2 {
            for i in 0..half {
                let (from, to) = ((head * 2 + side) * half + i, head * 2 * half + 2 * i + side);
                out[to * row..(to + 1) * row].copy_from_slice(&data[from * row..(from + 1) * row]);
            }
        }
    }
    out
}

fn file(architecture: &str) -> Vec<u8> {
    let source = directory();
    let tensors = safetensors::read_all(&source, &source.list().expect("names")).expect("tensors");
    let mut names = Vec::new();
    for (name, stored) in &tensors {
        let base = name.trim_end_matches(".weight");
        let to = match base.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => {
                let known = LAYER_NAMES.iter().chain(LAYER).find(|known| known.1 == part);
                format!("blk.{layer}.{}.weight", known.expect("a known name").0)
            }
            None if base == "model.norm" => "output_norm.weight".into(),
            None => "token_embd.weight".into(),
        };
        names.push((to, stored));
    }
    let mut w = Writer(b"GGUF".to_vec());
    w.int(3, 4);
    w.int(names.len() as u64, 8);
    w.int(9, 8);
    w.key_text("general.architecture", architecture);
    for (key, value) in [
        ("embedding_length", 32),
        ("feed_forward_length", 48),
        ("block_count", 2),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 32),
    ] {
        w.key_int(&format!("llama.{key}"), value);
    }
    w.key_float("llama.attention.layer_norm_rms_epsilon", 1e-6);
    w.key_float("llama.rope.freq_base", 1000.0);
    let mut data = Vec::new();
    for (name, stored) in &names {
        w.text(name);
        w.int(stored.shape.rank() as u64, 4);
        stored.shape.iter().rev().for_each(|&dim| w.int(dim as u64, 8));
        w.int(30, 4);
        w.int(data.len() as u64, 8);
        let bytes = stored.data.bytes();
        match name.rsplit('.').nth(1) {
            Some("attn_q") => data.extend(join_halves(bytes, &stored.shape, 4)),
            Some("attn_k") => data.extend(join_halves(bytes, &stored.shape, 2)),
            _ => data.extend_from_slice(bytes),
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    w.0.resize(w.0.len().next_multiple_of(32), 0);
    w.0.extend(data);
    w.0
}

#[test]
fn the_same_graph_as_from_the_directory() {
    let options = ImportOptions::default();
    let wanted = crate::import(&directory(), &options).expect("it imports");
    let source = MemorySource::file("tiny.gguf", file("llama"));
    let mut found = crate::import(&source, &options).expect("it imports");
    found.name = wanted.name.clone();
    assert_eq!(print(&found), print(&wanted));
}

#[test]
fn damage_is_an_error() {
    let whole = file("llama");
    let import = |bytes: &[u8]| crate::import(&MemorySource::file("x.gguf", bytes.to_vec()), &ImportOptions::default());
    assert!(import(&whole).is_ok());
    for length in (0..whole.len()).step_by(499) {
        assert!(import(&whole[..length]).is_err(), "{length} bytes");
    }
    // Any byte of the header changed: an error or another model, never a panic.
    for at in (0..whole.len().min(2000)).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let _ = import(&bytes);
    }
    let error = import(&file("mamba")).expect_err("an error").to_string();
    assert!(
        error.contains("\"mamba\" is not known, allowed: llama, qwen2"),
        "{error}"
    );
}
