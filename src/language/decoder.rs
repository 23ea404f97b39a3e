//! The entries of a language model: tokens in, logits of the last one out, with the position kept between calls.

use super::LanguageError;
use crate::isa::Artifact;
use crate::isa::artifact::{Entry, HostDType};
use crate::{Session, TensorView};

/// An entry of a language model.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    /// Index in the artifact.
    entry: usize,
    /// Tokens that it takes.
    tokens: usize,
    /// Positions that it attends to.
    window: usize,
    /// Cycles of one run.
    makespan: u64,
    /// Index of the logits among its outputs.
    logits: usize,
}

/// A loaded language model. Tokens are fed once; what they leave behind is in the session's state.
pub struct Decoder {
    session: Box<dyn Session>,
    parts: Vec<Part>,
    batch: usize,
    vocab: usize,
    context: usize,
    position: usize,
    /// Cycles that the executor counted so far.
    cycles: u64,
    logits: Vec<f32>,
}

fn wrong(what: impl Into<String>) -> LanguageError {
    LanguageError::NotALanguageModel(what.into())
}

/// Names of the entries say what they attend to (`decode.W`) or how much they take (`prefill.N`); shapes must agree.
fn part(index: usize, entry: &Entry) -> Result<(Part, usize, usize), LanguageError> {
    let name = &entry.name;
    let (kind, number) = name.split_once('.').unwrap_or((name, ""));
    let number: usize = number.parse().unwrap_or(0);
    let odd = || wrong(format!("entry {name:?} is neither decode.W nor prefill.N"));
    let &[batch, tokens] = entry.inputs.first().map_or(&[][..], |t| &t.shape[..]) else {
        return Err(odd());
    };
    let names: Vec<&str> = entry.inputs.iter().map(|t| t.name.as_str()).collect();
    let (wanted, window): (&[&str], usize) = match kind {
        "decode" => (&["tokens", "position"], number),
        "prefill" => (&["tokens", "position", "last"], usize::MAX),
        _ => return Err(odd()),
    };
    let whole = entry.inputs.iter().all(|t| t.dtype == HostDType::I32);
    let chunk = if kind == "decode" { 1 } else { number as u64 };
    if number == 0 || names != wanted || tokens != chunk || !whole {
        return Err(odd());
    }
    if entry.inputs.iter().skip(1).any(|t| t.shape != [batch]) {
        return Err(odd());
    }
    let logits = entry.outputs.iter().position(|t| t.name == "logits").ok_or_else(odd)?;
    let vocab = match *entry.outputs[logits].shape {
        [b, vocab] if b == batch && vocab > 0 && entry.outputs[logits].dtype == HostDType::F32 => vocab,
        _ => return Err(odd()),
    };
    let part = Part {
        entry: index,
        tokens: tokens as usize,
        window,
        makespan: entry.makespan,
        logits,
    };
    Ok((part, batch as usize, vocab as usize))
}

impl Decoder {
    /// The language model of an artifact, loaded as `session`.
    ///
    /// # Errors
    /// If its entries are not those of a language model.
    pub fn new(artifact: &Artifact, session: Box<dyn Session>) -> Result<Self, LanguageError> {
        let mut parts = Vec::new();
        let mut sizes = None;
        for (index, entry) in artifact.entries.iter().enumerate() {
            let (part, batch, vocab) = part(index, entry)?;
            if *sizes.get_or_insert((batch, vocab)) != (batch, vocab) {
                return Err(wrong("its entries differ in batch or vocabulary"));
            }
            parts.push(part);
        }
        let context = parts.iter().filter(|p| p.tokens == 1).map(|p| p.window).max();
        let (Some(context), Some((batch, vocab))) = (context, sizes) else {
            return Err(wrong("it has no decode entry"));
        };
        parts.iter_mut().for_each(|p| p.window = p.window.min(context));
        Ok(Self {
            session,
            parts,
            batch,
            vocab,
            context,
            position: 0,
            cycles: 0,
            logits: Vec::new(),
        })
    }

    /// Positions that the states hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Positions taken so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets all tokens.
    pub fn reset(&mut self) {
        self.session.reset_state();
        self.position = 0;
    }

    /// Cycles that the executor counted so far; 0 where it counts none.
    pub fn cycles(&self) -> u64 {
        self.cycles
    }

    /// Cycles that the schedule gives one more token at this position.
    pub fn token_cycles(&self) -> u64 {
        self.decode_part().map_or(0, |p| p.makespan)
    }

    /// Takes tokens, at least one, and gives the logits that follow the last: one per token of the vocabulary.
    ///
    /// # Errors
    /// More tokens than positions are left; a token that does not exist; what the executor reports.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], LanguageError> {
        if tokens.len() > self.context - self.position {
            return Err(LanguageError::Context {
                needed: tokens.len(),
                used: self.position,
                context: self.context,
            });
        }
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= self.vocab) {
            let vocab = self.vocab;
            return Err(LanguageError::Token { token, vocab });
        }
        let mut rest = tokens;
        while !rest.is_empty() {
            let part = self.choose(rest.len())?;
            let (now, later) = rest.split_at(part.tokens.min(rest.len()));
            self.run(&part, now)?;
            rest = later;
        }
        Ok(&self.logits)
    }

    /// The entry that decodes one token at this position: the smallest window that covers it.
    fn decode_part(&self) -> Option<&Part> {
        let fits = |p: &&Part| p.tokens == 1 && p.window > self.position;
        self.parts.iter().filter(fits).min_by_key(|p| p.window)
    }

    /// The entry that takes these tokens at the fewest cycles each; a chunk may be filled up as long as it ends inside the context.
    fn choose(&self, n: usize) -> Result<Part, LanguageError> {
        let mut best = self.decode_part();
        for part in &self.parts {
            let taken = part.tokens.min(n);
            let fits = part.tokens > 1 && self.position + part.tokens <= self.context;
            let cheaper = |other: &Part| {
                let share = |p: &Part, taken: usize| u128::from(p.makespan) * (n.min(taken) as u128);
                share(part, other.tokens) < share(other, taken)
            };
            if fits && best.is_none_or(cheaper) {
                best = Some(part);
            }
        }
        best.cloned().ok_or_else(|| wrong("no entry reaches this position"))
    }

    fn run(&mut self, part: &Part, tokens: &[u32]) -> Result<(), LanguageError> {
        let mut chunk: Vec<u8> = Vec::with_capacity(part.tokens * self.batch * 4);
        for _ in 0..self.batch {
            let padded = (0..part.tokens).map(|i| tokens.get(i).copied().unwrap_or(0));
            chunk.extend(padded.flat_map(|token| (token as i32).to_le_bytes()));
        }
        let all = |value: usize| (value as i32).to_le_bytes().repeat(self.batch);
        let (position, last) = (all(self.position), all(tokens.len().saturating_sub(1)));
        let shape = [self.batch as u64, part.tokens as u64];
        let view = |shape, bytes| TensorView {
            dtype: HostDType::I32,
            shape,
            bytes,
        };
        let mut inputs = vec![view(&shape[..], &chunk[..]), view(&shape[..1], &position[..])];
        if part.tokens > 1 {
            inputs.push(view(&shape[..1], &last[..]));
        }
        let outputs = self.session.run(part.entry, &inputs)?;
        self.cycles += outputs.cycles.unwrap_or(0);
        self.logits.clear();
        if let Some(tensor) = outputs.tensors.get(part.logits) {
            let floats = tensor.bytes.chunks_exact(4).take(self.vocab);
            self.logits
                .extend(floats.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        self.position += tokens.len();
        Ok(())
    }
}
