//! A decoder of which config.json alone is known: the graphs of its parts, with weights that have a shape and no data.

use super::config::Json;
use super::decoder::{Decoder, EntrySize, Part};
use super::weights::{Blank, WeightFormat};
use super::{CONFIG, Checkpoint, Config, LanguageModel, LanguageOptions, sizes, weightless};
use crate::error::{ImportError, ImportErrorKind, read_error};
use crate::safetensors::Tensors;
use crate::{ImportOptions, Source};
use lockstep_graph::{DType, Graph, Origin};
use std::ops::Range;

/// A decoder without weights.
#[derive(Clone, Debug)]
pub struct Outline {
    name: String,
    decoder: Decoder,
    blank: Blank,
}

/// What a run of a part of a decoder works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageSize {
    /// Tokens per run.
    pub tokens: usize,
    /// Positions that the states hold and attention reads.
    pub context: usize,
}

impl Outline {
    /// The decoder in a directory that has a config.json and no weights; `None` where the source is anything else.
    ///
    /// # Errors
    /// A config.json that cannot be read or does not describe a decoder that is known.
    pub fn read(source: &dyn Source, format: Option<WeightFormat>) -> Result<Option<Outline>, ImportError> {
        if source.file().is_some() {
            return Ok(None);
        }
        let files = source.list().map_err(|error| read_error(source.name(), &error))?;
        if !files.iter().any(|file| file == CONFIG) || !weightless(&files) {
            return Ok(None);
        }
        let config = Config::read(source)?;
        let plain = match config
            .json
            .get("torch_dtype")
            .or_else(|| config.json.get("dtype"))
            .and_then(Json::as_str)
        {
            Some("bfloat16") => DType::Bf16,
            Some("float16") => DType::F16,
            _ => DType::F32,
        };
        if config.decoder()?.is_none() {
            return Ok(None);
        }
        let checkpoint = Checkpoint {
            name: source.name().into(),
            file: CONFIG.into(),
            model_type: config.model_type,
            config: config.json,
            tensors: Tensors::new(),
            norms_have_one_added: false,
            frequencies: None,
            text: None,
        };
        Ok(Some(Outline {
            decoder: checkpoint.decoder()?,
            name: checkpoint.name,
            blank: Blank { plain, format },
        }))
    }

    /// All entries of the whole decoder.
    ///
    /// # Errors
    /// As [`super::language`].
    pub fn language(&self, options: &LanguageOptions) -> Result<LanguageModel, ImportError> {
        let mut entries = Vec::new();
        for (name, size) in sizes(&self.decoder, options).map_err(|message| self.bad(message))? {
            let graph = self.graph(&name, size, &self.decoder.whole())?;
            entries.push((name, graph));
        }
        Ok(LanguageModel { entries, text: None })
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.decoder.layers.len()
    }

    /// Whether two stretches of layers do the same work.
    pub fn alike(&self, a: Range<usize>, b: Range<usize>) -> bool {
        self.decoder.layers.get(a).eq(&self.decoder.layers.get(b))
    }

    /// Elements of an activation.
    pub fn hidden(&self) -> usize {
        self.decoder.hidden
    }

    /// Positions that the model was made for.
    pub fn positions(&self) -> usize {
        self.decoder.positions
    }

    /// What turns tokens into activations.
    ///
    /// # Errors
    /// A config.json that does not fit together.
    pub fn embedding(&self, size: StageSize) -> Result<Graph, ImportError> {
        self.part("embedding", size, true, 0..0, false)
    }

    /// Some layers.
    ///
    /// # Errors
    /// A config.json that does not fit together.
    pub fn layers(&self, size: StageSize, layers: Range<usize>) -> Result<Graph, ImportError> {
        self.part("layers", size, false, layers, false)
    }

    /// What turns activations into logits.
    ///
    /// # Errors
    /// A config.json that does not fit together.
    pub fn head(&self, size: StageSize) -> Result<Graph, ImportError> {
        self.part("head", size, false, 0..0, true)
    }

    fn part(
        &self,
        name: &str,
        size: StageSize,
        embeds: bool,
        layers: Range<usize>,
        head: bool,
    ) -> Result<Graph, ImportError> {
        let part = Part {
            embeds,
            layers,
            head,
            shows_layers: false,
        };
        let size = EntrySize {
            batch: 1,
            tokens: size.tokens,
            context: size.context,
            window: size.context,
        };
        self.graph(name, size, &part)
    }

    fn graph(&self, name: &str, size: EntrySize, part: &Part) -> Result<Graph, ImportError> {
        let options = ImportOptions {
            entry: name.into(),
            ..ImportOptions::default()
        };
        self.decoder.build(&self.name, Err(self.blank), &options, size, part)
    }

    fn bad(&self, message: String) -> ImportError {
        ImportError::new(ImportErrorKind::BadOption(message), Origin::file(self.name.as_str()))
    }
}
