//! config.json of decoders to [`Decoder`] descriptions, one function per family.

use super::decoder::{Act, Attention, Decoder, Feed, LayerPlan, Naming, NormKind};
use super::rope::Rope;
use lockstep_graph::DType;

/// A value of config.json.
pub(super) type Json = serde_json::Value;

/// Most layers, heads or experts that are believed.
const MOST: usize = 1 << 16;

/// A family: its `model_type` and its description.
type Family = (&'static str, fn(&Reader<'_>) -> Result<Decoder, String>);

/// The decoders, by `model_type`.
pub(super) const FAMILIES: &[Family] = &[
    ("llama", llama),
    ("mistral", mistral),
    ("qwen2", qwen2),
    ("qwen3", qwen3),
    ("gemma2", gemma2),
    ("gemma3_text", gemma3),
    ("gpt2", gpt2),
    ("mixtral", mixtral),
    ("qwen3_moe", qwen3_moe),
];

/// The description of a decoder, `None` for a `model_type` that is no decoder.
pub(super) fn describe(model_type: &str, json: &Json) -> Option<Result<Decoder, String>> {
    let (_, family) = FAMILIES.iter().find(|family| family.0 == model_type)?;
    let described = family(&Reader { json }).and_then(|decoder| {
        decoder.check()?;
        Ok(decoder)
    });
    Some(described)
}

/// Fields of config.json with messages that name them.
pub(super) struct Reader<'a> {
    json: &'a Json,
}

impl Reader<'_> {
    fn field(&self, key: &str) -> Option<&Json> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str) -> Result<usize, String> {
        self.optional_size(key)?.ok_or_else(|| format!("\"{key}\" is missing"))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.field(key) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if size > 0 && size < 1 << 32 => Ok(Some(size as usize)),
            _ => Err(format!("\"{key}\" is {value}, allowed: a whole number from 1")),
        }
    }

    fn count(&self, key: &str) -> Result<usize, String> {
        match self.size(key)? {
            count if count <= MOST => Ok(count),
            count => Err(format!("\"{key}\" is {count}, allowed: 1 to {MOST}")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.field(key) else { return Ok(None) };
        let number = value.as_f64().filter(|number| number.is_finite());
        number
            .map(Some)
            .ok_or_else(|| format!("\"{key}\" is {value}, allowed: a number"))
    }

    fn flag(&self, key: &str, absent: bool) -> Result<bool, String> {
        let Some(value) = self.field(key) else {
            return Ok(absent);
        };
        value
            .as_bool()
            .ok_or_else(|| format!("\"{key}\" is {value}, allowed: true, false"))
    }

    fn act(&self, keys: &[&str]) -> Result<Act, String> {
        let Some((key, value)) = keys.iter().find_map(|key| Some((key, self.field(key)?))) else {
            return Ok(Act::Silu);
        };
        match value.as_str() {
            Some("silu" | "swish") => Ok(Act::Silu),
            Some("gelu") => Ok(Act::Gelu { tanh: false }),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Act::Gelu { tanh: true }),
            Some("relu") => Ok(Act::Relu),
            _ => Err(format!(
                "\"{key}\" is {value}, allowed: silu, gelu, gelu_new, gelu_pytorch_tanh, relu"
            )),
        }
    }

    /// Rotary frequencies. Newer files hold everything in `rope_parameters`, per kind of layer where kinds differ.
    fn rope(&self, kind: Option<&str>, theta_key: &str, head: usize, scaled: bool) -> Result<Rope, String> {
        let parameters = self.field("rope_parameters");
        let parameters = parameters.map(|all| kind.and_then(|kind| all.get(kind)).unwrap_or(all));
        let theta = match parameters.and_then(|p| p.get("rope_theta")).and_then(Json::as_f64) {
            Some(theta) => theta,
            None => self.number(theta_key)?.unwrap_or(10000.0),
        };
        let scaling = parameters.or_else(|| self.field("rope_scaling").filter(|_| scaled));
        let positions = self.optional_size("max_position_embeddings")?.unwrap_or(0);
        Rope::new(head, theta, scaling, positions)
    }

    /// For each layer whether it attends to a sliding window alone; `rule` where config.json has no `layer_types`.
    fn sliding(&self, layers: usize, rule: impl Fn(usize) -> bool) -> Result<Vec<bool>, String> {
        let Some(types) = self.field("layer_types") else {
            return Ok((0..layers).map(rule).collect());
        };
        let kind = |value: &Json| match value.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(format!(
                "\"layer_types\" has {value}, allowed: sliding_attention, full_attention"
            )),
        };
        let all: Vec<&Json> = types.as_array().into_iter().flatten().collect();
        if all.len() != layers {
            return Err(format!("\"layer_types\" has {} entries for {layers} layers", all.len()));
        }
        all.into_iter().map(kind).collect()
    }
}

