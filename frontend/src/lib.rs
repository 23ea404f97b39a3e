//! Importers: model bytes to [`Graph`].
//!
//! [`import`] takes an ONNX file, a GGUF file or a Hugging Face directory (config.json and safetensors) from a [`Source`] and gives a graph
//! whose every shape is static; [`language`] gives all entries of a language model. Symbolic dimensions are bound by [`ImportOptions`]; none is guessed. Weights stay byte ranges of what the source returned.
//! No function here opens a file.

mod bind;
mod compose;
mod error;
mod fold;
mod gguf;
pub mod hf;
pub mod onnx;
mod options;
mod safetensors;
mod source;
pub mod tensor;

pub use error::{ErrorClass, ImportError, ImportErrorKind, UnboundDim, UnsupportedOp};
pub use hf::{Checkpoint, LanguageModel, LanguageOptions, Outline, StageSize, WeightFormat, language};
pub use lockstep_graph::{Graph, Origin};
pub use options::{ConstInput, ImportOptions};
pub use source::{MemorySource, Source, SourceError};

/// Imports a model.
///
/// A directory with a config.json is a Hugging Face model; one with a single .onnx or .gguf file is that file; everything else is an error.
/// A .gguf file is read as GGUF, any other file as ONNX.
///
/// # Errors
/// See [`ImportErrorKind`]; [`ImportError::class`] tells a wrong option from a bad model.
pub fn import(source: &dyn Source, options: &ImportOptions) -> Result<Graph, ImportError> {
    if let Some(file) = source.file().filter(|file| file.ends_with(".gguf")) {
        return gguf::checkpoint(source, file)?.single(options);
    }
    if let Some(file) = source.file() {
        return onnx::import(source, file, options);
    }
    let files = source
        .list()
        .map_err(|error| error::read_error(source.name(), &error))?;
    if files.iter().any(|file| file == "config.json") {
        return hf::import(source, &files, options);
    }
    if let Some(file) = gguf::only_file(&files).filter(|_| !files.iter().any(|file| file.ends_with(".onnx"))) {
        return gguf::checkpoint(source, file)?.single(options);
    }
    let models: Vec<&String> = files.iter().filter(|file| file.ends_with(".onnx")).collect();
    match models.as_slice() {
        [one] => onnx::import(source, one, options),
        [] => {
            let found = "neither a config.json nor an .onnx or .gguf file";
            Err(ImportError::new(
                ImportErrorKind::NotAModel(format!("the directory holds {found}")),
                Origin::file(source.name()),
            ))
        }
        many => {
            let names = many.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!("the directory holds {} models, name one of them: {names}", many.len());
            Err(ImportError::new(
                ImportErrorKind::NotAModel(message),
                Origin::file(source.name()),
            ))
        }
    }
}
