//! Where the bytes of a model come from.

use bytes::Bytes;
use std::collections::BTreeMap;

/// Names and reads the files of a model. The command line implements it over the file system; [`MemorySource`] over memory.
pub trait Source {
    /// How messages call the model: a file name or a directory name.
    fn name(&self) -> &str;

    /// File name of the model itself, to be given to [`Source::read`]; `None` if the model is a directory.
    fn file(&self) -> Option<&str>;

    /// Names of the files beside the model (or in the model's directory), sorted, without subdirectories.
    ///
    /// # Errors
    /// If the directory cannot be read.
    fn list(&self) -> Result<Vec<String>, SourceError>;

    /// The whole of a file, by its path relative to the model's directory with `/` between parts. The importer asks for no absolute path and
    /// for none with `..`; an implementation over a file system also refuses links that leave the directory.
    ///
    /// # Errors
    /// If there is no such file or it cannot be read.
    fn read(&self, path: &str) -> Result<Bytes, SourceError>;
}

/// Why a source could not read a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// There is no such file.
    #[error("there is no such file")]
    NotFound,
    /// Anything else, one line.
    #[error("{0}")]
    Other(String),
}

/// Files in memory.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    name: String,
    file: Option<String>,
    files: BTreeMap<String, Bytes>,
}

impl MemorySource {
    /// A model that is one file.
    pub fn file(name: &str, bytes: impl Into<Bytes>) -> Self {
        let files = BTreeMap::from([(name.to_string(), bytes.into())]);
        Self {
            name: name.into(),
            file: Some(name.into()),
            files,
        }
    }

    /// A model that is a directory, empty at first.
    pub fn directory(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Adds a file beside the model or in the directory.
    pub fn with(mut self, path: &str, bytes: impl Into<Bytes>) -> Self {
        self.files.insert(path.into(), bytes.into());
        self
    }
}

impl Source for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    fn list(&self) -> Result<Vec<String>, SourceError> {
        Ok(self.files.keys().filter(|path| !path.contains('/')).cloned().collect())
    }

    fn read(&self, path: &str) -> Result<Bytes, SourceError> {
        self.files.get(path).cloned().ok_or(SourceError::NotFound)
    }
}
