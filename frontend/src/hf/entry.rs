//! The graph of one entry of a decoder, and the layers that all its parts share. Attention is in `attention.rs`, feed-forward parts in `feed.rs`.

use super::decoder::{Decoder, EntrySize, Feed, Naming, NormKind, Part};
use super::net::{Matrix, Net};
use super::weights::HEAD;
use crate::error::ImportError;
use lockstep_graph::op::{Binary, Unary};
use lockstep_graph::{DType, GraphBuilder, Op, OpError, ValueId, Weights};

/// One entry under construction.
pub(super) struct Entry<'a> {
    pub net: Net<'a>,
    pub d: &'a Decoder,
    pub size: EntrySize,
    pub part: &'a Part,
    /// i32[batch, tokens].
    pub positions: Option<ValueId>,
    /// Rows of the states that this run writes, i32[batch, tokens, 1].
    pub cache_rows: Option<ValueId>,
    /// Which positions count, bool[batch, 1, 1, tokens, window], by sliding window.
    pub masks: Vec<(Option<usize>, ValueId)>,
    /// Cosines and sines of this run's positions, f32[batch, tokens, 1, head], per rope.
    pub rotations: Vec<(ValueId, ValueId)>,
}

impl Entry<'_> {
    /// The result: logits, or what the layers hand on where the part has no head.
    pub fn model(&mut self) -> Result<ValueId, ImportError> {
        let EntrySize { batch, tokens, .. } = self.size;
        let (d, part) = (self.d, self.part);
        let ids = match part.embeds {
            true => self.input("tokens", DType::I32, &[batch, tokens])?,
            false => self.input("hidden", d.compute, &[batch, tokens, d.hidden])?,
        };
        if !part.layers.is_empty() || (part.embeds && d.learned_positions) {
            let position = self.input("position", DType::I32, &[batch])?;
            self.net.at("positions", "Positions");
            self.places(position)?;
        }
        let last = match tokens > 1 && part.head && !part.shows_layers {
            true => Some(self.input("last", DType::I32, &[batch])?),
            false => None,
        };
        let mut words = None;
        let mut x = ids;
        if part.embeds {
            (x, words) = self.embed(ids)?;
        }
        for layer in part.layers.clone() {
            x = self.layer(layer, x)?;
            self.show(&format!("layer.{layer}"), x);
        }
        if part.head { self.head(x, last, words) } else { Ok(x) }
    }

    /// The embeddings of tokens, and the matrix that has them.
    fn embed(&mut self, ids: ValueId) -> Result<(ValueId, Option<Matrix>), ImportError> {
        let d = self.d;
        self.net.at("embed_tokens", "Embedding");
        let words = self.net.matrix(d.embeddings(), &[d.vocab, d.hidden])?;
        let mut x = self.build(|b| {
            let x = b.op(Op::Gather { axis: 0 }, &[words.value, ids])?;
            b.cast(x, d.compute)
        })?;
        if let Some(scale) = d.embed_scale {
            x = self.build(|b| b.binary_scalar(Binary::Mul, x, f64::from(scale)))?;
        }
        if let (true, Some(positions)) = (d.learned_positions, self.positions) {
            self.net.at("wpe", "Embedding");
            let table = self.net.weight("wpe.weight", &[d.positions, d.hidden])?;
            x = self.build(|b| {
                let at = b.op(Op::Gather { axis: 0 }, &[table, positions])?;
                let at = b.cast(at, d.compute)?;
                b.binary(Binary::Add, x, at)
            })?;
        }
        Ok((x, Some(words)))
    }

    /// Makes a value an output, where the part shows what its layers hand on.
    fn show(&mut self, name: &str, x: ValueId) {
        if self.part.shows_layers {
            self.net.b.output(name, x);
        }
    }

    /// The logits of the last token, or of all where there is no `last`.
    fn head(&mut self, x: ValueId, last: Option<ValueId>, words: Option<Matrix>) -> Result<ValueId, ImportError> {
        let EntrySize { batch, tokens, .. } = self.size;
        let (d, hidden) = (self.d, self.d.hidden);
        self.net.at("head", "Linear");
        let x = self.build(|b| {
            let rows = b.reshape(x, [batch * tokens, hidden])?;
            let Some(last) = last else { return Ok(rows) };
            let at = match batch {
                1 => last,
                _ => {
                    let first: Vec<i32> = (0..batch).map(|b| (b * tokens) as i32).collect();
                    let first = b.constant("", DType::I32, [batch], Weights::from(first.as_slice()))?;
                    b.binary(Binary::Add, last, first)?
                }
            };
            b.op(Op::Gather { axis: 0 }, &[rows, at])
        })?;
        let x = self.norm(
            x,
            match d.naming {
                Naming::Llama => "norm",
                Naming::Gpt2 => "ln_f",
            },
        )?;
        self.show("norm", x);
        self.net.at("lm_head", "Linear");
        let head = match (d.tied && !self.net.is_scaled(HEAD), words) {
            (true, Some(words)) => words,
            (true, None) => self.net.matrix(d.embeddings(), &[d.vocab, d.hidden])?,
            (false, _) => self.net.matrix_at(HEAD, &[d.vocab, d.hidden])?,
        };
        let logits = self.multiply(x, head)?;
        match d.softcap {
            None => Ok(logits),
            Some(cap) => self.build(|b| soft_cap(b, logits, cap)),
        }
    }

    /// Positions, rows of the states, and rotations of this run.
    fn places(&mut self, position: ValueId) -> Result<(), ImportError> {
        let EntrySize {
            batch, tokens, context, ..
        } = self.size;
        let (positions, rows) = self.build(|b| {
            let column = b.reshape(position, [batch, 1])?;
            let positions = match tokens {
                1 => column,
                _ => {
                    let steps: Vec<i32> = (0..tokens as i32).collect();
                    let steps = b.constant("", DType::I32, [1, tokens], Weights::from(steps.as_slice()))?;
                    b.binary(Binary::Add, column, steps)?
                }
            };
            let rows = match batch {
                1 => positions,
                _ => {
                    let first: Vec<i32> = (0..batch).map(|b| (b * context) as i32).collect();
                    let first = b.constant("", DType::I32, [batch, 1], Weights::from(first.as_slice()))?;
                    b.binary(Binary::Add, positions, first)?
                }
            };
            Ok((positions, b.reshape(rows, [batch, tokens, 1])?))
        })?;
        self.positions = Some(positions);
        self.cache_rows = Some(rows);
        let head = self.d.attention.head;
        for (n, rope) in self.d.ropes.iter().enumerate() {
            let (cos, sin) = rope.tables(context);
            let pair = self.build(|b| {
                let mut at = |name: String, table| {
                    let table = b.constant(&name, DType::F32, [context, head], table)?;
                    let rows = b.op(Op::Gather { axis: 0 }, &[table, positions])?;
                    b.reshape(rows, [batch, tokens, 1, head])
                };
                Ok((at(format!("rope.{n}.cos"), cos)?, at(format!("rope.{n}.sin"), sin)?))
            })?;
            self.rotations.push(pair);
        }
        Ok(())
    }

    fn layer(&mut self, layer: usize, x: ValueId) -> Result<ValueId, ImportError> {
        let plan = self.d.layers[layer];
        let (at, before, between) = match self.d.naming {
            Naming::Llama if self.d.sandwich => (
                format!("layers.{layer}"),
                "input_layernorm",
                "pre_feedforward_layernorm",
            ),
            Naming::Llama => (format!("layers.{layer}"), "input_layernorm", "post_attention_layernorm"),
            Naming::Gpt2 => (format!("h.{layer}"), "ln_1", "ln_2"),
        };
        let normed = self.norm(x, &format!("{at}.{before}"))?;
        let mut mixed = self.attention(layer, &at, normed)?;
        if self.d.sandwich {
            mixed = self.norm(mixed, &format!("{at}.post_attention_layernorm"))?;
        }
        let x = self.build(|b| b.binary(Binary::Add, x, mixed))?;
        let normed = self.norm(x, &format!("{at}.{between}"))?;
        let mut fed = match plan.feed {
            Feed::Gated { inner, bias } => self.gated(&format!("{at}.mlp"), normed, inner, bias)?,
            Feed::Plain { inner } => self.plain(&format!("{at}.mlp"), normed, inner)?,
            Feed::Experts { .. } => self.experts(&at, normed, plan.feed)?,
        };
        if self.d.sandwich {
            fed = self.norm(fed, &format!("{at}.post_feedforward_layernorm"))?;
        }
        self.build(|b| b.binary(Binary::Add, x, fed))
    }

    /// x · weightᵀ, with the weight as [outputs, inputs].
    pub fn multiply(&mut self, x: ValueId, weight: Matrix) -> Result<ValueId, ImportError> {
        self.build(|b| {
            let value = b.cast(weight.value, DType::F32)?;
            let value = b.transpose(value, &[1, 0])?;
            scaled(b, x, value, weight.scale)
        })
    }

    pub fn linear(
        &mut self,
        x: ValueId,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<ValueId, ImportError> {
        self.net.at(name, "Linear");
        let weight = self.net.matrix(&format!("{name}.weight"), &[outputs, inputs])?;
        let product = self.multiply(x, weight)?;
        if !bias {
            return Ok(product);
        }
        let bias = self.net.weight(&format!("{name}.bias"), &[outputs])?;
        self.build(|b| {
            let bias = b.cast(bias, DType::F32)?;
            b.binary(Binary::Add, product, bias)
        })
    }

    /// x · weight + bias, with the weight as [inputs, outputs].
    pub fn transposed(
        &mut self,
        x: ValueId,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<ValueId, ImportError> {
        self.net.at(name, "Linear");
        let weight = self.net.matrix(&format!("{name}.weight"), &[inputs, outputs])?;
        let bias = self.net.weight(&format!("{name}.bias"), &[outputs])?;
        self.build(|b| {
            let (value, bias) = (b.cast(weight.value, DType::F32)?, b.cast(bias, DType::F32)?);
            let product = scaled(b, x, value, weight.scale)?;
            b.binary(Binary::Add, product, bias)
        })
    }

    pub fn norm(&mut self, x: ValueId, name: &str) -> Result<ValueId, ImportError> {
        self.norm_of(x, name, self.d.hidden)
    }

    /// Normalises the last axis, of `size` elements.
    pub fn norm_of(&mut self, x: ValueId, name: &str, size: usize) -> Result<ValueId, ImportError> {
        self.net.at(name, "Norm");
        let (kind, eps) = (self.d.norm, self.d.eps);
        let scale = self.net.weight(&format!("{name}.weight"), &[size])?;
        let bias = match kind {
            NormKind::Layer => Some(self.net.weight(&format!("{name}.bias"), &[size])?),
            NormKind::Rms { .. } => None,
        };
        self.build(|b| {
            let axis = b.shape(x).rank().saturating_sub(1);
            let mut scale = b.cast(scale, DType::F32)?;
            if kind == (NormKind::Rms { one_plus: true }) {
                scale = b.binary_scalar(Binary::Add, scale, 1.0)?;
            }
            match bias {
                None => b.op(Op::RmsNorm { axis, eps }, &[x, scale]),
                Some(bias) => {
                    let bias = b.cast(bias, DType::F32)?;
                    b.op(Op::LayerNorm { axis, eps }, &[x, scale, bias])
                }
            }
        })
    }

    fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<ValueId, ImportError> {
        let value = self.net.b.input(name, dtype, shape);
        value.map_err(|error| self.net.fail(error))
    }

    /// Operators at the current module.
    pub fn build<T>(&mut self, f: impl FnOnce(&mut GraphBuilder) -> Result<T, OpError>) -> Result<T, ImportError> {
        f(&mut self.net.b).map_err(|error| self.net.fail(error))
    }
}

/// x · weight, its columns times their scales.
pub(super) fn scaled(
    b: &mut GraphBuilder,
    x: ValueId,
    weight: ValueId,
    scale: Option<ValueId>,
) -> Result<ValueId, OpError> {
    let product = b.matmul(x, weight)?;
    match scale {
        Some(scale) => b.binary(Binary::Mul, product, scale),
        None => Ok(product),
    }
}

/// c · tanh(x / c).
pub(super) fn soft_cap(b: &mut GraphBuilder, x: ValueId, cap: f64) -> Result<ValueId, OpError> {
    let small = b.binary_scalar(Binary::Div, x, cap)?;
    let bent = b.unary(Unary::Tanh, small)?;
    b.binary_scalar(Binary::Mul, bent, cap)
}
