//! Decoders: what a family is made of, and the graph of one entry.
//!
//! An entry takes `tokens`: i32[batch, n] and `position`: i32[batch], the place of the first of them, and gives `logits`: f32[batch, vocab]
//! of the last token. With n > 1 there is also `last`: i32[batch], which token is the last that counts; those after it only fill the chunk.
//! Keys and values of the tokens are scattered into the states `past.N.key` and `past.N.value`: f32[batch · context, kv heads, head], row
//! b · context + position, and attention reads the first `window` positions of them. What fills a chunk is written after the tokens that
//! count and is overwritten before anything attends to it.
//!
//! Weights stay as they are stored; activations are f32.

use super::entry::Entry;
use super::net::Net;
use super::rope::Rope;
use super::weights::Blank;
use crate::ImportOptions;
use crate::error::ImportError;
use crate::safetensors::Tensors;
use lockstep_graph::{DType, Graph};
use std::ops::Range;

/// Names of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    Llama,
    Gpt2,
}

/// Normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormKind {
    /// By the root mean square; the weight is what is stored, or one more.
    Rms { one_plus: bool },
    /// By mean and variance, with a bias.
    Layer,
}

/// Activation of the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Silu,
    Gelu { tanh: bool },
    Relu,
}

/// Feed-forward part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// down(act(gate(x)) · up(x)).
    Gated { inner: usize, bias: bool },
    /// down(act(up(x))), with biases.
    Plain { inner: usize },
    /// The `active` of `experts` gated parts with the largest softmax of the router, weighted by it.
    Experts {
        inner: usize,
        experts: usize,
        active: usize,
        /// The weights of the active ones sum to 1.
        normalise: bool,
        /// Named as Mixtral does.
        mixtral: bool,
    },
}

/// Attention, the same in every layer but for its window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head: usize,
    pub bias_in: bool,
    pub bias_out: bool,
    /// Queries and keys are normalised per head.
    pub norm: bool,
    /// Scores are multiplied by this.
    pub scale: f64,
    /// Scores are c · tanh(score / c).
    pub softcap: Option<f64>,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerPlan {
    /// How many positions back attention looks, itself included.
    pub window: Option<usize>,
    /// Index into [`Decoder::ropes`].
    pub rope: usize,
    pub feed: Feed,
}

/// A decoder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decoder {
    pub naming: Naming,
    pub vocab: usize,
    pub hidden: usize,
    /// Positions that the model was made for.
    pub positions: usize,
    /// Positions have embeddings that are added to those of the tokens.
    pub learned_positions: bool,
    pub ropes: Vec<Rope>,
    pub norm: NormKind,
    pub eps: f32,
    pub embed_scale: Option<f32>,
    pub attention: Attention,
    pub act: Act,
    /// Attention and feed-forward part are normalised after as well as before.
    pub sandwich: bool,
    pub layers: Vec<LayerPlan>,
    /// The output head is the embedding.
    pub tied: bool,
    /// Logits are c · tanh(logit / c).
    pub softcap: Option<f64>,
    /// Dtype of activations.
    pub compute: DType,
}

/// Sizes of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntrySize {
    pub batch: usize,
    /// Tokens per run.
    pub tokens: usize,
    /// Positions that the states hold.
    pub context: usize,
    /// Positions that attention reads.
    pub window: usize,
}

/// What an entry does of its decoder. What a part without embeddings takes and a part without a head gives is `hidden`:
/// [batch, tokens, hidden].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Tokens become embeddings.
    pub embeds: bool,
    /// Layers of the decoder.
    pub layers: Range<usize>,
    /// Logits are made.
    pub head: bool,
    /// What each layer hands on is an output too, and the logits are those of all tokens.
    pub shows_layers: bool,
}

impl Decoder {
    /// Everything.
    pub fn whole(&self) -> Part {
        Part {
            embeds: true,
            layers: 0..self.layers.len(),
            head: true,
            shows_layers: false,
        }
    }

    /// Name of the embeddings of tokens.
    pub fn embeddings(&self) -> &'static str {
        match self.naming {
            Naming::Llama => "embed_tokens.weight",
            Naming::Gpt2 => "wte.weight",
        }
    }

    /// What must hold for any graph.
    pub fn check(&self) -> Result<(), String> {
        let a = &self.attention;
        if a.head == 0 || a.head > 1 << 16 || (!self.ropes.is_empty() && a.head % 2 == 1) {
            return Err(format!("heads have {} elements, allowed: an even number", a.head));
        }
        if a.kv_heads == 0 || !a.heads.is_multiple_of(a.kv_heads) {
            return Err(format!(
                "{} heads do not share {} key and value heads evenly",
                a.heads, a.kv_heads
            ));
        }
        for layer in &self.layers {
            if let Feed::Experts { experts, active, .. } = layer.feed
                && (active == 0 || active > experts)
            {
                return Err(format!("{active} of {experts} experts are active"));
            }
        }
        Ok(())
    }

    /// The graph of one entry, or of a part of it; weights have shapes alone where `tensors` says how they would be stored.
    pub fn build(
        &self,
        name: &str,
        tensors: Result<&Tensors, Blank>,
        options: &ImportOptions,
        size: EntrySize,
        part: &Part,
    ) -> Result<Graph, ImportError> {
        let prefix = match self.naming {
            Naming::Llama => "model.",
            Naming::Gpt2 => "transformer.",
        };
        let mut entry = Entry {
            net: Net::new(name, options, tensors, prefix),
            d: self,
            size,
            part,
            positions: None,
            cache_rows: None,
            masks: Vec::new(),
            rotations: Vec::new(),
        };
        let result = entry.model()?;
        let mut net = entry.net;
        let name = if part.head { "logits" } else { "next" };
        net.b.name(result, name);
        net.b.output(name, result);
        net.finish(options)
    }
}
