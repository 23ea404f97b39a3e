//! Hugging Face directories: config.json says the architecture, which is built here layer by layer; safetensors hold the weights.

mod bert;
mod net;

use crate::error::{ImportError, ImportErrorKind, read_error};
use crate::{ImportOptions, Source, safetensors};
use lockstep_graph::{Graph, Origin};

/// Values of `model_type` that can be imported.
pub const MODEL_TYPES: &[&str] = &["bert"];

#[derive(serde::Deserialize)]
struct Kind {
    model_type: Option<String>,
}

/// Imports the model in a directory with these files.
///
/// # Errors
/// See [`ImportErrorKind`].
pub fn import(source: &dyn Source, files: &[String], options: &ImportOptions) -> Result<Graph, ImportError> {
    const CONFIG: &str = "config.json";
    let config = source.read(CONFIG).map_err(|error| read_error(CONFIG, &error))?;
    let malformed = |message: String| ImportError::new(ImportErrorKind::Malformed(message), Origin::file(CONFIG));
    let kind: Kind = serde_json::from_slice(&config).map_err(|error| malformed(error.to_string()))?;
    match kind.model_type.as_deref() {
        Some("bert") => {
            let config: bert::Config = serde_json::from_slice(&config).map_err(|error| malformed(error.to_string()))?;
            bert::import(source.name(), &config, safetensors::read_all(source, files)?, options)
        }
        Some(other) => {
            let kind = ImportErrorKind::UnknownArchitecture {
                found: other.into(),
                known: MODEL_TYPES,
            };
            Err(ImportError::new(kind, Origin::file(CONFIG)))
        }
        None => Err(malformed("model_type is missing".into())),
    }
}