/// What Llama and its relatives have in common.
fn llama(r: &Reader<'_>) -> Result<Decoder, String> {
    let (hidden, heads, layers) = (
        r.size("hidden_size")?,
        r.count("num_attention_heads")?,
        r.count("num_hidden_layers")?,
    );
    let head = r.optional_size("head_dim")?.unwrap_or(hidden / heads);
    let bias = r.flag("attention_bias", false)?;
    let rope = r.rope(None, "rope_theta", head, true)?;
    let gated = Feed::Gated {
        inner: r.size("intermediate_size")?,
        bias: r.flag("mlp_bias", false)?,
    };
    let attention = Attention {
        heads,
        kv_heads: r.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head,
        bias_in: bias,
        bias_out: bias,
        norm: false,
        scale: 1.0 / (head as f64).sqrt(),
        softcap: None,
    };
    Ok(Decoder {
        naming: Naming::Llama,
        vocab: r.size("vocab_size")?,
        hidden,
        positions: r.size("max_position_embeddings")?,
        learned_positions: false,
        ropes: vec![rope],
        norm: NormKind::Rms { one_plus: false },
        eps: r.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        embed_scale: None,
        attention,
        act: r.act(&["hidden_act"])?,
        sandwich: false,
        layers: vec![
            LayerPlan {
                window: None,
                rope: 0,
                feed: gated,
            };
            layers
        ],
        tied: r.flag("tie_word_embeddings", false)?,
        softcap: None,
        compute: DType::F32,
    })
}

fn mistral(r: &Reader<'_>) -> Result<Decoder, String> {
    let mut decoder = llama(r)?;
    let window = r.optional_size("sliding_window")?;
    decoder.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(decoder)
}

fn qwen2(r: &Reader<'_>) -> Result<Decoder, String> {
    let mut decoder = llama(r)?;
    decoder.attention.bias_in = true;
    decoder.attention.bias_out = false;
    qwen_windows(r, &mut decoder)?;
    Ok(decoder)
}

fn qwen3(r: &Reader<'_>) -> Result<Decoder, String> {
    let mut decoder = llama(r)?;
    decoder.attention.norm = true;
    if r.field("head_dim").is_none() {
        decoder.attention.head = 128;
        decoder.attention.scale = 1.0 / 128f64.sqrt();
        decoder.ropes = vec![r.rope(None, "rope_theta", 128, true)?];
    }
    qwen_windows(r, &mut decoder)?;
    Ok(decoder)
}

/// Windows only where they are switched on, and from layer `max_window_layers` on.
fn qwen_windows(r: &Reader<'_>, decoder: &mut Decoder) -> Result<(), String> {
    if !r.flag("use_sliding_window", false)? {
        return Ok(());
    }
    let window = r.optional_size("sliding_window")?;
    let first = r.optional_size("max_window_layers")?.unwrap_or(28);
    let sliding = r.sliding(decoder.layers.len(), |layer| layer >= first)?;
    for (layer, sliding) in decoder.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| sliding);
    }
    Ok(())
}

/// What both Gemmas have in common.
fn gemma(r: &Reader<'_>) -> Result<Decoder, String> {
    let mut decoder = llama(r)?;
    let head = r.optional_size("head_dim")?.unwrap_or(256);
    decoder.attention.head = head;
    decoder.attention.scale = 1.0 / r.number("query_pre_attn_scalar")?.unwrap_or(256.0).sqrt();
    decoder.attention.softcap = r.number("attn_logit_softcapping")?;
    decoder.softcap = r.number("final_logit_softcapping")?;
    decoder.act = r.act(&["hidden_activation", "hidden_act"])?;
    decoder.norm = NormKind::Rms { one_plus: true };
    decoder.embed_scale = Some(libm::sqrt(decoder.hidden as f64) as f32);
    decoder.sandwich = true;
    decoder.tied = r.flag("tie_word_embeddings", true)?;
    Ok(decoder)
}

