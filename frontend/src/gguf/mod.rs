//! GGUF files: the keys become a config.json of the family, the tensors its weights, the vocabulary a tokenizer.json.
//!
//! Weights of F32, F16 and BF16 stay byte ranges of the file; quantised ones are expanded to f32, from which
//! `hf/weights.rs` makes the same 4-bit integers of Q4_0 where int4 is asked for. What llama.cpp's converter changed is taken
//! back: the rows of queries and keys are reordered there so that rotary pairs are neighbours (Llama alone), Gemma's norms have one added, and
//! experts are stacked.

mod file;
mod quant;
#[cfg(test)]
mod tests;
mod tokenizer;

use crate::Source;
use crate::error::{ImportError, ImportErrorKind, read_error};
use crate::hf::Checkpoint;
use crate::safetensors::{Stored, Tensors};
use file::{File, Value};
use lockstep_graph::{DType, Origin, Shape, Weights};
use serde_json::{Map, Value as Json, json};

/// Architectures: llama.cpp's name and `model_type`.
const ARCHITECTURES: &[(&str, &str)] = &[
    ("llama", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma2", "gemma2"),
    ("gemma3", "gemma3_text"),
    ("qwen3moe", "qwen3_moe"),
];

/// Keys of config.json and where GGUF has them, after the name of the architecture.
const KEYS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("intermediate_size", "feed_forward_length"),
    ("num_hidden_layers", "block_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("max_position_embeddings", "context_length"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_theta", "rope.freq_base"),
    ("sliding_window", "attention.sliding_window"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("num_experts_per_tok", "expert_used_count"),
    ("num_experts", "expert_count"),
    ("num_local_experts", "expert_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
];

/// Tensors of a layer, without suffix.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The one .gguf file among these, if there is exactly one.
pub(crate) fn only_file(files: &[String]) -> Option<&str> {
    let mut all = files.iter().filter(|file| file.ends_with(".gguf"));
    let first = all.next()?;
    all.next().is_none().then_some(first)
}

/// Reads a file.
pub(crate) fn checkpoint(source: &dyn Source, name: &str) -> Result<Checkpoint, ImportError> {
    let bytes = source.read(name).map_err(|error| read_error(name, &error))?;
    let malformed = |message: String| ImportError::new(ImportErrorKind::Malformed(message), Origin::file(name));
    let file = file::read(&bytes).map_err(malformed)?;
    let architecture = text(&file, "general.architecture").map_err(malformed)?;
    let Some(&(_, mut model_type)) = ARCHITECTURES.iter().find(|known| known.0 == architecture) else {
        let kind = ImportErrorKind::UnknownArchitecture {
            found: architecture.into(),
            known: &["llama", "qwen2", "qwen3", "gemma2", "gemma3", "qwen3moe"],
        };
        return Err(ImportError::new(kind, Origin::file(name)));
    };
    let experts = file
        .keys
        .get(&format!("{architecture}.expert_count"))
        .and_then(Value::as_int);
    if model_type == "llama" && experts.is_some_and(|n| n > 0) {
        model_type = "mixtral";
    }
    let tensors = tensors(&file, architecture, model_type).map_err(malformed)?;
    let config = config(&file, architecture, model_type, &tensors).map_err(malformed)?;
    let text = tokenizer::read(&file.keys).map_err(malformed)?;
    Ok(Checkpoint {
        name: source.name().into(),
        file: name.into(),
        model_type: model_type.into(),
        config,
        tensors,
        norms_have_one_added: model_type.starts_with("gemma"),
        frequencies: frequencies(&file).map_err(malformed)?,
        text,
    })
}

fn text<'a>(file: &'a File, key: &str) -> Result<&'a str, String> {
    let value = file.keys.get(key).and_then(Value::as_text);
    value.ok_or_else(|| format!("the key \"{key}\" is missing or no text"))
}

fn config(file: &File, architecture: &str, model_type: &str, tensors: &Tensors) -> Result<Json, String> {
    let mut out = Map::new();
    out.insert("model_type".into(), json!(model_type));
    for (to, from) in KEYS {
        let value = match file.keys.get(&format!("{architecture}.{from}")) {
            Some(Value::Int(int)) => json!(i64::try_from(*int).unwrap_or(i64::MAX)),
            // The shortest decimal of the f32.
            Some(Value::Float(float)) => json!((*float as f32).to_string().parse::<f64>().unwrap_or(*float)),
            Some(_) => return Err(format!("the key \"{architecture}.{from}\" is no number")),
            None => continue,
        };
        out.insert((*to).into(), value);
    }
    let words = file.keys.get("tokenizer.ggml.tokens").and_then(Value::as_list);
    let table = tensors
        .get("model.embed_tokens.weight")
        .and_then(|t| t.shape.first().copied());
    let Some(vocab) = table.or(words.map(<[Value]>::len)) else {
        return Err("there is neither a tensor \"token_embd.weight\" nor a vocabulary".into());
    };
    out.insert("vocab_size".into(), json!(vocab));
    out.insert(
        "tie_word_embeddings".into(),
        json!(!tensors.contains_key("lm_head.weight")),
    );
    if let Some(Value::Text(kind)) = file.keys.get(&format!("{architecture}.rope.scaling.type")) {
        let number = |key: &str| match file.keys.get(&format!("{architecture}.rope.scaling.{key}")) {
            Some(Value::Float(float)) => Some(*float),
            Some(Value::Int(int)) => Some(*int as f64),
            _ => None,
        };
        if kind != "none" {
            let mut scaling = Map::new();
            scaling.insert("rope_type".into(), json!(kind));
            for (to, from) in [
                ("factor", "factor"),
                ("original_max_position_embeddings", "original_context_length"),
            ] {
                if let Some(value) = number(from) {
                    scaling.insert(to.into(), json!(value));
                }
            }
            out.insert("rope_scaling".into(), Json::Object(scaling));
        }
    }
    Ok(Json::Object(out))
}

