//! Hugging Face directories: config.json says the architecture, which is built here layer by layer; safetensors hold the weights.
//!
//! A decoder has several entries over the same weights and states: see [`language`]. [`import`] gives the one that takes a single token.

mod attention;
mod bert;
mod config;
mod decoder;
mod entry;
mod feed;
mod net;
mod outline;
mod rope;
mod text;
mod weights;

pub use outline::{Outline, StageSize};
pub use weights::WeightFormat;

use crate::error::{ImportError, ImportErrorKind, read_error};
use crate::safetensors::Tensors;
use crate::{ImportOptions, Source, gguf, safetensors};
use decoder::{Decoder, EntrySize, NormKind, Part};
use lockstep_graph::{Graph, Origin};

/// Values of `model_type` that can be imported.
pub const MODEL_TYPES: &[&str] = &[
    "bert",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "mixtral",
    "qwen3_moe",
];

const CONFIG: &str = "config.json";

/// Positions of the states where the user does not say.
const CONTEXT: usize = 512;

/// Most sequences or tokens of one run that are believed.
const MOST: usize = 1 << 16;

/// Which entries a language model gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanguageOptions {
    /// Positions that the states hold; 512, or what the model was made for if that is less, where absent.
    pub context: Option<usize>,
    /// Sequences at a time.
    pub batch: usize,
    /// Tokens per run of each prefill entry, at least 2.
    pub prefill: Vec<usize>,
    /// Positions that the decode entries attend to; the whole context is always one of them.
    pub buckets: Vec<usize>,
    /// How matrices are stored; as in the model where absent.
    pub weights: Option<WeightFormat>,
}

impl Default for LanguageOptions {
    fn default() -> Self {
        Self {
            context: None,
            batch: 1,
            prefill: Vec::new(),
            buckets: Vec::new(),
            weights: None,
        }
    }
}

/// A decoder with its entries.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    /// Decode entries `decode.W` by ascending W, positions that they attend to; then prefill entries `prefill.N` by ascending N, tokens per
    /// run. All have the same states.
    pub entries: Vec<(String, Graph)>,
    /// Tokenizer, chat template and stop tokens as one JSON object, where the directory has a tokenizer.
    pub text: Option<String>,
}

/// config.json, and its `model_type`.
struct Config {
    json: config::Json,
    model_type: String,
}

impl Config {
    fn read(source: &dyn Source) -> Result<Self, ImportError> {
        let bytes = source.read(CONFIG).map_err(|error| read_error(CONFIG, &error))?;
        let json: config::Json = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        match json.get("model_type").map(|value| value.as_str()) {
            Some(Some(model_type)) => Ok(Self {
                model_type: model_type.into(),
                json,
            }),
            Some(None) => Err(malformed("model_type is no text".into())),
            None => Err(malformed("model_type is missing".into())),
        }
    }

    /// The description of a decoder, `None` for another architecture that is known.
    fn decoder(&self) -> Result<Option<Decoder>, ImportError> {
        if let Some(described) = config::describe(&self.model_type, &self.json) {
            return described.map(Some).map_err(malformed);
        }
        if self.model_type == "bert" {
            return Ok(None);
        }
        let kind = ImportErrorKind::UnknownArchitecture {
            found: self.model_type.clone(),
            known: MODEL_TYPES,
        };
        Err(ImportError::new(kind, Origin::file(CONFIG)))
    }
}

fn malformed(message: String) -> ImportError {
    ImportError::new(ImportErrorKind::Malformed(message), Origin::file(CONFIG))
}

/// A decoder as its files have it, by the names of Hugging Face.
#[derive(Clone)]
pub struct Checkpoint {
    /// Name of the model.
    pub(crate) name: String,
    /// The file that describes it.
    pub(crate) file: String,
    pub(crate) model_type: String,
    pub(crate) config: config::Json,
    pub(crate) tensors: Tensors,
    /// Norms that are stored less one have it added here.
    pub(crate) norms_have_one_added: bool,
    /// Divisors of the rotary frequencies.
    pub(crate) frequencies: Option<Vec<f32>>,
    /// As [`LanguageModel::text`].
    pub text: Option<String>,
}

