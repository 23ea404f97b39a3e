//! BERT encoders (`BertModel`): token, position and type embeddings, then post-norm transformer layers.
//!
//! Inputs `input_ids`, `attention_mask`, `token_type_ids`: i64[batch, sequence]; output `last_hidden_state`: [batch, sequence, hidden].

use super::net::Net;
use crate::ImportOptions;
use crate::bind::{Declared, Dim};
use crate::compose::gelu;
use crate::error::{ImportError, ImportErrorKind};
use crate::safetensors::Tensors;
use lockstep_graph::op::{Binary, Range, Scalar, Unary};
use lockstep_graph::{DType, Graph, GraphBuilder, Op, OpError, ValueId};

/// The parts of config.json that decide the architecture.
#[derive(serde::Deserialize)]
pub(super) struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "gelu_name")]
    hidden_act: String,
    #[serde(default = "eps")]
    layer_norm_eps: f32,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

fn two() -> usize {
    2
}

fn gelu_name() -> String {
    "gelu".into()
}

fn eps() -> f32 {
    1e-12
}

/// Activation of the feed-forward part.
#[derive(Clone, Copy)]
enum Act {
    Gelu { tanh: bool },
    Relu,
}

pub(super) fn import(
    name: &str,
    config: &Config,
    tensors: &Tensors,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    let mut net = Net::new(name, options, Ok(tensors), "bert.");
    let malformed = |net: &Net<'_>, message: String| Err(net.error(ImportErrorKind::Malformed(message)));
    let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
    if heads == 0 || !hidden.is_multiple_of(heads) || hidden == 0 {
        return malformed(&net, format!("hidden_size {hidden} does not split into {heads} heads"));
    }
    match config.position_embedding_type.as_deref() {
        None | Some("absolute") => {}
        Some(other) => {
            return malformed(
                &net,
                format!(
                    "position_embedding_type is \"{}\", allowed: absolute",
                    other.escape_debug()
                ),
            );
        }
    }
    if config.is_decoder {
        return malformed(&net, "is_decoder is true, allowed: false".into());
    }
    let act = match config.hidden_act.as_str() {
        "gelu" => Act::Gelu { tanh: false },
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Act::Gelu { tanh: true },
        "relu" => Act::Relu,
        other => {
            return malformed(
                &net,
                format!(
                    "hidden_act is \"{}\", allowed: gelu, gelu_new, gelu_pytorch_tanh, relu",
                    other.escape_debug()
                ),
            );
        }
    };

    let dims = || Some(vec![Dim::Symbol("batch".into()), Dim::Symbol("sequence".into())]);
    let declare = |name: &str| Declared {
        name: name.into(),
        dtype: DType::I64,
        dims: dims(),
    };
    let inputs = net.inputs(&["input_ids", "attention_mask", "token_type_ids"].map(declare), options)?;
    let &[ids, mask, types] = inputs.as_slice() else {
        return malformed(&net, "an input is missing".into());
    };
    let shape = net.b.shape(ids).clone();
    let &[batch, sequence] = &shape[..] else {
        return malformed(&net, "input_ids has not two dimensions".into());
    };
    if sequence > config.max_position_embeddings {
        let message = format!(
            "sequence is {sequence}, the model allows at most {}",
            config.max_position_embeddings
        );
        return Err(net.error(ImportErrorKind::BadOption(message)));
    }

    net.at("embeddings", "BertEmbeddings");
    let words = net.weight("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
    let positions = net.weight(
        "embeddings.position_embeddings.weight",
        &[config.max_position_embeddings, hidden],
    )?;
    let kinds = net.weight(
        "embeddings.token_type_embeddings.weight",
        &[config.type_vocab_size, hidden],
    )?;
    let embed = |b: &mut GraphBuilder| {
        let word = b.op(Op::Gather { axis: 0 }, &[words, ids])?;
        let kind = b.op(Op::Gather { axis: 0 }, &[kinds, types])?;
        let sum = b.binary(Binary::Add, word, kind)?;
        let position = b.narrow(positions, 0, Range::of(0, sequence))?;
        b.binary(Binary::Add, sum, position)
    };
    let sum = embed(&mut net.b).map_err(|error| net.fail(error))?;
    let mut x = net.layer_norm(sum, "embeddings.LayerNorm", hidden, config.layer_norm_eps)?;

    net.at("attention_mask", "BertModel");
    let dtype = net.b.dtype(x);
    let bias = mask_bias(&mut net.b, mask, dtype, [batch, sequence]).map_err(|error| net.fail(error))?;
    for layer in 0..config.num_hidden_layers {
        let at = |part: &str| format!("encoder.layer.{layer}.{part}");
        let split = |net: &mut Net<'_>, name: &str, x: ValueId| -> Result<ValueId, ImportError> {
            let value = net.linear(x, &at(&format!("attention.self.{name}")), hidden, hidden)?;
            let build = |b: &mut GraphBuilder| {
                let heads = b.reshape(value, [batch, sequence, heads, hidden / heads])?;
                b.transpose(heads, &[0, 2, 1, 3])
            };
            build(&mut net.b).map_err(|error| net.fail(error))
        };
        let (query, key, value) = (
            split(&mut net, "query", x)?,
            split(&mut net, "key", x)?,
            split(&mut net, "value", x)?,
        );
        net.at(&at("attention.self"), "BertSelfAttention");
        let attend = |b: &mut GraphBuilder| {
            let turned = b.transpose(key, &[0, 1, 3, 2])?;
            let scores = b.matmul(query, turned)?;
            let scaled = b.binary_scalar(Binary::Mul, scores, 1.0 / ((hidden / heads) as f64).sqrt())?;
            let masked = b.binary(Binary::Add, scaled, bias)?;
            let weights = b.op(Op::Softmax { axis: 3, log: false }, &[masked])?;
            let mixed = b.matmul(weights, value)?;
            let joined = b.transpose(mixed, &[0, 2, 1, 3])?;
            b.reshape(joined, [batch, sequence, hidden])
        };
        let mixed = attend(&mut net.b).map_err(|error| net.fail(error))?;
        let out = net.linear(mixed, &at("attention.output.dense"), hidden, hidden)?;
        let sum = net.b.binary(Binary::Add, out, x).map_err(|error| net.fail(error))?;
        let middle = net.layer_norm(sum, &at("attention.output.LayerNorm"), hidden, config.layer_norm_eps)?;
        let wide = net.linear(middle, &at("intermediate.dense"), hidden, config.intermediate_size)?;
        net.at(&at("intermediate"), "BertIntermediate");
        let active = match act {
            Act::Gelu { tanh } => gelu(&mut net.b, wide, tanh),
            Act::Relu => net.b.unary(Unary::Relu, wide),
        };
        let active = active.map_err(|error| net.fail(error))?;
        let out = net.linear(active, &at("output.dense"), config.intermediate_size, hidden)?;
        let sum = net
            .b
            .binary(Binary::Add, out, middle)
            .map_err(|error| net.fail(error))?;
        x = net.layer_norm(sum, &at("output.LayerNorm"), hidden, config.layer_norm_eps)?;
    }
    net.b.name(x, "last_hidden_state");
    net.b.output("last_hidden_state", x);
    net.finish(options)
}

/// (1 − mask) · the dtype's lowest value, as [batch, 1, 1, sequence].
fn mask_bias(
    b: &mut GraphBuilder,
    mask: ValueId,
    dtype: DType,
    [batch, sequence]: [usize; 2],
) -> Result<ValueId, OpError> {
    let lowest = match dtype {
        DType::F16 => -65504.0,
        DType::Bf16 => f64::from(f32::from_bits(0xff7f_0000)),
        DType::F64 => f64::MIN,
        _ => f64::from(f32::MIN),
    };
    let mask = b.cast(mask, dtype)?;
    let mask = b.reshape(mask, [batch, 1, 1, sequence])?;
    let one = b.scalar(dtype, Scalar::Float(1.0));
    let hole = b.binary(Binary::Sub, one, mask)?;
    b.binary_scalar(Binary::Mul, hole, lowest)
}