/// Divisors of the rotary frequencies, where the file has them.
fn frequencies(file: &File) -> Result<Option<Vec<f32>>, String> {
    const NAME: &str = "rope_freqs.weight";
    let Some(entry) = file.tensors.get(NAME) else {
        return Ok(None);
    };
    let (dtype, _, data) = quant::expand(NAME, entry, &file.data)?;
    if dtype != DType::F32 {
        return Err(format!("tensor \"{NAME}\" is {dtype}, allowed: f32"));
    }
    let floats = data.bytes().chunks_exact(4);
    Ok(Some(
        floats.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    ))
}

/// All weights by the names of Hugging Face.
fn tensors(file: &File, architecture: &str, model_type: &str) -> Result<Tensors, String> {
    let heads = |key: &str| {
        let value = file
            .keys
            .get(&format!("{architecture}.attention.{key}"))
            .and_then(Value::as_int);
        value.and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0)
    };
    let query_heads = heads("head_count").unwrap_or(1);
    let mut out = Tensors::new();
    for (name, entry) in &file.tensors {
        if name == "rope_freqs.weight" {
            continue;
        }
        let (dtype, shape, data) = quant::expand(name, entry, &file.data)?;
        let (base, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
        if let Some((layer, part)) = base.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            if let Some(part) = part.strip_suffix("_exps") {
                experts(&mut out, layer, part, model_type, dtype, &shape, &data)?;
                continue;
            }
            let here = |to: &str| format!("model.layers.{layer}.{to}.{suffix}");
            let data = match (part, model_type) {
                ("attn_q", "llama" | "mixtral") => split_halves(&data, &shape, query_heads, dtype)?,
                ("attn_k", "llama" | "mixtral") => {
                    split_halves(&data, &shape, heads("head_count_kv").unwrap_or(query_heads), dtype)?
                }
                _ => data,
            };
            let gemma = model_type.starts_with("gemma");
            let to = match part {
                "ffn_norm" if gemma => "pre_feedforward_layernorm",
                "post_attention_norm" if gemma => "post_attention_layernorm",
                "post_ffw_norm" if gemma => "post_feedforward_layernorm",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_gate_inp" if model_type == "mixtral" => "block_sparse_moe.gate",
                "ffn_gate_inp" => "mlp.gate",
                _ => match LAYER.iter().find(|known| known.0 == part) {
                    Some(known) => known.1,
                    None => continue,
                },
            };
            put(&mut out, here(to), dtype, shape, data);
            continue;
        }
        let to = match base {
            "token_embd" => "model.embed_tokens.weight",
            "output_norm" => "model.norm.weight",
            "output" => "lm_head.weight",
            _ => continue,
        };
        put(&mut out, to.into(), dtype, shape, data);
    }
    Ok(out)
}

fn put(out: &mut Tensors, name: String, dtype: DType, shape: Shape, data: Weights) {
    let stored = Stored {
        dtype: Some(dtype),
        dtype_name: dtype.to_string(),
        shape,
        data,
    };
    out.insert(name, stored);
}

/// Cuts stacked experts apart.
fn experts(
    out: &mut Tensors,
    layer: &str,
    part: &str,
    model_type: &str,
    dtype: DType,
    shape: &Shape,
    data: &Weights,
) -> Result<(), String> {
    let names = match model_type {
        "mixtral" => ["block_sparse_moe.experts", "w1", "w3", "w2"],
        _ => ["mlp.experts", "gate_proj", "up_proj", "down_proj"],
    };
    let (name, &[n, rows, columns]) = (part, &shape[..]) else {
        return Err(format!(
            "the experts of layer {layer} have shape {shape}, expected three dimensions"
        ));
    };
    let to = match name {
        "ffn_gate" => names[1],
        "ffn_up" => names[2],
        "ffn_down" => names[3],
        _ => return Ok(()),
    };
    let size = rows * columns * dtype.size();
    for expert in 0..n {
        let part = data.slice(expert * size..(expert + 1) * size);
        let part = part.ok_or_else(|| format!("the experts of layer {layer} end before expert {expert}"))?;
        let name = format!("model.layers.{layer}.{}.{expert}.{to}.weight", names[0]);
        put(out, name, dtype, Shape::from([rows, columns]), part);
    }
    Ok(())
}

/// Rows [heads, half, 2, ..] to [heads, 2, half, ..].
fn split_halves(data: &Weights, shape: &Shape, heads: usize, dtype: DType) -> Result<Weights, String> {
    let rows = shape.first().copied().unwrap_or(0);
    if !rows.is_multiple_of(2 * heads) {
        return Err(format!(
            "a projection of shape {shape} does not split into {heads} heads"
        ));
    }
    let row = shape.iter().skip(1).product::<usize>() * dtype.size();
    let (bytes, half) = (data.bytes(), rows / heads / 2);
    let mut out = Vec::with_capacity(bytes.len());
    for head in 0..heads {
        for side in 0..2 {
            for i in 0..half {
                let at = (head * 2 * half + 2 * i + side) * row;
                out.extend_from_slice(&bytes[at..at + row]);
            }
        }
    }
    Ok(out.into())
}
