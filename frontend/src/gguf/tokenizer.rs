//! The vocabulary of a GGUF file as a tokenizer.json, with chat template and stop tokens beside it.

use super::file::Value;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;

/// Kinds of tokens: with a meaning of their own, and given by the user.
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// GPT-2's pattern is what `ByteLevel` splits by itself; the others are spelled out.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The object that an artifact stores; `None` where the file has no vocabulary.
pub(super) fn read(keys: &BTreeMap<String, Value>) -> Result<Option<String>, String> {
    let key = |name: &str| keys.get(&format!("tokenizer.ggml.{name}"));
    let texts = |name: &str| -> Option<Vec<&str>> { key(name)?.as_list()?.iter().map(Value::as_text).collect() };
    let Some(tokens) = texts("tokens") else {
        return Ok(None);
    };
    let model = key("model").and_then(Value::as_text).unwrap_or("");
    if model != "gpt2" {
        return Err(format!(
            "the vocabulary is of kind \"{}\", allowed: gpt2 (byte-level BPE); use the model's Hugging Face directory",
            model.escape_debug()
        ));
    }
    let Some(merges) = texts("merges") else {
        return Err("the vocabulary has no list of merges".into());
    };
    let merges: Option<Vec<Vec<&str>>> = merges
        .iter()
        .map(|pair| pair.split_once(' ').map(|(a, b)| vec![a, b]))
        .collect();
    let Some(merges) = merges else {
        return Err("a merge is no pair of tokens".into());
    };
    let bytes = |split: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split });
    let pattern = |regex: &str| {
        json!([
            { "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false },
            bytes(false),
        ])
    };
    let steps = match key("pre").and_then(Value::as_text).unwrap_or("gpt-2") {
        "gpt-2" | "default" => json!([bytes(true)]),
        "smollm" => json!([{ "type": "Digits", "individual_digits": true }, bytes(true)]),
        "llama-bpe" | "llama3" => pattern(LLAMA3),
        "qwen2" => pattern(QWEN2),
        other => {
            return Err(format!(
                "the pre-tokenizer is \"{}\", allowed: gpt-2, smollm, llama-bpe, qwen2",
                other.escape_debug()
            ));
        }
    };
    let id = |name: &str| {
        let id = key(&format!("{name}_token_id")).and_then(Value::as_int);
        id.and_then(|id| usize::try_from(id).ok())
            .filter(|&id| id < tokens.len())
    };
    let kinds = key("token_type").and_then(Value::as_list).unwrap_or_default();
    let mut added = Vec::new();
    for (at, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        let kind = kind.as_int().unwrap_or(0);
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({
                "id": at, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL,
            }));
        }
    }
    let vocab: Map<String, Json> = tokens
        .iter()
        .enumerate()
        .map(|(at, token)| ((*token).into(), json!(at)))
        .collect();
    let first = id("bos").filter(|_| key("add_bos_token") == Some(&Value::Bool(true)));
    let around = first.map(|first| {
        let token = tokens[first];
        json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": token, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { token: { "id": token, "ids": [first], "tokens": [token] } },
        })
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
        "post_processor": around,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": key("pre").and_then(Value::as_text) == Some("llama-bpe"),
            "vocab": vocab, "merges": merges,
        },
    });
    let mut out = Map::new();
    out.insert("tokenizer".into(), tokenizer);
    if let Some(template) = keys.get("tokenizer.chat_template").and_then(Value::as_text) {
        out.insert("chat_template".into(), json!(template));
    }
    for name in ["bos", "eos"] {
        if let Some(id) = id(name) {
            out.insert(format!("{name}_token"), json!(tokens[id]));
        }
    }
    let mut stop: Vec<usize> = ["eos", "eot"].iter().filter_map(|name| id(name)).collect();
    stop.sort_unstable();
    stop.dedup();
    out.insert("stop".into(), json!(stop));
    Ok(Some(Json::Object(out).to_string()))
}
