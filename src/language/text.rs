//! Text to tokens and back, and chat templates, from what the artifact holds.

use super::LanguageError;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, context};
use serde_json::Value;
use tokenizers::Tokenizer;

/// Tokenizer, chat template and stop tokens of a model.
pub struct Text {
    tokenizer: Tokenizer,
    template: Option<String>,
    first: String,
    last: String,
    stop: Vec<u32>,
}

impl Text {
    /// Reads what [`crate::Artifact::tokenizer`] holds.
    ///
    /// # Errors
    /// Nothing there; no JSON; a tokenizer that is wrong.
    pub fn read(json: &str) -> Result<Self, LanguageError> {
        if json.is_empty() {
            return Err(LanguageError::NoTokenizer);
        }
        let wrong = |error: String| LanguageError::Tokenizer(one_line(&error));
        let all: Value = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        let tokenizer = all.get("tokenizer").map(Value::to_string).unwrap_or_default();
        let tokenizer = Tokenizer::from_bytes(tokenizer.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let text = |key: &str| all.get(key).and_then(Value::as_str).map(str::to_owned);
        let stop = all.get("stop").and_then(Value::as_array);
        let stop = stop.into_iter().flatten().filter_map(Value::as_u64);
        Ok(Self {
            tokenizer,
            template: text("chat_template"),
            first: text("bos_token").unwrap_or_default(),
            last: text("eos_token").unwrap_or_default(),
            stop: stop.filter_map(|id| u32::try_from(id).ok()).collect(),
        })
    }

    /// Token ids of a text; `special` adds the tokens that the model wants around it.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, LanguageError> {
        let encoding = self.tokenizer.encode(text, special);
        let encoding = encoding.map_err(|error| LanguageError::Tokenizer(one_line(&error.to_string())))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of a user's message in the model's chat format, ready for the answer. Encode it without special tokens.
    ///
    /// # Errors
    /// No chat template, or one that fails.
    pub fn chat(&self, message: &str) -> Result<String, LanguageError> {
        let template = self.template.as_deref().ok_or(LanguageError::NoTemplate)?;
        let mut jinja = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        jinja.set_syntax(syntax.map_err(|error| LanguageError::Template(one_line(&error.to_string())))?);
        jinja.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        jinja.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let render = || -> Result<String, Error> {
            jinja.template_from_str(template)?.render(context! {
                messages => [context! { role => "user", content => message }],
                add_generation_prompt => true,
                bos_token => &self.first,
                eos_token => &self.last,
            })
        };
        render().map_err(|error| LanguageError::Template(one_line(&error.to_string())))
    }

    /// Whether a token ends the text.
    pub fn stops(&self, token: u32) -> bool {
        self.stop.contains(&token)
    }

    /// The text of tokens.
    ///
    /// # Errors
    /// What the tokenizer reports.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, LanguageError> {
        let text = self.tokenizer.decode(tokens, true);
        text.map_err(|error| LanguageError::Tokenizer(one_line(&error.to_string())))
    }

    /// The text of tokens that come one by one.
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces {
            text: self,
            tokens: Vec::new(),
            told: 0,
        }
    }
}

/// The text of a growing list of tokens, piece by piece; a piece never ends inside a character.
pub struct Pieces<'a> {
    text: &'a Text,
    /// Tokens since the last line break that was told.
    tokens: Vec<u32>,
    /// Bytes of their text told already.
    told: usize,
}

impl Pieces<'_> {
    /// What one more token adds; empty while a character is incomplete.
    ///
    /// # Errors
    /// As [`Text::decode`].
    pub fn push(&mut self, token: u32) -> Result<String, LanguageError> {
        self.tokens.push(token);
        let all = self.text.decode(&self.tokens)?;
        if all.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        let piece = all.get(self.told..).unwrap_or_default().to_owned();
        self.told = all.len();
        // What lies before a line break changes nothing after it, but its first tokens anchor the decoding.
        if all.ends_with('\n') && self.tokens.len() > 64 {
            self.tokens = self.tokens.split_off(self.tokens.len() - 1);
            self.told = self.text.decode(&self.tokens)?.len();
        }
        Ok(piece)
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