impl Checkpoint {
    /// The decoder in a directory or a GGUF file; `None` if the source holds no decoder.
    ///
    /// # Errors
    /// See [`ImportErrorKind`]; a decoder without weights.
    pub fn read(source: &dyn Source) -> Result<Option<Checkpoint>, ImportError> {
        if let Some(file) = source.file() {
            if !file.ends_with(".gguf") {
                return Ok(None);
            }
            return gguf::checkpoint(source, file).map(Some);
        }
        let files = source.list().map_err(|error| read_error(source.name(), &error))?;
        if files.iter().any(|file| file == CONFIG) {
            return checkpoint(source, &files, &Config::read(source)?);
        }
        gguf::only_file(&files)
            .map(|file| gguf::checkpoint(source, file))
            .transpose()
    }

    fn decoder(&self) -> Result<Decoder, ImportError> {
        let malformed =
            |message: String| ImportError::new(ImportErrorKind::Malformed(message), Origin::file(self.file.as_str()));
        let described = config::describe(&self.model_type, &self.config);
        let described = described.unwrap_or_else(|| Err(format!("{} is no decoder", self.model_type)));
        let mut decoder = described.map_err(malformed)?;
        if self.norms_have_one_added {
            decoder.norm = NormKind::Rms { one_plus: false };
        }
        if let Some(divisors) = &self.frequencies {
            decoder.ropes.iter_mut().for_each(|rope| rope.divide(divisors));
        }
        Ok(decoder)
    }

    /// The entry that takes a single token.
    pub(crate) fn single(&self, options: &ImportOptions) -> Result<Graph, ImportError> {
        let decoder = self.decoder()?;
        let context = decoder.positions.min(CONTEXT);
        let size = EntrySize {
            batch: 1,
            tokens: 1,
            context,
            window: context,
        };
        decoder.build(&self.name, Ok(&self.tensors), options, size, &decoder.whole())
    }

    /// How many tokens it knows, and how many positions it was made for.
    ///
    /// # Errors
    /// A configuration that does not fit together.
    pub fn vocab_and_positions(&self) -> Result<(usize, usize), ImportError> {
        let decoder = self.decoder()?;
        Ok((decoder.vocab, decoder.positions))
    }

    /// All layers over a text of `n` tokens in one run: `tokens: i32[1, n]` and `position: i32[1]`, which is 0, give
    /// `layer.N: f32[1, n, hidden]`, what each layer hands on, `norm: f32[n, hidden]` and `logits: f32[n, vocab]`. Matrices are stored as in
    /// the model where `weights` is absent.
    ///
    /// # Errors
    /// A configuration that does not fit together or to the weights; more tokens than positions, or none.
    pub fn layers(mut self, n: usize, weights: Option<WeightFormat>) -> Result<Graph, ImportError> {
        let decoder = self.converted(weights)?;
        if n == 0 || n > decoder.positions {
            let most = decoder.positions;
            return Err(self.bad(format!("the prompt has {n} tokens, the model allows 1 to {most}")));
        }
        let size = EntrySize {
            batch: 1,
            tokens: n,
            context: n,
            window: n,
        };
        let part = Part {
            shows_layers: true,
            ..decoder.whole()
        };
        decoder.build(&self.name, Ok(&self.tensors), &ImportOptions::default(), size, &part)
    }

    /// The description of the decoder, whose matrices become what is asked for.
    fn converted(&mut self, weights: Option<WeightFormat>) -> Result<Decoder, ImportError> {
        let decoder = self.decoder()?;
        if let Some(format) = weights {
            weights::convert(&mut self.tensors, format, decoder.tied);
        }
        Ok(decoder)
    }

    fn bad(&self, message: String) -> ImportError {
        ImportError::new(ImportErrorKind::BadOption(message), Origin::file(self.name.as_str()))
    }