fn gemma2(r: &Reader<'_>) -> Result<Decoder, String> {
    let mut decoder = gemma(r)?;
    decoder.ropes = vec![r.rope(None, "rope_theta", decoder.attention.head, true)?];
    let window = r.optional_size("sliding_window")?;
    let sliding = r.sliding(decoder.layers.len(), |layer| layer % 2 == 0)?;
    for (layer, sliding) in decoder.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| sliding);
    }
    Ok(decoder)
}

fn gemma3(r: &Reader<'_>) -> Result<Decoder, String> {
    let mut decoder = gemma(r)?;
    let head = decoder.attention.head;
    decoder.attention.norm = true;
    decoder.ropes = vec![
        r.rope(Some("full_attention"), "rope_theta", head, true)?,
        r.rope(Some("sliding_attention"), "rope_local_base_freq", head, false)?,
    ];
    let window = r.optional_size("sliding_window")?;
    let pattern = r.optional_size("sliding_window_pattern")?.unwrap_or(6);
    let sliding = r.sliding(decoder.layers.len(), |layer| (layer + 1) % pattern != 0)?;
    for (layer, sliding) in decoder.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| sliding);
        layer.rope = usize::from(sliding);
    }
    Ok(decoder)
}

fn gpt2(r: &Reader<'_>) -> Result<Decoder, String> {
    let (hidden, heads) = (r.size("n_embd")?, r.count("n_head")?);
    let head = hidden / heads;
    for key in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        if r.flag(key, false)? {
            return Err(format!("\"{key}\" is true, allowed: false"));
        }
    }
    let scaled = r.flag("scale_attn_weights", true)?;
    let attention = Attention {
        heads,
        kv_heads: heads,
        head,
        bias_in: true,
        bias_out: true,
        norm: false,
        scale: if scaled { 1.0 / (head as f64).sqrt() } else { 1.0 },
        softcap: None,
    };
    let inner = r.optional_size("n_inner")?.unwrap_or(4 * hidden);
    Ok(Decoder {
        naming: Naming::Gpt2,
        vocab: r.size("vocab_size")?,
        hidden,
        positions: r.size("n_positions")?,
        learned_positions: true,
        ropes: Vec::new(),
        norm: NormKind::Layer,
        eps: r.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
        embed_scale: None,
        attention,
        act: if r.field("activation_function").is_some() {
            r.act(&["activation_function"])?
        } else {
            Act::Gelu { tanh: true }
        },
        sandwich: false,
        layers: vec![
            LayerPlan {
                window: None,
                rope: 0,
                feed: Feed::Plain { inner },
            };
            r.count("n_layer")?
        ],
        tied: r.flag("tie_word_embeddings", true)?,
        softcap: None,
        compute: DType::F32,
    })
}

fn mixtral(r: &Reader<'_>) -> Result<Decoder, String> {
    let mut decoder = mistral(r)?;
    let feed = Feed::Experts {
        inner: r.size("intermediate_size")?,
        experts: r.count("num_local_experts")?,
        active: r.count("num_experts_per_tok")?,
        normalise: true,
        mixtral: true,
    };
    decoder.layers.iter_mut().for_each(|layer| layer.feed = feed);
    Ok(decoder)
}

fn qwen3_moe(r: &Reader<'_>) -> Result<Decoder, String> {
    let mut decoder = qwen3(r)?;
    let feed = Feed::Experts {
        inner: r.size("moe_intermediate_size")?,
        experts: match r.field("num_experts") {
            Some(_) => r.count("num_experts")?,
            None => r.count("num_local_experts")?,
        },
        active: r.count("num_experts_per_tok")?,
        normalise: r.flag("norm_topk_prob", false)?,
        mixtral: false,
    };
    let step = r.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = r.field("mlp_only_layers").and_then(Json::as_array);
    let is_dense = |layer: usize| dense.is_some_and(|all| all.iter().any(|one| one.as_u64() == Some(layer as u64)));
    for (at, layer) in decoder.layers.iter_mut().enumerate() {
        if (at + 1) % step == 0 && !is_dense(at) {
            layer.feed = feed;
        }
    }
    Ok(decoder)
}
