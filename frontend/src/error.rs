//! What can go wrong at import.

use crate::SourceError;
use lockstep_graph::Origin;
use std::fmt;

/// An import that failed: what and where.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportError {
    /// What went wrong; boxed to keep results small.
    pub kind: Box<ImportErrorKind>,
    /// Where in the model.
    pub at: Origin,
}

/// Whose fault an error is; decides the exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// An option or a path is wrong or missing: exit code 2.
    Usage,
    /// The model is malformed or not supported: exit code 3.
    Model,
}

/// Kinds of import errors.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ImportErrorKind {
    /// The file breaks the rules of its format.
    #[error("{0}")]
    Malformed(String),
    /// The model uses what cannot be imported; all of it, grouped by operator and reason.
    #[error("{}", list_unsupported(.0))]
    Unsupported(Vec<UnsupportedOp>),
    /// Symbolic dimensions that no option binds; all of them.
    #[error("{}", list_unbound(.0))]
    UnboundDims(Vec<UnboundDim>),
    /// An option does not fit the model.
    #[error("{0}")]
    BadOption(String),
    /// The path holds no model.
    #[error("{0}")]
    NotAModel(String),
    /// A Hugging Face directory of an architecture that is not known.
    #[error("model_type \"{}\" is not known, allowed: {}", .found.escape_debug(), .known.join(", "))]
    UnknownArchitecture {
        /// Its `model_type`.
        found: String,
        /// The values that are known.
        known: &'static [&'static str],
    },
    /// A file could not be read.
    #[error("cannot read \"{}\": {source}", .file.escape_debug())]
    Read {
        /// Path relative to the model.
        file: String,
        /// Why.
        source: SourceError,
    },
    /// A tensor's data lies in a file that could not be read.
    #[error("tensor \"{}\" has its data in \"{}\": {source}", .tensor.escape_debug(), .file.escape_debug())]
    ReadTensor {
        /// Name of the tensor.
        tensor: String,
        /// Path relative to the model.
        file: String,
        /// Why.
        source: SourceError,
    },
}

/// An operator of the model that cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedOp {
    /// Operator type.
    pub op: String,
    /// Operator domain; empty for ONNX's own.
    pub domain: String,
    /// Version of that domain that the model uses.
    pub opset: i64,
    /// The nodes concerned, by name, or `#N` by position.
    pub nodes: Vec<String>,
    /// Why it cannot be imported.
    pub reason: String,
    /// What the user can do; empty if nothing is known.
    pub help: String,
}

/// A dimension of an input that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnboundDim {
    /// The symbol; `None` if the model gives the dimension no usable name.
    pub symbol: Option<String>,
    /// The input.
    pub input: String,
    /// Which dimension of it.
    pub axis: usize,
    /// The input's shape as the model has it, such as `[batch,3,?]`.
    pub shape: String,
}

impl ImportError {
    /// An error at a place.
    pub fn new(kind: ImportErrorKind, at: Origin) -> Self {
        Self {
            kind: Box::new(kind),
            at,
        }
    }

    /// Whose fault it is.
    pub fn class(&self) -> ErrorClass {
        match &*self.kind {
            ImportErrorKind::Malformed(_)
            | ImportErrorKind::Unsupported(_)
            | ImportErrorKind::UnknownArchitecture { .. } => ErrorClass::Model,
            ImportErrorKind::UnboundDims(_)
            | ImportErrorKind::BadOption(_)
            | ImportErrorKind::NotAModel(_)
            | ImportErrorKind::Read { .. }
            | ImportErrorKind::ReadTensor { .. } => ErrorClass::Usage,
        }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_unknown() {
            write!(f, "{}", self.kind)
        } else {
            write!(f, "{}: {}", self.at, self.kind)
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&*self.kind)
    }
}

impl fmt::Display for UnsupportedOp {
    /// `NonZero (2 nodes: "a", "b"): reason; help`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let domain = if self.domain.is_empty() {
            String::new()
        } else {
            format!("{}:", self.domain)
        };
        let shown = self
            .nodes
            .iter()
            .take(SHOWN)
            .map(|name| format!("\"{}\"", name.escape_debug()))
            .collect::<Vec<_>>()
            .join(", ");
        let more = if self.nodes.len() > SHOWN { ", .." } else { "" };
        let plural = if self.nodes.len() == 1 { "node" } else { "nodes" };
        write!(
            f,
            "{domain}{} of opset {} ({} {plural}: {shown}{more}): {}",
            self.op,
            self.opset,
            self.nodes.len(),
            self.reason
        )?;
        if self.help.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", self.help)
        }
    }
}

/// An error of reading a file that belongs to the model.
pub(crate) fn read_error(file: &str, error: &SourceError) -> ImportError {
    ImportError::new(
        ImportErrorKind::Read {
            file: file.into(),
            source: error.clone(),
        },
        Origin::default(),
    )
}

fn list_unsupported(ops: &[UnsupportedOp]) -> String {
    let plural = if ops.len() == 1 { "thing is" } else { "things are" };
    format!(
        "{} {plural} not supported: {}",
        ops.len(),
        ops.iter().map(UnsupportedOp::to_string).collect::<Vec<_>>().join(" | ")
    )
}

fn list_unbound(dims: &[UnboundDim]) -> String {
    let mut symbols: Vec<&str> = dims.iter().filter_map(|dim| dim.symbol.as_deref()).collect();
    symbols.sort_unstable();
    symbols.dedup();
    let mut unnamed: Vec<String> = dims
        .iter()
        .filter(|dim| dim.symbol.is_none())
        .map(|dim| format!("\"{}\" {}", dim.input.escape_debug(), dim.shape))
        .collect();
    unnamed.dedup();
    let mut parts = Vec::new();
    if !symbols.is_empty() {
        let flags = symbols
            .iter()
            .map(|symbol| format!("--dim {symbol}=N"))
            .collect::<Vec<_>>()
            .join(" ");
        parts.push(format!(
            "symbolic dimensions have no size: {}; give them with {flags}",
            symbols.join(", ")
        ));
    }
    if !unnamed.is_empty() {
        parts.push(format!(
            "inputs have dimensions without a name: {}; give whole shapes with --shape INPUT=AxBxC",
            unnamed.join(", ")
        ));
    }
    parts.join("; ")
}