    /// All entries.
    pub(crate) fn language(mut self, options: &LanguageOptions) -> Result<LanguageModel, ImportError> {
        let decoder = self.converted(options.weights)?;
        let mut entries = Vec::new();
        for (name, size) in sizes(&decoder, options).map_err(|message| self.bad(message))? {
            let options = ImportOptions {
                entry: name.clone(),
                ..ImportOptions::default()
            };
            let graph = decoder.build(&self.name, Ok(&self.tensors), &options, size, &decoder.whole())?;
            entries.push((name, graph));
        }
        Ok(LanguageModel {
            entries,
            text: self.text,
        })
    }
}

/// Whether a directory with these files has no weights in a form that is read.
fn weightless(files: &[String]) -> bool {
    !files
        .iter()
        .any(|file| file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json"))
}

/// The decoder in a directory with these files, `None` for another architecture.
fn checkpoint(source: &dyn Source, files: &[String], config: &Config) -> Result<Option<Checkpoint>, ImportError> {
    if config.decoder()?.is_none() {
        return Ok(None);
    }
    if weightless(files) {
        let message = "the directory holds a config.json and no weights (model.safetensors, or model.safetensors.index.json and its shards); without them `report` alone works";
        return Err(ImportError::new(
            ImportErrorKind::NotAModel(message.into()),
            Origin::file(source.name()),
        ));
    }
    Ok(Some(Checkpoint {
        name: source.name().into(),
        file: CONFIG.into(),
        model_type: config.model_type.clone(),
        config: config.json.clone(),
        tensors: safetensors::read_all(source, files)?,
        norms_have_one_added: false,
        frequencies: None,
        text: text::read(source, files, &config.json)?,
    }))
}

/// Imports the model in a directory with these files.
///
/// # Errors
/// See [`ImportErrorKind`].
pub fn import(source: &dyn Source, files: &[String], options: &ImportOptions) -> Result<Graph, ImportError> {
    let config = Config::read(source)?;
    if let Some(checkpoint) = checkpoint(source, files, &config)? {
        return checkpoint.single(options);
    }
    let bert: bert::Config = serde_json::from_value(config.json).map_err(|error| malformed(error.to_string()))?;
    bert::import(source.name(), &bert, &safetensors::read_all(source, files)?, options)
}

/// The entries of the decoder in a directory or a GGUF file; `None` if the source holds no decoder.
///
/// # Errors
/// See [`ImportErrorKind`]; options that do not fit the model or each other.
pub fn language(source: &dyn Source, options: &LanguageOptions) -> Result<Option<LanguageModel>, ImportError> {
    let checkpoint = Checkpoint::read(source)?;
    checkpoint.map(|checkpoint| checkpoint.language(options)).transpose()
}

/// Names and sizes of the entries.
fn sizes(decoder: &Decoder, options: &LanguageOptions) -> Result<Vec<(String, EntrySize)>, String> {
    let context = options.context.unwrap_or(decoder.positions.min(CONTEXT));
    if context == 0 || context > decoder.positions {
        return Err(format!(
            "the context is {context}, the model allows 1 to {}",
            decoder.positions
        ));
    }
    let batch = options.batch;
    if batch == 0 || batch > MOST || batch.checked_mul(context).is_none_or(|rows| rows > i32::MAX as usize) {
        return Err(format!("the batch is {batch}, allowed: 1 to {MOST}"));
    }
    let size = |tokens, window| EntrySize {
        batch,
        tokens,
        context,
        window,
    };
    let mut windows = options.buckets.clone();
    windows.push(context);
    windows.sort_unstable();
    windows.dedup();
    let mut chunks = options.prefill.clone();
    chunks.sort_unstable();
    chunks.dedup();
    let mut all = Vec::new();
    for window in windows {
        if window == 0 || window > context {
            return Err(format!("a bucket is {window}, allowed: 1 to the context, {context}"));
        }
        all.push((format!("decode.{window}"), size(1, window)));
    }
    for tokens in chunks {
        if tokens < 2 || tokens > context {
            return Err(format!(
                "a prefill chunk is {tokens}, allowed: 2 to the context, {context}"
            ));
        }
        all.push((format!("prefill.{tokens}"), size(tokens, context)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_listed() {
        let families = config::FAMILIES.iter().map(|family| family.0);
        let all: Vec<&str> = ["bert"].into_iter().chain(families).collect();
        assert_eq!(all, MODEL_TYPES);
    }
}
