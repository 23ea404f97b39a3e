//! Text in, text out: a language model's tokenizer, its sampler, and the entries of its artifact as one machine that takes tokens and gives
//! logits.

mod decoder;
mod sample;
mod text;

pub use decoder::Decoder;
pub use sample::{Sampler, Sampling};
pub use text::{Pieces, Text};

use crate::ExecError;

/// What can go wrong between text and tokens.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The artifact is no language model.
    #[error("the artifact is no language model: {0}")]
    NotALanguageModel(String),
    /// The artifact was made without a tokenizer.
    #[error("the artifact has no tokenizer; compile it from a directory that has a tokenizer.json")]
    NoTokenizer,
    /// The tokenizer that the artifact holds is wrong, or cannot take this text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template that the artifact holds is wrong.
    #[error("chat template: {0}")]
    Template(String),
    /// The model has no chat template.
    #[error("the model has no chat template; give the prompt without --chat")]
    NoTemplate,
    /// More tokens than the states hold.
    #[error(
        "{needed} tokens do not fit: {used} of the context's {context} positions are taken; compile with a larger --context"
    )]
    Context {
        /// Tokens to take.
        needed: usize,
        /// Positions taken.
        used: usize,
        /// All positions.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} does not exist, the model has {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// How many there are.
        vocab: usize,
    },
    /// The executor failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
}
